//! Job control as of any pipeline: Ctrl-Z stops `wrun` and all that it started, `fg` and
//! `bg` let all go on, and the task ends as without it.

use crate::support::command::{
    PATIENCE, Running, Wrun, await_task_of, scratch, shared_cache, write,
};
use crate::support::processes::{descendants, own_copy, processor_time, running, stat};
use crate::support::{BOTH, MODES, alone, builder, repo, settled, within, wrun};
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use wrun::{StopSignal, Task};

/// Longer than it takes to see that something computes.
const WHILE: Duration = Duration::from_millis(300);

/// `wrun` and all processes below it, with their state and time.
fn job(pid: i32) -> Vec<(i32, char, u64)> {
    let below = descendants(pid).into_iter().map(|(pid, _)| pid);
    let all = std::iter::once(pid).chain(below);
    all.filter_map(|pid| stat(pid).map(|(state, time)| (pid, state, time)))
        .collect()
}

fn is_stopped(pid: i32) -> bool {
    let job = job(pid);
    !job.is_empty() && job.iter().all(|(_, state, _)| *state == 'T')
}

/// A job that was stopped, once what was being started is stopped, too.
#[track_caller]
fn stopped_job(pid: i32, what: &str) -> Vec<(i32, char, u64)> {
    let job = settled(what, PATIENCE, || job(pid));
    let is_stopped = |(_, state, _): &(i32, char, u64)| matches!(state, 'T' | 'Z');
    assert!(job.iter().all(is_stopped), "{what}: {job:?}");
    job
}

/// Stops a job as a terminal does, and sees that all of it is stopped.
#[track_caller]
fn stop(job_of: &Running, what: &str) {
    job_of.signal_group(Signal::TSTP);
    let pid = job_of.pid();
    let stopped = within(PATIENCE, || is_stopped(pid));
    assert!(stopped, "{what}: not stopped: {:?}", job(pid));
}

/// Lets a job go on as `fg` does, and sees that it does.
#[track_caller]
fn go_on(job_of: &Running, what: &str) {
    job_of.signal_group(Signal::CONT);
    let pid = job_of.pid();
    let goes_on = within(PATIENCE, || {
        job(pid).iter().all(|(_, state, _)| *state != 'T')
    });
    assert!(goes_on, "{what}: stopped: {:?}", job(pid));
}

fn family() -> PathBuf {
    repo("guest-tasks/family/family.wasm")
}

/// `wrun` with a task that computes, for ever: by itself, or in a child of it.
fn busy(options: &[&str], child: bool) -> Wrun {
    let command = Wrun::new().args(options);
    match child {
        false => command.arg(repo("guest-tasks/hostile/endless-loop.wat")),
        true => command
            .arg(format!("--task=self={}", family().display()))
            .arg(family())
            .stdin("run self loop"),
    }
}

#[test]
fn a_stopped_job_computes_nothing_and_goes_on() {
    let options: [&[&str]; 4] = [
        &["--mode", "thread"],
        &["--mode", "process"],
        &["--mode", "process", "--start", "exec"],
        &["--mode", "process", "--spares", "2"],
    ];
    for options in options {
        for child in [false, true] {
            let what = format!("{options:?}, child {child}");
            let mut job_of = busy(options, child).start();
            if let Some(mut stdin) = job_of.child.stdin.take() {
                stdin.write_all(b"run self loop").unwrap();
            }
            job_of.await_task(options[1]);
            // A worker that was forked early and still waits for its task is not stopped: it
            // computes nothing either.
            let begun = within(PATIENCE, || processor_time(job_of.pid()) >= 5);
            assert!(begun, "{what}: {:?}", job(job_of.pid()));
            for _ in 0..3 {
                stop(&job_of, &what);
                let before = stopped_job(job_of.pid(), &what);
                std::thread::sleep(WHILE);
                assert_eq!(job(job_of.pid()), before, "{what}");
                go_on(&job_of, &what);
                let before = processor_time(job_of.pid());
                let computes = within(PATIENCE, || processor_time(job_of.pid()) >= before + 5);
                assert!(computes, "{what}: {:?}", job(job_of.pid()));
            }
            job_of.signal(Signal::INT);
            job_of.end().expect_code(130, &what);
        }
    }
}

