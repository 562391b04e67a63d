//! The journal of `wrun map`: wherever a batch is killed, stopped or out of space, the output of
//! the one that goes on is that of one that nothing happened to.

use crate::map::{PICKY, guest, map};
use crate::support::command::{PATIENCE, Running, Wrun, scratch, write};
use crate::support::{Dice, MODES, eventually, within, wrun};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often each batch is killed; 200 in thorough runs.
const KILLS: &str = "WRUN_MAP_KILLS";

fn kills() -> usize {
    std::env::var(KILLS).map_or(3, |kills| kills.parse().unwrap())
}

/// Inputs that take a while, some of which fail.
fn lines(folder: &Path, kind: Kind) -> PathBuf {
    let count = match kind {
        Kind::Long => 5000,
        _ => 300 + 10 * kills(),
    };
    let line = |at: usize| match at % 50 {
        17 => format!("t{at}\n"),
        // Larger than the code of the task, which a limit on files concerns, too.
        _ if kind == Kind::Large => format!("s{at}{}\n", "x".repeat(4000)),
        _ => format!("s{at}\n"),
    };
    write(folder, "lines", (0..count).map(line).collect::<String>())
}

/// A kind of output.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Records,
    Large,
    Long,
    Unordered,
    Bytes,
    Files,
}

/// A batch in a directory, with its results in another.
struct Batch {
    mode: &'static str,
    kind: Kind,
    inputs: PathBuf,
    task: PathBuf,
    results: PathBuf,
}

impl Batch {
    fn new(mode: &'static str, kind: Kind, folder: &Path, name: &str) -> Self {
        let results = folder.join(name);
        fs::create_dir_all(&results).unwrap();
        Batch {
            mode,
            kind,
            inputs: lines(folder, kind),
            task: write(folder, "picky.wat", PICKY),
            results,
        }
    }

    fn command(&self) -> Wrun {
        let path = |name: &str| self.results.join(name);
        let command = map(self.mode).args(["--no-stats", "--quiet", "--resume", "--journal"]);
        let command = command
            .arg(path("journal"))
            .arg("--lines")
            .arg(&self.inputs);
        let command = match self.kind {
            Kind::Records | Kind::Large | Kind::Long => command.arg("--output").arg(path("out")),
            Kind::Unordered => command.args(["--unordered", "--output"]).arg(path("out")),
            Kind::Bytes => command
                .args(["--format", "bytes", "--output"])
                .arg(path("out")),
            Kind::Files => command.arg("--output-dir").arg(path("files")),
        };
        command.arg(&self.task)
    }

    fn finish(&self) {
        self.command().run().expect_code(1, self.mode);
    }

    /// All results by their names.
    fn results(&self) -> BTreeMap<String, Vec<u8>> {
        if self.kind == Kind::Files {
            let entries = fs::read_dir(self.results.join("files")).unwrap();
            let files = entries.map(|entry| entry.unwrap().path());
            return files
                .map(|path| {
                    (
                        path.display()
                            .to_string()
                            .replace(&self.results.display().to_string(), ""),
                        fs::read(path).unwrap(),
                    )
                })
                .collect();
        }
        let mut bytes = fs::read(self.results.join("out")).unwrap();
        if self.kind == Kind::Unordered {
            let mut lines: Vec<_> = bytes.split_inclusive(|it| *it == b'\n').collect();
            lines.sort_unstable();
            bytes = lines.concat();
        }
        BTreeMap::from([("out".to_owned(), bytes)])
    }
}

/// Kills it, and all that it started with it.
fn kill(mut running: Running) {
    if !running.ends_within(Duration::ZERO) {
        running.signal(Signal::KILL);
    }
    assert!(running.ends_within(PATIENCE));
}

fn is_killed_and_goes_on(mode: &'static str, kind: Kind) {
    let folder = scratch();
    let undisturbed = Batch::new(mode, kind, folder.path(), "undisturbed");
    undisturbed.finish();
    let batch = Batch::new(mode, kind, folder.path(), "killed");
    let mut dice = Dice(0x5eed + kind as u64);
    let mut was_running = 0;
    for turn in 0..kills() {
        let mut running = batch.command().start();
        // Mostly as long as some commits take.
        dice.pause(if turn % 4 == 0 { 40 } else { 400 });
        if turn % 3 == 2 && !running.ends_within(Duration::ZERO) {
            running.signal(Signal::STOP);
            dice.pause(20);
            running.signal(Signal::CONT);
            dice.pause(20);
        }
        was_running += usize::from(!running.ends_within(Duration::ZERO));
        kill(running);
    }
    assert!(was_running > 0, "{mode} {kind:?}: it was always too late");
    batch.finish();
    assert!(
        batch.results() == undisturbed.results(),
        "{mode} {kind:?}: results differ"
    );
    // Nothing is left to do.
    batch.finish();
    assert!(
        batch.results() == undisturbed.results(),
        "{mode} {kind:?}: once more"
    );
}

