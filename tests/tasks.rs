//! Tasks that start tasks, in both modes: what they get, what bounds them, and that
//! none outlives its parent.

use crate::support::command::Wrun;
use crate::support::processes::{await_rest, descendants, leaves, signal_below};
use crate::support::{
    BOTH, Census, MODES, alone, assert_nothing_left, await_output, builder, guest, repo, settled,
    still_works, wat, within, wrun,
};
use rustix::process::Signal;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use wrun::{
    Access, Artifact, ErrorKind, Input, Limit, Limits, Mode, Outcome, ProcessOptions, Report,
    Runner, Task, TaskGrant, TaskHandle,
};

/// What takes no time, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

fn load(mode: Mode) -> (Runner, Artifact) {
    let runner = builder(mode).build().unwrap();
    let family = guest(&runner, "family/family.wasm");
    (runner, family)
}

/// A task that may start itself.
fn task(family: &Artifact, what: impl Into<Input>) -> Task {
    let limits = Limits::default().max_memory(64 << 20).timeout(2 * SOON);
    Task::new(family)
        .input(what)
        .limits(limits)
        .task("self", family)
}

fn run(runner: &Runner, task: Task) -> String {
    output(&runner.blocking_run(task).unwrap())
}

fn output(report: &Report) -> String {
    assert!(
        report.outcome.is_completed(),
        "{} mode: {}: {}",
        report.mode,
        report.outcome,
        String::from_utf8_lossy(&report.stderr)
    );
    String::from_utf8(report.stdout.to_vec()).unwrap()
}

/// A task that runs and has done what it says first.
fn begun(runner: &Runner, task: Task) -> TaskHandle {
    let handle = runner.blocking_submit(task).unwrap();
    assert!(within(SOON, || handle.progress().done > 0));
    handle
}

/// That nothing of what ended runs on, in a process of its own.
struct Idle {
    mode: Mode,
    /// A zygote stays.
    processes: usize,
}

impl Idle {
    /// The runner has spares of nothing, and has run tasks of this artifact.
    fn of(runner: &Runner, family: &Artifact) -> Self {
        run(runner, task(family, "run self say x"));
        Idle {
            mode: runner.mode(),
            processes: settled("the processes", SOON, Idle::count),
        }
    }

    fn count() -> usize {
        descendants(std::process::id().cast_signed()).len()
    }

    #[track_caller]
    fn check(&self) {
        // The last worker ends of itself.
        assert!(
            within(SOON, || Idle::count() <= self.processes),
            "{} processes in {} mode, {} before",
            Idle::count(),
            self.mode,
            self.processes
        );
        let before = ticks("self");
        std::thread::sleep(Duration::from_millis(300));
        let used = ticks("self") - before;
        assert!(used < 5, "{used} ticks in {} mode", self.mode);
    }
}

