//! Amounts: a bar for each mode, from zero.

use super::axis::Axis;
use super::chart::{Chart, Px, WIDTH, below, lettering, line};
use super::strips::doubt;
use super::words;
use crate::{CostRow, Measure, Unit, number::quantity};
use maud::html;
use std::fmt::Write;

/// Height of a bar with its label, and of a heading.
const ROW: f64 = 34.0;
const HEADING: f64 = 22.0;
const SIDE: f64 = 8.0;

/// A chart of measures with one unit; `None` without rows.
pub(super) fn chart(
    id: &'static str,
    title: &'static str,
    measures: &[Measure],
    rows: &[&CostRow],
) -> Option<Chart> {
    let rows: Vec<&CostRow> = rows
        .iter()
        .copied()
        .filter(|r| !r.value.is_empty())
        .collect();
    let unit = rows.first()?.measure.unit();
    let mut numbers = vec![0.0];
    for row in &rows {
        numbers.push(row.value.p50);
        numbers.extend(row.floor.iter().map(|floor| floor.value.p50));
    }
    let axis = Axis::over(&numbers, false, SIDE, WIDTH - SIDE);
    let axis_name = match unit {
        Unit::Nanoseconds => "time",
        Unit::Bytes => "memory",
        _ => "how many",
    };
    let mut top = 0.0;
    let mut description = String::new();
    let mut bars = Vec::new();
    for &measure in measures {
        let mine: Vec<&CostRow> = rows
            .iter()
            .copied()
            .filter(|r| r.measure == measure)
            .collect();
        if mine.is_empty() {
            continue;
        }
        bars.push(lettering(
            SIDE,
            top + 14.0,
            "label strong",
            words::measure(measure),
        ));
        top += HEADING;
        for row in mine {
            let name = words::series(row);
            let shown = quantity(row.value.p50, unit);
            let (zero, end) = (axis.at(0.0), axis.at(row.value.p50));
            // Writing to a string does not fail.
            let _ = write!(
                description,
                "{}, {name}: {shown}. ",
                words::measure(measure)
            );
            bars.push(html! {
                (lettering(SIDE, top + 10.0, "label", format!("{name}{}", doubt(row))))
                (lettering(WIDTH - SIDE, top + 10.0, "label end strong", &shown))
                rect x=(Px(zero.min(end))) y=(Px(top + 15.0)) width=(Px((end - zero).abs().max(1.0)))
                    height="11" class=(format!("bar {}", words::class(row.mode))) {}
                @if let Some(floor) = &row.floor {
                    @let x = axis.at(floor.value.p50);
                    (line((x, top + 12.0), (x, top + 29.0), "floor-line"))
                }
            });
            top += ROW;
        }
    }
    let floors = rows.iter().any(|row| row.floor.is_some());
    Some(Chart {
        id,
        title,
        reading: html! {
            "Medians"
            @if floors { "; the upright line is the floor" } "."
        },
        description,
        height: top + 38.0,
        drawing: html! {
            (below(&axis, unit, (0.0, top + 4.0), axis_name))
            @for bar in &bars { (bar) }
        },
    })
}
