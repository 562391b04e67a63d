//! The rows for people and for programs.

use crate::measure::{Row, Unit};
use crate::promise::Bound;
use crate::spec::{Verdict, ratio, spread};
use serde_json::{Value, json};

pub(crate) fn print(rows: &[Row]) {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(3);
    println!(
        "{:<width$} {:>10} {:>10} {:>7} {:>15} {:>7} {:>7}  {:<19} floor",
        "row", "wrun", "floor", "ratio", "p10..p90", "quiet", "target", ""
    );
    for row in rows {
        let ratios = row.ratio();
        println!(
            "{:<width$} {:>10} {:>10} {:>7} {:>15} {:>7} {:>7}  {:<19} {}",
            row.name,
            amount(row.unit, row.wrun().median()),
            amount(row.unit, row.floor().median()),
            ratio(ratios.median()),
            spread(ratios.quantile(0.1), ratios.quantile(0.9)),
            ratio(row.quiet()),
            target(row.bound),
            row.verdict().map_or("", Verdict::words),
            row.floor_name,
        );
    }
}

fn target(bound: Option<Bound>) -> String {
    bound.map(|bound| bound.to_string()).unwrap_or_default()
}

fn amount(unit: Unit, amount: f64) -> String {
    match unit {
        Unit::Seconds => wrun_compare::Unit::Nanoseconds.show(amount * 1e9),
        Unit::Kib => wrun_compare::Unit::Bytes.show(amount * 1024.0),
    }
}

pub(crate) fn json(rows: &[Row]) -> Value {
    rows.iter()
        .map(|row| {
            let ratio = row.ratio();
            let (wrun, floor) = (row.wrun().median(), row.floor().median());
            let nanos = |seconds: f64| (seconds * 1e9).round();
            let mut line = json!({
                "row": row.name,
                "floor": row.floor_name,
                "ratio": ratio.median(),
                "ratio_p10": ratio.quantile(0.1),
                "ratio_p90": ratio.quantile(0.9),
                "ratio_quiet": row.quiet(),
                "target": target(row.bound),
                "holds": row.verdict().map(Verdict::holds),
                "verdict": row.verdict().map(Verdict::words),
                "rounds": row.rounds.len(),
            });
            match row.unit {
                Unit::Seconds => {
                    line["wrun_ns"] = nanos(wrun).into();
                    line["floor_ns"] = nanos(floor).into();
                }
                Unit::Kib => {
                    line["wrun_kib"] = wrun.into();
                    line["floor_kib"] = floor.into();
                }
            }
            line
        })
        .collect()
}