/// Processor time of a process in user mode, in hundredths of a second.
fn ticks(process: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = fields.split_whitespace().nth(11);
    field.and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

fn load_without_spares(mode: Mode) -> (Runner, Artifact) {
    let runner = builder(mode)
        .process(ProcessOptions::default().spares(0))
        .build()
        .unwrap();
    let family = guest(&runner, "family/family.wasm");
    (runner, family)
}

#[test]
fn a_task_starts_tasks_and_learns_how_they_end() {
    for mode in BOTH {
        let (runner, family) = load(mode);
        let report = runner.blocking_run(task(&family, "all")).unwrap();
        let variant = match mode {
            Mode::Thread => "Mode::Thread",
            Mode::Process => "Mode::Process",
        };
        let expected = format!(
            "say hello: completed hello\n\
             fail: failed it would not\n\
             trap: trapped\n\
             nonsense: failed it does not know \"nonsense\"\n\
             len: completed 3\n\
             who: completed self {variant} true\n\
             \"nobody\": not-granted\n\
             \"\": not-granted\n\
             \"SELF\": not-granted\n"
        );
        assert_eq!(output(&report), expected, "{mode}");
        let stderr = String::from_utf8_lossy(&report.stderr);
        for line in ["to stderr: hello\n", "to stdout: hello\n"] {
            assert!(stderr.contains(line), "{mode}: {stderr:?}");
        }
        assert_eq!(report.stats.children, 6);
        let denied: Vec<_> = report
            .denied
            .iter()
            .map(|it| (it.access, &*it.target))
            .collect();
        let names = ["nobody", "", "SELF"].map(|name| (Access::Task, name));
        assert_eq!(denied, names, "{mode}");
        still_works(&runner);
    }
}

#[test]
fn nothing_is_granted_by_default() {
    for mode in BOTH {
        let (runner, family) = load(mode);
        let report = runner
            .blocking_run(Task::new(&family).input("run self say x"))
            .unwrap();
        assert_eq!(
            report.outcome,
            Outcome::Failed("not-granted".into()),
            "{mode}"
        );
        assert_eq!(report.stats.children, 0);
    }
}

#[test]
fn a_command_is_a_child_like_any_other() {
    for mode in BOTH {
        let (runner, family) = load(mode);
        let cat = guest(&runner, "cat/cat.wasm");
        let env = guest(&runner, "env/env.wasm");
        let exit = wat(
            &runner,
            "exit",
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
               (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 7))))"#,
        );
        let with = |what: &str| {
            task(&family, what)
                .env("SECRET", "of the parent")
                .task("cat", &cat)
                .task("exit", &exit)
                .allow_task(TaskGrant::new("env", &env).args(["one", "two"]))
        };
        assert_eq!(
            run(&runner, with("run cat some words")),
            "completed some words"
        );
        assert_eq!(run(&runner, with("run exit")), "exited 7");
        let shown = run(&runner, with("run env"));
        assert!(shown.contains("one"), "{mode}: {shown}");
        assert!(!shown.contains("SECRET"), "{mode}: {shown}");
    }
}

#[test]
fn children_have_the_limits_of_their_grant_or_their_parent() {
    for mode in BOTH {
        let (runner, family) = load(mode);
        let with = |what: &str, limits: Limits| {
            task(&family, what).allow_task(TaskGrant::new("bound", &family).limits(limits))
        };
        let few = Limits::default().max_memory(64 << 20);
        let short = few.clone().timeout(Duration::from_millis(100));
        let small = few.clone().max_output(1000).max_input(100);
        let metered = few.clone().fuel(1_000_000);
        for (what, limits, expected) in [
            ("run bound loop", &short, "limit deadline"),
            ("run bound hold", &short, "limit deadline"),
            ("run bound big 1000", &small, "completed 1000 bytes"),
            ("run bound big 1001", &small, "limit output"),
            ("run bound loop", &metered, "limit fuel"),
        ] {
            let got = run(&runner, with(what, limits.clone()));
            assert_eq!(got, expected, "{mode}: {what}");
        }
        let long = format!("run bound len {}", "x".repeat(97));
        let report = runner.blocking_run(with(&long, small)).unwrap();
        assert_eq!(
            report.outcome,
            Outcome::Failed("too-large".into()),
            "{mode}"
        );
        // The parent's deadline is its children's, whatever theirs is.
        let limits = Limits::default()
            .max_memory(64 << 20)
            .timeout(Duration::from_millis(300));
        let longer = few.timeout(SOON);
        let late = with("run bound loop", longer).limits(limits);
        let began = Instant::now();
        let report = runner.blocking_run(late).unwrap();
        assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Deadline));
        assert!(began.elapsed() < SOON / 2, "{mode}");
    }
}

#[test]
fn large_inputs_and_outputs() {
    for mode in BOTH {
        let (runner, family) = load(mode);
        for size in [300_000, 5 << 20] {
            let got = run(&runner, task(&family, format!("input {size}")));
            assert_eq!(got, format!("completed {size}"), "{mode}");
            let got = run(&runner, task(&family, format!("output {size}")));
            assert_eq!(got, format!("{size} bytes, twice"), "{mode}");
        }
        let limits = Limits::default().max_memory(64 << 20).max_input(1 << 20);
        let larger = task(&family, "input 1048577").limits(limits);
        assert_eq!(run(&runner, larger), "too-large", "{mode}");
        let larger = task(&family, "output 17000000");
        assert_eq!(run(&runner, larger), "limit output", "{mode}");
    }
}

