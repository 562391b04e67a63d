//! Tests of the jail from the inside.
//!
//! Each test starts this test binary again for one test, [`worker::inside`], which forks: a
//! process with one thread, an empty environment and nothing inherited, like a worker. That
//! process goes through the stages and reports what it observed.

use super::plan::Plan;
use super::syscalls::{ALLOWED, FATAL, Row, TAKEN, Who};
use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use wrun_sys::Unpoisoned;
use wrun_types::config::Jail;
use wrun_types::jail_report::{JailReport, Layer, LayerState};

mod tried;
mod worker;

use tried::{Attempt, TO_OTHERS};
use worker::{Act, Before, SEEN, Scenario, Seen};

fn plan(role: Role) -> Plan {
    Plan {
        mode: Jail::Strict,
        role,
        grants: Grants::default(),
        identity: None,
        own_user: None,
        cgroup: Err("a test makes none".to_owned()),
        regions: 64 << 20,
        compile: None,
        absent: Vec::new(),
    }
}

/// The user that starts the worker.
#[derive(Clone, Copy, Debug)]
enum User {
    Own,
    /// An ordinary user; if the tests do not run as root, the one that runs them.
    Nobody,
}

/// This program in a place where every user may run it, under the name `jail`; removed with
/// the last user of it.
fn program() -> Arc<tempfile::TempDir> {
    static SHARED: Mutex<Weak<tempfile::TempDir>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unpoisoned();
    if let Some(directory) = shared.upgrade() {
        return directory;
    }
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("open");
    let own = std::env::current_exe().expect("its own path");
    let copy = directory.path().join("jail");
    fs::hard_link(&own, &copy)
        .or_else(|_| fs::copy(&own, &copy).map(drop))
        .expect("a copy");
    let directory = Arc::new(directory);
    *shared = Arc::downgrade(&directory);
    directory
}

