//! From start to end: the processes left when a command ends, however it ends; what is
//! kept between commands; and the subcommands beside `run`.

use crate::support::command::{PATIENCE, Wrun, open, scratch, write};
use crate::support::processes::{descendants, own_copy, running, serves};
use crate::support::{MODES, eventually, repo, settled, tool, within};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn guest(name: &str) -> PathBuf {
    repo("guest-tasks").canonicalize().unwrap().join(name)
}

/// How long processes may take to vanish after the one that held them did: the
/// kernel kills them at once, and a busy machine needs time to bury them.
const BURIAL: Duration = Duration::from_secs(10);

#[track_caller]
fn assert_no_process_is_left(program: &Path, what: &str) {
    assert!(
        within(BURIAL, || running(program).is_empty()),
        "{what}: left behind: {:?}",
        running(program)
    );
}

#[test]
fn a_normal_end_leaves_no_process() {
    let scratch = scratch();
    let program = own_copy(scratch.path());
    for mode in MODES {
        for (task, code) in [
            ("hello/hello.wat", 0),
            ("hostile/fail.wat", 1),
            ("hostile/unreachable.wat", 134),
        ] {
            let ran = Wrun::program(&program)
                .args(["--mode", mode])
                .arg(guest(task))
                .run();
            ran.expect_code(code, &format!("{mode}: {task}"));
            // At once: the end of wrun is the end of all its processes.
            assert!(
                running(&program).is_empty(),
                "{mode}: {task}: still running: {:?}",
                running(&program)
            );
        }
    }
}

#[test]
fn ctrl_c_ends_task_worker_and_runner() {
    let scratch = scratch();
    let program = own_copy(scratch.path());
    for mode in MODES {
        for task in [
            "hostile/endless-loop.wat",
            "hostile/endless-sleep.wat",
            "hostile/deaf-to-cancel.wat",
            "hostile/yield-forever.wat",
        ] {
            let what = format!("{mode}: {task}");
            let mut wrun = Wrun::program(&program)
                .args(["--mode", mode])
                .arg(guest(task))
                .start();
            wrun.await_task(mode);
            wrun.signal_group(Signal::INT);
            assert!(wrun.ends_within(PATIENCE), "{what}: Ctrl-C does not end it");
            wrun.end().expect_code(130, &what);
            assert_no_process_is_left(&program, &what);
        }
    }
}

#[test]
fn ctrl_c_ends_a_task_that_waits_for_stdin() {
    let scratch = scratch();
    let program = own_copy(scratch.path());
    for mode in MODES {
        for task in ["cat/cat.wasm", "echo/echo.wat"] {
            let what = format!("{mode}: {task}");
            let mut wrun = Wrun::program(&program)
                .args(["--mode", mode])
                .arg(guest(task))
                .stdin("")
                .start();
            wrun.await_task(mode);
            wrun.signal_group(Signal::INT);
            assert!(wrun.ends_within(PATIENCE), "{what}: Ctrl-C does not end it");
            drop(wrun.child.stdin.take());
            wrun.end().expect_code(130, &what);
            assert_no_process_is_left(&program, &what);
        }
    }
}

/// Waits until no more is written to a pipe that is not read.
#[track_caller]
fn await_full(pipe: &impl AsFd) {
    settled("what is in the pipe", PATIENCE, || {
        rustix::io::ioctl_fionread(pipe).unwrap()
    });
}

#[test]
fn a_signal_ends_a_task_whose_reader_stalls() {
    let scratch = scratch();
    let program = own_copy(scratch.path());
    for mode in MODES {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let what = format!("{mode}: {signal:?}, stdout full and unread");
            let mut wrun = Wrun::program(&program)
                .args(["--mode", mode, "--grace", "100ms"])
                .arg(guest("hostile/stdout-flood.wat"))
                .start();
            let mut stdout = wrun.child.stdout.take().unwrap();
            stdout.read_exact(&mut [0; 4096]).unwrap();
            await_full(&stdout);
            wrun.signal(signal);
            let ended = wrun.ends_within(Duration::from_secs(20));
            let _ = wrun.child.kill();
            assert!(ended, "{what}: did not end");
            wrun.end().expect_code(code, &what);
            assert_no_process_is_left(&program, &what);
        }
    }
}

