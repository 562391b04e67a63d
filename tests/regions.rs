//! Regions, as far as they are seen from outside: that nothing of them stays, that
//! they count as memory, and that no other task is disturbed. What they do is in the
//! guests of `guest-tasks/regions` and `guest-tasks/hostile/region-*`, which the
//! manifest has.

use crate::support::{
    BOTH, Census, alone, assert_nothing_left, builder, eventually, guest, repo, runner,
    still_works, wat, within,
};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use wrun::{
    Limit, Limits, Message, Mode, Outcome, ProcessOptions, RegionError, RegionKind, Runner, Task,
    Waited,
};

/// With how each ends.
const GUESTS: [(&str, &str); 12] = [
    ("regions/exclusive.wat", "completed"),
    ("regions/frozen.wat", "completed"),
    ("regions/parts.wat", "completed"),
    ("regions/words.wat", "completed"),
    ("hostile/region-refusals.wat", "completed"),
    ("hostile/region-drop-mapped.wat", "completed"),
    ("hostile/region-many-windows.wat", "completed"),
    ("hostile/region-hoard.wat", "completed"),
    ("hostile/region-trap-mapped.wat", "trapped"),
    ("hostile/region-window-outside.wat", "trapped"),
    ("hostile/region-loop-mapped.wat", "limit-exceeded"),
    ("hostile/region-wait-forever.wat", "limit-exceeded"),
];

fn run_all(runner: &Runner, times: usize) {
    for (path, kind) in GUESTS {
        let artifact = guest(runner, path);
        let handles: Vec<_> = (0..times)
            .map(|_| {
                let limits =
                    Limits::default().timeout(Duration::from_millis(if kind == "limit-exceeded" {
                        100
                    } else {
                        20_000
                    }));
                let task = Task::new(&artifact).limits(limits);
                runner.blocking_submit(task).unwrap()
            })
            .collect();
        for mut handle in handles {
            let report = handle.blocking_report().unwrap();
            assert_eq!(report.outcome.kind(), kind, "{path}: {}", report.outcome);
        }
    }
}

/// What this process has of regions: descriptors, mappings.
fn regions_here() -> (usize, usize) {
    const NAME: &str = "memfd:wrun-region";
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let descriptors = descriptors
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|to| to.to_string_lossy().contains(NAME))
        .count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mappings = maps.lines().filter(|line| line.contains(NAME)).count();
    (descriptors, mappings)
}

fn leaves_nothing(mode: Mode) {
    let before = Census::after_a_first_runner(mode);
    let runner = runner(mode);
    run_all(&runner, 2);
    // What runs once and for all is there now: memory is compared after this.
    let memory = resident();
    for _ in 0..5 {
        run_all(&runner, 4);
    }
    let grown = resident().saturating_sub(memory);
    assert!(grown < 32 << 10, "{grown} KiB more than after the first");
    still_works(&runner);
    drop(runner);
    assert_nothing_left(&before, "a runner of tasks with regions");
    assert_eq!(regions_here(), (0, 0));
}

/// KiB of memory, files in memory included.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn nothing_of_a_region_stays_in_thread_mode() {
    alone("regions::nothing_of_a_region_stays_in_thread_mode", || {
        leaves_nothing(Mode::Thread);
    });
}

#[test]
fn nothing_of_a_region_stays_in_process_mode() {
    alone("regions::nothing_of_a_region_stays_in_process_mode", || {
        leaves_nothing(Mode::Process);
    });
}

#[test]
fn a_worker_that_is_used_again_has_nothing_of_the_task_before() {
    let runner = builder(Mode::Process)
        .process(ProcessOptions::default().reuse(100))
        .build()
        .unwrap();
    for _ in 0..3 {
        run_all(&runner, 3);
    }
    still_works(&runner);
}

#[test]
fn regions_count_as_memory() {
    for mode in BOTH {
        let runner = runner(mode);
        let bomb = guest(&runner, "hostile/region-bomb.wat");
        let limits = Limits::default().max_memory(8 << 20);
        let report = runner
            .blocking_run(Task::new(&bomb).limits(limits))
            .unwrap();
        assert_eq!(report.stdout, "74-", "{mode}: {}", report.outcome);
        let peak = report.stats.peak_memory_bytes.unwrap();
        assert_eq!(peak, (7 << 20) + (64 << 10), "{mode}");
        assert!(report.stats.memory_growth_refused >= 2, "{mode}");
        still_works(&runner);
    }
}

