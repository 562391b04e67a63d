//! The results of a comparison as a table for people.

use super::text;
use std::fmt::Write as _;
use textwrap::{Options, WordSeparator, WordSplitter};
use wrun::{LayerState, Mode};
use wrun_compare::{CostRow, FaultRow, Finding, Measure, Results, Transport, Unit, Verdict};

/// Columns of running text.
const WIDTH: usize = 88;

/// The results, as lines.
pub(super) fn table(results: &Results) -> String {
    let mut out = String::new();
    head(&mut out, results);
    match &results.verdict {
        Verdict::Comparable => {}
        Verdict::Unfit { mode, why, help } => {
            let wherein = mode.map_or_else(String::new, |mode| format!(" in {mode} mode"));
            let _ = writeln!(
                out,
                "\nThe task cannot be compared{wherein}: {}",
                text::name(why)
            );
            if let Some(help) = help {
                let _ = writeln!(out, "  {}", text::name(help));
            }
        }
        Verdict::Differs { thread, process } => {
            let _ = writeln!(
                out,
                "\nThe task does not do the same in both modes, and was not measured:"
            );
            let _ = writeln!(out, "  thread    {}", text::name(thread));
            let _ = writeln!(out, "  process   {}", text::name(process));
        }
        _ => {}
    }
    for paragraph in results.answer() {
        out.push('\n');
        wrapped(&mut out, &paragraph.replace('\u{a0}', " "));
    }
    cost(&mut out, &results.cost);
    isolation(&mut out, &results.isolation);
    if !results.notes.is_empty() {
        out.push_str("\nNOTES\n");
        for note in &results.notes {
            wrapped(&mut out, &format!("- {}", text::name(note)));
        }
    }
    if !results.complete {
        out.push_str("\nNot everything was measured: it was interrupted.\n");
    }
    out
}

/// In lines that fit a terminal, broken at spaces only.
fn wrapped(out: &mut String, paragraph: &str) {
    let options = Options::new(WIDTH)
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation);
    let _ = writeln!(out, "{}", textwrap::fill(paragraph, options));
}

fn head(out: &mut String, results: &Results) {
    let (subject, here) = (&results.subject, &results.environment);
    let bytes = |bytes: u64| bytesize::ByteSize(bytes).display().iec().to_string();
    if !subject.name.is_empty() {
        let _ = writeln!(
            out,
            "{} ({}, {}), {} in, {} out, {} of memory",
            text::name(&subject.name),
            subject.shape,
            bytes(subject.bytes),
            bytes(subject.input_bytes),
            bytes(subject.output_bytes),
            subject.peak_memory_bytes.map_or_else(|| "?".into(), bytes),
        );
        if let Some(request) = &subject.request {
            let status = subject
                .status
                .map_or_else(|| "no response".into(), |it| it.to_string());
            let _ = writeln!(out, "{}: {status}", text::name(request));
        }
    }
    let commit = here.commit.as_ref();
    let _ = writeln!(
        out,
        "{}, {} processors, {}, {}, load {:.1}",
        text::name(&here.cpu),
        here.processors,
        bytes(here.memory_bytes),
        text::name(&here.kernel),
        here.load,
    );
    let _ = writeln!(
        out,
        "wrun {}{}, wasmtime {}, {}",
        here.wrun,
        commit.map_or_else(String::new, |commit| format!(" ({commit})")),
        here.wasmtime,
        here.date,
    );
    if let Some(jail) = &here.jail {
        let stand = |state| jail.layers.iter().filter(|it| it.state == state).count();
        let missing: Vec<_> = jail
            .layers
            .iter()
            .filter(|it| it.state != LayerState::Enforced)
            .map(|it| format!("{} {}", it.layer, it.state.name()))
            .collect();
        let _ = write!(
            out,
            "jail {}: {} of {} layers",
            here.jail_mode,
            stand(LayerState::Enforced),
            jail.layers.len()
        );
        if !missing.is_empty() {
            let _ = write!(out, " ({})", missing.join(", "));
        }
        out.push('\n');
    }
}

fn cost(out: &mut String, rows: &[CostRow]) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\n{:<25}{:>11}{:>11}{:>11}{:>8}{:>11}{:>8}",
        "COST", "p50", "p90", "p99", "spread", "floor", "x floor"
    );
    let mut last = None;
    let mut marks = String::new();
    for row in rows {
        let group = (row.measure, row.transport);
        if last != Some(group) {
            last = Some(group);
            let _ = writeln!(out, "{}", title(row));
        }
        let unit = row.measure.unit();
        let number = |value: f64| number(unit, value);
        // For rates, the worst tenth is the lower one.
        let (p90, p99) = match unit.is_rate() {
            true => (row.value.p10, row.value.min),
            false => (row.value.p90, row.value.p99),
        };
        let tail = |value: f64| match row.value.len() > 1 {
            true => number(value),
            false => "-".to_owned(),
        };
        let spread = row.value.spread;
        let spread = spread.map_or_else(|| "-".into(), |it| format!("{:.0}%", it * 100.0));
        let (floor, times) = match &row.floor {
            Some(floor) if floor.ratio.is_empty() => (number(floor.value.p50), "-".into()),
            Some(floor) => (number(floor.value.p50), times(floor.ratio.p50)),
            None => ("-".into(), "-".into()),
        };
        let mark = mark(row);
        marks.push_str(mark);
        let _ = writeln!(
            out,
            "  {:<23}{:>11}{:>11}{:>11}{:>8}{:>11}{:>8}{mark}",
            name(row),
            number(row.value.p50),
            tail(p90),
            tail(p99),
            spread,
            floor,
            times,
        );
    }
    for (sign, meaning) in MARKS {
        if marks.contains(sign) {
            let _ = writeln!(out, "  {sign} {meaning}");
        }
    }
}

