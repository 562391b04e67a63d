//! The program that is expected to crash: what a binary's hidden entry does in this role.
//!
//! Invariant: it does not outlive the thread that started it.

use super::crash_host::{MAX_ORDER, NAME};
use super::host;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io::{self, Read, Write};
use wrun::measure::process::{WorkerRole, settle};

/// What makes a worker program such a host.
pub(crate) const ROLE: WorkerRole = WorkerRole { name: NAME, work };

/// Does what the order on stdin says, and says on stdout what came of it.
fn work(parent: i32) -> io::Result<()> {
    settle(parent)?;
    // It is meant to die, without a core file.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    let mut order = String::new();
    io::stdin()
        .take(MAX_ORDER as u64)
        .read_to_string(&mut order)?;
    host::obey_order(&order, &mut |line| {
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    })
}
