//! Sleeping for as long as the guest requested, and not a millisecond longer.
//!
//! tokio's timers count milliseconds and round up: a sleep of 100 µs took 1 ms or 2. They
//! are used until shortly before the end; [`nap`] does the rest.

use super::file_poll::Poll;
use super::wasi_0_1::{EVENT, SUBSCRIPTION, guest_of};
use super::wasi_0_2::WASI;
use crate::host::{Host, MAX_RESOURCES};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use wasmtime::component::{Linker, Resource};
use wasmtime::{Caller, StoreContextMut, Trap};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::clocks::WasiClocksView;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::io::poll::Host as PollHost;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wrun_sys::{self, Watched};

/// Maximum error of tokio's timers: the tick that they round up to, and the one of the wait
/// in the kernel.
const COARSE: Duration = Duration::from_millis(2);

/// Maximum of precise timers of all tasks of this process: each is a descriptor while it
/// runs, for less than [`COARSE`]. Sleeps beyond it are coarse.
const MAX_TIMERS: u32 = 64;
static TIMERS: AtomicU32 = AtomicU32::new(0);

/// Waits until `until`. If host calls may block the thread (a process that does nothing
/// else), the last part blocks, after everything else had a turn; otherwise a kernel timer
/// wakes the task.
async fn nap(until: Instant, blocking: bool) {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > COARSE {
            tokio::time::sleep(left - COARSE).await;
        } else if blocking {
            crate::turn::yield_now().await;
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        } else if let Some(timer) = Timer::after(left) {
            timer.expired().await;
        } else {
            tokio::time::sleep(left).await;
        }
    }
}

/// A kernel timer.
struct Timer {
    descriptor: Watched,
    _counted: Counted,
}

/// One of [`MAX_TIMERS`].
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        TIMERS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Timer {
    /// `None` if there are too many.
    fn after(left: Duration) -> Option<Self> {
        let more = |timers| (timers < MAX_TIMERS).then_some(timers + 1);
        TIMERS
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        let counted = Counted;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags).ok()?;
        let never = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let once = Itimerspec {
            it_interval: never,
            it_value: Timespec::try_from(left).ok()?,
        };
        timerfd_settime(&descriptor, TimerfdTimerFlags::empty(), &once).ok()?;
        Some(Timer {
            descriptor: wrun_sys::watch(Arc::new(descriptor), Interest::READABLE).ok()?,
            _counted: counted,
        })
    }

    async fn expired(self) {
        // It is readable from then on; if waiting for it fails, the caller notices because it
        // checks the clock.
        let _ = self.descriptor.readable().await;
    }
}

/// The pollable of a clock.
struct Sleep {
    /// `None` if it is too far away to represent.
    until: Option<Instant>,
    blocking: bool,
    /// It was due when it was made, and was not waited for yet.
    fresh: bool,
}

#[async_trait::async_trait]
impl Pollable for Sleep {
    async fn ready(&mut self) {
        // A guest that polls in a loop without a wait lets the runtime find out what else has
        // become ready.
        if std::mem::take(&mut self.fresh) {
            crate::turn::yield_now().await;
        }
        match self.until {
            Some(until) => nap(until, self.blocking).await,
            None => std::future::pending().await,
        }
    }
}

fn sleep(host: &mut Host, duration: u64) -> wasmtime::Result<(Resource<DynPollable>,)> {
    let sleep = Sleep {
        until: Instant::now().checked_add(Duration::from_nanos(duration)),
        blocking: host.blocking,
        fresh: duration == 0,
    };
    let table = host.wasi.table();
    let sleep = table.push(sleep)?;
    Ok((subscribe(table, sleep)?,))
}

/// Shadows the subscriptions of the monotonic clock for components, and `poll`: checking a
/// list takes time for each of its members, which may be one and the same.
pub(super) fn for_components(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:io/poll@{WASI}"))?
        .func_wrap_async(
            "poll",
            |mut store: StoreContextMut<'_, Host>, (list,): (Vec<Resource<DynPollable>>,)| {
                Box::new(async move {
                    let table = WasiView::ctx(store.data_mut()).table;
                    if list.len() > table.max_capacity() {
                        return Err(wasmtime::Error::msg(format!(
                            "poll of {} pollables: a task has at most {} of them",
                            list.len(),
                            table.max_capacity()
                        )));
                    }
                    Ok((PollHost::poll(table, list).await?,))
                })
            },
        )?;
    let mut clock = linker.instance(&format!("wasi:clocks/monotonic-clock@{WASI}"))?;
    clock.func_wrap(
        "subscribe-duration",
        |mut store: StoreContextMut<'_, Host>, (duration,): (u64,)| {
            sleep(store.data_mut(), duration)
        },
    )?;
    clock.func_wrap(
        "subscribe-instant",
        |mut store: StoreContextMut<'_, Host>, (when,): (u64,)| {
            let host = store.data_mut();
            let now = monotonic_clock::Host::now(&mut host.clocks())?;
            sleep(host, when.saturating_sub(now))
        },
    )
}

const ERRNO_INVAL: i32 = 28;

