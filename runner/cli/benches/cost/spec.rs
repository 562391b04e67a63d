//! `SPEC.md`: which promises held when they were last checked. Its tables are written from
//! [`SUBJECTS`] and from the results in `docs/spec.json`; nothing is read from Markdown.
//! `tests/spec.rs` includes this file and checks that the tables are up to date.

use super::promise::{Bound, Check, Promise, SUBJECTS, promises};
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The latest result of each promise, by its id.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Findings(pub(crate) BTreeMap<String, Finding>);

/// A result, where and when.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// The day, UTC: `2026-11-23`.
    pub(crate) date: String,
    pub(crate) machine: String,
    /// Whether the load average was above the number of processors when it began.
    pub(crate) busy: bool,
    /// Whether there were fewer rounds than usual.
    pub(crate) quick: bool,
    #[serde(flatten)]
    pub(crate) found: Found,
}

/// The result of a check.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Found {
    /// The ratios of a row: the median, the 10th and the 90th percentile of its rounds.
    Ratio { median: f64, p10: f64, p90: f64 },
    Test {
        passed: bool,
        /// What it printed.
        said: Vec<String>,
    },
}

/// Whether a promise is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Holds,
    /// It holds, but not in every round: the bound lies within the spread.
    HoldsAtItsEdge,
    /// It misses, but not in every round.
    MissesAtItsEdge,
    Misses,
}

impl Verdict {
    /// Of a ratio, by its median.
    pub(crate) fn of(bound: Bound, median: f64, p10: f64, p90: f64) -> Self {
        let at_its_edge = p10 <= bound.number() && bound.number() <= p90 && p10 < p90;
        match (bound.allows(median), at_its_edge) {
            (true, false) => Verdict::Holds,
            (true, true) => Verdict::HoldsAtItsEdge,
            (false, true) => Verdict::MissesAtItsEdge,
            (false, false) => Verdict::Misses,
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Verdict::Holds => "holds",
            Verdict::HoldsAtItsEdge => "holds, at its edge",
            Verdict::MissesAtItsEdge => "misses, at its edge",
            Verdict::Misses => "misses",
        }
    }

    pub(crate) fn holds(self) -> bool {
        matches!(self, Verdict::Holds | Verdict::HoldsAtItsEdge)
    }
}

impl Promise {
    /// Whether it holds; `None` if the result is of another kind of check.
    pub(crate) fn verdict(&self, found: &Found) -> Option<Verdict> {
        match (&self.check, found) {
            (Check::Row { bound, .. }, Found::Ratio { median, p10, p90 }) => {
                Some(Verdict::of(*bound, *median, *p10, *p90))
            }
            (Check::Test { .. }, Found::Test { passed: true, .. }) => Some(Verdict::Holds),
            (Check::Test { .. }, Found::Test { passed: false, .. }) => Some(Verdict::Misses),
            _ => None,
        }
    }
}

impl Findings {
    /// Reads the file, without promises that no longer exist.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not what [`Findings::write`] writes.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(named)?;
        let mut findings: Findings = serde_json::from_str(&text).with_context(named)?;
        let ids: BTreeSet<_> = promises().map(|promise| promise.id).collect();
        findings.0.retain(|id, _| ids.contains(id.as_str()));
        Ok(findings)
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        replace(path, &text)
    }

    pub(crate) fn verdict(&self, promise: &Promise) -> Option<Verdict> {
        promise.verdict(&self.0.get(promise.id)?.found)
    }

    /// Promises that held before and clearly miss now. One at its edge is not among them: the
    /// same program may give another result on another day.
    pub(crate) fn broken(&self, now: &Findings) -> Vec<&'static str> {
        promises()
            .filter(|promise| {
                self.verdict(promise).is_some_and(Verdict::holds)
                    && now.verdict(promise) == Some(Verdict::Misses)
            })
            .map(|promise| promise.id)
            .collect()
    }

    /// The tables of `SPEC.md`.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        for subject in SUBJECTS {
            let (title, about) = (subject.title, subject.about);
            let _ = write!(
                text,
                "\n## {title}\n\n{about}\n\n\
                 | | promise | bound | checked by | last | when | |\n\
                 |---|---|---|---|---|---|---|\n"
            );
            for promise in subject.promises {
                text += &self.line(promise);
            }
        }
        let machines: BTreeSet<_> = self.0.values().map(|it| it.machine.as_str()).collect();
        let machines: Vec<_> = machines.into_iter().collect();
        let _ = write!(text, "\nMeasured on: {}.\n", machines.join("; "));
        text
    }

    fn line(&self, promise: &Promise) -> String {
        let (id, words, name) = (promise.id, promise.words, promise.check.name());
        let (bound, checked_by) = match promise.check {
            Check::Row { bound, .. } => {
                let sign = match bound {
                    Bound::AtMost(_) => "≤",
                    Bound::AtLeast(_) => "≥",
                };
                (
                    format!("{sign} {}", bound.number()),
                    format!("row `{name}`"),
                )
            }
            Check::Test { bound, .. } => (bound.to_owned(), format!("test `{name}`")),
        };
        let finding = self.0.get(promise.id);
        let (last, when, verdict) = match (finding, self.verdict(promise)) {
            (Some(finding), Some(verdict)) => {
                (finding.found.to_string(), finding.when(), verdict.words())
            }
            _ => (String::new(), String::new(), "not measured"),
        };
        format!("| {id} | {words} | {bound} | {checked_by} | {last} | {when} | {verdict} |\n")
    }
}

