//! `wrun compare`: what it measures is there, beside its floor and in both modes; what
//! is slower is seen to be; what is wrong is found out; what cannot be compared is not.

use crate::support::command::{Ran, Wrun, scratch, write};
use crate::support::manifest::{files, grants, guests, manifest, text, title};
use crate::support::{BOTH, Schema, alone, children, repo, within, wrun};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use wrun::{Mode, ProcessOptions, Runner, Task};
use wrun_compare::{Comparison, CostRow, Measure, Policy, Results, Verdict};

const ECHO: &str = "echo/echo.wat";
/// What takes no time, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// A comparison of a guest, with the worker that was built with these tests; short, and
/// without faults.
pub(crate) fn comparison(guest: &str) -> Comparison {
    short(Comparison::new(repo("guest-tasks").join(guest)))
}

fn short(comparison: Comparison) -> Comparison {
    let budget = Duration::from_secs(3);
    comparison
        .process(ProcessOptions::default().worker(wrun()))
        .faults([])
        .rounds(5)
        .budget(budget)
}

/// The same of a guest from WAT text, only from submission to report.
fn wat(folder: &Path, text: &str) -> Comparison {
    let file = write(folder, "task.wat", text);
    short(Comparison::new(file)).measures([Measure::Warm])
}

pub(crate) fn row(results: &Results, measure: Measure, mode: Mode) -> &CostRow {
    let mut rows = results.cost.iter();
    let found = rows.find(|row| row.measure == measure && row.mode == mode);
    found.unwrap_or_else(|| panic!("no {} in {mode}: {:?}", measure.name(), results.notes))
}

#[test]
fn every_measure_has_both_modes_and_its_floor() {
    alone(
        "compare::every_measure_has_both_modes_and_its_floor",
        || {
            let results = comparison(ECHO)
                .budget(Duration::from_secs(12))
                .rounds(3)
                .input("some input")
                .run()
                .unwrap();
            assert_eq!(results.verdict, Verdict::Comparable, "{results:?}");
            assert!(results.complete);
            assert_eq!(results.subject.name, "echo.wat");
            assert_eq!(
                (results.subject.input_bytes, results.subject.output_bytes),
                (10, 10)
            );
            assert_eq!(results.environment.wrun, env!("CARGO_PKG_VERSION"));
            assert!(results.environment.jail.is_some());
            let without_floor = [
                // Of a file that another process loads, and of what has no least.
                (Measure::Load, Mode::Process),
                (Measure::Resident, Mode::Thread),
                (Measure::Proportional, Mode::Thread),
                (Measure::Private, Mode::Thread),
                (Measure::Descriptors, Mode::Thread),
                (Measure::Descriptors, Mode::Process),
            ];
            for measure in Measure::ALL {
                for mode in BOTH {
                    // Of requests.
                    if may_not_look(measure, mode) || measure == Measure::Latency {
                        continue;
                    }
                    let row = row(&results, measure, mode);
                    let what = format!("{} in {mode}", measure.name());
                    let value = &row.value;
                    assert!(
                        !value.is_empty() && value.len() == value.values.len(),
                        "{what}"
                    );
                    let sorted = [
                        value.min, value.p10, value.p50, value.p90, value.p99, value.max,
                    ];
                    assert!(sorted.is_sorted() && value.min >= 0.0, "{what}: {sorted:?}");
                    assert!(
                        row.command.contains(&format!("--only {}", measure.name())),
                        "{what}"
                    );
                    match &row.floor {
                        Some(floor) => {
                            assert!(!floor.value.is_empty() && !floor.name.is_empty(), "{what}");
                        }
                        None => assert!(
                            without_floor.contains(&(measure, mode)),
                            "{what} has no floor"
                        ),
                    }
                }
            }
            // Each policy where it differs; sizes from 64 bytes to 64 MiB; one to four a
            // processor at the same time.
            for policy in Policy::ALL {
                let has =
                    |row: &CostRow| row.measure == Measure::Warm && row.policy == Some(policy);
                assert!(results.cost.iter().any(has), "warm, {}", policy.name());
            }
            for measure in [Measure::RoundTrip, Measure::Bandwidth] {
                let rows = results.cost.iter().filter(|row| row.measure == measure);
                let sizes: Vec<_> = rows.filter_map(|row| row.at).collect();
                assert_eq!(
                    (sizes.iter().min(), sizes.iter().max()),
                    (Some(&64), Some(&(64 << 20)))
                );
            }
            let rows = results
                .cost
                .iter()
                .filter(|row| row.measure == Measure::Throughput);
            let levels: Vec<_> = rows.filter_map(|row| row.at).collect();
            let most = levels.iter().max().copied().unwrap_or(0);
            assert!(
                most >= 4 * u64::from(results.environment.processors),
                "{levels:?}"
            );
            assert_eq!(levels.iter().min(), Some(&1));
            // What reads it back has the same, but for the last digit of some numbers.
            let json = serde_json::to_string(&results).unwrap();
            let again: Results = serde_json::from_str(&json).unwrap();
            assert_eq!(
                (&again.environment, &again.notes),
                (&results.environment, &results.notes)
            );
            let rows = |results: &Results| -> Vec<_> {
                let rows = results.cost.iter();
                rows.map(|row| (row.measure, row.policy, row.at, row.value.len()))
                    .collect()
            };
            assert_eq!(rows(&again), rows(&results));
            assert!(results.to_html().contains("echo.wat"));
        },
    );
}

