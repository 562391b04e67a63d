//! Guests of thread mode that are interrupted at random moments, thousands of times a second: each
//! does what it does undisturbed. Every guest of the tree, and guests that stay where a signal
//! is hardest to get right.
//!
//! `WRUN_INTERRUPTS` says how often guests are to be interrupted in the middle of their code,
//! counted when it has happened; by default, until each guest has run a few times.

use crate::support::manifest::{files, guests, manifest, text, title};
use crate::support::{Dice, alone, builder, repo, silent, still_works, wat};
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use wrun::measure::WholeResponse;
use wrun::{
    Artifact, DirGrant, Limits, Mode, Outcome, Preemption, Report, Runner, Task, TaskHandle,
};
use wrun_sys::preempt::{Interrupts, Storm};

/// The time between two signals to a thread.
const BETWEEN: (Duration, Duration) = (Duration::from_micros(25), Duration::from_micros(100));
/// How long a guest runs again and again before it is the next one's turn; and how long one that
/// computes, which is interrupted this often in its turn.
const TURN: Duration = Duration::from_millis(150);
const LONG_TURN: Duration = Duration::from_secs(6);
const COMPUTES: u64 = 500;
/// Runs of a guest at the same time.
const BESIDE: usize = 2;
/// Guests that see each other by the names of their locks and broadcasts, and run alone.
const ALONE: [&str; 1] = ["commons/commons.wasm"];

/// Guests whose result depends on all that they did: their name, their fields, and what they do
/// before they print the eight bytes at address 16.
const HARD: [(&str, &str, &str); 5] = [
    (
        "floats and vectors",
        "",
        "(local $v v128) (local $x f64) (local $at i32)
        (local.set $v (v128.const i32x4 1 2 3 4))
        (local.set $x (f64.const 1))
        (loop $more
            (local.set $v (i32x4.add (i32x4.mul (local.get $v) (local.get $v))
                (i32x4.splat (local.get $at))))
            (local.set $v (i8x16.shuffle 5 1 2 3 4 0 6 7 8 9 15 11 12 13 14 10
                (local.get $v) (local.get $v)))
            (local.set $x (f64.add (f64.mul (local.get $x) (f64.const 0.999)) (f64.const 0.5)))
            (v128.store (i32.add (i32.const 1024) (i32.and (local.get $at) (i32.const 0xff0)))
                (local.get $v))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $at) (i32.const 4000000))))
        (i64.store (i32.const 16) (i64.xor (i64.reinterpret_f64 (local.get $x))
            (i64.xor (i64x2.extract_lane 0 (local.get $v)) (i64x2.extract_lane 1 (local.get $v)))))",
    ),
    (
        "objects of the collector",
        "(type $node (struct (field i64) (field (ref null $node))))
        (type $row (array (mut i64)))
        (global $kept (mut (ref null $row)) (ref.null $row))",
        "(local $list (ref null $node)) (local $sum i64) (local $n i64) (local $round i32)
        (global.set $kept (array.new $row (i64.const 7) (i32.const 1000)))
        (loop $again
            (local.set $list (ref.null $node))
            (local.set $n (i64.const 0))
            (loop $more
                (local.set $list (struct.new $node (local.get $n) (local.get $list)))
                (array.set $row (global.get $kept)
                    (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 1000))) (local.get $n))
                (local.set $n (i64.add (local.get $n) (i64.const 1)))
                (br_if $more (i64.lt_u (local.get $n) (i64.const 3000))))
            (block $end (loop $each
                (br_if $end (ref.is_null (local.get $list)))
                (local.set $sum (i64.add (i64.rotl (local.get $sum) (i64.const 1))
                    (struct.get $node 0 (local.get $list))))
                (local.set $list (struct.get $node 1 (local.get $list)))
                (br $each)))
            (local.set $sum (i64.add (local.get $sum)
                (array.get $row (global.get $kept) (i32.const 999))))
            (local.set $round (i32.add (local.get $round) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $round) (i32.const 200))))
        (i64.store (i32.const 16) (local.get $sum))",
    ),
    (
        "fills and copies",
        "(table $table 1000 funcref) (elem declare func $nothing) (func $nothing)",
        "(local $round i32) (local $at i32) (local $sum i64)
        (drop (memory.grow (i32.const 64)))
        (loop $again
            (memory.fill (i32.add (i32.const 65536) (local.get $round)) (local.get $round)
                (i32.const 300000))
            (memory.copy (i32.const 70000) (i32.const 66000) (i32.const 1000000))
            (memory.copy (i32.const 1000000) (i32.const 1000007) (i32.const 900001))
            (i64.store (i32.add (i32.const 66000) (local.get $round))
                (i64.mul (i64.extend_i32_u (local.get $round)) (i64.const 0x5851F42D4C957F2D)))
            (table.fill $table (i32.const 0) (ref.func $nothing) (i32.const 1000))
            (local.set $round (i32.add (local.get $round) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $round) (i32.const 100))))
        (local.set $at (i32.const 65536))
        (loop $more
            (local.set $sum (i64.add (i64.rotl (local.get $sum) (i64.const 3))
                (i64.load (local.get $at))))
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $more (i32.lt_u (local.get $at) (i32.const 2000000))))
        (i64.store (i32.const 16) (local.get $sum))",
    ),
    (
        "calls of the host",
        "",
        "(local $round i64)
        (loop $again
            (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 64)))
            (drop (call $random (i32.const 1024) (i32.const 64)))
            (drop (call $write (i32.const 99) (i32.const 0) (i32.const 1) (i32.const 8)))
            (local.set $round (i64.add (local.get $round) (i64.const 1)))
            (br_if $again (i64.lt_u (local.get $round) (i64.const 20000))))
        (i64.store (i32.const 16) (local.get $round))",
    ),
    (
        "waits between loops",
        "",
        "(local $round i32) (local $n i32) (local $sum i64)
        (loop $again
            (i64.store (i32.const 1048) (i64.const 200000))
            (drop (call $poll (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 64)))
            (local.set $n (i32.const 0))
            (loop $more
                (local.set $sum (i64.add (i64.const 0x14057B7EF767814F)
                    (i64.mul (local.get $sum) (i64.const 0x5851F42D4C957F2D))))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $n) (i32.const 100000))))
            (local.set $round (i32.add (local.get $round) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $round) (i32.const 100))))
        (i64.store (i32.const 16) (local.get $sum))",
    ),
];

