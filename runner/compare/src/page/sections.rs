//! The sections after the answer, with its basis.

use super::chart::Chart;
use super::lines::{self, About};
use super::tables::{commands, doubts, numbers};
use super::{bars, faults, setting, strips, words};
use crate::{CostRow, Finding, Measure, Results};
use maud::{Markup, html};

/// Measures of latency, of memory, and of work done for a task.
const TIMES: [Measure; 5] = [
    Measure::Warm,
    Measure::Latency,
    Measure::Cold,
    Measure::Load,
    Measure::Compile,
];
const CPU: [Measure; 2] = [Measure::Compute, Measure::Cpu];
const KERNEL: [Measure; 3] = [Measure::Faults, Measure::Switches, Measure::Descriptors];
const MEMORY: [Measure; 3] = [Measure::Resident, Measure::Proportional, Measure::Private];

pub(super) fn isolation(results: &Results) -> Markup {
    let not_measured = results
        .isolation
        .iter()
        .filter(|row| matches!(row.finding, Finding::NotMeasured { .. }))
        .count();
    let with_requests = results.isolation.iter().any(|row| match &row.finding {
        Finding::Measured(seen) => seen.requests.is_some(),
        Finding::NotMeasured { .. } => false,
    });
    html! {
        section id="faults" {
            h2 { "Faults: what each mode holds" }
            @if results.isolation.is_empty() { p { "No fault was injected, so nothing is said about isolation." } }
            @else {
                p.about {
                    "Each fault was really injected while sibling tasks ran. It is held if it was stopped, \
                     no sibling was lost and the program that the tasks ran for was alive afterwards. \
                     To detect: until the outcome was known; left out where there was nothing to know or it \
                     never was. To recover: from then until another task completed; left out where none did."
                    @if with_requests {
                        " Requests are those of clients of this task, made before, during and after the \
                         fault: a fault that costs one is not held."
                    }
                    @if not_measured > 0 { " What was not measured on this machine is said to be so." }
                }
                (faults::matrix(results))
            }
        }
    }
}

/// The rows of some measures, in the order of the measures.
fn rows<'a>(results: &'a Results, measures: &[Measure]) -> Vec<&'a CostRow> {
    let of = |measure| {
        results
            .cost
            .iter()
            .filter(move |row| row.measure == measure)
    };
    measures.iter().flat_map(|measure| of(*measure)).collect()
}

fn charts(charts: impl IntoIterator<Item = Option<Chart>>) -> Markup {
    html! { div.charts { @for chart in charts.into_iter().flatten() { (chart) } } }
}

/// A table that unfolds.
fn unfolding(title: &str, rows: &[&CostRow]) -> Markup {
    html! {
        @if !rows.is_empty() {
            details.table {
                summary { (title) }
                (numbers(title, rows, |row| format!("{}{}", lines::row_name(row), strips::doubt(row))))
            }
        }
    }
}

/// A table for each measure, and the commands of all.
fn tables(rows: &[&CostRow], measures: &[Measure]) -> Markup {
    let name = |row: &CostRow| format!("{}{}", words::series(row), strips::doubt(row));
    let full = |row: &CostRow| format!("{}, {}", row.measure.name(), words::series(row));
    html! {
        div.tables {
            @for &measure in measures {
                @let mine: Vec<&CostRow> =
                    rows.iter().copied().filter(|row| row.measure == measure).collect();
                @if !mine.is_empty() { (numbers(words::measure(measure), &mine, name)) }
            }
        }
        (doubts(rows, full))
        (commands(rows, full))
    }
}