/// The clock event of one subscription.
enum Wanted {
    Clock {
        userdata: u64,
        /// `None` if it is too far away to represent.
        until: Option<Instant>,
    },
    Other,
    /// A subscription that is not valid: an unknown clock, for example.
    Invalid,
}

fn wanted(host: &mut Host, subscription: &[u8; SUBSCRIPTION]) -> wasmtime::Result<Wanted> {
    /// Offsets in a subscription, and values there.
    const KIND: usize = 8;
    const CLOCK: u8 = 0;
    const ID: usize = 16;
    const TIMEOUT: usize = 24;
    const FLAGS: usize = 40;
    const REALTIME: u32 = 0;
    const MONOTONIC: u32 = 1;
    const RELATIVE: u16 = 0;
    const ABSOLUTE: u16 = 1;

    let u64_at = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&subscription[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    if subscription[KIND] != CLOCK {
        return Ok(Wanted::Other);
    }
    let clock = u64_at(ID) as u32;
    let flags = u16::from_le_bytes([subscription[FLAGS], subscription[FLAGS + 1]]);
    let timeout = u64_at(TIMEOUT);
    let timeout = match (clock, flags) {
        (REALTIME | MONOTONIC, RELATIVE) => timeout,
        (MONOTONIC, ABSOLUTE) => {
            timeout.saturating_sub(monotonic_clock::Host::now(&mut host.clocks())?)
        }
        (REALTIME, ABSOLUTE) => {
            let now = wall_clock::Host::now(&mut host.clocks())?;
            let now = now
                .seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(u64::from(now.nanoseconds));
            timeout.saturating_sub(now)
        }
        _ => return Ok(Wanted::Invalid),
    };
    Ok(Wanted::Clock {
        userdata: u64_at(0),
        until: Instant::now().checked_add(Duration::from_nanos(timeout)),
    })
}

/// A successful clock event: all other fields are zero.
fn event(userdata: u64) -> [u8; EVENT] {
    let mut event = [0; EVENT];
    event[..8].copy_from_slice(&userdata.to_le_bytes());
    event
}

/// Shadows `poll_oneoff` for modules. Clocks are waited for here: wasmtime-wasi would block
/// the thread for the whole sleep if file calls may block it, and neither deadlines nor
/// output would have their turn. It handles everything else.
pub(super) fn for_modules(linker: &mut wasmtime::Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        "wasi_snapshot_preview1",
        "poll_oneoff",
        |mut caller: Caller<'_, Host>, (subs, events, count, result): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (memory, host, fuel) = guest_of(&mut caller)?;
                let number = count.cast_unsigned() as usize;
                // As `poll` in POSIX: more than the maximum of files. An empty list is an
                // error, too.
                if number == 0 || number > MAX_RESOURCES {
                    return Ok(ERRNO_INVAL);
                }
                let start = subs.cast_unsigned() as usize;
                let list = start
                    .checked_add(number * SUBSCRIPTION)
                    .and_then(|end| memory.get(start..end))
                    .ok_or(Trap::MemoryOutOfBounds)?;
                let mut sleeps = Vec::new();
                for subscription in list.as_chunks::<SUBSCRIPTION>().0 {
                    match wanted(host, subscription)? {
                        Wanted::Clock { userdata, until } => sleeps.push((userdata, until)),
                        Wanted::Other => {}
                        Wanted::Invalid => return Ok(ERRNO_INVAL),
                    }
                }
                let first = sleeps.iter().filter_map(|(_, until)| *until).min();
                let blocking = host.blocking;
                let due = async {
                    match first {
                        Some(first) => {
                            // One that is due: first check what else is ready.
                            if first <= Instant::now() {
                                crate::turn::yield_now().await;
                            }
                            nap(first, blocking).await;
                        }
                        None => std::future::pending().await,
                    }
                };
                if sleeps.len() == number {
                    due.await;
                } else {
                    let poll = Poll {
                        subscriptions: subs,
                        events,
                        count,
                        result,
                    };
                    let others = poll.run(host.p1(fuel)?, memory, fuel);
                    tokio::select! {
                        biased;
                        polled = others => return polled,
                        () = due => {}
                    }
                }
                let now = Instant::now();
                let due = sleeps
                    .iter()
                    .filter(|(_, until)| until.is_some_and(|until| until <= now));
                let mut number = 0u32;
                let mut at = events.cast_unsigned() as usize;
                for (userdata, _) in due {
                    let place = at
                        .checked_add(EVENT)
                        .and_then(|end| memory.get_mut(at..end))
                        .ok_or(Trap::MemoryOutOfBounds)?;
                    place.copy_from_slice(&event(*userdata));
                    at += EVENT;
                    number += 1;
                }
                let at = result.cast_unsigned() as usize;
                let place = at
                    .checked_add(4)
                    .and_then(|end| memory.get_mut(at..end))
                    .ok_or(Trap::MemoryOutOfBounds)?;
                place.copy_from_slice(&number.to_le_bytes());
                Ok(0)
            })
        },
    )?;
    Ok(())
}
