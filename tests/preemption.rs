//! A guest that never returns to its host is ended all the same, wherever it is, and what it
//! did until then is in its report: in both modes, also of code that checks nothing.

use crate::support::command::{Wrun, scratch, write};
use crate::support::{WAYS, begun_printing, builder, still_works, wat};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use wrun::{ErrorKind, Limit, Limits, Mode, Outcome, ProcessOptions, Report, Runner, Task};

/// Where a guest can be for ever: its name, functions and fields of the module, and what its
/// `_start` does after it has printed.
const PLACES: [(&str, &str, &str); 14] = [
    ("a jump", "", "(loop (br 0))"),
    (
        "a loop of floats and vectors",
        "(global $x (mut f64) (f64.const 1)) (global $v (mut v128) (v128.const i32x4 1 2 3 4))",
        "(loop
            (global.set $x (f64.sqrt (f64.add (global.get $x) (f64.const 1))))
            (global.set $v (i32x4.mul (global.get $v) (global.get $v)))
            (br 0))",
    ),
    (
        "functions that call each other last",
        "(func $one (return_call $two)) (func $two (return_call $one))",
        "(call $one)",
    ),
    (
        "calls through a table",
        "(table funcref (elem $nothing)) (func $nothing)",
        "(loop (call_indirect (i32.const 0)) (br 0))",
    ),
    (
        "exceptions",
        "(tag $tag)",
        "(loop (block $caught (try_table (catch $tag $caught) (throw $tag))) (br 0))",
    ),
    (
        "objects of the collector",
        "(type $pair (struct (field i64) (field i64)))",
        "(loop (drop (struct.new_default $pair)) (br 0))",
    ),
    (
        "large fills",
        "",
        "(drop (memory.grow (i32.const 512)))
         (loop (memory.fill (i32.const 65536) (i32.const 1) (i32.const 0x2000000)) (br 0))",
    ),
    (
        "copies of a size that is known",
        "",
        "(drop (memory.grow (i32.const 64)))
         (loop (memory.copy (i32.const 65536) (i32.const 131072) (i32.const 1000000)) (br 0))",
    ),
    (
        "growth of nothing",
        "",
        "(loop (drop (memory.grow (i32.const 0))) (br 0))",
    ),
    (
        "fills of a table",
        "(table $large 100000 funcref)",
        "(loop (table.fill $large (i32.const 0) (ref.null func) (i32.const 100000)) (br 0))",
    ),
    (
        "the clock",
        "",
        "(loop (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 64))) (br 0))",
    ),
    (
        "random bytes",
        "",
        "(loop (drop (call $random (i32.const 1024) (i32.const 32768))) (br 0))",
    ),
    (
        "waits that are over",
        "",
        // No descriptor is written to, so that each call fails.
        "(loop (drop (call $write (i32.const 99) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0))",
    ),
    (
        "recursion with a way back",
        "(func $deep (param i32)
            (if (local.get 0) (then (call $deep (i32.sub (local.get 0) (i32.const 1))))))",
        "(loop (call $deep (i32.const 100)) (br 0))",
    ),
];

/// It prints `begun`, and does this.
fn guest(fields: &str, does: &str) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 200) "begun")
  {fields}
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 200))
    (i32.store (i32.const 4) (i32.const 5))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    {does}))"#
    )
}

/// Enough to begin, on a machine that is busy with other tests; the rest is computed.
const TIME: Duration = Duration::from_millis(500);
/// What takes no time, on such a machine.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_deadline_ends_a_guest_wherever_it_is() {
    for (mode, preemption) in WAYS {
        let runner = builder(mode).preemption(preemption).build().unwrap();
        let mode = format!("{mode}, {preemption}");
        for (name, fields, does) in PLACES {
            let artifact = wat(&runner, name, &guest(fields, does));
            let run = || {
                let task = Task::new(&artifact).limits(Limits::default().timeout(TIME));
                runner.blocking_run(task).unwrap()
            };
            // A busy machine may not let it begin in time, or end within a second.
            let is_whole = |it: &Report| it.stats.cpu.is_some() && !it.stdout.is_empty();
            let mut report = run();
            for _ in 0..3 {
                if !is_whole(&report) {
                    report = run();
                }
            }
            let what = format!("{mode}, {name}");
            let expected = Outcome::LimitExceeded(Limit::Deadline);
            assert_eq!(report.outcome, expected, "{what}");
            assert_eq!(report.stdout.as_ref(), b"begun", "{what}");
            // A worker that had to be killed could not say.
            let cpu = report.stats.cpu.unwrap_or_else(|| panic!("{what}: killed"));
            assert!(cpu > Duration::ZERO, "{what}");
            assert!(report.stats.peak_memory_bytes >= Some(65_536), "{what}");
        }
        still_works(&runner);
    }
}