/// As toolchains make them: a component, with the interface as one of its imports.
#[test]
fn components_have_regions_like_core_modules() {
    let text = std::fs::read(repo("guest-tasks/regions/exclusive.wat")).unwrap();
    let component = wrun::fuzzing::component(&text).unwrap();
    for mode in BOTH {
        let runner = runner(mode);
        let core = guest(&runner, "regions/exclusive.wat");
        let component = runner
            .blocking_load_bytes("exclusive.wasm", component.clone())
            .unwrap();
        let [core, component] =
            [&core, &component].map(|artifact| runner.blocking_run(Task::new(artifact)).unwrap());
        assert_eq!(core.stdout, component.stdout, "{mode}");
        assert!(core.stdout.ends_with(b"x"), "{mode}");
    }
}

#[test]
fn tasks_with_and_without_regions_take_turns() {
    for mode in BOTH {
        let runner = runner(mode);
        let echo = guest(&runner, "echo/echo.wat");
        let region = guest(&runner, "regions/words.wat");
        for _ in 0..3 {
            let report = runner.blocking_run(Task::new(&echo).input("x")).unwrap();
            assert_eq!(report.stdout, "x", "{mode}");
            let report = runner.blocking_run(Task::new(&region)).unwrap();
            assert_eq!(
                report.outcome.kind(),
                "completed",
                "{mode}: {}",
                report.outcome
            );
        }
    }
}

#[test]
fn a_wait_does_not_hold_a_thread() {
    let runner = builder(Mode::Thread).max_running(64).build().unwrap();
    let waits = guest(&runner, "hostile/region-wait-forever.wat");
    let limits = || Limits::default().timeout(Duration::from_secs(2));
    let handles: Vec<_> = (0..32)
        .map(|_| {
            let task = Task::new(&waits).limits(limits());
            runner.blocking_submit(task).unwrap()
        })
        .collect();
    // All of them wait, and others run.
    for _ in 0..20 {
        still_works(&runner);
    }
    for mut handle in handles {
        let report = handle.blocking_report().unwrap();
        assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Deadline));
        assert!(report.stats.cpu.unwrap() < Duration::from_secs(1));
    }
}

#[test]
fn a_task_that_waits_is_killed_and_cancelled() {
    for mode in BOTH {
        let runner = runner(mode);
        let waits = guest(&runner, "hostile/region-wait-forever.wat");
        let mut handle = runner.blocking_submit(Task::new(&waits)).unwrap();
        // It waits right after it has created its region.
        eventually("it has a region", Duration::from_secs(60), || {
            runner.region_memory_used() > 0
        });
        handle.kill();
        let report = handle.blocking_report().unwrap();
        assert_eq!(report.outcome, Outcome::Cancelled, "{mode}");
        still_works(&runner);
    }
}

#[test]
fn siblings_are_not_disturbed() {
    for mode in BOTH {
        let runner = builder(mode).max_running(8).build().unwrap();
        let good = guest(&runner, "regions/exclusive.wat");
        let echo = guest(&runner, "echo/echo.wat");
        let expected = runner.blocking_run(Task::new(&good)).unwrap().stdout;
        std::thread::scope(|scope| {
            scope.spawn(|| run_all(&runner, 2));
            for n in 0..100 {
                let mut handle = runner.blocking_submit(Task::new(&good)).unwrap();
                let text = n.to_string();
                let report = runner
                    .blocking_run(Task::new(&echo).input(text.clone()))
                    .unwrap();
                assert_eq!(report.stdout, text, "{mode}");
                let report = handle.blocking_report().unwrap();
                assert_eq!(report.stdout, expected, "{mode}: {}", report.outcome);
            }
        });
    }
}

