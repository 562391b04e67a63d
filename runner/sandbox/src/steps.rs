//! How a guest is polled whose code checks nothing. On a thread of its own, it gives way at each
//! tick, in the middle of its code. On a thread of many tasks, it stays: it cannot go on
//! elsewhere, so the other tasks get another thread.

use super::run::{Ended, RunError};
use std::task::Poll;
use tokio::task::block_in_place;
use wasmtime::{CallHook, Store};
use wrun_sys::preempt::{self, GuestCode, Preemptible, Resume, Step};
use wrun_types::outcome::Outcome;

/// Has the store say whether its guest is running, or a call of the host.
pub(super) fn note_sides<T>(store: &mut Store<T>) {
    store.call_hook(|_, hook| {
        match hook {
            CallHook::CallingHost | CallHook::ReturningFromWasm => preempt::in_host(),
            CallHook::CallingWasm => preempt::in_guest(),
            CallHook::ReturningFromHost if preempt::point() => {
                wasmtime::bail!("the task is to end");
            }
            CallHook::ReturningFromHost => {}
        }
        Ok(())
    });
}

/// The call, on a thread with nothing else to poll than its own event loop.
pub(super) async fn giving_way(call: impl Future<Output = Ended>, code: GuestCode) -> Ended {
    let mut call = Preemptible::new(call, code);
    std::future::poll_fn(|cx| match call.step(cx, Resume::Continue) {
        Ok(Step::Ready(ended)) => Poll::Ready(ended),
        Ok(Step::Pending) => Poll::Pending,
        Ok(Step::Preempted) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Err(error) => Poll::Ready(no_stack(&error)),
    })
    .await
}

/// The call, on a thread of a runtime with several, until `must_end` says how it ends.
pub(super) async fn staying(
    call: impl Future<Output = Ended>,
    code: GuestCode,
    mut must_end: impl FnMut() -> Option<Ended>,
) -> Ended {
    let mut call = Preemptible::new(call, code);
    std::future::poll_fn(|cx| {
        let first = match call.step(cx, Resume::Continue) {
            Ok(Step::Ready(ended)) => return Poll::Ready(ended),
            Ok(Step::Pending) => return Poll::Pending,
            other => other,
        };
        let mut end = None;
        block_in_place(|| {
            // The threads of small tasks come first.
            let _computes = wrun_sys::LongSlice::new();
            let mut step = first;
            loop {
                step = match step {
                    Ok(Step::Preempted) => {
                        end = end.take().or_else(&mut must_end);
                        let resume = match end {
                            Some(_) => Resume::End,
                            None => Resume::Continue,
                        };
                        call.step(cx, resume)
                    }
                    // It was trapped, and not for what it did.
                    Ok(Step::Ready(Ended::Done(Outcome::Trapped(_)))) if let Some(end) = end => {
                        return Poll::Ready(end);
                    }
                    Ok(Step::Ready(ended)) => return Poll::Ready(ended),
                    Ok(Step::Pending) => return Poll::Pending,
                    Err(error) => return Poll::Ready(no_stack(&error)),
                }
            }
        })
    })
    .await
}

fn no_stack(error: &std::io::Error) -> Ended {
    Ended::Host(RunError::Sandbox(format!("no memory for a stack: {error}")))
}