#[test]
fn a_stopped_job_ends_as_if_it_was_not_stopped() {
    let starts: [&[&str]; 3] = [
        &["--mode", "thread"],
        &["--mode", "process"],
        &["--mode", "process", "--start", "exec"],
    ];
    for options in starts {
        let what = format!("{options:?}");
        let mut job_of = Wrun::new()
            .args(options)
            .args(["--timeout", "120s"])
            .arg(format!("--task=self={}", family().display()))
            .arg(family())
            .silent_stdin()
            .start();
        let mut stdin = job_of.child.stdin.take().unwrap();
        stdin.write_all(b"storm 300").unwrap();
        drop(stdin);
        // Wherever it is: while it loads, forks, ends.
        for pause in 0..15 {
            std::thread::sleep(Duration::from_millis(pause * 3));
            if job_of.child.try_wait().unwrap().is_some() {
                break;
            }
            job_of.signal_group(Signal::TSTP);
            std::thread::sleep(Duration::from_millis(30));
            job_of.signal_group(Signal::CONT);
        }
        let ran = job_of.end();
        ran.expect_code(0, &what);
        assert_eq!(ran.text(), "300 children", "{what}: {}", ran.stderr);
    }
}

#[test]
fn a_deadline_does_not_pass_while_a_job_is_stopped() {
    std::thread::scope(|scope| {
        for start in [
            ["--mode", "thread"],
            ["--start", "fork"],
            ["--start", "exec"],
        ] {
            scope.spawn(move || {
                let what = format!("{start:?}");
                let mode = if start[1] == "thread" {
                    "thread"
                } else {
                    "process"
                };
                let timed = |task: &str| {
                    let command = Wrun::new().args(start).args(["--timeout", "5s"]);
                    let command = command.arg(repo(task)).silent_stdin().start();
                    command.await_task(mode);
                    command
                };
                // It waits for its input, and may do so for some seconds more.
                let mut waiting = timed("guest-tasks/cat/cat.wasm");
                let late = timed("guest-tasks/hostile/endless-loop.wat");
                stop(&waiting, &what);
                stop(&late, &what);
                std::thread::sleep(Duration::from_secs(6));
                go_on(&waiting, &what);
                go_on(&late, &what);
                let mut stdin = waiting.child.stdin.take().unwrap();
                std::thread::sleep(WHILE);
                stdin.write_all(b"in time").unwrap();
                drop(stdin);
                let ran = waiting.end();
                ran.expect_code(0, &what);
                assert_eq!(ran.text(), "in time", "{what}");
                late.end().expect_code(124, &what);
            });
        }
    });
}

#[test]
fn a_stopped_job_can_be_ended() {
    for options in [
        ["--mode", "thread"],
        ["--start", "fork"],
        ["--start", "exec"],
    ] {
        let mode = if options[1] == "thread" {
            "thread"
        } else {
            "process"
        };
        let ends = [
            (Signal::INT, 130),
            (Signal::TERM, 143),
            (Signal::HUP, 129),
            (Signal::KILL, 137),
        ];
        for (signal, code) in ends {
            let what = format!("{options:?}, {signal:?}");
            let scratch = scratch();
            let program = own_copy(scratch.path());
            let job_of = Wrun::program(&program)
                .args(options)
                .arg(repo("guest-tasks/hostile/endless-loop.wat"))
                .start();
            job_of.await_task(mode);
            stop(&job_of, &what);
            job_of.signal(signal);
            if signal != Signal::KILL {
                job_of.signal(Signal::CONT);
            }
            job_of.end().expect_code(code, &what);
            let gone = within(PATIENCE, || running(&program).is_empty());
            assert!(gone, "{what}: {:?}", running(&program));
        }
    }
}

