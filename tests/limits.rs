//! Every limit, broken by a guest that tries, in both modes; and after each the
//! same runner still runs a good task.

use crate::support::guests::PRINTS_AND_SLEEPS;
use crate::support::{BOTH, builder, guest, repo, runner, silent, still_works, wat};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use wrun::{
    Access, DirGrant, Input, Limit, Limits, Outcome, Report, Runner, Stdio, Task, TcpGrant,
    TrapKind,
};

const MIB: u64 = 1 << 20;

/// What a deadline may be late on a machine that is busy with other tests.
const SLACK: Duration = Duration::from_secs(20);

fn limits() -> Limits {
    Limits::default()
}

/// A limit that no test means to reach.
fn safety() -> Limits {
    limits().timeout(Duration::from_secs(60))
}

#[track_caller]
fn run(runner: &Runner, task: Task) -> Report {
    match runner.blocking_run(task) {
        Ok(report) => report,
        Err(error) => panic!("in {} mode the runner failed: {error:?}", runner.mode()),
    }
}

#[track_caller]
fn assert_exceeded(report: &Report, limit: Limit) {
    assert_eq!(
        report.outcome,
        Outcome::LimitExceeded(limit),
        "{} in {} mode (stderr: {})",
        report.name,
        report.mode,
        String::from_utf8_lossy(&report.stderr)
    );
}

#[track_caller]
fn assert_completed(report: &Report) {
    assert!(
        report.outcome.is_completed(),
        "{} in {} mode: {} (stderr: {})",
        report.name,
        report.mode,
        report.outcome,
        String::from_utf8_lossy(&report.stderr)
    );
}

// --- deadline -------------------------------------------------------------

#[test]
fn a_deadline_ends_whatever_a_guest_does() {
    let timeout = Duration::from_millis(200);
    for mode in BOTH {
        let runner = runner(mode);
        for path in [
            "hostile/endless-loop.wat",
            "hostile/endless-loop-run.wat",
            "hostile/endless-sleep.wat",
            "hostile/endless-sleep-run.wat",
            "hostile/start-loops.wat",
            "hostile/realloc-loops.wat",
            "hostile/yield-forever.wat",
            "hostile/deaf-to-cancel.wat",
            "patient/patient.wasm",
        ] {
            let artifact = guest(&runner, path);
            let input = if path.contains("realloc") { "x" } else { "" };
            let task = Task::new(&artifact)
                .input(input)
                .limits(limits().timeout(timeout));
            let report = run(&runner, task);
            assert_exceeded(&report, Limit::Deadline);
            assert!(
                report.stats.total >= timeout && report.stats.total < timeout + SLACK,
                "{path} in {mode} mode ended after {:?}, its deadline was {timeout:?}",
                report.stats.total
            );
        }
        still_works(&runner);
    }
}

#[tokio::test]
async fn a_guest_that_sleeps_holds_up_neither_its_output_nor_its_deadline() {
    for mode in BOTH {
        let runner = runner(mode);
        let sleeps = wat(&runner, "sleeps.wat", PRINTS_AND_SLEEPS);
        let task = Task::new(&sleeps).stdout(Stdio::Stream).limits(safety());
        let mut handle = runner.submit(task).await.unwrap();
        let mut stdout = handle.take_stdout().expect("streamed");
        let chunk = tokio::time::timeout(SLACK, stdout.next_chunk()).await;
        let chunk = chunk.unwrap_or_else(|_| panic!("its output waits for it in {mode} mode"));
        assert_eq!(chunk.expect("output"), "before it sleeps");
        drop(handle);

        let task = Task::new(&sleeps).limits(limits().timeout(Duration::from_millis(200)));
        let report = runner.submit(task).await.unwrap().report().await.unwrap();
        assert_exceeded(&report, Limit::Deadline);
        assert_eq!(report.stdout, "before it sleeps", "in {mode} mode");
        // Only the sandbox itself knows; a worker that was killed says
        // nothing.
        assert!(
            report.stats.peak_memory_bytes.is_some(),
            "the sandbox did not end the task in {mode} mode"
        );
    }
}

#[test]
fn a_deadline_ends_a_read_from_a_silent_stdin() {
    for mode in BOTH {
        let runner = runner(mode);
        // A command waits in a read of its own; for `run` the host waits.
        for path in ["hostile/stdin-forever.wat", "echo/echo.wat"] {
            let artifact = guest(&runner, path);
            let task = Task::new(&artifact)
                .input(silent())
                .limits(limits().timeout(Duration::from_millis(200)));
            assert_exceeded(&run(&runner, task), Limit::Deadline);
        }
        still_works(&runner);
    }
}

