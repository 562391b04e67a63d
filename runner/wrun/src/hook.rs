//! How a program becomes its own worker.

/// Lets this program be its own worker in process mode: call it first thing in
/// `main`.
///
/// In a process that a runner started as a worker, this runs the worker and
/// ends the process. Anywhere else it returns at once. A program that cannot
/// call it names a worker program instead, with
/// [`ProcessOptions::worker`](crate::ProcessOptions::worker); `wrun` itself is one.
///
/// Workers are forked, so nothing may have started a thread before: not the runtime of
/// `#[tokio::main]` either, nor a constructor that runs before `main`. A worker has no
/// environment, none of this process's descriptors, and none of its signal handlers,
/// panic hooks or loggers.
///
/// ```
/// wrun::worker_hook();
/// // the program
/// ```
pub fn worker_hook() {
    wrun_process::hook(&[]);
}