#[test]
fn a_single_read_is_at_most_the_memory_of_the_task() {
    // Reads all of the region that came in a message. Prints the number of the error.
    const READ: &str = r#"(module
      (import "wrun:task/ports@0.1.0" "parent" (func $parent (param i32)))
      (import "wrun:task/ports@0.1.0" "[method]port.receive" (func $receive (param i32 i32)))
      (import "wrun:task/regions@0.1.0" "[method]region.len" (func $len (param i32) (result i64)))
      (import "wrun:task/regions@0.1.0" "[method]region.read"
        (func $read (param i32 i64 i64 i32)))
      (memory (export "memory") 1)
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (if (i32.gt_u (local.get 3) (i32.const 4096)) (then (unreachable)))
        (i32.const 4096))
      (func (export "run") (param i32 i32) (result i32) (local $region i32)
        (call $parent (i32.const 64))
        (call $receive (i32.load (i32.const 68)) (i32.const 128))
        (if (i32.load8_u (i32.const 128)) (then (unreachable)))
        (local.set $region (i32.load (i32.load (i32.const 140))))
        (call $read (local.get $region) (i64.const 0) (call $len (local.get $region)) (i32.const 64))
        (if (i32.eqz (i32.load8_u (i32.const 64))) (then (unreachable)))
        (i32.store8 (i32.const 256) (i32.add (i32.const 48) (i32.load8_u (i32.const 68))))
        (i32.store offset=4 (i32.const 0) (i32.const 256))
        (i32.store offset=8 (i32.const 0) (i32.const 1))
        (i32.const 0)))"#;
    alone(
        "regions::a_single_read_is_at_most_the_memory_of_the_task",
        || {
            for mode in BOTH {
                let runner = builder(mode).build().unwrap();
                let read = wat(&runner, "read", READ);
                let (theirs, ours) = runner.channel(1).unwrap();
                let region = runner.region(256 << 20, RegionKind::Shared).unwrap();
                ours.blocking_send(Message::new("").region(region)).unwrap();
                let limits = Limits::default().max_memory(8 << 20);
                let before = peak();
                let task = Task::new(&read).port(theirs).limits(limits);
                let report = runner.blocking_run(task).unwrap();
                assert_eq!(report.stdout, "4", "{mode}: {}", report.outcome);
                let grown = peak() - before;
                assert!(grown < 128 << 10, "{grown} KiB in {mode} mode");
                still_works(&runner);
            }
        },
    );
}

/// Peak memory of this process, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_task_that_ended_has_no_regions() {
    // Makes a region of 6 MiB and ends.
    const MAKE: &str = r#"(module
      (import "wrun:task/regions@0.1.0" "[static]region.create"
        (func $create (param i64 i32 i32)))
      (memory (export "memory") 1)
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
      (func (export "run") (param i32 i32) (result i32)
        (call $create (i64.const 6291456) (i32.const 0) (i32.const 64))
        (if (i32.load8_u (i32.const 64)) (then (unreachable)))
        (i32.const 0)))"#;
    for mode in BOTH {
        let runner = builder(mode).region_memory(8 << 20).build().unwrap();
        let make = wat(&runner, "make", MAKE);
        for round in 0..50 {
            let report = runner.blocking_run(Task::new(&make)).unwrap();
            let outcome = report.outcome;
            assert!(outcome.is_completed(), "{mode}: {round}: {outcome}");
        }
    }
}

