//! Compiling reads what may be hostile. In process mode
//! a child does it, with limits; whatever becomes of the child is an error of that
//! load and of nothing else.

use crate::support::command::{PATIENCE, Wrun, scratch, write};
use crate::support::guests::too_many_instances;
use crate::support::processes::{descendants, own_copy, peak_memory, running};
use crate::support::{
    BOTH, alone, builder, children, guest, repo, runner, still_works, tool, wat, within, wrun,
};
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wrun::{
    Cache, Error, ErrorKind, Jail, Layer, Limit, Limits, Mode, ProcessOptions, Runner, Task,
};

const NOBODY: [i32; 0] = [];

// --- the same message -----------------------------------------------------

/// The message that refuses these bytes, at load or at the latest when
/// they are run.
fn refusal(runner: &Runner, bytes: &[u8]) -> Option<(ErrorKind, String)> {
    let artifact = match runner.blocking_load_bytes("task", bytes.to_vec()) {
        Ok(artifact) => artifact,
        Err(error) => return Some((error.kind(), error.to_string())),
    };
    // Thread mode links when it loads, process mode in the worker.
    let limits = Limits::default().timeout(Duration::from_secs(2));
    let error = runner
        .blocking_run(Task::new(&artifact).limits(limits))
        .err()?;
    Some((error.kind(), error.to_string()))
}

#[track_caller]
fn assert_same_words(runners: &[Runner; 2], what: &str, bytes: &[u8]) -> bool {
    let [thread, process] = runners.each_ref().map(|runner| refusal(runner, bytes));
    assert_eq!(thread, process, "{what}: thread and process mode");
    thread.is_some()
}

#[test]
fn every_refusal_has_the_same_message_in_both_modes() {
    let runners = BOTH.map(runner);
    let core = |imports: &str| {
        format!(
            r#"(module {imports}
                (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
                (func (export "run") (param i32 i32) (result i32) (i32.const 0)))"#
        )
    };
    let texts = [
        String::new(),
        "Dear reader".to_owned(),
        "(module (func".to_owned(),
        "(module\n  (func $x (oops)))".to_owned(),
        format!("(module (start ${}))", "x".repeat(50_000)),
        "(module)".to_owned(),
        "(component)".to_owned(),
        r#"(module (func (export "a\0a\1b[31mwrun: b")) (func (export "\e2\80\ae")))"#.to_owned(),
        format!(r#"(module (func (export "{}")))"#, "x".repeat(50_000)),
        r#"(module (func (export "_start")) (func (export "_start")))"#.to_owned(),
        r#"(module (func (export "_start") (drop)))"#.to_owned(),
        r#"(module (func (export "_start") (unreachable (i32.const 1) (i64.add))))"#.to_owned(),
        r#"(module (func (export "run")))"#.to_owned(),
        r#"(module (memory (export "memory") 1) (func (export "run")))"#.to_owned(),
        core(r#"(import "env" "mystery" (func))"#),
        core(r#"(import "wrun:task/tasks@0.1.0" "spawn" (func))"#),
        core(r#"(import "wrun:task/context@0.1.0" "info" (func))"#),
        core("").replace("(param i32 i32)", "(param i64)"),
        core("").replace("(i32.const 0)))", "(i64.const 0)))"),
    ];
    let mut refused = 0;
    for text in &texts {
        let start: String = text.chars().take(60).collect();
        assert!(
            assert_same_words(&runners, &start, text.as_bytes()),
            "{start} is a task"
        );
        refused += 1;
    }
    let whole = std::fs::read(repo("guest-tasks/markdown/markdown.wasm")).unwrap();
    for cut in [1, 7, 8, 9, 20, 5_000, whole.len() / 2, whole.len() - 1] {
        assert!(assert_same_words(
            &runners,
            &format!("cut at {cut}"),
            &whole[..cut]
        ));
        refused += 1;
    }
    let whole = std::fs::read(repo("guest-tasks/cat/cat.wasm")).unwrap();
    for at in (8..whole.len()).step_by(5) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        refused += usize::from(assert_same_words(&runners, &format!("byte {at}"), &bytes));
    }
    let mut hostile = vec![(
        "too many instances".to_owned(),
        too_many_instances().into_bytes(),
    )];
    for entry in std::fs::read_dir(repo("guest-tasks/hostile")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.metadata().unwrap().len() < 200_000 {
            hostile.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    for (what, bytes) in hostile {
        let words = BOTH.map(|mode| {
            let runner = runners.iter().find(|runner| runner.mode() == mode).unwrap();
            runner
                .blocking_load_bytes("task", bytes.clone())
                .err()
                .map(|error| error.to_string())
        });
        match words {
            [Some(_), None] => {
                assert!(assert_same_words(&runners, &what, &bytes));
            }
            [thread, process] => assert_eq!(thread, process, "{what}"),
        }
    }
    assert!(refused > 40, "only {refused} refusals");
    runners.iter().for_each(still_works);
}

// --- bombs ----------------------------------------------------------------

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &leb(content.len()), content].concat()
}

/// One function with many locals and this many loops in a row, with a call that may not be
/// made in each: across it the compiler keeps every local apart. Some 100 KB take a gigabyte
/// and half a minute.
pub(crate) fn bomb(locals: usize, loops: usize) -> Vec<u8> {
    let mut code = [&[1][..], &leb(locals), &[0x7f]].concat();
    for n in 0..loops {
        code.extend([0x03, 0x40, 0x20]);
        code.extend(leb(n % locals));
        code.push(0x21);
        code.extend(leb((n * 7 + 1) % locals));
        let condition = leb((n * 3) % locals);
        code.push(0x20);
        code.extend(&condition);
        code.extend([0x04, 0x40, 0x10, 0x01, 0x0b, 0x20]);
        code.extend(&condition);
        code.extend([0x0d, 0x00, 0x0b]);
    }
    code.push(0x0b);
    let exports = [&[1, 6][..], b"_start", &[0, 0]].concat();
    let nothing = [2, 0, 0x0b];
    let bodies = [&[2][..], &leb(code.len()), &code, &nothing].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 0, 0]),
        section(3, &[2, 0, 0]),
        section(7, &exports),
        section(10, &bodies),
    ]
    .concat()
}

