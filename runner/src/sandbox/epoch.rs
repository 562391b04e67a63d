//! The clock that preempts guests: one OS thread that advances every engine's
//! epoch while any sandbox runs, and sleeps while none does. In a process that may
//! have no second thread, a timer signal does it instead.
//!
//! Invariant: while a [`Running`] guard exists, epochs advance about every
//! [`TICK`]. A guard costs two atomic operations unless the thread sleeps, or two
//! system calls with the timer.

use crate::sys;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;
use wasmtime::{Engine, EngineWeak};

/// How long a guest computes before others get their turn.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// The thread goes on for this many idle ticks, so that a stream of short tasks
/// does not wake it for each.
const IDLE_TICKS: u32 = 100;

static RUNNING: AtomicUsize = AtomicUsize::new(0);
static ASLEEP: AtomicBool = AtomicBool::new(false);
static ENGINES: Mutex<Vec<EngineWeak>> = Mutex::new(Vec::new());
static THREAD: OnceLock<Thread> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

/// Has the engine's epoch advanced from now on, until it is dropped.
pub(crate) fn register(engine: &Engine) -> std::io::Result<()> {
    let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
    engines.retain(|engine| engine.upgrade().is_some());
    engines.push(engine.weak());
    drop(engines);
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if THREAD.get().is_none() {
        let handle = std::thread::Builder::new()
            .name("wrun-epoch".into())
            .stack_size(64 << 10)
            .spawn(tick)?;
        let _ = THREAD.set(handle.thread().clone());
    }
    Ok(())
}

/// A guest is running.
pub(crate) struct Running(());

impl Running {
    pub(crate) fn new() -> Self {
        if sys::has_ticks() {
            sys::start_ticks(TICK);
            return Running(());
        }
        RUNNING.fetch_add(1, Ordering::SeqCst);
        if ASLEEP.load(Ordering::SeqCst)
            && let Some(thread) = THREAD.get()
        {
            thread.unpark();
        }
        Running(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if sys::has_ticks() {
            sys::stop_ticks();
            return;
        }
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether each tick is a signal to the thread of the guest, which ends its wait in the
/// kernel: true in a process with one thread, while it has a [`Running`] guard.
pub(crate) fn signals() -> bool {
    sys::are_ticking()
}

fn tick() {
    let mut idle = 0;
    loop {
        if RUNNING.load(Ordering::SeqCst) > 0 {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle > IDLE_TICKS {
            // Announce sleep first, then look again: a guard made in between
            // either is seen here or sees `ASLEEP` and unparks.
            ASLEEP.store(true, Ordering::SeqCst);
            while RUNNING.load(Ordering::SeqCst) == 0 {
                std::thread::park();
            }
            ASLEEP.store(false, Ordering::SeqCst);
            idle = 0;
        }
        std::thread::sleep(TICK);
        let engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
        for engine in engines.iter().filter_map(EngineWeak::upgrade) {
            engine.increment_epoch();
        }
    }
}
