//! Many orders, carried out by a few tasks of a runtime that each take the next one when they
//! are done with one.
//!
//! A task of the runtime for each order would wake two threads for each. Here a thread is woken
//! when it has nothing to do, and otherwise takes orders and hands over results in portions of
//! about [`PORTION`]. Waking the owner costs as much as some orders, so it is woken when half of
//! the work that it gave is done, or the first result has waited for [`WAITS`].
//!
//! Invariants: what takes long makes neither results nor orders wait. A lane whose order is not
//! done at once hands over the results that it has, wakes the owner, and gives back the orders
//! that it took beside it; so does one that gives way to others. At most as many orders are being
//! carried out as there are lanes.

use std::collections::VecDeque;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use wrun_sys::Unpoisoned;

/// How long a lane works between two exchanges.
const PORTION: Duration = Duration::from_micros(100);
/// How long a result may wait for others before the owner is woken, beside a portion: 20 times
/// what it costs to wake a thread.
const WAITS: Duration = Duration::from_micros(200);
/// Orders that a lane takes at once, at most.
const MOST: usize = 64;
/// Orders that wait for results to be taken before they are handed over.
const TOGETHER: usize = 16;
/// How long a lane works before others that share its thread have a turn.
const TURN: Duration = Duration::from_millis(1);

/// Carries out many orders on a runtime, a number of them at once, with little effort for each:
/// a stream of results, as they end, for orders that are pushed.
///
/// [`Runner::batch`](crate::Runner::batch) makes one that runs tasks. Another function makes
/// sense where more is to be done for each: read a file, try again.
///
/// Cancel safe: a result that was waited for is not lost. Dropping it drops what is being carried
/// out, on the runtime and soon.
///
/// ```
/// use wrun::{Batch, Mode, Runner, Task};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let runner = Runner::builder().mode(Mode::Thread).build()?;
/// let echo = runner.blocking_load("../../guest-tasks/echo/echo.wat")?;
/// // Two at once; at most 100 of which no result was taken.
/// let (at_once, room) = (2, 100);
/// let mut batch = runner.batch(at_once, room);
/// let (mut next, mut sum) = (0_u64, 0);
/// tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
///     loop {
///         while next < 1000 && !batch.is_full() {
///             let task = Task::new(&echo).input(next.to_string());
///             batch.push((next, task)).ok();
///             next += 1;
///         }
///         let Some((number, report)) = batch.next().await else {
///             return Ok::<_, wrun::Error>(());
///         };
///         assert_eq!(report?.stdout, number.to_string());
///         sum += number;
///     }
/// })?;
/// assert_eq!(sum, 499_500);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it ends what is being carried out"]
pub struct Batch<T, R> {
    shared: Arc<Shared<T, R>>,
    /// Starts one more lane.
    start: Start<T, R>,
    lanes: JoinSet<()>,
    at_once: usize,
    room: usize,
    /// Orders that were not handed over yet.
    pushed: Vec<T>,
    /// Results that were taken over and not taken.
    results: VecDeque<R>,
    /// Orders whose result was not taken.
    len: usize,
}

type Start<T, R> = Box<dyn FnMut(&mut JoinSet<()>, Arc<Shared<T, R>>) + Send>;

impl<T: Send + 'static, R: Send + 'static> Batch<T, R> {
    /// Carries out each order by `carry_out`, on `runtime`: `at_once` of them at the same time, at
    /// least 1. At most `room` orders are taken whose result was not taken, at least 1. Nothing
    /// runs before an order is pushed.
    ///
    /// What `carry_out` returns is polled on the runtime and must not block.
    pub fn new<F, W>(runtime: &Handle, at_once: usize, room: usize, carry_out: F) -> Self
    where
        F: Fn(T) -> W + Send + Sync + 'static,
        W: Future<Output = R> + Send + 'static,
    {
        let (runtime, carry_out) = (runtime.clone(), Arc::new(carry_out));
        let start = move |lanes: &mut JoinSet<()>, shared| {
            let lane = Lane::new(lanes.len(), shared, carry_out.clone());
            lanes.spawn_on(lane, &runtime);
        };
        Batch {
            shared: Arc::default(),
            start: Box::new(start),
            lanes: JoinSet::new(),
            at_once: at_once.max(1),
            room: room.max(1),
            pushed: Vec::new(),
            results: VecDeque::new(),
            len: 0,
        }
    }

