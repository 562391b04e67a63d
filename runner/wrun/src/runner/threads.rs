//! The threads of a runner: those of its runtime, and how many the system has room for.
//!
//! Invariant: there is one for blocking calls before the first is made.

use std::io;
use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::Runtime;
use wrun_sandbox::turn;
use wrun_sys::{NoPipeSignal, shortage};
use wrun_types::error::{Error, ErrorKind};

/// Threads beside those of the runtime for which there must be memory: one for blocking
/// calls, the clock of epochs, one that starts programs; and those of a command, for
/// streams and progress. That of job control needs almost none.
pub(super) const OTHER_THREADS: usize = 7;
/// How long the first thread for blocking calls may take to start.
const THREADS_START: Duration = Duration::from_secs(10);

/// Threads for blocking calls, at most: tokio's default.
const BLOCKING_THREADS: usize = 512;
/// How long a thread waits for the next guest that computes, or the next blocking call.
const THREADS_IDLE: Duration = Duration::from_secs(10);

/// The threads of a runner: as many as configured or as the system allows, and one for
/// blocking calls. With that one, tokio queues blocking calls if no further threads are
/// available; without it, tokio panics.
///
/// `computing` is the number of guests that may need a thread for themselves: none, unless
/// guests are preempted by a signal.
pub(super) fn runtime(
    wanted: usize,
    computing: usize,
    quiet_pipes: bool,
) -> Result<Runtime, Error> {
    let refused = |error: io::Error| {
        let hint = shortage::hint(&error);
        Error::new(
            ErrorKind::System,
            format!("cannot start a thread: {error}{hint}"),
        )
    };
    // tokio panics if it gets none.
    let (count, error) = shortage::threads(wanted.saturating_add(1));
    let workers = match error {
        Some(error) if count < 2 => return Err(refused(error)),
        _ => count.saturating_sub(1).clamp(1, wanted.max(1)),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .event_interval(turn::EVENT_INTERVAL)
        .thread_name("wrun")
        .thread_stack_size(wrun_sys::stack_size())
        .max_blocking_threads(BLOCKING_THREADS.saturating_add(computing))
        .thread_keep_alive(match computing {
            0 => Duration::MAX,
            _ => THREADS_IDLE,
        })
        .on_thread_start(move || {
            if quiet_pipes {
                NoPipeSignal::forever();
            }
        })
        .enable_all()
        .build()
        .map_err(|error| {
            let hint = shortage::hint(&error);
            Error::new(
                ErrorKind::System,
                format!("cannot make an event loop: {error}{hint}"),
            )
        })?;
    let (started, waits) = mpsc::sync_channel(1);
    runtime.spawn_blocking(move || started.send(()));
    if waits.recv_timeout(THREADS_START).is_err() {
        runtime.shutdown_background();
        return Err(refused(io::Error::from_raw_os_error(libc::EAGAIN)));
    }
    Ok(runtime)
}