pub(crate) fn large_bomb() -> Vec<u8> {
    bomb(20_000, 4_500)
}

#[track_caller]
pub(crate) fn assert_limit(result: Result<wrun::Artifact, Error>, limit: Limit) {
    let error = result.expect_err("a bomb was compiled");
    assert_eq!(error.kind(), ErrorKind::LoadLimit, "{error}");
    assert_eq!(error.limit(), Some(limit), "{error}");
    assert!(!error.is_retryable(), "{error}");
}

#[test]
fn a_compile_bomb_is_an_error_and_not_a_hung_runner() {
    let began = Instant::now();
    let runner = builder(Mode::Process)
        .compile_timeout(Duration::from_millis(1_500))
        .build()
        .unwrap();
    assert_limit(
        runner.blocking_load_bytes("bomb", large_bomb()),
        Limit::CompileTime,
    );
    eprintln!("a bomb and a limit of 1.5 s: {:?}", began.elapsed());
    still_works(&runner);
    let began = Instant::now();
    let runner = builder(Mode::Process)
        .compile_memory(128 << 20)
        .build()
        .unwrap();
    assert_limit(
        runner.blocking_load_bytes("bomb", large_bomb()),
        Limit::CompileMemory,
    );
    eprintln!("a bomb and a limit of 128 MiB: {:?}", began.elapsed());
    still_works(&runner);
    let runner = builder(Mode::Process)
        .compile_memory(128 << 20)
        .process(ProcessOptions::default().jail(Jail::Off))
        .build()
        .unwrap();
    assert_limit(
        runner.blocking_load_bytes("bomb", large_bomb()),
        Limit::CompileMemory,
    );
}

#[test]
fn a_bomb_in_text_is_an_error_too() {
    // Parsed, text takes some eighty times its size.
    let text = format!("(module{})", "(func)".repeat(1 << 20));
    let runner = builder(Mode::Process)
        .compile_memory(100 << 20)
        .build()
        .unwrap();
    assert_limit(
        runner.blocking_load_bytes("bomb", text.into_bytes()),
        Limit::CompileMemory,
    );
    still_works(&runner);
}

