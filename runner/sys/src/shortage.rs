//! Shortages of the system, for messages: which of the limits that this process was started
//! with may have caused an error.
//!
//! Invariant: this is about inherited limits only, never about those of a task.

use crate::unpoisoned::Unpoisoned;
use rustix::process::{Pid, Resource, getrlimit};
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use wrun_types::error::ErrorKind;

/// How a hint begins.
pub const HINT: &str = "; this process has a limit of ";

/// The resource that may have run out.
#[derive(Clone, Copy)]
enum Kind {
    /// Threads and processes, and the memory for their stacks.
    Tasks,
    Memory,
    Descriptors,
    FileSize,
}

impl Kind {
    fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Some(Kind::Tasks),
            Some(libc::ENOMEM) => Some(Kind::Memory),
            Some(libc::EMFILE) => Some(Kind::Descriptors),
            Some(libc::EFBIG) => Some(Kind::FileSize),
            None if error.kind() == io::ErrorKind::OutOfMemory => Some(Kind::Memory),
            _ => None,
        }
    }
}

/// Whether the error is a shortage of the system.
pub fn is_one(error: &io::Error) -> bool {
    Kind::of(error).is_some() || error.raw_os_error() == Some(libc::ENFILE)
}

/// The limit that may have caused an error of the system, to be appended to its message;
/// empty if no limit is set.
pub fn hint(error: &io::Error) -> String {
    Kind::of(error).map_or_else(String::new, limits)
}

/// The public error for an error of a module, with a hint at the limit that may have caused
/// it.
pub fn error(
    kind: ErrorKind,
    source: impl std::error::Error + Send + Sync + 'static,
) -> wrun_types::error::Error {
    let may_lack = matches!(
        kind,
        ErrorKind::System | ErrorKind::Jail | ErrorKind::NoWorker | ErrorKind::CrashLoop
    );
    let message = match may_lack {
        true => explain(&source),
        false => source.to_string(),
    };
    wrun_types::error::Error::with_source(kind, message, source)
}

/// The text of an error, with a hint at the limit that may have caused it.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = error.to_string();
    if !message.contains(HINT) {
        let of_system = std::iter::successors(Some(error), |error| error.source())
            .find_map(|error| error.downcast_ref::<io::Error>());
        message.push_str(&of_system.map_or_else(|| hint_of(&message), hint));
    }
    message
}

/// As [`hint`], if only the text of an error is left.
pub fn hint_of(words: &str) -> String {
    if words.contains(HINT) {
        return String::new();
    }
    let of = |errno: i32| words.contains(&format!("(os error {errno})"));
    match [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::EFBIG]
        .into_iter()
        .find(|errno| of(*errno))
    {
        Some(errno) => hint(&io::Error::from_raw_os_error(errno)),
        None => String::new(),
    }
}

fn limits(kind: Kind) -> String {
    let all: &[(Resource, &str, &str)] = match kind {
        Kind::Tasks => &[
            (Resource::Nproc, "-u", "processes and threads"),
            (Resource::Data, "-d", "data"),
            (Resource::As, "-v", "address space"),
        ],
        Kind::Memory => &[
            (Resource::Data, "-d", "data"),
            (Resource::As, "-v", "address space"),
        ],
        Kind::Descriptors => &[(Resource::Nofile, "-n", "descriptors")],
        Kind::FileSize => &[(Resource::Fsize, "-f", "a file's size")],
    };
    let mut text = String::new();
    for (resource, option, what) in all {
        let Some(limit) = getrlimit(*resource).current else {
            continue;
        };
        let amount = match resource {
            Resource::Nproc | Resource::Nofile => limit.to_string(),
            _ => bytesize::ByteSize(limit).display().iec().to_string(),
        };
        let so_far = if text.is_empty() { HINT } else { ", of " };
        let _ = write!(text, "{so_far}{amount} on {what} (ulimit {option})");
    }
    text
}

/// The limit on memory that this process was started with, in bytes, if it is less than
/// `wanted`.
pub fn less_memory_than(wanted: u64) -> Option<u64> {
    let limits = [Resource::Data, Resource::As].map(|resource| getrlimit(resource).current);
    limits.into_iter().flatten().min().filter(|it| *it < wanted)
}

/// The limit on the size of a file that this process was started with, in bytes, if it is
/// less than `wanted`.
pub fn smaller_files_than(wanted: u64) -> Option<u64> {
    let limit = getrlimit(Resource::Fsize).current;
    limit.filter(|it| *it < wanted)
}

/// The memory of a thread, in bytes: its stack, that of its signal handlers, guards. Rust
/// ends the program if a thread starts and the second stack is not available.
const THREAD: usize = (2 << 20) + (256 << 10);
/// The memory that threads need to do any work, in bytes.
const HEAP: usize = 6 << 20;

/// How many threads there is memory for, `wanted` or one, in addition to `others`.
pub fn room_for_threads(wanted: usize, others: usize) -> io::Result<usize> {
    let needed = |threads: usize| {
        let threads = threads.saturating_add(others);
        threads.saturating_mul(THREAD).saturating_add(HEAP)
    };
    match crate::room_for(needed(wanted)) {
        Ok(()) => Ok(wanted),
        Err(_) => crate::room_for(needed(1)).map(|()| 1),
    }
}

/// How long a thread that has ended may still count against a limit.
const THREAD_ENDS: Duration = Duration::from_secs(1);

/// How many threads the system allows at once, at most `wanted`, and why not more. None of
/// them counts against a limit any more when this returns.
pub fn threads(wanted: usize) -> (usize, Option<io::Error>) {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unpoisoned();
    let mut started: Vec<JoinHandle<Pid>> = Vec::new();
    let mut refused = None;
    while started.len() < wanted && refused.is_none() {
        let gate = gate.clone();
        let thread = thread::Builder::new()
            .name("wrun".into())
            .stack_size(crate::stack_size());
        let waits = move || {
            drop(gate.lock());
            rustix::thread::gettid()
        };
        match thread.spawn(waits) {
            Ok(thread) => started.push(thread),
            Err(error) => refused = Some(error),
        }
    }
    drop(closed);
    let count = started.len();
    // Joining shows that a thread has left its stack. The kernel subtracts it from its
    // user's count a little later, just before it removes it from /proc.
    let until = Instant::now() + THREAD_ENDS;
    for id in started.into_iter().filter_map(|thread| thread.join().ok()) {
        let entry = format!("/proc/self/task/{}", id.as_raw_nonzero());
        while Path::new(&entry).exists() && Instant::now() < until {
            thread::sleep(Duration::from_micros(100));
        }
    }
    (count, refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_limit_can_cause_has_a_hint() {
        assert_eq!(hint(&io::Error::from_raw_os_error(libc::EPERM)), "");
        let words = hint(&io::Error::from_raw_os_error(libc::EMFILE));
        let limit = getrlimit(Resource::Nofile).current.expect("a limit");
        assert!(
            words.contains(&format!("{limit} on descriptors (ulimit -n)")),
            "{words}"
        );
        assert_eq!(
            hint_of("mmap failed: Too many open files (os error 24)"),
            words
        );
        assert_eq!(hint_of("mmap failed (os error 2400)"), "");
    }

    #[test]
    fn as_many_threads_as_are_wanted_are_tried() {
        let (count, refused) = threads(3);
        assert_eq!(count, 3);
        assert!(refused.is_none());
    }
}
