//! Sandboxes and walls that are made before their task is there are as if they were
//! made for the task: in process mode with spares, without, and with workers that
//! are used again; and thread mode says the same.

use crate::support::{BOTH, builder, guest, wat};
use std::collections::HashSet;
use std::time::Duration;
use wrun::{Limit, Limits, Mode, Outcome, ProcessOptions, Runner, Start, Task};

/// Adds one to a byte of its memory, a global and a table's length, and returns them;
/// grows its memory by as many pages as its input has bytes, and traps if it may not.
const COUNTER: &str = r#"
(module
  (memory (export "memory") 2)
  (table 1 funcref)
  (global $count (mut i32) (i32.const 10))
  (data (i32.const 70000) "\20")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "run") (param $input i32) (param $length i32) (result i32)
    (if (i32.eq (i32.const -1) (memory.grow (local.get $length)))
      (then unreachable))
    (i32.store8 (i32.const 70000) (i32.add (i32.load8_u (i32.const 70000)) (i32.const 1)))
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (drop (table.grow (ref.null func) (i32.const 1)))
    (i32.store8 (i32.const 32) (i32.load8_u (i32.const 70000)))
    (i32.store8 (i32.const 33) (global.get $count))
    (i32.store8 (i32.const 34) (table.size))
    (i32.store (i32.const 4) (i32.const 32))
    (i32.store (i32.const 8) (i32.const 3))
    (i32.const 0)))
"#;

/// The same with a start function, which no sandbox ahead can have run.
fn started() -> String {
    COUNTER.replace(
        "(func (export \"run\")",
        "(func $start (global.set $count (i32.const 20)))\n(start $start)\n(func (export \"run\")",
    )
}

fn runners() -> Vec<(&'static str, Runner)> {
    let made = |what, builder: wrun::Builder| (what, builder.build().unwrap());
    let process = || builder(Mode::Process);
    vec![
        made("thread", builder(Mode::Thread)),
        made(
            "fork, no spares",
            process().process(ProcessOptions::default().spares(0)),
        ),
        made(
            "fork, spares",
            process().process(ProcessOptions::default().spares(2)),
        ),
        made(
            "fork, used again",
            process().process(ProcessOptions::default().spares(1).reuse(3)),
        ),
        made(
            "exec, spares",
            process()
                .process(ProcessOptions::default().start(Start::Exec).spares(1))
                .max_running(2),
        ),
    ]
}

/// Time for spares to be made. A task does the same with one and without.
fn settle() {
    std::thread::sleep(Duration::from_millis(30));
}

#[test]
fn each_task_begins_with_the_instance_that_its_file_says() {
    for (what, runner) in runners() {
        for (name, text, expected) in [
            ("counter.wat", COUNTER.to_owned(), [0x21, 11, 2]),
            ("started.wat", started(), [0x21, 21, 2]),
        ] {
            let counter = wat(&runner, name, &text);
            for round in 0..7 {
                if round == 3 {
                    settle();
                }
                let handles: Vec<_> = (0..3)
                    .map(|_| runner.blocking_submit(Task::new(&counter)).unwrap())
                    .collect();
                for mut handle in handles {
                    let report = handle.blocking_report().unwrap();
                    assert_eq!(
                        report.outcome.output().map(|output| output.as_bytes()),
                        Some(&expected[..]),
                        "{what}: {name}: round {round}: {}",
                        report.outcome
                    );
                }
            }
        }
    }
}

#[test]
fn limits_are_the_tasks_own_whatever_waited() {
    const PAGE: u64 = 64 << 10;
    for (what, runner) in runners() {
        let counter = wat(&runner, "counter.wat", COUNTER);
        let run = |limits: Limits, pages: usize| {
            let task = Task::new(&counter).input(vec![0; pages]).limits(limits);
            runner.blocking_run(task).unwrap()
        };
        let usual = Limits::default;
        for round in 0..6 {
            let at = format!("{what}: round {round}");
            if round % 2 == 1 {
                settle();
            }
            // It has two pages.
            let report = run(usual().max_memory(5 * PAGE), 3);
            assert!(report.outcome.is_completed(), "{at}: {}", report.outcome);
            assert_eq!(report.stats.peak_memory_bytes, Some(5 * PAGE), "{at}");
            let report = run(usual().max_memory(5 * PAGE), 4);
            let memory = Outcome::LimitExceeded(Limit::Memory);
            assert_eq!(report.outcome, memory, "{at}: one page too many");
            let report = run(usual().max_memory(PAGE), 0);
            assert_eq!(report.outcome, memory, "{at}: less than it begins with");
            let report = run(usual().max_memory(1 << 30), 1000);
            assert!(report.outcome.is_completed(), "{at}: {}", report.outcome);
            let report = run(usual().max_table_elements(1), 0);
            assert!(report.outcome.is_completed(), "{at}: {}", report.outcome);
            assert_eq!(
                report.outcome.output().map(|output| output.as_bytes()[2]),
                Some(1),
                "{at}: the table did not grow"
            );
            let report = run(usual().max_table_elements(0), 0);
            let elements = Outcome::LimitExceeded(Limit::TableElements);
            assert_eq!(report.outcome, elements, "{at}: no table at all");
            let report = run(usual().fuel(5), 0);
            let fuel = Outcome::LimitExceeded(Limit::Fuel);
            assert_eq!(report.outcome, fuel, "{at}");
            let report = run(usual().fuel(1_000_000), 0);
            assert!(report.outcome.is_completed(), "{at}: {}", report.outcome);
            let used = report.stats.fuel.unwrap();
            assert!((1..1000).contains(&used), "{at}: {used} units of fuel");
        }
    }
}

/// An order that is there before its worker is for that worker only, and the
/// worker is known even where it is gone before anybody has looked at it.
#[test]
fn orders_ahead_of_their_workers_are_their_own() {
    for mode in BOTH {
        let runner = builder(mode)
            .process(ProcessOptions::default().spares(0))
            .max_running(16)
            .build()
            .unwrap();
        let echo = guest(&runner, "echo/echo.wat");
        let handles: Vec<_> = (0..300_u32)
            .map(|number| {
                // With a deadline an order waits for its worker.
                let limits = match number % 3 {
                    0 => Limits::default().timeout(Duration::from_secs(60)),
                    _ => Limits::default(),
                };
                let task = Task::new(&echo).input(number.to_le_bytes().to_vec());
                runner.blocking_submit(task.limits(limits)).unwrap()
            })
            .collect();
        let mut workers = HashSet::new();
        for (number, mut handle) in (0_u32..).zip(handles) {
            let report = handle.blocking_report().unwrap();
            assert_eq!(report.stdout[..], number.to_le_bytes(), "{mode}");
            let stats = &report.stats;
            assert!(
                stats.queue + stats.start + stats.run <= stats.total,
                "{mode}: {stats:?}"
            );
            workers.extend(stats.worker_pid);
        }
        let known = if mode == Mode::Process { 300 } else { 0 };
        assert_eq!(workers.len(), known, "{mode}");
    }
}