impl Finding {
    fn when(&self) -> String {
        let mut when = self.date.clone();
        for (is, word) in [(self.quick, ", few rounds"), (self.busy, ", busy")] {
            if is {
                when += word;
            }
        }
        when
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Found::Ratio { median, p10, p90 } => {
                format!("{} ({})", ratio(*median), spread(*p10, *p90))
            }
            Found::Test { passed: true, .. } => "passes".to_owned(),
            Found::Test { passed: false, .. } => "fails".to_owned(),
        };
        f.pad(&text)
    }
}

/// A ratio for people, with two or three digits.
pub(crate) fn ratio(ratio: f64) -> String {
    match ratio {
        ratio if ratio >= 100.0 => format!("{ratio:.0}"),
        ratio if ratio >= 0.1 => format!("{ratio:.2}"),
        ratio => format!("{ratio:.3}"),
    }
}

pub(crate) fn spread(p10: f64, p90: f64) -> String {
    format!("{}..{}", ratio(p10), ratio(p90))
}

const BEGIN: &str = "<!-- From here: written by the benchmark, checked by tests/spec.rs. -->\n";
const END: &str = "<!-- Up to here. -->\n";

/// The text with these tables between its two marks.
///
/// # Errors
///
/// The marks are not there, each once and in their order.
pub(crate) fn weave(text: &str, tables: &str) -> anyhow::Result<String> {
    for mark in [BEGIN, END] {
        let marks = text.matches(mark).count();
        ensure!(marks == 1, "{marks} lines are \"{}\", not one", mark.trim());
    }
    let (before, rest) = text.split_once(BEGIN).context("no begin")?;
    let Some((_, after)) = rest.split_once(END) else {
        bail!("\"{}\" is before \"{}\"", END.trim(), BEGIN.trim());
    };
    Ok(format!("{before}{BEGIN}{tables}\n{END}{after}"))
}

/// Promises by their ids, or by parts of the names of their checks; all of them if `wanted`
/// is empty.
///
/// # Errors
///
/// A name does not match.
pub(crate) fn chosen(wanted: &[String]) -> anyhow::Result<Vec<&'static Promise>> {
    let is = |promise: &Promise, wanted: &str| {
        promise.id.eq_ignore_ascii_case(wanted) || promise.check.name().contains(wanted)
    };
    for wanted in wanted {
        let found = promises().any(|promise| is(promise, wanted));
        ensure!(found, "no promise matches {wanted:?}");
    }
    let chosen = |promise: &&Promise| wanted.is_empty() || wanted.iter().any(|it| is(promise, it));
    Ok(promises().filter(chosen).collect())
}

/// `SPEC.md` and the findings behind it, below the root of the repository.
pub(crate) struct Files {
    pub(crate) page: PathBuf,
    pub(crate) findings: PathBuf,
}

impl Files {
    pub(crate) fn below(root: &Path) -> Self {
        Files {
            page: root.join("SPEC.md"),
            findings: root.join("docs/spec.json"),
        }
    }

    /// Writes both; an error that can be known before leaves both as they were.
    pub(crate) fn write(&self, findings: &Findings) -> anyhow::Result<()> {
        let named = || self.page.display().to_string();
        let text = std::fs::read_to_string(&self.page).with_context(named)?;
        let text = weave(&text, &findings.tables()).with_context(named)?;
        findings.write(&self.findings)?;
        replace(&self.page, &text)
    }
}

/// Writes the whole file, or leaves the old one.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