#[test]
fn levels_numbers_and_memory_have_bounds() {
    for mode in BOTH {
        let (runner, family) = load(mode);
        let limits = || Limits::default().max_memory(64 << 20).timeout(2 * SOON);
        let with = |what: &str, limits: Limits| task(&family, what).limits(limits);
        assert_eq!(run(&runner, with("deep", limits())), "8", "{mode}");
        let none = limits().max_depth(0);
        let report = runner.blocking_run(with("run self say x", none)).unwrap();
        assert_eq!(report.outcome, Outcome::Failed("limit".into()), "{mode}");
        assert_eq!(run(&runner, with("deep", limits().max_depth(2))), "2");
        // On all levels together.
        assert_eq!(run(&runner, with("deep", limits().max_tasks(5))), "5");
        let got = run(&runner, with("many", limits().max_tasks(7)));
        assert_eq!(got, "7 limit limit completed again", "{mode}");
        // Beside its own 64 MiB there is room for three more.
        let got = run(&runner, with("deep", limits().max_total_memory(256 << 20)));
        assert_eq!(got, "3", "{mode}");
        let got = run(&runner, with("deep", limits().max_total_memory(64 << 20)));
        assert_eq!(got, "0", "{mode}");
        // Its own part must fit.
        let less = limits().max_total_memory((64 << 20) - 1);
        let error = runner.blocking_run(with("deep", less)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTask, "{mode}");
        assert_eq!(
            error.to_string(),
            "max_total_memory (67108863 bytes) must not be less than max_memory (67108864 bytes): \
             max_memory limits the task alone, max_total_memory the task and all its child tasks \
             together",
            "{mode}"
        );
        for limits in [limits().max_tasks(4097), limits().max_depth(65)] {
            let error = runner.blocking_run(with("deep", limits)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidTask);
        }
        drop(runner);
        // Over all tasks of the runner; whose own place is another.
        let runner = builder(mode)
            .max_running(1)
            .max_children(3)
            .build()
            .unwrap();
        let family = guest(&runner, "family/family.wasm");
        assert_eq!(run(&runner, task(&family, "deep")), "3", "{mode}");
        let runner = builder(mode)
            .max_running(1)
            .max_children(0)
            .build()
            .unwrap();
        let family = guest(&runner, "family/family.wasm");
        assert_eq!(run(&runner, task(&family, "deep")), "0", "{mode}");
    }
}