#[test]
fn others_load_while_bombs_are_compiled() {
    let runner = builder(Mode::Process)
        .compile_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let processors = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                assert_limit(
                    runner.blocking_load_bytes("bomb", large_bomb()),
                    Limit::CompileTime,
                );
            });
        }
        // Behind the bombs, and not to blame for them.
        for _ in 0..4 {
            scope.spawn(|| still_works(&runner));
        }
    });
}

// --- a child that dies ----------------------------------------------------

/// The compilers that this process started.
pub(crate) fn compilers() -> Vec<i32> {
    let mut compilers = children();
    compilers.retain(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.ends_with(b"\0compile\0"))
    });
    compilers
}

/// Does something to a compiler once it compiles.
fn to_a_compiler(signal: rustix::process::Signal) {
    let mut compiler = None;
    assert!(
        within(Duration::from_secs(60), || {
            compiler = compilers().first().copied();
            // Past its start: it has taken memory.
            compiler.is_some_and(|pid| peak_memory(pid).is_some_and(|peak| peak > 60 << 20))
        }),
        "no compiler"
    );
    let pid = rustix::process::Pid::from_raw(compiler.unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_killed_compiler_loses_its_own_load_only() {
    use rustix::process::Signal;
    alone(
        "compiling::a_killed_compiler_loses_its_own_load_only",
        || {
            // Where the jail makes it the first process of a namespace, it gets no
            // other signal.
            for (signal, number, jail) in [
                (Signal::KILL, 9, Jail::Strict),
                (Signal::KILL, 9, Jail::Off),
                (Signal::ABORT, 6, Jail::Off),
                (Signal::TERM, 15, Jail::Off),
            ] {
                let runner = builder(Mode::Process)
                    .process(ProcessOptions::default().jail(jail))
                    .build()
                    .unwrap();
                std::thread::scope(|scope| {
                    let loading = scope.spawn(|| runner.blocking_load_bytes("bomb", large_bomb()));
                    to_a_compiler(signal);
                    let error = loading.join().unwrap().unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::NotLoadable, "{error}");
                    assert_eq!(error.limit(), None);
                    let words = error.to_string();
                    assert!(
                        words.contains("in a process of its own")
                            && words.contains(&format!("signal {number}")),
                        "{words}"
                    );
                });
                assert_eq!(compilers(), NOBODY);
                still_works(&runner);
            }
        },
    );
}

#[test]
fn a_stopped_compiler_does_not_outlast_its_time() {
    alone(
        "compiling::a_stopped_compiler_does_not_outlast_its_time",
        || {
            let runner = builder(Mode::Process)
                .compile_timeout(Duration::from_secs(3))
                .build()
                .unwrap();
            std::thread::scope(|scope| {
                let loading = scope.spawn(|| runner.blocking_load_bytes("bomb", large_bomb()));
                to_a_compiler(rustix::process::Signal::STOP);
                assert_limit(loading.join().unwrap(), Limit::CompileTime);
            });
            assert_eq!(compilers(), NOBODY);
            still_works(&runner);
        },
    );
}

#[test]
fn dropping_the_runner_ends_its_compilers() {
    alone("compiling::dropping_the_runner_ends_its_compilers", || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bomb.wasm");
        std::fs::write(&path, large_bomb()).unwrap();
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        for inside in [false, true] {
            let runner = runner(Mode::Process);
            // More than have places.
            tokio.block_on(async {
                for _ in 0..8 {
                    let soon = Duration::from_millis(50);
                    let loading = tokio::time::timeout(soon, runner.load(&path)).await;
                    assert!(loading.is_err(), "a bomb was compiled");
                }
            });
            assert!(within(Duration::from_secs(60), || !compilers().is_empty()));
            let began = Instant::now();
            if inside {
                tokio.block_on(async { drop(runner) });
            } else {
                drop(runner);
            }
            assert_eq!(children(), NOBODY);
            eprintln!("dropped in {:?}", began.elapsed());
        }
    });
}

