//! Workers that were taken over, and what they can do to others by the regions that both
//! have: tell them errors at worst. The host's code misbehaves in the guest's place, with
//! the descriptors that came to it.

use crate::support::{BOTH, builder, still_works, wat};
use std::time::Duration;
use wrun::{
    DirGrant, Jail, Layer, LayerState, Limits, Message, Mode, Outcome, ProcessOptions, RegionKind,
    Report, Runner, Start, Task, TcpGrant,
};

/// Receives a region, says so, waits for another message, and writes to it. Prints what
/// came of: `write`, `read`, `add-u32`, `map`; 0 or 1 and the number of the error.
const WRITER: &str = r#"(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (import "wrun:task/ports@0.1.0" "parent" (func $parent (param i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.receive" (func $receive (param i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.write"
    (func $write (param i32 i64 i32 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.read" (func $read (param i32 i64 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.add-u32"
    (func $add (param i32 i64 i32 i32)))
  (memory (export "memory") 1)
  (global $out (mut i32) (i32.const 1024))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (func $say (param $at i32)
    (i32.store8 (global.get $out) (i32.add (i32.const 48) (i32.load8_u (local.get $at))))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))
  (func (export "run") (param i32 i32) (result i32) (local $port i32) (local $region i32)
    (call $parent (i32.const 64))
    (local.set $port (i32.load (i32.const 68)))
    (call $receive (local.get $port) (i32.const 128))
    (if (i32.load8_u (i32.const 128)) (then (unreachable)))
    (local.set $region (i32.load (i32.load (i32.const 140))))
    (call $progress (i64.const 1) (i32.const 0) (i64.const 0))
    (call $receive (local.get $port) (i32.const 128))
    (call $write (local.get $region) (i64.const 0) (i32.const 100) (i32.const 5) (i32.const 80))
    (call $say (i32.const 80))
    (call $read (local.get $region) (i64.const 0) (i64.const 5) (i32.const 80))
    (call $say (i32.const 80))
    (call $add (local.get $region) (i64.const 8) (i32.const 1) (i32.const 80))
    (call $say (i32.const 80))
    (i32.store offset=4 (i32.const 0) (i32.const 1024))
    (i32.store offset=8 (i32.const 0) (i32.sub (global.get $out) (i32.const 1024)))
    (i32.const 0)))"#;

