//! A comparison, from its settings to its results.

use crate::bench::{Bench, Left};
use crate::comparison::{Comparison, Step, Watch};
use crate::fitness::{self, Fit};
use crate::isolation::Handler;
use crate::results::{FaultRow, Finding, Policy, Results, Subject, Verdict};
use crate::{Fault, FaultTarget, cost, environment, isolation};
use std::ops::ControlFlow;
use wrun::{Error, ErrorKind, Mode};

impl Comparison {
    /// Measures. Blocks for about the budget; other work of this program affects the
    /// numbers.
    ///
    /// The task also runs in thread mode and, for the floors, in a process without a jail:
    /// compare only what you would run in thread mode.
    ///
    /// # Errors
    ///
    /// As [`Runner::load`](wrun::Runner::load) and
    /// [`Builder::build`](wrun::Builder::build). A task that cannot be compared is not an
    /// error but a [`Verdict`].
    pub fn run(&self) -> Result<Results, Error> {
        self.run_watched(&mut |_| ControlFlow::Continue(()))
    }

    /// [`Comparison::run`] with a callback for each step. [`ControlFlow::Break`] ends it
    /// after the current run of the task: the results so far are returned, marked as
    /// incomplete.
    ///
    /// # Errors
    ///
    /// As [`Comparison::run`].
    pub fn run_watched(
        &self,
        watch: &mut (dyn FnMut(Step<'_>) -> ControlFlow<()> + Send),
    ) -> Result<Results, Error> {
        // On a separate thread, because the caller may be asynchronous.
        std::thread::scope(|scope| {
            let measuring = std::thread::Builder::new()
                .name("wrun-compare".into())
                .spawn_scoped(scope, || self.measure(watch))
                .map_err(|error| {
                    let why = format!("cannot start a thread: {error}");
                    Error::new(ErrorKind::System, why)
                })?;
            match measuring.join() {
                Ok(results) => results,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn measure(&self, watch: Watch<'_>) -> Result<Results, Error> {
        let mut results = Results {
            schema: Results::SCHEMA,
            subject: Subject::default(),
            environment: environment::look(),
            command: self.command_for(None),
            verdict: Verdict::Comparable,
            cost: Vec::new(),
            isolation: Vec::new(),
            notes: Vec::new(),
            complete: true,
        };
        let mut bench = Bench::new(self)?;
        let mut watch = Parts {
            watch,
            before: 0,
            part: 50,
        };
        let fit = fitness::look(&mut bench, &mut results, &mut |step| watch.tell(step))?;
        let Some(Fit {
            run,
            deterministic,
            output,
        }) = fit
        else {
            return Ok(results);
        };
        let wants_cost = !self.measures.is_empty();
        let wants_faults = !self.faults.is_empty();
        watch.next(if wants_faults { 650 } else { 950 });
        if wants_cost {
            let mut left = Left::new(self.budget);
            cost::measure(
                &mut bench,
                &mut results,
                &mut left,
                run,
                deterministic,
                &mut |step| watch.tell(step),
            )?;
        }
        if !wants_faults || !results.complete {
            return Ok(results);
        }
        let ready = bench.ready(Policy::Instance)?;
        let handler = ready
            .is_http()
            .then(|| Handler::of(self, &ready, bench.cache(), &output, deterministic));
        drop(ready);
        bench.end_runners();
        watch.next(1000 - watch.before - watch.part);
        self.inject(handler.flatten(), &mut results, &mut |step| {
            watch.tell(step)
        })?;
        Ok(results)
    }

    fn inject(
        &self,
        handler: Option<Handler>,
        results: &mut Results,
        watch: Watch<'_>,
    ) -> Result<(), Error> {
        let wanted: Vec<(Fault, Mode)> = self
            .faults
            .iter()
            .flat_map(|fault| [(*fault, Mode::Thread), (*fault, Mode::Process)])
            .collect();
        let all = u32::try_from(wanted.len()).unwrap_or(u32::MAX).max(1);
        let mut count = 0;
        let (rows, mut complete) = (&mut results.isolation, true);
        let mut found = |fault: Fault, mode: Mode, finding: Finding| {
            count += 1;
            rows.push(FaultRow {
                fault,
                mode,
                finding,
                command: self.command_for(Some(fault.name())),
            });
            let what = fault.name();
            let done = count * 1000 / all;
            let goes_on = watch(Step { what, done });
            complete &= goes_on.is_continue();
            goes_on
        };
        let target = FaultTarget::new()?;
        isolation::inject_beside(&self.builder, handler, target, &wanted, &mut found)?;
        results.complete &= complete;
        Ok(())
    }
}

/// Steps of parts as steps of the whole.
struct Parts<'a> {
    watch: Watch<'a>,
    before: u32,
    part: u32,
}

impl Parts<'_> {
    fn next(&mut self, part: u32) {
        self.before += self.part;
        self.part = part;
    }

    fn tell(&mut self, step: Step<'_>) -> ControlFlow<()> {
        let done = self.before + self.part * step.done.min(1000) / 1000;
        (self.watch)(Step { done, ..step })
    }
}
