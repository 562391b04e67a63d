//! The rows for people and for programs.

use crate::measure::{Row, Target};
use serde_json::{Value, json};

pub(crate) fn print(rows: &[Row]) {
    println!(
        "{:<42} {:>10} {:>10} {:>7} {:>15} {:>7} {:>7}  {:<6} floor",
        "row", "wrun", "floor", "ratio", "p10..p90", "quiet", "target", ""
    );
    for row in rows {
        let ratio = row.ratio();
        let spread = format!("{:.2}..{:.2}", ratio.quantile(0.1), ratio.quantile(0.9));
        println!(
            "{:<42} {:>10} {:>10} {:>7.2} {:>15} {:>7.2} {:>7}  {:<6} {}",
            row.name,
            time(row.wrun().median()),
            time(row.floor().median()),
            ratio.median(),
            spread,
            row.quiet(),
            target(row.target),
            verdict(row),
            row.floor_name,
        );
    }
}

fn verdict(row: &Row) -> &'static str {
    match row.holds() {
        Some(true) => "holds",
        Some(false) => "misses",
        None => "",
    }
}

fn target(target: Target) -> String {
    match target {
        Target::AtMost(most) => format!("<= {most}"),
        Target::AtLeast(least) => format!(">= {least}"),
        Target::None => String::new(),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

pub(crate) fn json(rows: &[Row]) -> Value {
    rows.iter()
        .map(|row| {
            let ratio = row.ratio();
            let nanos = |seconds: f64| (seconds * 1e9).round();
            json!({
                "row": row.name,
                "floor": row.floor_name,
                "wrun_ns": nanos(row.wrun().median()),
                "floor_ns": nanos(row.floor().median()),
                "ratio": ratio.median(),
                "ratio_p10": ratio.quantile(0.1),
                "ratio_p90": ratio.quantile(0.9),
                "ratio_quiet": row.quiet(),
                "target": target(row.target),
                "holds": row.holds(),
                "rounds": row.rounds.len(),
            })
        })
        .collect()
}