#[test]
fn jobs_without_a_shell_to_continue_them_are_not_stopped() {
    for mode in MODES {
        for (how, mut command) in [
            // A process group without a shell.
            ("orphaned", Command::new("setsid")),
            // A shell without job control.
            ("ignored", {
                let mut command = Command::new("env");
                command
                    .arg("--ignore-signal=TSTP,TTIN,TTOU")
                    .process_group(0);
                command
            }),
        ] {
            let mut child = command
                .arg(wrun())
                .args(["--mode", mode])
                .arg(repo("guest-tasks/cat/cat.wasm"))
                .env("WRUN_CACHE_DIR", shared_cache())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let pid = rustix::process::Pid::from_child(&child);
            await_task_of(child.id().cast_signed(), mode);
            for signal in [Signal::TSTP, Signal::TTIN, Signal::TTOU] {
                rustix::process::kill_process(pid, signal).unwrap();
                // Time to be stopped by it.
                std::thread::sleep(Duration::from_millis(100));
            }
            child.stdin.take().unwrap().write_all(b"went on").unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{mode}, {how}: {output:?}");
            assert_eq!(output.stdout, b"went on", "{mode}, {how}");
        }
    }
}

#[test]
fn compiling_and_comparing_are_stopped_too() {
    let scratch = scratch();
    // Compiled for seconds.
    let mut text = String::from("(module (memory (export \"memory\") 1)");
    for function in 0..2_500 {
        text += "(func (param i64) (result i64)";
        for step in 0..40 {
            let number = function * 41 + step;
            text += &format!("(local.set 0 (i64.mul (local.get 0) (i64.const {number})))");
        }
        text += "(local.get 0))";
    }
    let slow = write(
        scratch.path(),
        "slow.wat",
        text + "(func (export \"_start\")))",
    );
    let code = scratch.path().join("code");
    let compiling = Wrun::new()
        .args(["compile", "-o"])
        .args([&code, &slow])
        .cache(&scratch.path().join("cache"))
        .start();
    assert_computes_nothing(&compiling, "compile");
    compiling.end().expect_code(0, "compile");
    assert!(fs::metadata(&code).unwrap().len() > 0);

    let json = scratch.path().join("compared.json");
    let comparing = Wrun::new()
        .args([
            "compare",
            "--no-progress",
            "--only",
            "warm",
            "--only",
            "trap",
            "--only",
            "exec",
            "--json",
        ])
        .arg(&json)
        .args(["--budget", "3s"])
        .arg(repo("guest-tasks/hello/hello.wat"))
        .start();
    assert_computes_nothing(&comparing, "compare");
    for pause in [300, 700, 900] {
        std::thread::sleep(Duration::from_millis(pause));
        if stat(comparing.pid()).is_none_or(|(state, _)| state == 'Z') {
            break;
        }
        assert_computes_nothing(&comparing, "compare");
    }
    comparing.end().expect_code(0, "compare");
    let compared: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(compared["verdict"]["kind"], "comparable", "{compared}");
    for row in compared["isolation"].as_array().unwrap() {
        assert_eq!(row["finding"]["kind"], "measured", "{row}");
        let lost = row["finding"]["siblings_lost"].as_u64();
        let dies = row["mode"] == "thread" && row["fault"] == "exec";
        assert_eq!(lost, Some(if dies { 8 } else { 0 }), "{row}");
    }
}

/// Of a job that has processes below it, or has ended before.
#[track_caller]
fn assert_computes_nothing(job_of: &Running, what: &str) {
    let pid = job_of.pid();
    let ended = || stat(pid).is_none_or(|(state, _)| state == 'Z');
    let started = within(PATIENCE, || !descendants(pid).is_empty() || ended());
    assert!(started, "{what}");
    job_of.signal_group(Signal::TSTP);
    let stopped = within(PATIENCE, || is_stopped(pid) || ended());
    assert!(stopped, "{what}: not stopped: {:?}", job(pid));
    let before = stopped_job(pid, what);
    std::thread::sleep(WHILE);
    assert_eq!(job(pid), before, "{what}");
    job_of.signal_group(Signal::CONT);
}