#[test]
fn a_killed_batch_goes_on_with_records() {
    MODES
        .iter()
        .for_each(|mode| is_killed_and_goes_on(mode, Kind::Records));
}

#[test]
fn a_killed_batch_goes_on_with_bytes() {
    MODES
        .iter()
        .for_each(|mode| is_killed_and_goes_on(mode, Kind::Bytes));
}

#[test]
fn a_killed_batch_goes_on_without_an_order() {
    MODES
        .iter()
        .for_each(|mode| is_killed_and_goes_on(mode, Kind::Unordered));
}

#[test]
fn a_killed_batch_goes_on_with_files() {
    MODES
        .iter()
        .for_each(|mode| is_killed_and_goes_on(mode, Kind::Files));
}

/// The size of files is limited, as a disk is, and then it is not.
#[test]
fn a_batch_without_space_goes_on_once_there_is_some() {
    for mode in MODES {
        let folder = scratch();
        let undisturbed = Batch::new(mode, Kind::Large, folder.path(), "undisturbed");
        undisturbed.finish();
        let whole = fs::metadata(undisturbed.results.join("out")).unwrap().len();
        let batch = Batch::new(mode, Kind::Large, folder.path(), "full");
        let mut refused = 0;
        // The journal has its limit, too: a little room, and more and more.
        for part in [1, 2, 3] {
            let limited = Wrun::program(Path::new("sh"));
            let blocks = (whole * part / 4 / 512).max(1);
            let script = format!("ulimit -f {blocks}; exec \"$@\"");
            let mut limited = limited.args(["-c", &script, "sh"]).arg(wrun());
            let full = batch.command();
            // What follows `env --default-signal=... wrun`.
            limited = limited.args(full.command.get_args().skip(2));
            let ran = limited.run();
            assert!(ran.misbehaviour().is_none(), "{mode}: {ran}");
            if ran.code() == 125 {
                refused += 1;
                assert!(
                    ran.stderr.contains("--resume goes on") || ran.stderr.contains("journal"),
                    "{mode}: {ran}"
                );
            }
        }
        assert!(refused > 0, "{mode}: there was always room");
        batch.finish();
        assert!(
            batch.results() == undisturbed.results(),
            "{mode}: results differ"
        );
    }
}

#[test]
fn an_interrupted_batch_says_how_it_goes_on() {
    for mode in MODES {
        let folder = scratch();
        let batch = Batch::new(mode, Kind::Long, folder.path(), "interrupted");
        let running = batch.command().start();
        let journal = batch.results.join("journal");
        let status = || {
            let ran = Wrun::new().args(["map", "--status"]).arg(&journal).run();
            ran.text()
        };
        // Another process looks into it while it is written.
        eventually("a commit", PATIENCE, || {
            status().starts_with("running\n  ended           ")
                && !status().contains("  ended           0\n")
        });
        running.signal(Signal::STOP);
        let other = batch.command().run();
        running.signal(Signal::CONT);
        assert!(
            other.stderr.contains("another process works on it"),
            "{mode}: {other}"
        );
        running.signal(Signal::INT);
        let ran = running.end();
        ran.expect_code(130, mode);
        assert!(
            ran.stderr
                .contains("the same command with --resume goes on"),
            "{mode}: {ran}"
        );
        assert!(
            status().starts_with("stopped: --resume goes on\n"),
            "{mode}: {}",
            status()
        );
        batch.finish();
        let text = status();
        let count = fs::read_to_string(&batch.inputs).unwrap().lines().count();
        let all = format!("complete\n  ended           {count} of {count}\n");
        assert!(text.starts_with(&all), "{mode}: {text}");
        assert!(text.contains("  trapped "), "{mode}: {text}");
    }
}

