//! The whole of WASI, call by call: the same outcome, the same output and the same
//! refusals in both modes, in every jail and however workers start. What is tried is
//! `data/wasi/`; a function of WASI that no line there calls fails the test.

mod text;

use crate::support::command::shared_cache;
use crate::support::{builder, guest, repo, still_works};
use std::collections::BTreeSet;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;
use text::{Scenario, scenarios, wasi_0_1, wasi_0_2};
use wrun::{
    Artifact, Cache, DirGrant, ErrorKind, Jail, Limits, Mode, Outcome, ProcessOptions, Report,
    Runner, Shape, Start, Task, TcpGrant, Terminals,
};

/// The calls of one version of WASI.
fn table(version: &str) -> Vec<Scenario> {
    let path = repo(&format!("tests/data/wasi/{version}.txt"));
    scenarios(&std::fs::read_to_string(path).unwrap())
}

/// Against guests that wait for ever, and for busy machines.
const PATIENCE: Duration = Duration::from_secs(120);

/// A runner for each mode, jail and start.
fn runners() -> Vec<(String, Runner)> {
    let cached = |builder: wrun::Builder| {
        let cache = Cache::Directory(shared_cache().to_owned());
        builder.cache(cache).build().unwrap()
    };
    let mut runners = vec![("thread".to_owned(), cached(builder(Mode::Thread)))];
    for jail in [Jail::Strict, Jail::BestEffort, Jail::Off] {
        for start in [Start::Fork, Start::Exec] {
            let name = format!("process, jail {jail}, start {start}");
            let builder =
                builder(Mode::Process).process(ProcessOptions::default().jail(jail).start(start));
            runners.push((name, cached(builder)));
        }
    }
    runners
}

/// A peer that answers each message that ends with a point in capitals, and says BYE.
fn listener() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It ends with the program.
    std::thread::spawn(move || {
        for peer in listener.incoming().flatten() {
            std::thread::spawn(move || answer(peer));
        }
    });
    port
}

fn answer(mut peer: TcpStream) -> Option<()> {
    let mut message = Vec::new();
    let mut byte = [0];
    let mut reader = BufReader::new(peer.try_clone().ok()?);
    while reader.read(&mut byte).ok()? > 0 {
        message.push(byte[0].to_ascii_uppercase());
        if byte[0] == b'.' {
            peer.write_all(&std::mem::take(&mut message)).ok()?;
        }
    }
    peer.write_all(b"BYE").ok()
}