#[test]
fn waiting_in_the_queue_counts_towards_the_deadline() {
    for mode in BOTH {
        let runner = builder(mode).max_running(1).build().unwrap();
        let patient = guest(&runner, "patient/patient.wasm");
        let long = Task::new(&patient).limits(safety()).grace(Duration::ZERO);
        let mut running = runner.blocking_submit(long).unwrap();
        let short = Task::new(&patient).limits(limits().timeout(Duration::from_millis(150)));
        let report = runner
            .blocking_submit(short)
            .unwrap()
            .blocking_report()
            .unwrap();
        assert_exceeded(&report, Limit::Deadline);
        assert!(
            report.stats.queue >= Duration::from_millis(150),
            "in {mode} mode it waited {:?}",
            report.stats.queue
        );
        assert_eq!(report.stats.run, Duration::ZERO, "it never ran ({mode})");
        running.kill();
        assert_eq!(
            running.blocking_report().unwrap().outcome,
            Outcome::Cancelled
        );
        still_works(&runner);
    }
}

#[test]
fn a_deadline_of_zero_runs_nothing() {
    for mode in BOTH {
        let runner = runner(mode);
        let echo = guest(&runner, "echo/echo.wat");
        let task = Task::new(&echo).limits(limits().timeout(Duration::ZERO));
        assert_exceeded(&run(&runner, task), Limit::Deadline);
        let task = Task::new(&echo).limits(limits().timeout(Duration::MAX));
        assert_completed(&run(&runner, task));
    }
}

// --- fuel -----------------------------------------------------------------

#[test]
fn fuel_runs_out_at_the_same_place_in_both_modes() {
    for path in [
        "hostile/endless-loop-run.wat",
        "hostile/fuel-burner.wat",
        "hostile/endless-loop.wat",
        "hostile/start-loops.wat",
    ] {
        let used = BOTH.map(|mode| {
            let runner = runner(mode);
            let artifact = guest(&runner, path);
            let task = Task::new(&artifact).limits(safety().fuel(1_000_000));
            let report = run(&runner, task);
            assert_exceeded(&report, Limit::Fuel);
            still_works(&runner);
            report.stats.fuel.expect("fuel is counted")
        });
        assert!(used[0] <= 1_000_000, "{path} used {} of 1,000,000", used[0]);
        assert_eq!(used[0], used[1], "{path}: thread and process");
    }
}

#[test]
fn fuel_that_suffices_is_counted_and_the_same_each_time() {
    let used = BOTH.map(|mode| {
        let runner = builder(mode).metered(true).build().unwrap();
        let kernel = guest(&runner, "mandelbrot/mandelbrot.wasm");
        let task = || {
            Task::new(&kernel)
                .input("64 64 100")
                .limits(limits().fuel(1 << 40))
        };
        let [first, second] = [run(&runner, task()), run(&runner, task())];
        assert_completed(&first);
        assert_eq!(first.stats.fuel, second.stats.fuel, "in {mode} mode");
        // Without a limit nothing is counted, and it runs all the same.
        let free = run(&runner, Task::new(&kernel).input("64 64 100"));
        assert_completed(&free);
        assert_eq!(free.stats.fuel, None, "in {mode} mode");
        first.stats.fuel
    });
    assert_eq!(used[0], used[1], "fuel in thread and in process mode");
    assert!(used[0] > Some(100_000), "{used:?}");
}

// --- memory, tables, instances --------------------------------------------

#[test]
fn memory_is_bounded_over_all_memories_tables_and_instances() {
    for mode in BOTH {
        let runner = runner(mode);
        for path in [
            "hostile/memory-bomb.wat",
            "hostile/memory-bomb-many.wat",
            "hostile/memory-bomb-initial.wat",
            "hostile/table-bomb.wat",
            "hostile/table-initial.wat",
            "hostile/many-instances.wat",
        ] {
            let limit = if path.contains("table") {
                Limit::TableElements
            } else {
                Limit::Memory
            };
            let artifact = guest(&runner, path);
            let report = run(
                &runner,
                Task::new(&artifact).limits(safety().max_memory(64 * MIB)),
            );
            assert_exceeded(&report, limit);
            let peak = report.stats.peak_memory_bytes.expect("measured");
            assert!(peak <= 64 * MIB, "{path} in {mode} mode took {peak} bytes");
            assert!(report.stats.memory_growth_refused > 0, "{path} in {mode}");
        }
        let many = guest(&runner, "hostile/memory-bomb-many.wat");
        let enough = Task::new(&many).limits(safety().max_memory(256 * MIB));
        assert_completed(&run(&runner, enough));
        still_works(&runner);
    }
}

#[test]
fn refused_growth_does_not_end_a_guest_that_lives_with_it() {
    for mode in BOTH {
        let runner = runner(mode);
        let polite = guest(&runner, "hostile/memory-greedy-polite.wat");
        let report = run(
            &runner,
            Task::new(&polite).limits(safety().max_memory(64 * MIB)),
        );
        assert_completed(&report);
        assert!(report.stats.memory_growth_refused > 0, "in {mode} mode");
        assert!(report.stats.peak_memory_bytes <= Some(64 * MIB));
    }
}

/// A command with two memories and a table: grows each by turns, tells by its
/// exit code what it was refused at first: 1 and 2 the memories, 3 the table.
const GROWS: &str = r#"
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (memory $other 1)
  (table $table 1 funcref)
  (func (export "_start")
    (loop $more
      (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (call $exit (i32.const 1))))
      (if (i32.eq (memory.grow $other (i32.const 16)) (i32.const -1)) (then (call $exit (i32.const 2))))
      (if (i32.eq (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1))
        (then (call $exit (i32.const 3))))
      (br $more))))"#;