#[test]
fn regions_that_children_leave_behind_count_for_their_tree() {
    // Starts itself again and again. A child makes a region of 6 MiB, sends it to its
    // parent and ends; the parent keeps it. Prints how many there were until it was
    // refused, 9 at most.
    const HEIR: &str = r#"(module
      (import "wrun:task/tasks@0.1.0" "spawn" (func $spawn (param i32 i32 i32 i32 i32 i32 i32)))
      (import "wrun:task/tasks@0.1.0" "[method]child.wait" (func $wait (param i32 i32)))
      (import "wrun:task/tasks@0.1.0" "[resource-drop]child" (func $drop-child (param i32)))
      (import "wrun:task/ports@0.1.0" "channel" (func $channel (param i32 i32)))
      (import "wrun:task/ports@0.1.0" "parent" (func $parent (param i32)))
      (import "wrun:task/ports@0.1.0" "[method]port.receive" (func $receive (param i32 i32)))
      (import "wrun:task/ports@0.1.0" "[method]port.send"
        (func $send (param i32 i32 i32 i32 i32 i32 i32 i32)))
      (import "wrun:task/ports@0.1.0" "[resource-drop]port" (func $drop-port (param i32)))
      (import "wrun:task/regions@0.1.0" "[static]region.create"
        (func $create (param i64 i32 i32)))
      (memory (export "memory") 1)
      (data (i32.const 16) "self")
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
      (func $end (param $n i32) (result i32)
        (i32.store8 (i32.const 256) (i32.add (i32.const 48) (local.get $n)))
        (i32.store offset=4 (i32.const 0) (i32.const 256))
        (i32.store offset=8 (i32.const 0) (i32.const 1))
        (i32.const 0))
      (func $child (result i32)
        (call $create (i64.const 6291456) (i32.const 2) (i32.const 64))
        (if (i32.load8_u (i32.const 64)) (then (unreachable)))
        (i32.store (i32.const 128) (i32.load (i32.const 68)))
        (call $parent (i32.const 64))
        (call $send (i32.load (i32.const 68)) (i32.const 0) (i32.const 0)
          (i32.const 128) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 64))
        (if (i32.load8_u (i32.const 64)) (then (unreachable)))
        (call $end (i32.const 0)))
      (func (export "run") (param i32 i32) (result i32)
        (local $n i32) (local $child i32) (local $port i32)
        (if (local.get 1) (then (return (call $child))))
        (loop $again
          (call $channel (i32.const 1) (i32.const 64))
          (local.set $port (i32.load (i32.const 68)))
          (call $spawn (i32.const 16) (i32.const 4) (i32.const 16) (i32.const 4)
            (i32.const 1) (i32.load (i32.const 72)) (i32.const 64))
          (if (i32.load8_u (i32.const 64)) (then (return (call $end (local.get $n)))))
          (local.set $child (i32.load (i32.const 68)))
          (call $receive (local.get $port) (i32.const 128))
          (if (i32.load8_u (i32.const 128)) (then (unreachable)))
          (call $wait (local.get $child) (i32.const 128))
          (call $drop-child (local.get $child))
          (call $drop-port (local.get $port))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get $n) (i32.const 9))))
        (call $end (local.get $n))))"#;
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let heir = wat(&runner, "heir", HEIR);
        let limits = Limits::default().max_memory(8 << 20).timeout(SOON);
        let with = |total: u64| {
            let task = Task::new(&heir).task("self", &heir);
            task.limits(limits.clone().max_total_memory(total))
        };
        // Beside the parent and the next child there is room for two, so that the third
        // is the last.
        assert_eq!(run(&runner, with(32 << 20)), "3", "{mode}");
        assert_eq!(run(&runner, with(1 << 30)), "9", "{mode}");
    }
}

#[test]
fn grants_are_checked() {
    for mode in BOTH {
        let (runner, family) = load(mode);
        let (_other, foreign) = load(mode);
        let named = |name: &str| Task::new(&family).task(name, &family);
        let refused = [
            named(""),
            named("a\0b"),
            named(&"x".repeat(257)),
            named("a").task("a", &family),
            Task::new(&family).allow_task(TaskGrant::new("a", &family).args(["\0"])),
            Task::new(&family).allow_task(TaskGrant::new("a", &family).args(["x".repeat(2 << 20)])),
        ];
        for task in refused {
            let told = format!("{task:?}");
            let error = runner.blocking_run(task).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidTask, "{told}");
        }
        let error = runner.blocking_run(Task::new(&family).task("a", &foreign));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::OtherRunner, "{mode}");
        let mut many = Task::new(&family);
        for number in 0..257 {
            many = many.task(number.to_string(), &family);
        }
        assert_eq!(
            runner.blocking_run(many).unwrap_err().kind(),
            ErrorKind::InvalidTask
        );
        let longest = "x".repeat(256);
        let what = format!("run {longest} say it");
        let granted = task(&family, what.as_str()).task(&*longest, &family);
        // The guest reads no more than 200 bytes of its input.
        let report = runner.blocking_run(granted).unwrap();
        assert_eq!(report.outcome, Outcome::Failed("not-granted".into()));
    }
}

#[test]
fn children_are_killed_dropped_and_waited_for() {
    alone("tasks::children_are_killed_dropped_and_waited_for", || {
        for mode in BOTH {
            let (runner, family) = load_without_spares(mode);
            let idle = Idle::of(&runner, &family);
            let got = run(&runner, task(&family, "kill"));
            assert_eq!(
                got, "failed cancelled true failed cancelled cancelled",
                "{mode}"
            );
            assert_eq!(run(&runner, task(&family, "drop")), "gone", "{mode}");
            let polled = run(&runner, task(&family, "poll"));
            let (rounds, rest) = polled.split_once(' ').unwrap();
            assert_eq!(rest, "false completed quick failed cancelled", "{mode}");
            assert_eq!(rounds, "200", "{mode}");
            idle.check();
        }
    });
}

