//! A batch while it runs: records go to the thread that writes them, signals and failed inputs end
//! it, progress is shown.
//!
//! Invariant: this loop waits for nothing that does not end by itself or by a second signal: not
//! for a reader of the output that has stalled, and not for tasks.

use super::map::failure;
use super::map_args::MapArgs;
use super::map_progress::MapProgress;
use super::signals::Signals;
use super::{Failure, exit};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use wrun_map::{
    Collector, Error, Failures, Halt, Meter, Now, Place, Pumped, Record, Records, Summary, next,
};

/// How long a record may wait to be written and committed.
const TICK: Duration = Duration::from_millis(100);
/// Records that are passed on together, and bytes of their output.
const TOGETHER: usize = 128;
const TOGETHER_BYTES: usize = 1 << 20;
/// How long the thread that writes may take after a second signal.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// What goes to the thread that writes.
struct Passed {
    records: Vec<Record>,
    commit: bool,
    now: Now,
}

/// What a batch has beside its records.
pub(super) struct Batch {
    failures: Arc<Failures>,
    meter: Arc<Meter>,
    progress: MapProgress,
}

impl Batch {
    pub(super) fn new(args: &MapArgs, failures: Arc<Failures>, meter: Arc<Meter>) -> Self {
        let is_wanted = !args.quiet && !args.no_progress;
        let progress = MapProgress::new(is_wanted, !args.quiet, failures.clone(), meter.clone());
        Batch {
            failures,
            meter,
            progress,
        }
    }
}

/// How a batch ended.
pub(super) struct Ended {
    /// `None` if the thread that writes could not finish.
    pub(super) summary: Option<Summary>,
    pub(super) elapsed: Duration,
    pub(super) error: Option<Error>,
    /// The exit code of the first signal.
    pub(super) interrupted: Option<u8>,
    /// Too many inputs failed.
    pub(super) is_halted: bool,
}

/// Runs it to its end.
pub(super) async fn collect<P: Place>(
    records: Records<Pumped, P>,
    collector: Collector,
    mut batch: Batch,
    signals: &mut Signals,
) -> Result<Ended, Failure> {
    let began = Instant::now();
    let (sender, receiver) = mpsc::channel(2);
    let (done, mut finished) = oneshot::channel();
    let (complain, complaints) = channel();
    let thread = std::thread::Builder::new().name("wrun-map-output".into());
    thread
        .spawn(move || {
            let _ = done.send(write(collector, receiver, &complain));
        })
        .map_err(|error| failure(Error::Thread(error)))?;
    let mut ended = Ended {
        summary: None,
        elapsed: Duration::ZERO,
        error: None,
        interrupted: None,
        is_halted: false,
    };
    let mut running = Running {
        records: Some(records),
        waiting: Vec::new(),
        bytes: 0,
        uncommitted: false,
        retries: 0,
        complaints,
        in_flight: 0,
    };
    let is_cut = running.run(sender, &mut batch, signals, &mut ended).await;
    let result = loop {
        tokio::select! {
            result = &mut finished => break result.ok(),
            code = signals.next(), if !is_cut => match ended.interrupted {
                None => ended.interrupted = Some(code),
                Some(_) => break None,
            },
            () = tokio::time::sleep(LAST_OUTPUT), if is_cut => break None,
        }
    };
    running.print_complaints(&mut batch.progress);
    batch.progress.end();
    match result {
        Some(Ok(summary)) => ended.summary = Some(summary),
        // It is the cause of what else went wrong.
        Some(Err(error)) => ended.error = Some(error),
        None => {}
    }
    ended.elapsed = began.elapsed();
    Ok(ended)
}

/// The loop's own state.
struct Running<P> {
    /// `None` once all have come, or were given up.
    records: Option<Records<Pumped, P>>,
    waiting: Vec<Record>,
    bytes: usize,
    /// Records were passed on since the last commit.
    uncommitted: bool,
    retries: u64,
    complaints: Receiver<(String, String)>,
    in_flight: usize,
}