#[test]
fn a_command_is_refused_memory_and_table_alike() {
    for mode in BOTH {
        let runner = runner(mode);
        let grows = wat(&runner, "grows.wat", GROWS);
        let code = |limits| run(&runner, Task::new(&grows).limits(limits)).outcome;
        // 18 pages at first, then 17 a round: the limit is a sum, so the large
        // steps of the second memory meet it first.
        let memory = safety().max_memory(20 * 65536);
        assert_eq!(code(memory), Outcome::Exited(2), "in {mode} mode");
        let table = safety().max_table_elements(1_500);
        assert_eq!(code(table), Outcome::Exited(3), "in {mode} mode");
    }
}

#[test]
fn instances_of_a_component_are_counted() {
    for mode in BOTH {
        let runner = runner(mode);
        let many = guest(&runner, "hostile/many-instances.wat");
        let task = |instances| {
            Task::new(&many).limits(safety().max_memory(1 << 30).max_instances(instances))
        };
        assert_exceeded(&run(&runner, task(100)), Limit::Instances);
        assert_completed(&run(&runner, task(1_000)));
        still_works(&runner);
    }
}

// --- output ---------------------------------------------------------------

#[test]
fn captured_output_is_bounded() {
    for mode in BOTH {
        let runner = runner(mode);
        let huge = guest(&runner, "hostile/huge-output.wat");
        assert_exceeded(&run(&runner, Task::new(&huge)), Limit::Output);
        let enough = Task::new(&huge).limits(safety().max_output(48 * MIB));
        assert_eq!(run(&runner, enough).stdout.len() as u64, 48 * MIB, "{mode}");

        let report = |path, limits: Limits| {
            let artifact = guest(&runner, path);
            run(&runner, Task::new(&artifact).limits(limits))
        };
        let flood = report("hostile/stdout-flood.wat", safety().max_output(MIB));
        assert_exceeded(&flood, Limit::Output);
        assert_eq!(flood.stdout.len() as u64, MIB, "in {mode} mode");
        let flood = report("hostile/stdout-flood.wat", safety());
        assert_exceeded(&flood, Limit::Output);
        assert_eq!(flood.stdout.len() as u64, Limits::CAPTURE_DEFAULT, "{mode}");
        let flood = report("hostile/stderr-flood.wat", safety().max_output(MIB));
        assert_exceeded(&flood, Limit::Output);
        assert_eq!(flood.stderr.len() as u64, MIB, "in {mode} mode");
        still_works(&runner);
    }
}

#[test]
fn an_output_limit_is_exact() {
    for mode in BOTH {
        let runner = runner(mode);
        // Small output travels with the outcome, large output behind it.
        for size in [0usize, 1, 1000, 300_000] {
            for path in ["echo/echo.wat", "cat/cat.wasm"] {
                let artifact = guest(&runner, path);
                let task = |max: usize| {
                    Task::new(&artifact)
                        .input(vec![7; size])
                        .limits(safety().max_output(max as u64))
                };
                let report = run(&runner, task(size));
                assert_completed(&report);
                assert_eq!(report.stdout.len(), size, "{path} in {mode} mode");
                if size > 0 {
                    assert_exceeded(&run(&runner, task(size - 1)), Limit::Output);
                }
            }
        }
    }
}

#[tokio::test]
async fn streamed_output_has_the_limit_it_is_given() {
    for mode in BOTH {
        let runner = runner(mode);
        for (path, is_stdout) in [
            ("hostile/stdout-flood.wat", true),
            ("hostile/stderr-flood.wat", false),
            ("hostile/huge-output.wat", true),
        ] {
            let artifact = guest(&runner, path);
            let task = Task::new(&artifact)
                .stdout(Stdio::Stream)
                .stderr(Stdio::Stream)
                .limits(safety().max_output(2 * MIB));
            let mut handle = runner.submit(task).await.unwrap();
            let mut stdout = handle.take_stdout().expect("streamed");
            let mut stderr = handle.take_stderr().expect("streamed");
            let read = async move {
                let (mut out, mut err) = (Vec::new(), Vec::new());
                tokio::join!(
                    async { stdout.read_to_end(&mut out).await.unwrap() },
                    async { stderr.read_to_end(&mut err).await.unwrap() },
                );
                if is_stdout { out.len() } else { err.len() }
            };
            let (len, report) = tokio::join!(read, handle.report());
            assert_exceeded(&report.unwrap(), Limit::Output);
            assert!(len as u64 <= 2 * MIB, "{path} in {mode}: {len} bytes came");
            if !path.contains("huge") {
                assert_eq!(len as u64, 2 * MIB, "{path} in {mode} mode");
            }
        }
    }
}

