//! Interrupts at random moments, for tests: timers of the kernel that send the threads which run
//! guests their signal thousands of times a second, and counts of what came of it.
//!
//! A timer fires at an interval that has nothing to do with the instructions of the guest, and
//! each millisecond at another one. One that fires while its thread has no processor adds no
//! second signal to the first, so the counts are of handlers that ran.

use super::GuestThread;
use std::collections::HashMap;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// What a signal found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// Compiled code of a guest, which was left.
    Guest,
    /// The guest that was left has to end, and was moved onto a trap.
    Trap,
    /// Code of the host, in the poll of a guest.
    Host,
    /// The guest was left when that code was about to return to it.
    Return,
}

static COUNTS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Counts it. For handlers: one atomic operation.
pub(super) fn count(found: Found) {
    COUNTS[found as usize].fetch_add(1, Ordering::Relaxed);
}

/// Threads of this process that have run guests.
static THREADS: Mutex<Vec<Weak<GuestThread>>> = Mutex::new(Vec::new());

/// Notes a thread that will run guests.
pub(super) fn remember(thread: &Arc<GuestThread>) {
    let mut threads = THREADS.lock().expect("nothing panics with it");
    threads.push(Arc::downgrade(thread));
}

/// How many signals found what, in this process, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupts {
    /// A guest was left between two of its instructions.
    pub in_guest: u64,
    /// Of these, the guest was made to trap there, because it had to end.
    pub ended: u64,
    /// The host was running for a guest: it was noted.
    pub in_host: u64,
    /// A guest was left when the host was about to return to it.
    pub at_return: u64,
}

impl Interrupts {
    /// Those until now.
    pub fn counted() -> Self {
        let count = |found| COUNTS[found as usize].load(Ordering::Relaxed);
        Interrupts {
            in_guest: count(Found::Guest),
            ended: count(Found::Trap),
            in_host: count(Found::Host),
            at_return: count(Found::Return),
        }
    }

    /// Those since an earlier count.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Interrupts {
            in_guest: self.in_guest - earlier.in_guest,
            ended: self.ended - earlier.ended,
            in_host: self.in_host - earlier.in_host,
            at_return: self.at_return - earlier.at_return,
        }
    }
}

/// While it exists, threads that run guests are interrupted.
#[derive(Debug)]
pub struct Storm {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Storm {
    /// Begins it. The time between two signals to a thread is from `shortest` to `longest`; it
    /// should be longer than a handler and a switch of stacks take, or guests do not get on.
    ///
    /// # Errors
    ///
    /// There is no thread for it.
    pub fn begin(shortest: Duration, longest: Duration) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("wrun-storm".into())
            .spawn({
                let over = over.clone();
                move || {
                    let mut timers = HashMap::new();
                    let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
                    while !over.load(Ordering::Relaxed) {
                        arm(&mut timers, &mut dice, shortest, longest);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            })?;
        Ok(Storm {
            over,
            thread: Some(thread),
        })
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Gives each thread that runs guests a timer, and each timer another interval.
fn arm(
    timers: &mut HashMap<libc::pid_t, Timer>,
    dice: &mut u64,
    shortest: Duration,
    longest: Duration,
) {
    let mut threads = THREADS.lock().expect("nothing panics with it");
    threads.retain(|thread| thread.strong_count() > 0);
    let alive: Vec<_> = threads.iter().filter_map(Weak::upgrade).collect();
    drop(threads);
    timers.retain(|id, _| alive.iter().any(|thread| thread.id() == *id));
    for thread in alive {
        let id = thread.id();
        if let std::collections::hash_map::Entry::Vacant(slot) = timers.entry(id)
            && let Some(timer) = Timer::new(id)
        {
            slot.insert(timer);
        }
        if let Some(timer) = timers.get(&id) {
            // A linear congruential generator, Knuth's.
            *dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let room = longest.saturating_sub(shortest).as_nanos().max(1);
            let more = u64::try_from(u128::from(*dice >> 11) % room).unwrap_or(0);
            timer.every(shortest + Duration::from_nanos(more));
        }
    }
}

/// A timer of the kernel that sends one thread its signal.
struct Timer(libc::timer_t);

// SAFETY: it is a number of this process, which any thread may use.
#[expect(unsafe_code, reason = "the number of a timer is a pointer in libc")]
unsafe impl Send for Timer {}

impl Timer {
    /// None if the thread has ended, or there are no more timers.
    #[expect(unsafe_code, reason = "no safe timer_create is at hand")]
    fn new(thread: libc::pid_t) -> Option<Self> {
        // SAFETY: all bytes zero are a valid `sigevent`. The pointers are to local values.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGURG;
            event.sigev_notify_thread_id = thread;
            let mut timer: libc::timer_t = ptr::null_mut();
            let made = libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer);
            (made == 0).then_some(Timer(timer))
        }
    }

    #[expect(unsafe_code, reason = "no safe timer_settime is at hand")]
    fn every(&self, interval: Duration) {
        let time = libc::timespec {
            tv_sec: interval.as_secs().cast_signed(),
            tv_nsec: i64::from(interval.subsec_nanos()),
        };
        let times = libc::itimerspec {
            it_interval: time,
            it_value: time,
        };
        // SAFETY: the timer is not deleted before this is dropped; the pointer is to a local
        // value, and null is allowed for the old one.
        unsafe { libc::timer_settime(self.0, 0, &raw const times, ptr::null_mut()) };
    }
}

impl Drop for Timer {
    #[expect(unsafe_code, reason = "no safe timer_delete is at hand")]
    fn drop(&mut self) {
        // SAFETY: it was created, and is deleted here alone.
        unsafe { libc::timer_delete(self.0) };
    }
}