#[expect(
    clippy::disallowed_methods,
    reason = "a jail is tried in a process of its own"
)]
fn start(user: User, scenario: &Scenario) -> (Seen, String) {
    let program = program();
    let mut command = Command::new(program.path().join("jail"));
    command
        .args(["jail::tests::worker::inside", "--exact", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if matches!(user, User::Nobody) && rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let mut child = command.spawn().expect("it starts");
    let scenario = serde_json::to_vec(scenario).expect("plain data");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(&scenario)
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let seen = match text.lines().find_map(|line| line.split_once(SEEN)) {
        Some((_, seen)) => serde_json::from_str(seen).expect("plain data"),
        None => Seen {
            error: Some(text.clone()),
            ..Seen::default()
        },
    };
    (seen, text)
}

fn run(user: User, plan: Plan, act: Act) -> Seen {
    let scenario = Scenario {
        plan,
        act,
        before: Before::Usual,
        dir: None,
        ports: Vec::new(),
    };
    start(user, &scenario).0
}

fn attempts(user: User, plan: Plan, attempts: &[Attempt]) -> Seen {
    run(user, plan, Act::Attempts(attempts.to_vec()))
}

/// Not a test: the other side of the others.
const USERS: [User; 2] = [User::Own, User::Nobody];

#[test]
fn every_layer_is_reported_once_and_in_order() {
    for user in USERS {
        for role in [Role::Zygote, Role::Worker, Role::Compiler] {
            let seen = run(user, plan(role), Act::Report);
            assert_eq!(seen.error, None, "{user:?} {role:?}");
            let layers: Vec<Layer> = seen.report.layers.iter().map(|it| it.layer).collect();
            assert_eq!(layers, Layer::ALL, "{user:?} {role:?}");
            assert_eq!(seen.report.missing(), None);
            for report in &seen.report.layers {
                assert!(!report.detail.is_empty(), "{report:?}");
            }
        }
    }
}

#[test]
fn a_task_can_do_what_it_needs_and_nothing_else() {
    use Attempt::*;
    for user in USERS {
        let wanted = [
            (Nothing, "ok"),
            (Wasm, "ok"),
            (SocketTcp, "ok"),
            (EnoughMemory, "ok"),
            (SignalSelf, "ok"),
            (Abort, "SIGABRT"),
            (Spin, "SIGXCPU"),
            (ReadPasswd, "EPERM"),
            (ListRoot, "EPERM"),
            (Fork, "EPERM"),
            (Thread, "EPERM"),
            (Exec, "SIGSYS"),
            (Ptrace, "SIGSYS"),
            (Unshare, "SIGSYS"),
            (KillParent, "EPERM"),
            (MapCode, "EPERM"),
            (MakeCode, "EPERM"),
            (SocketUnix, "EPERM"),
            (SocketUdp, "EPERM"),
            (FastOpen, "EPERM"),
            (PairOfDatagrams, "EPERM"),
            (Connect(1), "EPERM"),
            (Raise, "EPERM"),
            (BecomeDumpable, "EPERM"),
            (TooMuchMemory, "ENOMEM"),
            (WriteFile, "EPERM"),
            (WriteOpen, "EFBIG"),
            #[cfg(target_arch = "x86_64")]
            (OtherAbi, "EPERM"),
        ];
        let all = wanted.map(|(attempt, _)| attempt);
        attempts(user, plan(Role::Zygote), &all).check(&wanted);
        // A worker makes attempts in its own process, so one each, and not those about a
        // zygote's child.
        for (attempt, end) in wanted {
            let seen = attempts(user, plan(Role::Worker), &[attempt]);
            match (attempt, end) {
                (KillParent | Abort, _) => {}
                (Fork, _) | (_, "SIGSYS") => {
                    let error = seen.error.expect("it is dead");
                    let signal = format!("terminating_signal: {}", libc::SIGSYS);
                    assert!(error.contains(&signal), "{attempt:?}: {error}");
                }
                (Spin, _) => assert!(seen.error.is_some()),
                _ => seen.check(&[(attempt, end)]),
            }
        }
    }
}

#[test]
fn regions_are_memory_files_of_the_runner_and_only_where_they_are_imported() {
    use Attempt::*;
    let all = [
        UseRegion,
        FreezeRegion,
        LargeFile,
        MakeFile,
        MakeRegion,
        SharedMemory,
        PunchHole,
        PullPages,
        WriteFile,
    ];
    let no = "EPERM";
    for user in USERS {
        for (regions, talks, ends) in [
            (true, false, ["ok", "ok", "EFBIG", no, no, no, no, no, no]),
            // Data of large messages is in memory files; their size cannot be set.
            (true, true, ["ok", "ok", "EFBIG", "ok", no, no, no, no, no]),
            (false, false, [no; 9]),
        ] {
            let mut plan = plan(Role::Zygote);
            plan.grants.regions = regions;
            plan.grants.talks = talks;
            let wanted: Vec<_> = all.into_iter().zip(ends).collect();
            attempts(user, plan.clone(), &all).check(&wanted);
            for (attempt, end) in wanted {
                let mut plan = plan.clone();
                plan.role = Role::Worker;
                attempts(user, plan, &[attempt]).check(&[(attempt, end)]);
            }
        }
    }
}

#[test]
fn no_grant_adds_up_to_what_harms_other_holders() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("open");
    for bits in 0..16_u8 {
        let is = |bit: u8| bits & 1 << bit != 0;
        let grants = Grants {
            files: is(0),
            mapped: false,
            tcp: is(1),
            talks: is(2),
            regions: is(3),
        };
        let mut wanted: Vec<_> = TO_OTHERS.iter().map(|it| (*it, "EPERM")).collect();
        wanted.push((Attempt::NotWait, "ok"));
        let attempts: Vec<_> = wanted.iter().map(|(attempt, _)| *attempt).collect();
        for read_only in [false, true] {
            if read_only && !grants.files {
                continue;
            }
            let mut plan = plan(Role::Zygote);
            plan.grants = grants;
            let dir = grants.files.then(|| directory.path().display().to_string());
            let scenario = Scenario {
                plan,
                act: Act::Attempts(attempts.clone()),
                before: Before::Usual,
                dir: dir.map(|dir| (dir, read_only)),
                ports: if grants.tcp { vec![80] } else { Vec::new() },
            };
            let (seen, _) = start(User::Own, &scenario);
            assert_eq!(seen.error, None, "{grants:?}");
            seen.check(&wanted);
        }
    }
}

#[test]
fn a_call_that_is_not_listed_is_refused() {
    let seen = run(User::Own, plan(Role::Zygote), Act::Unlisted);
    assert_eq!(seen.error, None);
    assert!(seen.ended.len() > 400, "{}", seen.ended.len());
    let fatal = seccomp::rules(FATAL, Role::Zygote, Grants::default()).expect("rules");
    for (number, end) in &seen.ended {
        let number: i64 = number.parse().expect("a number");
        let wanted = if fatal.contains_key(&number) {
            "SIGSYS"
        } else {
            "EPERM"
        };
        assert_eq!(end, wanted, "{number}");
    }
}

#[test]
fn the_lists_are_in_order_and_have_reasons() {
    for rows in [ALLOWED, FATAL, TAKEN] {
        let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
        assert!(names.is_sorted(), "{names:?}");
        assert!(rows.iter().all(|row| row.why.len() > 2));
    }
    let of = |rows: &'static [Row], who: &[Who]| -> Vec<&str> {
        let rows = rows.iter().filter(|row| who.contains(&row.who));
        rows.map(|row| row.name).collect()
    };
    // Nothing of the time before a task is left to it.
    let taken = of(TAKEN, &[Who::All, Who::Mute]);
    for name in of(ALLOWED, &[Who::Zygote, Who::Before]) {
        assert!(taken.contains(&name), "{name}");
    }
    // A fatal call is not allowed; calls that depend on arguments are checked by the
    // attempts.
    let allowed = of(
        ALLOWED,
        &[Who::All, Who::Tasks, Who::Files, Who::Tcp, Who::Regions],
    );
    for row in FATAL.iter().filter(|row| row.tests.is_empty()) {
        assert!(!allowed.contains(&row.name), "{}", row.name);
    }
}