/// The doubts about a number, and their marks.
const MARKS: [(&str, &str); 2] = [
    (
        "!",
        "beats its floor by more than the spread: one of the two is measured wrongly",
    ),
    (
        "~",
        "noisy: the middle eight tenths, of the row or of its floor, lie more than half of the \
         median apart",
    ),
];

fn mark(row: &CostRow) -> &'static str {
    let beats = row
        .doubts
        .iter()
        .any(|doubt| doubt.contains("beats its floor"));
    match row.doubts.is_empty() {
        _ if beats => " !",
        true => "",
        false => " ~",
    }
}

fn title(row: &CostRow) -> String {
    let title = match row.measure {
        Measure::Compile => "compile the file",
        Measure::Load => "load it, compiled before",
        Measure::Cold => "first report of a new runner",
        Measure::Warm => "from submission to report",
        Measure::Throughput => "tasks per second, with this many at the same time",
        Measure::Latency => {
            "from submission to the end of the answer, with this many at the same time"
        }
        Measure::RoundTrip => "message to a task and back, by size",
        Measure::Bandwidth => "bytes a second to a task, by size of messages",
        Measure::Resident => "resident memory of a task that waits",
        Measure::Proportional => "the same, shared pages divided among their processes",
        Measure::Private => "the same, only what no other process shares",
        Measure::Cpu => "processor time of a task, everything included",
        Measure::Faults => "page faults for a task",
        Measure::Switches => "context switches for a task",
        Measure::Compute => "processor time of the guest's own code",
        Measure::Descriptors => "descriptors of the runner for a task that waits",
        other => other.name(),
    };
    match row.transport {
        Some(Transport::Copied) => format!("{title}, copied"),
        Some(_) => format!("{title}, in a region"),
        None => title.to_owned(),
    }
}

fn name(row: &CostRow) -> String {
    let policy = row.policy.map(|policy| policy.name());
    let who = match policy {
        Some(policy) if row.mode == Mode::Process => format!("process, {policy}"),
        _ => row.mode.name().to_owned(),
    };
    match (row.at, row.measure) {
        (Some(at), Measure::Throughput | Measure::Latency) => format!("{at:>3} {who}"),
        (Some(at), _) => format!(
            "{:>8} {who}",
            bytesize::ByteSize(at)
                .display()
                .iec()
                .to_string()
                .replace(".0 ", " ")
        ),
        (None, _) => who,
    }
}

fn number(unit: Unit, value: f64) -> String {
    unit.show(value).replace('\u{a0}', " ")
}

fn times(ratio: f64) -> String {
    match ratio {
        it if it >= 100.0 => format!("{it:.0}"),
        it if it >= 10.0 => format!("{it:.1}"),
        it => format!("{it:.2}"),
    }
}

fn isolation(out: &mut String, rows: &[FaultRow]) {
    if rows.is_empty() {
        return;
    }
    let seen = rows.iter().filter_map(|row| match &row.finding {
        Finding::Measured(seen) => Some(seen),
        _ => None,
    });
    // Of a handler only.
    let with_requests = { seen }.any(|seen| seen.requests.is_some());
    let column = |text: &str| match with_requests {
        true => format!("{text:>11}"),
        false => String::new(),
    };
    let _ = writeln!(
        out,
        "\n{:<19}{:<9}{:<8}{:>9}{}{:>6}{:>11}{:>11}  stopped by",
        "ISOLATION",
        "",
        "",
        "siblings",
        column("requests"),
        "host",
        "detected",
        "recovered"
    );
    let _ = writeln!(out, "{:<36}{:>9}{}", "", "lost", column("lost"));
    let mut last = None;
    for row in rows {
        let fault = match last == Some(row.fault) {
            true => "",
            false => row.fault.name(),
        };
        last = Some(row.fault);
        match &row.finding {
            Finding::Measured(seen) => {
                let held = if seen.held { "held" } else { "NOT HELD" };
                let siblings = format!("{}/{}", seen.siblings_lost, seen.siblings);
                let requests = seen.requests.map_or_else(
                    || "-".into(),
                    |it| format!("{}/{}", it.lost, it.lost + it.answered),
                );
                let host = if seen.host_alive { "alive" } else { "DEAD" };
                let time = |time: Option<u64>| {
                    #[expect(clippy::cast_precision_loss, reason = "for people")]
                    time.map_or_else(|| "-".into(), |it| number(Unit::Nanoseconds, it as f64))
                };
                let _ = writeln!(
                    out,
                    "{fault:<19}{:<9}{held:<8}{siblings:>9}{}{host:>6}{:>11}{:>11}  {}",
                    row.mode.name(),
                    column(&requests),
                    time(seen.detected_ns),
                    time(seen.recovered_ns),
                    text::name(&seen.stopped_by),
                );
            }
            Finding::NotMeasured { why } => {
                let _ = writeln!(
                    out,
                    "{fault:<19}{:<9}not measured: {}",
                    row.mode.name(),
                    text::name(why)
                );
            }
            _ => {}
        }
    }
}