#[test]
fn a_signal_ends_a_wrun_whose_task_is_done_and_whose_reader_stalls() {
    let scratch = scratch();
    let program = own_copy(scratch.path());
    let input = write(scratch.path(), "input", vec![b'x'; 4 << 20]);
    for mode in MODES {
        let what = format!("{mode}: the unread output of a completed task");
        let report = scratch.path().join("report.json");
        let mut wrun = Wrun::program(&program)
            .args(["--mode", mode, "--grace", "100ms", "--report"])
            .arg(&report)
            .arg("--input")
            .arg(&input)
            .arg(guest("echo/echo.wat"))
            .start();
        let mut stdout = wrun.child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 4096]).unwrap();
        await_full(&stdout);
        assert!(
            wrun.child.try_wait().unwrap().is_none(),
            "{what}: it did not wait for its reader"
        );
        wrun.signal(Signal::TERM);
        let ended = wrun.ends_within(Duration::from_secs(20));
        let _ = wrun.child.kill();
        assert!(ended, "{what}: SIGTERM does not end it");
        wrun.end().expect_code(143, &what);
        assert_no_process_is_left(&program, &what);
    }
}

#[test]
fn ctrl_c_while_compiling() {
    let scratch = scratch();
    let program = own_copy(scratch.path());
    for mode in MODES {
        for pause in [0, 5, 20, 80, 200] {
            let what = format!("{mode}: after {pause} ms");
            let wrun = Wrun::program(&program)
                .args(["--no-cache", "--mode", mode])
                .arg(guest("csv-stats/csv-stats.wasm"))
                // Once compiled it waits for its input.
                .args(["region", "amount"])
                .silent_stdin()
                .start();
            std::thread::sleep(Duration::from_millis(pause));
            wrun.signal_group(Signal::INT);
            wrun.end().expect_code(130, &what);
            assert_no_process_is_left(&program, &what);
        }
    }
}

#[test]
fn kill_9_of_the_runner_leaves_no_worker() {
    let scratch = scratch();
    let program = own_copy(scratch.path());
    for round in 0..20 {
        let wrun = Wrun::program(&program)
            .args(["--mode", "process"])
            .arg(guest(if round % 2 == 0 {
                "hostile/endless-loop.wat"
            } else {
                "hostile/endless-sleep-run.wat"
            }))
            .start();
        if round < 10 {
            wrun.await_task("process");
            // Not what compiled it, or what its worker was before it was in its namespace.
            let has_worker = || !descendants(wrun.pid()).is_empty();
            eventually("there is a worker", PATIENCE, has_worker);
        } else {
            // Somewhere on the way: loading, starting a worker, running.
            std::thread::sleep(Duration::from_millis(round - 10));
        }
        wrun.signal(Signal::KILL);
        wrun.end().expect_code(137, "killed");
        assert_no_process_is_left(&program, &format!("round {round}"));
    }
}

#[test]
fn a_worker_program_that_is_started_by_hand_says_so() {
    // Without the number of a process it is a wrong command line; with one it finds that this
    // process is not its parent.
    for (args, code) in [
        (&["__wrun-worker"][..], 2),
        (&["__wrun-worker", "1"], 125),
        (&["__wrun-worker", "x"], 2),
        (&["__wrun-worker", "-1"], 125),
    ] {
        let ran = Wrun::new().args(args).run();
        ran.expect_code(code, &format!("{args:?}"));
        assert_eq!(ran.stderr.lines().count(), 1, "{args:?}: {ran}");
    }
}

