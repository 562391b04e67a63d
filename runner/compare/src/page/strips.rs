//! Distributions: one strip for each row, every number a dot.

use super::axis::Axis;
use super::chart::{Chart, Px, WIDTH, below, lettering, line};
use super::words;
use crate::{CostRow, Summary, number::quantity};
use maud::{Markup, html};
use std::fmt::Write;

/// Height of a strip with its label.
const STRIP: f64 = 44.0;
/// The vertical range of its dots.
const DOTS: std::ops::Range<f64> = 19.0..37.0;
/// Margin at the sides.
const SIDE: f64 = 8.0;
/// Maximum of dots in a strip; more numbers are sorted and thinned evenly.
const MOST_DOTS: usize = 600;

/// A chart of rows with one unit; `None` without rows.
pub(super) fn chart(id: &'static str, title: &'static str, rows: &[&CostRow]) -> Option<Chart> {
    let rows: Vec<&CostRow> = rows
        .iter()
        .copied()
        .filter(|r| !r.value.is_empty())
        .collect();
    let unit = rows.first()?.measure.unit();
    let mut numbers = Vec::new();
    for row in &rows {
        numbers.extend([row.value.min, row.value.max]);
        numbers.extend(row.floor.iter().map(|floor| floor.value.p50));
    }
    let axis = Axis::over(&numbers, Axis::wants_log(&numbers), SIDE, WIDTH - SIDE);
    #[expect(clippy::cast_precision_loss, reason = "some rows")]
    let bottom = STRIP * rows.len() as f64 + 4.0;
    let floors = rows.iter().any(|row| row.floor.is_some());
    let several = rows.iter().any(|row| row.measure != rows[0].measure);
    let name = |row: &CostRow| match several {
        true => format!("{}, {}", row.measure.name(), words::series(row)),
        false => words::series(row),
    };
    let drawing = html! {
        (below(&axis, unit, (0.0, bottom), "time"))
        @for (at, row) in rows.iter().enumerate() {
            @let top = STRIP * f64::from(u32::try_from(at).unwrap_or(u32::MAX));
            (lettering(SIDE, top + 13.0, "label", format!("{}{}", name(row), doubt(row))))
            (lettering(WIDTH - SIDE, top + 13.0, "label end strong", quantity(row.value.p50, unit)))
            (strip(row, &axis, top))
        }
    };
    let description = rows.iter().fold(String::new(), |mut text, row| {
        let value = |number| quantity(number, unit);
        let Summary {
            p10, p50, p90, p99, ..
        } = row.value;
        if !row.value.is_repeated() {
            let _ = write!(text, "{}: {}, measured once. ", name(row), value(p50));
            return text;
        }
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{}: median {}, eight tenths from {} to {}, p99 {}. ",
            name(row),
            value(p50),
            value(p10),
            value(p90),
            value(p99),
        );
        text
    });
    Some(Chart {
        id,
        title,
        reading: html! {
            "One dot is one run; the line is the median, the box eight tenths of all"
            @if floors { ", the triangle the floor" } "."
        },
        description,
        height: bottom + 34.0,
        drawing,
    })
}

/// The mark of a doubted row.
pub(super) fn doubt(row: &CostRow) -> &'static str {
    if row.doubts.is_empty() { "" } else { " (?)" }
}

fn strip(row: &CostRow, axis: &Axis, top: f64) -> Markup {
    let class = words::class(row.mode);
    let (from, to) = (axis.at(row.value.p10), axis.at(row.value.p90));
    let median = axis.at(row.value.p50);
    let (inner, outer) = dots(&row.value, axis, top);
    html! {
        @if row.value.is_repeated() {
            rect x=(Px(from)) y=(Px(top + DOTS.start - 2.0)) width=(Px((to - from).max(1.0)))
                height=(Px(DOTS.end - DOTS.start + 4.0)) class=(format!("box {class}")) {}
        }
        path d=(inner) class=(format!("dots {class}")) {}
        path d=(outer) class=(format!("dots far {class}")) {}
        (line((median, top + DOTS.start - 4.0), (median, top + DOTS.end + 4.0), &format!("median {class}")))
        @if let Some(floor) = &row.floor {
            @let x = axis.at(floor.value.p50);
            path class="floor-mark" d=(triangle(x, top + DOTS.end + 5.0)) {}
        }
    }
}

fn triangle(x: f64, y: f64) -> String {
    format!("M{x:.1} {:.1}l4 7h-8z", y - 7.0)
}

/// The dots within Tukey's fences, and those outside, as paths with round ends.
fn dots(value: &Summary, axis: &Axis, top: f64) -> (String, String) {
    let mut sorted: Vec<f64> = value
        .values
        .iter()
        .copied()
        .filter(|n| n.is_finite())
        .collect();
    sorted.sort_by(f64::total_cmp);
    let quartile = |part: usize| sorted.get(sorted.len().saturating_sub(1) * part / 4);
    let (low, high) = (
        quartile(1).copied().unwrap_or_default(),
        quartile(3).copied().unwrap_or_default(),
    );
    let reach = 1.5 * (high - low);
    let every = sorted.len().div_ceil(MOST_DOTS).max(1);
    let last = sorted.len().saturating_sub(1);
    let (mut inner, mut outer) = (String::new(), String::new());
    let mut place = 0.5;
    for (at, number) in sorted.iter().enumerate() {
        // The golden ratio spreads neighbours evenly, and in the same way in every run.
        place = (place + 0.618_034_f64).fract();
        if at % every != 0 && at != last {
            continue;
        }
        let far = *number < low - reach || *number > high + reach;
        let path = if far { &mut outer } else { &mut inner };
        let y = top + DOTS.start + place * (DOTS.end - DOTS.start);
        // Writing to a string does not fail.
        let _ = write!(path, "M{:.1} {y:.1}h0", axis.at(*number));
    }
    (inner, outer)
}
