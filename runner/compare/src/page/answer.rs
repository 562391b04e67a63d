//! The answer in words, derived from the numbers: which mode to use for code from
//! strangers, which for one's own, what process mode costs and what it buys.
//!
//! Invariant: conclusions come from measured rows only; if the rows do not decide a choice,
//! the text says so.

use super::faults::{of, of_origin, seen};
use super::words::{self, Origin, counted};
use crate::{
    CostRow, Fault, Measure, Policy, Results, Seen, Verdict,
    number::{quantity, times_in_words},
};
use wrun::{Jail, Mode};

/// A smaller difference is treated as none.
const SMALL: f64 = 0.05;
/// Maximum of faults named in a sentence; the matrix has all.
const NAMED: usize = 5;

impl Results {
    /// The answer in words, in paragraphs derived from the numbers: which mode to use for
    /// code from strangers and why, which for one's own, what process mode costs. Empty for
    /// a task that could not be compared.
    pub fn answer(&self) -> Vec<String> {
        if self.verdict != Verdict::Comparable {
            return Vec::new();
        }
        let mut said: Vec<String> = [strangers(self), own(self)]
            .into_iter()
            .map(|choice| {
                let why = choice.why.join(" ");
                format!("{}: {}. {why}", choice.subject, choice.take)
            })
            .collect();
        said.push(cost(self).join(" "));
        said
    }
}

/// A recommendation, and its reasons.
pub(super) struct Choice {
    /// The use.
    pub(super) subject: &'static str,
    /// The mode, if the rows show that one is better.
    pub(super) mode: Option<Mode>,
    /// As text.
    pub(super) take: &'static str,
    /// The reasons, one sentence each.
    pub(super) why: Vec<String>,
}

/// The results of a mode for the faults that were measured in it.
#[derive(Default, Debug, PartialEq)]
pub(super) struct Tally {
    pub(super) held: usize,
    pub(super) measured: usize,
    /// Faults that ended the program.
    program_lost: Vec<Fault>,
    /// Faults that only ended siblings.
    siblings_lost: Vec<Fault>,
    /// Faults that ended nothing else and were not stopped.
    not_stopped: Vec<Fault>,
}

/// Sums up a mode over some faults.
pub(super) fn tally(results: &Results, mode: Mode, faults: &[Fault]) -> Tally {
    let mut tally = Tally::default();
    for &fault in faults {
        let Some(seen) = seen(results, fault, mode) else {
            continue;
        };
        tally.measured += 1;
        match seen {
            Seen { held: true, .. } => tally.held += 1,
            Seen {
                host_alive: false, ..
            } => tally.program_lost.push(fault),
            Seen {
                siblings_lost: 1.., ..
            } => tally.siblings_lost.push(fault),
            Seen { .. } => tally.not_stopped.push(fault),
        }
    }
    tally
}

/// Two rows of one measure, one of each mode.
pub(super) struct Pair<'a> {
    pub(super) thread: &'a CostRow,
    pub(super) process: &'a CostRow,
}

impl<'a> Pair<'a> {
    /// The default policies of both modes, with the largest number of simultaneous tasks
    /// that was measured in both.
    pub(super) fn of(results: &'a Results, measure: Measure) -> Option<Self> {
        let mut sizes: Vec<Option<u64>> = results
            .cost
            .iter()
            .filter(|row| row.measure == measure)
            .map(|row| row.at)
            .collect();
        sizes.sort();
        sizes.into_iter().rev().find_map(|at| {
            Some(Pair {
                thread: usual(results, measure, Mode::Thread, at)?,
                process: usual(results, measure, Mode::Process, at)?,
            })
        })
    }

    /// How many times worse process mode is: longer, more, or fewer per second. `None` if
    /// one of them is zero.
    pub(super) fn times(&self) -> Option<f64> {
        let (thread, process) = (self.thread.value.p50, self.process.value.p50);
        let times = match self.thread.measure.unit().is_rate() {
            true => thread / process,
            false => process / thread,
        };
        (times.is_finite() && times > 0.0).then_some(times)
    }