#[test]
fn a_compiler_has_threads_and_its_result_and_no_more() {
    for user in USERS {
        let mut plan = plan(Role::Compiler);
        plan.compile = Some(CompileLimits {
            data: 512 << 20,
            cpu: Duration::from_secs(60),
            file: 1 << 20,
        });
        let seen = run(user, plan, Act::Compile);
        seen.check(&[
            (Attempt::Nothing, "ok"),
            (Attempt::ReadPasswd, "EPERM"),
            (Attempt::MakeCode, "EPERM"),
            (Attempt::SocketTcp, "EPERM"),
            (Attempt::BecomeDumpable, "EPERM"),
            (Attempt::TooMuchMemory, "ENOMEM"),
        ]);
        assert_eq!(seen.ended["threads"], "true");
        assert_eq!(seen.ended["too large"], "EFBIG");
    }
}

#[test]
fn strict_refuses_what_best_effort_reports() {
    use Attempt::*;
    for layer in Layer::ALL {
        let mut plan = plan(Role::Zygote);
        plan.absent = vec![layer];
        let strict = run(User::Own, plan.clone(), Act::Report);
        match strict.error {
            Some(error) => {
                assert!(layer.is_required(), "{error}");
                let words = format!("cannot set up the strict jail: {layer} is unavailable: ");
                assert!(error.starts_with(&words), "{error}");
                assert!(!error.contains("--"), "{error}");
            }
            None => assert!(!layer.is_required(), "{layer}"),
        }
        plan.mode = Jail::BestEffort;
        let seen = attempts(User::Own, plan, &[Nothing, Wasm]);
        seen.check(&[(Nothing, "ok"), (Wasm, "ok")]);
        assert_eq!(seen.report.layers.len(), Layer::ALL.len());
        assert_eq!(seen.state(layer), LayerState::Unavailable);
        for other in Layer::ALL {
            if other != layer && other != Layer::Cgroup {
                assert_eq!(seen.state(other), LayerState::Enforced, "{layer}: {other}");
            }
        }
    }
}

#[test]
fn the_layers_do_not_depend_on_each_other() {
    use Attempt::*;
    for user in USERS {
        let mut plan = plan(Role::Zygote);
        plan.mode = Jail::BestEffort;
        plan.absent = vec![Layer::Seccomp];
        attempts(
            user,
            plan.clone(),
            &[ListRoot, ReadPasswd, Connect(1), Wasm],
        )
        .check(&[
            (ListRoot, "EACCES"),
            (ReadPasswd, "ENOENT"),
            (Connect(1), "EACCES"),
            (Wasm, "ok"),
        ]);
        plan.absent = vec![Layer::Seccomp, Layer::Landlock];
        attempts(user, plan.clone(), &[ReadPasswd, Connect(1), Wasm]).check(&[
            (ReadPasswd, "ENOENT"),
            (Connect(1), "ENETUNREACH"),
            (Wasm, "ok"),
        ]);
        plan.absent = vec![Layer::Seccomp, Layer::MountNamespace, Layer::NetNamespace];
        attempts(user, plan, &[ReadPasswd, ReadProc, Connect(1)]).check(&[
            (ReadPasswd, "EACCES"),
            (ReadProc, "EACCES"),
            (Connect(1), "EACCES"),
        ]);
    }
}

#[test]
fn off_puts_nothing_up() {
    let mut plan = plan(Role::Zygote);
    plan.mode = Jail::Off;
    let seen = attempts(User::Own, plan, &[Attempt::ReadPasswd, Attempt::MakeCode]);
    seen.check(&[(Attempt::ReadPasswd, "ok"), (Attempt::MakeCode, "ok")]);
    assert_eq!(seen.report, JailReport::default());
}