/// A killed child has its parent's grace, or its grant's, and none when no handle of it is left
/// any more.
#[test]
fn a_child_that_is_killed_is_cancelled_first() {
    const FOREVER: Duration = Duration::from_secs(3600);
    let moment = Duration::from_millis(500);
    for mode in BOTH {
        let (runner, family) = load(mode);
        let endless = guest(&runner, "hostile/endless-loop-run.wat");
        let with = |what: &str, grace: Duration| {
            task(&family, what)
                .grace(grace)
                .task("cannot-hear", &endless)
                .allow_task(TaskGrant::new("hasty", &family).grace(Duration::ZERO))
                .allow_task(TaskGrant::new("slow", &family).grace(moment))
        };
        let asked = "completed asked to stop";
        for (what, grace, expected, at_least) in [
            ("stop self patient", FOREVER, asked, Duration::ZERO),
            ("stop self loop", moment, "cancelled", moment),
            (
                "stop self loop",
                Duration::ZERO,
                "cancelled",
                Duration::ZERO,
            ),
            (
                "stop self patient",
                Duration::ZERO,
                "cancelled",
                Duration::ZERO,
            ),
            ("stop cannot-hear", FOREVER, "cancelled", Duration::ZERO),
            // As the grant says; and its children have the same.
            ("stop hasty patient", FOREVER, "cancelled", Duration::ZERO),
            ("stop slow loop", FOREVER, "cancelled", moment),
            (
                "run hasty stop self patient",
                FOREVER,
                "completed cancelled",
                Duration::ZERO,
            ),
            // What is below a child that is cancelled is cancelled, too.
            (
                "stop self waits",
                FOREVER,
                "completed completed asked to stop",
                Duration::ZERO,
            ),
            ("drop", FOREVER, "gone", Duration::ZERO),
            ("leave return", FOREVER, "left", Duration::ZERO),
        ] {
            let began = Instant::now();
            let got = run(&runner, with(what, grace));
            let took = began.elapsed();
            assert_eq!(got, expected, "{mode}: {what}, {grace:?}");
            assert!(at_least <= took && took < SOON, "{mode}: {what}: {took:?}");
        }
        still_works(&runner);
    }
}

#[test]
fn a_child_is_dropped_right_after_it_was_looked_at() {
    // 20 times: starts one, looks whether it has ended, and drops it.
    const LOOK: &str = r#"(module
      (import "wrun:task/tasks@0.1.0" "spawn" (func $spawn (param i32 i32 i32 i32 i32 i32 i32)))
      (import "wrun:task/tasks@0.1.0" "[method]child.subscribe" (func $subscribe (param i32) (result i32)))
      (import "wrun:task/tasks@0.1.0" "[resource-drop]child" (func $drop-child (param i32)))
      (import "wasi:io/poll@0.2.12" "[method]pollable.ready" (func $ready (param i32) (result i32)))
      (import "wasi:io/poll@0.2.12" "[resource-drop]pollable" (func $drop-pollable (param i32)))
      (memory (export "memory") 1)
      (data (i32.const 16) "self")
      (data (i32.const 32) "done")
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
      (func (export "run") (param i32 i32) (result i32)
        (local $n i32) (local $child i32) (local $pollable i32)
        ;; A child has an input, and waits for the end.
        (if (local.get 1) (then (loop $on (br $on))))
        (loop $again
          (call $spawn (i32.const 16) (i32.const 4) (i32.const 16) (i32.const 4)
            (i32.const 0) (i32.const 0) (i32.const 64))
          (if (i32.load8_u (i32.const 64))
            ;; Those before are not gone yet.
            (then (br $again)))
          (local.set $child (i32.load (i32.const 68)))
          (local.set $pollable (call $subscribe (local.get $child)))
          (if (call $ready (local.get $pollable)) (then (unreachable)))
          (call $drop-pollable (local.get $pollable))
          (call $drop-child (local.get $child))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get $n) (i32.const 20))))
        (i32.store offset=4 (i32.const 0) (i32.const 32))
        (i32.store offset=8 (i32.const 0) (i32.const 4))
        (i32.const 0)))"#;
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let look = wat(&runner, "look", LOOK);
        let task = Task::new(&look).task("self", &look);
        let limits = Limits::default().max_memory(64 << 20).timeout(SOON);
        let got = run(&runner, task.limits(limits));
        assert_eq!(got, "done", "{mode}");
    }
}

