//! Channels between tasks, and between a task and its host, in both modes.

use crate::support::{
    BOTH, Census, Dice, MODES, alone, assert_nothing_left, builder, guest, still_works, wat,
    within, wrun,
};
use futures_core::Stream;
use futures_sink::Sink;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;
use wrun::{
    Artifact, ErrorKind, Limit, Limits, Message, Mode, Outcome, Port, PortError, Report, Runner,
    Task, TaskHandle,
};

/// What takes no time, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

fn load(mode: Mode) -> (Runner, Artifact) {
    let runner = builder(mode).build().unwrap();
    let ports = guest(&runner, "ports/ports.wasm");
    (runner, ports)
}

/// A task that has one end of a channel, and the other.
fn talk(runner: &Runner, ports: &Artifact, what: &str, capacity: u32) -> (TaskHandle, Port) {
    let (theirs, ours) = runner.channel(capacity).unwrap();
    let task = Task::new(ports).input(what).port(theirs);
    let task = task.limits(Limits::default().timeout(2 * SOON));
    (runner.blocking_submit(task).unwrap(), ours)
}

fn completed(mut handle: TaskHandle) -> String {
    let report = handle.blocking_report().unwrap();
    assert!(
        report.outcome.is_completed(),
        "{}: {}",
        report.outcome,
        String::from_utf8_lossy(&report.stderr)
    );
    String::from_utf8(report.stdout.to_vec()).unwrap()
}

fn received(port: &Port) -> Vec<u8> {
    port.blocking_receive_timeout(SOON).unwrap().data.to_vec()
}

#[test]
fn a_task_and_its_host_talk() {
    for mode in BOTH {
        let (runner, ports) = load(mode);
        let (task, port) = talk(&runner, &ports, "echo", 4);
        for size in [0, 1, 1000, 70_000, Message::MAX_DATA] {
            let data: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            port.blocking_send(data.clone()).unwrap();
            assert!(received(&port) == data, "{mode}: {size} bytes");
        }
        let unsent = port
            .blocking_send(vec![0; Message::MAX_DATA + 1])
            .unwrap_err();
        assert_eq!(unsent.error, PortError::TooLarge);
        assert_eq!(unsent.message.data.len(), Message::MAX_DATA + 1);
        drop(port);
        assert_eq!(completed(task), "5 echoed", "{mode}");
    }
}

#[test]
fn messages_keep_their_order_and_the_sender_waits() {
    for mode in BOTH {
        let (runner, ports) = load(mode);
        for (capacity, size) in [(1, 8), (3, 70_000), (64, 100), (64, 9_000)] {
            let (task, port) = talk(&runner, &ports, &format!("flood 500 {size}"), capacity);
            // As many as the capacity wait, and no more.
            std::thread::sleep(Duration::from_millis(20));
            for number in 0..500_u64 {
                let data = received(&port);
                assert_eq!(data.len(), size, "{mode}: number {number}");
                assert_eq!(
                    data[..8],
                    number.to_le_bytes(),
                    "{mode}: capacity {capacity}"
                );
            }
            assert_eq!(
                port.blocking_receive_timeout(SOON).unwrap_err(),
                PortError::Closed,
                "{mode}"
            );
            assert_eq!(completed(task), "500 sent");
        }
    }
}

