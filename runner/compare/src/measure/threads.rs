//! The same work on several threads.

use std::io;
use std::thread;

/// Does the same with each, on a thread for each, until all have ended.
///
/// # Errors
///
/// A thread cannot be started; inside, the first error of `run`.
///
/// # Panics
///
/// If `run` panics.
pub fn in_threads<T: Send, E: Send>(
    all: impl IntoIterator<Item = T>,
    run: impl Fn(T) -> Result<(), E> + Sync,
) -> io::Result<Result<(), E>> {
    thread::scope(|scope| {
        let run = &run;
        let start = |one| thread::Builder::new().spawn_scoped(scope, move || run(one));
        let running: Vec<_> = all.into_iter().map(start).collect::<Result<_, _>>()?;
        Ok(running
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic),
            }))
    })
}
