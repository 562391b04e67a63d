//! Fault by mode: the fault, and its result.

use super::text::{Text, command};
use super::words::{self, Origin};
use crate::{Fault, FaultRow, Finding, Results, Seen, Unit, number::quantity};
use maud::{Markup, html};
use wrun::Mode;

/// The modes, in the order of the page.
const MODES: [Mode; 2] = [Mode::Thread, Mode::Process];

/// Every fault of the results once, in the order of the table.
pub(super) fn of(results: &Results) -> Vec<Fault> {
    let mut faults = Vec::new();
    for row in &results.isolation {
        if !faults.contains(&row.fault) {
            faults.push(row.fault);
        }
    }
    faults
}

/// The result of a fault in a mode.
pub(super) fn row(results: &Results, fault: Fault, mode: Mode) -> Option<&FaultRow> {
    let mut rows = results.isolation.iter();
    rows.find(|row| row.fault == fault && row.mode == mode)
}

/// The observations of a fault in a mode, if it was measured.
pub(super) fn seen(results: &Results, fault: Fault, mode: Mode) -> Option<&Seen> {
    match &row(results, fault, mode)?.finding {
        Finding::Measured(seen) => Some(seen),
        Finding::NotMeasured { .. } => None,
    }
}

/// The class, the sign and the text of a verdict: never one of them alone.
fn verdict(seen: Option<&Seen>) -> (&'static str, &'static str, String) {
    match seen {
        None => ("unknown", "–", "Not measured".to_owned()),
        Some(seen) if seen.held => ("held", "✓", "Held".to_owned()),
        Some(seen) if !seen.host_alive => ("lost", "✕", "Program lost".to_owned()),
        Some(seen) if seen.siblings_lost > 0 => {
            let lost = format!("{} of {} siblings lost", seen.siblings_lost, seen.siblings);
            ("lost", "✕", lost)
        }
        Some(seen) if seen.requests.is_some_and(|it| it.lost > 0) => {
            let lost = seen.requests.map_or(0, |it| it.lost);
            (
                "lost",
                "✕",
                format!(
                    "{} lost",
                    words::counted(lost.into(), "request", "requests")
                ),
            )
        }
        Some(_) => ("lost", "✕", "Not stopped".to_owned()),
    }
}

/// A row of signs for some faults in a mode.
pub(super) fn signs(results: &Results, mode: Mode, faults: &[Fault]) -> Markup {
    html! {
        span.signs aria-hidden="true" {
            @for fault in faults {
                @let (class, sign, said) = verdict(seen(results, *fault, mode));
                i class=(class) title=(format!("{}: {said}", words::fault(*fault).0)) { (sign) }
            }
        }
    }
}

/// The faults of the results with this origin.
pub(super) fn of_origin(results: &Results, origin: Origin) -> Vec<Fault> {
    let mut faults = of(results);
    faults.retain(|fault| words::origin(*fault) == origin);
    faults
}

/// The matrix, with a part for each origin of faults.
pub(super) fn matrix(results: &Results) -> Markup {
    html! {
        @for origin in Origin::ALL {
            @let mine = of_origin(results, origin);
            @if !mine.is_empty() {
                h3 { (origin.title()) }
                p.reading { (origin.explained()) }
                table.matrix role="table" {
                    thead role="rowgroup" {
                        tr role="row" {
                            th role="columnheader" scope="col" { "What was done" }
                            @for mode in MODES {
                                th role="columnheader" scope="col" {
                                    span class=(format!("mode {}", words::class(mode))) { (mode.name()) " mode" }
                                }
                            }
                        }
                    }
                    tbody role="rowgroup" {
                        @for fault in &mine {
                            @let (name, explained) = words::fault(*fault);
                            tr role="row" {
                                th role="rowheader" scope="row" { (name) small { (explained) } }
                                @for mode in MODES { (cell(results, *fault, mode)) }
                            }
                        }
                    }
                }
                (details(results, &mine))
            }
        }
    }
}

fn cell(results: &Results, fault: Fault, mode: Mode) -> Markup {
    let finding = row(results, fault, mode).map(|row| &row.finding);
    let seen = seen(results, fault, mode);
    let (class, sign, said) = verdict(seen);
    html! {
        td role="cell" class=(class) {
            @match finding {
                None => { (heading(sign, &said)) p.facts { "No such row in these results." } }
                Some(Finding::NotMeasured { why }) => { (heading(sign, &said)) p.facts { (Text(why)) } }
                Some(Finding::Measured(seen)) => {
                    p {
                        (heading(sign, &said))
                        @if seen.held { " by " } @else { "; stopped by " }
                        (Text(&seen.stopped_by))
                    }
                    p.facts { (facts(seen)) }
                }
            }
        }
    }
}

fn heading(sign: &str, said: &str) -> Markup {
    html! { span.verdict { span.sign aria-hidden="true" { (sign) } " " (said) } }
}

/// Siblings, host and times in a line.
fn facts(seen: &Seen) -> Markup {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let shown = |time: u64| quantity(time as f64, Unit::Nanoseconds);
    html! {
        span {
            (seen.siblings_lost) " of " (seen.siblings) " siblings lost, program "
            @if seen.host_alive { "alive" } @else { "dead" }
            @if let Some(requests) = seen.requests {
                ", " (requests.lost) " of " (requests.lost + requests.answered) " requests lost"
            }
        }
        " "
        @match (seen.detected_ns, seen.recovered_ns) {
            (None, None) => {}
            (Some(time), None) => span { (shown(time)) " to detect" },
            (None, Some(time)) => span { (shown(time)) " to recover" },
            (Some(detected), Some(recovered)) => span {
                (shown(detected)) " to detect, " (shown(recovered)) " to recover"
            },
        }
    }
}

/// The exact observations, and the commands to repeat them.
fn details(results: &Results, faults: &[Fault]) -> Markup {
    let rows = || {
        results
            .isolation
            .iter()
            .filter(|row| faults.contains(&row.fault))
    };
    let name = |row: &FaultRow| format!("{}, {}", words::fault(row.fault).0, row.mode.name());
    html! {
        details.commands {
            summary { "What exactly was seen, and the commands that do it again" }
            dl {
                @for row in rows() {
                    div {
                        dt {
                            (name(row))
                            @if let Finding::Measured(seen) = &row.finding {
                                ": " (Text(&seen.detail))
                                @if seen.sacrificed { " (in a program started for this)" }
                            }
                        }
                        dd { (command(&row.command)) }
                    }
                }
            }
        }
    }
}
