//! Directories that root grants: its files are as reachable as in thread mode, and the
//! worker is not root; where that cannot be, it says so.

use crate::support::command::{Ran, Wrun, scratch};
use crate::support::processes::descendants;
use crate::support::{builder, guest, repo, tool, within};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use wrun::{DirGrant, Layer, Mode, Outcome, ProcessOptions, Report, Start, Task};

/// How the line begins that reports a worker which is root.
const AS_ROOT: &str = "wrun: the worker ran as root (uid 0), without capabilities: the owners \
                       of files in ";

/// Whether this is root, and an ordinary directory can be mapped here.
fn can_be_tried() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: these tests run as an ordinary user");
        return false;
    }
    let directory = scratch();
    let ran = files("process", directory.path(), &["list", "/d"]);
    ran.expect_code(0, "a directory");
    if ran.stderr.starts_with(AS_ROOT) {
        println!("SKIPPED: no id-mapped mounts here: {}", ran.stderr);
        return false;
    }
    true
}

fn with(mode: &str, directory: &Path) -> Wrun {
    let grant = format!("{}::/d", directory.display());
    Wrun::mode(mode).args(["--dir", &grant])
}

fn files(mode: &str, directory: &Path, args: &[&str]) -> Ran {
    let guest = repo("guest-tasks/files/files.wasm");
    with(mode, directory).arg(guest).args(args).run()
}

fn chown(path: &Path, user: u32) {
    std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
}

