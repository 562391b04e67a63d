//! What tasks keep in flight: messages, ports and regions that are not received. The
//! kernel counts descriptors in flight by user, and refuses more to all processes of that
//! user; a task that hoards them takes nothing from siblings, zygotes, the runner, or from
//! other runners.

use crate::support::{
    BOTH, await_progress, builder, settled, still_works, tool, wat, within, wrun,
};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use wrun::{Crash, Layer, Mode, Outcome, ProcessOptions, Runner, Start, Task, TaskHandle};

/// A user of no other test: the kernel counts by user.
const ORDINARY: u32 = 61_997;
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until it is cancelled, then returns its input. It may make channels.
const PATIENT: &str = r#"(module
  (import "wrun:task/ports@0.1.0" "channel" (func $channel (param i32 i32)))
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (import "wrun:task/context@0.1.0" "subscribe-cancelled" (func $cancelled (result i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i32)
    (call $progress (i64.const 1) (i32.const 0) (i64.const 0))
    (call $block (call $cancelled))
    (i32.store (i32.const 4) (local.get 0))
    (i32.store (i32.const 8) (local.get 1))
    (i32.const 0)))"#;

/// Fills both directions of 16 channels with large messages, tells as its progress how
/// many there was room for, and waits until it is cancelled.
const LARGE: &str = r#"(module
  (import "wrun:task/ports@0.1.0" "channel" (func $channel (param i32 i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.try-send"
    (func $send (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (import "wrun:task/context@0.1.0" "subscribe-cancelled" (func $cancelled (result i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (memory (export "memory") 3)
  (global $sent (mut i64) (i64.const 0))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func $fill (param $port i32)
    (loop $more
      (call $send (local.get $port) (i32.const 65536) (i32.const 66000)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64))
      (if (i32.eqz (i32.load8_u (i32.const 64)))
        (then
          (global.set $sent (i64.add (global.get $sent) (i64.const 1)))
          (br $more)))))
  (func (export "run") (param i32 i32) (result i32)
    (block $done
      (loop $another
        (call $channel (i32.const 32) (i32.const 32))
        (br_if $done (i32.load8_u (i32.const 32)))
        (call $fill (i32.load (i32.const 36)))
        (call $fill (i32.load (i32.const 40)))
        (br $another)))
    (call $progress (global.get $sent) (i32.const 0) (i64.const 0))
    (call $block (call $cancelled))
    (i32.const 0)))"#;

/// Sends ports through a channel until it is refused, says how many and why; then why it
/// is refused through another channel, where nothing lies; then whether it may send again
/// once one was received.
const PORTS: &str = r#"(module
  (import "wrun:task/ports@0.1.0" "channel" (func $channel (param i32 i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.try-send"
    (func $send (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.try-receive" (func $receive (param i32 i32)))
  (import "wrun:task/ports@0.1.0" "[resource-drop]port" (func $drop (param i32)))
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 4096))
  (global $out (mut i32) (i32.const 1024))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $free))
    (global.set $free
      (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 7)) (i32.const -8)))
    (local.get $at))
  (func $number (param $n i32)
    (if (i32.ge_u (local.get $n) (i32.const 10))
      (then (call $number (i32.div_u (local.get $n) (i32.const 10)))))
    (i32.store8 (global.get $out)
      (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))
  (func $say (param $n i32)
    (call $number (local.get $n))
    (i32.store8 (global.get $out) (i32.const 32))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))
  ;; A channel; its ends are at 36 and 40.
  (func $make (param $capacity i32)
    (call $channel (local.get $capacity) (i32.const 32))
    (if (i32.load8_u (i32.const 32)) (then (unreachable))))
  ;; Sends the port at 128; where it comes back, it is there again. The error, or none.
  (func $move (param $through i32) (result i32)
    (call $send (local.get $through) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 128) (i32.const 1) (i32.const 64))
    (if (i32.eqz (i32.load8_u (i32.const 64))) (then (return (i32.const 99))))
    (i32.store (i32.const 128) (i32.load (i32.load (i32.const 80))))
    (i32.load8_u (i32.const 68)))
  (func (export "run") (param i32 i32) (result i32)
    (local $near i32) (local $far i32) (local $n i32) (local $error i32)
    (call $make (i32.const 64))
    (local.set $near (i32.load (i32.const 36)))
    (local.set $far (i32.load (i32.const 40)))
    (loop $more
      (call $make (i32.const 1))
      (i32.store (i32.const 128) (i32.load (i32.const 40)))
      (local.set $error (call $move (local.get $near)))
      (if (i32.eq (local.get $error) (i32.const 99))
        (then
          (call $drop (i32.load (i32.const 36)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br $more))))
    (call $say (local.get $n))
    (call $say (local.get $error))
    (call $make (i32.const 64))
    (call $say (call $move (i32.load (i32.const 36))))
    (call $receive (local.get $far) (i32.const 192))
    (if (i32.load8_u (i32.const 192)) (then (unreachable)))
    (call $drop (i32.load (i32.load (i32.const 212))))
    (call $say (call $move (local.get $near)))
    (i32.store (i32.const 4) (i32.const 1024))
    (i32.store (i32.const 8) (i32.sub (global.get $out) (i32.const 1024)))
    (i32.const 0)))"#;

/// Sends 100 ports to its parent, each in a message of its own, and waits where
/// there is no room. Ends that it sent from are dropped; so is the last.
const MANY: &str = r#"(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (import "wrun:task/ports@0.1.0" "channel" (func $channel (param i32 i32)))
  (import "wrun:task/ports@0.1.0" "parent" (func $parent (param i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.send"
    (func $send (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wrun:task/ports@0.1.0" "[resource-drop]port" (func $drop (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 512) "all of them")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (func (export "run") (param i32 i32) (result i32) (local $n i32) (local $to i32)
    (call $parent (i32.const 16))
    (if (i32.eqz (i32.load8_u (i32.const 16))) (then (unreachable)))
    (local.set $to (i32.load (i32.const 20)))
    (loop $more
      (call $channel (i32.const 1) (i32.const 32))
      (if (i32.load8_u (i32.const 32)) (then (unreachable)))
      (i32.store (i32.const 128) (i32.load (i32.const 40)))
      (call $send (local.get $to) (i32.const 512) (i32.const 1) (i32.const 0) (i32.const 0)
        (i32.const 128) (i32.const 1) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (unreachable)))
      (call $drop (i32.load (i32.const 36)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (call $progress (i64.extend_i32_u (local.get $n)) (i32.const 0) (i64.const 0))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 100))))
    (call $drop (local.get $to))
    (i32.store (i32.const 4) (i32.const 512))
    (i32.store (i32.const 8) (i32.const 11))
    (i32.const 0)))"#;

// --- the user that runs it ------------------------------------------------

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The variable with the test that runs in a process of its own.
const APART: &str = "WRUN_TEST_APART";

/// Runs `test` twice, each in a process of its own, which is this test binary again: as
/// the user of the tests, and as an ordinary user with 1,024 descriptors.
fn as_both(name: &str, test: impl FnOnce()) {
    if std::env::var(APART).is_ok_and(|apart| apart == name) {
        return test();
    }
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    let temporary = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temporary.path(), everybody).unwrap();
    for ordinary in [false, true] {
        let mut command = Command::new("sh");
        let limit = if ordinary { "ulimit -n 1024; " } else { "" };
        command
            .args(["-c", &format!("{limit}exec \"$@\""), "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(APART, name)
            .env("TMPDIR", temporary.path())
            .current_dir("/");
        if ordinary && is_root() {
            command.uid(ORDINARY).gid(ORDINARY);
        }
        let output = match command.output() {
            Ok(output) => output,
            // In a user namespace, root may be the only one.
            Err(error) => {
                println!("SKIPPED: as an ordinary user: cannot become one: {error}");
                continue;
            }
        };
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && stdout.contains("1 passed"),
            "{name}, ordinary: {ordinary}, {}:\n{stdout}{stderr}",
            output.status
        );
    }
}

fn started(runner: &Runner, task: Task) -> TaskHandle {
    let handle = runner.blocking_submit(task).unwrap();
    assert!(
        within(PATIENCE, || handle.progress().done > 0),
        "it does not run"
    );
    handle
}

fn completes(what: &str, mut handle: TaskHandle, output: &str) {
    handle.cancel();
    let report = handle.blocking_report().unwrap();
    assert!(report.outcome.is_completed(), "{what}: {}", report.outcome);
    assert_eq!(report.stdout, output, "{what}");
}

// --- hoards ---------------------------------------------------------------

#[test]
fn large_messages_that_are_not_received_take_nothing_from_others() {
    as_both(
        "hoards::large_messages_that_are_not_received_take_nothing_from_others",
        || {
            for mode in BOTH {
                let runner = builder(mode)
                    .max_running(16)
                    .process(ProcessOptions::default().spares(0))
                    .build()
                    .unwrap();
                let patient = wat(&runner, "patient", PATIENT);
                let large = wat(&runner, "large", LARGE);
                let before: Vec<_> = (0..4)
                    .map(|_| started(&runner, Task::new(&patient).input("before")))
                    .collect();
                let hoarders: Vec<_> = (0..2)
                    .map(|_| started(&runner, Task::new(&large)))
                    .collect();
                for hoarder in &hoarders {
                    // As many as the channels have room for, in both modes.
                    assert_eq!(hoarder.progress().done, 16 * 2 * 32, "{mode}");
                }
                // Of an artifact that has a zygote, and of one that has none yet.
                completes(
                    "beside",
                    started(&runner, Task::new(&patient).input("x")),
                    "x",
                );
                still_works(&runner);
                let one_more = started(&runner, Task::new(&large));
                assert_eq!(one_more.progress().done, 16 * 2 * 32, "{mode}");
                for handle in before {
                    completes("before", handle, "before");
                }
                for handle in hoarders.into_iter().chain([one_more]) {
                    completes("a hoarder", handle, "");
                }
            }
        },
    );
}

#[test]
fn a_task_has_as_much_in_flight_in_both_modes() {
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let ports = wat(&runner, "ports", PORTS);
        let report = runner.blocking_run(Task::new(&ports)).unwrap();
        assert!(report.outcome.is_completed(), "{mode}: {}", report.outcome);
        // 42 ports; would-block where some may be received; limit; sent.
        assert_eq!(report.stdout, "42 1 4 99 ", "{mode}");
    }
}

#[test]
fn a_task_with_much_in_flight_waits_for_its_receiver() {
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let many = wat(&runner, "many", MANY);
        let (ours, theirs) = runner.channel(64).unwrap();
        let handle = runner
            .blocking_submit(Task::new(&many).port(theirs))
            .unwrap();
        await_progress(&handle);
        // One that does not wait has sent all of them by then.
        let sent = settled("what is sent", PATIENCE, || handle.progress().done);
        assert!((1..100).contains(&sent), "{mode}: {sent} of 100 sent");
        for number in 0..100 {
            let message = ours.blocking_receive_timeout(PATIENCE).unwrap();
            assert_eq!(message.ports.len(), 1, "{mode}: {number}");
        }
        completes("the sender", handle, "all of them");
    }
}

#[test]
fn a_worker_that_was_taken_over_hoards_descriptors_alone() {
    // What it takes is taken from all workers of an ordinary user: SECURITY.md says so.
    if !is_root() && std::env::var(APART).is_err() {
        println!("SKIPPED: it would take descriptors from other tests of this user");
        return;
    }
    as_both(
        "hoards::a_worker_that_was_taken_over_hoards_descriptors_alone",
        || {
            for start in [Start::Fork, Start::Exec] {
                let runner = builder(Mode::Process)
                    .process(ProcessOptions::default().start(start))
                    .build()
                    .unwrap();
                let patient = wat(&runner, "patient", PATIENT);
                let siblings = ["first", "second"]
                    .map(|input| started(&runner, Task::new(&patient).input(input)));
                let hoarder = Task::new(&patient).env("WRUN_TEST_PROBE", "hoard-descriptors");
                let mut hoarder = runner.blocking_submit(hoarder).unwrap();
                let hoarder = std::thread::spawn(move || hoarder.blocking_report().unwrap());
                let mut beside = 0;
                while !hoarder.is_finished() {
                    completes(
                        "beside",
                        started(&runner, Task::new(&patient).input("x")),
                        "x",
                    );
                    // A runner that knows nothing of this one.
                    neighbour(start);
                    beside += 1;
                }
                assert!(beside > 0);
                let report = hoarder.join().unwrap();
                match &report.outcome {
                    Outcome::Failed(said) => assert!(
                        said.contains("Too many references"),
                        "{start:?}: it was to be refused: {said}"
                    ),
                    other => panic!("{start:?}: {other}"),
                }
                for (sibling, input) in siblings.into_iter().zip(["first", "second"]) {
                    completes("a sibling", sibling, input);
                }
            }
        },
    );
}

/// A runner of its own has a task that completes.
fn neighbour(start: Start) {
    let start = match start {
        Start::Exec => "exec",
        _ => "fork",
    };
    let directory = tempfile::tempdir().unwrap();
    let task = directory.path().join("neighbour.wat");
    std::fs::write(
        &task,
        r#"(module (memory (export "memory") 1) (func (export "_start")))"#,
    )
    .unwrap();
    let output = Command::new(wrun())
        .args(["--no-cache", "--start", start])
        .arg(&task)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
}

// --- users ----------------------------------------------------------------

fn user_of(report: &wrun::Report) -> u32 {
    let detail = &report
        .jail
        .as_ref()
        .unwrap()
        .layer(Layer::Identity)
        .unwrap()
        .detail;
    let user = detail.strip_prefix("user ").unwrap();
    let end = user.find(',').unwrap();
    user[..end].parse().unwrap()
}

#[test]
fn each_program_that_root_starts_is_another_user() {
    if !is_root() {
        println!("SKIPPED: only root starts programs as others");
        return;
    }
    for (range, builder) in [
        (0x7800_0000..=0x7800_ffff, builder(Mode::Process)),
        (
            70_000..=70_003,
            builder(Mode::Process).process(ProcessOptions::default().users(70_000..=70_003)),
        ),
    ] {
        // Two runners, two artifacts each: four zygotes at a time.
        let runners = [builder.clone().build().unwrap(), builder.build().unwrap()];
        let mut users = BTreeSet::new();
        let mut artifacts = Vec::new();
        for runner in &runners {
            for text in [PATIENT, LARGE] {
                let artifact = wat(runner, "any", text);
                let mut handle = started(runner, Task::new(&artifact));
                handle.cancel();
                let report = handle.blocking_report().unwrap();
                let user = user_of(&report);
                if user == 65534 {
                    println!("SKIPPED: this user namespace has few users");
                    return;
                }
                assert!(range.contains(&user), "{user}");
                assert!(users.insert(user), "{user} twice");
                artifacts.push(artifact);
            }
        }
    }
}

/// Not a test: fills sockets with descriptors until it is refused, says so, and waits.
#[test]
#[ignore = "another test starts it"]
fn fills() {
    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
        SocketType, sendmsg, socketpair,
    };
    use std::io::{BufRead, IoSlice};
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;
    if std::env::var("WRUN_TEST_FILLS").is_err() {
        return;
    }
    let mut kept = Vec::new();
    let mut sent = 0;
    'all: loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        kept.extend([pair.0, pair.1]);
        let one = &kept[kept.len() - 2];
        loop {
            let along = [one.as_fd(); 250];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&along)));
            match sendmsg(one, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()) {
                Ok(_) => sent += 250,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::TOOMANYREFS) => break 'all,
                Err(error) => panic!("{error}"),
            }
        }
    }
    println!("\nfull: {sent}");
    let _ = std::io::stdin().lock().read_line(&mut String::new());
}