    /// Whether the middle eight tenths of both overlap, so that the difference may be
    /// noise.
    pub(super) fn overlaps(&self) -> bool {
        let (thread, process) = (&self.thread.value, &self.process.value);
        thread.p10 <= process.p90 && process.p10 <= thread.p90
    }

    /// Whether process mode is worse by more than noise and more than a small difference.
    fn is_dearer(&self) -> bool {
        !self.overlaps() && self.times().is_some_and(|times| times > 1.0 + SMALL)
    }

    pub(super) fn shown(&self, mode: Mode) -> String {
        let row = match mode {
            Mode::Thread => self.thread,
            Mode::Process => self.process,
        };
        quantity(row.value.p50, row.measure.unit())
    }

    /// Whether one of them is not reliable.
    pub(super) fn is_doubted(&self) -> bool {
        !self.thread.doubts.is_empty() || !self.process.doubts.is_empty()
    }
}

/// The row of a mode's default policy, or the next best.
fn usual(results: &Results, measure: Measure, mode: Mode, at: Option<u64>) -> Option<&CostRow> {
    let rank = |row: &&CostRow| {
        row.policy
            .map(|policy| Policy::ALL.iter().position(|p| *p == policy))
    };
    results
        .cost
        .iter()
        .filter(|row| (row.measure, row.mode, row.at) == (measure, mode, at))
        .filter(|row| !row.value.is_empty())
        .min_by_key(rank)
}

/// The additional cost of a task in process mode, in a sentence or two.
pub(super) fn cost(results: &Results) -> Vec<String> {
    let Some(pair) = Pair::of(results, Measure::Warm) else {
        return vec!["How long a task takes was not measured in both modes.".to_owned()];
    };
    let (thread, process) = (pair.shown(Mode::Thread), pair.shown(Mode::Process));
    let how = pair.process.policy.map_or("process", words::policy);
    let both = format!("{thread} on a thread, {process} in a process of its own ({how})");
    let extra = pair.process.value.p50 - pair.thread.value.p50;
    let unit = pair.thread.measure.unit();
    let mut said = Vec::new();
    if pair.overlaps() {
        said.push(format!(
            "No difference that stands out of the noise: {both}, and the ranges of the two overlap."
        ));
    } else if extra < 0.0 {
        said.push(format!(
            "A task is done {} sooner in process mode: {both}.",
            quantity(-extra, unit)
        ));
    } else {
        said.push(format!(
            "A task takes {} longer: {both}.",
            quantity(extra, unit)
        ));
        said.push(format!(
            "Where that is paid once a task, tasks of {} and more pay less than 5\u{a0}% for it, tasks of {} and more less than 1\u{a0}%.",
            quantity(extra / SMALL, unit),
            quantity(extra * 100.0, unit)
        ));
    }
    if pair.is_doubted() {
        said.push("These numbers are doubted: see the marks (?) below.".to_owned());
    }
    said
}

