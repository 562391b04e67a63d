//! The worker under test: the stages, and its actions afterwards.

use super::super::plan::Plan;
use super::super::syscalls::ALLOWED;
use super::super::*;
use super::tried::{Attempt, errno_of, in_child};
use rustix::process::{WaitOptions, wait, waitpid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use wrun_sandbox::region::{Draft, Kind};
use wrun_sys::attempt::{self, call};
use wrun_types::jail_report::{JailReport, Layer, LayerState};

/// Begins the line that reports the observations.
pub(super) const SEEN: &str = "seen: ";

#[derive(Serialize, Deserialize)]
pub(super) struct Scenario {
    pub(super) plan: Plan,
    pub(super) act: Act,
    pub(super) before: Before,
    /// A directory that is granted, if any, and whether it is read-only.
    pub(super) dir: Option<(String, bool)>,
    pub(super) ports: Vec<u16>,
}

/// The environment of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Before {
    Usual,
    /// An inherited descriptor.
    Leak,
    /// A container that refuses to unshare anything.
    NoUnshare,
    /// A system without user namespaces.
    NoUserNamespace,
    /// A system that gives a user namespace without rights in it.
    OnlyUserNamespace,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Act {
    /// Only reports.
    Report,
    /// Makes these attempts one after the other, each in a separate child if forking is
    /// possible.
    Attempts(Vec<Attempt>),
    /// Calls everything that is not on the list.
    Unlisted,
    /// Compiles a module on several threads and writes the result.
    Compile,
    /// A zygote ends while its child waits.
    Orphan,
    /// The runner ends while its worker waits.
    Outlive,
    /// Measures the time.
    Cost,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) error: Option<String>,
    pub(super) report: JailReport,
    pub(super) user: u32,
    pub(super) group: u32,
    /// The result of each attempt: `ok`, an errno or a signal.
    pub(super) ended: BTreeMap<String, String>,
}

impl Seen {
    pub(super) fn state(&self, layer: Layer) -> LayerState {
        self.report.layer(layer).expect("it is reported").state
    }

    pub(super) fn detail(&self, layer: Layer) -> &str {
        &self.report.layer(layer).expect("it is reported").detail
    }

    #[track_caller]
    pub(super) fn check(&self, wanted: &[(Attempt, &str)]) {
        assert_eq!(self.error, None);
        for (attempt, end) in wanted {
            let name = format!("{attempt:?}");
            assert_eq!(
                self.ended.get(&name).map(String::as_str),
                Some(*end),
                "{name}: {:#?} {:#?}",
                self.ended,
                self.report
            );
        }
    }
}

#[test]
#[ignore = "the other tests start it"]
fn inside() {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).expect("a scenario");
    let Ok(scenario) = serde_json::from_str::<Scenario>(&text) else {
        return;
    };
    let outlive = scenario.act == Act::Outlive;
    let (mut ready, is_ready) = io::pipe().expect("a pipe");
    if attempt::fork().expect("a fork").is_none() {
        let ready = rustix::io::dup(&is_ready).expect("a descriptor");
        rustix::stdio::dup2_stdin(&ready).expect("its stdin is free");
        wrun_sys::close_inherited();
        let code = match std::panic::catch_unwind(|| walk(scenario)) {
            Ok(()) => 0,
            Err(_) => 101,
        };
        attempt::exit(code);
    }
    drop(is_ready);
    if outlive {
        ready.read_exact(&mut [0]).expect("a byte");
        attempt::exit(0);
    }
    // The sibling that `split` makes is a child of this process, too.
    while let Ok(Some((_, status))) = wait(WaitOptions::empty()) {
        println!("ended: {status:?}");
    }
}

fn say(seen: &Seen) {
    let line = format!(
        "\n{SEEN}{}\n",
        serde_json::to_string(seen).expect("plain data")
    );
    rustix::io::write(rustix::stdio::stdout(), line.as_bytes()).expect("somebody reads");
}