fn hard(fields: &str, does: &str) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  {fields}
  (func $does {does})
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 8))
    (call $does)
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    )
}

/// A guest, and a way to run it.
struct Guest {
    title: String,
    artifact: Artifact,
    children: Vec<(String, Artifact)>,
    /// Of the manifest; null for the others.
    case: Value,
    expected: Ended,
    /// Two undisturbed runs put out the same.
    repeats: bool,
}

/// How a run ended, without what differs from run to run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ended {
    how: String,
    output: Bytes,
}

impl Ended {
    fn of(report: &Report, output: Bytes) -> Self {
        let how = match &report.outcome {
            Outcome::Trapped(trap) => format!("trapped: {:?}", trap.kind),
            Outcome::Exited(code) => format!("exited with {code}"),
            Outcome::Failed(why) => format!("failed: {why}"),
            Outcome::LimitExceeded(limit) => format!("over its {limit:?}"),
            other => other.kind().to_owned(),
        };
        Ended { how, output }
    }
}

impl Guest {
    fn new(
        runner: &Runner,
        title: String,
        case: Value,
        artifact: Artifact,
        children: Vec<(String, Artifact)>,
    ) -> Self {
        let mut guest = Guest {
            title,
            artifact,
            children,
            case,
            expected: Ended {
                how: String::new(),
                output: Bytes::new(),
            },
            repeats: false,
        };
        let [first, second] = [(); 2].map(|()| {
            let mut runs = guest.run(runner, 1, None);
            runs.pop().expect("one run")
        });
        guest.repeats = first.output == second.output && first.how != "over its Deadline";
        assert_eq!(first.how, second.how, "{}, undisturbed", guest.title);
        guest.expected = first;
        guest
    }

    /// Runs it this many times at once, and kills the last run after a while.
    fn run(&self, runner: &Runner, runs: usize, kill_after: Option<Duration>) -> Vec<Ended> {
        // What they write to is theirs.
        let scratch: Vec<_> = (0..runs).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut handles: Vec<_> = scratch
            .iter()
            .map(|scratch| runner.blocking_submit(self.task(scratch.path())).unwrap())
            .collect();
        if let (Some(after), Some(last)) = (kill_after, handles.last_mut()) {
            std::thread::sleep(after);
            last.kill();
        }
        let is_http = self.artifact.shape().is_http();
        let ended = handles.into_iter().map(|handle| ended(handle, is_http));
        ended.collect()
    }

