//! Text for people, on stderr: complaints, statistics. Control characters are removed from
//! text of a guest before it can reach a terminal.

use super::{log, stdio};
use std::fmt::Write as _;
use std::time::Duration;
use wrun::{
    Access, Compiled, Crash, Error, ErrorKind, JailReport, LayerState, Limit, Outcome, Report,
    Usage,
};
use wrun_compare::{denial, hint};

/// Characters of a task's own message that are printed; the report has all of it.
const MAX_WORDS: usize = 1000;

/// The beginning of the note on a crash that was not followed by a new attempt.
const NO_RETRY: &str = "no new attempt";

/// The beginning of the note that a worker was root behind a jail.
const AS_ROOT: &str = "the worker ran as root (uid 0), without capabilities";

/// The option that avoids it.
const CHOOSES_USER: &str = " (--uid N)";

/// The beginning of the note that a worker was root without a jail.
const AS_ROOT_UNJAILED: &str = "the worker ran as root (uid 0), with all capabilities";

/// One line, `wrun: ...`.
pub(super) fn complain(message: &str) {
    say(&format!("wrun: {}\n", clean(message)));
}

/// Writes to stderr. If it accepts no more, nothing can be done.
pub(super) fn say(text: &str) {
    // Earlier log lines come first.
    log::flush();
    let _ = stdio::stderr().say(text.as_bytes());
}

/// The message of an error, and the option that may help.
pub(super) fn error(error: &Error) -> String {
    let help = match (error.kind(), error.limit()) {
        (ErrorKind::Jail, _) if error.layer().is_some() => {
            "; --jail best-effort runs the task without it"
        }
        (ErrorKind::LoadLimit, Some(Limit::CompileTime)) => {
            "; --compile-timeout gives compiling more"
        }
        (ErrorKind::LoadLimit, Some(Limit::CompileMemory)) => {
            "; --compile-memory gives compiling more"
        }
        // A single task always fits into a queue.
        (ErrorKind::Overloaded, _) => "; --compile-timeout lets it wait longer",
        (ErrorKind::Precompiled, _) => {
            "; `run` accepts it with --allow-precompiled, `compile` and `compare` need the file \
             that it was compiled from"
        }
        (ErrorKind::FuelMismatch, _) => {
            "; `wrun compile --metered` makes one for --fuel, and without --metered one for runs \
             without --fuel"
        }
        (ErrorKind::ModeMismatch, _) => {
            "; `wrun compile` makes one for both modes, unless --mode says for which, and \
             --preempt signal runs this one"
        }
        _ => "",
    };
    format!("{error}{help}")
}