fn walk(scenario: Scenario) {
    let mut seen = Seen::default();
    if let Err(error) = stages(scenario, &mut seen) {
        seen.error = Some(error.to_string());
    }
    say(&seen);
}

fn stages(scenario: Scenario, seen: &mut Seen) -> Result<(), JailError> {
    let role = scenario.plan.role;
    // Opened before, as a runner does.
    let dir = scenario
        .dir
        .as_ref()
        .map(|(path, read_only)| (File::open(path).expect("the directory"), *read_only));
    let dirs: Vec<_> = dir
        .iter()
        .map(|(file, read_only)| (file.as_fd(), *read_only))
        .collect();
    scenario.before.prepare();
    let started = Instant::now();
    let walls = begin(scenario.plan)?;
    let begun = started.elapsed();
    let walls = match walls.split()? {
        // As a worker's first process: nothing more.
        Split::Outside { pid } => attempt::exit(i32::from(pid < 2)),
        Split::Inside(walls) => walls,
    };
    let split = started.elapsed();
    let module = (role != Role::Compiler).then(module);
    let mut result = File::from(
        rustix::fs::memfd_create("result", rustix::fs::MemfdFlags::CLOEXEC).expect("a file"),
    );
    let given = Draft::new(1 << 20, Kind::Exclusive, true).expect("a region");
    let given = File::from(given.into_file());
    let sealing = Instant::now();
    let (sealed, report) = walls.seal()?;
    let sealed_in = sealing.elapsed();
    seen.report = report;
    seen.user = rustix::process::geteuid().as_raw();
    seen.group = rustix::process::getegid().as_raw();
    let task = TaskWalls {
        dirs: &dirs,
        tcp_ports: &scenario.ports,
        memory: 64 << 20,
        reserved: Some(5 << 30),
        cpu: Some(Duration::from_secs(1)),
    };
    match scenario.act {
        Act::Report => {}
        Act::Attempts(attempts) => {
            for attempt in attempts {
                let go = || {
                    sealed.tighten(&task).expect("it tightens");
                    attempt.make(&dirs, module.as_ref(), &result, &given)
                };
                let end = match role {
                    Role::Zygote => in_child(go),
                    Role::Worker | Role::Compiler => errno_of(go()),
                };
                seen.ended.insert(format!("{attempt:?}"), end);
            }
        }
        Act::Unlisted => {
            let listed = seccomp::rules(ALLOWED, role, Grants::default()).expect("rules");
            // The kernel lets two calls, of probes that it put into a program itself, past
            // every filter.
            let exempt = [335, 336];
            let unlisted = (0..600)
                .filter(|number| !listed.contains_key(number))
                .filter(|number| cfg!(not(target_arch = "x86_64")) || !exempt.contains(number));
            for number in unlisted {
                let end = in_child(|| {
                    sealed.tighten(&task).expect("it tightens");
                    call(number, [0; 6]).map(drop)
                });
                seen.ended.insert(number.to_string(), end);
            }
        }
        Act::Compile => {
            let mut config = wasmtime::Config::new();
            config.parallel_compilation(true);
            let engine = wasmtime::Engine::new(&config).expect("an engine");
            let text = format!("(module {})", "(func (result i32) i32.const 1)".repeat(200));
            let wasm = wat::parse_str(text).expect("wat");
            let code = engine.precompile_module(&wasm).expect("it compiles");
            result.write_all(&code).expect("it may write");
            let threads = std::thread::spawn(|| ()).join().is_ok();
            seen.ended.insert("threads".into(), threads.to_string());
            let too_large = vec![0; 2 << 20];
            seen.ended
                .insert("too large".into(), errno_of(result.write_all(&too_large)));
            for attempt in [
                Attempt::Nothing,
                Attempt::ReadPasswd,
                Attempt::MakeCode,
                Attempt::SocketTcp,
                Attempt::BecomeDumpable,
                Attempt::TooMuchMemory,
            ] {
                let end = errno_of(attempt.make(&dirs, None, &result, &given));
                seen.ended.insert(format!("{attempt:?}"), end);
            }
        }
        Act::Orphan => {
            let (mut ready, mut is_ready) = io::pipe().expect("a pipe");
            if attempt::fork().expect("a fork").is_none() {
                sealed.tighten(&task).expect("it tightens");
                is_ready.write_all(b".").expect("somebody reads");
                survive();
            }
            ready.read_exact(&mut [0]).expect("a byte");
        }
        Act::Outlive => {
            say(seen);
            rustix::io::write(rustix::stdio::stdin(), b".").expect("somebody reads");
            survive();
        }
        Act::Cost => {
            let (mut times, mut tell) = io::pipe().expect("a pipe");
            let mut tightened = Vec::new();
            for _ in 0..200 {
                let child = attempt::fork().expect("a fork");
                if child.is_none() {
                    let started = Instant::now();
                    sealed.tighten(&task).expect("it tightens");
                    let took = started.elapsed().as_nanos() as u64;
                    tell.write_all(&took.to_le_bytes()).expect("somebody reads");
                    attempt::exit(0);
                }
                let mut took = [0; 8];
                times.read_exact(&mut took).expect("a time");
                tightened.push(u64::from_le_bytes(took));
                let _ = waitpid(child, WaitOptions::empty());
            }
            tightened.sort_unstable();
            for (what, time) in [
                ("begin", begun),
                ("split", split - begun),
                ("seal", sealed_in),
                ("tighten", Duration::from_nanos(tightened[100])),
            ] {
                seen.ended.insert(what.into(), time.as_nanos().to_string());
            }
        }
    }
    Ok(())
}