#[test]
fn kill_9_of_the_runner_ends_its_compiler() {
    let scratch = scratch();
    let program = own_copy(scratch.path());
    let bomb = write(scratch.path(), "bomb.wasm", large_bomb());
    for command in [&["compile", "-o", "/dev/null"][..], &["run", "--no-cache"]] {
        let wrun = Wrun::program(&program).args(command).arg(&bomb).start();
        assert!(
            within(PATIENCE, || !descendants(wrun.pid()).is_empty()),
            "no compiler"
        );
        wrun.signal(rustix::process::Signal::KILL);
        wrun.end().expect_code(137, "killed");
        assert!(
            within(PATIENCE, || running(&program).is_empty()),
            "left behind: {:?}",
            running(&program)
        );
    }
}

#[test]
fn loads_that_fail_leave_nothing() {
    alone("compiling::loads_that_fail_leave_nothing", || {
        let runner = builder(Mode::Process)
            .compile_timeout(Duration::from_millis(200))
            .compile_memory(64 << 20)
            .build()
            .unwrap();
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let fail = || {
            for bytes in [
                b"no task".to_vec(),
                large_bomb(),
                b"(module)".to_vec(),
                b"\0asm\x01\0\0\0\x01".to_vec(),
            ] {
                runner.blocking_load_bytes("task", bytes).unwrap_err();
            }
        };
        fail();
        let before = descriptors();
        for _ in 0..10 {
            fail();
        }
        assert_eq!(descriptors(), before);
        assert_eq!(children(), NOBODY);
    });
}

// --- its jail ---------------------------------------------------------------

/// What the kernel says of a compiler at work: fields of its status, and whether
/// its namespaces are its own.
fn look_at_a_compiler(jail: Jail) -> (HashMap<String, String>, Vec<&'static str>) {
    let runner = builder(Mode::Process)
        .process(ProcessOptions::default().jail(jail))
        .build()
        .unwrap();
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| runner.blocking_load_bytes("bomb", large_bomb()));
        let mut compiler = None;
        assert!(within(Duration::from_secs(60), || {
            compiler = compilers().first().copied();
            compiler.is_some_and(|pid| peak_memory(pid).is_some_and(|peak| peak > 60 << 20))
        }));
        let pid = compiler.unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let status = status
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let link = |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}"));
        let apart = ["user", "pid", "net", "ipc", "mnt"]
            .into_iter()
            .filter(|kind| {
                // A user that may not look at it sees in another way that it is apart.
                let its = link(&pid.to_string(), kind);
                its.is_ok_and(|its| its != link("self", kind).unwrap())
            })
            .collect();
        kill(pid);
        loading.join().unwrap().unwrap_err();
        (status, apart)
    })
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_compiler_is_jailed() {
    alone("compiling::a_compiler_is_jailed", || {
        let (status, apart) = look_at_a_compiler(Jail::Strict);
        let is = |name: &str| status[name].as_str();
        assert_eq!(is("Seccomp"), "2");
        assert_eq!(is("NoNewPrivs"), "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(is(set), "0000000000000000", "{set}");
        }
        if rustix::process::geteuid().is_root() {
            let own: u32 = is("Uid").split('\t').next().unwrap().parse().unwrap();
            assert!((0x7800_0000..=0x7800_ffff).contains(&own), "{own}");
            let all = [
                own.to_string(),
                own.to_string(),
                own.to_string(),
                own.to_string(),
            ];
            assert_eq!(is("Uid"), all.join("\t"));
            assert_eq!(is("Gid"), all.join("\t"));
            assert_eq!(is("Groups"), "");
        }
        // Its namespaces are those of a worker.
        let runner = runner(Mode::Process);
        let echo = guest(&runner, "echo/echo.wat");
        let report = runner.blocking_run(Task::new(&echo)).unwrap();
        let jail = report.jail.unwrap();
        let has = |layer| jail.layer(layer).unwrap().state == wrun::LayerState::Enforced;
        let numbers = is("NSpid").split_whitespace().count();
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find(|line| line.starts_with("NSpid:")).unwrap();
        let own = own.split_whitespace().count() - 1;
        assert_eq!(numbers, own + usize::from(has(Layer::PidNamespace)));
        if rustix::process::geteuid().is_root() {
            for (kind, layer) in [
                ("user", Layer::UserNamespace),
                ("pid", Layer::PidNamespace),
                ("net", Layer::NetNamespace),
                ("ipc", Layer::IpcNamespace),
                ("mnt", Layer::MountNamespace),
            ] {
                assert_eq!(apart.contains(&kind), has(layer), "{kind}");
            }
        }

        let (status, apart) = look_at_a_compiler(Jail::Off);
        assert_eq!(
            status["Seccomp"],
            std::fs::read_to_string("/proc/self/status")
                .unwrap()
                .lines()
                .find_map(|line| line.strip_prefix("Seccomp:"))
                .unwrap()
                .trim()
        );
        assert_eq!(apart, Vec::<&str>::new());
        assert_eq!(compilers(), NOBODY);
    });
}