#[test]
fn parents_and_children_talk() {
    for mode in BOTH {
        let (runner, family) = load(mode);
        assert_eq!(
            run(&runner, task(&family, "port")),
            "completed 4 echoed",
            "{mode}"
        );
        let got = run(&runner, task(&family, "two"));
        assert!(got.ends_with(" echoed true"), "{mode}: {got}");
        let got = run(&runner, task(&family, "back"));
        assert_eq!(got, "not-granted busy waits", "{mode}");
    }
}

#[test]
fn cancelling_a_task_cancels_its_children() {
    for mode in BOTH {
        let (runner, family) = load(mode);
        let mut handle = runner
            .blocking_submit(task(&family, "run self waits"))
            .unwrap();
        assert!(within(SOON, || handle.progress().done > 0));
        handle.cancel();
        let report = handle.blocking_report().unwrap();
        assert_eq!(
            output(&report),
            "completed completed asked to stop",
            "{mode}"
        );
    }
}

#[test]
fn children_end_with_their_parent_however_it_ends() {
    alone(
        "tasks::children_end_with_their_parent_however_it_ends",
        || {
            for mode in BOTH {
                let (runner, family) = load_without_spares(mode);
                let idle = Idle::of(&runner, &family);
                for (how, kind) in [
                    ("leave return", "completed"),
                    ("leave fail", "failed"),
                    ("leave trap", "trapped"),
                ] {
                    let report = runner.blocking_run(task(&family, how)).unwrap();
                    assert_eq!(
                        report.outcome.kind(),
                        kind,
                        "{mode}: {how}: {}",
                        report.outcome
                    );
                    assert_eq!(report.stats.children, 3);
                    idle.check();
                }
                for how in ["leave loop", "leave waiting"] {
                    let mut handle = begun(&runner, task(&family, how).grace(Duration::ZERO));
                    handle.kill();
                    assert_eq!(
                        handle.blocking_report().unwrap().outcome,
                        Outcome::Cancelled
                    );
                    idle.check();
                    let short = Limits::default()
                        .max_memory(64 << 20)
                        .timeout(Duration::from_millis(1500));
                    let report = runner
                        .blocking_run(task(&family, how).limits(short))
                        .unwrap();
                    assert_eq!(
                        report.outcome,
                        Outcome::LimitExceeded(Limit::Deadline),
                        "{mode}"
                    );
                    idle.check();
                }
                // With its handle; with its runner.
                drop(begun(&runner, task(&family, "leave loop")));
                let mut handle = begun(&runner, task(&family, "leave loop"));
                drop(runner);
                assert_eq!(
                    handle.blocking_report().unwrap().outcome,
                    Outcome::Cancelled,
                    "{mode}"
                );
            }
        },
    );
}

#[test]
fn a_child_whose_process_dies_has_crashed() {
    alone("tasks::a_child_whose_process_dies_has_crashed", || {
        let (runner, family) = load_without_spares(Mode::Process);
        let idle = Idle::of(&runner, &family);
        let mut handle = begun(&runner, task(&family, "run self loop"));
        let own = std::process::id().cast_signed();
        // The parent waits, so the child is the one that computes.
        let cpu = |pid: i32| ticks(&pid.to_string());
        let mut child = 0;
        assert!(within(SOON, || {
            child = leaves(own)
                .into_iter()
                .max_by_key(|pid| cpu(*pid))
                .unwrap_or(0);
            child != 0 && cpu(child) > 20
        }));
        signal_below(child, Signal::KILL);
        let report = handle.blocking_report().unwrap();
        assert_eq!(output(&report), "crashed the worker died of signal 9");

        // A parent whose process dies takes its children along, and is not attempted
        // again.
        let mut handle = begun(&runner, task(&family, "leave waiting").retries(3));
        for pid in leaves(own) {
            signal_below(pid, Signal::KILL);
        }
        let report = handle.blocking_report().unwrap();
        assert_eq!(report.outcome.kind(), "crashed");
        assert_eq!(report.attempt, 1);
        let notes = report.notes.join("; ");
        assert!(notes.contains("it started child tasks"), "{notes}");
        idle.check();
        still_works(&runner);
    });
}