#[tokio::test]
async fn streamed_output_without_a_limit_has_none() {
    for mode in BOTH {
        let runner = runner(mode);
        let flood = guest(&runner, "hostile/stdout-flood.wat");
        let task = Task::new(&flood).stdout(Stdio::Stream).limits(safety());
        let mut handle = runner.submit(task).await.unwrap();
        let mut stdout = handle.take_stdout().expect("streamed");
        let mut len = 0;
        while len <= 4 * Limits::CAPTURE_DEFAULT {
            len += stdout.next_chunk().await.expect("more").len() as u64;
        }
        handle.kill();
        assert_eq!(handle.report().await.unwrap().outcome, Outcome::Cancelled);
    }
}

#[test]
fn discarded_output_has_the_limit_it_is_given() {
    for mode in BOTH {
        let runner = runner(mode);
        let flood = guest(&runner, "hostile/stdout-flood.wat");
        let task = Task::new(&flood)
            .stdout(Stdio::Null)
            .limits(safety().max_output(20 * MIB));
        let report = run(&runner, task);
        assert_exceeded(&report, Limit::Output);
        assert!(report.stdout.is_empty(), "nothing is kept in {mode} mode");
    }
}

// --- input ----------------------------------------------------------------

#[test]
fn input_is_bounded_exactly() {
    for mode in BOTH {
        let runner = runner(mode);
        // Small input travels with the order, large input behind it.
        for size in [1usize, 1000, 300_000] {
            for path in ["echo/echo.wat", "cat/cat.wasm"] {
                let artifact = guest(&runner, path);
                for by_reader in [false, true] {
                    let task = |max: usize| {
                        let input = if by_reader {
                            Input::reader(tokio::io::repeat(9).take(size as u64))
                        } else {
                            Input::bytes(vec![9; size])
                        };
                        Task::new(&artifact)
                            .input(input)
                            .limits(safety().max_input(max as u64))
                    };
                    let report = run(&runner, task(size));
                    assert_completed(&report);
                    assert_eq!(report.stdout.len(), size, "{path} in {mode} mode");
                    assert_exceeded(&run(&runner, task(size - 1)), Limit::Input);
                }
            }
        }
        still_works(&runner);
    }
}

#[test]
fn input_without_an_end_meets_the_default_limit_of_run() {
    for mode in BOTH {
        let runner = runner(mode);
        let echo = guest(&runner, "echo/echo.wat");
        let task = Task::new(&echo)
            .input(Input::reader(tokio::io::repeat(0)))
            .limits(safety());
        assert_exceeded(&run(&runner, task), Limit::Input);
        still_works(&runner);
    }
}

// --- stack ----------------------------------------------------------------

/// Recursion without an end with calls into host code that itself does some
/// work: random bytes into a buffer of 4 KiB.
const DEEP_RANDOM: &str = r#"
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $deeper (param i32) (result i32)
    (drop (call $random (i32.const 0) (i32.const 4096)))
    (i32.add (call $deeper (local.get 0)) (i32.const 1)))
  (func (export "_start") (drop (call $deeper (i32.const 0)))))"#;

/// The same for a task that exports `run`: the component's way to the host.
const DEEP_CONTEXT: &str = r#"
(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func $deeper (param i64) (result i32)
    (call $progress (local.get 0) (i32.const 0) (i64.const 0))
    (i32.add (call $deeper (i64.add (local.get 0) (i64.const 1))) (i32.const 1)))
  (func (export "run") (param i32 i32) (result i32) (call $deeper (i64.const 0))))"#;

#[test]
fn a_stack_overflow_is_the_guests_alone() {
    for mode in BOTH {
        let runner = runner(mode);
        let mut guests = vec![
            guest(&runner, "hostile/stack-overflow.wat"),
            guest(&runner, "hostile/stack-overflow-host.wat"),
            guest(&runner, "hostile/realloc-recursion.wat"),
        ];
        guests.push(wat(&runner, "deep-random.wat", DEEP_RANDOM));
        guests.push(wat(&runner, "deep-context.wat", DEEP_CONTEXT));
        for artifact in &guests {
            for _ in 0..5 {
                let report = run(&runner, Task::new(artifact).input("x").limits(safety()));
                match &report.outcome {
                    Outcome::Trapped(trap) if trap.kind == TrapKind::StackOverflow => {}
                    other => panic!("{} in {mode} mode: {other}", artifact.name()),
                }
            }
        }
        still_works(&runner);
    }
}

// --- grants ---------------------------------------------------------------

fn denied(report: &Report, access: Access, target: &str) -> bool {
    report
        .denied
        .iter()
        .any(|denial| denial.access == access && denial.target == target && denial.count > 0)
}

#[track_caller]
fn assert_denied(report: &Report, access: Access, target: &str) {
    assert!(
        denied(report, access, target),
        "{} in {} mode: {} {target:?} is not among the denied: {:?}",
        report.name,
        report.mode,
        access.name(),
        report.denied
    );
}