#[test]
fn without_a_required_wall_nothing_is_compiled() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("worker");
    let script = format!("#!/bin/sh\nexport A=B\nexec {} \"$@\"\n", wrun().display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let load = |jail| {
        let runner = Runner::builder()
            .mode(Mode::Process)
            .process(ProcessOptions::default().worker(&program).jail(jail))
            .build()
            .unwrap();
        runner
            .blocking_load(repo("guest-tasks/echo/echo.wat"))
            .map(drop)
    };
    let error = load(Jail::Strict).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Jail, "{error}");
    let words = error.to_string();
    assert!(
        words.starts_with("cannot set up the strict jail: environment is missing: ")
            && !words.contains("--"),
        "{words}"
    );
    assert_eq!(error.layer(), Some(wrun::Layer::Environment));
    load(Jail::BestEffort).unwrap();
    load(Jail::Off).unwrap();
}

// --- how many children ----------------------------------------------------

/// A worker program that notes what it is started for.
fn noting(directory: &Path) -> (PathBuf, impl Fn() -> usize) {
    let (program, notes) = (directory.join("worker"), directory.join("notes"));
    let script = format!(
        "#!/bin/sh\necho \"$3\" >> {}\nexec env -i {} \"$@\"\n",
        notes.display(),
        wrun().display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let compiled = move || {
        let notes = std::fs::read_to_string(&notes).unwrap_or_default();
        notes.lines().filter(|line| *line == "compile").count()
    };
    (program, compiled)
}

#[test]
fn one_child_for_each_kind_of_code_and_none_for_cached_code() {
    let directory = tempfile::tempdir().unwrap();
    let (program, compiled) = noting(directory.path());
    let make = |metered| {
        Runner::builder()
            .mode(Mode::Process)
            .process(ProcessOptions::default().worker(&program))
            .cache(Cache::Directory(directory.path().join("cache")))
            .metered(metered)
            .build()
            .unwrap()
    };
    let runner = make(false);
    let echo = guest(&runner, "echo/echo.wat");
    assert_eq!(compiled(), 1);
    runner.blocking_run(Task::new(&echo)).unwrap();
    runner.blocking_compile_for(&echo, Mode::Process).unwrap();
    assert_eq!(compiled(), 1);
    let metered = || Task::new(&echo).limits(Limits::default().fuel(1 << 30));
    runner.blocking_run(metered()).unwrap();
    runner.blocking_run(metered()).unwrap();
    assert_eq!(compiled(), 2);
    // Both kinds are in the cache now.
    for metered in [false, true] {
        let runner = make(metered);
        let echo = guest(&runner, "echo/echo.wat");
        runner.blocking_run(Task::new(&echo)).unwrap();
        runner
            .blocking_run(Task::new(&echo).limits(Limits::default().fuel(1 << 30)))
            .unwrap();
    }
    assert_eq!(compiled(), 2);
    // Thread mode needs other code, and compiles it in this process.
    let thread = builder(Mode::Thread)
        .cache(Cache::Directory(directory.path().join("cache")))
        .build()
        .unwrap();
    still_works(&thread);
    assert_eq!(compiled(), 2);
}

#[test]
fn many_loads_at_once() {
    alone("compiling::many_loads_at_once", || {
        let processors = std::thread::available_parallelism().unwrap().get();
        let runner = runner(Mode::Process);
        let most = std::thread::scope(|scope| {
            let loads: Vec<_> = (0..48)
                .map(|n| {
                    let runner = &runner;
                    scope.spawn(move || {
                        let text = format!(
                            r#"(module (memory (export "memory") 1)
                                (func (export "_start") (drop (i32.const {n}))))"#
                        );
                        let task = wat(runner, "task", &text);
                        runner.blocking_run(Task::new(&task)).unwrap()
                    })
                })
                .collect();
            let mut most = 0;
            while !loads.iter().all(|load| load.is_finished()) {
                // One that goes on as another process is two for a moment, in one
                // group.
                let groups: HashSet<_> = compilers()
                    .into_iter()
                    .filter_map(rustix::process::Pid::from_raw)
                    .filter_map(|pid| rustix::process::getpgid(Some(pid)).ok())
                    .collect();
                most = most.max(groups.len());
            }
            for load in loads {
                let report = load.join().unwrap();
                assert!(report.outcome.is_completed(), "{}", report.outcome);
            }
            most
        });
        // One that is dead and not yet reaped has no command line.
        assert!((1..=processors).contains(&most), "{most} at once");
        assert_eq!(compilers(), NOBODY);
    });
}