/// Only root may read the memory of workers in a jail.
fn may_not_look(measure: Measure, mode: Mode) -> bool {
    let memory = [Measure::Resident, Measure::Proportional, Measure::Private];
    memory.contains(&measure) && mode == Mode::Process && !rustix::process::geteuid().is_root()
}

#[test]
fn a_mode_that_is_slower_is_seen_to_be() {
    let by = Duration::from_millis(40);
    for slow in BOTH {
        let warm = |comparison: Comparison| {
            let results = comparison.measures([Measure::Warm]).run().unwrap();
            let row = row(&results, Measure::Warm, slow);
            let ratio = row.floor.as_ref().map(|floor| floor.ratio.p50);
            (row.value.p50, ratio.unwrap_or_default())
        };
        let (time, ratio) = warm(comparison(ECHO));
        let (slowed, worse) = warm(comparison(ECHO).slowed(slow, by));
        // Nothing is timed here: it has slept for this long.
        assert!(slowed >= by.as_secs_f64() * 1e9, "{slow}: {slowed} ns");
        assert!(
            slowed > time && worse > ratio,
            "{slow}: {time} to {slowed}, {ratio} to {worse}"
        );
    }
}

#[test]
fn a_floor_that_is_measured_wrongly_is_found_out() {
    let doubted = |comparison: Comparison| {
        let results = comparison.measures([Measure::Warm]).run().unwrap();
        let beats = |row: &&CostRow| row.doubts.iter().any(|it| it.contains("beats its floor"));
        let floors = results
            .cost
            .iter()
            .filter(|row| row.floor.is_some())
            .count();
        (results.cost.iter().filter(beats).count(), floors)
    };
    let (wrong, floors) = doubted(comparison(ECHO).wrong_floors(100_000.0));
    let all = Policy::ALL.len();
    assert_eq!(
        (wrong, floors),
        (all, all),
        "each row is faster than its floor"
    );
    // The floors as they are: not one of them is ten thousand times as low.
    let (wrong, _) = doubted(comparison(ECHO).wrong_floors(0.000_1));
    assert_eq!(wrong, 0);
}

#[test]
fn two_runs_agree_within_their_spread() {
    // Others use the machine, too: what is compared are ratios, of rounds that were
    // measured side by side, and a disturbed run gets another chance.
    let measured = || {
        let comparison = comparison(ECHO).rounds(25).measures([Measure::Warm]);
        comparison.budget(Duration::from_secs(10)).run().unwrap()
    };
    let agree = within(3 * SOON, || {
        let (one, other) = (measured(), measured());
        [Policy::Instance, Policy::Spare, Policy::Fork]
            .iter()
            .all(|policy| {
                let ratio = |results: &Results| {
                    let mut rows = results.cost.iter();
                    let row = rows.find(|row| row.policy == Some(*policy)).unwrap();
                    row.floor.as_ref().unwrap().ratio.clone()
                };
                let (one, other) = (ratio(&one), ratio(&other));
                one.p50 <= other.p90
                    && one.p50 >= other.p10
                    && other.p50 <= one.p90
                    && other.p50 >= one.p10
            })
    });
    assert!(
        agree,
        "no two runs of many have their medians within each other's spread"
    );
}