#[test]
fn windows_of_many_tasks_leave_room_for_others() {
    // Lays one page over every second one of its memory, until it is refused; says that
    // it is ready, and waits until it is killed.
    const DIVIDE: &str = r#"(module
      (import "wrun:task/regions@0.1.0" "[static]region.create"
        (func $create (param i64 i32 i32)))
      (import "wrun:task/regions@0.1.0" "[method]region.freeze" (func $freeze (param i32 i32)))
      (import "wrun:task/regions@0.1.0" "[method]region.map"
        (func $map (param i32 i64 i32 i32 i32)))
      (import "wrun:task/ports@0.1.0" "channel" (func $channel (param i32 i32)))
      (import "wrun:task/ports@0.1.0" "[method]port.receive" (func $receive (param i32 i32)))
      (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
      (memory (export "memory") 40)
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
      (func (export "run") (param i32 i32) (result i32) (local $region i32) (local $at i32)
        (call $create (i64.const 4096) (i32.const 0) (i32.const 64))
        (local.set $region (i32.load (i32.const 68)))
        (call $freeze (local.get $region) (i32.const 64))
        (local.set $at (i32.const 65536))
        (loop $on
          (call $map (local.get $region) (i64.const 0) (local.get $at) (i32.const 4096) (i32.const 64))
          (local.set $at (i32.add (local.get $at) (i32.const 8192)))
          (br_if $on (i32.and
            (i32.eqz (i32.load8_u (i32.const 64)))
            (i32.lt_u (local.get $at) (i32.const 2600000)))))
        (call $progress (i64.const 1) (i32.const 0) (i64.const 0))
        (call $channel (i32.const 1) (i32.const 64))
        (call $receive (i32.load (i32.const 68)) (i32.const 64))
        (i32.const 0)))"#;
    alone(
        "regions::windows_of_many_tasks_leave_room_for_others",
        || {
            let runner = builder(Mode::Thread).max_running(200).build().unwrap();
            let divide = wat(&runner, "divide", DIVIDE);
            let tasks: Vec<_> = (0..150)
                .map(|_| {
                    let limits = Limits::default().max_memory(4 << 20);
                    let task = Task::new(&divide).limits(limits).grace(Duration::ZERO);
                    runner.blocking_submit(task).unwrap()
                })
                .collect();
            for task in &tasks {
                let ready = || task.progress().done > 0;
                assert!(crate::support::within(Duration::from_secs(60), ready));
            }
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let mappings = maps.lines().count();
            assert!(mappings < 40_000, "{mappings} mappings");
            still_works(&runner);
            for task in &tasks {
                task.kill();
            }
            for mut task in tasks {
                assert_eq!(task.blocking_report().unwrap().outcome, Outcome::Cancelled);
            }
            // Their memory is available again.
            let many = guest(&runner, "hostile/region-many-windows.wat");
            assert!(
                runner
                    .blocking_run(Task::new(&many))
                    .unwrap()
                    .outcome
                    .is_completed()
            );
        },
    );
}

/// An executor that is nothing but a thread.
fn drive<T>(mut future: Pin<&mut impl Future<Output = T>>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn the_host_waits_at_a_word_without_a_thread_of_its_own() {
    const SOON: Duration = Duration::from_secs(60);
    for mode in BOTH {
        let runner = runner(mode);
        let region = runner.region(64, RegionKind::Shared).unwrap();
        let waited = drive(std::pin::pin!(region.wait(8, 1)));
        assert_eq!(waited.unwrap(), Waited::NotEqual, "{mode}");
        for (offset, wrong) in [(64, "beyond its end"), (2, "not aligned")] {
            let refused = drive(std::pin::pin!(region.wait(offset, 0)));
            assert!(refused.is_err(), "{mode}: {wrong}");
        }
        let alone = runner.region(64, RegionKind::Exclusive).unwrap();
        let refused = drive(std::pin::pin!(alone.wait(0, 0))).unwrap_err();
        assert!(matches!(refused, RegionError::WrongKind), "{mode}");
        let polled = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut waiting = std::pin::pin!(region.wait(8, 0));
                drive(std::pin::pin!(std::future::poll_fn(|context| {
                    let now = waiting.as_mut().poll(context);
                    polled.store(true, Ordering::Relaxed);
                    now
                })))
            });
            eventually("it has begun to wait", SOON, || {
                polled.load(Ordering::Relaxed)
            });
            assert!(!waiting.is_finished(), "{mode}");
            region.store_u32(8, 1).unwrap();
            region.notify(8, 1).unwrap();
            assert_eq!(waiting.join().unwrap().unwrap(), Waited::Woken, "{mode}");
        });
        // Dropped, it waits no longer, and holds nothing.
        let mut given_up = Box::pin(region.wait(8, 1));
        let polled = given_up
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "{mode}");
        drop(given_up);
        drop((region, alone));
        let gone = within(SOON, || runner.region_memory_used() == 0);
        assert!(gone, "{mode}: {} bytes", runner.region_memory_used());
    }
}