#[test]
fn output_of_children_is_within_the_budget_of_their_parent() {
    for mode in BOTH {
        let (runner, family) = load(mode);
        let limits = |bytes| Limits::default().max_memory(64 << 20).max_output(bytes);
        let said = task(&family, "run self shout 100").limits(limits(200_000));
        let report = runner.blocking_run(said).unwrap();
        assert_eq!(output(&report), "completed ", "{mode}");
        assert_eq!(report.stderr.len(), 100_000, "{mode}");
        let child = TaskGrant::new("loud", &family).limits(limits(1 << 20));
        let said = task(&family, "run loud shout 300").limits(limits(200_000));
        let report = runner.blocking_run(said.allow_task(child)).unwrap();
        assert_eq!(
            report.outcome,
            Outcome::LimitExceeded(Limit::Output),
            "{mode}"
        );
    }
}

#[test]
fn streams_of_a_parent_have_what_its_children_say() {
    alone(
        "tasks::streams_of_a_parent_have_what_its_children_say",
        streams_of_a_parent,
    );
}

fn streams_of_a_parent() {
    for mode in BOTH {
        let (runner, family) = load(mode);
        let task = task(&family, "run self shout 3000").stderr(wrun::Stdio::Stream);
        let mut handle = runner.blocking_submit(task).unwrap();
        let mut stderr = handle.take_stderr().unwrap();
        let mut read = 0;
        while let Some(chunk) = stderr.blocking_next_chunk() {
            assert!(chunk.iter().all(|byte| *byte == b'x'));
            read += chunk.len();
        }
        assert_eq!(read, 3_000_000, "{mode}");
        assert_eq!(output(&handle.blocking_report().unwrap()), "completed ");
        // It is killed while its output is not read.
        let task = self::task(&family, "run self shout 30000").stderr(wrun::Stdio::Stream);
        let mut handle = begun(&runner, task);
        let mut unread = handle.take_stderr().unwrap();
        await_output(&mut unread);
        // Until its output has no more room.
        await_rest("parent and child", SOON, std::process::id().cast_signed());
        handle.kill();
        assert_eq!(
            handle.blocking_report().unwrap().outcome,
            Outcome::Cancelled,
            "{mode}"
        );
    }
}

#[test]
fn bombs_of_tasks_are_bounded_and_end() {
    alone("tasks::bombs_of_tasks_are_bounded_and_end", || {
        for mode in BOTH {
            let (runner, family) = load_without_spares(mode);
            let idle = Idle::of(&runner, &family);
            for what in ["bomb", "loops"] {
                let limits = Limits::default()
                    .max_memory(64 << 20)
                    .max_tasks(12)
                    .timeout(Duration::from_secs(2));
                let report = runner
                    .blocking_run(task(&family, what).limits(limits))
                    .unwrap();
                assert_eq!(
                    report.outcome,
                    Outcome::LimitExceeded(Limit::Deadline),
                    "{mode}: {what}"
                );
                assert!(report.stats.children > 0);
                idle.check();
            }
            still_works(&runner);
        }
    });
}

#[test]
fn nothing_is_left_of_children() {
    alone("tasks::nothing_is_left_of_children", || {
        for mode in BOTH {
            let before = Census::after_a_first_runner(mode);
            let (runner, family) = load(mode);
            for round in 0..24 {
                let what = [
                    "storm 10",
                    "leave return",
                    "leave trap",
                    "two",
                    "kill",
                    "leave loop",
                ];
                let mut handle = runner
                    .blocking_submit(task(&family, what[round % 6]))
                    .unwrap();
                if round % 6 == 5 {
                    within(SOON, || handle.progress().done > 0);
                    handle.kill();
                }
                handle.blocking_report().unwrap();
            }
            drop((runner, family));
            assert_nothing_left(&before, "tasks with children");
        }
    });
}

