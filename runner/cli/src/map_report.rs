//! What `wrun map` prints about a batch as a whole: its summary, and the state of a journal.

use super::text;
use std::fmt::Write as _;
use std::time::Duration;
use wrun_map::{Status, Summary};

/// `--summary`.
pub(super) fn summary(summary: &Summary, elapsed: Duration) -> String {
    let ended = summary.ended();
    let rate = ended as f64 / elapsed.as_secs_f64().max(1e-9);
    let mut text = format!(
        "wrun: {ended} inputs in {}, {rate:.1}/s\n",
        text::time(elapsed)
    );
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<15} {value}");
    };
    for (kind, count) in &summary.outcomes {
        row(kind, count.to_string());
    }
    if summary.retries > 0 {
        row("new attempts", summary.retries.to_string());
    }
    row("output", text::memory(summary.output));
    let times = &summary.times;
    if times.count() > 0 {
        let mean = times.sum().div_f64(times.count() as f64);
        row("time, mean", text::time(mean));
        for (name, part) in [("median", 0.5), ("90 %", 0.9), ("99 %", 0.99)] {
            row(&format!("time, {name}"), text::time(times.quantile(part)));
        }
        row("time, longest", text::time(times.longest()));
    }
    for (time, name) in &summary.slowest {
        row(
            "slow",
            format!("{}  {}", text::time(*time), text::name(name)),
        );
    }
    for (bytes, name) in &summary.largest {
        row(
            "large",
            format!("{}  {}", text::memory(*bytes), text::name(name)),
        );
    }
    text::clean(&text)
}

/// `--status`.
pub(super) fn status(status: &Status) -> String {
    let state = match (status.is_complete, status.is_running) {
        (true, _) => "complete",
        (false, true) => "running",
        (false, false) => "stopped: --resume goes on",
    };
    let mut text = format!("{state}\n");
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<15} {value}");
    };
    match status.total {
        Some(total) => row("ended", format!("{} of {total}", status.ended())),
        None => row("ended", status.ended().to_string()),
    }
    row("completed", status.completed.to_string());
    for (kind, count) in &status.failed {
        row(kind, count.to_string());
    }
    if status.retries > 0 {
        row("new attempts", status.retries.to_string());
    }
    if status.is_running {
        row("in flight", status.in_flight.to_string());
    }
    if let Some(since) = status.since {
        row("took", humantime::format_duration(status.took).to_string());
        row(
            "last commit",
            format!("{} ago", humantime::format_duration(since)),
        );
    }
    for failed in &status.latest {
        let (name, message) = (text::name(&failed.name), text::name(&failed.message));
        row("failed", format!("{} {name}: {message}", failed.index));
    }
    text::clean(&text)
}