#[test]
fn eight_processes_compile_one_file_into_one_cache() {
    for mode in MODES {
        let scratch = scratch();
        let cache = scratch.path().join("cache");
        let article = guest("inputs/article.md");
        let expected = fs::read(guest("expected/article.html")).unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (cache, article, expected) = (&cache, &article, &expected);
                scope.spawn(move || {
                    let ran = Wrun::mode(mode)
                        .cache(cache)
                        .arg(guest("markdown/markdown.wasm"))
                        .stdin_from(open(article))
                        .run();
                    let what = format!("{mode}: process {number}");
                    ran.expect_code(0, &what);
                    assert!(ran.stdout == *expected, "{what}: other output");
                    assert!(ran.stderr.is_empty(), "{what}: {ran}");
                });
            }
        });
        let folders: Vec<PathBuf> = fs::read_dir(&cache)
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .collect();
        let files: Vec<PathBuf> = folders
            .iter()
            .flat_map(|folder| fs::read_dir(folder).unwrap().flatten().map(|e| e.path()))
            .collect();
        assert_eq!(files.len(), 1, "{mode}: one task, one entry: {files:?}");
    }
}

/// Guests of each shape, its name in JSON, an input and its output.
const SHAPES: [(&str, &str, &str, &str); 5] = [
    (
        "markdown/markdown.wasm",
        "component",
        "*a*",
        "<p><em>a</em></p>\n",
    ),
    ("echo/echo.wat", "core-module", "same", "same"),
    ("wordcount/wordcount.wasm", "core-module", "a b", "0 2 3\n"),
    ("cat/cat.wasm", "command-module", "same", "same"),
    ("env/env.wasm", "command-component", "", ""),
];

#[test]
fn a_compiled_artifact_runs_where_it_is_vouched_for() {
    let scratch = scratch();
    for (task, _, input, output) in SHAPES {
        let artifact = scratch.path().join("artifact");
        let ran = Wrun::new()
            .args(["compile", "-o"])
            .arg(&artifact)
            .arg(guest(task))
            .run();
        ran.expect_code(0, &format!("compile {task}"));
        assert!(
            ran.stdout.is_empty() && ran.stderr.is_empty(),
            "{task}: {ran}"
        );
        for mode in MODES {
            let what = format!("{mode}: {task}");
            let ran = Wrun::mode(mode).arg(&artifact).stdin(input).run();
            ran.expect_code(126, &what);
            assert!(
                ran.stderr.contains("--allow-precompiled") && ran.stderr.lines().count() == 1,
                "{what}: {ran}"
            );
            let ran = Wrun::mode(mode)
                .arg("--allow-precompiled")
                .arg(&artifact)
                .stdin(input)
                .run();
            ran.expect_code(0, &what);
            assert_eq!(ran.text(), output, "{what}");
            // It does not count fuel.
            let ran = Wrun::mode(mode)
                .args(["--allow-precompiled", "--fuel", "1000000000"])
                .arg(&artifact)
                .stdin(input)
                .run();
            ran.expect_code(126, &what);
            assert!(ran.stderr.contains("without fuel"), "{what}: {ran}");
        }
        let ran = Wrun::new()
            .args(["compile", "--metered", "-o"])
            .arg(&artifact)
            .arg(guest(task))
            .run();
        ran.expect_code(0, &format!("compile --metered {task}"));
        for mode in MODES {
            let what = format!("{mode}: {task}, metered");
            let ran = Wrun::mode(mode)
                .args(["--allow-precompiled", "--fuel", "1000000000"])
                .arg(&artifact)
                .stdin(input)
                .run();
            ran.expect_code(0, &what);
            assert_eq!(ran.text(), output, "{what}");
            let ran = Wrun::mode(mode)
                .arg("--allow-precompiled")
                .arg(&artifact)
                .stdin(input)
                .run();
            ran.expect_code(126, &what);
            assert!(ran.stderr.contains("with fuel"), "{what}: {ran}");
        }
    }
}