#[test]
fn a_task_that_cannot_be_compared_is_not() {
    let folder = scratch();
    let schema = Schema::of("compare.schema.json");
    let fits = |results: &Results| {
        schema
            .check(&serde_json::to_value(results).unwrap())
            .unwrap()
    };
    for (guest, timeout, why) in [
        ("hostile/div-by-zero.wat", 10, "divide by zero"),
        ("hostile/fail.wat", 10, "failed"),
        ("csv-stats/csv-stats.wasm", 10, "exited with code 2"),
        (
            "hostile/endless-loop.wat",
            1,
            "did not end within its time limit",
        ),
    ] {
        let limits = wrun::Limits::default().timeout(Duration::from_secs(timeout));
        let results = comparison(guest).limits(limits).run().unwrap();
        fits(&results);
        match &results.verdict {
            Verdict::Unfit {
                mode: None,
                why: told,
                ..
            } => {
                assert!(told.contains(why), "{guest}: {told}");
            }
            other => panic!("{guest}: {other:?}"),
        }
        assert!(
            results.cost.is_empty() && results.isolation.is_empty(),
            "{guest}"
        );
    }
    // What it would need is named, as after `wrun run`, which says nothing of what is not
    // the reason.
    for (guest, args, expected) in [
        (
            "digest/digest.wasm",
            &["/in/a"][..],
            Some("no directory is granted (--dir), which may be why"),
        ),
        (
            "tcp-client/tcp-client.wasm",
            &["127.0.0.1:9"],
            Some("it was refused: connecting to 127.0.0.1:9 (--allow-tcp 127.0.0.1:9)"),
        ),
        // It looks for directories when it starts, and dislikes its arguments.
        ("csv-stats/csv-stats.wasm", &["region"], None),
    ] {
        let results = comparison(guest).args(args.iter().copied()).run().unwrap();
        match &results.verdict {
            Verdict::Unfit { help, .. } => assert_eq!(help.as_deref(), expected, "{guest}"),
            other => panic!("{guest}: {other:?}"),
        }
        for mode in ["thread", "process"] {
            let task = repo(&format!("guest-tasks/{guest}"));
            let ran = Wrun::mode(mode).arg(task).args(args).run();
            let said = expected.is_none_or(|expected| ran.stderr.contains(expected));
            let nothing = expected.is_some() || !ran.stderr.contains("--dir");
            assert!(said && nothing, "{mode} {guest}: {ran}");
        }
    }
    // One that does something else where it runs.
    let other = r#"(module
      (import "wrun:task/context@0.1.0" "info" (func $info (param i32)))
      (memory (export "memory") 1)
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
      (func (export "run") (param i32 i32) (result i32)
        (call $info (i32.const 1024))
        (i32.store8 (i32.const 0) (i32.const 0))
        ;; The mode lies behind a u64 and a u32.
        (i32.store offset=4 (i32.const 0) (i32.const 1036))
        (i32.store offset=8 (i32.const 0) (i32.const 1))
        (i32.const 0)))"#;
    let results = wat(folder.path(), other).run().unwrap();
    fits(&results);
    match &results.verdict {
        Verdict::Differs { thread, process } => {
            assert!(thread.contains("differ from byte 0"), "{thread}");
            assert!(process.contains("differ from byte 0"), "{process}");
        }
        other => panic!("{other:?}"),
    }
    assert!(results.cost.is_empty());
    // One that is never the same can be compared, and the reader is told.
    let random = r#"(module
      (import "wasi:random/random@0.2.12" "get-random-u64" (func $random (result i64)))
      (memory (export "memory") 1)
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
      (func (export "run") (param i32 i32) (result i32)
        (i64.store (i32.const 1024) (call $random))
        (i32.store offset=4 (i32.const 0) (i32.const 1024))
        (i32.store offset=8 (i32.const 0) (i32.const 8))
        (i32.const 0)))"#;
    let results = wat(folder.path(), random).run().unwrap();
    assert_eq!(results.verdict, Verdict::Comparable);
    assert!(
        results
            .notes
            .iter()
            .any(|it| it.contains("another each time")),
        "{:?}",
        results.notes
    );
}