fn permit(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What is in a directory: files of root that no other user may read, and of others that
/// all users may.
fn furnish(directory: &Path) {
    permit(directory, 0o700);
    for (name, user, mode) in [("own", 0, 0o600), ("open", 1234, 0o666)] {
        let path = directory.join(name);
        fs::write(&path, name).unwrap();
        chown(&path, user);
        permit(&path, mode);
    }
    fs::create_dir(directory.join("sub")).unwrap();
    permit(&directory.join("sub"), 0o700);
    fs::write(directory.join("sub/deep"), "deep").unwrap();
    permit(&directory.join("sub/deep"), 0o600);
    std::os::unix::fs::symlink("sub/deep", directory.join("link")).unwrap();
    let shared = directory.join("shared");
    fs::create_dir(&shared).unwrap();
    chown(&shared, 1234);
    permit(&shared, 0o777);
}

/// All that is in a directory, with owners and modes.
fn inventory(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).unwrap().flatten() {
            let (path, about) = (entry.path(), entry.path().symlink_metadata().unwrap());
            let name = path.strip_prefix(directory).unwrap().display().to_string();
            let (user, group, mode) = (about.uid(), about.gid(), about.mode());
            found.push(format!("{name} {user} {group} {mode:o}"));
            if about.is_dir() {
                left.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn root_s_files_are_as_reachable_as_in_thread_mode() {
    if !can_be_tried() {
        return;
    }
    let calls: [&[&str]; 14] = [
        &["read", "/d/own"],
        &["read", "/d/open"],
        &["read", "/d/link"],
        &["list", "/d/sub"],
        &["append", "/d/own", "more"],
        &["write", "/d/open", "other"],
        &["write", "/d/new", "text"],
        &["write", "/d/shared/new", "text"],
        &["copy", "/d/own", "/d/sub/copy"],
        &["mkdir", "/d/made"],
        &["link", "new", "/d/made/link"],
        &["remove", "/d/sub/deep"],
        &["read", "/d/link"],
        &["list", "/d"],
    ];
    let mut seen = Vec::new();
    for mode in ["thread", "process --start exec", "process --start fork"] {
        let directory = scratch();
        furnish(directory.path());
        let mut said = Vec::new();
        for args in calls {
            let (mode, options) = mode.split_once(' ').unwrap_or((mode, ""));
            let ran = with(mode, directory.path())
                .args(options.split_whitespace())
                .arg(repo("guest-tasks/files/files.wasm"))
                .args(args)
                .run();
            assert_eq!(ran.misbehaviour(), None);
            said.push((ran.code(), ran.text(), ran.stderr));
        }
        seen.push((mode, said, inventory(directory.path())));
    }
    let (_, said, left) = &seen[0];
    assert!(left.iter().any(|it| it == "new 0 0 100644"), "{left:?}");
    for (mode, others_said, others_left) in &seen[1..] {
        for (args, (one, other)) in calls.iter().zip(said.iter().zip(others_said)) {
            assert_eq!(one, other, "{mode}: {args:?}");
        }
        assert_eq!(left, others_left, "{mode}");
    }
}

#[test]
fn read_only_directories_are_mapped_beside_others() {
    if !can_be_tried() {
        return;
    }
    let (one, other) = (scratch(), tempfile::tempdir_in("/dev/shm").unwrap());
    furnish(one.path());
    furnish(other.path());
    let script = [
        ("read", "/one/own", "", 0),
        ("read", "/other/sub/deep", "", 0),
        ("append", "/one/own", "more", 11),
        ("append", "/other/own", "more", 0),
        ("remove", "/one/own", "", 13),
        ("remove", "/other/own", "", 0),
    ];
    for (call, path, text, code) in script {
        for mode in ["thread", "process"] {
            let ran = Wrun::mode(mode)
                .args(["--dir", &format!("{}::/one:ro", one.path().display())])
                .args(["--dir", &format!("{}::/other", other.path().display())])
                .arg(repo("guest-tasks/files/files.wasm"))
                .args([call, path, text].iter().filter(|it| !it.is_empty()))
                .run();
            ran.expect_code(code, &format!("{mode} {call} {path}"));
            assert!(!ran.stderr.contains(AS_ROOT), "{ran}");
            furnish_again(other.path());
        }
    }
    assert_eq!(fs::read(one.path().join("own")).unwrap(), b"own");
}

fn furnish_again(directory: &Path) {
    fs::write(directory.join("own"), "own").unwrap();
    permit(&directory.join("own"), 0o600);
}

/// The user of a worker as the worker reports it.
fn identity(report: &Report) -> String {
    let jail = report.jail.as_ref().unwrap();
    let layers = jail.layers.iter();
    let identity = layers.filter(|it| it.layer == Layer::Identity);
    identity.map(|it| it.detail.clone()).collect()
}

#[test]
fn one_runner_has_workers_of_each_kind() {
    if !can_be_tried() {
        return;
    }
    let directory = scratch();
    furnish(directory.path());
    for start in [Start::Fork, Start::Exec] {
        let runner = builder(Mode::Process)
            .process(ProcessOptions::default().start(start))
            .build()
            .unwrap();
        let artifact = guest(&runner, "files/files.wasm");
        let run = |directory: &Path, path: &str| {
            let grant = DirGrant::new(directory).guest("/d");
            let task = Task::new(&artifact).dir(grant).args(["read", path]);
            runner.blocking_run(task).unwrap()
        };
        for _ in 0..3 {
            let mapped = run(directory.path(), "/d/own");
            assert_eq!(mapped.stdout.as_ref(), b"own", "{start}: {mapped:?}");
            assert!(identity(&mapped).starts_with("user 2013"), "{mapped:?}");
            assert!(identity(&mapped).contains("count as its own"));
            assert!(mapped.notes.is_empty(), "{:?}", mapped.notes);
            let as_root = run(Path::new("/proc"), "/d/version");
            assert!(as_root.stdout.starts_with(b"Linux"), "{start}: {as_root:?}");
            assert!(identity(&as_root).starts_with("user 0, "), "{as_root:?}");
            assert_eq!(as_root.notes.len(), 1, "{:?}", as_root.notes);
            let without = runner
                .blocking_run(Task::new(&artifact).args(["read", "/d"]))
                .unwrap();
            assert!(
                matches!(without.outcome, Outcome::Exited(10)),
                "{without:?}"
            );
            assert!(!identity(&without).contains("own"), "{without:?}");
        }
    }
}

#[test]
fn no_process_of_a_worker_is_root() {
    if !can_be_tried() {
        return;
    }
    let directory = scratch();
    let users = |(pid, _): (i32, u64)| -> Option<Vec<String>> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let ids = status
            .lines()
            .filter(|it| it.starts_with("Uid:") || it.starts_with("Gid:"));
        Some(
            ids.flat_map(|it| it.split_whitespace().skip(1).map(str::to_owned))
                .collect(),
        )
    };
    for start in ["exec", "fork"] {
        let running = with("process", directory.path())
            .args(["--start", start])
            .arg(repo("guest-tasks/cat/cat.wasm"))
            .silent_stdin()
            .start();
        running.await_task("process");
        // What was just started is root for a moment.
        let settled = within(Duration::from_secs(60), || {
            let all: Vec<_> = descendants(running.pid())
                .into_iter()
                .filter_map(users)
                .collect();
            let own =
                |it: &Vec<String>| it.len() == 8 && it.iter().all(|id| id.starts_with("2013"));
            !all.is_empty() && all.iter().all(own)
        });
        assert!(settled, "{start}");
    }
}

#[test]
fn a_worker_that_is_root_is_told_of() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: these tests run as an ordinary user");
    }
    // No kernel maps it.
    let proc = Path::new("/proc");
    let read = ["read", "/d/version"];
    let ran = files("process", proc, &read);
    ran.expect_code(0, "process");
    assert!(ran.text().starts_with("Linux"), "{ran}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran}");
    assert!(ran.stderr.starts_with(&format!("{AS_ROOT}/proc ")), "{ran}");
    assert!(ran.stderr.contains("--uid"), "{ran}");
    let thread = files("thread", proc, &read);
    thread.expect_code(0, "thread");
    assert_eq!((thread.text(), thread.stderr.as_str()), (ran.text(), ""));
    let guest = repo("guest-tasks/files/files.wasm");
    let quiet = with("process", proc)
        .arg("--quiet")
        .arg(&guest)
        .args(read)
        .run();
    quiet.expect_code(0, "quiet");
    assert_eq!(quiet.stderr, "");
    let stats = with("process", proc)
        .arg("--stats")
        .arg(&guest)
        .args(read)
        .run();
    let note = "  note      the worker ran as root (uid 0)";
    assert!(
        stats.stderr.lines().any(|it| it.starts_with(note)),
        "{stats}"
    );
    let directory = scratch();
    let report = directory.path().join("report");
    let reported = |options: &[&str]| -> (Ran, Vec<String>) {
        let ran = with("process", proc)
            .args(options)
            .args(["--report".as_ref(), report.as_os_str()])
            .arg(&guest)
            .args(read)
            .run();
        let json: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        let notes = json["notes"].as_array().unwrap();
        let text = |note: &Value| note.as_str().unwrap().to_owned();
        (ran, notes.iter().map(text).collect())
    };
    let (_, notes) = reported(&[]);
    assert!(
        notes[0].starts_with("the worker ran as root (uid 0)"),
        "{notes:?}"
    );
    // How it is avoided.
    let (ran, notes) = reported(&["--uid", "65534"]);
    ran.expect_code(0, "--uid");
    assert_eq!((ran.stderr.as_str(), notes.len()), ("", 0), "{notes:?}");
    // Without a jail it was requested; the report has it.
    let (ran, notes) = reported(&["--jail", "off"]);
    ran.expect_code(0, "--jail off");
    assert_eq!((ran.stderr.as_str(), notes.len()), ("", 1), "{notes:?}");
    assert!(notes[0].contains("all capabilities"), "{notes:?}");
}