// --- a compiler that was taken over ---------------------------------------

const PRELUDE: &str = r#"
import os, socket, struct, sys, time

channel = socket.socket(fileno=0)
source, output = socket.recv_fds(channel, 1, 8)[1]

def frame(body):
    return struct.pack("<I", len(body)) + body

def hello(version=11):
    channel.sendall(b"wrunwork" + struct.pack("<I", version))

def say(body):
    channel.sendall(frame(body))

def moved(pid):
    word, left = b"\x03", (pid << 1) ^ (pid >> 31)
    while left > 127:
        word, left = word + bytes([left & 127 | 128]), left >> 7
    return word + bytes([left])

def live():
    time.sleep(600)
"#;

/// A compiler that does this after it has taken its descriptors; none without
/// Python.
fn hostile(script: &str) -> Option<(tempfile::TempDir, Runner)> {
    let python = tool::python(&["socket.recv_fds"])?;
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("compiler");
    std::fs::write(&program, format!("#!{python} -IS\n{PRELUDE}\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let runner = Runner::builder()
        .mode(Mode::Process)
        .process(ProcessOptions::default().worker(&program))
        .compile_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    Some((directory, runner))
}

#[test]
fn a_compiler_that_was_taken_over() {
    alone("compiling::a_compiler_that_was_taken_over", || {
        use ErrorKind::{Jail, LoadLimit, NoWorker, NotLoadable, System};
        for (script, kind, words) in [
            ("live_not()", NoWorker, "Traceback"),
            ("hello(77); live()", NoWorker, "protocol version 77"),
            (
                "channel.sendall(b'x' * 100); live()",
                NoWorker,
                "not a wrun worker",
            ),
            ("sys.exit(3)", NoWorker, "status 3"),
            ("os.kill(os.getpid(), 9)", NotLoadable, "signal 9"),
            ("hello(); sys.exit(3)", NotLoadable, "status 3"),
            (
                "hello(); sys.exit('words\\x1b[31m')",
                NotLoadable,
                "words[31m",
            ),
            ("hello(); live()", LoadLimit, "longer"),
            (
                "hello(); channel.close(); live()",
                NotLoadable,
                "did not end",
            ),
            (
                "hello(); say(b''); live()",
                NotLoadable,
                "cannot be decoded",
            ),
            (
                "hello(); say(b'\\xff' * 9); live()",
                NotLoadable,
                "cannot be decoded",
            ),
            (
                "hello(); say(b'\\x00\\x00'); live()",
                NotLoadable,
                "trailing",
            ),
            (
                "hello(); channel.sendall(b'\\xff' * 4); live()",
                NotLoadable,
                "exceeds the limit",
            ),
            (
                "hello(); channel.sendall(b'\\x00\\x00\\x01\\x00' + b'x' * 100000); live()",
                NotLoadable,
                "more than",
            ),
            // A refusal that only the runner may give.
            (
                "hello(); say(b'\\x01\\x0c'); live()",
                NotLoadable,
                "cannot be decoded",
            ),
            (
                "hello(); say(b'\\x01\\x00'); live()",
                NotLoadable,
                "the task is empty",
            ),
            (
                "hello(); say(b'\\x01\\x02\\x04a\\nb\\x1b'); live()",
                NotLoadable,
                "a\u{fffd}b\u{fffd}",
            ),
            ("hello(); say(b'\\x01\\x08'); live()", LoadLimit, "memory"),
            ("hello(); say(b'\\x02\\x03why'); live()", System, "why"),
            // It goes on where it cannot be: its own number, the runner's, the
            // first process's, of no process; and twice.
            (
                "hello(); say(moved(os.getpid())); live()",
                NotLoadable,
                "an invalid process number",
            ),
            (
                "hello(); say(moved(os.getppid())); live()",
                NotLoadable,
                "an invalid process number",
            ),
            (
                "hello(); say(moved(1)); live()",
                NotLoadable,
                "an invalid process number",
            ),
            (
                "hello(); say(moved(-1)); live()",
                NotLoadable,
                "an invalid process number",
            ),
            (
                "pid = os.fork()\nif pid == 0: live()\n\
                 hello(); say(moved(pid)); live()",
                NotLoadable,
                "an invalid process number",
            ),
            // No jail.
            (
                "hello(); say(b'\\x04\\x0e\\x02\\x03a\\nb'); live()",
                Jail,
                "seccomp is missing: ab",
            ),
            (
                "hello(); say(b'\\x05\\x03a\\nb'); live()",
                Jail,
                "cannot set up the jail: ab",
            ),
            (
                "hello(); say(b'\\x00'); live()",
                NotLoadable,
                "other than the compiled task",
            ),
            (
                "os.write(output, b'x' * 5000); hello(); say(b'\\x00'); live()",
                NotLoadable,
                "other than the compiled task",
            ),
            (
                "os.ftruncate(output, 3 << 30); hello(); say(b'\\x00'); live()",
                NotLoadable,
                "3221225472 bytes",
            ),
            // Floods, on both channels.
            (
                "hello()\nwhile True: os.write(2, b'x' * 4096)",
                LoadLimit,
                "longer",
            ),
            (
                "hello(); channel.sendall(b'\\xff\\xff\\x00\\x00')\nwhile True: channel.sendall(b'x' * 4096)",
                NotLoadable,
                "more than",
            ),
            // Sealed against sealing; mapped by another process.
            (
                "import fcntl; fcntl.fcntl(output, 1033, 1); hello(); say(b'\\x00'); live()",
                NotLoadable,
                "seal",
            ),
            (
                "import mmap; os.ftruncate(output, 4096); m = mmap.mmap(output, 4096)\n\
                 left, leaves = os.pipe()\n\
                 if os.fork() == 0: os.setpgid(0, 0); os.write(leaves, b'x'); time.sleep(4); os._exit(0)\n\
                 os.read(left, 1)\n\
                 hello(); say(b'\\x00'); live()",
                NotLoadable,
                "seal",
            ),
        ] {
            let Some((_directory, runner)) = hostile(script) else {
                return;
            };
            let error = runner
                .blocking_load(repo("guest-tasks/echo/echo.wat"))
                .expect_err(script);
            assert_eq!(error.kind(), kind, "{script}: {error}");
            assert!(error.to_string().contains(words), "{script}: {error}");
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
            assert_eq!(children(), NOBODY, "{script}");
        }
    });
}

#[test]
fn code_of_another_task_is_not_taken() {
    let other = runner(Mode::Process);
    let hello = guest(&other, "hello/hello.wat");
    let code = other.blocking_compile_for(&hello, Mode::Process).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.wrun");
    std::fs::write(&path, &code).unwrap();
    let script =
        format!("os.write(output, open({path:?}, 'rb').read()); hello(); say(b'\\x00'); live()");
    let Some((_directory, hostile)) = hostile(&script) else {
        return;
    };
    let error = hostile
        .blocking_load(repo("guest-tasks/echo/echo.wat"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotLoadable);
    assert!(error.to_string().contains("another's"), "{error}");
    // The task that it is of, it may be compiled to.
    hostile
        .blocking_load(repo("guest-tasks/hello/hello.wat"))
        .unwrap();
}

// --- once ------------------------------------------------------------------

/// A task that takes a while to compile.
pub(crate) fn slow_to_compile() -> String {
    let mut text = String::from(r#"(module (memory (export "memory") 1) (func (export "_start"))"#);
    for function in 0..2_000 {
        text += "(func (param i64 i64) (result i64) (local i64)";
        for step in 0..20 {
            text += &format!(
                "(local.set 2 (i64.add (i64.mul (local.get 0) (i64.const {})) (local.get {})))",
                function * 31 + step,
                step % 3
            );
        }
        text += "(local.get 2))";
    }
    text + ")"
}

/// Every entry that appears in a cache while `work` is done, by the file's number: one
/// that is made anew is another file.
fn entries_made(cache: &Path, work: impl FnOnce()) -> HashSet<u64> {
    use std::os::unix::fs::MetadataExt;
    let done = std::sync::atomic::AtomicBool::new(false);
    let look = || {
        let folders = std::fs::read_dir(cache).into_iter().flatten().flatten();
        let files = folders.flat_map(|it| std::fs::read_dir(it.path()).into_iter().flatten());
        files
            .flatten()
            .filter(|file| file.path().extension().is_some_and(|it| it == "wrun"))
            .filter_map(|file| Some(file.metadata().ok()?.ino()))
            .collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = HashSet::new();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                seen.extend(look());
                std::thread::sleep(Duration::from_millis(1));
            }
            seen.extend(look());
            seen
        });
        work();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        watching.join().unwrap()
    })
}