/// A directory with a file, a directory beside it with a secret, and ways out.
fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let granted = root.path().join("granted");
    std::fs::create_dir_all(granted.join("sub")).unwrap();
    std::fs::write(granted.join("file"), "inside\n").unwrap();
    std::fs::write(granted.join("sub/file"), "below\n").unwrap();
    std::fs::write(root.path().join("secret"), "secret\n").unwrap();
    std::os::unix::fs::symlink("../secret", granted.join("out")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", granted.join("absolute")).unwrap();
    std::os::unix::fs::symlink("sub/file", granted.join("in")).unwrap();
    root
}

#[test]
fn a_directory_grant_ends_at_its_directory() {
    for mode in BOTH {
        let runner = runner(mode);
        let files = guest(&runner, "files/files.wasm");
        let root = tree();
        let granted = root.path().join("granted");
        let run = |args: &[&str], grant: Option<DirGrant>| {
            let mut task = Task::new(&files)
                .args(args.iter().copied())
                .limits(safety());
            if let Some(grant) = grant {
                task = task.dir(grant);
            }
            run(&runner, task)
        };
        let read_write = || Some(DirGrant::new(&granted).guest("/d"));
        let read_only = || read_write().map(DirGrant::read_only);

        for (path, expected) in [("/d/file", "inside\n"), ("/d/in", "below\n")] {
            let report = run(&["read", path], read_only());
            assert_completed(&report);
            assert_eq!(report.stdout, expected, "{path} in {mode} mode");
            assert!(report.denied.is_empty(), "{:?}", report.denied);
        }
        // Out: by `..`, by a link that says `..`, by one that says /etc, by name.
        for (path, target) in [
            ("/d/../secret", "../secret"),
            ("/d/sub/../../secret", "sub/../../secret"),
            ("/d/out", "out"),
            ("/d/absolute", "absolute"),
        ] {
            for grant in [read_only(), read_write()] {
                let report = run(&["read", path], grant);
                assert_eq!(report.outcome, Outcome::Exited(10), "{path}, {mode}");
                assert!(report.stdout.is_empty(), "{path} was read in {mode} mode");
                assert_denied(&report, Access::Path, target);
            }
        }
        let report = run(&["read", "/etc/passwd"], read_write());
        assert_eq!(report.outcome, Outcome::Exited(10), "in {mode} mode");
        // Changing what is read-only, each way.
        for (args, code, target) in [
            (&["write", "/d/new", "x"][..], 11, "new"),
            (&["append", "/d/file", "x"], 11, "file"),
            (&["remove", "/d/file"], 13, "file"),
            (&["mkdir", "/d/dir"], 13, "dir"),
            (&["link", "file", "/d/link"], 13, "link"),
        ] {
            let report = run(args, read_only());
            assert_eq!(report.outcome, Outcome::Exited(code), "{args:?}, {mode}");
            assert_denied(&report, Access::Write, target);
        }
        // Writing through a link that leads out.
        let report = run(&["append", "/d/out", "x"], read_write());
        assert_eq!(report.outcome, Outcome::Exited(11), "in {mode} mode");
        let secret = std::fs::read_to_string(root.path().join("secret")).unwrap();
        assert_eq!(secret, "secret\n", "a task in {mode} mode wrote outside");
        assert_eq!(
            std::fs::read_to_string(granted.join("file")).unwrap(),
            "inside\n"
        );
        assert!(!granted.join("new").exists() && !granted.join("dir").exists());
        // And all of it where it is granted.
        for args in [
            &["write", "/d/new", "text"][..],
            &["append", "/d/new", " more"],
            &["mkdir", "/d/dir"],
            &["copy", "/d/new", "/d/dir/copy"],
            &["remove", "/d/new"],
        ] {
            assert_completed(&run(args, read_write()));
        }
        let copy = std::fs::read_to_string(granted.join("dir/copy")).unwrap();
        assert_eq!(copy, "text more", "in {mode} mode");
        assert!(!granted.join("new").exists(), "removed in {mode} mode");

        let report = run(&["read", "/d/file"], None);
        assert_eq!(report.outcome, Outcome::Exited(10), "in {mode} mode");
        assert_denied(&report, Access::Directories, "");
    }
}

#[test]
fn a_grant_of_a_missing_directory_is_an_error() {
    for mode in BOTH {
        let runner = runner(mode);
        let files = guest(&runner, "files/files.wasm");
        for path in ["/nonexistent", "/etc/passwd"] {
            let error = runner
                .blocking_run(Task::new(&files).dir(DirGrant::new(path)))
                .expect_err("there is no such directory");
            assert_eq!(error.kind(), wrun::ErrorKind::InvalidTask, "{error}");
            assert!(!error.is_retryable() && error.to_string().contains(path));
        }
        still_works(&runner);
    }
}

#[test]
fn a_guest_sees_the_arguments_and_variables_that_it_is_given() {
    for mode in BOTH {
        let runner = runner(mode);
        let env = guest(&runner, "env/env.wasm");
        let task = Task::new(&env)
            .args(["one", "two three", "", "ü"])
            .env("A", "x=y")
            .env("B", "");
        let report = run(&runner, task);
        assert_completed(&report);
        assert_eq!(
            String::from_utf8_lossy(&report.stdout),
            "arg one\narg two three\narg \narg ü\nenv A=x=y\nenv B=\n",
            "in {mode} mode"
        );
        // Nothing of this process's own environment.
        let report = run(&runner, Task::new(&env));
        assert_eq!(report.stdout, "", "in {mode} mode");
    }
}