/// Once, and not for each request.
#[test]
fn a_server_tells_of_workers_that_are_root() {
    use crate::support::web::{Site, path};
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: these tests run as an ordinary user");
    }
    let hello = "http-hello/http-hello.wasm";
    for (mode, options, notes) in [
        ("process", &["--dir", "/proc::/d"][..], 1),
        ("process", &["--dir", "/proc::/d", "--uid", "65534"], 0),
        ("process", &["--dir", "/proc::/d", "--jail", "off"], 0),
        ("thread", &["--dir", "/proc::/d"], 0),
    ] {
        let site = Site::of(mode, hello, options);
        for _ in 0..3 {
            site.get("/").expect(200, mode);
        }
        let said = site.stop().stderr;
        let note = AS_ROOT.replace("wrun: ", "wrun: /: ") + "/proc ";
        assert_eq!(said.matches(&note).count(), notes, "{options:?}: {said}");
        assert_eq!(said.contains("--uid N"), notes > 0, "{options:?}: {said}");
        assert_eq!(said.matches("root (uid 0)").count(), notes, "{said}");
    }
    // Each app that has the grant.
    let folder = scratch();
    let app = repo("guest-tasks").join(hello);
    let text = format!(
        "[[route]]\nroute = '/a'\napp = '{0}'\ndir = ['/proc::/d']\n\
         [[route]]\nroute = '/b'\napp = '{0}'\n",
        app.display()
    );
    let config = crate::support::command::write(folder.path(), "wrun.toml", text);
    let site = Site::start("process", &["--config", path(&config)]);
    for _ in 0..2 {
        site.get("/a").expect(200, "a");
        site.get("/b").expect(200, "b");
    }
    let said = site.stop().stderr;
    assert_eq!(said.matches("root (uid 0)").count(), 1, "{said}");
    assert!(said.contains("wrun: /a: the worker ran as root"), "{said}");
}

