//! A store with its instance and a stack, made before its task is known, which saves most
//! of a small task's start. A process that forks makes one, and each child inherits it.
//!
//! Invariant: no guest code has run in it, and nothing in it depends on a task.

use super::abi::bindings::Task;
use super::host::TaskContext;
use super::host::{Granted, Host};
use super::input::Source;
use super::run::{Entry, Prepared};
use super::sink::Sink;
use super::standard::Streams;
use crate::InputKind;
use bytes::Bytes;
use wasmtime::{CallHook, Func, Instance, Store};
use wasmtime_wasi::p2::bindings::Command;
#[cfg(feature = "http")]
use wasmtime_wasi_http::p2::bindings::Proxy;
use wrun_types::spec::Spec;

/// An instance of a task.
pub(super) enum Guest {
    Task(Task),
    Command(Command),
    Module(Instance),
    #[cfg(feature = "http")]
    Http(Proxy),
}

impl Entry {
    pub(super) async fn instantiate(&self, store: &mut Store<Host>) -> wasmtime::Result<Guest> {
        Ok(match self {
            Entry::Task(pre) => Guest::Task(pre.instantiate_async(store).await?),
            Entry::Command(pre) => Guest::Command(pre.instantiate_async(store).await?),
            Entry::Module(pre) => Guest::Module(pre.instantiate_async(store).await?),
            #[cfg(feature = "http")]
            Entry::Http(pre) => Guest::Http(pre.instantiate_async(store).await?),
        })
    }
}

/// Ends each call of the guest before its first instruction.
pub(super) fn keep_out(store: &mut Store<Host>) {
    store.call_hook(|_, hook| match hook {
        CallHook::CallingWasm => Err(wasmtime::format_err!("the guest is not to run")),
        _ => Ok(()),
    });
}

/// See the [module](self).
pub struct WarmInstance {
    store: Store<Host>,
    guest: Guest,
}

impl WarmInstance {
    /// `None` if guest code would have to run for it (a start function), or if it does not
    /// fit the usual limits.
    pub async fn new(prepared: &Prepared, context: TaskContext) -> Option<Self> {
        let spec = Spec::warm_up();
        let nothing = Source::new(InputKind::Bytes(Bytes::new()), None);
        let nowhere = Sink::null(Some(0));
        let host = Host::new(
            &spec,
            prepared.wasi(),
            true,
            Streams {
                stdin: &nothing,
                stdout: &nowhere,
                stderr: &nowhere,
                terminals: spec.terminals,
            },
            context,
            Granted::ByPath,
        );
        let mut store = prepared.store(host.ok()?).ok()?;
        keep_out(&mut store);
        let guest = prepared.entry().instantiate(&mut store).await.ok()?;
        store.call_hook(|_, _| Ok(()));
        // A store keeps the stack of its last call for the next one. This call runs no guest
        // code.
        let nothing = Func::wrap(&mut store, || {});
        nothing.call_async(&mut store, &[], &mut []).await.ok()?;
        Some(WarmInstance { store, guest })
    }

    /// Whether it is within the limits of `host`, which then counts it.
    pub(super) fn fits(&self, host: &mut Host) -> bool {
        host.limiter.takes_over(&self.store.data().limiter)
    }

    /// Gives it to `host`, in which it fits.
    pub(super) fn given_to(mut self, host: Host) -> (Store<Host>, Guest) {
        *self.store.data_mut() = host;
        (self.store, self.guest)
    }
}