/// Long enough for a signal to arrive, if one is sent.
fn survive() -> ! {
    std::thread::sleep(Duration::from_secs(5));
    let _ = rustix::io::write(rustix::stdio::stdout(), b"survived\n");
    attempt::exit(0)
}

impl Before {
    fn prepare(self) {
        use seccompiler::{
            SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
            SeccompRule, apply_filter,
        };
        let flags = |op, value| {
            let condition = SeccompCondition::new(0, Dword, op, value).expect("a condition");
            vec![SeccompRule::new(vec![condition]).expect("a rule")]
        };
        let user = libc::CLONE_NEWUSER as u64;
        let rules = match self {
            Before::Usual => return,
            Before::Leak => {
                let leak = rustix::io::dup(rustix::stdio::stdin()).expect("a descriptor");
                std::mem::forget(leak);
                return;
            }
            Before::NoUnshare => Vec::new(),
            Before::NoUserNamespace => flags(SeccompCmpOp::MaskedEq(user), user),
            Before::OnlyUserNamespace => flags(SeccompCmpOp::Ne, user),
        };
        let filter = SeccompFilter::new(
            [(libc::SYS_unshare, rules)].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPERM as u32),
            std::env::consts::ARCH.try_into().expect("a known one"),
        );
        let filter: seccompiler::BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
        apply_filter(&filter).expect("it applies");
    }
}

fn module() -> (wasmtime::Engine, wasmtime::Module) {
    let mut config = wasmtime::Config::new();
    config
        .parallel_compilation(false)
        .memory_may_move(false)
        .async_stack_size(2 << 20);
    let engine = wasmtime::Engine::new(&config).expect("an engine");
    let wasm = wat::parse_str(
        r#"(module (memory (export "memory") 1)
            (data (i32.const 0) "\2a")
            (func (export "run") (result i32)
                (drop (memory.grow (i32.const 100)))
                (i32.store (i32.const 6000000) (i32.load8_u (i32.const 0)))
                (i32.load (i32.const 6000000)))
            (func (export "trap") unreachable))"#,
    )
    .expect("wat");
    let module = wasmtime::Module::new(&engine, wasm).expect("it compiles");
    // As a zygote does once: makes the image of its memory.
    module.initialize_copy_on_write_image().expect("an image");
    (engine, module)
}
