//! Carries out a plan: takes inputs while there is room, and yields a record for each.
//!
//! Invariant: at most [`Map::in_flight`] tasks and [`Map::ahead`] more are submitted, and at most
//! [`Map::window`] inputs are taken and not yielded; beyond that no input is taken, whatever the speed of the tasks. So
//! memory does not depend on the number of inputs.

use crate::chain::{Chain, Changed, Item, Numbering, Resume};
use crate::error::Error;
use crate::input::{Input, Payload};
use crate::place::{Place, PlaceError};
use crate::plan::{Order, Plan};
use crate::record::{Ending, Record};
use bytes::Bytes;
use futures_core::Stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use wrun::{Batch, ErrorKind, Limit, Outcome, Report};

/// New attempts after the runner could not run a task: memory or processes that the system
/// refused may be there again.
const RUNNER_ATTEMPTS: u32 = 8;
/// The pause before a new attempt; doubles up to [`PAUSE_MOST`].
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MOST: Duration = Duration::from_secs(1);
/// How long a task may wait in the queue of the place for its turn.
const QUEUED: Duration = Duration::from_millis(20);
/// What is longer does not name a file.
const LONGEST_NAME: usize = 4096;

/// What to run, where, and in which order records come; [`Map::run`] starts it.
#[derive(Debug)]
#[must_use = "nothing runs until the records are polled"]
pub struct Map<P> {
    place: Arc<P>,
    plan: Arc<Plan>,
    ordered: bool,
    in_flight: usize,
    ahead: usize,
    window: usize,
    held: u64,
    retries: u32,
    names: bool,
    digests: bool,
    resume: Option<Resume>,
}

impl<P: Place> Map<P> {
    /// Maximum of [`Map::window`] by default.
    pub const WINDOW: usize = 1024;
    /// Bytes of output that wait for a slower input before them, from which on no more inputs are
    /// taken: 64 MiB.
    pub const HELD: u64 = 64 << 20;

    /// One task at a time, records in the order of the inputs, no new attempts.
    pub fn new(place: P, plan: Plan) -> Self {
        Map {
            place: Arc::new(place),
            plan: Arc::new(plan),
            ordered: true,
            in_flight: 1,
            ahead: 0,
            window: Self::WINDOW,
            held: Self::HELD,
            retries: 0,
            names: false,
            digests: false,
            resume: None,
        }
    }

    /// Maximum of tasks that are submitted at the same time, without those of [`Map::ahead`].
    /// Default: 1.
    pub fn in_flight(mut self, tasks: usize) -> Self {
        self.in_flight = tasks.max(1);
        self
    }

    /// Maximum of tasks that are submitted beyond those, and wait in the queue of the place, so that
    /// it does not wait for the next. There are only as many as take about 20 ms, by the time that
    /// tasks took before. Default: 0.
    pub fn ahead(mut self, tasks: usize) -> Self {
        self.ahead = tasks;
        self
    }

    /// Whether records come in the order of the inputs (the default), or as tasks end.
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.ordered = ordered;
        self
    }

    /// Maximum of inputs that are taken and have no record yet, or one that waits for those before
    /// it. Default: [`Map::WINDOW`].
    pub fn window(mut self, inputs: usize) -> Self {
        self.window = inputs.max(1);
        self
    }

    /// Maximum of new attempts after the worker of a task died. Default: 0.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Whether records keep what stands for the input in names of files
    /// ([`Folder`](crate::Folder)): a path, or the input itself. Default: no.
    pub fn names(mut self, names: bool) -> Self {
        self.names = names;
        self
    }

    /// Takes a digest of the inputs, which a [`Journal`](crate::Journal) needs, and leaves out
    /// those that it has: `resume` is from [`Journal::resume`](crate::Journal::resume).
    pub fn journalled(mut self, resume: Resume) -> Self {
        self.digests = true;
        self.resume = Some(resume);
        self
    }

    /// Starts to take inputs, whenever the records are polled. Needs a tokio runtime with its
    /// timer then.
    ///
    /// Cancel safe: a record that was waited for is not lost. Dropping the records ends the tasks
    /// that run, as soon as the runtime runs again or is dropped.
    pub fn run<S>(self, inputs: S) -> Records<S, P>
    where
        S: Stream<Item = Result<Input, Error>> + Unpin,
    {
        Records {
            numbering: Numbering::new(self.digests),
            map: self,
            inputs: Some(inputs),
            admitted: VecDeque::new(),
            running: None,
            settled: VecDeque::new(),
            first: 0,
            held: 0,
            mean: None,
            failed: None,
            began: Instant::now(),
        }
    }
}

/// One order, on its way to its record.
struct Work {
    /// The turn of its input.
    turn: u64,
    order: Order,
    input: Input,
    input_bytes: Option<u64>,
    chain: Chain,
    text: Option<String>,
    submitted: Duration,
}