#[test]
fn a_full_channel_gives_back_what_it_does_not_take() {
    for mode in BOTH {
        let (runner, ports) = load(mode);
        let (one, other) = runner.channel(3).unwrap();
        for number in 0..3_u8 {
            one.try_send(vec![number]).unwrap();
        }
        let (moving, _stays) = runner.channel(1).unwrap();
        let unsent = one.try_send(Message::new("more").port(moving)).unwrap_err();
        assert_eq!(unsent.error, PortError::WouldBlock, "{mode}");
        assert_eq!(
            (unsent.message.data.len(), unsent.message.ports.len()),
            (4, 1)
        );
        assert_eq!(other.try_receive().unwrap().data, [0][..]);
        one.try_send(unsent.message).unwrap();
        assert_eq!(one.try_send("no").unwrap_err().error, PortError::WouldBlock);
        one.close();
        assert_eq!(one.try_send("no").unwrap_err().error, PortError::Closed);
        assert_eq!(other.try_send("no").unwrap_err().error, PortError::Closed);
        for left in [&[1][..], &[2], b"more"] {
            assert_eq!(other.try_receive().unwrap().data, left, "{mode}");
        }
        assert_eq!(other.try_receive().unwrap_err(), PortError::Closed);
        assert_eq!(one.try_receive().unwrap_err(), PortError::Closed);
        for capacity in [0, Port::MAX_CAPACITY + 1] {
            let error = runner.channel(capacity).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidTask);
        }
        drop((ports, other));
    }
}

#[test]
fn two_tasks_talk_without_the_host_in_between() {
    for mode in BOTH {
        let (runner, ports) = load(mode);
        let (ping, to_ping) = talk(&runner, &ports, "ping 300", 2);
        let (pong, to_pong) = talk(&runner, &ports, "echo", 2);
        let (one, other) = runner.channel(2).unwrap();
        to_ping.blocking_send(Message::default().port(one)).unwrap();
        to_pong
            .blocking_send(Message::default().port(other))
            .unwrap();
        assert_eq!(completed(ping), "300 round trips", "{mode}");
        assert_eq!(completed(pong), "300 echoed", "{mode}");
    }
}

#[test]
fn ports_come_back_with_what_waits_in_them() {
    for mode in BOTH {
        let (runner, ports) = load(mode);
        let (task, port) = talk(&runner, &ports, "echo", 4);
        let (one, other) = runner.channel(4).unwrap();
        one.try_send("before").unwrap();
        port.blocking_send(Message::new("take it").port(other))
            .unwrap();
        let mut back = port.blocking_receive_timeout(SOON).unwrap();
        assert_eq!(back.data, "take it");
        let other = back.ports.pop().unwrap();
        one.try_send("after").unwrap();
        assert_eq!(received(&other), b"before", "{mode}");
        assert_eq!(received(&other), b"after", "{mode}");
        drop(port);
        assert_eq!(completed(task), "1 echoed");
    }
}

#[test]
fn the_end_of_a_task_closes_its_ports() {
    for mode in BOTH {
        let (runner, ports) = load(mode);
        // Killed while it waits; by its deadline; cancelled, which it is told of.
        let (theirs, port) = runner.channel(4).unwrap();
        let hold = Task::new(&ports).input("hold").port(theirs);
        let mut task = runner.blocking_submit(hold.grace(Duration::ZERO)).unwrap();
        assert!(within(SOON, || task.progress().done == 1));
        task.kill();
        assert_eq!(task.blocking_report().unwrap().outcome, Outcome::Cancelled);
        assert_eq!(
            port.blocking_receive_timeout(SOON).unwrap_err(),
            PortError::Closed
        );
        assert_eq!(
            port.blocking_send("x").unwrap_err().error,
            PortError::Closed
        );

        let (theirs, port) = runner.channel(1).unwrap();
        let limits = Limits::default().timeout(Duration::from_millis(200));
        let task = Task::new(&ports).input("hold").port(theirs).limits(limits);
        let report: Report = runner.blocking_run(task).unwrap();
        assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Deadline));
        assert_eq!(
            port.blocking_receive_timeout(SOON).unwrap_err(),
            PortError::Closed
        );

        let (task, _port) = talk(&runner, &ports, "wait", 4);
        assert!(within(SOON, || task.progress().done == 1));
        task.cancel();
        assert_eq!(completed(task), "cancelled", "{mode}");
        still_works(&runner);
    }
}

