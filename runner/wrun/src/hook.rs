//! How a program becomes its own worker.

/// Lets this program be its own worker in process mode: call it first in `main`.
///
/// In a process that a runner started as a worker, this runs the worker and ends the
/// process. Otherwise it returns at once. A program that cannot call it sets another worker
/// program, with [`ProcessOptions::worker`](crate::ProcessOptions::worker); `wrun` itself
/// is one.
///
/// Workers are forked, so no thread may have been started before: neither by the runtime of
/// `#[tokio::main]`, nor by a constructor that runs before `main`. A worker has no
/// environment, none of this process's descriptors, and none of its signal handlers, panic
/// hooks or loggers.
///
/// ```
/// wrun::worker_hook();
/// // the program
/// ```
pub fn worker_hook() {
    wrun_process::hook(&[]);
}