#[test]
fn the_command_prints_a_table_json_and_a_page() {
    let folder = scratch();
    let (json, html) = (folder.path().join("c.json"), folder.path().join("c.html"));
    let task = repo("guest-tasks").join(ECHO);
    let compare = || {
        Wrun::new()
            .arg("compare")
            .args(["--runs", "3", "--budget", "2s"])
    };
    let ran = compare()
        .args(["--only", "warm", "--only", "trap"])
        .arg("--json")
        .arg(&json)
        .arg(&task)
        // Options may stand behind the task.
        .arg("--html")
        .arg(&html)
        .run();
    ran.expect_code(0, "compare");
    let table = ran.text();
    for words in [
        "echo.wat (core module exporting run",
        "Your own code, such as your image filter: ",
        "COST",
        "process, spare",
        "ISOLATION",
        "wasmtime's sandbox",
    ] {
        assert!(table.contains(words), "no {words:?} in\n{table}");
    }
    let read: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    Schema::of("compare.schema.json").check(&read).unwrap();
    assert_eq!(read["isolation"].as_array().map(Vec::len), Some(2));
    assert!(
        std::fs::read_to_string(&html)
            .unwrap()
            .starts_with("<!DOCTYPE html>")
    );
    // The command of a row measures that row again.
    let command = read["cost"][0]["command"].as_str().unwrap();
    let again = std::process::Command::new("sh")
        .args(["-c", &command.replacen("wrun", "\"$0\"", 1)])
        .arg(wrun())
        .output()
        .unwrap();
    let again_text = String::from_utf8_lossy(&again.stdout);
    assert!(
        again.status.success() && again_text.contains("from submission"),
        "{command}: {again:?}"
    );
    // To stdout, alone.
    let ran = compare()
        .args(["--only", "warm", "--json", "-"])
        .arg(&task)
        .run();
    ran.expect_code(0, "JSON on stdout");
    let told: Value = serde_json::from_slice(&ran.stdout).unwrap();
    Schema::of("compare.schema.json").check(&told).unwrap();
    let ran = compare()
        .args(["--only", "warm", "--html", "-"])
        .arg(&task)
        .run();
    assert!(
        ran.expect_code(0, "a page on stdout")
            .text()
            .starts_with("<!DOCTYPE html>")
    );
}