#[test]
fn there_is_room_whatever_the_receiver_does_next() {
    for mode in BOTH {
        let (runner, ports) = load(mode);
        for at in ["computing", "receiving", "polling", "word"] {
            let (theirs, port) = runner.channel(1).unwrap();
            let lingers = Task::new(&ports).input(format!("linger {at}"));
            let lingers = lingers.port(theirs).grace(Duration::ZERO);
            let mut task = runner.blocking_submit(lingers).unwrap();
            port.blocking_send("asks").unwrap();
            assert_eq!(received(&port), b"asks", "{mode}: {at}");
            // It has answered, so it might again; it does not.
            port.blocking_send("is taken").unwrap();
            let sent = within(SOON, || port.try_send("has room").is_ok());
            assert!(sent, "{mode}: {at}");
            // That one is not received.
            assert_eq!(
                port.try_send("no").unwrap_err().error,
                PortError::WouldBlock,
                "{mode}: {at}"
            );
            task.kill();
            let report = task.blocking_report().unwrap();
            assert_eq!(report.outcome, Outcome::Cancelled, "{mode}: {at}");
        }
        still_works(&runner);
    }
}

#[test]
fn a_port_is_its_runners() {
    let (threads, _) = load(Mode::Thread);
    for mode in BOTH {
        let (runner, ports) = load(mode);
        let (foreign, _far) = threads.channel(1).unwrap();
        let task = Task::new(&ports).input("echo").port(foreign);
        let error = runner.try_submit(task).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OtherRunner, "{mode}");
        let (foreign, _far) = threads.channel(1).unwrap();
        let (one, _other) = runner.channel(1).unwrap();
        let unsent = one.try_send(Message::new("x").port(foreign)).unwrap_err();
        assert_eq!(unsent.error, PortError::OtherRunner);
        assert_eq!(unsent.message.ports.len(), 1);
        // One that is not received is closed with its task.
        let (theirs, ours) = runner.channel(1).unwrap();
        let hello = guest(&runner, "hello/hello.wat");
        let report = runner.blocking_run(Task::new(&hello).port(theirs)).unwrap();
        assert!(report.outcome.is_completed(), "{}", report.outcome);
        assert_eq!(
            ours.blocking_receive_timeout(SOON).unwrap_err(),
            PortError::Closed
        );
    }
}

#[test]
fn streams_and_sinks() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for mode in BOTH {
        let (runner, ports) = load(mode);
        let (task, port) = talk(&runner, &ports, "echo", 2);
        runtime.block_on(async {
            let mut port = pin!(port);
            for number in 0..50_u8 {
                poll_fn(|cx| port.as_mut().poll_ready(cx)).await.unwrap();
                port.as_mut()
                    .start_send(Message::new(vec![number]))
                    .unwrap();
                poll_fn(|cx| port.as_mut().poll_flush(cx)).await.unwrap();
                let message = poll_fn(|cx| port.as_mut().poll_next(cx)).await.unwrap();
                assert_eq!(message.data, [number][..]);
            }
            poll_fn(|cx| port.as_mut().poll_close(cx)).await.unwrap();
            assert!(poll_fn(|cx| port.as_mut().poll_next(cx)).await.is_none());
        });
        assert_eq!(completed(task), "50 echoed", "{mode}");
    }
}

#[test]
fn nothing_is_left_of_ports() {
    alone("ports::nothing_is_left_of_ports", || {
        for mode in BOTH {
            let before = Census::after_a_first_runner(mode);
            let (runner, ports) = load(mode);
            let mut dice = Dice(7);
            for round in 0..60 {
                let what = ["swap", "hold", "echo", "wait", "flood 1000 5000"][round % 5];
                let (mut task, port) = talk(&runner, &ports, what, 4);
                let (one, other) = runner.channel(4).unwrap();
                let _ = port.try_send(Message::new("port").port(one));
                dice.pause(10);
                if what != "swap" {
                    task.kill();
                }
                task.blocking_report().unwrap();
                drop(port);
                assert!(
                    within(SOON, || matches!(
                        other.try_receive(),
                        Err(PortError::Closed)
                    )),
                    "{mode}: a port lives on after {what}"
                );
            }
            drop((runner, ports));
            assert_nothing_left(&before, "tasks with ports");
        }
    });
}