#[test]
fn a_granted_directory_is_all_there_is() {
    use Attempt::*;
    let outside = tempfile::tempdir().expect("a directory");
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    };
    open(outside.path(), 0o755);
    fs::write(outside.path().join("outside"), "secret").expect("a file");
    let granted = outside.path().join("granted");
    for user in USERS {
        for read_only in [false, true] {
            let _ = fs::remove_dir_all(&granted);
            fs::create_dir(&granted).expect("a directory");
            open(&granted, 0o777);
            fs::write(granted.join("file"), "granted").expect("a file");
            let mut plan = plan(Role::Zygote);
            plan.grants.files = true;
            let attempts = [
                ReadGranted,
                WriteGranted,
                RenameGranted,
                OutOfGranted,
                ReadPasswd,
                ListRoot,
                Connect(1),
                Wasm,
                SocketTcp,
            ];
            let scenario = Scenario {
                plan,
                act: Act::Attempts(attempts.to_vec()),
                before: Before::Usual,
                dir: Some((granted.display().to_string(), read_only)),
                ports: Vec::new(),
            };
            let (seen, _) = start(user, &scenario);
            let writes = if read_only { "EACCES" } else { "ok" };
            seen.check(&[
                (ReadGranted, "ok"),
                (WriteGranted, writes),
                (RenameGranted, writes),
                (OutOfGranted, "EACCES"),
                (ReadPasswd, "ENOENT"),
                (ListRoot, "EACCES"),
                (Connect(1), "EPERM"),
                (Wasm, "ok"),
                (SocketTcp, "ok"),
            ]);
            if matches!(user, User::Own) && rustix::process::geteuid().is_root() {
                assert_eq!(seen.user, 0);
                let detail = seen.detail(Layer::Identity);
                assert!(detail.contains("no capabilities"), "{detail}");
                assert!(detail.contains("cannot be mapped"), "{detail}");
            }
        }
    }
}

#[test]
fn a_granted_port_is_the_only_one() {
    use Attempt::*;
    let granted = TcpListener::bind("127.0.0.1:0").expect("a port");
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = |of: &TcpListener| of.local_addr().expect("an address").port();
    let (granted, other) = ((port(&granted), granted), (port(&other), other));
    for user in USERS {
        let mut plan = plan(Role::Zygote);
        plan.grants.tcp = true;
        let wanted = [
            (Connect(granted.0), "ok"),
            (Connect(other.0), "EACCES"),
            (Listen, "EPERM"),
            (SocketUdp, "EPERM"),
            (SocketUnix, "EPERM"),
            (ReadPasswd, "EPERM"),
        ];
        let scenario = Scenario {
            plan,
            act: Act::Attempts(wanted.map(|(attempt, _)| attempt).to_vec()),
            before: Before::Usual,
            dir: None,
            ports: vec![granted.0],
        };
        let (seen, _) = start(user, &scenario);
        seen.check(&wanted);
        assert_eq!(seen.state(Layer::NetNamespace), LayerState::Unavailable);
    }
}

#[test]
fn a_grant_that_was_not_planned_is_refused() {
    let scenario = Scenario {
        plan: plan(Role::Worker),
        act: Act::Attempts(vec![Attempt::Nothing]),
        before: Before::Usual,
        dir: None,
        ports: vec![1],
    };
    let (_, text) = start(User::Own, &scenario);
    assert!(text.contains("NotPlanned"), "{text}");
}

#[test]
fn only_root_chooses_who_a_worker_is() {
    let mut chosen = plan(Role::Worker);
    chosen.identity = Some((1234, 1235));
    let refused = run(User::Nobody, chosen.clone(), Act::Report);
    let error = refused.error.expect("it may not");
    assert!(
        error.contains("cannot run as user 1234 and group 1235"),
        "{error}"
    );
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let seen = run(User::Own, chosen.clone(), Act::Report);
    assert_eq!((seen.user, seen.group), (1234, 1235), "{seen:?}");
    chosen.grants.files = true;
    let seen = run(User::Own, chosen.clone(), Act::Report);
    assert_eq!((seen.user, seen.group), (1234, 1235));
    chosen.identity = Some((0, 0));
    let seen = run(User::Own, chosen, Act::Report);
    assert_eq!((seen.user, seen.error), (0, None));
    let seen = run(User::Own, plan(Role::Worker), Act::Report);
    assert_eq!((seen.user, seen.group), (65534, 65534));
    // A separate user; except for a configured one, and if directories are granted.
    let mut own = plan(Role::Worker);
    own.own_user = Some(0x7800_0007);
    let seen = run(User::Own, own.clone(), Act::Report);
    assert_eq!((seen.user, seen.group), (0x7800_0007, 0x7800_0007));
    own.grants.files = true;
    let seen = run(User::Own, own.clone(), Act::Report);
    assert_eq!(seen.user, 0);
    // Root's files belong to that user if they are mapped.
    own.grants.mapped = true;
    let seen = run(User::Own, own.clone(), Act::Report);
    assert_eq!((seen.user, seen.group), (0x7800_0007, 0x7800_0007));
    assert!(seen.detail(Layer::Identity).contains("count as its own"));
    own.identity = Some((1234, 1235));
    let seen = run(User::Own, own, Act::Report);
    assert_eq!((seen.user, seen.group), (1234, 1235));
}

