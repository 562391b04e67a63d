//! What tasks send without a pause: whatever it is, the clock, a kill, a signal and the
//! other tasks of the runner are served. Each kind of flood in both modes.
//!
//! The bound is one that no busy machine breaks; what floods cost in milliseconds is
//! measured by the benchmark (`flood` rows).

use crate::support::command::{PATIENCE, await_task_of};
use crate::support::processes::processor_time;
use crate::support::{
    BOTH, MODES, await_output, await_progress, builder, eventually, guest, wat, within, wrun,
};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio as ProcessStdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wrun::{Artifact, Limit, Limits, Message, Outcome, Runner, Stdio, Task, TaskGrant, TaskHandle};

/// Within this all is served. It takes milliseconds; without turns it took minutes.
const BOUND: Duration = Duration::from_secs(10);
/// Tasks that flood at the same time.
const FLOODERS: usize = 4;

/// What floods have in common: imports, memory, where results of the host are put.
const BEGIN: &str = r#"(module
  (import "wrun:task/broadcast@0.1.0" "open" (func $open (param i32 i32 i32)))
  (import "wrun:task/ports@0.1.0" "channel" (func $channel (param i32 i32)))
  (import "wrun:task/ports@0.1.0" "parent" (func $parent (param i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.send"
    (func $send (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.try-send"
    (func $try_send (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.try-receive" (func $receive (param i32 i32)))
  (import "wrun:task/ports@0.1.0" "[resource-drop]port" (func $drop_port (param i32)))
  (import "wrun:task/locks@0.1.0" "request" (func $lock (param i32 i32 i32 i32 i32)))
  (import "wrun:task/locks@0.1.0" "[resource-drop]lock" (func $unlock (param i32)))
  (import "wrun:task/tasks@0.1.0" "spawn"
    (func $spawn (param i32 i32 i32 i32 i32 i32 i32)))
  (import "wrun:task/tasks@0.1.0" "[method]child.wait" (func $wait (param i32 i32)))
  (import "wrun:task/tasks@0.1.0" "[method]child.kill" (func $kill (param i32)))
  (import "wrun:task/tasks@0.1.0" "[resource-drop]child" (func $drop_child (param i32)))
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (memory (export "memory") 40)
  ;; What the host hands over begins at 600,000, again and again.
  (global $free (mut i32) (i32.const 600000))
  (data (i32.const 100) "c")
  (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32)
    (result i32)
    (local $at i32)
    (local.set $at
      (i32.and
        (i32.sub (i32.add (global.get $free) (local.get $align)) (i32.const 1))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
      (then (unreachable)))
    (local.get $at))
  (func $forget (global.set $free (i32.const 600000)))
  (func (export "run") (param i32 i32) (result i32) (local $i i32) (local $n i32)
"#;

/// What each flood says first.
const BEGUN: &str = "(call $progress (i64.const 1) (i32.const 0) (i64.const 0))\n";

/// Nothing comes after a flood.
const END: &str = "(unreachable)))";

/// One kind of flood: a task that may start `c`, which is `child`.
struct Flood {
    name: &'static str,
    text: String,
    child: String,
    /// It reports progress once it has begun.
    reports: bool,
}

/// A child that does nothing, for ever.
const IDLE: &str = "(loop $on (br $on))";
/// One whose output is of a MiB.
const LARGE: &str = "(i32.store offset=4 (i32.const 16) (i32.const 0))
  (i32.store offset=8 (i32.const 16) (i32.const 1048576))
  (return (i32.const 16))";

impl Flood {
    fn new(name: &'static str, body: &str) -> Self {
        Flood::of_children(name, body, IDLE)
    }

    fn of_children(name: &'static str, body: &str, child: &str) -> Self {
        let text = |body: &str| format!("{BEGIN}{BEGUN}{body}{END}");
        Flood {
            name,
            text: text(body),
            child: text(child),
            reports: true,
        }
    }

    /// Joins a channel as often as it may, and sends all it can to each.
    fn broadcast() -> Self {
        Flood::new(
            "broadcast",
            "(loop $join
              (call $open (i32.const 100) (i32.const 1) (i32.const 64))
              (if (i32.eqz (i32.load8_u (i32.const 64))) (then
                (i32.store offset=512 (i32.mul (local.get $n) (i32.const 4))
                  (i32.load (i32.const 68)))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $join (i32.lt_u (local.get $n) (i32.const 32))))))
            (if (i32.eqz (local.get $n)) (then (unreachable)))
            (loop $more
              (local.set $i (i32.const 0))
              (loop $each
                (call $forget)
                (call $try_send (i32.load offset=512 (i32.mul (local.get $i) (i32.const 4)))
                  (i32.const 65536) (i32.const 262144) (i32.const 0) (i32.const 0)
                  (i32.const 0) (i32.const 0) (i32.const 64))
                (loop $drain
                  (call $forget)
                  (call $receive (i32.load offset=512 (i32.mul (local.get $i) (i32.const 4)))
                    (i32.const 64))
                  (br_if $drain (i32.eqz (i32.load8_u (i32.const 64)))))
                (br_if $each (i32.lt_u
                  (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
              (br $more))",
        )
    }

    /// Joins and leaves.
    fn joining() -> Self {
        Flood::new(
            "joining",
            "(loop $more
              (call $open (i32.const 100) (i32.const 1) (i32.const 64))
              (if (i32.eqz (i32.load8_u (i32.const 64)))
                (then (call $drop_port (i32.load (i32.const 68)))))
              (br $more))",
        )
    }

    /// Asks for locks, and gives them back.
    fn locks() -> Self {
        Flood::new(
            "locks",
            "(loop $more
              (call $lock (i32.const 100) (i32.const 1) (i32.const 1) (i32.const 1)
                (i32.const 64))
              (if (i32.eqz (i32.load8_u (i32.const 64))) (then
                (if (i32.load8_u (i32.const 68))
                  (then (call $unlock (i32.load (i32.const 72)))))))
              (br $more))",
        )
    }

    /// Asks for tasks that it was not granted.
    fn denials() -> Self {
        Flood::new(
            "denials",
            "(loop $more
              (i32.store (i32.const 100) (local.get $n))
              (call $spawn (i32.const 100) (i32.const 4) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 0) (i32.const 64))
              (local.set $n (i32.and
                (i32.add (local.get $n) (i32.const 1)) (i32.const 0x0f0f0f0f)))
              (br $more))",
        )
    }

    fn progress() -> Self {
        Flood::new(
            "progress",
            "(loop $more
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (call $progress (i64.extend_i32_u (local.get $i)) (i32.const 0) (i64.const 0))
              (br $more))",
        )
    }

    /// Starts children, kills them or lets go of them.
    fn children() -> Self {
        Flood::new(
            "children",
            "(loop $more
              (call $spawn (i32.const 100) (i32.const 1) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 0) (i32.const 64))
              (if (i32.eqz (i32.load8_u (i32.const 64))) (then
                (if (i32.and (local.tee $i (i32.add (local.get $i) (i32.const 1)))
                      (i32.const 1))
                  (then (call $kill (i32.load (i32.const 68)))))
                (call $drop_child (i32.load (i32.const 68)))))
              (br $more))",
        )
    }

    /// Has the output of a child again and again.
    fn outputs() -> Self {
        Flood::of_children(
            "outputs",
            "(call $spawn (i32.const 100) (i32.const 1) (i32.const 0) (i32.const 0)
              (i32.const 0) (i32.const 0) (i32.const 64))
            (if (i32.load8_u (i32.const 64)) (then (unreachable)))
            (local.set $n (i32.load (i32.const 68)))
            (loop $more
              (call $forget)
              (call $wait (local.get $n) (i32.const 64))
              (br $more))",
            LARGE,
        )
    }

    /// Sends to its parent.
    fn port() -> Self {
        Flood::new(
            "port",
            "(call $parent (i32.const 64))
            (local.set $n (i32.load (i32.const 68)))
            (loop $more
              (call $send (local.get $n) (i32.const 65536) (i32.const 1024)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64))
              (br_if $more (i32.eqz (i32.load8_u (i32.const 64)))))
            (loop $on (br $on))",
        )
    }

    /// Writes without an end.
    fn output(name: &'static str, descriptor: u32) -> Self {
        let text = format!(
            r#"(module
              (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
              (memory (export "memory") 2)
              (func (export "_start")
                (i32.store (i32.const 0) (i32.const 1024))
                (i32.store (i32.const 4) (i32.const 65536))
                (loop $more
                  (drop (call $write (i32.const {descriptor}) (i32.const 0) (i32.const 1)
                    (i32.const 8)))
                  (br $more))))"#
        );
        Flood {
            name,
            child: text.clone(),
            text,
            reports: false,
        }
    }
}

/// How the output of a flood is read.
#[derive(Clone, Copy, Debug)]
enum Reader {
    Nobody,
    Fast,
    /// It is kept, or thrown away.
    None,
}

/// Has four tasks flood, of which one has a deadline and one is killed, and others run
/// beside them.
fn endure(flood: &Flood, reader: Reader) {
    for mode in BOTH {
        let what = format!("{} ({reader:?}), {mode}", flood.name);
        let runner = builder(mode).max_running(16).build().unwrap();
        let flooding = wat(&runner, flood.name, &flood.text);
        let child = wat(&runner, "child", &flood.child);
        let echo = guest(&runner, "echo/echo.wat");
        let mut readers = Vec::new();
        let reading = Arc::new(AtomicU64::new(0));
        let mut start = |timeout: Option<Duration>| {
            let mut limits = Limits::default();
            limits.timeout = timeout;
            limits.max_output = Some(u64::MAX);
            let mut task = Task::new(&flooding)
                .limits(limits)
                .grace(Duration::ZERO)
                .allow_task(TaskGrant::new("c", &child));
            task = match reader {
                Reader::None => task.stdout(Stdio::Null).stderr(Stdio::Null),
                _ if flood.name == "stdout" => task.stdout(Stdio::Stream),
                _ => task.stderr(Stdio::Stream),
            };
            let mut handle = runner.blocking_submit(task).unwrap();
            let streams = [handle.take_stdout(), handle.take_stderr()];
            for mut stream in streams.into_iter().flatten() {
                match reader {
                    Reader::Fast => {
                        let reading = reading.clone();
                        std::thread::spawn(move || {
                            if stream.blocking_next_chunk().is_some() {
                                reading.fetch_add(1, Ordering::Relaxed);
                            }
                            while stream.blocking_next_chunk().is_some() {}
                        });
                    }
                    _ => {
                        // Its output begins, and is not read further.
                        if timeout.is_none() {
                            await_output(&mut stream);
                        }
                        readers.push(stream);
                    }
                }
            }
            handle
        };
        let mut handles: Vec<TaskHandle> = (1..FLOODERS).map(|_| start(None)).collect();
        match (flood.reports, reader) {
            (true, _) => handles.iter().for_each(await_progress),
            // Their output begins.
            (false, Reader::Fast) => eventually("floods", PATIENCE, || {
                reading.load(Ordering::Relaxed) >= FLOODERS as u64 - 1
            }),
            // They have; or nothing tells.
            (false, Reader::Nobody | Reader::None) => {}
        }
        let began = Instant::now();
        let mut overdue = start(Some(Duration::from_millis(300)));
        siblings(&runner, &echo, &what);
        let report = overdue.blocking_report().unwrap();
        assert_eq!(
            report.outcome,
            Outcome::LimitExceeded(Limit::Deadline),
            "{what}"
        );
        served(began, &format!("{what}: a deadline"));
        siblings(&runner, &echo, &what);
        let began = Instant::now();
        let mut killed = handles.pop().unwrap();
        killed.kill();
        assert_eq!(
            killed.blocking_report().unwrap().outcome,
            Outcome::Cancelled,
            "{what}"
        );
        served(began, &format!("{what}: a kill"));
        let began = Instant::now();
        drop(handles);
        drop(runner);
        served(began, &format!("{what}: the runner's end"));
    }
}

#[track_caller]
fn served(began: Instant, what: &str) {
    let took = began.elapsed();
    assert!(took < BOUND, "{what} took {took:?}");
}

/// Small tasks that have nothing to do with the flood.
#[track_caller]
fn siblings(runner: &Runner, echo: &Artifact, what: &str) {
    for _ in 0..3 {
        let began = Instant::now();
        let report = runner.blocking_run(Task::new(echo).input("x")).unwrap();
        assert!(report.outcome.is_completed(), "{what}: {}", report.outcome);
        served(began, &format!("{what}: a sibling"));
    }
}

/// A signal to the command ends what floods.
fn interrupt(flood: &Flood) {
    let folder = tempfile::tempdir().unwrap();
    let [task, child] = ["flood.wat", "child.wat"].map(|name| folder.path().join(name));
    fs::write(&task, &flood.text).unwrap();
    fs::write(&child, &flood.child).unwrap();
    for mode in MODES {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let what = format!("{}, {mode}, {signal:?}", flood.name);
            let mut command = Command::new(wrun())
                .args(["--mode", mode, "--grace", "0s", "--task"])
                .arg(format!("c={}", child.display()))
                .arg(&task)
                .stdin(ProcessStdio::null())
                .stdout(ProcessStdio::piped())
                .stderr(ProcessStdio::piped())
                .spawn()
                .unwrap();
            let pid = Pid::from_child(&command);
            await_flood(&command, mode);
            let alive = command.try_wait().unwrap().is_none();
            kill_process(pid, signal).unwrap();
            let mut ended = None;
            let in_time = within(BOUND, || {
                ended = command.try_wait().unwrap();
                ended.is_some()
            });
            if !in_time {
                let _ = command.kill();
            }
            let output = command.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(alive, "{what}: it ended by itself: {said}");
            assert!(in_time, "{what}: no end within {BOUND:?}");
            assert_eq!(ended.unwrap().code(), Some(code), "{what}: {said}");
        }
    }
}