#[test]
fn a_kill_ends_a_guest_wherever_it_is() {
    for (mode, preemption) in WAYS {
        let runner = builder(mode).preemption(preemption).build().unwrap();
        let mode = format!("{mode}, {preemption}");
        for (name, fields, does) in PLACES {
            let artifact = wat(&runner, name, &guest(fields, does));
            let (mut handle, _stdout) = begun_printing(&runner, Task::new(&artifact));
            let began = Instant::now();
            handle.kill();
            let report = handle.blocking_report().unwrap();
            assert_eq!(report.outcome, Outcome::Cancelled, "{mode}, {name}");
            assert!(began.elapsed() < SOON, "{mode}, {name}");
        }
        still_works(&runner);
    }
}

#[test]
fn signals_end_a_command_that_runs_a_loop() {
    let folder = scratch();
    let file = write(folder.path(), "loops.wat", guest("", "(loop (br 0))"));
    for (mode, preempt) in WAYS {
        for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
            let wrun = Wrun::new().args(["--mode", mode.name(), "--preempt", preempt.name()]);
            let wrun = wrun.arg(&file).start();
            wrun.await_task(mode.name());
            wrun.signal(signal);
            let what = format!("{mode}, {preempt}, {signal:?}");
            wrun.end().expect_code(code, &what);
        }
    }
}

/// In a worker that is used again: the next tasks have another.
#[test]
fn a_worker_whose_guest_was_left_inside_is_not_used_again() {
    for reuse in [1, 100] {
        let options = ProcessOptions::default().reuse(reuse);
        let builder = builder(Mode::Process).max_running(1).process(options);
        let runner = builder.build().unwrap();
        let loops = wat(&runner, "loops", &guest("", "(loop (br 0))"));
        let ends = wat(&runner, "ends", &guest("", ""));
        for round in 0..3 {
            let limits = Limits::default().timeout(Duration::from_millis(100));
            let report = runner.blocking_run(Task::new(&loops).limits(limits));
            let expected = Outcome::LimitExceeded(Limit::Deadline);
            assert_eq!(report.unwrap().outcome, expected, "{reuse}, {round}");
            let report = runner.blocking_run(Task::new(&ends)).unwrap();
            assert!(report.outcome.is_completed(), "{reuse}: {}", report.outcome);
        }
    }
}