#[test]
fn a_damaged_artifact_is_refused_and_never_run() {
    let scratch = scratch();
    let artifact = scratch.path().join("artifact");
    let ran = Wrun::new()
        .args(["compile", "-o"])
        .arg(&artifact)
        .arg(guest("cat/cat.wasm"))
        .run();
    ran.expect_code(0, "compile");
    let good = fs::read(&artifact).unwrap();
    let damaged = scratch.path().join("damaged");
    let refuse = |bytes: &[u8], what: &str| {
        fs::write(&damaged, bytes).unwrap();
        for mode in MODES {
            let what = format!("{mode}: {what}");
            let ran = Wrun::mode(mode)
                .arg("--allow-precompiled")
                .arg(&damaged)
                .run();
            ran.expect_code(126, &what);
            assert!(
                ran.stderr.starts_with("wrun: ") && ran.stderr.lines().count() == 1,
                "{what}: {ran}"
            );
        }
        let ran = Wrun::new().arg("inspect").arg(&damaged).run();
        ran.expect_code(126, &format!("inspect: {what}"));
    };
    let steps = (0..good.len() - 120).step_by(good.len() / 16);
    // All of the description and the footer.
    for at in steps.chain(good.len() - 120..good.len()) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x80;
        refuse(&bytes, &format!("byte {at} of {} flipped", good.len()));
    }
    for len in [
        1,
        8,
        55,
        56,
        57,
        good.len() / 2,
        good.len() - 56,
        good.len() - 1,
    ] {
        refuse(&good[..len], &format!("the first {len} bytes"));
        refuse(&good[good.len() - len..], &format!("the last {len} bytes"));
    }
    refuse(&[&good[..], b"x"].concat(), "a byte more");
    refuse(&[b"x", &good[..]].concat(), "a byte before");
    refuse(&[&good[..], &good[..]].concat(), "twice");
}

#[test]
fn compile_writes_whole_files_only_and_replaces_no_device() {
    let scratch = scratch();
    let folder = scratch.path();
    let cat = guest("cat/cat.wasm");
    let compile = |output: &Path| {
        Wrun::new()
            .args(["compile", "-o"])
            .arg(output)
            .arg(&cat)
            .run()
    };
    // A file that is not a task leaves what was there.
    let kept = write(folder, "kept", "as it was");
    Wrun::new()
        .args(["compile", "-o"])
        .arg(&kept)
        .arg(guest("hostile/not-wasm.wasm"))
        .run()
        .expect_code(126, "compile a file that is not a task");
    assert_eq!(fs::read(&kept).unwrap(), b"as it was");
    for output in ["/no/such/directory/artifact", "/dev/full"] {
        // A device is written to: as root, a rename would replace it.
        if output == "/dev/full" && !writes_through(folder, &cat) {
            panic!("compile -o replaces a file that is not a regular one");
        }
        let ran = compile(Path::new(output));
        ran.expect_code(125, &format!("compile -o {output}"));
        assert!(
            ran.stderr.contains(output) && ran.stderr.lines().count() == 1,
            "compile -o {output}: {ran}"
        );
    }
    let ran = compile(folder);
    ran.expect_code(125, "compile -o into a directory's name");
    let names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().starts_with(".wrun")),
        "left behind: {names:?}"
    );
    // A link stays a link, and its target is replaced.
    let target = write(folder, "target", "old");
    let link = folder.join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    compile(&link).expect_code(0, "compile -o LINK");
    assert!(
        fs::symlink_metadata(&link).unwrap().is_symlink(),
        "the link was replaced"
    );
    assert!(
        fs::metadata(&target).unwrap().len() > 1000,
        "its target was not written"
    );
}

/// Whether `compile -o FIFO` writes into the fifo; tried before any device is.
fn writes_through(folder: &Path, task: &Path) -> bool {
    let fifo = folder.join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let reading = {
        let fifo = fifo.clone();
        std::thread::spawn(move || fs::read(fifo).map_or(0, |bytes| bytes.len()))
    };
    let ran = Wrun::new()
        .args(["compile", "-o"])
        .arg(&fifo)
        .arg(task)
        .run();
    use std::os::unix::fs::FileTypeExt;
    if !fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo() {
        return false;
    }
    ran.expect_code(0, "compile -o FIFO");
    reading.join().unwrap() > 1000
}