#[test]
fn what_it_was_started_with_is_noticed() {
    let scenario = Scenario {
        plan: plan(Role::Zygote),
        act: Act::Report,
        before: Before::Leak,
        dir: None,
        ports: Vec::new(),
    };
    let error = start(User::Own, &scenario).0.error.expect("it is noticed");
    assert!(
        error.contains("descriptors is partial: inherited: "),
        "{error}"
    );
}

#[test]
fn a_system_may_refuse_namespaces() {
    use LayerState::{Enforced, Partial, Unavailable};
    let root = rustix::process::geteuid().is_root();
    for user in USERS {
        let privileged = root && matches!(user, User::Own);
        for before in [
            Before::NoUnshare,
            Before::NoUserNamespace,
            Before::OnlyUserNamespace,
        ] {
            let scenario = Scenario {
                plan: plan(Role::Zygote),
                act: Act::Attempts(vec![Attempt::Wasm, Attempt::ReadPasswd]),
                before,
                dir: None,
                ports: Vec::new(),
            };
            let (seen, _) = start(user, &scenario);
            // Strict, because the required layers do not depend on them.
            seen.check(&[(Attempt::Wasm, "ok"), (Attempt::ReadPasswd, "EPERM")]);
            let (of_user, of_others) = match before {
                Before::NoUserNamespace if privileged => (Unavailable, Enforced),
                Before::OnlyUserNamespace => (Enforced, Unavailable),
                _ => (Unavailable, Unavailable),
            };
            assert_eq!(seen.state(Layer::UserNamespace), of_user, "{seen:#?}");
            for layer in [
                Layer::PidNamespace,
                Layer::NetNamespace,
                Layer::IpcNamespace,
                Layer::MountNamespace,
            ] {
                assert_eq!(
                    seen.state(layer),
                    of_others,
                    "{user:?} {before:?} {seen:#?}"
                );
                if of_others != Enforced {
                    let detail = seen.detail(layer);
                    assert!(detail.contains("not permitted"), "{detail}");
                }
            }
            assert_ne!(seen.state(Layer::Identity), Partial);
        }
    }
}

#[test]
fn a_worker_dies_with_its_parent() {
    for absent in [Vec::new(), vec![Layer::PidNamespace]] {
        for act in [Act::Orphan, Act::Outlive] {
            let mut plan = plan(Role::Zygote);
            plan.absent = absent.clone();
            let scenario = Scenario {
                plan,
                act,
                before: Before::Usual,
                dir: None,
                ports: Vec::new(),
            };
            let (seen, text) = start(User::Own, &scenario);
            assert_eq!(seen.error, None);
            assert!(!text.contains("survived"), "{text}");
        }
    }
}

/// `cargo test --release -- --ignored --nocapture jail::tests::cost`
#[test]
#[ignore = "prints times"]
fn cost() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("open");
    for user in USERS {
        for (files, tcp) in [(false, false), (true, false), (true, true)] {
            let mut plan = plan(Role::Zygote);
            plan.grants = Grants {
                files,
                mapped: false,
                tcp,
                talks: false,
                regions: false,
            };
            let scenario = Scenario {
                plan,
                act: Act::Cost,
                before: Before::Usual,
                dir: files.then(|| (directory.path().display().to_string(), false)),
                ports: if tcp { vec![80] } else { Vec::new() },
            };
            let mut of_all = BTreeMap::<String, Vec<Duration>>::new();
            for _ in 0..15 {
                for (what, time) in start(user, &scenario).0.ended {
                    let time = time.parse().expect("nanoseconds");
                    of_all
                        .entry(what)
                        .or_default()
                        .push(Duration::from_nanos(time));
                }
            }
            for (what, mut times) in of_all {
                times.sort_unstable();
                let (least, median) = (times[0], times[times.len() / 2]);
                println!("{user:?}, files {files}, tcp {tcp}: {what}: {median:?}, least {least:?}");
            }
        }
    }
}