/// The turn of an input, and its record.
type Done = (u64, Result<Box<Record>, Error>);

/// The records of a batch, as a stream: [`Map::run`].
#[must_use = "nothing runs until it is polled"]
pub struct Records<S, P> {
    map: Map<P>,
    /// `None` once they ended.
    inputs: Option<S>,
    numbering: Numbering,
    admitted: VecDeque<Item>,
    /// What is submitted; `None` before the first, and after an error.
    running: Option<Batch<Work, Done>>,
    /// Records by the turn of their inputs, which began with `first`. Where records come as tasks
    /// end, this has only those that ended.
    settled: VecDeque<Option<Box<Record>>>,
    first: u64,
    /// Bytes in `settled`.
    held: u64,
    /// The time that a task takes.
    mean: Option<Duration>,
    failed: Option<Error>,
    began: Instant,
}

impl<S, P> Records<S, P> {
    /// Takes no more inputs. The stream ends once the tasks that run have ended.
    pub fn stop(&mut self) {
        self.inputs = None;
        self.admitted.clear();
    }

    /// How many tasks are submitted.
    pub fn in_flight(&self) -> usize {
        self.running.as_ref().map_or(0, Batch::len)
    }

    /// How many inputs were taken, and left out.
    pub fn taken(&self) -> u64 {
        self.numbering.count()
    }

    /// When the batch began.
    pub fn began(&self) -> Instant {
        self.began
    }
}

impl<S, P> Records<S, P>
where
    S: Stream<Item = Result<Input, Error>> + Unpin,
    P: Place,
{
    fn has_room(&self) -> bool {
        let running = self.in_flight();
        let taken = match self.map.ordered {
            true => self.settled.len(),
            false => self.settled.len() + running,
        };
        taken < self.map.window
            && running < self.map.in_flight + self.ahead()
            && (self.held < self.map.held || running == 0)
    }

    /// How many tasks may wait in the queue.
    fn ahead(&self) -> usize {
        let Some(mean) = self.mean else {
            return 0;
        };
        let at_once = self.map.in_flight as f64;
        let fit = QUEUED.as_secs_f64() / mean.as_secs_f64().max(1e-9) * at_once;
        (fit as usize).min(self.map.ahead)
    }

    /// Submits as many tasks as there is room for.
    fn fill(&mut self, cx: &mut Context<'_>) {
        while self.has_room() {
            if let Some(item) = self.admitted.pop_front() {
                self.start(item);
                continue;
            }
            let Some(inputs) = &mut self.inputs else {
                return;
            };
            let admitted = match Pin::new(inputs).poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(input))) => {
                    let item = self.numbering.number(input);
                    match &mut self.map.resume {
                        Some(resume) => resume.admit(item, &mut self.admitted),
                        None => {
                            self.admitted.push_back(item);
                            Ok(())
                        }
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    // Tasks that run are not to blame.
                    self.inputs = None;
                    self.failed = Some(error);
                    return;
                }
                Poll::Ready(None) => {
                    self.inputs = None;
                    let count = self.numbering.count();
                    let resume = self.map.resume.as_mut();
                    resume.map_or(Ok(()), |it| it.ended(count, &mut self.admitted))
                }
            };
            if let Err(Changed) = admitted {
                self.stop();
                self.failed = Some(Error::InputsChanged);
            }
        }
    }

    fn start(&mut self, item: Item) {
        let turn = self.first + self.settled.len() as u64;
        if self.map.ordered {
            self.settled.push_back(None);
        }
        let submitted = self.began.elapsed();
        let order = self.map.plan.order(item.index, &item.input);
        let chain = item.chain;
        let order = match order {
            Ok(order) => order,
            Err(why) => {
                let ending = Ending::NotRun(why.to_string());
                let record = record(item.index, item.input, chain, ending, 0, submitted);
                return self.settle(turn, record);
            }
        };
        let text = match self.map.names {
            true => item
                .input
                .subject(0)
                .text
                .filter(|text| text.len() <= LONGEST_NAME),
            false => None,
        };
        let text = text.map(str::to_owned);
        // The order has the bytes that are needed.
        let mut input = item.input;
        let input_bytes = input.len();
        input.payload = Ok(Payload::Bytes(Bytes::new()));
        let work = Work {
            turn,
            order,
            input,
            input_bytes,
            chain,
            text,
            submitted,
        };
        let (map, began) = (&self.map, self.began);
        let running = self.running.get_or_insert_with(|| {
            let (place, retries) = (map.place.clone(), map.retries);
            let carry_out = move |work| {
                let place = place.clone();
                async move { work_off(&*place, work, retries, began).await }
            };
            // There is no more than there is room for here.
            Batch::new(&map.place.runtime(), map.in_flight, usize::MAX, carry_out)
        });
        if running.push(work).is_err() {
            self.failed = Some(Error::Runner(wrun::Error::shut_down()));
            self.stop();
        }
    }

    fn settle(&mut self, turn: u64, record: Box<Record>) {
        self.held += record.held();
        if let Some(stats) = record.stats() {
            let time = stats.start + stats.run;
            self.mean = Some(self.mean.map_or(time, |mean| (mean * 7 + time) / 8));
        }
        match self.map.ordered {
            false => self.settled.push_back(Some(record)),
            true => {
                let at = usize::try_from(turn - self.first).unwrap_or(usize::MAX);
                if let Some(place) = self.settled.get_mut(at) {
                    *place = Some(record);
                }
            }
        }
    }

    /// Ends the batch, and the tasks that run.
    fn end(&mut self, error: Error) -> Poll<Option<Result<Box<Record>, Error>>> {
        self.stop();
        self.running = None;
        self.settled.clear();
        Poll::Ready(Some(Err(error)))
    }

    fn next_settled(&mut self) -> Option<Box<Record>> {
        let record = self.settled.front_mut()?.take()?;
        self.settled.pop_front();
        self.first += u64::from(self.map.ordered);
        self.held -= record.held();
        Some(record)
    }
}