// --- the command ------------------------------------------------------------

fn command(mode: &str, args: &[&str]) -> Output {
    Command::new(wrun())
        .args(["--mode", mode, "--no-cache"])
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn the_command_grants_tasks_by_name() {
    let family = repo("guest-tasks/family/family.wasm");
    let family = family.to_str().unwrap();
    let hello = repo("guest-tasks/hello-command/hello-command.wat");
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    let input = input.to_str().unwrap();
    let grant = format!("hello={}", hello.display());
    for mode in MODES {
        std::fs::write(input, "run hello").unwrap();
        let ran = command(
            mode,
            &["--task", &grant, "--stats", "--input", input, family],
        );
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(0), "{mode}: {stderr}");
        assert_eq!(ran.stdout, b"completed hello, command", "{mode}");
        assert!(stderr.contains("children  1"), "{mode}: {stderr}");

        let ran = command(mode, &["--input", input, family]);
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{mode}: {stderr}");
        assert!(stderr.contains("--task hello=FILE"), "{mode}: {stderr}");

        std::fs::write(input, "many").unwrap();
        let own = format!("self={family}");
        let ran = command(
            mode,
            &[
                "--task",
                &own,
                "--max-tasks",
                "3",
                "--max-memory",
                "64MiB",
                "--input",
                input,
                family,
            ],
        );
        assert_eq!(ran.stdout, b"3 limit limit completed again", "{mode}");
        std::fs::write(input, "deep").unwrap();
        for (option, value) in [("--max-depth", "2"), ("--max-total-memory", "192MiB")] {
            let args = [
                "--task",
                &own,
                option,
                value,
                "--max-memory",
                "64MiB",
                "--input",
                input,
            ];
            let ran = command(mode, &[&args[..], &[family]].concat());
            assert_eq!(ran.stdout, b"2", "{mode}: {option}");
        }
    }
    for mode in MODES {
        for (options, told) in [
            (
                &["--max-total-memory", "192MiB"][..],
                Some(("192.0 MiB", "512.0 MiB")),
            ),
            (
                &["--max-total-memory", "9GiB", "--max-memory", "10GiB"],
                Some(("9.0 GiB", "10.0 GiB")),
            ),
            (
                &["--max-total-memory", "1MiB", "--max-memory", "1MiB"],
                None,
            ),
            // The default is never too little.
            (&["--max-memory", "10GiB"], None),
        ] {
            let hello = repo("guest-tasks/hello-command/hello-command.wat");
            let ran = Wrun::mode(mode).args(options).arg(hello).run();
            let Some((total, memory)) = told else {
                ran.expect_code(0, &format!("{mode} {options:?}"));
                continue;
            };
            ran.expect_code(2, &format!("{mode} {options:?}"));
            let line = format!(
                "wrun: --max-total-memory ({total}) must not be less than --max-memory ({memory}): \
                 --max-memory limits the task alone, --max-total-memory the task and all its child \
                 tasks together\n"
            );
            assert_eq!(ran.stderr, line, "{mode}");
        }
    }
    let missing = ["--task", "x=/no/such/file.wasm"];
    let manifest = repo("guest-tasks/manifest.json");
    let no_task = format!("x={}", manifest.display());
    for (args, code, words) in [
        (&missing[..], 127, "--task x=/no/such/file.wasm: "),
        (&["--task", &no_task], 126, "--task x="),
        (&["--task", "x"], 2, "NAME=FILE"),
        (&["--task", "=x"], 2, "NAME=FILE"),
        (&["--task", "x="], 2, "there is no file after the `=`"),
        (
            &["--task", "a=1", "--task", "a=2"],
            2,
            "--task a is given twice",
        ),
        (&["--max-tasks", "4097"], 2, "4097"),
        (&["--max-depth", "65"], 2, "65"),
    ] {
        let ran = command("thread", &[args, &[family]].concat());
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
    }
}