/// Answers each line with it in capitals.
fn shouting_server() -> (u16, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let answering = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in answering.incoming() {
            let answer = |mut stream: TcpStream| -> std::io::Result<()> {
                let mut line = String::new();
                BufReader::new(stream.try_clone()?).read_line(&mut line)?;
                stream.write_all(line.to_uppercase().as_bytes())
            };
            let _ = stream.and_then(answer);
        }
    });
    (listener.local_addr().unwrap().port(), listener)
}

#[test]
fn a_tcp_grant_is_for_one_address() {
    for mode in BOTH {
        let runner = runner(mode);
        let client = guest(&runner, "tcp-client/tcp-client.wasm");
        let (port, _listener) = shouting_server();
        // No server listens here, and no connection is allowed.
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        other.set_nonblocking(true).unwrap();
        let other_port = other.local_addr().unwrap().port();
        let task = |port: u16| {
            Task::new(&client)
                .args([format!("127.0.0.1:{port}"), "hello".into()])
                .limits(safety())
        };
        let grant = || TcpGrant::new("127.0.0.1", port).unwrap();

        let report = run(&runner, task(port).allow_tcp(grant()));
        assert_completed(&report);
        assert_eq!(report.stdout, "HELLO\n", "in {mode} mode");
        // Its libc looked for directories when it started.
        assert!(
            report
                .denied
                .iter()
                .all(|denial| denial.access == Access::Directories),
            "{:?}",
            report.denied
        );

        for (task, port) in [
            (task(other_port).allow_tcp(grant()), other_port),
            (task(port), port),
        ] {
            let report = run(&runner, task);
            assert_eq!(report.outcome, Outcome::Exited(1), "in {mode} mode");
            assert_denied(&report, Access::TcpConnect, &format!("127.0.0.1:{port}"));
        }
        assert!(
            other
                .accept()
                .is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock),
            "a connection that was not granted arrived ({mode} mode)"
        );
    }
}

/// Asks to resolve its input; answers two bytes: 0 and a handle, or 1 and an
/// error code.
const RESOLVES: &str = r#"
(module
  (import "wasi:sockets/instance-network@0.2.12" "instance-network" (func $network (result i32)))
  (import "wasi:sockets/ip-name-lookup@0.2.12" "resolve-addresses"
    (func $resolve (param i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 1024))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (local.get $size))))
  (func (export "run") (param $name i32) (param $length i32) (result i32)
    (call $resolve (call $network) (local.get $name) (local.get $length) (i32.const 64))
    ;; ok with the two bytes at 32
    (i32.store8 (i32.const 32) (i32.load8_u (i32.const 64)))
    (i32.store8 (i32.const 33) (i32.load8_u (i32.const 68)))
    (i32.store (i32.const 4) (i32.const 32))
    (i32.store (i32.const 8) (i32.const 2))
    (i32.const 0)))"#;

#[test]
fn names_are_resolved_when_they_are_granted() {
    const ACCESS_DENIED: u8 = 1;
    for mode in BOTH {
        let runner = runner(mode);
        let resolves = wat(&runner, "resolves.wat", RESOLVES);
        let task = |name: &str| Task::new(&resolves).input(name).limits(safety());
        let grant = || TcpGrant::new("localhost", 80).expect("localhost is a name");

        let report = run(&runner, task("localhost").allow_tcp(grant()));
        assert_completed(&report);
        assert_eq!(report.stdout.first(), Some(&0), "granted, in {mode} mode");
        assert!(report.denied.is_empty(), "{:?}", report.denied);
        for (task, name) in [
            (task("example.org").allow_tcp(grant()), "example.org"),
            (task("localhost"), "localhost"),
        ] {
            let report = run(&runner, task);
            assert_eq!(&report.stdout[..], [1, ACCESS_DENIED], "{name}, {mode}");
            assert_denied(&report, Access::NameLookup, name);
        }
    }
}