impl<S, P> Stream for Records<S, P>
where
    S: Stream<Item = Result<Input, Error>> + Unpin,
    P: Place,
{
    type Item = Result<Box<Record>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(record) = this.next_settled() {
                return Poll::Ready(Some(Ok(record)));
            }
            this.fill(cx);
            let waited_for = this.in_flight();
            let polled = match &mut this.running {
                Some(running) => running.poll_next(cx),
                None => Poll::Ready(None),
            };
            match polled {
                Poll::Ready(Some((turn, Ok(record)))) => this.settle(turn, record),
                Poll::Ready(Some((_, Err(error)))) => return this.end(error),
                // The runtime of the place has ended.
                Poll::Ready(None) if waited_for > 0 => {
                    return this.end(Error::Runner(wrun::Error::shut_down()));
                }
                Poll::Pending if this.settled.front().is_some_and(Option::is_some) => {}
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) if this.settled.front().is_some_and(Option::is_some) => {}
                Poll::Ready(None) if this.inputs.is_none() && this.admitted.is_empty() => {
                    return Poll::Ready(this.failed.take().map(Err));
                }
                Poll::Ready(None) => return Poll::Pending,
            }
        }
    }
}

fn record(
    index: u64,
    input: Input,
    chain: Chain,
    ending: Ending,
    attempts: u32,
    submitted: Duration,
) -> Box<Record> {
    Box::new(Record {
        index,
        input_bytes: input.len(),
        name: input.name,
        carried: input.carried,
        attempts,
        ending,
        file: None,
        submitted,
        ended: submitted,
        text: None,
        chain,
    })
}

/// Carries out an order.
async fn work_off<P: Place>(place: &P, work: Work, retries: u32, began: Instant) -> Done {
    let (ending, attempts) = match attempts(place, &work.order, retries).await {
        Ok(ended) => ended,
        Err(error) => return (work.turn, Err(error)),
    };
    let index = work.order.index;
    let mut record = record(
        index,
        work.input,
        work.chain,
        ending,
        attempts,
        work.submitted,
    );
    record.input_bytes = work.input_bytes;
    record.text = work.text;
    record.ended = began.elapsed();
    (work.turn, Ok(record))
}

/// Runs an order until it has an ending, and says how often it was run.
async fn attempts<P: Place>(
    place: &P,
    order: &Order,
    retries: u32,
) -> Result<(Ending, u32), Error> {
    let (mut attempts, mut refused, mut pause) = (0, 0, PAUSE);
    loop {
        match place.run(order).await {
            Ok(report) if waited_too_long(&report) => continue,
            Ok(report) => {
                attempts += 1;
                let crashed = matches!(report.outcome, Outcome::Crashed(_));
                if !crashed || attempts > retries {
                    return Ok((Ending::Ran(Box::new(report)), attempts));
                }
            }
            Err(PlaceError::Input(why)) => return Ok((Ending::NotRun(why.to_string()), attempts)),
            Err(PlaceError::NotRun(why)) => return Ok((Ending::NotRun(why), attempts)),
            Err(PlaceError::Failed(why)) => return Err(Error::Place(why)),
            Err(PlaceError::Runner(error)) => match error.kind() {
                ErrorKind::InvalidTask => return Ok((Ending::NotRun(error.to_string()), attempts)),
                _ if error.is_retryable() && refused < RUNNER_ATTEMPTS => refused += 1,
                _ => return Err(Error::Runner(error)),
            },
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MOST);
    }
}

/// A deadline counts from submission. A task that spent a part of its time in the queue, because
/// others were slow, has not had all of it.
fn waited_too_long(report: &Report) -> bool {
    let stats = &report.stats;
    let is_late = report.outcome == Outcome::LimitExceeded(Limit::Deadline);
    is_late && stats.queue > Duration::from_millis(5) && stats.queue > stats.total / 100
}
