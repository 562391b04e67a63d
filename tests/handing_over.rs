//! Regions in messages: between a host and its tasks, between tasks; and which task pays for
//! them. What one task alone sees of it is in `guest-tasks/ports`, case "regions".

use crate::support::{
    BOTH, Census, Dice, alone, assert_nothing_left, builder, guest, still_works, within,
};
use std::time::Duration;
use wrun::{
    Artifact, Limits, Message, Mode, Outcome, Port, PortError, RegionError, RegionKind, Runner,
    Task, TaskHandle, Waited,
};

const SOON: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn load(mode: Mode) -> (Runner, Artifact) {
    let runner = builder(mode).build().unwrap();
    let ports = guest(&runner, "ports/ports.wasm");
    (runner, ports)
}

fn talk(runner: &Runner, ports: &Artifact, what: &str, max_memory: u64) -> (TaskHandle, Port) {
    let (theirs, ours) = runner.channel(16).unwrap();
    let limits = Limits::default().timeout(2 * SOON).max_memory(max_memory);
    let task = Task::new(ports).input(what).port(theirs).limits(limits);
    let task = task.grace(Duration::ZERO);
    (runner.blocking_submit(task).unwrap(), ours)
}

fn received(port: &Port) -> Message {
    port.blocking_receive_timeout(SOON).unwrap()
}

/// What a task answers to an order.
fn told(port: &Port, order: impl Into<Message>) -> (String, Message) {
    port.blocking_send(order).unwrap();
    let answer = received(port);
    (String::from_utf8(answer.data.to_vec()).unwrap(), answer)
}

fn completed(mut handle: TaskHandle) -> String {
    let report = handle.blocking_report().unwrap();
    assert!(report.outcome.is_completed(), "{}", report.outcome);
    String::from_utf8(report.stdout.to_vec()).unwrap()
}

#[test]
fn regions_go_to_a_task_and_come_back() {
    for mode in BOTH {
        let (runner, ports) = load(mode);
        let (task, port) = talk(&runner, &ports, "echo", 64 * MIB);
        let exclusive = runner.region(100_000, RegionKind::Exclusive).unwrap();
        exclusive.write(99_995, b"there").unwrap();
        let frozen = runner.frozen_region(b"a large input").unwrap();
        let shared = runner.region(8, RegionKind::Shared).unwrap();
        let message = Message::new("all of them")
            .region(exclusive)
            .region(frozen.duplicate().unwrap())
            .region(shared.duplicate().unwrap());
        port.blocking_send(message).unwrap();
        let mut back = received(&port);
        assert_eq!(back.data, "all of them");
        let kinds: Vec<_> = back.regions.iter().map(wrun::Region::kind).collect();
        use RegionKind::{Exclusive, Frozen, Shared};
        assert_eq!(kinds, [Exclusive, Frozen, Shared], "{mode}");
        let mut bytes = [0; 5];
        back.regions[0].read(99_995, &mut bytes).unwrap();
        assert_eq!(&bytes, b"there");
        assert_eq!(back.regions[1].len(), 13);
        back.regions[1].read(8, &mut bytes).unwrap();
        assert_eq!(&bytes, b"input");
        assert!(matches!(
            back.regions[1].write(0, b"x"),
            Err(RegionError::WrongKind)
        ));
        back.regions[2].store_u64(0, 7).unwrap();
        assert_eq!(shared.add_u64(0, 1).unwrap(), 7, "{mode}");
        assert_eq!(shared.compare_exchange_u64(0, 8, 1).unwrap(), 8);
        assert_eq!(back.regions[2].load_u64(0).unwrap(), 1);
        back.regions[0].freeze().unwrap();
        drop(port);
        assert_eq!(completed(task), "1 echoed");
    }
}