/// The mode for code from strangers.
pub(super) fn strangers(results: &Results) -> Choice {
    let subject = "Plug-ins from strangers";
    let common: Vec<Fault> = of(results)
        .into_iter()
        .filter(|fault| {
            [Mode::Thread, Mode::Process]
                .iter()
                .all(|mode| seen(results, *fault, *mode).is_some())
        })
        .collect();
    let held = |mode, fault| seen(results, fault, mode).is_some_and(|seen| seen.held);
    let only = |mode, other| {
        let mut faults = common
            .iter()
            .filter(|f| held(mode, **f) && !held(other, **f));
        faults.next().is_some()
    };
    let thread = tally(results, Mode::Thread, &common);
    let process = tally(results, Mode::Process, &common);
    if common.is_empty() {
        return Choice {
            subject,
            mode: None,
            take: "Not answered here",
            why: vec![
                "No fault was injected in both modes, so these rows do not say what either holds. \
                 Process mode is what wrun does unless it is asked for threads."
                    .to_owned(),
            ],
        };
    }
    let mode = match (
        only(Mode::Process, Mode::Thread),
        only(Mode::Thread, Mode::Process),
    ) {
        (true, false) => Some(Mode::Process),
        (false, true) => Some(Mode::Thread),
        (false, false) => None,
        (true, true) => {
            let harm = |tally: &Tally| (tally.program_lost.len(), tally.measured - tally.held);
            match harm(&process).cmp(&harm(&thread)) {
                std::cmp::Ordering::Less => Some(Mode::Process),
                std::cmp::Ordering::Greater => Some(Mode::Thread),
                std::cmp::Ordering::Equal => None,
            }
        }
    };
    let faults = counted(common.len() as u64, "fault that was", "faults that were");
    let mut why = vec![format!(
        "Of the {faults} injected in both modes, process mode held {} and thread mode {}.",
        process.held, thread.held
    )];
    let (take, better, worse) = match mode {
        Some(Mode::Process) => ("Process mode", &process, Some((&thread, "On threads"))),
        Some(Mode::Thread) => ("Thread mode", &thread, Some((&process, "In process mode"))),
        None => {
            why.push("These faults do not tell the modes apart.".to_owned());
            ("Not decided by these faults", &process, None)
        }
    };
    if let Some((worse, place)) = worse {
        why.extend(harm(worse, place));
    }
    if better.held < better.measured {
        let place = match mode {
            Some(Mode::Thread) => "But on threads",
            _ => "But in process mode",
        };
        why.extend(harm(better, place));
        why.push("Do not run code from strangers before that is mended.".to_owned());
    }
    if mode == Some(Mode::Process) {
        if results.environment.jail_mode == Jail::Off {
            why.push(
                "The jail was off: what its walls would hold is not in these rows.".to_owned(),
            );
        }
        why.extend(price(results));
    }
    if !common
        .iter()
        .any(|fault| words::origin(*fault) == Origin::Escaped)
    {
        why.push(
            "What code could do that escapes the sandbox was not measured in both.".to_owned(),
        );
    }
    Choice {
        subject,
        mode,
        take,
        why,
    }
}

/// The cost of process mode for a task in a sentence, if there is one.
fn price(results: &Results) -> Option<String> {
    let pair = Pair::of(results, Measure::Warm).filter(Pair::is_dearer)?;
    let extra = pair.process.value.p50 - pair.thread.value.p50;
    Some(format!(
        "The price is {} a task{}.",
        quantity(extra, pair.thread.measure.unit()),
        in_words(&pair, ": {} as long as on a thread")
    ))
}

/// What a mode did not contain, in a sentence for each kind.
fn harm(tally: &Tally, place: &str) -> Vec<String> {
    let mut said = Vec::new();
    if !tally.program_lost.is_empty() {
        said.push(format!(
            "{place}, {} ended the whole program and every task in it.",
            some(&tally.program_lost)
        ));
    }
    if !tally.siblings_lost.is_empty() {
        said.push(format!(
            "{place}, {} took other tasks along.",
            some(&tally.siblings_lost)
        ));
    }
    let (escaped, others): (Vec<Fault>, Vec<Fault>) = tally
        .not_stopped
        .iter()
        .partition(|fault| words::origin(**fault) == Origin::Escaped);
    if !others.is_empty() {
        said.push(format!("{place}, nothing stopped {}.", some(&others)));
    }
    if !escaped.is_empty() {
        said.push(format!(
            "{place}, nothing kept code that had escaped the sandbox from {}.",
            some(&escaped)
        ));
    }
    said
}