pub(super) fn latency(results: &Results) -> Markup {
    let all = rows(results, &TIMES);
    let warm = rows(results, &[Measure::Warm]);
    let beside = rows(results, &[Measure::Latency]);
    let cold = rows(results, &[Measure::Cold]);
    let load = rows(results, &[Measure::Load, Measure::Compile]);
    html! {
        section id="latency" {
            h2 { "Latency: how long things take" }
            @if all.is_empty() { p { "Not measured." } } @else {
                p.about {
                    "Measured in turns, one mode after the other and again, so that what else the machine \
                     does hits all rows. The floor of a row is the least that the same work can cost on this \
                     machine, measured in the same turns. p99 is the largest of fewer than a hundred."
                }
                (charts([
                    strips::chart("chart-warm", "A task when all is warm", &warm),
                    strips::chart("chart-latency", "A request while others are answered", &beside),
                    strips::chart("chart-cold", "First result of a new runner", &cold),
                    strips::chart("chart-load", "From file to code", &load),
                ]))
                (tables(&all, &TIMES))
            }
        }
    }
}

pub(super) fn load(results: &Results) -> Markup {
    let throughput = rows(results, &[Measure::Throughput]);
    let bandwidth = rows(results, &[Measure::Bandwidth]);
    let round_trip = rows(results, &[Measure::RoundTrip]);
    let all: Vec<&CostRow> = throughput
        .iter()
        .chain(&bandwidth)
        .chain(&round_trip)
        .copied()
        .collect();
    let full = |row: &CostRow| format!("{}, {}", row.measure.name(), lines::row_name(row));
    let about = [
        About {
            id: "chart-throughput",
            title: "Tasks a second",
            x: "tasks at the same time",
            y: "tasks a second",
            bytes: false,
            log: false,
        },
        About {
            id: "chart-bandwidth",
            title: "Bytes a second in messages",
            x: "size of a message",
            y: "bytes a second",
            bytes: true,
            log: true,
        },
        About {
            id: "chart-round-trip",
            title: "A message there and back",
            x: "size of a message",
            y: "time there and back",
            bytes: true,
            log: true,
        },
    ];
    html! {
        section id="load" {
            h2 { "Throughput and messages" }
            @if all.is_empty() { p { "Not measured." } } @else {
                p.about {
                    "A message is copied to the task, or its bytes lie in a region: memory that moves with \
                     the message and is mapped, not copied. Of rates, p90 and p99 in the tables are the slow end."
                }
                (charts([
                    lines::chart(&about[0], &throughput),
                    lines::chart(&about[1], &bandwidth),
                    lines::chart(&about[2], &round_trip),
                ]))
                (doubts(&all, full))
                (unfolding("Tasks a second, in numbers", &throughput))
                (unfolding("Bytes a second, in numbers", &bandwidth))
                (unfolding("Messages there and back, in numbers", &round_trip))
                (commands(&all, full))
            }
        }
    }
}

pub(super) fn memory(results: &Results) -> Markup {
    let memory = rows(results, &MEMORY);
    let cpu = rows(results, &CPU);
    let kernel = rows(results, &KERNEL);
    let all: Vec<&CostRow> = memory.iter().chain(&cpu).chain(&kernel).copied().collect();
    let measures: Vec<Measure> = MEMORY.into_iter().chain(CPU).chain(KERNEL).collect();
    html! {
        section id="memory" {
            h2 { "Memory and work" }
            @if all.is_empty() { p { "Not measured." } } @else {
                p.about {
                    "Memory is what one more task that waits adds. Resident counts pages that others share \
                     as well; private is not shared with any process, and is what many tasks add up to."
                }
                (charts([
                    bars::chart("chart-memory", "Memory of a waiting task", &MEMORY, &memory),
                    bars::chart("chart-cpu", "CPU time", &CPU, &cpu),
                    bars::chart("chart-work", "What the kernel does", &KERNEL, &kernel),
                ]))
                (tables(&all, &measures))
            }
        }
    }
}

pub(super) fn machine(results: &Results) -> Markup {
    html! {
        section id="machine" {
            h2 { "Walls, machine and task" }
            h3 { "The walls of process mode, as found" }
            (setting::jail(results))
            h3 { "The machine" }
            (setting::environment(results))
            h3 { "The task" }
            (setting::subject(results))
        }
    }
}