#[test]
fn a_row_that_is_measured_once_has_no_spread() {
    let run = |options: &[&str]| {
        let ran = Wrun::new()
            .args([
                "compare",
                "--no-progress",
                "--only",
                "compile",
                "--runs",
                "1",
            ])
            .args(options)
            .arg(repo("guest-tasks").join(ECHO))
            .run();
        ran.expect_code(0, "compare");
        ran.text()
    };
    let table = run(&[]);
    let head = table
        .lines()
        .position(|line| line.starts_with("COST"))
        .unwrap();
    let rows = table.lines().skip(head + 2).take(2);
    for row in rows {
        let (value, others) = row.split_at(38);
        assert!(value.trim_end().ends_with('s'), "{table}");
        let others: Vec<_> = others.split_whitespace().take(3).collect();
        assert_eq!(others, ["-"; 3], "{table}");
    }
    let json: Value = serde_json::from_str(&run(&["--json", "-"])).unwrap();
    let rows = json["cost"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{json:#}");
    for row in rows {
        assert_eq!(row["value"]["values"].as_array().unwrap().len(), 1);
        for summary in [
            &row["value"],
            &row["floor"]["value"],
            &row["floor"]["ratio"],
        ] {
            assert!(
                summary.is_null() || summary["spread"] == Value::Null,
                "{row:#}"
            );
        }
    }
    assert!(!run(&["--html", "-"]).contains(", spread "));
}

/// Without wrun, a task that imports its resources is linked all the same: whether it has a
/// floor depends on what it calls, and the note names it.
#[test]
fn a_task_that_calls_wrun_has_no_floor_for_that_reason() {
    let results = comparison("ports/ports.wasm")
        .input("alone")
        .measures([Measure::Warm])
        .run();
    let results = results.unwrap();
    assert_eq!(results.verdict, Verdict::Comparable, "{results:?}");
    let why = "the task has no floor: it calls wrun:task/ports, which only wrun provides";
    assert!(
        results.notes.iter().any(|note| note == why),
        "{:?}",
        results.notes
    );
}

#[test]
fn other_workers_of_this_program_are_not_taken_for_those_that_are_measured() {
    let memory = [Measure::Resident, Measure::Proportional, Measure::Private];
    let comparison = comparison(ECHO).measures(memory);
    let busy = Runner::builder()
        .mode(Mode::Process)
        .process(ProcessOptions::default().worker(wrun()))
        .build()
        .unwrap();
    let guest = busy.blocking_load(repo("guest-tasks").join(ECHO)).unwrap();
    let (done, others) = (AtomicBool::new(false), AtomicU64::new(0));
    let results = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let report = busy.blocking_run(Task::new(&guest).input("other")).unwrap();
                assert!(report.outcome.is_completed(), "{report:?}");
                others.fetch_add(1, Ordering::Relaxed);
            }
        });
        let results = comparison.run();
        done.store(true, Ordering::Relaxed);
        others.join().unwrap();
        results.unwrap()
    });
    assert!(others.into_inner() > 50);
    for measure in memory {
        if !may_not_look(measure, Mode::Process) {
            let value = &row(&results, measure, Mode::Process).value;
            assert!(value.min > 0.0, "{}: {value:?}", measure.name());
        }
    }
}

#[test]
fn a_task_that_does_not_complete_beside_itself_is_measured_alone() {
    // It wants a lock at once, and has it for a while.
    let task = r#"(module
      (import "wrun:task/locks@0.1.0" "request"
        (func $request (param i32 i32 i32 i32 i32)))
      (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration"
        (func $after (param i64) (result i32)))
      (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
      (memory (export "memory") 1)
      (data (i32.const 64) "mine")
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
      (func (export "run") (param i32 i32) (result i32)
        (call $request (i32.const 64) (i32.const 4) (i32.const 0) (i32.const 1) (i32.const 1024))
        ;; An answer with a lock in it.
        (if (i32.load8_u (i32.const 1024)) (then unreachable))
        (if (i32.eqz (i32.load8_u (i32.const 1028))) (then unreachable))
        (call $block (call $after (i64.const 200000000)))
        (i32.const 0)))"#;
    let folder = scratch();
    let comparison = wat(folder.path(), task).measures([Measure::Throughput]);
    let results = comparison.run().unwrap();
    assert_eq!(results.verdict, Verdict::Comparable, "{results:?}");
    for mode in BOTH {
        row(&results, Measure::Throughput, mode);
    }
    let levels: Vec<_> = results.cost.iter().map(|row| row.at).collect();
    assert!(levels.iter().all(|at| *at == Some(1)), "{levels:?}");
    let told = results.notes.iter().filter(|note| {
        note.contains("with up to 1 at the same time: beside others of it, 2 in all in thread mode")
            && note.contains("trapped")
    });
    assert_eq!(told.count(), 1, "{:?}", results.notes);
}

#[test]
fn nothing_is_left_of_a_comparison() {
    alone("compare::nothing_is_left_of_a_comparison", || {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let compare = || {
            let results = comparison(ECHO).rounds(1).run().unwrap();
            assert_eq!(results.verdict, Verdict::Comparable, "{results:?}");
        };
        // The first makes what all others use.
        compare();
        let before = open();
        compare();
        let stopped = comparison(ECHO).run_watched(&mut |step| match step.done > 300 {
            true => std::ops::ControlFlow::Break(()),
            false => std::ops::ControlFlow::Continue(()),
        });
        assert!(!stopped.unwrap().complete);
        assert!(children().is_empty(), "{:?}", children());
        assert!(within(SOON, || open() <= before), "{} and {before}", open());
        let left = std::fs::read_dir(std::env::temp_dir()).unwrap().count();
        assert_eq!(left, 0, "in the folder for temporary files");
    });
}

