//! The isolation rows of a comparison are true. Each fault is injected a second time by
//! these tests themselves, with their own siblings, and its truth is looked for where the
//! row does not look: at the file, the listener, the exit status, the other tasks'
//! output. Then the row must say the same.

use crate::support::processes::{await_rest, own_copy, running};
use crate::support::{BOTH, alone, builder, children, repo, still_works, within, wrun};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use wrun::{Artifact, Builder, Crash, Jail, Layer, Limit, Limits, Mode, Outcome, ProcessOptions};
use wrun::{Report, Runner, Task, TaskHandle, TrapKind};
use wrun_compare::{Fault, FaultTarget, Finding, Seen, inject, inject_at};

const SIBLINGS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

/// What the guest does, by the first byte of `victim.wat`'s input.
const GUESTS: [(Fault, u8); 5] = [
    (Fault::Trap, 0),
    (Fault::StackOverflow, 1),
    (Fault::EndlessLoop, 2),
    (Fault::MemoryBomb, 3),
    (Fault::OutputFlood, 4),
];

const WORKERS: [Fault; 3] = [Fault::Segfault, Fault::Abort, Fault::OomKill];

const ESCAPED: [Fault; 10] = [
    Fault::ReadFile,
    Fault::WriteFile,
    Fault::Connect,
    Fault::Fork,
    Fault::Exec,
    Fault::Ptrace,
    Fault::Signal,
    Fault::HostMemory,
    Fault::ExecutableMemory,
    Fault::HostEnvironment,
];

// --- the rows -------------------------------------------------------------

fn seen(builder: &Builder, fault: Fault, mode: Mode) -> Seen {
    let place = Target::new();
    let mut rows = rows(builder, &place, &[fault], mode);
    rows.remove(fault.name()).unwrap()
}

