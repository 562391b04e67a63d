//! The end of a runner that is dropped, wherever that is: on a thread that may wait, in
//! asynchronous code, on one of its own threads, or in a fork.
//!
//! Invariant: its tasks are killed and its threads end, and no thread waits that may not.

use super::{DROP_WAIT, Runner};
use crate::core::Core;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};
use wrun_sandbox::{blocking, deadline};
use wrun_sys::Unpoisoned;

/// How long it waits for threads that are blocked in the operating system.
const THREADS_WAIT: Duration = Duration::from_millis(100);

impl Drop for Runner {
    fn drop(&mut self) {
        if !self.core.made_in.is_current() {
            // A fork has none of its threads to wait for. Its processes, and the kernel's side
            // of its event loop, belong to the other process, which needs them.
            std::mem::forget(self.runtime.take());
            std::mem::forget(self.core.clone());
            return;
        }
        self.core.admission.close();
        self.core.kill_all.cancel();
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        // Waiting is not allowed on a thread that drives other futures; a new thread may.
        let wait = |runtime: Runtime, core: &Core| {
            runtime.block_on(async {
                let _ = deadline::timeout(DROP_WAIT, core.admission.closed_and_empty()).await;
            });
            core.executor.close();
            runtime.shutdown_timeout(THREADS_WAIT);
        };
        let Ok(here) = Handle::try_current() else {
            return wait(runtime, &self.core);
        };
        if here.id() == runtime.handle().id() {
            // On one of its own threads nobody can wait for them.
            let (core, runtime) = (self.core.clone(), Arc::new(Mutex::new(Some(runtime))));
            let theirs = runtime.clone();
            let waiting = move || {
                let taken = theirs.lock().unpoisoned().take();
                taken.into_iter().for_each(|it| wait(it, &core));
            };
            let thread = std::thread::Builder::new()
                .name("wrun-drop".into())
                .stack_size(wrun_sys::stack_size());
            if thread.spawn(waiting).is_err()
                && let Some(runtime) = runtime.lock().unpoisoned().take()
            {
                self.core.executor.close();
                runtime.shutdown_background();
            }
            return;
        }
        let runtime = Mutex::new(Some(runtime));
        let taken = || runtime.lock().unpoisoned().take();
        let waited = std::thread::scope(|scope| {
            let waiting = || taken().into_iter().for_each(|it| wait(it, &self.core));
            let thread = std::thread::Builder::new()
                .name("wrun-drop".into())
                .stack_size(wrun_sys::stack_size());
            thread.spawn_scoped(scope, waiting).is_ok()
        });
        if !waited && let Some(runtime) = taken() {
            // No more threads are available: this one waits for the tasks. It may not wait for
            // the runtime's own; they end by themselves.
            let until = Instant::now().checked_add(DROP_WAIT);
            let _ = blocking::wait(
                std::pin::pin!(self.core.admission.closed_and_empty()),
                until,
            );
            self.core.executor.close();
            runtime.shutdown_background();
        }
    }
}