/// What is in a cache, by its names' ends.
fn left_in(cache: &Path) -> Vec<String> {
    let folders = std::fs::read_dir(cache).unwrap().flatten();
    folders
        .flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten())
        .map(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            name.rsplit('.').next().unwrap_or_default().to_owned()
        })
        .collect()
}

#[test]
fn many_first_starts_of_the_same_task_compile_it_once() {
    let scratch = scratch();
    let cache = scratch.path().join("cache");
    let task = write(scratch.path(), "t.wat", slow_to_compile());
    let made = entries_made(&cache, || {
        let starts: Vec<_> = ["process", "thread", "process", "thread"]
            .map(|mode| Wrun::mode(mode).cache(&cache).arg(&task).start())
            .into_iter()
            .collect();
        for start in starts {
            start.end().expect_code(0, "a first start");
        }
    });
    assert_eq!(made.len(), 2, "files of the entries, one for each mode");
    assert_eq!(left_in(&cache), ["wrun", "wrun"], "nothing else is left");
}

#[test]
fn a_process_that_dies_while_it_compiles_delays_no_other() {
    let scratch = scratch();
    let cache = scratch.path().join("cache");
    let task = write(scratch.path(), "t.wat", slow_to_compile());
    for mode in ["process", "thread"] {
        let mut first = Wrun::mode(mode).cache(&cache).arg(&task).start();
        let locked = || {
            let entries = std::fs::read_dir(&cache).is_ok();
            entries && left_in(&cache).iter().any(|it| it == "lock")
        };
        // It may have been quicker than this.
        within(PATIENCE, || {
            locked() || first.child.try_wait().unwrap().is_some()
        });
        first.signal(rustix::process::Signal::KILL);
        drop(first);
        let second = Wrun::mode(mode).cache(&cache).arg(&task).run();
        second.expect_code(0, "after one that was killed");
        std::fs::remove_dir_all(&cache).unwrap();
    }
}