/// Binds a socket to 127.0.0.1:0, TCP for the input `t`, UDP for `u`; answers
/// 0, or 1 and an error code.
const BINDS: &str = r#"
(module
  (import "wasi:sockets/instance-network@0.2.12" "instance-network" (func $network (result i32)))
  (import "wasi:sockets/tcp-create-socket@0.2.12" "create-tcp-socket" (func $tcp (param i32 i32)))
  (import "wasi:sockets/udp-create-socket@0.2.12" "create-udp-socket" (func $udp (param i32 i32)))
  (import "wasi:sockets/tcp@0.2.12" "[method]tcp-socket.start-bind"
    (func $bind-tcp (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:sockets/udp@0.2.12" "[method]udp-socket.start-bind"
    (func $bind-udp (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "run") (param $input i32) (param $length i32) (result i32)
    (local $is-tcp i32)
    (local.set $is-tcp (i32.eq (i32.load8_u (local.get $input)) (i32.const 116)))
    (if (local.get $is-tcp)
      (then (call $tcp (i32.const 0) (i32.const 64)))
      (else (call $udp (i32.const 0) (i32.const 64))))
    (if (i32.eqz (i32.load8_u (i32.const 64)))
      (then
        (if (local.get $is-tcp)
          (then (call $bind-tcp (i32.load (i32.const 68)) (call $network)
            (i32.const 0) (i32.const 0) (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 80)))
          (else (call $bind-udp (i32.load (i32.const 68)) (call $network)
            (i32.const 0) (i32.const 0) (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
            (i32.const 80))))
        (i32.store8 (i32.const 32) (i32.load8_u (i32.const 80)))
        (i32.store8 (i32.const 33) (i32.load8_u (i32.const 81))))
      (else
        (i32.store8 (i32.const 32) (i32.const 2))
        (i32.store8 (i32.const 33) (i32.load8_u (i32.const 68)))))
    (i32.store (i32.const 4) (i32.const 32))
    (i32.store (i32.const 8) (i32.const 2))
    (i32.const 0)))"#;

#[test]
fn a_task_cannot_listen_or_send_datagrams() {
    for mode in BOTH {
        let runner = runner(mode);
        let binds = wat(&runner, "binds.wat", BINDS);
        for (input, access) in [("t", Access::TcpListen), ("u", Access::Udp)] {
            // Also with a grant to connect, which implies a bind of its own.
            for granted in [false, true] {
                let mut task = Task::new(&binds).input(input).limits(safety());
                if granted {
                    task = task.allow_tcp(TcpGrant::new("127.0.0.1", 80).unwrap());
                }
                let report = run(&runner, task);
                assert_completed(&report);
                assert_ne!(report.stdout[0], 0, "{input} was bound in {mode} mode");
                assert!(
                    report.denied.iter().any(|denial| denial.access == access),
                    "{input} in {mode} mode: {:?}, {:?}",
                    report.stdout,
                    report.denied
                );
            }
        }
    }
}

#[test]
fn denials_of_a_flood_are_bounded() {
    for mode in BOTH {
        let runner = runner(mode);
        let files = guest(&runner, "files/files.wasm");
        let long = format!("/d/{}/../../x", "y".repeat(2_000));
        let task = Task::new(&files)
            .args(["read", &long])
            .dir(DirGrant::new(repo("guest-tasks/inputs/tree")).guest("/d"));
        let report = run(&runner, task);
        assert!(
            report.denied.len() <= 64 && report.denied.iter().all(|d| d.target.len() <= 256),
            "in {mode} mode: {:?}",
            report.denied
        );
    }
}

// --- what a limit is told as -----------------------------------------------

/// Returns 140 MB: as what it made (0), or as why it failed (1).
const RETURNS: &str = r#"(module
    (memory (export "memory") 2200)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "run") (param $p i32) (param $n i32) (result i32)
        (i32.store (i32.const 0) (i32.const KIND))
        (i32.store (i32.const 4) (i32.const 4096))
        (i32.store (i32.const 8) (i32.const 140000000))
        (i32.const 0)))"#;

/// Hands 140 MB to a stream in one call.
const HANDS_OVER: &str = r#"(module
    (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.write"
        (func $write (param i32 i32 i32 i32)))
    (memory (export "memory") 2200)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "run") (param $p i32) (param $n i32) (result i32)
        (call $write (call $stdout) (i32.const 4096) (i32.const 140000000) (i32.const 16))
        unreachable))"#;

#[test]
fn output_of_run_may_be_as_large_as_its_limit() {
    let returns = |kind: &str| RETURNS.replace("KIND", kind);
    for mode in BOTH {
        let runner = runner(mode);
        let bytes = wat(&runner, "returns", &returns("0"));
        let words = wat(&runner, "fails", &returns("1"));
        let task = |artifact, output| Task::new(artifact).limits(safety().max_output(output));
        let report = run(&runner, task(&bytes, 1 << 30));
        assert_completed(&report);
        assert_eq!(report.stdout.len(), 140_000_000);
        // Over its limit, whether the host has seen it all or not.
        for limit in [MIB, 139_999_999] {
            let report = run(&runner, task(&bytes, limit));
            assert_exceeded(&report, Limit::Output);
            assert_eq!(report.limit_value, Some(limit));
        }
        assert_exceeded(&run(&runner, task(&words, MIB)), Limit::Output);
        let report = run(&runner, task(&words, 1 << 30));
        assert!(
            matches!(&report.outcome, Outcome::Failed(_)),
            "{}",
            report.outcome
        );
        still_works(&runner);
    }
}

#[test]
fn too_much_handed_over_by_one_call_is_a_limit_and_not_a_trap() {
    for mode in BOTH {
        let runner = runner(mode);
        let artifact = wat(&runner, "hands over", HANDS_OVER);
        let report = run(&runner, Task::new(&artifact).limits(safety()));
        assert_exceeded(&report, Limit::HostCall);
        assert_eq!(report.limit_value, Some(Limits::HOST_CALL));
        // Streams have limits of their own for a call; what is handed over may be more.
        let more = safety().max_output(1 << 30);
        let report = run(&runner, Task::new(&artifact).limits(more));
        assert!(
            matches!(&report.outcome, Outcome::Trapped(_)),
            "{}",
            report.outcome
        );
        still_works(&runner);
    }
}

