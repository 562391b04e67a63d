//! Tasks that talk: each of `guest-tasks/talk*`, in both modes, with workers of its own
//! language and of others, one at a time and many at once.

use crate::support::{BOTH, builder, guest, repo, still_works};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use wrun::{Artifact, Limits, Mode, Report, Runner, Task};

/// What takes no time, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(120);

const RUST: &str = "talk/talk.wasm";
const C: &str = "talk-c/talk-c.wasm";
const ASSEMBLY_SCRIPT: &str = "talk-as/talk-as.wasm";

/// Who coordinates, who works, and what is asked.
fn tasks() -> Vec<(&'static str, &'static str, String)> {
    let text = std::fs::read_to_string(repo("guest-tasks/inputs/article.md")).unwrap();
    let mut tasks = vec![
        (RUST, ASSEMBLY_SCRIPT, format!("count 3 100000\n{text}")),
        (RUST, RUST, format!("count 3 100000\n{text}")),
        (RUST, RUST, "pipeline 20 65536".into()),
        (RUST, RUST, "bodies 3 60 20".into()),
    ];
    for (coordinator, worker) in [(RUST, RUST), (RUST, C), (C, RUST), (C, C)] {
        tasks.push((coordinator, worker, "ping 50 1000".into()));
        tasks.push((coordinator, worker, "primes 3 20000 300".into()));
    }
    for (coordinator, worker) in [(RUST, RUST), (C, C), (C, RUST)] {
        tasks.push((coordinator, worker, "sort 3 100000 7".into()));
    }
    for coordinator in [RUST, C] {
        tasks.push((coordinator, ASSEMBLY_SCRIPT, "ping 50 70000".into()));
    }
    tasks
}

struct Talk {
    runner: Runner,
    guests: HashMap<&'static str, Artifact>,
}

impl Talk {
    fn new(mode: Mode) -> Self {
        let runner = builder(mode).build().unwrap();
        let guests = [RUST, C, ASSEMBLY_SCRIPT].map(|path| (path, guest(&runner, path)));
        Talk {
            guests: guests.into(),
            runner,
        }
    }

    fn run(&self, (coordinator, worker, input): &(&str, &str, String)) -> Report {
        let task = Task::new(&self.guests[coordinator])
            .task("worker", &self.guests[worker])
            .input(input.clone())
            .limits(Limits::default().timeout(SOON).max_memory(64 << 20));
        self.runner.run(task).unwrap()
    }

    /// What it says, or how it ended otherwise.
    fn said(&self, what: &(&str, &str, String)) -> Result<String, String> {
        let report = self.run(what);
        match report.outcome.is_completed() {
            true => Ok(String::from_utf8(report.stdout.to_vec()).unwrap()),
            false => Err(format!(
                "{}: {}",
                report.outcome,
                String::from_utf8_lossy(&report.stderr)
            )),
        }
    }
}

fn title((coordinator, worker, input): &(&str, &str, String)) -> String {
    let line = input.lines().next().unwrap_or_default();
    format!("{coordinator} with {worker}: {line}")
}

/// The same answer whoever coordinates and works, in both modes. What the answers are
/// is in the manifest, which the differential test follows.
#[test]
fn languages_and_modes_agree() {
    let mut answers: HashMap<String, (String, String)> = HashMap::new();
    for mode in BOTH {
        let talk = Talk::new(mode);
        for what in tasks() {
            let who = format!("{mode}: {}", title(&what));
            let said = match talk.said(&what) {
                Ok(said) => said,
                Err(outcome) => panic!("{who}: {outcome}"),
            };
            let (first, answer) = answers
                .entry(what.2.clone())
                .or_insert_with(|| (who.clone(), said.clone()));
            assert_eq!(*answer, said, "{first}, and {who}");
        }
    }
}

/// As often as `WRUN_TALK_RUNS` says, 1,000 for a thorough test, with more of them at
/// once than there are processors.
#[test]
fn they_agree_under_load() {
    let runs = std::env::var("WRUN_TALK_RUNS").ok();
    let runs = runs.map_or(20, |runs| runs.parse::<usize>().unwrap());
    for mode in BOTH {
        let talk = Talk::new(mode);
        let tasks = tasks();
        let expected = Mutex::new(HashMap::new());
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= runs * tasks.len() {
                            break;
                        }
                        let what = &tasks[at % tasks.len()];
                        let said = match talk.said(what) {
                            Ok(said) => said,
                            Err(outcome) => panic!("{mode}: {}: run {at}: {outcome}", title(what)),
                        };
                        let mut expected = expected.lock().unwrap();
                        let first = expected.entry(&what.2).or_insert_with(|| said.clone());
                        assert_eq!(*first, said, "{mode}: {}: run {at}", title(what));
                    }
                });
            }
        });
        still_works(&talk.runner);
    }
}