/// Makes 2,000 channels that cannot be reached, each with 256 KiB in it: one end lies in
/// its own queue and the other is dropped. With an input: a chain of channels, each with
/// the end before in its queue, until it is refused. Prints how many there were, and the
/// number of the error where there was one.
const HOARD: &str = r#"(module
  (import "wrun:task/ports@0.1.0" "channel" (func $channel (param i32 i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.try-send"
    (func $send (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wrun:task/ports@0.1.0" "[resource-drop]port" (func $drop (param i32)))
  (memory (export "memory") 8)
  (global $out (mut i32) (i32.const 256))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func $put (param $char i32)
    (i32.store8 (global.get $out) (local.get $char))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))
  (func $number (param $n i32)
    (if (i32.ge_u (local.get $n) (i32.const 10))
      (then (call $number (i32.div_u (local.get $n) (i32.const 10)))))
    (call $put (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10)))))
  (func $end (param $n i32) (param $error i32) (result i32)
    (call $number (local.get $n))
    (if (i32.ge_s (local.get $error) (i32.const 0))
      (then (call $put (i32.const 32)) (call $number (local.get $error))))
    (i32.store8 (i32.const 0) (i32.const 0))
    (i32.store offset=4 (i32.const 0) (i32.const 256))
    (i32.store offset=8 (i32.const 0) (i32.sub (global.get $out) (i32.const 256)))
    (i32.const 0))
  ;; Sends the port at 128 through another.
  (func $move (param $through i32) (param $len i32)
    (call $send (local.get $through) (i32.const 65536) (local.get $len)
      (i32.const 0) (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 64)))
  (func $cycles (result i32) (local $n i32) (local $one i32)
    (loop $on
      (call $channel (i32.const 1) (i32.const 64))
      (if (i32.load8_u (i32.const 64))
        (then (return (call $end (local.get $n) (i32.load8_u (i32.const 68))))))
      (local.set $one (i32.load (i32.const 68)))
      (i32.store (i32.const 128) (i32.load (i32.const 72)))
      (call $move (local.get $one) (i32.const 262144))
      (if (i32.load8_u (i32.const 64))
        (then (return (call $end (local.get $n) (i32.load8_u (i32.const 68))))))
      (call $drop (local.get $one))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $on (i32.lt_u (local.get $n) (i32.const 2000))))
    (call $end (local.get $n) (i32.const -1)))
  (func $chain (result i32) (local $n i32) (local $near i32) (local $far i32)
    (call $channel (i32.const 1) (i32.const 64))
    (local.set $near (i32.load (i32.const 68)))
    (local.set $far (i32.load (i32.const 72)))
    (loop $on
      (call $channel (i32.const 1) (i32.const 64))
      (if (i32.load8_u (i32.const 64))
        (then (return (call $end (local.get $n) (i32.load8_u (i32.const 68))))))
      (i32.store (i32.const 128) (local.get $far))
      (call $drop (local.get $near))
      (local.set $near (i32.load (i32.const 68)))
      (local.set $far (i32.load (i32.const 72)))
      (call $move (local.get $near) (i32.const 262144))
      (if (i32.load8_u (i32.const 64))
        (then (return (call $end (local.get $n) (i32.load8_u (i32.const 68))))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $on (i32.lt_u (local.get $n) (i32.const 2000))))
    (call $end (local.get $n) (i32.const -1)))
  (func (export "run") (param i32 i32) (result i32)
    (if (result i32) (local.get 1) (then (call $chain)) (else (call $cycles)))))"#;