/// The first few faults in a sentence.
fn some(faults: &[Fault]) -> String {
    if faults.len() <= NAMED + 1 {
        return words::faults(faults);
    }
    let mut names: Vec<String> = faults
        .iter()
        .take(NAMED)
        .map(|fault| words::fault_in_words(*fault).to_owned())
        .collect();
    names.push(format!("{} more", faults.len() - NAMED));
    words::list(&names)
}

/// The mode for code that its user wrote, or trusts as much.
pub(super) fn own(results: &Results) -> Choice {
    let subject = "Your own code, such as your image filter";
    let bugs = of_origin(results, Origin::Guest);
    let thread = tally(results, Mode::Thread, &bugs);
    let process = tally(results, Mode::Process, &bugs);
    let warm = Pair::of(results, Measure::Warm);
    let rate = Pair::of(results, Measure::Throughput);
    if thread.held < thread.measured && process.held > thread.held {
        let mut why = vec!["Plain mistakes are enough to need the walls.".to_owned()];
        why.extend(harm(&thread, "On threads"));
        return Choice {
            subject,
            mode: Some(Mode::Process),
            take: "Process mode",
            why,
        };
    }
    let Some(warm) = warm else {
        return Choice {
            subject,
            mode: None,
            take: "Not answered here",
            why: vec!["What a task costs was not measured in both modes.".to_owned()],
        };
    };
    let mistakes = match (thread.measured, thread.held) {
        (0, _) => "Whether thread mode holds the mistakes of a task was not measured.".to_owned(),
        (all, held) if all == held => format!(
            "The {} that a bug of your own can cause ended with their own task on threads as well.",
            counted(all as u64, "fault", "faults")
        ),
        (all, held) if process.measured == 0 => format!(
            "On threads {held} of the {all} faults that a bug can cause were held; in processes they \
             were not measured."
        ),
        (all, held) => format!(
            "On threads {held} of the {all} faults that a bug can cause were held; process mode held \
             no more."
        ),
    };
    let dearer = [Some(&warm), rate.as_ref()]
        .into_iter()
        .flatten()
        .any(Pair::is_dearer);
    if !dearer {
        return Choice {
            subject,
            mode: None,
            take: match warm.times().is_some_and(|times| times > 1.0 + SMALL) {
                false => "Either; process mode costs next to nothing here",
                // Their ranges overlap.
                true => "Either, by these rounds: they do not tell the modes apart",
            },
            why: vec![
                format!(
                    "This task takes {} on a thread and {} in a process.",
                    warm.shown(Mode::Thread),
                    warm.shown(Mode::Process)
                ),
                mistakes,
            ],
        };
    }
    let mut why = vec![mistakes];
    if warm.is_dearer() {
        why.push(format!(
            "This task takes {} on a thread and {} in a process{}.",
            warm.shown(Mode::Thread),
            warm.shown(Mode::Process),
            in_words(&warm, ", {} as long"),
        ));
    }
    if let Some(rate) = rate.as_ref().filter(|rate| rate.is_dearer()) {
        why.push(format!(
            "With {} at a time, threads do {} and processes {}{}.",
            rate.thread.at.unwrap_or(1),
            rate.shown(Mode::Thread),
            rate.shown(Mode::Process),
            in_words(rate, ", {} fewer"),
        ));
    }
    let beneath = tally(results, Mode::Thread, &of_origin(results, Origin::Host));
    if !beneath.program_lost.is_empty() {
        why.push(format!(
            "What you give up: {} beneath the sandbox would end your program.",
            alternatives(&beneath.program_lost)
        ));
    }
    Choice {
        subject,
        mode: Some(Mode::Thread),
        take: "Thread mode",
        why,
    }
}

/// `a, b or c`.
fn alternatives(faults: &[Fault]) -> String {
    let words: Vec<&str> = faults.iter().copied().map(words::fault_in_words).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Replaces the braces with how many times worse process mode is; empty if that is unknown.
fn in_words(pair: &Pair<'_>, words: &str) -> String {
    pair.times().map_or_else(String::new, |times| {
        words.replace("{}", &times_in_words(times))
    })
}