/// The rows of some faults in one mode, all measured.
fn rows(
    builder: &Builder,
    target: &Target,
    faults: &[Fault],
    mode: Mode,
) -> BTreeMap<&'static str, Seen> {
    let wanted: Vec<_> = faults.iter().map(|fault| (*fault, mode)).collect();
    let mut rows = BTreeMap::new();
    inject_at(
        builder,
        target.fault_target(),
        &wanted,
        &mut |fault, its, finding| {
            assert_eq!(its, mode);
            match finding {
                Finding::Measured(seen) => {
                    println!("{} {mode}: {seen:?}", fault.name());
                    rows.insert(fault.name(), seen);
                }
                other => panic!("{} in {mode} mode: {other:?}", fault.name()),
            }
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    rows
}

/// What a row says of a fault that did no harm.
fn assert_held(seen: &Seen, by: &str) {
    assert!(seen.held && seen.host_alive && !seen.sacrificed, "{seen:?}");
    assert_eq!((seen.siblings, seen.siblings_lost), (8, 0), "{seen:?}");
    assert_eq!(seen.stopped_by, by, "{seen:?}");
    assert!(!seen.detail.is_empty());
    assert!(
        seen.detected_ns.is_some() && seen.recovered_ns.is_some(),
        "{seen:?}"
    );
}

// --- what is aimed at -----------------------------------------------------

/// A directory that all users may use, with what an act would do there.
struct Target {
    directory: tempfile::TempDir,
}

impl Target {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        permit(directory.path(), 0o777);
        let target = Target { directory };
        // Leaves a trace, and obeys.
        let ran = target.path("ran");
        let script = format!("#!/bin/sh\n: > {}\nexit 42\n", ran.display());
        std::fs::write(target.path("program"), script).unwrap();
        permit(&target.path("program"), 0o755);
        std::fs::write(target.path("secret"), "of the tests").unwrap();
        permit(&target.path("secret"), 0o644);
        target
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn fault_target(&self) -> FaultTarget {
        FaultTarget::at(self.directory.path(), "written", &self.path("program")).unwrap()
    }
}

fn permit(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

// --- siblings of the tests' own -------------------------------------------

fn load(runner: &Runner, name: &str) -> Artifact {
    runner
        .blocking_load(repo("runner/compare/src/guests").join(name))
        .unwrap()
}

/// Tasks that work, and what each has to return.
struct Siblings(Vec<(TaskHandle, Vec<u8>)>);

impl Siblings {
    fn start(runner: &Runner, tokio: &tokio::runtime::Runtime) -> Self {
        let sibling = load(runner, "sibling.wat");
        let siblings = (0..SIBLINGS)
            .map(|number| {
                let task = || Task::new(&sibling).input(vec![u8::try_from(number).unwrap(); 8]);
                // Undisturbed.
                let mut alone = runner.blocking_submit(task()).unwrap();
                alone.cancel();
                let wanted = alone.blocking_report().unwrap().stdout.to_vec();
                assert_eq!(wanted.len(), 8);
                let mut handle = runner.blocking_submit(task()).unwrap();
                ready(&mut handle, tokio);
                (handle, wanted)
            })
            .collect();
        Siblings(siblings)
    }

    fn complete(self) {
        for (mut handle, wanted) in self.0 {
            handle.cancel();
            let report = handle.blocking_report().unwrap();
            assert_eq!(
                report.outcome.output().map(|output| output.as_bytes()),
                Some(&wanted[..]),
                "{}",
                report.outcome
            );
        }
    }
}

fn ready(handle: &mut TaskHandle, tokio: &tokio::runtime::Runtime) {
    let progress = async { tokio::time::timeout(PATIENCE, handle.progress_changed()).await };
    assert!(tokio.block_on(progress).unwrap().is_some());
}

fn tokio_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

// --- guests ---------------------------------------------------------------

#[test]
fn what_guests_do_is_stopped_and_harms_nobody() {
    let tokio = tokio_runtime();
    for mode in BOTH {
        let target = Target::new();
        let faults = GUESTS.map(|(fault, _)| fault);
        let rows = rows(&builder(mode), &target, &faults, mode);
        let runner = builder(mode).max_running(2 * SIBLINGS).build().unwrap();
        let victim = load(&runner, "victim.wat");
        for (fault, byte) in GUESTS {
            let siblings = Siblings::start(&runner, &tokio);
            let limits = Limits::default().max_memory(8 << 20).max_output(1 << 16);
            let limits = limits.timeout(match fault {
                Fault::EndlessLoop => Duration::from_secs(3),
                _ => PATIENCE,
            });
            let task = Task::new(&victim).input(vec![byte]).limits(limits);
            let mut handle = runner.blocking_submit(task).unwrap();
            ready(&mut handle, &tokio);
            handle.cancel();
            let outcome = handle.blocking_report().unwrap().outcome;
            siblings.complete();
            still_works(&runner);
            let trap = |kind| matches!(&outcome, Outcome::Trapped(trap) if trap.kind == kind);
            let (is_it, by) = match fault {
                Fault::Trap => (trap(TrapKind::Unreachable), "wasmtime's sandbox"),
                Fault::StackOverflow => (trap(TrapKind::StackOverflow), "wasmtime's sandbox"),
                Fault::EndlessLoop => (
                    outcome == Outcome::LimitExceeded(Limit::Deadline),
                    "the deadline",
                ),
                Fault::MemoryBomb => (
                    outcome == Outcome::LimitExceeded(Limit::Memory),
                    "the memory limit",
                ),
                _ => (
                    outcome == Outcome::LimitExceeded(Limit::Output),
                    "the output limit",
                ),
            };
            assert!(is_it, "{} in {mode} mode: {outcome}", fault.name());
            assert_held(&rows[fault.name()], by);
        }
    }
}

#[test]
fn a_lock_goes_on_when_its_holder_dies() {
    let tokio = tokio_runtime();
    for mode in BOTH {
        let runner = builder(mode).max_running(2 * SIBLINGS).build().unwrap();
        let siblings = Siblings::start(&runner, &tokio);
        let lock = load(&runner, "lock.wat");
        let start = |input: &str| {
            let mut handle = runner
                .blocking_submit(Task::new(&lock).input(input))
                .unwrap();
            ready(&mut handle, &tokio);
            handle
        };
        let mut holder = start("hold");
        let mut waiter = start("8 bytes.");
        let held = runner.try_lock("compare", wrun::LockMode::Shared).unwrap();
        assert!(held.is_none(), "{mode}: it is not held");
        holder.cancel();
        let outcome = holder.blocking_report().unwrap().outcome;
        assert!(matches!(outcome, Outcome::Trapped(_)), "{mode}: {outcome}");
        assert_eq!(
            waiter.blocking_report().unwrap().stdout,
            "8 bytes.",
            "{mode}"
        );
        siblings.complete();
        let seen = seen(&builder(mode), Fault::LockHolder, mode);
        assert_held(&seen, "the runner, which releases its locks");
    }
}

// --- threads --------------------------------------------------------------

/// A host in thread mode that is sacrificed by these tests themselves: what it said, and
/// how it ended.
fn sacrifice(fault: Fault, target: &Target, port: u16) -> (Vec<Value>, ExitStatus) {
    let order = json!({
        "fault": fault,
        "aim": {
            "secret": target.path("secret"), "written": target.path("written"),
            "program": target.path("program"), "port": port, "is_open": true,
        },
    });
    let mut host = Command::new(wrun())
        .args([
            "__wrun-worker",
            &std::process::id().to_string(),
            "crash-host",
        ])
        .env_clear()
        .env("A", "secret")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = host.stdin.take().unwrap();
    stdin.write_all(order.to_string().as_bytes()).unwrap();
    drop(stdin);
    let said = BufReader::new(host.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    (said, host.wait().unwrap())
}

#[test]
fn a_host_of_threads_dies_with_its_tasks() {
    let target = Target::new();
    let faults = [Fault::Segfault, Fault::Abort, Fault::OomKill, Fault::Exec];
    let rows = rows(&builder(Mode::Thread), &target, &faults, Mode::Thread);
    assert!(target.path("ran").exists(), "the program was not run");
    for fault in faults {
        let _ = std::fs::remove_file(target.path("ran"));
        let (said, status) = sacrifice(fault, &target, 9);
        // It began, and nothing of its tasks was heard again.
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0]["Injecting"]["at"].is_u64(), "{said:?}");
        let (signal, detail) = match fault {
            Fault::Segfault => (Some(libc::SIGSEGV), "the host died of SIGSEGV"),
            Fault::Abort => (Some(libc::SIGABRT), "the host died of SIGABRT"),
            Fault::OomKill => (Some(libc::SIGKILL), "the host died of SIGKILL"),
            _ => (None, "the host became the program"),
        };
        assert_eq!(status.signal(), signal, "{}", fault.name());
        assert_eq!(target.path("ran").exists(), fault == Fault::Exec);
        let seen = &rows[fault.name()];
        assert_eq!(seen.detail, detail);
        assert!(!seen.held && !seen.host_alive && seen.sacrificed);
        assert_eq!((seen.siblings, seen.siblings_lost), (8, 8));
        assert_eq!(seen.stopped_by, "nothing");
        assert!(seen.detected_ns.is_some() && seen.recovered_ns.is_some());
    }
}

#[test]
fn nothing_stops_escaped_code_on_a_thread() {
    let target = Target::new();
    let faults: Vec<_> = ESCAPED
        .into_iter()
        .filter(|fault| *fault != Fault::Exec)
        .collect();
    let rows = rows(&builder(Mode::Thread), &target, &faults, Mode::Thread);
    assert!(target.path("written").exists(), "the row's own act");
    for fault in faults {
        let _ = std::fs::remove_file(target.path("written"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (said, status) = sacrifice(fault, &target, listener.local_addr().unwrap().port());
        assert!(status.success(), "{}: {said:?}", fault.name());
        let played = &said[1]["Played"];
        let did = !played["ended"]["Injected"]["Did"].is_null();
        // A debugger is refused to many users and in many containers.
        assert!(did || fault == Fault::Ptrace, "{}: {played}", fault.name());
        assert_eq!(
            target.path("written").exists(),
            fault == Fault::WriteFile,
            "{}",
            fault.name()
        );
        assert_eq!(listener.accept().is_ok(), fault == Fault::Connect);
        let seen = &rows[fault.name()];
        assert_eq!(seen.held, !did, "{}: {seen:?}", fault.name());
        assert!(seen.host_alive && seen.sacrificed && seen.siblings_lost == 0);
        assert_eq!(seen.detected_ns.is_some(), seen.held, "{seen:?}");
        assert!(seen.recovered_ns.is_some());
        if did {
            assert_eq!(seen.stopped_by, "nothing");
        }
    }
}

// --- processes ------------------------------------------------------------

/// The tests' own probe that does the same act.
fn probe(fault: Fault, target: &Target, port: u16) -> String {
    let path = |name: &str| target.path(name).display().to_string();
    match fault {
        Fault::Segfault => "segfault".into(),
        Fault::Abort => "abort".into(),
        Fault::OomKill => "oom-kill".into(),
        Fault::ReadFile => format!("read:{}", path("secret")),
        Fault::WriteFile => format!("write:{}", path("probed")),
        Fault::Connect => format!("connect-tcp:{port}"),
        Fault::Fork => "fork".into(),
        Fault::Exec => "exec".into(),
        Fault::Ptrace => "ptrace-parent".into(),
        Fault::Signal => "signal-parent".into(),
        Fault::HostMemory => "memory-of-parent".into(),
        Fault::ExecutableMemory => "map-code".into(),
        Fault::HostEnvironment => format!("read:/proc/{}/environ", std::process::id()),
        other => panic!("{other:?} is a guest's"),
    }
}

/// Has a worker of this process misbehave beside siblings; all of them complete.
fn probed(builder: Builder, faults: &[Fault], target: &Target) -> BTreeMap<&'static str, Report> {
    let tokio = tokio_runtime();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let runner = builder.max_running(2 * SIBLINGS).build().unwrap();
    let sibling = load(&runner, "sibling.wat");
    let siblings = Siblings::start(&runner, &tokio);
    let mut reports = BTreeMap::new();
    for fault in faults {
        let request = probe(*fault, target, port);
        let task = Task::new(&sibling).env("WRUN_TEST_PROBE", request);
        let report = runner.blocking_run(task).unwrap();
        let did = matches!(&report.outcome, Outcome::Failed(said) if said.starts_with("did it"));
        match fault {
            Fault::WriteFile => assert_eq!(target.path("probed").exists(), did),
            Fault::Connect => assert_eq!(listener.accept().is_ok(), did),
            _ => {}
        }
        reports.insert(fault.name(), report);
    }
    siblings.complete();
    still_works(&runner);
    reports
}

fn did(fault: Fault, report: &Report) -> bool {
    match &report.outcome {
        Outcome::Failed(said) => {
            assert!(said.starts_with("did it") || said.starts_with("refused"));
            said.starts_with("did it")
        }
        // A shell that did what it was told.
        Outcome::Crashed(crash) => match crash.how() {
            Crash::Exit(42) => fault == Fault::Exec,
            Crash::Signal(libc::SIGSYS) => false,
            _ => panic!("{}: {crash}", fault.name()),
        },
        other => panic!("{}: {other}", fault.name()),
    }
}

#[test]
fn a_worker_that_crashes_is_all_that_is_lost() {
    for jail in [Jail::Strict, Jail::Off] {
        let target = Target::new();
        let builder = builder(Mode::Process).process(ProcessOptions::default().jail(jail));
        let rows = rows(&builder, &target, &WORKERS, Mode::Process);
        for (fault, report) in probed(builder, &WORKERS, &target) {
            let (signal, detail) = match fault {
                "segfault" => (libc::SIGSEGV, "the worker died of SIGSEGV"),
                "abort" => (libc::SIGABRT, "the worker died of SIGABRT"),
                _ => (libc::SIGKILL, "the worker died of SIGKILL"),
            };
            assert_eq!(report.outcome, Outcome::Crashed(Crash::Signal(signal)));
            assert_held(&rows[fault], "its process");
            assert_eq!(rows[fault].detail, detail);
        }
    }
}

#[test]
fn a_strict_jail_stops_escaped_code() {
    let target = Target::new();
    let builder = builder(Mode::Process).process(ProcessOptions::default().jail(Jail::Strict));
    let rows = rows(&builder, &target, &ESCAPED, Mode::Process);
    assert!(!target.path("written").exists());
    assert!(!target.path("ran").exists());
    let reports = probed(builder, &ESCAPED, &target);
    for fault in ESCAPED {
        assert!(!did(fault, &reports[fault.name()]), "{}", fault.name());
        assert_held(&rows[fault.name()], "seccomp");
    }
}

#[test]
fn without_a_jail_escaped_code_does_what_it_likes() {
    let target = Target::new();
    let builder = builder(Mode::Process).process(ProcessOptions::default().jail(Jail::Off));
    let rows = rows(&builder, &target, &ESCAPED, Mode::Process);
    assert!(target.path("written").exists());
    assert!(target.path("ran").exists());
    let reports = probed(builder, &ESCAPED, &target);
    for fault in ESCAPED {
        let seen = &rows[fault.name()];
        let did = did(fault, &reports[fault.name()]);
        // A process that is named to the kernel by number is another one in the probe, and
        // some kernels refuse both.
        let may_be_refused = matches!(fault, Fault::Ptrace | Fault::HostMemory);
        assert!(did || may_be_refused, "{}", fault.name());
        assert_eq!(seen.held, !did, "{}: {seen:?}", fault.name());
        assert!(seen.host_alive && seen.siblings_lost == 0, "{seen:?}");
        if did {
            assert_eq!(seen.stopped_by, "nothing", "{seen:?}");
            assert_eq!(seen.detected_ns, None, "not noticed");
        }
    }
}

/// Which wall it was is found out: with one less it is the next, and without any nothing.
#[test]
fn what_stopped_it_is_the_wall_that_stands() {
    let faults = [
        Fault::ReadFile,
        Fault::WriteFile,
        Fault::Connect,
        Fault::Signal,
    ];
    let spaces = [
        Layer::UserNamespace,
        Layer::PidNamespace,
        Layer::NetNamespace,
        Layer::IpcNamespace,
        Layer::MountNamespace,
    ];
    let rows_without = |layers: &[Layer]| {
        let target = Target::new();
        let builder = builder(Mode::Process)
            .process(ProcessOptions::default().jail(Jail::BestEffort))
            .absent_layers(layers.to_vec());
        let rows = rows(&builder, &target, &faults, Mode::Process);
        let truth = target.path("written").exists();
        assert_eq!(!rows["write-file"].held, truth, "{layers:?}");
        faults.map(|fault| rows[fault.name()].stopped_by.clone())
    };
    assert_eq!(rows_without(&[]), ["seccomp"; 4].map(str::to_owned));

    // As far as this machine has them.
    let stands =
        jail_of(&builder(Mode::Process).process(ProcessOptions::default().jail(Jail::BestEffort)));
    let stands = |layer: Layer| stands.contains(&layer);
    let [read, write, connect, signal] = rows_without(&[Layer::Seccomp]);
    if stands(Layer::MountNamespace) {
        assert_eq!([read, write], ["the mount namespace"; 2].map(str::to_owned));
    }
    if stands(Layer::NetNamespace) {
        // Landlock decides before the network does.
        assert!(
            ["Landlock", "the network namespace"].contains(&&*connect),
            "{connect}"
        );
    }
    if stands(Layer::PidNamespace) {
        assert_eq!(signal, "the process namespace");
    }

    let mut without = vec![Layer::Seccomp];
    without.extend(spaces);
    let [read, write, ..] = rows_without(&without);
    if stands(Layer::Landlock) {
        assert_eq!([read, write], ["Landlock"; 2].map(str::to_owned));
    }

    without.extend([Layer::Landlock, Layer::Identity, Layer::Rlimits]);
    let none = rows_without(&without);
    assert_eq!(none, ["nothing"; 4].map(str::to_owned));
}

/// The layers that stand around a worker.
fn jail_of(builder: &Builder) -> Vec<Layer> {
    let runner = builder.clone().build().unwrap();
    let sibling = load(&runner, "sibling.wat");
    let mut handle = runner
        .blocking_submit(Task::new(&sibling).input(vec![0; 8]))
        .unwrap();
    handle.cancel();
    let jail = handle.blocking_report().unwrap().jail.unwrap();
    jail.layers
        .iter()
        .filter(|layer| layer.state != wrun::LayerState::Unavailable)
        .map(|layer| layer.layer)
        .collect()
}

// --- what could go wrong --------------------------------------------------

/// All faults in both modes, in a process of its own: nothing is left of it.
#[test]
fn nothing_is_left_of_any_fault() {
    alone("isolation::nothing_is_left_of_any_fault", || {
        let everything = |builder: &Builder| {
            let wanted: Vec<_> = BOTH
                .into_iter()
                .flat_map(|mode| Fault::ALL.map(|fault| (fault, mode)))
                .collect();
            let mut found = Vec::new();
            let began = std::time::Instant::now();
            inject(builder, &wanted, &mut |fault, mode, finding| {
                if let Finding::NotMeasured { why } = &finding {
                    panic!("{} in {mode} mode: {why}", fault.name());
                }
                found.push((fault, mode));
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_eq!(found, wanted, "all of them, in order");
            eprintln!("all faults in both modes took {:?}", began.elapsed());
        };
        let builder = Runner::builder().process(ProcessOptions::default().worker(wrun()));
        // What is made once and kept.
        everything(&builder);
        let before = descriptors();
        everything(&builder);
        assert_eq!(descriptors(), before);
        assert_eq!(children(), [0; 0]);
        let left: Vec<_> = std::fs::read_dir(std::env::temp_dir())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn injecting_stops_when_its_caller_says_so() {
    let wanted = [(Fault::Trap, Mode::Thread), (Fault::Abort, Mode::Thread)];
    let mut calls = 0;
    inject(&builder(Mode::Thread), &wanted, &mut |fault, _, _| {
        calls += 1;
        assert_eq!(fault, Fault::Trap);
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(calls, 1);
}

/// It may be called where futures are driven; it blocks them.
#[test]
fn it_works_in_asynchronous_code() {
    tokio_runtime().block_on(async {
        let mut held = None;
        let wanted = [(Fault::Trap, Mode::Process)];
        inject(&builder(Mode::Process), &wanted, &mut |_, _, finding| {
            held = Some(matches!(finding, Finding::Measured(seen) if seen.held));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(held, Some(true));
    });
}

/// A program that is not a host, or a bad one, is reported as that, and is gone.
#[test]
fn a_program_that_is_not_a_host_is_not_measured() {
    let directory = tempfile::tempdir().unwrap();
    for (number, (does, why)) in [
        ("exit 0", "died before the fault"),
        ("echo '{}'", "cannot be read"),
        ("echo '\"Completed\"'", "out of turn"),
        ("echo '{\"Failed\":\"no luck\"}'", "no luck"),
        ("exec yes ''", "cannot be read"),
        (
            "while :; do printf xxxxxxxxxxxxxxxx; done",
            "its output is too long",
        ),
        ("exec 1>&-; exec sleep 100", "did not die"),
        (
            "echo '{\"Injecting\":{\"at\":1}}'; exec 1>&-; exec sleep 100",
            "did not die",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let program = directory.path().join(format!("host-{number}"));
        let pid = directory.path().join(format!("pid-{number}"));
        let script = format!("#!/bin/sh\necho $$ > {}\n{does}\n", pid.display());
        std::fs::write(&program, script).unwrap();
        permit(&program, 0o755);
        let builder = Runner::builder().process(ProcessOptions::default().worker(&program));
        let mut said = String::new();
        let wanted = [(Fault::Abort, Mode::Thread)];
        inject(&builder, &wanted, &mut |_, _, finding| {
            match finding {
                Finding::NotMeasured { why } => said = why,
                other => panic!("{does}: {other:?}"),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(said.contains(why), "{does}: {said}");
        let pid = std::fs::read_to_string(&pid).unwrap();
        let process = Path::new("/proc").join(pid.trim());
        assert!(!process.exists(), "{does} is left behind");
    }
    let nobody = Runner::builder()
        .process(ProcessOptions::default().worker(directory.path().join("nobody")));
    for mode in BOTH {
        inject(&nobody, &[(Fault::Abort, mode)], &mut |_, _, finding| {
            let Finding::NotMeasured { why } = finding else {
                panic!("{finding:?}");
            };
            assert!(why.contains("cannot start the worker"), "{why}");
            ControlFlow::Continue(())
        })
        .unwrap();
    }
}

/// A host that waits for its order ends with its parent, and bad orders end it.
#[test]
fn a_host_does_not_outlive_its_parent() {
    let directory = tempfile::tempdir().unwrap();
    let program = own_copy(directory.path());
    let script = format!("{} __wrun-worker $$ crash-host; true", program.display());
    let mut parent = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = within(PATIENCE, || !running(&program).is_empty());
    assert!(started);
    // Until it waits; before, it would see for itself that its parent is gone.
    await_rest("the host", PATIENCE, parent.id().cast_signed());
    parent.kill().unwrap();
    parent.wait().unwrap();
    let gone = within(PATIENCE, || running(&program).is_empty());
    assert!(gone, "{:?}", running(&program));
    drop(parent);

    for order in ["", "{", "{\"fault\":\"meteorite\"}"] {
        let mut host = Command::new(wrun())
            .args([
                "__wrun-worker",
                &std::process::id().to_string(),
                "crash-host",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = host.stdin.take().unwrap();
        stdin.write_all(order.as_bytes()).unwrap();
        drop(stdin);
        let output = host.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{order}");
        assert!(output.stdout.is_empty(), "{order}");
        assert!(!output.stderr.is_empty(), "{order}");
    }
}

/// What a task is given orders nothing, whatever it looks like.
#[test]
fn input_of_a_task_cannot_order_an_act() {
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let echo = runner
            .blocking_load(repo("guest-tasks/echo/echo.wat"))
            .unwrap();
        let act = r#"{"act":"Abort","fault":"abort"}"#;
        let mut task = Task::new(&echo).name(act).args([act]).input(act);
        for key in ["act", "ACT", "WRUN_ACT", "WRUN_SECRET"] {
            task = task.env(key, act);
        }
        let report = runner.blocking_run(task).unwrap();
        assert_eq!(report.stdout, act.as_bytes(), "{mode}");
    }
}