#[test]
fn the_command_says_what_is_wrong() {
    let folder = scratch();
    let task = write(
        folder.path(),
        "echo.wat",
        std::fs::read(repo("guest-tasks").join(ECHO)).unwrap(),
    );
    let task_name = task.display().to_string();
    for (args, code, says) in [
        (
            vec!["--only", "speed", &task_name],
            2,
            "there are cost, isolation, compile",
        ),
        (
            vec!["--runs", "0", &task_name],
            2,
            "expected a whole number from 1 to 10000",
        ),
        (
            vec!["--json", "-", "--html", "-", &task_name],
            2,
            "cannot both be stdout",
        ),
        (
            vec!["--json", "/dev/stdout", "--html", "-", &task_name],
            2,
            "cannot both be stdout",
        ),
        (vec!["--json", &task_name, &task_name], 2, "would overwrite"),
        (
            vec!["--input", "/nothing", &task_name],
            2,
            "cannot read /nothing",
        ),
        (
            vec!["--jail", "off", "--uid", "99", &task_name],
            2,
            "--uid cannot be used with --jail off",
        ),
        (vec!["/nothing.wasm"], 127, "cannot read /nothing.wasm"),
        (
            vec!["--task", "x=/nothing.wasm", &task_name],
            127,
            "the task \"x\" that may be started: cannot read /nothing.wasm",
        ),
        (vec![], 2, "required"),
    ] {
        let ran = Wrun::new().arg("compare").args(&args).run();
        ran.expect_code(code, &args.join(" "));
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
        assert!(ran.stdout.is_empty(), "{args:?}");
    }
    assert!(
        !std::fs::read(&task).unwrap().is_empty(),
        "the task is still there"
    );
    let none = write(folder.path(), "none.wasm", "no WebAssembly");
    Wrun::new()
        .arg("compare")
        .arg(none)
        .run()
        .expect_code(126, "no WebAssembly");
    let unfit = repo("guest-tasks/hostile/div-by-zero.wat");
    let ran = Wrun::new().arg("compare").arg(unfit).run();
    ran.expect_code(1, "a task that traps");
    assert!(ran.text().contains("cannot be compared: trapped"), "{ran}");
}

/// A comparison that is interrupted some time after it began to measure.
fn interrupted_after(pause: Duration) -> Ran {
    let task = repo("guest-tasks").join(ECHO);
    let mut wrun = Wrun::new()
        .args([
            "compare", "--only", "warm", "--runs", "10000", "--budget", "1h",
        ])
        .arg(task)
        .start();
    // Workers of all policies are there: it measures.
    let pid = wrun.pid();
    let busy = within(SOON, || {
        crate::support::processes::descendants(pid).len() > 4
    });
    assert!(busy, "it did not begin to measure");
    std::thread::sleep(pause);
    wrun.signal(Signal::INT);
    assert!(wrun.ends_within(SOON));
    wrun.end()
}

#[test]
fn finished_rows_are_printed_when_it_is_interrupted() {
    // There is no row until the first round is over, which is not reported.
    let pauses = [300, 1_000, 3_000, 10_000, 30_000].map(Duration::from_millis);
    let has_row = |ran: &Ran| ran.text().contains("from submission to report");
    let mut all = pauses.into_iter().map(interrupted_after);
    let ran = all
        .find(has_row)
        .expect("a row, half a minute after it began");
    ran.expect_code(130, "interrupted");
    let table = ran.text();
    assert!(table.contains("Not everything was measured"), "{table}");
    assert!(ran.stderr.contains("interrupted"), "{ran}");
}

