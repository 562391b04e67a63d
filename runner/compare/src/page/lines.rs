//! Numbers over a size: throughput over tasks at a time, bandwidth over bytes.

use super::axis::Axis;
use super::chart::{Chart, Px, WIDTH, lettering, line};
use super::words;
use crate::{
    CostRow, Measure, Policy, Summary, Transport, Unit,
    number::{quantity, size, tick},
};
use maud::{Markup, html};
use std::collections::BTreeSet;
use std::fmt::Write;
use wrun::Mode;

const TOP: f64 = 24.0;
const BOTTOM: f64 = 214.0;
const LEFT: f64 = 62.0;
/// Minimum distance of two labels.
const LEADING: f64 = 13.0;
/// Maximum of lines with a label at their end; all are in the table.
const MOST_LABELS: usize = 14;

/// The description of a chart.
pub(super) struct About {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// The titles of the two axes.
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    /// Whether `x` is bytes.
    pub(super) bytes: bool,
    /// Whether both axes are always logarithmic.
    pub(super) log: bool,
}

/// One line: its name, and its numbers from left to right.
struct Line<'a> {
    name: String,
    class: String,
    points: Vec<(f64, &'a Summary)>,
}

/// A chart of rows with one unit and an `at`; `None` without such rows.
pub(super) fn chart(about: &About, rows: &[&CostRow]) -> Option<Chart> {
    let rows: Vec<&CostRow> = rows
        .iter()
        .copied()
        .filter(|row| row.at.is_some() && !row.value.is_empty())
        .collect();
    let unit = rows.first()?.measure.unit();
    let lines = lines(&rows);
    let (floors, key) = floors(&rows);
    let all: Vec<&Line<'_>> = floors.iter().chain(&lines).collect();

    let longest = all.iter().map(|line| line.name.chars().count()).max();
    let longest = f64::from(u32::try_from(longest.unwrap_or(0)).unwrap_or(u32::MAX));
    let right = WIDTH - (longest * 6.5 + 14.0).clamp(40.0, 140.0);
    let xs: Vec<f64> = all
        .iter()
        .flat_map(|l| l.points.iter().map(|p| p.0))
        .collect();
    let mut ys: Vec<f64> = Vec::new();
    for (_, value) in all.iter().flat_map(|line| &line.points) {
        ys.extend([value.p10, value.p50, value.p90]);
    }
    let log = about.log || Axis::wants_log(&ys);
    if !log {
        ys.push(0.0);
    }
    let x = Axis::over(&xs, true, LEFT + 4.0, right - 4.0);
    let y = Axis::over(&ys, log, BOTTOM, TOP);
    let scale = if y.is_log() {
        ", logarithmic scale"
    } else {
        ""
    };

    let drawing = html! {
        (lettering(0.0, 11.0, "name", format!("{}{scale}", about.y)))
        @for (at, name) in y.ticks(unit, 6) {
            (line((LEFT, at), (right, at), "grid"))
            (lettering(LEFT - 5.0, at + 4.0, "tick end", name))
        }
        @for (at, name) in x_ticks(&x, &xs, about.bytes) {
            (line((at, BOTTOM), (at, BOTTOM + 4.0), "grid"))
            (lettering(at, BOTTOM + 16.0, "tick mid", name))
        }
        (lettering(f64::midpoint(LEFT, right), BOTTOM + 32.0, "name mid", about.x))
        @for line in &all { (drawn(line, &x, &y)) }
        (labels(&all, &y, &x))
    };
    Some(Chart {
        id: about.id,
        title: about.title,
        reading: html! {
            "Medians; upright lines are eight tenths of all."
            @for (at, name) in key.iter().enumerate() {
                " Floor" @if key.len() > 1 { " " (at + 1) } ": " (super::text::Text(name)) "."
            }
        },
        description: described(&all, about, unit),
        height: BOTTOM + 38.0,
        drawing,
    })
}

/// The rows, joined to lines; the name has what distinguishes the lines of a mode.
fn lines<'a>(rows: &[&'a CostRow]) -> Vec<Line<'a>> {
    type Key = (Mode2, Option<Policy>, Option<Transport>);
    /// Thread mode first, as everywhere on the page.
    type Mode2 = bool;
    let key = |row: &CostRow| -> Key { (row.mode == Mode::Process, row.policy, row.transport) };
    let keys: BTreeSet<Key> = rows.iter().map(|row| key(row)).collect();
    let transports: BTreeSet<_> = keys.iter().map(|key| key.2).collect();
    let mut lines = Vec::new();
    for one in &keys {
        let policies: BTreeSet<_> = keys.iter().filter(|k| k.0 == one.0).map(|k| k.1).collect();
        let mode = if one.0 { Mode::Process } else { Mode::Thread };
        let mut name = mode.name().to_owned();
        let mut class = format!("series {}", words::class(mode));
        if let Some(how) = one.1.filter(|_| policies.len() > 1) {
            name = format!("{name}, {}", how.name());
            class = format!("{class} {}", how.name());
        }
        if let Some(how) = one.2.filter(|_| transports.len() > 1) {
            name = format!("{name}, {}", words::transport(how));
            class = format!("{class} {}", words::transport(how));
        }
        let mine = rows.iter().filter(|row| key(row) == *one);
        if mine.clone().any(|row| !row.doubts.is_empty()) {
            name.push_str(" (?)");
        }
        lines.push(Line {
            name,
            class,
            points: points(mine.map(|row| (row.at, &row.value))),
        });
    }
    lines
}