#[test]
fn a_zygote_that_cannot_send_lives_on() {
    if !is_root() {
        println!("SKIPPED: only root can have other users");
        return;
    }
    if !tool::available("setpriv") {
        return;
    }
    let runner = builder(Mode::Process)
        .process(
            ProcessOptions::default()
                .start(Start::Fork)
                .spares(0)
                .identity(ORDINARY + 1, ORDINARY + 1),
        )
        .build()
        .unwrap();
    let patient = wat(&runner, "patient", PATIENT);
    let siblings: Vec<_> = (0..4)
        .map(|_| started(&runner, Task::new(&patient).input("before")))
        .collect();
    // Another process of the same user, whose limit is as high as any of wrun's.
    let raise = "ulimit -n 65536 2>/dev/null || ulimit -n $(ulimit -Hn); exec setpriv \"$@\"";
    let mut filling = Command::new("sh")
        .args(["-c", raise, "sh"])
        .args([
            format!("--reuid={}", ORDINARY + 1),
            format!("--regid={}", ORDINARY + 1),
        ])
        .arg("--clear-groups")
        .arg(std::env::current_exe().unwrap())
        .args([
            "hoards::fills",
            "--exact",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("WRUN_TEST_FILLS", "yes")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = std::io::BufRead::lines(std::io::BufReader::new(filling.stdout.take().unwrap()));
    let full = said
        .map_while(Result::ok)
        .find(|line| line.starts_with("full: "));
    let Some(full) = full else {
        println!("SKIPPED: setpriv cannot start another user's process");
        let _ = filling.wait();
        return;
    };
    // Forking is refused, which its task is told, and is done without.
    let mut handle = started(&runner, Task::new(&patient).input("beside"));
    handle.cancel();
    let report = handle.blocking_report().unwrap();
    assert_eq!(report.stdout, "beside", "{full}: {}", report.outcome);
    let refused = |note: &String| note.contains("Too many references");
    assert!(
        report.notes.iter().any(refused),
        "{full}: {:?}",
        report.notes
    );
    for sibling in siblings {
        completes("a sibling", sibling, "before");
    }
    drop(filling.stdin.take());
    filling.wait().unwrap();
    // The same zygote forks again.
    let mut handle = started(&runner, Task::new(&patient).input("after"));
    handle.cancel();
    let report = handle.blocking_report().unwrap();
    assert_eq!((&*report.stdout, report.notes.len()), (&b"after"[..], 0));
    assert_ne!(report.outcome, Outcome::Crashed(Crash::Lost));
}
