//! The clock that preempts guests: one OS thread that advances every engine's epoch while
//! any sandbox runs, interrupts the threads of guests whose code does not look at it, and sleeps
//! otherwise. In a process that may have no second thread, a timer signal does it instead.
//!
//! Invariant: while a [`Running`] guard exists, epochs advance about every
//! [`TICK`]. A guard costs two atomic operations unless the thread sleeps, or two
//! system calls with the timer.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};
use wasmtime::{Engine, EngineWeak};
use wrun_sys::Unpoisoned;
use wrun_sys::preempt::{GuestThread, handle_interrupts, interrupt_from_here};
use wrun_sys::{self, Process};

/// How long a guest computes before others have their turn.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// How soon a thread is interrupted again that the last signal missed, closely.
const SOON: Duration = Duration::from_micros(200);

/// The thread continues for this many idle ticks, so that a stream of short tasks does not
/// wake it for each.
const IDLE_TICKS: u32 = 100;

/// The clock of one process. A fork of it has a copy without the thread, whose locks may be
/// held forever: it makes a new one.
struct Clock {
    process: Process,
    running: AtomicUsize,
    asleep: AtomicBool,
    engines: Mutex<Vec<EngineWeak>>,
    guests: Mutex<Vec<Watched>>,
    thread: OnceLock<Thread>,
    starting: Mutex<()>,
    /// The clock of a fork of this process.
    next: OnceLock<Box<Clock>>,
}

/// A thread whose guests are interrupted, and the step in which the last tick found it.
struct Watched {
    thread: Arc<GuestThread>,
    step: Option<u64>,
}

static FIRST: OnceLock<Clock> = OnceLock::new();

impl Clock {
    fn new() -> Self {
        Clock {
            process: Process::current(),
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            engines: Mutex::new(Vec::new()),
            guests: Mutex::new(Vec::new()),
            thread: OnceLock::new(),
            starting: Mutex::new(()),
            next: OnceLock::new(),
        }
    }

    fn current() -> &'static Clock {
        let mut clock = FIRST.get_or_init(Clock::new);
        while !clock.process.is_current() {
            clock = clock.next.get_or_init(|| Box::new(Clock::new()));
        }
        clock
    }
}

/// From now on, advances the engine's epoch until the engine is dropped.
pub(crate) fn register(engine: &Engine) -> std::io::Result<()> {
    let clock = Clock::current();
    let mut engines = clock.engines.lock().unpoisoned();
    engines.retain(|engine| engine.upgrade().is_some());
    engines.push(engine.weak());
    drop(engines);
    let _one_at_a_time = clock.starting.lock().unpoisoned();
    if clock.thread.get().is_none() {
        let handle = std::thread::Builder::new()
            .name("wrun-epoch".into())
            .stack_size(64 << 10)
            .spawn(|| tick(clock))?;
        let _ = clock.thread.set(handle.thread().clone());
    }
    Ok(())
}

thread_local! {
    static THREAD: RefCell<Option<(Process, Arc<GuestThread>)>> = const { RefCell::new(None) };
}

/// This thread, interrupted from now on.
fn this_thread(clock: &Clock) -> Arc<GuestThread> {
    THREAD.with_borrow_mut(|slot| match slot {
        Some((process, thread)) if process.is_current() => thread.clone(),
        _ => {
            let thread = GuestThread::current();
            *slot = Some((Process::current(), thread.clone()));
            clock.guests.lock().unpoisoned().push(Watched {
                thread: thread.clone(),
                step: None,
            });
            thread
        }
    })
}

/// A guest is running on this thread: its traps arrive as signals.
pub(crate) struct Running {
    clock: Option<&'static Clock>,
    thread: Option<Arc<GuestThread>>,
}

impl Running {
    /// `signals`: its code does not check the epoch, so the clock interrupts its thread.
    pub(crate) fn new(signals: bool) -> Self {
        if wrun_sys::has_ticks() {
            wrun_sys::start_ticks(TICK);
            return Running {
                clock: None,
                thread: None,
            };
        }
        wrun_sys::unblock_traps();
        let clock = Clock::current();
        let thread = signals.then(|| this_thread(clock));
        if let Some(thread) = &thread {
            thread.begin_or_end();
        }
        clock.running.fetch_add(1, Ordering::SeqCst);
        if clock.asleep.load(Ordering::SeqCst)
            && let Some(thread) = clock.thread.get()
        {
            thread.unpark();
        }
        Running {
            clock: Some(clock),
            thread,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(thread) = &self.thread {
            thread.begin_or_end();
        }
        match self.clock {
            Some(clock) => {
                clock.running.fetch_sub(1, Ordering::SeqCst);
            }
            None => wrun_sys::stop_ticks(),
        }
    }
}

/// Whether each tick is a signal to the thread of the guest, which interrupts its wait in
/// the kernel: true in a process with one thread, while it has a [`Running`] guard.
pub(crate) fn signals() -> bool {
    wrun_sys::are_ticking()
}

fn tick(clock: &Clock) {
    interrupt_from_here();
    let mut idle = 0;
    loop {
        if clock.running.load(Ordering::SeqCst) > 0 {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle > IDLE_TICKS {
            // Announce sleep first, then check again: a guard made in between is either seen
            // here, or sees `asleep` and unparks.
            clock.asleep.store(true, Ordering::SeqCst);
            while clock.running.load(Ordering::SeqCst) == 0 {
                std::thread::park();
            }
            clock.asleep.store(false, Ordering::SeqCst);
            idle = 0;
        }
        pause(clock);
        let engines = clock.engines.lock().unpoisoned();
        for engine in engines.iter().filter_map(EngineWeak::upgrade) {
            engine.increment_epoch();
        }
        drop(engines);
        interrupt(clock, |guest| {
            let step = guest.thread.step();
            let long = step.is_some() && step == guest.step;
            guest.step = step;
            long
        });
    }
}

/// Waits for the next tick, and interrupts meanwhile what the last one missed.
fn pause(clock: &Clock) {
    let end = Instant::now() + TICK;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
        if end <= Instant::now() {
            return;
        }
        // Woken by a handler.
        std::thread::sleep(SOON);
        interrupt(clock, |guest| guest.thread.was_missed());
    }
}

/// Interrupts the threads of which `wanted` says so, and forgets those that have ended.
fn interrupt(clock: &Clock, mut wanted: impl FnMut(&mut Watched) -> bool) {
    let mut guests = clock.guests.lock().unpoisoned();
    if guests.is_empty() {
        return;
    }
    guests.retain(|guest| Arc::strong_count(&guest.thread) > 1);
    let mut handled = false;
    for guest in guests.iter_mut() {
        if !wanted(guest) {
            continue;
        }
        if !handled {
            // It was installed when the runner was made; nothing more can be done here.
            let _ = handle_interrupts();
            handled = true;
        }
        guest.thread.interrupt();
    }
}