#[test]
fn impossible_regions_and_messages_are_refused() {
    let (threads, _) = load(Mode::Thread);
    for mode in BOTH {
        let (runner, _) = load(mode);
        let (one, other) = runner.channel(1).unwrap();
        let region = |len| runner.region(len, RegionKind::Shared);
        assert!(matches!(region(0), Err(RegionError::OutOfBounds)));
        assert!(matches!(region(u64::MAX), Err(RegionError::OutOfBounds)));
        assert!(matches!(region(1 << 60), Err(RegionError::Limit)));
        let frozen = runner.region(1, RegionKind::Frozen);
        assert!(matches!(frozen, Err(RegionError::WrongKind)));
        let many = (0..9).fold(Message::default(), |all, _| all.region(region(1).unwrap()));
        let unsent = one.try_send(many).unwrap_err();
        assert_eq!(unsent.error, PortError::TooLarge);
        assert_eq!(unsent.message.regions.len(), 9);
        one.try_send(Message::default().region(region(3).unwrap()))
            .unwrap();
        let unsent = one.try_send(Message::default().region(region(4).unwrap()));
        let unsent = unsent.unwrap_err();
        assert_eq!(unsent.error, PortError::WouldBlock, "{mode}");
        assert_eq!(unsent.message.regions[0].len(), 4);
        assert_eq!(other.try_receive().unwrap().regions[0].len(), 3);
        if mode == Mode::Process {
            let foreign = threads.region(1, RegionKind::Shared).unwrap();
            let unsent = one
                .try_send(Message::default().region(foreign))
                .unwrap_err();
            assert_eq!(unsent.error, PortError::OtherRunner);
            assert_eq!(unsent.message.regions.len(), 1);
        }
    }
}

#[test]
fn many_tasks_read_one_frozen_input() {
    for mode in BOTH {
        let (runner, ports) = load(mode);
        let bytes: Vec<u8> = (0..4 * MIB).map(|at| (at % 251) as u8).collect();
        let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
        let input = runner.frozen_region(&bytes).unwrap();
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                // No memory for a copy beside its window.
                let (task, port) = talk(&runner, &ports, "sum", 8 * MIB);
                let message = Message::default().region(input.duplicate().unwrap());
                port.blocking_send(message).unwrap();
                (task, port)
            })
            .collect();
        for (task, port) in tasks {
            assert_eq!(received(&port).data, sum.to_string(), "{mode}");
            drop(port);
            completed(task);
        }
    }
}

#[test]
fn tasks_count_together_and_their_host_waits() {
    for mode in BOTH {
        let (runner, ports) = load(mode);
        let counter = runner.region(16, RegionKind::Shared).unwrap();
        let waited = counter.blocking_wait(0, 1, None).unwrap();
        assert_eq!(waited, Waited::NotEqual);
        let waited = counter.blocking_wait(0, 0, Some(Duration::from_millis(5)));
        assert_eq!(waited.unwrap(), Waited::TimedOut);
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let (task, port) = talk(&runner, &ports, "add 1000", 64 * MIB);
                let message = Message::default().region(counter.duplicate().unwrap());
                port.blocking_send(message).unwrap();
                (task, port)
            })
            .collect();
        loop {
            let done = counter.load_u32(0).unwrap();
            if done == 3 {
                break;
            }
            let waited = counter.blocking_wait(0, done, Some(SOON)).unwrap();
            assert_ne!(waited, Waited::TimedOut, "{mode}");
        }
        assert_eq!(counter.load_u64(8).unwrap(), 3000, "{mode}");
        for (task, _port) in tasks {
            completed(task);
        }
    }
}

/// What a task has beside its regions: some pages for its code and stack.
const OWN: u64 = 3 * MIB;