/// All of it with `WRUN_COMPARE_ALL=1`, each in less than a minute; otherwise one round
/// of two measures for each guest. Each has its floors, in both modes, or does with wrun what nothing
/// else can do, and a note says what that is.
#[test]
fn every_guest_that_completes_can_be_compared() {
    let all = std::env::var("WRUN_COMPARE_ALL").is_ok();
    let mut seen = std::collections::BTreeSet::new();
    let mut wrong = Vec::new();
    let mut with_floors = BTreeMap::new();
    for case in manifest() {
        let guest = guests().join(text(&case, "guest"));
        let completes = case["expect"]["outcome"] == "completed" && case["input"] != "silent";
        if !completes || !files(&case).all(|file| file.exists()) || !seen.insert(guest.clone()) {
            continue;
        }
        let scratch = scratch();
        let (options, writable) = grants(&case, scratch.path());
        let json = scratch.path().join("results.json");
        let mut wrun = Wrun::new().arg("compare").args(options);
        wrun = wrun.arg("--json").arg(&json);
        if !all {
            wrun = wrun.args(["--runs", "1", "--budget", "300ms"]);
            wrun = wrun.args(["--only", "warm", "--only", "compute"]);
        }
        match (
            case["input"]["file"].as_str(),
            case["input"]["text"].as_str(),
        ) {
            (Some(file), _) => wrun = wrun.arg("--input").arg(guests().join(file)),
            (_, Some(text)) => {
                let input = write(scratch.path(), "input", text);
                wrun = wrun.arg("--input").arg(input);
            }
            _ => {}
        }
        let args = case["args"].as_array().into_iter().flatten();
        let began = std::time::Instant::now();
        let ran = wrun
            .arg(&guest)
            .arg("--")
            .args(args.map(|arg| arg.as_str().unwrap()))
            .run();
        let took = began.elapsed();
        if all {
            println!("{:6.1} s  {}", took.as_secs_f64(), title(&case));
        }
        // What it finds in a folder that it wrote to before is not what it expects.
        let changed = !writable.is_empty() && ran.code() == 1;
        // It says where it runs.
        let differs = ran.text().contains("does not do the same in both modes");
        let slow = all && took > Duration::from_secs(60);
        if ran.misbehaviour().is_some() || slow || ran.code() != 0 && !changed && !differs {
            wrong.push(format!("{}: {took:?}, {} {ran}", title(&case), ran.code()));
        } else if ran.code() == 0 {
            let results: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
            // One finds out what limits there are.
            let looks_around = text(&case, "guest").starts_with("hostile/");
            match floors(&results, looks_around) {
                Ok(has) => *with_floors.entry(has).or_default() += 1,
                Err(why) => wrong.push(format!("{}: {why}", title(&case))),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.len() > 20, "{}", seen.len());
    // Most guests want nothing of wrun.
    let with = |has| with_floors.get(&has).copied().unwrap_or(0_u32);
    assert!(with(true) > with(false), "{with_floors:?}");
}

/// Whether what was measured has floors; or what is wrong with that. A guest that looks around may put
/// out something else without wrun.
fn floors(results: &Value, looks_around: bool) -> Result<bool, String> {
    let notes = results["notes"].as_array().into_iter().flatten();
    let notes: Vec<&str> = notes.filter_map(Value::as_str).collect();
    let why_not = notes
        .iter()
        .find_map(|note| note.strip_prefix("the task has no floor: "));
    let may_be_without = why_not.is_some_and(|why| {
        why == "it is granted addresses or tasks"
            || why.starts_with("it calls wrun:task/") && why.ends_with(", which only wrun provides")
            || looks_around && why == "without wrun, the task does not produce the same output"
    });
    let rows = results["cost"].as_array().into_iter().flatten();
    let with_every_floor = ["warm", "compute"];
    let rows = rows.filter(|row| with_every_floor.iter().any(|name| row["measure"] == *name));
    let (with, without): (Vec<_>, Vec<_>) = rows.partition(|row| !row["floor"].is_null());
    match (with.len(), without.len(), may_be_without) {
        (1.., 0, _) if why_not.is_none() => Ok(true),
        (0, 1.., true) => Ok(false),
        _ => Err(format!(
            "{} rows have a floor, {} do not: {notes:?}",
            with.len(),
            without.len()
        )),
    }
}