/// At a terminal, with a shell: Ctrl-Z is pressed once the task runs.
#[test]
fn a_shell_stops_and_continues_it() {
    for mode in MODES {
        let scratch = scratch();
        let program = own_copy(scratch.path());
        let task = repo("guest-tasks/cat/cat.wasm");
        let fifo = scratch.path().join("input");
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        // The shell goes on when its job is stopped, and says how.
        let session = format!(
            "'{}' --mode {mode} --input '{}' '{}'\necho code $?\njobs\nfg\necho then $?\n",
            program.display(),
            fifo.display(),
            task.display()
        );
        let session = write(scratch.path(), "session", session);
        let mut terminal = Command::new("script")
            .args(["--quiet", "--return", "--command"])
            .arg(format!("bash -m '{}'", session.display()))
            .arg("/dev/null")
            .env("WRUN_CACHE_DIR", shared_cache())
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = fs::File::options().write(true).open(&fifo).unwrap();
        let all = |wanted: fn(char) -> bool| {
            let all = running(&program);
            let states = all.iter().filter_map(|(pid, _)| stat(*pid));
            all.len() >= if mode == "thread" { 1 } else { 2 }
                && states.into_iter().all(|(state, _)| wanted(state))
        };
        assert!(within(PATIENCE, || all(|state| state != 'T')), "{mode}");
        let mut keyboard = terminal.stdin.take().unwrap();
        keyboard.write_all(b"\x1a").unwrap();
        // The shell lets it go on at once.
        let _ = within(Duration::from_millis(500), || all(|state| state == 'T'));
        assert!(within(PATIENCE, || all(|state| state != 'T')), "{mode}");
        input.write_all(b"what it was given\n").unwrap();
        drop(input);
        let output = terminal.wait_with_output().unwrap();
        drop(keyboard);
        let seen = String::from_utf8_lossy(&output.stdout);
        assert!(seen.contains("code 148\r\n"), "{mode}: {seen:?}");
        assert!(seen.contains("Stopped"), "{mode}: {seen:?}");
        assert!(seen.contains("what it was given\r\n"), "{mode}: {seen:?}");
        assert!(seen.contains("then 0\r\n"), "{mode}: {seen:?}");
    }
}

/// The kernel stops what reads from the terminal in the background; in the foreground it reads.
#[test]
fn a_job_that_reads_from_its_terminal_stops_once() {
    const TIMES: usize = 12;
    for mode in MODES {
        let scratch = scratch();
        let task = repo("guest-tasks/cat/cat.wasm");
        let session = format!(
            "for time in $(seq {TIMES}); do\n\
             '{}' --mode {mode} '{}' &\n\
             until [ -n \"$(jobs -s)\" ]; do sleep 0.05; done\n\
             fg > /dev/null\necho code $?\nkill -9 $(jobs -p) 2> /dev/null\ndone\n",
            wrun().display(),
            task.display()
        );
        let session = write(scratch.path(), "session", session);
        let mut terminal = Command::new("script")
            .args(["--quiet", "--return", "--command"])
            .arg(format!("bash -m '{}'", session.display()))
            .arg("/dev/null")
            .env("WRUN_CACHE_DIR", shared_cache())
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keyboard = terminal.stdin.take().unwrap();
        // Each gets a line, and the end of its input.
        keyboard
            .write_all("typed\n\u{4}".repeat(TIMES).as_bytes())
            .unwrap();
        let output = terminal.wait_with_output().unwrap();
        drop(keyboard);
        let seen = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            seen.matches("code 0\r\n").count(),
            TIMES,
            "{mode}: {seen:?}"
        );
    }
}

/// An embedder's program does the same.
#[test]
fn a_program_suspends_itself_with_its_workers() {
    alone("jobs::a_program_suspends_itself_with_its_workers", || {
        for mode in BOTH {
            let runner = builder(mode).build().unwrap();
            let cat = runner
                .blocking_load(repo("guest-tasks/cat/cat.wasm"))
                .unwrap();
            let (reader, mut writer) = tokio::io::duplex(64);
            let limits = wrun::Limits::default().timeout(Duration::from_secs(3));
            let task = Task::new(&cat)
                .input(wrun::Input::reader(reader))
                .limits(limits);
            let mut handle = runner.blocking_submit(task).unwrap();
            let before = wrun::time_suspended();
            let mut waker = Command::new("sh")
                .arg("-c")
                .arg(format!("sleep 4; kill -CONT {}", std::process::id()))
                .spawn()
                .unwrap();
            wrun::suspend(StopSignal::Always);
            assert!(wrun::time_suspended() > before, "{mode}");
            std::thread::sleep(WHILE);
            waker.wait().unwrap();
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                use tokio::io::AsyncWriteExt;
                writer.write_all(b"in time").await.unwrap();
            });
            drop(writer);
            let report = handle.blocking_report().unwrap();
            assert_eq!(report.stdout, "in time", "{mode}: {}", report.outcome);
        }
    });
}
