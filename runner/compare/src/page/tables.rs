//! Numbers in tables, doubts about them, and the commands that measure them again.

use super::text::{Text, command};
use super::words::counted;
use crate::{
    CostRow,
    number::{percent, quantity, times},
};
use maud::{Markup, html};
use std::collections::HashMap;

/// A table of rows, named by `name`.
pub(super) fn numbers(
    caption: &str,
    rows: &[&CostRow],
    name: impl Fn(&CostRow) -> String,
) -> Markup {
    html! {
        table.numbers role="table" {
            caption { (caption) }
            thead role="rowgroup" {
                tr role="row" {
                    th role="columnheader" scope="col" { "Row" }
                    th role="columnheader" scope="col" { "median" }
                    th role="columnheader" scope="col" { "p90" }
                    th role="columnheader" scope="col" { "p99" }
                    th role="columnheader" scope="col" { "× floor" }
                }
            }
            tbody role="rowgroup" { @for row in rows { (number_row(row, &name(row))) } }
        }
    }
}

fn number_row(row: &CostRow, name: &str) -> Markup {
    let unit = row.measure.unit();
    let value = &row.value;
    // For rates the worse tenth is the slower one.
    let (p90, p99) = match unit.is_rate() {
        true => (value.p10, value.min),
        false => (value.p90, value.p99),
    };
    html! {
        tr role="row" {
            th role="rowheader" scope="row" {
                span class=(format!("mode {}", super::words::class(row.mode))) { (name) }
                small {
                    @if value.is_empty() { "not measured" }
                    @else {
                        (counted(value.len() as u64, "run", "runs"))
                        @if let Some(spread) = value.spread { ", spread " (percent(spread)) }
                        @if value.outliers > 0 {
                            ", " (counted(u64::from(value.outliers), "outlier", "outliers"))
                        }
                    }
                    @match &row.floor {
                        Some(floor) => {
                            "; floor " (quantity(floor.value.p50, unit)) ": " (Text(&floor.name))
                        }
                        None => "; no floor",
                    }
                }
            }
            @if value.is_empty() {
                td role="cell" { "–" } td role="cell" { "–" } td role="cell" { "–" }
            } @else {
                td.main role="cell" { (quantity(value.p50, unit)) }
                @if value.is_repeated() {
                    td role="cell" { (quantity(p90, unit)) }
                    td role="cell" { (quantity(p99, unit)) }
                } @else {
                    td role="cell" { "–" } td role="cell" { "–" }
                }
            }
            td role="cell" {
                @match row.floor.as_ref().filter(|floor| !floor.ratio.is_empty()) {
                    Some(floor) => (times(floor.ratio.p50)),
                    None => "–",
                }
            }
        }
    }
}

/// The doubts about rows; empty if there are none.
pub(super) fn doubts(rows: &[&CostRow], name: impl Fn(&CostRow) -> String) -> Markup {
    let doubted: Vec<_> = rows.iter().filter(|row| !row.doubts.is_empty()).collect();
    html! {
        @if !doubted.is_empty() {
            div.doubts {
                p { b { "Marked (?), not to be relied on:" } }
                ul {
                    @for row in doubted {
                        @for doubt in &row.doubts { li { b { (name(row)) } ": " (Text(doubt)) } }
                    }
                }
            }
        }
    }
}

/// The commands that measure rows again, each once, with what it measures.
pub(super) fn commands(rows: &[&CostRow], name: impl Fn(&CostRow) -> String) -> Markup {
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut commands: Vec<(&str, Vec<&CostRow>)> = Vec::new();
    for &row in rows {
        let at = *known.entry(&row.command).or_insert(commands.len());
        match commands.get_mut(at) {
            Some((_, rows)) => rows.push(row),
            None => commands.push((&row.command, vec![row])),
        }
    }
    let measured = |rows: &[&CostRow]| match rows {
        [first, .., last] if rows.len() > 3 => {
            format!(
                "{} rows, from {} to {}",
                rows.len(),
                name(first),
                name(last)
            )
        }
        rows => rows
            .iter()
            .map(|row| name(row))
            .collect::<Vec<_>>()
            .join("; "),
    };
    html! {
        @if !commands.is_empty() {
            details.commands {
                summary { "The commands that measure this again" }
                dl {
                    @for (line, rows) in &commands {
                        div { dt { (measured(rows)) } dd { (command(line)) } }
                    }
                }
            }
        }
    }
}