#[test]
fn inspect_tells_each_shape() {
    for (task, shape, _, _) in SHAPES {
        let ran = Wrun::new().arg("inspect").arg(guest(task)).run();
        ran.expect_code(0, task);
        let text = ran.text();
        for row in [
            "task ",
            "shape ",
            "size ",
            "blake3 ",
            "functions ",
            "grants ",
            "export ",
        ] {
            assert!(
                text.lines().any(|line| line.starts_with(row)),
                "{task}: no row {row:?} in\n{text}"
            );
        }
        let ran = Wrun::new()
            .args(["inspect", "--json"])
            .arg(guest(task))
            .run();
        ran.expect_code(0, task);
        assert_eq!(ran.text().lines().count(), 1, "{task}: {ran}");
        let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(json["shape"], json!(shape), "{task}: {json}");
        assert_eq!(json["refused"], Value::Null, "{task}: {json}");
        let size = fs::metadata(guest(task)).unwrap().len();
        assert_eq!(json["size"], json!(size), "{task}");
        assert!(json["functions"].as_u64() > Some(0), "{task}: {json}");
    }
    // What each would have to be granted.
    for (task, grants) in [
        ("cat/cat.wasm", json!([])),
        ("files/files.wasm", json!(["--dir"])),
    ] {
        let ran = Wrun::new()
            .args(["inspect", "--json"])
            .arg(guest(task))
            .run();
        let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(json["grants"], grants, "{task}: {json}");
    }
    let ran = Wrun::new()
        .args(["inspect", "--json"])
        .arg(guest("tcp-client/tcp-client.wasm"))
        .run();
    let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let grants = json["grants"].as_array().unwrap();
    assert!(grants.contains(&json!("--allow-tcp")), "{json}");
    let ran = Wrun::new()
        .args(["inspect", "--json"])
        .arg(guest("family/family.wasm"))
        .run();
    let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let grants = json["grants"].as_array().unwrap();
    assert!(grants.contains(&json!("--task")), "{json}");
}

#[test]
fn inspect_tells_why_a_file_is_not_a_task() {
    for task in [
        "hostile/no-entry.wat",
        "hostile/missing-memory.wat",
        "hostile/imports-later.wat",
    ] {
        let ran = Wrun::new().arg("inspect").arg(guest(task)).run();
        ran.expect_code(126, task);
        assert!(
            ran.text().lines().any(|line| line.starts_with("refused ")),
            "{task}: {ran}"
        );
        let ran = Wrun::new()
            .args(["inspect", "--json"])
            .arg(guest(task))
            .run();
        ran.expect_code(126, task);
        let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(json["shape"], Value::Null, "{task}: {json}");
        assert!(json["refused"].is_string(), "{task}: {json}");
    }
    Wrun::new()
        .arg("inspect")
        .arg(guest("no-such-file.wasm"))
        .run()
        .expect_code(127, "inspect a file that is not there");
    for task in [
        "not-wasm.wasm",
        "truncated.wasm",
        "empty.wasm",
        "deep-parentheses.wat",
    ] {
        let ran = Wrun::new()
            .arg("inspect")
            .arg(guest("hostile").join(task))
            .run();
        ran.expect_code(126, task);
        assert!(
            ran.stderr.starts_with("wrun: ") && ran.stderr.lines().count() == 1,
            "{task}: {ran}"
        );
    }
}

