//! The descriptors of an order, by their purpose.

use crate::wire::{Input, RunOrder};
use std::io;
use std::os::fd::OwnedFd;
use wrun_sandbox::port::{PARTS, Port};

pub(super) struct Given {
    /// Pipes, if the order says so.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// The granted directories.
    pub(super) dirs: Vec<OwnedFd>,
    pub(super) port: Option<Port>,
}

impl Given {
    /// Needs the context of a tokio runtime.
    pub(super) fn new(order: &RunOrder, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut pipe = |wanted: bool| match wanted {
            true => descriptors.next(),
            false => None,
        };
        let stdin = pipe(matches!(order.input, Input::Pipe));
        let stdout = pipe(order.stdout.piped);
        let stderr = pipe(order.stderr.piped);
        let dirs = descriptors.by_ref().take(order.spec.dirs.len()).collect();
        let port = match order.port {
            Some(parts) => {
                let none = || io::Error::other("no descriptors for the port");
                let fds = [(); PARTS].map(|()| descriptors.next());
                let [Some(messages), Some(credit), Some(arena)] = fds else {
                    return Err(none());
                };
                Some(Port::from_parts(parts, [messages, credit, arena])?)
            }
            None => None,
        };
        Ok(Given {
            stdin,
            stdout,
            stderr,
            dirs,
            port,
        })
    }
}
