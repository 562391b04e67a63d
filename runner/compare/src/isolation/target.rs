//! The targets of escaped code: files, a listener and a program that are made for it.
//!
//! Invariant: whatever an action does here is harmless, and is removed with the target.

use crate::{Fault, scratch::Scratch};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use wrun::{Error, ErrorKind};

/// The program to execute, unless another is named.
const SHELL: &str = "/bin/sh";

/// The targets of faults: files, a listener, the host.
#[derive(Debug)]
pub struct FaultTarget {
    listener: TcpListener,
    aim: Aim,
    /// Dropping it removes the files.
    _directory: Option<Scratch>,
}

/// The addresses of a target, for the injected code.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Aim {
    pub(super) secret: PathBuf,
    pub(super) written: PathBuf,
    pub(super) port: u16,
    pub(super) program: PathBuf,
    /// The permissions of files do not prevent reading and writing there.
    pub(super) is_open: bool,
}

impl FaultTarget {
    /// In a fresh temporary directory. The file to write has a name that other users of the
    /// machine cannot know.
    pub(crate) fn new() -> Result<Self, Error> {
        let directory = Scratch::new().map_err(cannot)?;
        // Workers may have another user: they can open files by name, but not list them.
        let mode = std::fs::Permissions::from_mode(0o733);
        std::fs::set_permissions(directory.path(), mode).map_err(cannot)?;
        let name = format!("written-{:016x}", rand::random::<u64>());
        let target = FaultTarget::at(directory.path(), &name, Path::new(SHELL))?;
        Ok(FaultTarget {
            _directory: Some(directory),
            ..target
        })
    }

    /// In an existing directory: a secret, no file with the name `written`, and the program
    /// to execute, which is called with `-c` and `exit 42` and must exit so.
    pub fn at(directory: &Path, written: &str, program: &Path) -> Result<Self, Error> {
        let secret = directory.join("secret");
        std::fs::write(&secret, format!("{:032x}", rand::random::<u128>())).map_err(cannot)?;
        let everybody = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&secret, everybody).map_err(cannot)?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let port = listener.local_addr().map_err(cannot)?.port();
        Ok(FaultTarget {
            aim: Aim {
                written: directory.join(written),
                is_open: is_open(directory),
                program: program.to_owned(),
                secret,
                port,
            },
            listener,
            _directory: None,
        })
    }

    pub(super) fn aim(&self) -> &Aim {
        &self.aim
    }

    /// Why a fault cannot be injected here.
    pub(super) fn lacks(&self, fault: Fault) -> Option<String> {
        let program = &self.aim.program;
        let lacks_program = fault == Fault::Exec && !program.exists();
        lacks_program.then(|| format!("there is no {}", program.display()))
    }

    /// Whether an action left a trace here; `None` if it leaves none.
    pub(super) fn trace_of(&self, fault: Fault) -> Option<bool> {
        match fault {
            Fault::WriteFile => Some(self.aim.written.exists()),
            Fault::Connect => Some(self.listener.accept().is_ok()),
            _ => None,
        }
    }

    /// Removes the trace of an earlier action.
    pub(super) fn tidy(&self, fault: Fault) {
        match fault {
            Fault::WriteFile => {
                let _ = std::fs::remove_file(&self.aim.written);
            }
            Fault::Connect => while self.listener.accept().is_ok() {},
            _ => {}
        }
    }
}

fn cannot(error: io::Error) -> Error {
    Error::new(
        ErrorKind::System,
        format!("cannot make what escaped code is to aim at: {error}"),
    )
}

/// Whether all users may write into a directory and pass through those above it.
fn is_open(directory: &Path) -> bool {
    let may = |path: &Path, bits: u32| {
        std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & bits == bits)
    };
    may(directory, 0o003) && directory.ancestors().skip(1).all(|path| may(path, 0o001))
}