#[test]
fn a_table_that_is_too_large_is_not_told_as_memory() {
    const GROWS: &str = r#"(module (memory (export "memory") 1) (table $t 1 funcref)
        (func (export "_start")
            (if (i32.eq (table.grow $t (ref.null func) (i32.const 100)) (i32.const -1))
                (then unreachable))))"#;
    for mode in BOTH {
        let runner = runner(mode);
        let artifact = wat(&runner, "grows", GROWS);
        assert_completed(&run(&runner, Task::new(&artifact).limits(safety())));
        let limits = safety().max_table_elements(100);
        let report = run(&runner, Task::new(&artifact).limits(limits));
        assert_exceeded(&report, Limit::TableElements);
        assert_eq!(report.limit_value, Some(100));
        assert_eq!(report.stats.memory_growth_refused, 1);
    }
}

/// Objects that refer to each other are collected when no other object refers to them.
#[test]
fn cycles_of_garbage_are_collected() {
    const CYCLES: &str = r#"(module
        (type $n (sub (struct (field $next (mut (ref null $n))) (field i64 i64 i64 i64))))
        (memory (export "memory") 1)
        (func (export "_start") (local $i i32) (local $a (ref null $n)) (local $b (ref null $n))
            (loop $l
                (local.set $a (struct.new_default $n))
                (local.set $b (struct.new_default $n))
                (struct.set $n $next (local.get $a) (local.get $b))
                (struct.set $n $next (local.get $b) (local.get $a))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $l (i32.lt_u (local.get $i) (i32.const 200000))))))"#;
    for mode in BOTH {
        let runner = runner(mode);
        let artifact = wat(&runner, "cycles", CYCLES);
        let report = run(
            &runner,
            Task::new(&artifact).limits(safety().max_memory(2 * MIB)),
        );
        assert_completed(&report);
    }
}

/// Bulk instructions of gigabytes look at the clock: a deadline ends them. How soon, the
/// tests beside the code say.
#[test]
fn a_deadline_ends_bulk_instructions() {
    const FILLS: &str = r#"(module (memory (export "memory") 1)
        (func (export "_start")
            (drop (memory.grow (i32.const 16000)))
            (loop $l
                (memory.fill (i32.const 0) (i32.const 1) (i32.const 1000000000))
                (memory.copy (i32.const 1) (i32.const 0) (i32.const 1000000000))
                (br $l))))"#;
    for mode in BOTH {
        let runner = runner(mode);
        let artifact = wat(&runner, "fills", FILLS);
        let limits = limits()
            .timeout(Duration::from_millis(300))
            .max_memory(2 << 30);
        let report = run(&runner, Task::new(&artifact).limits(limits));
        assert_exceeded(&report, Limit::Deadline);
        assert_eq!(report.limit_value, Some(300_000_000));
        assert!(report.stats.total < SLACK, "{:?}", report.stats.total);
    }
}

#[test]
fn names_in_traps_are_demangled_and_offsets_are_those_of_the_file() {
    // After an instruction that is changed before it is compiled.
    const BODY: &str = r#"(memory.fill (i32.const 0) (i32.const 0) (i32.load (i32.const 0)))
        (drop (i64.const 0x123456789abcdef)) unreachable"#;
    let module = format!(
        r#"(module (memory (export "memory") 1)
            (func $_ZN6shapes4areaEj {BODY})
            (func (export "_start") (call $_ZN6shapes4areaEj)))"#
    );
    let task = format!(
        r#"(module (memory (export "memory") 1)
            (func $_ZN4core9panicking5panic17h0123456789abcdefE {BODY})
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16))
            (func (export "run") (param i32 i32) (result i32)
                (call $_ZN4core9panicking5panic17h0123456789abcdefE) (i32.const 0)))"#
    );
    let binary = wat::parse_str(&module).unwrap();
    // The constant, drop, unreachable.
    let drop_and_unreachable = [
        0xef, 0x9b, 0xaf, 0xcd, 0xf8, 0xac, 0xd1, 0x91, 0x01, 0x1a, 0x00,
    ];
    let at = binary
        .windows(drop_and_unreachable.len())
        .position(|window| window == drop_and_unreachable)
        .unwrap();
    let place = format!("at shapes::area(unsigned int) (+{:#x})\n", at + 10);
    for mode in BOTH {
        let runner = runner(mode);
        for (text, expected) in [
            (&module, &*place),
            (&task, "at core::panicking::panic::h0123456789abcdef"),
        ] {
            let artifact = wat(&runner, "traps", text);
            let report = run(&runner, Task::new(&artifact).limits(safety()));
            match &report.outcome {
                Outcome::Trapped(trap) => {
                    assert!(trap.message.contains(expected), "{mode}: {}", trap.message);
                }
                other => panic!("{mode}: {other}"),
            }
        }
    }
}