/// What a guest computes while others compute beside it is what it computes alone, and siblings
/// of a guest in a loop have their turns.
#[test]
fn computing_is_not_disturbed() {
    let sums = guest(
        r#"(func $more (param i64) (result i64)
             (i64.mul (i64.xor (local.get 0) (i64.shr_u (local.get 0) (i64.const 31)))
                      (i64.const 0x7FB5D329728EA185)))
           (func $sums
         (local $left i32) (local $sum i64) (local $x f64) (local $v v128)
         (local.set $left (i32.const 100000000))
         (local.set $sum (i64.const 1))
         (loop $on
            (local.set $sum (i64.add (call $more (local.get $sum)) (i64.extend_i32_u (local.get $left))))
            (local.set $x (f64.add (f64.mul (local.get $x) (f64.const 0.5)) (f64.convert_i64_s (local.get $sum))))
            (local.set $v (i64x2.add (local.get $v) (i64x2.splat (local.get $sum))))
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $on (local.get $left)))
         (i64.store (i32.const 200) (local.get $sum))
         (f64.store (i32.const 208) (local.get $x))
         (v128.store (i32.const 216) (local.get $v))
         (i32.store (i32.const 4) (i32.const 32))
         (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))"#,
        "(call $sums)",
    );
    let mut seen = Vec::new();
    for (mode, preemption) in WAYS {
        let runner = builder(mode).preemption(preemption).max_running(8);
        let runner = runner.build().unwrap();
        let artifact = wat(&runner, "sums", &sums);
        let loops = wat(&runner, "loops", &guest("", "(loop (br 0))"));
        let beside = runner.blocking_submit(Task::new(&loops)).unwrap();
        let tasks: Vec<_> = (0..4)
            .map(|_| runner.blocking_submit(Task::new(&artifact)).unwrap())
            .collect();
        for mut handle in tasks {
            let report = handle.blocking_report().unwrap();
            let what = format!("{mode}, {preemption}: {}", report.outcome);
            assert!(report.outcome.is_completed(), "{what}");
            seen.push((what, report.stdout));
        }
        drop(beside);
    }
    let expected = seen[0].1.clone();
    assert_eq!(expected.len(), 5 + 32);
    for (what, stdout) in seen {
        assert_eq!(stdout, expected, "{what}");
    }
}

/// Code for threads runs in processes, too; the other way round is refused by name.
#[test]
fn an_artifact_is_for_both_modes_or_says_for_which() {
    let text = guest("", "");
    let make = |mode| -> Runner { builder(mode).build().unwrap() };
    let (threads, processes) = (make(Mode::Thread), make(Mode::Process));
    let folder = scratch();
    let mut sizes = Vec::new();
    for maker in [&threads, &processes] {
        let artifact = wat(maker, "t", &text);
        let compile_for = |mode| maker.blocking_compile_for(&artifact, mode).unwrap();
        for (bytes, takes) in [
            (maker.blocking_compile(&artifact).unwrap(), [true, true]),
            (compile_for(Mode::Thread), [true, true]),
            (compile_for(Mode::Process), [false, true]),
        ] {
            sizes.push(bytes.len());
            let file = write(folder.path(), "t.cwasm", bytes);
            for (runner, takes) in [&threads, &processes].into_iter().zip(takes) {
                match runner.blocking_load_trusted(&file) {
                    Ok(artifact) => {
                        assert!(takes);
                        let report = runner.blocking_run(Task::new(&artifact)).unwrap();
                        assert_eq!(report.stdout.as_ref(), b"begun");
                    }
                    Err(error) => {
                        assert!(!takes, "{error}");
                        assert_eq!(error.kind(), ErrorKind::ModeMismatch);
                    }
                }
            }
        }
    }
    assert!(sizes[0] > sizes[1] && sizes[0] > sizes[2], "{sizes:?}");
}

#[test]
fn the_command_compiles_for_a_mode() {
    let folder = scratch();
    let file = write(folder.path(), "t.wat", guest("", ""));
    let output = folder.path().join("t.cwasm");
    for (options, says, takes) in [
        (&[][..], "for both modes", [true, true]),
        (&["--mode", "thread"], "for thread mode", [true, true]),
        (&["--mode", "process"], "for process mode", [false, true]),
    ] {
        let compile = Wrun::new().arg("compile").args(options);
        let compile = compile.arg("-o").arg(&output).arg(&file);
        compile.run().expect_code(0, says);
        let inspected = Wrun::new().arg("inspect").arg(&output).run();
        assert!(inspected.text().contains(says), "{inspected}");
        for (mode, takes) in ["thread", "process"].into_iter().zip(takes) {
            let ran = Wrun::mode(mode).arg("--allow-precompiled").arg(&output);
            let ran = ran.run();
            match takes {
                true => assert_eq!(ran.text(), "begun", "{ran}"),
                false => {
                    ran.expect_code(126, says);
                    assert!(
                        ran.stderr.contains("was compiled for process mode"),
                        "{ran}"
                    );
                    let begins = format!("wrun: {}: ", output.display());
                    assert!(ran.stderr.starts_with(&begins), "{ran}");
                    assert!(ran.stderr.contains("--mode"), "{ran}");
                }
            }
        }
    }
}