    fn task(&self, scratch: &Path) -> Task {
        let case = &self.case;
        let mut task = Task::new(&self.artifact);
        if self.artifact.shape().is_http() {
            let request = http::Request::get("http://localhost/");
            task = task.request(request.body(crate::http::empty()).unwrap());
        }
        for (name, artifact) in &self.children {
            task = task.task(name, artifact);
        }
        let args = case["args"].as_array().into_iter().flatten();
        task = task.args(args.map(|arg| arg.as_str().unwrap()));
        for (key, value) in case["env"].as_object().into_iter().flatten() {
            task = task.env(key, value.as_str().unwrap());
        }
        for (number, dir) in case["dirs"].as_array().into_iter().flatten().enumerate() {
            let host = match dir["host"].as_str() {
                Some(host) => guests().join(host),
                None => {
                    let fresh = scratch.join(number.to_string());
                    std::fs::create_dir(&fresh).unwrap();
                    fresh
                }
            };
            let grant = DirGrant::new(host).guest(text(dir, "guest"));
            task = task.dir(match dir["read_only"] == true {
                true => grant.read_only(),
                false => grant,
            });
        }
        let limits = &case["limits"];
        let mut these = Limits::default();
        if let Some(millis) = limits["timeout_ms"].as_u64() {
            these = these.timeout(Duration::from_millis(millis));
        }
        if let Some(fuel) = limits["fuel"].as_u64() {
            these = these.fuel(fuel);
        }
        if let Some(memory) = limits["max_memory"].as_u64() {
            these = these.max_memory(memory);
        }
        if let Some(output) = limits["max_output"].as_u64() {
            these = these.max_output(output);
        }
        task = task.limits(these).grace(Duration::ZERO);
        let input = &case["input"];
        match (input["file"].as_str(), input["text"].as_str()) {
            (Some(file), _) => task.input(std::fs::read(guests().join(file)).unwrap()),
            (_, Some(text)) => task.input(text.to_owned()),
            _ if *input == "silent" => task.input(silent()),
            _ => task,
        }
    }

    /// One round of runs in the storm; what went wrong.
    fn disturbed(&self, runner: &Runner, dice: &mut Dice) -> Option<String> {
        let kill = dice.below(5) == 0;
        let kill_after = kill.then(|| Duration::from_micros(dice.below(3_000)));
        let is_alone = ALONE.iter().any(|name| self.title.starts_with(name));
        let beside = if is_alone { 1 } else { BESIDE };
        let mut runs = self.run(runner, beside, kill_after);
        // One whose child was ended first may say so.
        if kill
            && runs
                .last()
                .is_some_and(|run| run.how == "cancelled" || !self.children.is_empty())
        {
            runs.pop();
        }
        let wrong = runs.into_iter().find(|run| {
            run.how != self.expected.how || self.repeats && run.output != self.expected.output
        })?;
        let shown = |ended: &Ended| {
            let output: String = String::from_utf8_lossy(&ended.output)
                .chars()
                .take(300)
                .collect();
            format!("{}, {} bytes: {output:?}", ended.how, ended.output.len())
        };
        Some(format!(
            "{}: undisturbed {}, interrupted {}",
            self.title,
            shown(&self.expected),
            shown(&wrong)
        ))
    }
}

fn ended(mut handle: TaskHandle, is_http: bool) -> Ended {
    if !is_http {
        let report = handle.blocking_report().unwrap();
        let output = report.stdout.clone();
        return Ended::of(&report, output);
    }
    let tokio = tokio::runtime::Builder::new_current_thread();
    let tokio = { tokio }.enable_all().build().unwrap();
    tokio.block_on(async {
        let response = match handle.response().await {
            Some(response) => WholeResponse::of(response).await.ok(),
            None => None,
        };
        let report = handle.report().await.unwrap();
        let output = response.map(|it| it.to_bytes()).unwrap_or_default();
        Ended::of(&report, output)
    })
}