/// Mounts below a granted directory, in a mount namespace of their own.
#[test]
fn mounts_below_are_seen_or_the_worker_is_root() {
    if !can_be_tried() || !["unshare", "mount"].into_iter().all(tool::available) {
        return;
    }
    let directory = scratch();
    fs::create_dir(directory.path().join("sub")).unwrap();
    let cache = crate::support::command::shared_cache();
    let run = |mount: &str, mode: &str, path: &str| {
        let script = format!(
            "set -e; {mount}; exec \"$WRUN\" --mode {mode} --dir \"$DIR::/d\" \"$GUEST\" read {path}"
        );
        Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .env("WRUN", crate::support::wrun())
            .env("WRUN_CACHE_DIR", cache)
            .env("DIR", directory.path())
            .env("GUEST", repo("guest-tasks/files/files.wasm"))
            .output()
    };
    let tmpfs = "mount -t tmpfs none \"$DIR/sub\"; echo below > \"$DIR/sub/file\"; chmod 600 \"$DIR/sub/file\"";
    let unbindable = format!("{tmpfs}; mount --make-unbindable \"$DIR/sub\"");
    let procfs = "mount -t proc none \"$DIR/sub\"";
    for (mount, path, out, is_root) in [
        (tmpfs, "/d/sub/file", "below", false),
        (&*unbindable, "/d/sub/file", "below", true),
        (procfs, "/d/sub/version", "Linux", true),
    ] {
        for mode in ["thread", "process"] {
            let ran = match run(mount, mode, path) {
                Ok(ran) => ran,
                Err(error) => panic!("unshare: {error}"),
            };
            let (text, said) = (
                String::from_utf8_lossy(&ran.stdout).into_owned(),
                String::from_utf8_lossy(&ran.stderr).into_owned(),
            );
            if said.contains("unshare:") || said.contains("mount:") {
                return println!("SKIPPED: no mounts may be made: {said}");
            }
            assert!(text.starts_with(out), "{mode} {mount}: {text:?} {said:?}");
            let told = said.starts_with(AS_ROOT);
            assert_eq!(told, is_root && mode == "process", "{mode} {mount}: {said}");
        }
    }
}