/// The text without terminal control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// A guest's name on a line of our own.
pub(super) fn name(name: &str) -> String {
    name.chars()
        .take(MAX_WORDS)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A note that the worker was root, and how to avoid it; `None` if it was not, or if there
/// was no jail, which the user chose.
pub(super) fn as_root(report: &Report) -> Option<String> {
    let mut notes = report.notes.iter();
    let note = notes.find(|it| it.starts_with(AS_ROOT))?;
    Some(format!("{note}{CHOOSES_USER}"))
}

/// A note on an app that is served, with what changes it; `None` if the user chose that.
pub(super) fn of_serving(note: &str) -> Option<String> {
    match note {
        _ if note.starts_with(AS_ROOT_UNJAILED) => None,
        _ if note.starts_with(AS_ROOT) => Some(format!("{note}{CHOOSES_USER}")),
        _ if note.starts_with(Compiled::NOT_KEPT) => Some(format!(
            "{note}; WRUN_CACHE_DIR names another directory for compiled code"
        )),
        _ => Some(note.to_owned()),
    }
}

/// Why a task has no result, in one line or a few; `None` if it completed, or if a
/// command's exit code says it and nothing was refused that may be the reason. `words` is
/// the end of its stderr; `None` if hints are not wanted.
pub(super) fn explain(report: &Report, words: Option<&str>) -> Option<String> {
    let hint = words.and_then(|words| hint(report, words, "--stats"));
    let mut text = match &report.outcome {
        Outcome::Completed(_) => return None,
        Outcome::Exited(code) => return Some(format!("the task exited with {code}; {}", hint?)),
        Outcome::Trapped(trap) => format!("the task trapped: {}", trap.message),
        Outcome::Failed(message) => {
            let mut words = message.chars();
            let start: String = words.by_ref().take(MAX_WORDS).collect();
            let more = if words.next().is_some() { "..." } else { "" };
            format!("the task failed: {start}{more}")
        }
        Outcome::LimitExceeded(limit) => exceeded(*limit, report.limit_value),
        Outcome::Cancelled => "the task was interrupted".to_owned(),
        // The first process of a namespace gets no other signal for that.
        Outcome::Crashed(crash) if *crash.how() == Crash::Signal(9) && used_its_time(report) => {
            let by = "the limit on processor time (ulimit -t) ended the worker, by signal 9";
            let text = crash.to_string().replacen(&crash.how().to_string(), by, 1);
            format!("the task crashed: {text}")
        }
        other => format!("the task {other}"),
    };
    if let Some(why) = report.notes.iter().find(|it| it.starts_with(NO_RETRY)) {
        let _ = write!(text, "\n  {why}");
    }
    if let Some(hint) = hint {
        let _ = write!(text, "\n  {hint}");
    }
    Some(text)
}

/// Whether a worker has used as much processor time as the system allows a process.
fn used_its_time(report: &Report) -> bool {
    let used = report.stats.usage.map(|it| it.user_cpu + it.system_cpu);
    // The kernel checks at each tick of its clock, which can be some milliseconds.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Cpu).maximum;
    let limit = limit.map(|seconds| Duration::from_secs(seconds).mul_f64(0.95));
    used.zip(limit).is_some_and(|(used, limit)| used >= limit)
}

/// The limit, its value, and how to change it.
fn exceeded(limit: Limit, value: Option<u64>) -> String {
    let mut text = format!("the task exceeded its {limit} limit");
    if let Some(value) = value {
        let value = match limit {
            Limit::Deadline => humantime::format_duration(Duration::from_nanos(value)).to_string(),
            Limit::Memory | Limit::Output | Limit::Input | Limit::HostCall => memory(value),
            _ => value.to_string(),
        };
        let _ = write!(text, " of {value}");
    }
    let option = match limit {
        Limit::Deadline => "--timeout",
        Limit::Fuel => "--fuel",
        Limit::Memory => "--max-memory",
        Limit::Output => "--max-output",
        Limit::Input => "--max-input",
        Limit::HostCall => {
            text.push_str(": one call handed over more to the host");
            return text;
        }
        _ => return text,
    };
    let _ = write!(text, " ({option})");
    if limit == Limit::Memory && value > Some(64 << 30) {
        text.push_str("; one memory has 64 GiB at most");
    }
    text
}

/// `--stats`.
pub(super) fn stats(report: &Report) -> String {
    let stats = &report.stats;
    let mut text = format!(
        "wrun: {} ({} mode): {}\n",
        report.name, report.mode, report.outcome
    );
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    if let Some(compile) = stats.compile {
        row("compile", time(compile));
    }
    row("total", time(stats.total));
    row("queue", time(stats.queue));
    row(
        "start",
        match stats.start_method {
            Some(method) => format!("{} ({method})", time(stats.start)),
            None => time(stats.start),
        },
    );
    row("run", time(stats.run));
    row("cpu", stats.cpu.map_or_else(|| "unknown".into(), time));
    row(
        "memory",
        stats
            .peak_memory_bytes
            .map_or_else(|| "unknown".into(), memory),
    );
    if let Some(fuel) = stats.fuel {
        row("fuel", fuel.to_string());
    }
    if stats.memory_growth_refused > 0 {
        let times = match stats.memory_growth_refused {
            1 => "once".to_owned(),
            n => format!("{n} times"),
        };
        row("refused", format!("growth of memory or tables, {times}"));
    }
    if stats.children > 0 {
        row("children", stats.children.to_string());
    }
    if let Some(used) = &stats.usage {
        row("usage", usage(used));
    }
    if let Some(walls) = &report.jail {
        let mode = report.jail_mode.unwrap_or_default();
        row("jail", format!("{mode}{}", jail(walls)));
    }
    for note in &report.notes {
        let help = if note.starts_with(AS_ROOT) {
            CHOOSES_USER
        } else {
            ""
        };
        row("note", format!("{note}{help}"));
    }
    for refused in &report.denied {
        // Many runtimes look for directories at start, whether they need any or not; it matters
        // only if the task did not succeed.
        if refused.access == Access::Directories && report.outcome.is_completed() {
            continue;
        }
        row("refused", denial(refused));
    }
    clean(&text)
}

/// The resources that a worker used, on one line.
fn usage(usage: &Usage) -> String {
    let faults = usage.minor_faults.saturating_add(usage.major_faults);
    format!(
        "{} user, {} system, {}, {faults} faults",
        time(usage.user_cpu),
        time(usage.system_cpu),
        memory(usage.peak_rss_bytes),
    )
}

/// How many walls are in place, and what is wrong with the others.
fn jail(walls: &JailReport) -> String {
    let all = walls.layers.len();
    if all == 0 {
        return String::new();
    }
    let whole = |state| state == LayerState::Enforced;
    let standing = walls.layers.iter().filter(|it| whole(it.state)).count();
    let mut text = format!(": {standing} of {all} layers");
    for wall in walls.layers.iter().filter(|it| !whole(it.state)) {
        let _ = write!(
            text,
            "; {} {}: {}",
            wall.layer,
            wall.state.name(),
            wall.detail
        );
    }
    text
}

pub(super) fn memory(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

pub(super) fn time(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    if micros < 1_000.0 {
        format!("{micros:.1} µs")
    } else if micros < 1_000_000.0 {
        format!("{:.2} ms", micros / 1e3)
    } else {
        format!("{:.3} s", micros / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wrun::{Denial, Jail, Layer, LayerReport, Limit, Mode, Start};

    #[test]
    fn a_bad_end_is_explained_by_what_was_refused() {
        let ended = |outcome: Outcome, denied: &[(Access, &str)]| {
            let time = Duration::from_millis(3);
            let mut report = Report::not_loaded("t", Mode::Process, Limit::CompileTime, time);
            report.outcome = outcome;
            report.denied = denied
                .iter()
                .map(|(access, target)| Denial::new(*access, *target))
                .collect();
            report
        };
        let (dirs, tcp) = ((Access::Directories, ""), (Access::TcpConnect, "[::1]:80"));
        let none = "no directory is granted (--dir), which may be why";
        let words = Some("x: No such file or directory");
        let exited = |denied: &[(Access, &str)]| ended(Outcome::Exited(3), denied);
        let said = |report: &Report, words| explain(report, words).unwrap_or_default();
        assert_eq!(
            said(&exited(&[dirs]), words),
            format!("the task exited with 3; {none}")
        );
        // Its message is not about files, or no file was refused, or everything went well.
        assert_eq!(explain(&exited(&[dirs]), Some("usage: t FILE")), None);
        assert_eq!(explain(&exited(&[]), words), None);
        assert_eq!(explain(&ended(Outcome::Exited(0), &[tcp]), words), None);
        // Not wanted.
        assert_eq!(explain(&exited(&[dirs, tcp]), None), None);
        assert_eq!(
            said(&exited(&[dirs, tcp]), Some("")),
            "the task exited with 3; it was refused: connecting to [::1]:80 (--allow-tcp [::1]:80)"
        );
        let write = (Access::Write, "a");
        let more = said(&exited(&[tcp, write, write]), Some(""));
        assert!(more.ends_with("; and 2 more (--stats)"), "{more}");
        let failed = ended(Outcome::Failed("ENOENT: x".into()), &[dirs]);
        assert_eq!(
            said(&failed, Some("")),
            format!("the task failed: ENOENT: x\n  {none}")
        );
        let cancelled = ended(Outcome::Cancelled, &[dirs]);
        assert_eq!(said(&cancelled, words), "the task was interrupted");
    }

    #[test]
    fn a_jail_and_usage_take_a_line_each() {
        let time = Duration::from_millis(3);
        let mut report = Report::not_loaded("t", Mode::Process, Limit::CompileTime, time);
        let layer = |layer, state, detail: &str| LayerReport::new(layer, state, detail);
        report.jail_mode = Some(Jail::BestEffort);
        report.jail = Some(JailReport::new(vec![
            layer(Layer::Seccomp, LayerState::Enforced, "all"),
            layer(Layer::Cgroup, LayerState::Unavailable, "not mounted"),
            layer(Layer::Landlock, LayerState::Partial, "no \x1b[2Jsignals"),
        ]));
        report.stats.start_method = Some(Start::Fork);
        let mut usage = Usage::default();
        usage.user_cpu = Duration::from_millis(12);
        usage.system_cpu = time;
        usage.peak_rss_bytes = 14 << 20;
        usage.minor_faults = 790;
        usage.major_faults = 10;
        report.stats.usage = Some(usage);
        report.notes = vec!["a note".into()];
        let text = stats(&report);
        for line in [
            "wrun: t (process mode): limit exceeded: compile-time",
            "  start     3.00 ms (fork)",
            "  usage     12.00 ms user, 3.00 ms system, 14.0 MiB, 800 faults",
            "  jail      best-effort: 1 of 3 layers; cgroup unavailable: not mounted; \
             landlock partial: no \u{fffd}[2Jsignals",
            "  note      a note",
        ] {
            assert!(text.lines().any(|it| it == line), "no {line:?} in\n{text}");
        }
    }
}