/// Every guest that there is: those of the manifest, handlers, and the hard ones.
fn all(runner: &Runner) -> Vec<Guest> {
    let mut all = Vec::new();
    for (name, fields, does) in HARD {
        let artifact = wat(runner, name, &hard(fields, does));
        all.push(Guest::new(
            runner,
            name.into(),
            Value::Null,
            artifact,
            Vec::new(),
        ));
    }
    let mut loaded: BTreeMap<_, Artifact> = BTreeMap::new();
    let mut load = |file: &Path| {
        if let Some(artifact) = loaded.get(file) {
            return Some(artifact.clone());
        }
        let artifact = runner.blocking_load(file).ok()?;
        loaded.insert(file.to_owned(), artifact.clone());
        Some(artifact)
    };
    for case in manifest() {
        let refused = case["expect"]["outcome"] == "refused";
        if refused || files(&case).any(|file| !file.exists()) {
            continue;
        }
        let title = title(&case);
        let artifact = load(&guests().join(text(&case, "guest")));
        let artifact = artifact.unwrap_or_else(|| panic!("{title}: it cannot be loaded"));
        let children = case["tasks"].as_object().into_iter().flatten();
        let children = children
            .map(|(name, file)| {
                let file = guests().join(file.as_str().unwrap());
                (name.clone(), load(&file).unwrap())
            })
            .collect();
        let guest = Guest::new(runner, title.clone(), case.clone(), artifact, children);
        assert!(
            guest
                .expected
                .how
                .starts_with(match text(&case["expect"], "outcome") {
                    "limit-exceeded" => "over its",
                    outcome => outcome,
                }),
            "{title}, undisturbed: {}",
            guest.expected.how
        );
        all.push(guest);
    }
    let folders = std::fs::read_dir(guests()).unwrap().flatten();
    let mut handlers: Vec<_> = folders
        .map(|folder| folder.path())
        .chain([repo("target/guests")])
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|files| files.flatten().map(|file| file.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "wasm"))
        .collect();
    handlers.sort();
    for file in handlers {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("http-")
            && let Some(artifact) = load(&file)
            && artifact.shape().is_http()
        {
            all.push(Guest::new(runner, name, Value::Null, artifact, Vec::new()));
        }
    }
    all
}

#[test]
fn every_guest_does_the_same_when_it_is_interrupted() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let wanted = std::env::var("WRUN_INTERRUPTS").ok();
    let wanted: u64 = wanted.map_or(0, |it| it.parse().expect("a number"));
    let name = "interrupts::every_guest_does_the_same_when_it_is_interrupted";
    alone(name, || storm(wanted));
}

fn storm(wanted: u64) {
    let runner = builder(Mode::Thread)
        .preemption(Preemption::Signal)
        .build()
        .unwrap();
    let all = all(&runner);
    let mut dice = Dice(0x5EED);
    let mut of_guest = vec![Interrupts::default(); all.len()];
    let mut runs = vec![0_u64; all.len()];
    let mut wrong = Vec::new();
    let (turn, long_turn) = match wanted {
        0 => (Duration::from_millis(20), Duration::from_millis(20)),
        _ => (TURN, LONG_TURN),
    };
    let began = Instant::now();
    let before_all = Interrupts::counted();
    let tempest = Storm::begin(BETWEEN.0, BETWEEN.1).unwrap();
    loop {
        for (at, guest) in all.iter().enumerate() {
            if wanted > 0 {
                // If the process dies, the last line says where.
                println!("{}", guest.title);
            }
            let before = Interrupts::counted();
            let turn_began = Instant::now();
            while wrong.len() < 20 {
                wrong.extend(guest.disturbed(&runner, &mut dice));
                runs[at] += 1;
                let computes = Interrupts::counted().since(before).in_guest > COMPUTES;
                let turn = if computes { long_turn } else { turn };
                if turn_began.elapsed() > turn {
                    break;
                }
            }
            let these = Interrupts::counted().since(before);
            let sum = &mut of_guest[at];
            sum.in_guest += these.in_guest;
            sum.ended += these.ended;
            sum.in_host += these.in_host;
            sum.at_return += these.at_return;
        }
        let now = Interrupts::counted().since(before_all);
        println!("after {:.0} s: {now:?}", began.elapsed().as_secs_f64());
        if now.in_guest >= wanted || !wrong.is_empty() {
            break;
        }
    }
    drop(tempest);
    if wanted > 0 {
        for ((guest, sum), runs) in all.iter().zip(&of_guest).zip(&runs) {
            println!(
                "{:9} {runs:7} rounds  {}  {sum:?}",
                sum.in_guest, guest.title
            );
        }
    }
    let sum: u64 = runs.iter().sum();
    let total = Interrupts::counted().since(before_all);
    println!("{} guests, {sum} rounds of runs, {total:?}", all.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for ((guest, sum), (name, _, _)) in all.iter().zip(&of_guest).zip(HARD) {
        assert_eq!(guest.title, name);
        assert!(sum.in_guest > 0, "{name} was never interrupted");
    }
    assert!(total.ended > 0, "no guest was ended by a signal: {total:?}");
    still_works(&runner);
}