/// Peak memory of this process, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn messages_in_channels_are_bounded_wherever_their_ends_lie() {
    alone(
        "ports::messages_in_channels_are_bounded_wherever_their_ends_lie",
        || {
            for mode in BOTH {
                let (runner, _) = load(mode);
                let hoard = wat(&runner, "hoard", HOARD);
                let before = peak();
                for input in ["", "x"] {
                    let report = runner.blocking_run(Task::new(&hoard).input(input)).unwrap();
                    let said = String::from_utf8_lossy(&report.stdout).into_owned();
                    let (number, error) = said.split_once(' ').unwrap_or((&said, ""));
                    let number: u32 = number.parse().expect(&said);
                    // It gets as many as there may be, and then is told so.
                    let limit = "4";
                    match input {
                        "" => assert!(number == 2000 || error == limit, "{mode}: {said}"),
                        _ => assert!(number < 2000 && error == limit, "{mode}: {said}"),
                    }
                    eprintln!("{mode}: {input:?}: {said}");
                }
                let grown = peak() - before;
                assert!(grown < 256 << 10, "{grown} KiB in {mode} mode");
                still_works(&runner);
            }
        },
    );
}

/// Puts ports into channels until it is refused, and then starts itself, with an input.
/// Prints how the child ended.
const FILL: &str = r#"(module
  (import "wrun:task/ports@0.1.0" "channel" (func $channel (param i32 i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.try-send"
    (func $send (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wrun:task/tasks@0.1.0" "spawn" (func $spawn (param i32 i32 i32 i32 i32 i32 i32)))
  (import "wrun:task/tasks@0.1.0" "[method]child.wait" (func $wait (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "self")
  (data (i32.const 32) "completed")
  (data (i32.const 48) "otherwise")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (func $end (param $said i32) (result i32)
    (i32.store8 (i32.const 0) (i32.const 0))
    (i32.store offset=4 (i32.const 0) (local.get $said))
    (i32.store offset=8 (i32.const 0) (i32.const 9))
    (i32.const 0))
  (func $fill (local $holder i32) (local $holders i32) (local $n i32)
    (loop $next
      (call $channel (i32.const 64) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return)))
      (local.set $holder (i32.load (i32.const 68)))
      (local.set $n (i32.const 0))
      (loop $more
        (call $channel (i32.const 1) (i32.const 64))
        (if (i32.load8_u (i32.const 64)) (then (return)))
        (i32.store (i32.const 128) (i32.load (i32.const 68)))
        (i32.store (i32.const 132) (i32.load (i32.const 72)))
        (call $send (local.get $holder) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
          (i32.const 128) (i32.const 2) (i32.const 64))
        (if (i32.load8_u (i32.const 64)) (then (return)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $n) (i32.const 64))))
      (local.set $holders (i32.add (local.get $holders) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $holders) (i32.const 14)))))
  (func (export "run") (param i32 i32) (result i32)
    (if (local.get 1) (then (return (call $end (i32.const 32)))))
    (call $fill)
    (call $spawn (i32.const 16) (i32.const 4) (i32.const 16) (i32.const 4)
      (i32.const 0) (i32.const 0) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (unreachable)))
    (call $wait (i32.load (i32.const 68)) (i32.const 128))
    (call $end (select (i32.const 48) (i32.const 32) (i32.load8_u (i32.const 128))))))"#;

#[test]
fn messages_in_channels_do_not_keep_a_runner_from_its_workers() {
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().unwrap();
    let (fill, input) = (folder.path().join("fill.wat"), folder.path().join("input"));
    std::fs::write(&fill, FILL).unwrap();
    std::fs::write(&input, "").unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), readable).unwrap();
    for mode in MODES {
        // The kernel counts descriptors in sockets for a user, against the limit of
        // the sender; and not where that is root.
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", "ulimit -Sn 1024; exec \"$@\"", "sh"])
            .arg(wrun())
            .args(["--mode", mode, "--no-cache"])
            .args(if mode == "process" {
                &["--jail", "best-effort"][..]
            } else {
                &[]
            })
            .args(["--timeout", "30s", "--task"])
            .arg(format!("self={}", fill.display()))
            .arg("--input")
            .args([&input, &fill])
            .current_dir("/");
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        let ran = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.stdout, b"completed", "{mode}: {stderr}");
    }
}
