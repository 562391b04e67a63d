//! Where there is less than a Linux system usually has: containers and chroots without
//! `/dev` or `/proc`.

use crate::support::command::{Ran, Wrun, scratch};
use crate::support::{repo, tool, wrun};
use std::path::Path;
use std::process::Command;

/// How a process gets mounts of its own here; none, and the test is skipped, where it may not.
fn unshare() -> Option<&'static [&'static str]> {
    if !["unshare", "mount"].into_iter().all(tool::available) {
        return None;
    }
    let ways: [&[&str]; 2] = [&["-m"], &["-r", "-m"]];
    let way = ways.into_iter().find(|way| {
        let tried = Command::new("unshare")
            .args(*way)
            .args(["mount", "-t", "tmpfs", "none", "/dev"])
            .output();
        tried.is_ok_and(|tried| tried.status.success())
    });
    if way.is_none() {
        println!("SKIPPED: no mount namespace may be created (unshare -m)");
    }
    way
}

/// `wrun` with an empty folder in the place of one of the system's; a task's input is `in`.
fn without(folder: &str, way: &[&str], args: &[&str]) -> Ran {
    Wrun::program(Path::new("unshare"))
        .args(way)
        .args(["sh", "-c"])
        .arg("mount -t tmpfs none \"$1\" && shift && exec \"$@\"")
        .args(["sh", folder])
        .arg(wrun())
        .args(args)
        .stdin("in")
        .run()
}

fn guest(path: &str) -> String {
    repo("guest-tasks").join(path).display().to_string()
}

const STARTS: [[&str; 2]; 3] = [
    ["--mode", "thread"],
    ["--start", "fork"],
    ["--start", "exec"],
];

#[test]
fn nothing_depends_on_devices() {
    let Some(way) = unshare() else {
        return;
    };
    let scratch = scratch();
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let (hello, cat) = (guest("hello/hello.wat"), guest("cat/cat.wasm"));
    for start in STARTS {
        for (task, said) in [(&hello, "hello, in"), (&cat, "in")] {
            let [option, value] = start;
            let ran = without("/dev", way, &[option, value, "--no-cache", task]);
            ran.expect_code(0, &format!("{start:?} {task}"));
            assert!(ran.text().contains(said), "{start:?}: {ran:?}");
        }
    }
    without("/dev", way, &["compile", "-o", &file("code"), &hello]).expect_code(0, "compile");
    without("/dev", way, &["inspect", &hello]).expect_code(0, "inspect");
    let only = [
        "compare", "--only", "warm", "--only", "segfault", "--runs", "1", "--json",
    ];
    let mut args = only.to_vec();
    let json = file("json");
    args.extend([json.as_str(), hello.as_str()]);
    without("/dev", way, &args).expect_code(0, "compare");
}

/// The closed descriptor cannot be opened as usual.
#[test]
fn a_standard_stream_that_is_closed_needs_no_device() {
    let Some(way) = unshare() else {
        return;
    };
    let hello = guest("hello/hello.wat");
    for start in STARTS {
        for (closed, code, output, message) in [
            ("<&-", 0, "hello, ", ""),
            ("2>&-", 0, "hello, in", ""),
            (">&-", 125, "", "cannot write to stdout"),
            ("<&- >&- 2>&-", 125, "", ""),
        ] {
            let [option, value] = start;
            let script = format!("mount -t tmpfs none /dev && exec \"$@\" {closed}");
            let ran = Wrun::program(Path::new("unshare"))
                .args(way)
                .args(["sh", "-c", &script, "sh"])
                .arg(wrun())
                .args([option, value, "--no-cache", &hello])
                .stdin("in")
                .run();
            let what = format!("{start:?} {closed}");
            ran.expect_code(code, &what);
            assert_eq!(ran.text(), output, "{what}");
            assert!(ran.stderr.contains(message), "{what}: {ran}");
        }
    }
}

#[test]
fn what_needs_proc_says_so_and_the_rest_does_without() {
    let Some(way) = unshare() else {
        return;
    };
    let scratch = scratch();
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let (hello, cat) = (guest("hello/hello.wat"), guest("cat/cat.wasm"));
    let component = guest("context/context.wasm");
    for (task, said) in [
        (&hello, "hello, in"),
        (&cat, "in"),
        (&component, "bytes 2\n"),
    ] {
        for cache in [&[][..], &["--no-cache"]] {
            let mut args = vec!["--mode", "thread"];
            args.extend(cache);
            args.push(task);
            let ran = without("/proc", way, &args);
            ran.expect_code(0, task);
            assert!(ran.text().contains(said), "{ran:?}");
        }
    }
    without("/proc", way, &["inspect", &hello]).expect_code(0, "inspect");
    let (code, json) = (file("code"), file("json"));
    let processes: [&[&str]; 5] = [
        &[&hello],
        &["--start", "exec", &hello],
        &["--jail", "off", &hello],
        &["compile", "-o", &code, &hello],
        &["compare", "--only", "warm", "--json", &json, &hello],
    ];
    for args in processes {
        let ran = without("/proc", way, args);
        ran.expect_code(125, &format!("{args:?}"));
        assert_eq!(
            ran.stderr,
            "wrun: processes of wrun need /proc, which is not mounted: mount it (mount -t proc \
             proc /proc), or run tasks in thread mode without limits on compiling\n",
            "{args:?}"
        );
        assert_eq!(ran.text(), "", "{args:?}");
    }
}

/// Only its content can be replaced.
#[test]
fn a_file_that_is_a_mount_can_be_a_result() {
    let Some(way) = unshare() else {
        return;
    };
    let scratch = scratch();
    let file = scratch.path().join("result");
    let name = file.display().to_string();
    let hello = guest("hello/hello.wat");
    let run = |args: &[&str]| {
        std::fs::write(&file, "what was there, and is longer than what comes").unwrap();
        let ran = Wrun::program(Path::new("unshare"))
            .args(way)
            .args(["sh", "-c"])
            .arg("mount --bind \"$1\" \"$1\" && shift && exec \"$@\"")
            .args(["sh", &name])
            .arg(wrun())
            .args(args)
            .stdin("in")
            .run();
        ran.expect_code(0, &format!("{args:?}"));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
        String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned()
    };
    for start in STARTS {
        let [option, value] = start;
        let output = run(&[option, value, "--output", &name, &hello]);
        assert_eq!(output, "hello, in", "{start:?}");
        let report = run(&[option, value, "--report", &name, &hello]);
        assert!(report.ends_with("}\n"), "{start:?}: {report}");
    }
    let artifact = run(&["compile", "-o", &name, &hello]);
    assert!(artifact.len() > 1000, "{artifact:?}");
}