    /// How many orders were pushed whose result was not taken.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the result of every order was taken.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no order can be pushed before a result is taken.
    pub fn is_full(&self) -> bool {
        self.len >= self.room
    }

    /// Starts an order soon: while there are results to take, orders are handed over together, or
    /// when [`Batch::next`] is called.
    ///
    /// # Errors
    ///
    /// Returns the order if there is no room for it.
    pub fn push(&mut self, order: T) -> Result<(), T> {
        if self.is_full() {
            return Err(order);
        }
        self.len += 1;
        self.pushed.push(order);
        if self.results.is_empty() || self.pushed.len() >= TOGETHER {
            self.hand_over();
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        let count = self.pushed.len();
        if count == 0 {
            return;
        }
        let mut state = self.shared.lock();
        state.orders.extend(self.pushed.drain(..));
        let woken = state.idle_lanes(count);
        drop(state);
        let missing = count - woken.len();
        woken.into_iter().for_each(Waker::wake);
        let more = self.at_once.saturating_sub(self.lanes.len());
        for _ in 0..missing.min(more) {
            (self.start)(&mut self.lanes, self.shared.clone());
        }
    }

    /// The next result; `None` while there is no order without one, and for ever after the runtime
    /// has ended. Cancel safe.
    ///
    /// # Panics
    ///
    /// If an order panicked.
    pub async fn next(&mut self) -> Option<R> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Batch::next`] for code that polls.
    ///
    /// # Panics
    ///
    /// If an order panicked.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<R>> {
        if self.results.is_empty() {
            self.hand_over();
            let mut state = self.shared.lock();
            std::mem::swap(&mut state.results, &mut self.results);
            if self.results.is_empty() && self.len > 0 {
                state.taker = Some(cx.waker().clone());
            }
        }
        if let Some(result) = self.results.pop_front() {
            self.len -= 1;
            return Poll::Ready(Some(result));
        }
        if self.len == 0 {
            return Poll::Ready(None);
        }
        // A lane does not end by itself.
        while let Poll::Ready(ended) = self.lanes.poll_join_next(cx) {
            match ended {
                Some(Err(error)) if error.is_panic() => {
                    std::panic::resume_unwind(error.into_panic())
                }
                Some(_) => {}
                None => {
                    self.len = 0;
                    self.room = 0;
                    return Poll::Ready(None);
                }
            }
        }
        Poll::Pending
    }
}

impl<T, R> std::fmt::Debug for Batch<T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("at_once", &self.at_once)
            .field("room", &self.room)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// What lanes and the owner of the batch share.
struct Shared<T, R>(Mutex<State<T, R>>);

impl<T, R> Default for Shared<T, R> {
    fn default() -> Self {
        Shared(Mutex::new(State {
            orders: VecDeque::new(),
            results: VecDeque::new(),
            since: None,
            idle: Vec::new(),
            taker: None,
        }))
    }
}

impl<T, R> Shared<T, R> {
    fn lock(&self) -> MutexGuard<'_, State<T, R>> {
        self.0.lock().unpoisoned()
    }
}

struct State<T, R> {
    orders: VecDeque<T>,
    results: VecDeque<R>,
    /// When the first of the results came.
    since: Option<Instant>,
    /// The lanes that wait for an order, by their number.
    idle: Vec<(usize, Waker)>,
    /// Who waits for a result.
    taker: Option<Waker>,
}

impl<T, R> State<T, R> {
    /// Lanes to wake for as many orders.
    fn idle_lanes(&mut self, orders: usize) -> Vec<Waker> {
        let first = self.idle.len().saturating_sub(orders);
        self.idle.drain(first..).map(|(_, waker)| waker).collect()
    }

    /// Adds results; returns who waits for them, if it is time.
    fn add(&mut self, results: &mut Vec<R>, now: Instant) -> Option<Waker> {
        if self.results.is_empty() {
            self.since = Some(now);
        }
        let is_half_done = self.results.len() + results.len() >= self.orders.len();
        let is_late = self.since.is_some_and(|since| now - since >= WAITS);
        if is_half_done || is_late {
            return self.hand_over(results);
        }
        self.results.extend(results.drain(..));
        None
    }

    /// Adds results, if there are any; returns who waits for all that there are.
    fn hand_over(&mut self, results: &mut Vec<R>) -> Option<Waker> {
        self.results.extend(results.drain(..));
        match self.results.is_empty() {
            true => None,
            false => self.taker.take(),
        }
    }
}

pin_project_lite::pin_project! {
    /// Carries out one order after another.
    struct Lane<T, R, F, W> {
        number: usize,
        shared: Arc<Shared<T, R>>,
        carry_out: Arc<F>,
        // Taken, and not begun.
        orders: VecDeque<T>,
        results: Vec<R>,
        // It handed over results without waking who waits for them.
        owes: bool,
        #[pin]
        current: Option<W>,
        pace: Pace,
    }
}

impl<T, R, F, W> Lane<T, R, F, W> {
    fn new(number: usize, shared: Arc<Shared<T, R>>, carry_out: Arc<F>) -> Self {
        Lane {
            number,
            shared,
            carry_out,
            orders: VecDeque::new(),
            results: Vec::new(),
            owes: false,
            current: None,
            pace: Pace::new(Instant::now()),
        }
    }
}

impl<T, R, F, W> Future for Lane<T, R, F, W>
where
    F: Fn(T) -> W,
    W: Future<Output = R>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let mut turn = None;
        loop {
            if let Some(current) = this.current.as_mut().as_pin_mut() {
                let Poll::Ready(result) = current.poll(cx) else {
                    this.pace.takes_long();
                    if *this.owes || !this.orders.is_empty() || !this.results.is_empty() {
                        let mut state = this.shared.lock();
                        let taker = state.hand_over(this.results);
                        *this.owes = false;
                        let woken = state.idle_lanes(this.orders.len());
                        for order in this.orders.drain(..).rev() {
                            state.orders.push_front(order);
                        }
                        drop(state);
                        woken.into_iter().chain(taker).for_each(Waker::wake);
                    }
                    return Poll::Pending;
                };
                this.current.set(None);
                this.results.push(result);
            }
            if let Some(order) = this.orders.pop_front() {
                this.current.set(Some((this.carry_out)(order)));
                continue;
            }
            let now = Instant::now();
            let portion = this.pace.portion(now, this.results.len());
            let is_over = now - *turn.get_or_insert(now) >= TURN;
            let mut state = this.shared.lock();
            let taker = match is_over {
                true => state.hand_over(this.results),
                false => state.add(this.results, now),
            };
            *this.owes = taker.is_none();
            let share = state.orders.len().div_ceil(2);
            if !is_over {
                this.orders
                    .extend(state.orders.drain(..share.min(portion.get())));
            }
            let is_idle = !is_over && this.orders.is_empty();
            if is_idle {
                state.idle.retain(|(number, _)| number != this.number);
                state.idle.push((*this.number, cx.waker().clone()));
            }
            drop(state);
            if let Some(taker) = taker {
                taker.wake();
            }
            if is_over {
                cx.waker().wake_by_ref();
            }
            if is_over || is_idle {
                return Poll::Pending;
            }
        }
    }
}

/// How fast a lane is.
struct Pace {
    /// When it took its portion.
    began: Instant,
    /// The time that an order takes; `None` if that is unknown.
    mean: Option<Duration>,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Pace {
            began: now,
            mean: None,
        }
    }

    /// How many orders to take, when the portion before had `done`.
    fn portion(&mut self, now: Instant, done: usize) -> NonZero<usize> {
        if let Ok(done @ 1..) = u32::try_from(done) {
            let time = (now - self.began) / done;
            self.mean = Some(self.mean.map_or(time, |mean| (mean + time) / 2));
        }
        self.began = now;
        let fit = self
            .mean
            .map_or(1, |mean| PORTION.as_nanos() / mean.as_nanos().max(1));
        let fit = usize::try_from(fit).unwrap_or(MOST).min(MOST);
        NonZero::new(fit).unwrap_or(NonZero::<usize>::MIN)
    }

    /// An order was not done at once.
    fn takes_long(&mut self) {
        self.mean = Some(PORTION);
    }
}

#[cfg(test)]
mod tests;