impl<P: Place> Running<P> {
    /// Until there are no more records. True if they were given up.
    async fn run(
        &mut self,
        sender: mpsc::Sender<Passed>,
        batch: &mut Batch,
        signals: &mut Signals,
        ended: &mut Ended,
    ) -> bool {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut is_due, mut is_cut) = (false, false);
        loop {
            let is_full = self.waiting.len() >= TOGETHER || self.bytes >= TOGETHER_BYTES;
            let is_over = self.records.is_none();
            if is_over && self.waiting.is_empty() {
                return is_cut;
            }
            tokio::select! {
                biased;
                code = signals.next() => {
                    let is_first = ended.interrupted.is_none();
                    ended.interrupted.get_or_insert(code);
                    if !is_first || code == exit::OUT_OF_TIME {
                        is_cut = true;
                        self.records = None;
                    } else if let Some(records) = &mut self.records {
                        records.stop();
                        let running = records.in_flight();
                        batch.progress.say(&format!(
                            "finishing {running} tasks; once more ends them now"
                        ));
                    }
                    if is_cut && sender.is_closed() {
                        return is_cut;
                    }
                }
                permit = sender.reserve(), if is_full || is_due || is_over => {
                    let Ok(permit) = permit else {
                        // The thread has ended, and says why.
                        self.records = None;
                        return is_cut;
                    };
                    permit.send(Passed {
                        records: std::mem::take(&mut self.waiting),
                        commit: is_due,
                        now: self.now(batch),
                    });
                    self.uncommitted = !is_due;
                    (is_due, self.bytes) = (false, 0);
                }
                () = async { tokio::time::sleep(LAST_OUTPUT).await }, if is_cut => return is_cut,
                _ = tick.tick() => {
                    is_due = self.uncommitted || !self.waiting.is_empty();
                    self.print_complaints(&mut batch.progress);
                    batch.progress.show(self.in_flight, self.retries);
                    self.halt(batch, ended);
                    if sender.is_closed() {
                        self.records = None;
                        return is_cut;
                    }
                }
                record = of(&mut self.records), if !is_full && !is_over => {
                    self.take(record, batch, ended);
                }
            }
        }
    }

    fn take(
        &mut self,
        record: Option<Result<Box<Record>, Error>>,
        batch: &mut Batch,
        ended: &mut Ended,
    ) {
        self.in_flight = self.records.as_ref().map_or(0, Records::in_flight);
        match record {
            Some(Ok(record)) => {
                batch.failures.note_ended(!record.is_completed());
                if !record.is_completed() {
                    batch.progress.failed(&record.name, &record.message());
                }
                self.halt(batch, ended);
                self.retries += u64::from(record.attempts.saturating_sub(1));
                self.bytes += record.output().map_or(0, |output| output.len());
                self.waiting.push(*record);
            }
            Some(Err(error)) => {
                ended.error = Some(error);
                self.records = None;
            }
            None => self.records = None,
        }
    }

    /// Ends the batch if too many inputs failed.
    fn halt(&mut self, batch: &Batch, ended: &mut Ended) {
        match batch.failures.halt() {
            Some(_) if self.records.is_none() => {}
            Some(Halt::Finish) => {
                ended.is_halted = true;
                if let Some(records) = &mut self.records {
                    records.stop();
                }
            }
            Some(Halt::Now) => {
                ended.is_halted = true;
                self.records = None;
            }
            None => {}
        }
    }

    fn print_complaints(&self, progress: &mut MapProgress) {
        for (name, why) in self.complaints.try_iter() {
            progress.failed(&name, &why);
        }
    }

    fn now(&self, batch: &Batch) -> Now {
        Now {
            total: batch.meter.total(),
            in_flight: self.in_flight as u64,
        }
    }
}

/// The next record.
async fn of<P: Place>(
    records: &mut Option<Records<Pumped, P>>,
) -> Option<Result<Box<Record>, Error>> {
    match records {
        Some(records) => next(records).await,
        None => None,
    }
}

/// On a thread of its own, which may wait for a disk or a reader.
fn write(
    mut collector: Collector,
    mut passed: mpsc::Receiver<Passed>,
    complain: &Sender<(String, String)>,
) -> Result<Summary, Error> {
    let mut last = Now::default();
    while let Some(Passed {
        records,
        commit,
        now,
    }) = passed.blocking_recv()
    {
        last = now;
        for mut record in records {
            let was_completed = record.is_completed();
            collector.take(&mut record, now)?;
            if was_completed && !record.is_completed() {
                let _ = complain.send((record.name.clone(), record.message()));
            }
        }
        if commit {
            collector.commit(now)?;
        }
    }
    let is_complete = last.total.is_some_and(|total| collector.ended() == total);
    collector.finish(is_complete, last)
}