#[test]
fn a_task_pays_for_a_region_until_no_task_holds_it() {
    for mode in BOTH {
        for kind in [0, 1] {
            let (runner, ports) = load(mode);
            let (maker, port) = talk(&runner, &ports, &format!("make {kind}"), 16 * MIB + OWN);
            let new = || told(&port, format!("new {}", 4 * MIB));
            let mut held: Vec<_> = (0..4).map(|_| new().1.regions.pop().unwrap()).collect();
            assert_eq!(new().0, "limit", "{mode}: they are elsewhere, and its own");
            assert_eq!(told(&port, "grow 64").0, "refused", "{mode}");
            drop(held.pop());
            held.push(new().1.regions.pop().unwrap());
            assert_eq!(new().0, "limit", "{mode}: one was given back, not two");
            // To memory as to regions.
            drop(held.pop());
            assert_eq!(told(&port, "grow 64").0, "grown", "{mode}");
            assert_eq!(new().0, "limit", "{mode}");

            // Another task has one, and it dies in several ways.
            for (what, how) in [
                ("keep", "kill"),
                ("map", "kill"),
                ("keep", "drop"),
                ("map", "end"),
            ] {
                let (mut keeper, to_keeper) = talk(&runner, &ports, "keep", 64 * MIB);
                let what = if kind == 1 { "keep" } else { what };
                let message = Message::new(what).region(held.pop().unwrap());
                assert_eq!(told(&to_keeper, message).0, "1");
                assert_eq!(new().0, "limit", "{mode}");
                match how {
                    "kill" => {
                        keeper.kill();
                        assert_eq!(
                            keeper.blocking_report().unwrap().outcome,
                            Outcome::Cancelled
                        );
                    }
                    "drop" => {
                        assert_eq!(told(&to_keeper, "drop").0, "0");
                    }
                    _ => {
                        drop(to_keeper);
                        assert_eq!(completed(keeper), "1 kept");
                    }
                }
                // A process that was told to die is gone a moment later.
                let again = || new().1.regions.pop().map(|it| held.push(it));
                let mut again = again;
                assert!(within(SOON, || again().is_some()), "{mode}: {what}, {how}");
            }

            // In a queue that is closed; and when its maker is gone.
            let (one, other) = runner.channel(1).unwrap();
            one.try_send(Message::default().region(held.pop().unwrap()))
                .unwrap();
            assert_eq!(new().0, "limit", "{mode}");
            drop(other);
            held.push(new().1.regions.pop().unwrap());
            port.close();
            completed(maker);
            held[0].write(0, b"still here").unwrap();
            still_works(&runner);
        }
    }
}

#[test]
fn all_regions_of_a_runner_are_bounded() {
    for mode in BOTH {
        let runner = builder(mode).region_memory(8 * MIB).build().unwrap();
        let ports = guest(&runner, "ports/ports.wasm");
        let makers = [0, 1].map(|_| talk(&runner, &ports, "make 0", 64 * MIB));
        let new = |at: usize| told(&makers[at].1, format!("new {}", 2 * MIB));
        let ours = runner.region(2 * MIB, RegionKind::Exclusive).unwrap();
        let mut held: Vec<_> = [0, 1, 1].map(|at| new(at).1.regions.pop().unwrap()).into();
        for at in [0, 1] {
            assert_eq!(new(at).0, "limit", "{mode}");
        }
        let refused = runner.region(1, RegionKind::Shared);
        assert!(matches!(refused, Err(RegionError::Limit)), "{mode}");
        drop(ours);
        held.push(new(0).1.regions.pop().unwrap());
        assert_eq!(new(1).0, "limit", "{mode}");
        // What is left of a task that is gone counts for as long as it is there.
        let [(first, to_first), (second, to_second)] = makers;
        drop((to_first, to_second));
        completed(first);
        completed(second);
        let refused = runner.region(1, RegionKind::Shared);
        assert!(matches!(refused, Err(RegionError::Limit)), "{mode}");
        drop(held);
        runner.region(8 * MIB, RegionKind::Shared).unwrap();
    }
}

#[test]
fn nothing_is_left_of_regions_that_travel() {
    alone(
        "handing_over::nothing_is_left_of_regions_that_travel",
        || {
            for mode in BOTH {
                let before = Census::after_a_first_runner(mode);
                let (runner, ports) = load(mode);
                let mut dice = Dice(11);
                for round in 0..40 {
                    let what = ["keep", "sum", "echo", "add 100", "make 0"][round % 5];
                    let (mut task, port) = talk(&runner, &ports, what, 64 * MIB);
                    for _ in 0..3 {
                        let kind = [RegionKind::Exclusive, RegionKind::Shared][round % 2];
                        let region = runner.region(MIB, kind).unwrap();
                        let _ = port.try_send(Message::new("new 100000").region(region));
                    }
                    dice.pause(10);
                    task.kill();
                    task.blocking_report().unwrap();
                }
                assert!(
                    within(SOON, || runner.region_memory_used() == 0),
                    "{mode}: {} bytes",
                    runner.region_memory_used()
                );
                drop((runner, ports));
                assert_nothing_left(&before, "tasks that were handed regions");
            }
        },
    );
}