/// What a table's head tells to be there.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let big: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(root.join("f"), "0123456789abcdef").unwrap();
    std::fs::write(root.join("big"), big).unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    std::fs::create_dir(root.join("sub")).unwrap();
    std::fs::write(root.join("sub/a"), "a").unwrap();
    std::fs::write(root.join("sub/b"), "b").unwrap();
    for (target, link) in [
        ("f", "link"),
        ("nowhere", "dangling"),
        ("/etc/passwd", "absolute"),
        ("..", "parent"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    directory
}

/// What one guest did: all that is to be the same everywhere.
#[derive(PartialEq, Eq)]
struct Ran {
    outcome: String,
    stdout: String,
    stderr: String,
    denied: String,
    /// What it left in its directory.
    left: String,
}

impl Ran {
    fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

fn left(root: &Path) -> String {
    let mut names: Vec<_> = std::fs::read_dir(root).unwrap().flatten().collect();
    names.sort_by_key(std::fs::DirEntry::file_name);
    let mut left = String::new();
    for name in names {
        let meta = name.metadata().unwrap();
        let content = match meta.is_file() {
            true => {
                let content = std::fs::read(name.path()).unwrap();
                let sum: u64 = content.iter().copied().map(u64::from).sum();
                format!(" {} bytes, sum {sum}", content.len())
            }
            false => String::new(),
        };
        left.push_str(&format!(
            "{} {:?}{content}\n",
            name.file_name().display(),
            meta.file_type()
        ));
    }
    left
}

fn run(runner: &Runner, artifact: &Artifact, scenario: &Scenario, port: u16) -> Ran {
    let has = |word: &str| scenario.words.contains(word);
    let directory = directory();
    let mut task = Task::new(artifact)
        .name("surface")
        .args(["one", "two words"])
        .env("KEY", "a value")
        .limits(Limits::default().timeout(PATIENCE));
    task = match artifact.shape() {
        Shape::CommandComponent | Shape::CommandModule => task.input("stdin text, and more"),
        _ => task.input(port.to_le_bytes().to_vec()),
    };
    let grant = DirGrant::new(directory.path()).guest("/d");
    if has("rw") {
        task = task.dir(grant);
    } else if has("ro") {
        task = task.dir(grant.read_only());
    }
    if has("tcp") {
        task = task
            .allow_tcp(TcpGrant::new("127.0.0.1", port).unwrap())
            .allow_tcp(TcpGrant::new("localhost", port).unwrap());
    }
    if has("terminals") {
        task = task.terminals(Terminals {
            stdin: true,
            stdout: true,
            stderr: true,
        });
    }
    match runner.blocking_run(task) {
        Ok(report) => ran(&report, &left(directory.path()), port),
        Err(error) => Ran {
            outcome: format!("error: {error}"),
            stdout: String::new(),
            stderr: String::new(),
            denied: String::new(),
            left: String::new(),
        },
    }
}

fn ran(report: &Report, left: &str, port: u16) -> Ran {
    let outcome = match &report.outcome {
        // Frames of the guest are the same, too.
        Outcome::Trapped(trap) => format!("trapped: {:?}: {}", trap.kind, trap.message),
        other => other.to_string(),
    };
    let plain = |text: &str| text.replace(&port.to_string(), "PORT");
    Ran {
        outcome,
        stdout: plain(&String::from_utf8_lossy(&report.stdout)),
        stderr: plain(&String::from_utf8_lossy(&report.stderr)),
        denied: plain(&format!("{:#?}", report.denied)),
        left: left.into(),
    }
}

/// Everything in which `ran` differs from `first`, for people.
fn difference(scenario: &Scenario, name: &str, first: &Ran, ran: &Ran) -> String {
    let mut text = String::new();
    for (what, first, ran) in [
        ("outcome", &first.outcome, &ran.outcome),
        ("stderr", &first.stderr, &ran.stderr),
        ("denied", &first.denied, &ran.denied),
        ("left", &first.left, &ran.left),
    ] {
        if first != ran {
            text.push_str(&format!("{name}: {what}:\n  {first}\n  {ran}\n"));
        }
    }
    let (first, ran) = (first.lines(), ran.lines());
    for number in 0..first.len().max(ran.len()) {
        let [first, ran] = [&first, &ran].map(|lines| lines.get(number).copied().unwrap_or("-"));
        if first != ran {
            let call = scenario.lines.get(number).map_or("", |line| &line.call);
            text.push_str(&format!(
                "{name}: {call}:\n  thread: {first}\n  here:   {ran}\n"
            ));
        }
    }
    text
}

/// One guest for each line, or for all of them.
fn guests(scenarios: Vec<Scenario>) -> Vec<Scenario> {
    let mut guests = Vec::new();
    for scenario in scenarios {
        if !scenario.words.contains("each") {
            guests.push(scenario);
            continue;
        }
        for line in scenario.lines {
            guests.push(Scenario {
                name: format!("{}: {}", scenario.name, line.call),
                words: scenario.words.clone(),
                lines: vec![line],
            });
        }
    }
    guests
}

/// Runs every guest everywhere; what is wrong, if anything.
fn compare(guests: &[(Scenario, Vec<u8>)], check_expected: bool) -> String {
    let port = listener();
    let mut wrong = String::new();
    let runners = runners();
    for (index, (scenario, module)) in guests.iter().enumerate() {
        let known = wrong.len();
        let mut first = None;
        for (name, runner) in &runners {
            let artifact = match runner.blocking_load_bytes(&scenario.name, module.clone()) {
                Ok(artifact) => artifact,
                Err(error) => panic!("{}: cannot be loaded: {error}", scenario.name),
            };
            let ran = run(runner, &artifact, scenario, port);
            let Some(first) = &first else {
                if check_expected {
                    wrong.push_str(&unexpected(scenario, &ran));
                }
                first = Some(ran);
                continue;
            };
            if ran != *first {
                let difference = difference(scenario, name, first, &ran);
                wrong.push_str(&format!("== {}\n{difference}", scenario.name));
            }
        }
        if wrong.len() > known {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("wasi-{index}.wasm"));
            std::fs::write(&path, module).unwrap();
            wrong.push_str(&format!("   its guest: {}\n", path.display()));
        }
    }
    wrong
}

/// What a guest said that the table does not expect.
fn unexpected(scenario: &Scenario, ran: &Ran) -> String {
    let mut wrong = String::new();
    let each = scenario.words.contains("each");
    if !each && ran.outcome != "completed" {
        wrong.push_str(&format!("@@ {} @@ {}\n", scenario.name, ran.outcome));
    }
    for (number, line) in scenario.lines.iter().enumerate() {
        let prefix = format!("{number} ");
        let said = match each {
            true => Some(ran.outcome.lines().next().unwrap_or_default()),
            false => ran
                .stdout
                .lines()
                .find_map(|said| said.strip_prefix(&prefix)),
        };
        let said = said.unwrap_or("nothing");
        if line.expected.as_deref().is_some_and(|it| it != said) {
            wrong.push_str(&format!("@@ {} @@ {} = {said}\n", scenario.name, line.call));
        }
    }
    wrong
}

#[test]
fn wasi_0_2_is_the_same_everywhere() {
    let wasi = wasi_0_2::Wasi::new();
    wasi.assert_plain();
    let scenarios = table("0.2");
    let called: BTreeSet<String> = scenarios
        .iter()
        .flat_map(|scenario| &scenario.lines)
        .map(|line| wasi_0_2::Wasi::called(&line.call))
        .collect();
    let untried: Vec<_> = wasi.all().difference(&called).cloned().collect();
    assert!(untried.is_empty(), "no line calls {untried:?}");
    let guests: Vec<_> = guests(scenarios)
        .into_iter()
        .map(|scenario| {
            let module = match scenario.words.contains("command") {
                true => wasi.command(&scenario),
                false => wasi.task(&scenario).into_bytes(),
            };
            (scenario, module)
        })
        .collect();
    let wrong = compare(&guests, true);
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn wasi_0_1_is_the_same_everywhere() {
    let scenarios = table("0.1");
    let called: BTreeSet<String> = scenarios
        .iter()
        .flat_map(|scenario| &scenario.lines)
        .map(|line| wasi_0_1::called(&line.call))
        .collect();
    let untried: Vec<_> = wasi_0_1::FUNCTIONS
        .iter()
        .filter(|(name, _)| !called.contains(*name))
        .collect();
    assert!(untried.is_empty(), "no line calls {untried:?}");
    let guests = guests(scenarios);
    let commands: Vec<_> = guests
        .into_iter()
        .map(|scenario| {
            let module = wasi_0_1::command(&scenario).into_bytes();
            (scenario, module)
        })
        .collect();
    let wrong = compare(&commands, true);
    assert!(wrong.is_empty(), "{wrong}");
    // The same calls of a task, which reach WASI 0.2 through an adapter.
    let tasks: Vec<_> = commands
        .into_iter()
        .map(|(scenario, _)| {
            let module = wasi_0_1::task(&scenario).into_bytes();
            (scenario, module)
        })
        .collect();
    let wrong = compare(&tasks, false);
    assert!(wrong.is_empty(), "{wrong}");
}

/// What no line above found: the host's own code panics in a call of the task. That is
/// its runner's failure, said as such, and harms no other task.
#[test]
fn a_panic_of_the_host_is_the_tasks_error() {
    for (name, runner) in runners() {
        let echo = guest(&runner, "echo/echo.wat");
        let error = runner
            .blocking_run(Task::new(&echo).env("WRUN_TEST_PROBE", "panic:a probe that panics"))
            .expect_err("the host panics");
        assert_eq!(error.kind(), ErrorKind::System, "{name}: {error}");
        assert_eq!(
            error.to_string(),
            "the host failed in a call of the task; this is a bug of wrun: a probe that panics",
            "{name}"
        );
        still_works(&runner);
    }
}