/// Waits until a command's task floods: it computes, or has filled a pipe that is not read.
#[track_caller]
fn await_flood(command: &Child, mode: &str) {
    let pid = command.id().cast_signed();
    await_task_of(pid, mode);
    let before = processor_time(pid);
    let stdout = command.stdout.as_ref().map(|pipe| pipe.as_fd());
    let stderr = command.stderr.as_ref().map(|pipe| pipe.as_fd());
    let waiting = |pipe| rustix::io::ioctl_fionread(pipe).unwrap();
    eventually("a flood", PATIENCE, || {
        let written = [stdout, stderr].into_iter().flatten().map(waiting);
        processor_time(pid) >= before + 10 || written.max() >= Some(1 << 16)
    });
}

#[test]
fn broadcast() {
    endure(&Flood::broadcast(), Reader::None);
    interrupt(&Flood::broadcast());
}

#[test]
fn members_that_come_and_go() {
    endure(&Flood::joining(), Reader::None);
    interrupt(&Flood::joining());
}

#[test]
fn requests_for_locks() {
    endure(&Flood::locks(), Reader::None);
    interrupt(&Flood::locks());
}

#[test]
fn denials() {
    endure(&Flood::denials(), Reader::None);
    interrupt(&Flood::denials());
}

#[test]
fn progress() {
    endure(&Flood::progress(), Reader::None);
    interrupt(&Flood::progress());
}