#[test]
fn what_changed_is_refused_by_name() {
    let folder = scratch();
    let echo = write(
        folder.path(),
        "task.wat",
        fs::read(guest("echo/echo.wat")).unwrap(),
    );
    let lines = write(folder.path(), "lines", "1\n2\n3\n");
    let [journal, out] = ["journal", "out"].map(|name| folder.path().join(name));
    let command = |options: &[&str], args: &[&str]| {
        let command = map("thread")
            .args(["--no-stats", "--resume", "--journal"])
            .arg(&journal);
        let command = command
            .arg("--output")
            .arg(&out)
            .arg("--lines")
            .arg(&lines)
            .args(options);
        command.arg(&echo).arg("--").args(args).run()
    };
    command(&[], &["x"]).expect_code(0, "the first");
    let before = fs::read(&out).unwrap();
    let refused = |ran: crate::support::command::Ran, what: &str| {
        ran.expect_code(2, what);
        let words = format!("was made with other {what}: ");
        assert!(
            ran.stderr.contains(&words) && ran.stderr.contains("--force"),
            "{ran}"
        );
        assert_eq!(fs::read(&out).unwrap(), before);
    };
    refused(command(&[], &["y"]), "arguments");
    refused(command(&["--env", "A=1"], &["x"]), "grants");
    refused(command(&["--max-memory", "1MiB"], &["x"]), "limits");
    refused(command(&["--format", "bytes"], &["x"]), "output");
    refused(command(&["--max-record", "1MiB"], &["x"]), "inputs");
    write(folder.path(), "task.wat", PICKY);
    refused(command(&[], &["x"]), "task");
    write(
        folder.path(),
        "task.wat",
        fs::read(guest("echo/echo.wat")).unwrap(),
    );
    // More inputs behind those that are done are no change of them.
    write(folder.path(), "lines", "1\n2\n3\n4\n");
    command(&[], &["x"]).expect_code(0, "one more");
    assert_eq!(fs::read_to_string(&out).unwrap().lines().count(), 4);
    for changed in ["1\nx\n3\n4\n", "1\n2\n3\n"] {
        write(folder.path(), "lines", changed);
        let ran = command(&[], &["x"]);
        ran.expect_code(2, "other inputs");
        assert!(ran.stderr.contains("the inputs are not those"), "{ran}");
    }
    command(&["--force"], &["x"]).expect_code(0, "forced");
    let ran = map("thread")
        .arg("--journal")
        .arg(&journal)
        .arg("--output")
        .arg(&out);
    let ran = ran.arg("--lines").arg(&lines).arg(&echo).run();
    assert!(
        ran.expect_code(2, "exists")
            .stderr
            .contains("--resume goes on with it"),
        "{ran}"
    );
}

/// A file that was changed is another input, and one that is gone, too.
#[test]
fn files_that_changed_are_refused() {
    let folder = scratch();
    let inputs = folder.path().join("in");
    fs::create_dir(&inputs).unwrap();
    for name in ["a", "b"] {
        write(&inputs, name, name);
    }
    let command = || {
        let command = map("thread")
            .args(["--sync", "--resume", "--journal"])
            .arg(folder.path().join("j"));
        let command = command.arg("--output-dir").arg(folder.path().join("out"));
        command.arg(guest("echo/echo.wat")).arg(&inputs).run()
    };
    command().expect_code(0, "the first");
    command().expect_code(0, "again");
    write(&inputs, "c", "c");
    command().expect_code(0, "one more");
    write(&inputs, "b", "other");
    let ran = command();
    assert!(
        ran.expect_code(2, "b")
            .stderr
            .contains("the inputs are not those"),
        "{ran}"
    );
}

/// No two inputs have one file, also if the first has it from before an interruption.
#[test]
fn a_file_keeps_its_input_when_a_batch_goes_on() {
    let folder = scratch();
    let out = folder.path().join("out");
    let command = |lines: &str| {
        let lines = write(folder.path(), "lines", lines);
        let command = map("thread")
            .args(["--resume", "--journal"])
            .arg(folder.path().join("j"));
        let command = command
            .arg("--output-dir")
            .arg(&out)
            .args(["--output-name", "{/}"]);
        command
            .arg("--lines")
            .arg(lines)
            .arg(guest("echo/echo.wat"))
            .run()
    };
    command("x/a\nx/b\n").expect_code(0, "the first");
    let ran = command("x/a\nx/b\ny/a\n");
    ran.expect_code(1, "the same name");
    assert!(ran.stderr.contains("another input of this run"), "{ran}");
    assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "x/a");
}

/// As after a loss of power: the end of the output is not on the disk, or the journal is not.
#[test]
fn an_output_that_lost_its_end_gets_it_again() {
    for mode in MODES {
        let folder = scratch();
        let undisturbed = Batch::new(mode, Kind::Records, folder.path(), "undisturbed");
        undisturbed.finish();
        let batch = Batch::new(mode, Kind::Records, folder.path(), "lost");
        let running = batch.command().start();
        let out = batch.results.join("out");
        let length = || fs::metadata(&out).map_or(0, |it| it.len());
        assert!(within(PATIENCE, || length() > 2000));
        kill(running);
        let file = File::options().write(true).open(&out).unwrap();
        file.set_len(length() - 1500).unwrap();
        batch.finish();
        assert!(
            batch.results() == undisturbed.results(),
            "{mode}: results differ"
        );
    }
}

#[test]
fn a_file_that_is_not_a_journal_is_refused() {
    let folder = scratch();
    let echo = guest("echo/echo.wat");
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("text", b"some text"),
        ("half", b"SQLite format 3\0abc"),
    ] {
        let journal = write(folder.path(), name, bytes);
        let ran = map("thread")
            .args(["--lines", "-", "--resume", "--journal"])
            .arg(&journal);
        let ran = ran
            .arg("--output")
            .arg(folder.path().join("out"))
            .arg(&echo)
            .run();
        ran.expect_code(125, name);
        assert!(ran.stderr.contains("journal"), "{ran}");
        assert_eq!(fs::read(&journal).unwrap(), bytes);
        let ran = Wrun::new().args(["map", "--status"]).arg(&journal).run();
        ran.expect_code(125, name);
    }
}