/// Receives a region of one page and maps it; looks for a while whether the first word of
/// its window changes, which nothing here writes to; and whether window and region are one.
/// Prints, digit by digit: the error of `map`, whether the word changed; the error of
/// `write` while it is mapped, and whether the window has what was written; whether the
/// region has what was stored, while it is mapped and when it no longer is; whether the
/// window is empty then.
const MAPPER: &str = r#"(module
  (import "wrun:task/ports@0.1.0" "parent" (func $parent (param i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.receive" (func $receive (param i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.map"
    (func $map (param i32 i64 i32 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[resource-drop]mapping" (func $unmap (param i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.write"
    (func $write (param i32 i64 i32 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.read" (func $read (param i32 i64 i64 i32)))
  (memory (export "memory") 3)
  (data (i32.const 100) "written")
  (global $out (mut i32) (i32.const 1024))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (func $say (param $digit i32)
    (i32.store8 (global.get $out) (i32.add (i32.const 48) (local.get $digit)))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))
  ;; 0 where it was done, else the error and 1.
  (func $error (param $at i32) (result i32)
    (if (result i32) (i32.load8_u (local.get $at))
      (then (i32.add (i32.const 1) (i32.load8_u offset=1 (local.get $at))))
      (else (i32.const 0))))
  ;; Whether the region has a byte at 24.
  (func $has (param $region i32) (param $byte i32) (result i32)
    (call $read (local.get $region) (i64.const 24) (i64.const 1) (i32.const 80))
    (if (i32.load8_u (i32.const 80)) (then (unreachable)))
    (i32.eq (i32.load8_u (i32.load (i32.const 84))) (local.get $byte)))
  (func (export "run") (param i32 i32) (result i32)
    (local $region i32) (local $mapping i32) (local $word i64) (local $left i32)
    (call $parent (i32.const 64))
    (call $receive (i32.load (i32.const 68)) (i32.const 128))
    (if (i32.load8_u (i32.const 128)) (then (unreachable)))
    (local.set $region (i32.load (i32.load (i32.const 140))))
    (call $map (local.get $region) (i64.const 0) (i32.const 65536) (i32.const 65536)
      (i32.const 80))
    (if (i32.load8_u (i32.const 80))
      (then (call $say (i32.add (i32.const 1) (i32.load8_u (i32.const 84)))))
      (else
        (call $say (i32.const 0))
        (local.set $mapping (i32.load (i32.const 84)))
        (local.set $word (i64.load (i32.const 65536)))
        (local.set $left (i32.const 20000000))
        (block $changed
          (loop $on
            (br_if $changed (i64.ne (i64.load (i32.const 65536)) (local.get $word)))
            (br_if $on (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))
        (call $say (i32.ne (local.get $left) (i32.const 0)))
        (call $write (local.get $region) (i64.const 16) (i32.const 100) (i32.const 7)
          (i32.const 80))
        (call $say (call $error (i32.const 80)))
        (call $say (i32.eq (i32.load8_u (i32.const 65552)) (i32.const 119)))
        (i32.store8 (i32.const 65560) (i32.const 83))
        (call $say (call $has (local.get $region) (i32.const 83)))
        (call $unmap (local.get $mapping))
        (call $say (call $has (local.get $region) (i32.const 83)))
        (call $say (i64.eqz (i64.load (i32.const 65560))))))
    (i32.store offset=4 (i32.const 0) (i32.const 1024))
    (i32.store offset=8 (i32.const 0) (i32.sub (global.get $out) (i32.const 1024)))
    (i32.const 0)))"#;

const PATIENCE: Duration = Duration::from_secs(120);

/// A task in a worker that was taken over, which does this.
fn taken_over(artifact: &wrun::Artifact, act: &str) -> Task {
    Task::new(artifact).env("WRUN_TEST_PROBE", act)
}

/// What it says that it did.
fn said(report: &Report) -> &str {
    match &report.outcome {
        Outcome::Failed(message) => message,
        other => panic!("{other}"),
    }
}

#[test]
fn no_holder_takes_anything_from_others() {
    let directory = tempfile::tempdir().unwrap();
    let dir = |read_only| {
        let grant = DirGrant::new(directory.path()).guest("/d");
        if read_only { grant.read_only() } else { grant }
    };
    let tcp = || TcpGrant::new("127.0.0.1", 9).unwrap();
    for start in [Start::Fork, Start::Exec] {
        for what in [
            "nothing",
            "a directory to read",
            "a directory",
            "tcp",
            "both",
        ] {
            let runner = builder(Mode::Process)
                .process(ProcessOptions::default().start(start))
                .build()
                .unwrap();
            let writer = wat(&runner, "writer", WRITER);
            let region = runner.region(1 << 16, RegionKind::Shared).unwrap();
            region.write(100, b"bytes").unwrap();
            let give = |task: Task| {
                let (theirs, ours) = runner.channel(2).unwrap();
                let task = runner.blocking_submit(task.port(theirs)).unwrap();
                let message = Message::new("").region(region.duplicate().unwrap());
                ours.blocking_send(message).unwrap();
                (task, ours)
            };
            let (mut innocent, to_innocent) = give(Task::new(&writer));
            assert!(crate::support::within(PATIENCE, || {
                innocent.progress().done > 0
            }));
            let task = taken_over(&writer, "region-tricks");
            let task = match what {
                "a directory to read" => task.dir(dir(true)),
                "a directory" => task.dir(dir(false)),
                "tcp" => task.allow_tcp(tcp()),
                "both" => task.dir(dir(false)).allow_tcp(tcp()),
                _ => task,
            };
            let (mut task, _port) = give(task);
            let report = task.blocking_report().unwrap();
            let said = said(&report);
            let tricks: Vec<_> = said
                .trim_start_matches("did it: ")
                .split(' ')
                .filter_map(|trick| trick.split_once('='))
                .collect();
            assert!(tricks.len() > 20, "{said}");
            let jail = report.jail.as_ref().unwrap();
            let namespace = jail.layer(Layer::MountNamespace).unwrap();
            let sees_proc = namespace.state != LayerState::Enforced;
            for (trick, error) in tricks {
                // Where it has `/proc`, it can have another descriptor of the same; no more.
                let may = trick == "open-anew" && sees_proc;
                assert!(may || error != "done", "{what}: {trick} was done");
                // The kernel refuses that itself; the rest no filter lets through.
                let by_filter = !matches!(trick, "truncate" | "grow" | "open-anew");
                let refused = error == libc::EPERM.to_string();
                assert!(!by_filter || refused, "{what}: {trick}: {error}");
            }
            assert_eq!(read(&region, 100), b"bytes", "{what}");
            region.write(0, b"others").unwrap();
            to_innocent.blocking_send(Message::new("")).unwrap();
            let report = innocent.blocking_report().unwrap();
            assert_eq!(report.stdout, "000", "{what}: {}", report.outcome);
            still_works(&runner);
        }
    }
}

fn read(region: &wrun::Region, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; 5];
    region.read(offset, &mut bytes).unwrap();
    bytes
}

/// What a task prints that maps this region.
fn mapped(runner: &Runner, region: wrun::Region) -> Vec<u8> {
    let mapper = wat(runner, "mapper", MAPPER);
    let (theirs, ours) = runner.channel(1).unwrap();
    let limits = Limits::default().timeout(PATIENCE);
    let task = Task::new(&mapper).limits(limits).port(theirs);
    let mut task = runner.blocking_submit(task).unwrap();
    ours.blocking_send(Message::new("").region(region)).unwrap();
    let report = task.blocking_report().unwrap();
    match report.outcome.output() {
        Some(output) => output.as_bytes().to_vec(),
        None => panic!("{}", report.outcome),
    }
}

#[test]
fn a_region_of_nobody_else_is_mapped() {
    for mode in BOTH {
        for (jail, start) in [
            (Jail::Strict, Start::Fork),
            (Jail::Strict, Start::Exec),
            (Jail::BestEffort, Start::Fork),
            (Jail::Off, Start::Fork),
        ] {
            let builder = builder(mode);
            let runner = match mode {
                Mode::Process => builder
                    .process(ProcessOptions::default().jail(jail).start(start))
                    .build()
                    .unwrap(),
                Mode::Thread => builder.build().unwrap(),
            };
            // Some are large enough to be waited for.
            for len in [1 << 16, 4 << 20] {
                let region = runner.region(len, RegionKind::Exclusive).unwrap();
                assert_eq!(
                    mapped(&runner, region),
                    b"0001111",
                    "{mode} {jail} {start:?}"
                );
            }
        }
    }
}

#[test]
fn what_a_sender_has_kept_changes_nothing_in_the_memory_of_the_receiver() {
    for (keeps, prints) in [
        ("nothing", "0001111"),
        ("mapping", "0001111"),
        ("descriptor", "0001111"),
        // Writing is refused: the guest is told `busy`, and what it stores is its own.
        ("seal", "0030001"),
    ] {
        let runner = builder(Mode::Process).build().unwrap();
        let writer = wat(&runner, "writer", WRITER);
        let (theirs, ours) = runner.channel(2).unwrap();
        let keeper = taken_over(&writer, &format!("region-keep:{keeps}")).port(theirs);
        let mut keeper = runner.blocking_submit(keeper).unwrap();
        let region = runner.region(1 << 16, RegionKind::Exclusive).unwrap();
        ours.blocking_send(Message::new("").region(region)).unwrap();
        let mut message = ours.blocking_receive().unwrap();
        let region = message.regions.pop().unwrap();
        let printed = mapped(&runner, region);
        ours.blocking_send(Message::new("")).unwrap();
        let report = keeper.blocking_report().unwrap();
        assert!(
            said(&report).starts_with("did it: wrote"),
            "{}",
            said(&report)
        );
        assert_eq!(String::from_utf8_lossy(&printed), prints, "{keeps}");
        still_works(&runner);
    }
}