#[test]
fn children_that_are_killed() {
    endure(&Flood::children(), Reader::None);
    interrupt(&Flood::children());
}

#[test]
fn outputs_of_children() {
    endure(&Flood::outputs(), Reader::None);
    interrupt(&Flood::outputs());
}

#[test]
fn output() {
    for (name, descriptor) in [("stdout", 1), ("stderr", 2)] {
        let flood = Flood::output(name, descriptor);
        for reader in [Reader::None, Reader::Fast, Reader::Nobody] {
            endure(&flood, reader);
        }
    }
    // Unread: the command's pipes are full.
    interrupt(&Flood::output("stdout", 1));
    interrupt(&Flood::output("stderr", 2));
}

/// A host that receives on a thread of its own has its other work done beside it.
#[test]
fn a_host_that_receives_gives_way() {
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let flood = Flood::port();
        let flooding = wat(&runner, flood.name, &flood.text);
        let (near, far) = runner.channel(64).unwrap();
        let mut handle = runner
            .blocking_submit(Task::new(&flooding).port(far))
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // It has begun.
        near.blocking_receive_timeout(BOUND).unwrap();
        // A host that is slower than its task finds a message each time that it looks.
        let got = AtomicU64::new(0);
        let receiving = async {
            while near.receive().await.is_ok() {
                got.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let began = Instant::now();
        let soon = Duration::from_millis(20);
        let ended = runtime.block_on(async { tokio::time::timeout(soon, receiving).await });
        assert!(ended.is_err(), "{mode}: the flood ended");
        served(began, &format!("{mode}: a timer beside {got:?} messages"));
        handle.kill();
        assert_eq!(
            handle.blocking_report().unwrap().outcome,
            Outcome::Cancelled,
            "{mode}"
        );
    }
}

/// A large message goes to all members whole, in the order of all others, from any sender.
#[test]
fn large_messages_arrive_whole_and_in_one_order() {
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let members: Vec<_> = (0..4).map(|_| runner.broadcast("x").unwrap()).collect();
        let sizes = [0, 1, 2_000, 3_000, 65_536, 65_537, Message::MAX_DATA];
        let senders = [&members[0], &members[1]];
        for (number, size) in sizes.into_iter().enumerate() {
            for (who, sender) in senders.into_iter().enumerate() {
                let byte = u8::try_from(2 * number + who).unwrap();
                let (_kept, along) = runner.channel(1).unwrap();
                let message = Message::new(vec![byte; size]).port(along);
                sender.blocking_send(message).unwrap();
            }
        }
        let mut orders = Vec::new();
        for (which, member) in members.iter().enumerate() {
            let mut order = Vec::new();
            for _ in 0..if which < 2 {
                sizes.len()
            } else {
                2 * sizes.len()
            } {
                let message = member.blocking_receive_timeout(BOUND).unwrap();
                assert!(message.ports.is_empty(), "{mode}");
                let first = message.data.first().copied();
                assert!(
                    message.data.iter().all(|byte| Some(*byte) == first),
                    "{mode}"
                );
                order.push((message.data.len(), first));
            }
            orders.push(order);
        }
        assert_eq!(orders[2], orders[3], "{mode}");
        let lens = |order: &[(usize, Option<u8>)]| -> Vec<usize> {
            order.iter().map(|(len, _)| *len).collect()
        };
        assert_eq!(lens(&orders[0]), sizes, "{mode}");
        assert_eq!(lens(&orders[1]), sizes, "{mode}");
    }
}

/// Four tasks of which each joined as often as it may leave one that joined once its
/// turns.
#[test]
fn a_task_that_joins_often_does_not_shut_out_one_that_joins_once() {
    let floods = Flood::broadcast();
    for mode in BOTH {
        let runner = builder(mode).max_running(16).build().unwrap();
        let flooding = wat(&runner, floods.name, &floods.text);
        let members = [0, 1].map(|_| runner.broadcast("quiet").unwrap());
        let limits = Limits::default().timeout(Duration::from_secs(60));
        let flood = |_| {
            let task = Task::new(&flooding)
                .limits(limits.clone())
                .grace(Duration::ZERO);
            runner.blocking_submit(task).unwrap()
        };
        let handles: Vec<TaskHandle> = (0..FLOODERS).map(flood).collect();
        handles.iter().for_each(await_progress);
        for number in 0..20 {
            let began = Instant::now();
            members[0].blocking_send(number.to_string()).unwrap();
            let got = members[1].blocking_receive_timeout(BOUND);
            served(began, &format!("{mode}: message {number}"));
            assert_eq!(got.unwrap().data, number.to_string(), "{mode}");
        }
        drop(handles);
    }
}