/// A line for each floor, and the names of the floors.
fn floors<'a>(rows: &[&'a CostRow]) -> (Vec<Line<'a>>, Vec<&'a str>) {
    let mut names: Vec<&str> = Vec::new();
    for floor in rows.iter().filter_map(|row| row.floor.as_ref()) {
        if !names.contains(&floor.name.as_str()) && names.len() < 4 {
            names.push(&floor.name);
        }
    }
    let lines = names.iter().enumerate().map(|(at, name)| {
        let mine = rows.iter().filter_map(|row| {
            let floor = row.floor.as_ref().filter(|floor| floor.name == *name)?;
            Some((row.at, &floor.value))
        });
        let mut points = points(mine);
        points.dedup_by_key(|point| point.0);
        Line {
            name: if names.len() > 1 {
                format!("floor {}", at + 1)
            } else {
                "floor".to_owned()
            },
            class: "series floor".to_owned(),
            points,
        }
    });
    (lines.collect(), names.clone())
}

fn points<'a>(rows: impl Iterator<Item = (Option<u64>, &'a Summary)>) -> Vec<(f64, &'a Summary)> {
    #[expect(clippy::cast_precision_loss, reason = "a place in a chart")]
    let mut points: Vec<_> = rows
        .map(|(at, value)| (at.unwrap_or(0) as f64, value))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// The sizes that were measured; a selection if there are many.
fn x_ticks(axis: &Axis, xs: &[f64], bytes: bool) -> Vec<(f64, String)> {
    let unit = if bytes { Unit::Bytes } else { Unit::Count };
    let mut xs = xs.to_vec();
    xs.sort_by(f64::total_cmp);
    let mut ticks: Vec<(f64, String)> = Vec::new();
    for x in xs {
        let at = axis.at(x);
        let room = if bytes { 42.0 } else { 18.0 };
        if ticks.last().is_none_or(|(last, _)| at - last >= room) {
            ticks.push((at, tick(x, unit)));
        }
    }
    ticks
}

fn drawn(one: &Line<'_>, x: &Axis, y: &Axis) -> Markup {
    let places = one
        .points
        .iter()
        .map(|(at, value)| (x.at(*at), y.at(value.p50)));
    let path = places
        .clone()
        .enumerate()
        .fold(String::new(), |mut path, (at, (x, y))| {
            // Writing to a string does not fail.
            let _ = write!(path, "{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' });
            path
        });
    let is_floor = one.class.ends_with("floor");
    html! {
        path d=(path) class=(one.class) {}
        @if !is_floor {
            @for (at, value) in &one.points {
                @let x = x.at(*at);
                @if value.is_repeated() {
                    (line((x, y.at(value.p10)), (x, y.at(value.p90)), &format!("whisker {}", one.class)))
                }
                circle cx=(Px(x)) cy=(Px(y.at(value.p50))) r="2.5" class=(format!("point {}", one.class)) {}
            }
        }
    }
}

/// Labels at the ends of lines, apart from each other.
fn labels(all: &[&Line<'_>], y: &Axis, x: &Axis) -> Markup {
    let mut ends: Vec<(f64, f64, &Line<'_>)> = all
        .iter()
        .filter_map(|line| {
            let (at, value) = line.points.last()?;
            Some((x.at(*at), y.at(value.p50), *line))
        })
        .collect();
    ends.truncate(MOST_LABELS);
    ends.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut heights: Vec<f64> = ends.iter().map(|end| end.1).collect();
    // Down until none is too close to the one above, then up until all are inside.
    for at in 1..heights.len() {
        heights[at] = heights[at].max(heights[at - 1] + LEADING);
    }
    let mut least = BOTTOM;
    for height in heights.iter_mut().rev() {
        *height = height.min(least);
        least = *height - LEADING;
    }
    let right = ends.iter().map(|end| end.0).fold(LEFT, f64::max);
    html! {
        @for ((from, at, named), height) in ends.iter().zip(&heights) {
            (line((from + 3.0, *at), (right + 8.0, *height), "leader"))
            (lettering(right + 11.0, height + 4.0, &format!("label of-{}", named.class.replace("series ", "")), &named.name))
        }
    }
}

fn described(all: &[&Line<'_>], about: &About, unit: Unit) -> String {
    let mut text = format!("{} over {}. ", about.y, about.x);
    for line in all {
        let points: Vec<String> = line
            .points
            .iter()
            .map(|(at, value)| {
                let at = tick(
                    *at,
                    if about.bytes {
                        Unit::Bytes
                    } else {
                        Unit::Count
                    },
                );
                format!("{} at {at}", quantity(value.p50, unit))
            })
            .collect();
        // Writing to a string does not fail.
        let _ = write!(text, "{}: {}. ", line.name, words::list(&points));
    }
    text
}

/// The name of a row in a table: `64 KiB, process, region`.
pub(super) fn row_name(row: &CostRow) -> String {
    match row.at {
        Some(at) if row.measure == Measure::Throughput => {
            format!("{at} at a time, {}", words::series(row))
        }
        Some(at) => format!("{}, {}", size(at), words::series(row)),
        None => words::series(row),
    }
}