#[test]
fn inspect_and_running_agree_about_every_guest() {
    let manifest = fs::read_to_string(guest("manifest.json")).unwrap();
    let manifest: Vec<Value> = serde_json::from_str(&manifest).unwrap();
    let mut wrong = Vec::new();
    for case in &manifest {
        let task = case["guest"].as_str().unwrap();
        if case["built_on_demand"] == json!(true) {
            continue;
        }
        let ran = Wrun::new().arg("inspect").arg(guest(task)).run();
        let refused = case["expect"]["outcome"] == json!("refused");
        if (ran.code() != 0) != refused {
            wrong.push(format!("{task}: inspect gives {}: {ran}", ran.code()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn inspect_tells_what_an_artifact_was_made_of() {
    let scratch = scratch();
    let artifact = scratch.path().join("artifact");
    Wrun::new()
        .args(["compile", "--metered", "-o"])
        .arg(&artifact)
        .arg(guest("cat/cat.wasm"))
        .run()
        .expect_code(0, "compile");
    let ran = Wrun::new().arg("inspect").arg(&artifact).run();
    ran.expect_code(0, "inspect an artifact");
    let text = ran.text();
    assert!(
        text.contains("compiled") && text.contains("metered"),
        "{text}"
    );
    let ran = Wrun::new().args(["inspect", "--json"]).arg(&artifact).run();
    let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(json["shape"], json!("command-module"), "{json}");
    assert!(json["compiled"].is_string(), "{json}");
}

#[test]
fn completions_for_each_shell() {
    let scratch = scratch();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = Wrun::new().args(["completions", shell]).run();
        ran.expect_code(0, shell);
        for word in ["--allow-tcp", "--max-memory", "inspect", "completions"] {
            // fish has option names without their dashes.
            let word = word.trim_start_matches('-');
            assert!(ran.text().contains(word), "{shell}: no {word}");
        }
        let script = write(scratch.path(), shell, &ran.stdout);
        // Where the shell is there, its own syntax check.
        if ["bash", "zsh", "fish"].contains(&shell) && tool::available(shell) {
            let mut check = std::process::Command::new(shell);
            let output = check.arg("-n").arg(&script).output().unwrap();
            assert!(output.status.success(), "{shell} -n: {output:?}");
        }
    }
    Wrun::new()
        .arg("completions")
        .run()
        .expect_code(2, "no shell");
    Wrun::new()
        .args(["completions", "cmd.exe"])
        .run()
        .expect_code(2, "no such shell");
}

#[test]
fn the_manual_page_has_everything() {
    let ran = Wrun::new().arg("man").run();
    ran.expect_code(0, "man");
    let page = ran.text().replace("\\-", "-");
    assert!(page.contains(".TH wrun 1"), "no title: {page}");
    for word in [
        "--mode",
        "--dir",
        "--report",
        "WRUN-INSPECT",
        "WRUN-COMPILE",
        "--metered",
        "EXIT STATUS",
        "137",
        "ENVIRONMENT",
        "WRUN_CACHE_DIR",
        "FILES",
        "SEE ALSO",
        "\\fBwrun compile\\fR [\\fIOPTIONS\\fR] \\fB-o\\fR \\fIARTIFACT\\fR \\fITASK\\fR",
    ] {
        assert!(page.contains(word), "the manual page lacks {word}");
    }
    // Each of its commands has a page, which refers to all others and to this one.
    let names = [
        "run",
        "inspect",
        "compile",
        "compare",
        "serve",
        "completions",
        "man",
    ];
    let pages = names.map(|name| (Some(name), Wrun::new().args(["man", name]).run()));
    for (name, ran) in [(None, ran)].into_iter().chain(pages) {
        ran.expect_code(0, "man");
        let page = ran.text().replace("\\-", "-");
        let title = name.map_or("wrun".to_owned(), |name| format!("wrun-{name}"));
        assert!(
            page.contains(&format!(".TH {title} 1 ")),
            "{name:?}: {page}"
        );
        let headings = page.lines().filter_map(|line| line.strip_prefix(".SH "));
        let headings: Vec<_> = headings.map(|it| it.trim_matches('"')).collect();
        let mut once = headings.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), headings.len(), "{name:?}: {headings:?}");
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "EXIT STATUS",
            "ENVIRONMENT",
            "FILES",
        ] {
            assert!(
                headings.contains(&section),
                "{name:?}: no {section} in {headings:?}"
            );
        }
        assert_eq!(headings.last(), Some(&"SEE ALSO"), "{name:?}");
        let (_, others) = page.rsplit_once("SEE ALSO").unwrap();
        for other in names {
            let is_there = others.contains(&format!("\\fBwrun-{other}\\fR(1)"));
            assert_eq!(is_there, name != Some(other), "{name:?}: {others}");
        }
        assert_eq!(
            others.contains("\\fBwrun\\fR(1)"),
            name.is_some(),
            "{name:?}"
        );
    }
}

#[test]
fn version_is_the_packages() {
    let ran = Wrun::new().arg("--version").run();
    ran.expect_code(0, "--version");
    assert_eq!(
        ran.text(),
        concat!("wrun ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn help_names_every_option_and_its_default() {
    for args in [&["--help"][..], &["run", "--help"]] {
        let ran = Wrun::new().args(args).run();
        ran.expect_code(0, "help");
        let help = ran.text();
        for word in [
            "--mode",
            "--input",
            "--output",
            "--report",
            "--stats",
            "--timeout",
            "--fuel",
            "--max-memory",
            "--max-output",
            "--max-input",
            "--dir",
            "--env",
            "--allow-tcp",
            "--allow-precompiled",
            "--no-cache",
            "--grace",
            "Process mode:",
            "--jail",
            "--uid",
            "--gid",
            "--retries",
            "--start",
            "--spares",
            "--reuse",
            "--workers",
            "--idle-timeout",
            "512MiB",
            "16MiB",
            "64MiB",
            "process",
            "Exit status",
        ] {
            assert!(help.contains(word), "{args:?}: no {word} in\n{help}");
        }
    }
}

/// The examples of `--help`, typed into a shell as they stand there, in a folder
/// where the files that they name are.
/// The examples of `wrun COMMAND --help`, without what is said of them.
fn examples(command: &[&str]) -> Vec<String> {
    let help = Wrun::new().args(command).arg("--help").run().text();
    let lines = help
        .lines()
        .skip_while(|line| !line.starts_with("Examples:"))
        .skip(1)
        .take_while(|line| !line.is_empty());
    let examples = lines.map(|line| {
        let line = line.trim();
        // Two spaces separate an example from what it does.
        let example = line.split_once("  ").map_or(line, |(example, _)| example);
        assert!(example.starts_with("wrun "), "{example:?} is not one");
        example.to_owned()
    });
    let examples: Vec<_> = examples.collect();
    assert!(examples.len() >= 5, "no examples found in\n{help}");
    examples
}

/// Gives an example the files that it names, and starts it in their folder.
fn start_example(folder: &Path, example: &str, task: &[u8]) -> crate::support::command::Running {
    for word in example.split_whitespace() {
        // `--task` and `--route` have a name before it.
        let file = word.split_once('=').map_or(word, |(_, file)| file);
        if file.ends_with(".wasm") {
            write(folder, file, task);
        }
    }
    let path = format!("{}:/usr/bin:/bin", folder.join("bin").display());
    let mut sh = Wrun::program(Path::new("sh"))
        .args(["-c", example])
        .env("PATH", path);
    sh.command.current_dir(folder);
    sh.start()
}

fn folder_of_examples() -> tempfile::TempDir {
    let scratch = scratch();
    fs::create_dir(scratch.path().join("bin")).unwrap();
    own_copy(&scratch.path().join("bin"));
    scratch
}

#[test]
fn every_example_of_help_works() {
    let scratch = folder_of_examples();
    let folder = scratch.path();
    let task = fs::read(guest("hello-command/hello-command.wat")).unwrap();
    let handler = fs::read(guest("http-hello/http-hello.wasm")).unwrap();
    fs::create_dir(folder.join("photos")).unwrap();
    for name in ["in.png", "input"] {
        write(folder, name, "input");
    }
    for example in examples(&[]).iter().chain(&examples(&["run"])) {
        let mut running = start_example(folder, example, &task);
        drop(running.child.stdin.take());
        let ran = running.end();
        ran.expect_code(0, example);
        assert!(ran.stderr.is_empty(), "{example}: {ran}");
    }
    for example in examples(&["compare"]) {
        // It would take its time.
        let short = example.replace("compare ", "compare --runs 1 --budget 1s ");
        let file = match example.contains("--request") {
            true => &handler,
            false => &task,
        };
        let mut running = start_example(folder, &short, file);
        drop(running.child.stdin.take());
        let ran = running.end();
        ran.expect_code(0, &example);
        assert!(ran.stderr.is_empty(), "{example}: {ran}");
    }
}

#[test]
fn every_example_of_a_server_works() {
    let scratch = folder_of_examples();
    let folder = scratch.path();
    let app = fs::read(guest("http-hello/http-hello.wasm")).unwrap();
    for name in ["cert.pem", "key.pem"] {
        let file = crate::support::repo("tests/data/tls").join(name);
        fs::copy(file, folder.join(name)).unwrap();
    }
    let config = "[[route]]\nroute = '/'\napp = 'shop.wasm'\n";
    write(folder, "wrun.toml", config);
    for example in examples(&["serve"]) {
        // What else runs here may have these ports, and some are root's.
        let mut line = format!("exec {example}");
        for (address, own) in [
            ("0.0.0.0:443", "127.0.0.1:0"),
            ("127.0.0.1:9090", "127.0.0.1:0"),
        ] {
            line = line.replace(address, own);
        }
        if !line.contains("--addr ") {
            line = line.replace("wrun serve ", "wrun serve --addr 127.0.0.1:0 ");
        }
        let mut running = start_example(folder, &line, &app);
        drop(running.child.stdin.take());
        let stderr = running.child.stderr.take().unwrap();
        let mut said = std::io::BufReader::new(stderr).lines();
        let first = said.next().unwrap().unwrap();
        assert!(first.contains("listening on http"), "{example}: {first}");
        running.signal(Signal::TERM);
        let rest: Vec<_> = said.map(Result::unwrap).collect();
        running.end().expect_code(0, &example);
        let wanted =
            |line: &String| line.contains("health") || line.contains("no more connections");
        assert!(rest.iter().all(wanted), "{example}: {rest:?}");
    }
}

#[test]
fn a_worker_has_none_of_its_runners_descriptors() {
    let scratch = scratch();
    let program = own_copy(scratch.path());
    let task = guest("hostile/endless-sleep-run.wat");
    // A descriptor that a careless program leaves open for the programs it starts.
    let script = "exec 8</etc/passwd 9</dev/zero; exec \"$0\" --jail \"$2\" \"$1\"";
    // An ordinary user cannot look at a worker in its jail.
    let root = rustix::process::geteuid().is_root();
    let mut child = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(&program)
        .arg(&task)
        .arg(if root { "strict" } else { "off" })
        .env("WRUN_CACHE_DIR", crate::support::command::shared_cache())
        .stdin(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut held = Vec::new();
    let seen = within(PATIENCE, || {
        let processes = descendants(child.id().cast_signed());
        held = processes
            .into_iter()
            .filter(|(pid, _)| serves(*pid))
            .flat_map(|(pid, _)| fs::read_dir(format!("/proc/{pid}/fd")))
            .flatten()
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .map(|target| target.display().to_string())
            .collect();
        // A worker has begun once its event loop is there; its zygote has none.
        held.iter().any(|target| target.contains("eventpoll"))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen, "no worker began; it had {held:?}");
    let foreign: Vec<_> = held
        .iter()
        .filter(|it| it.starts_with("/") && *it != "/dev/null" && !it.starts_with("/memfd:"))
        .collect();
    assert!(foreign.is_empty(), "a worker holds {foreign:?}");
    assert_no_process_is_left(&program, "after the runner was killed");
}

#[test]
fn signals_that_are_ignored_stay_ignored() {
    for mode in MODES {
        let script = "trap '' HUP; exec \"$0\" --mode \"$1\" \"$2\" < \"$3\"";
        let scratch = scratch();
        let fifo = scratch.path().join("input");
        let made = std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap();
        assert!(made.success());
        let child = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(crate::support::wrun())
            .arg(mode)
            .arg(guest("cat/cat.wasm"))
            .arg(&fifo)
            .env("WRUN_CACHE_DIR", crate::support::command::shared_cache())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = fs::File::options().write(true).open(&fifo).unwrap();
        std::io::Write::write_all(&mut input, b"before ").unwrap();
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        let copying = within(PATIENCE, || {
            let threads = fs::read_dir(format!("/proc/{}/task", child.id()));
            threads.into_iter().flatten().flatten().any(|thread| {
                fs::read_to_string(thread.path().join("comm")).is_ok_and(|it| it == "wrun-copy\n")
            })
        });
        assert!(copying, "{mode}: no task began");
        rustix::process::kill_process(pid, Signal::HUP).unwrap();
        std::io::Write::write_all(&mut input, b"after").unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{mode}: {output:?}");
        assert_eq!(output.stdout, b"before after", "{mode}");
    }
}
