//! What a task that ended badly was refused is said in a line, with the option that grants
//! it; the same in both modes, and nothing where it would be a guess.

use crate::support::command::{Ran, Wrun, ordinary};
use crate::support::{MODES, repo, tool};

const NONE: &str = "no directory is granted (--dir), which may be why";

/// A guest of the tree, with options and arguments.
fn run(mode: &str, options: &[&str], guest: &str, args: &[&str]) -> Ran {
    Wrun::mode(mode)
        .args(options)
        .arg(repo(&format!("guest-tasks/{guest}")))
        .args(args)
        .run()
}

/// The lines of `wrun` itself.
fn said(ran: &Ran) -> Vec<&str> {
    let mut lines = ran
        .stderr
        .lines()
        .skip_while(|it| !it.starts_with("wrun: "));
    let first = lines.next().into_iter();
    first.chain(lines).collect()
}

#[test]
fn a_file_that_cannot_be_opened_is_explained() {
    for (guest, args, code) in [
        ("digest/digest.wasm", &["/in/x"][..], 1),
        ("files/files.wasm", &["read", "/in/x"], 10),
        ("files/files.wasm", &["list", "/"], 12),
    ] {
        for mode in MODES {
            let ran = run(mode, &[], guest, args);
            ran.expect_code(code, guest);
            let line = format!("wrun: the task exited with {code}; {NONE}");
            assert_eq!(said(&ran), [line], "{mode} {guest}");
            // Its own message comes first, and is whole.
            assert!(ran.stderr.contains("ENOTCAPABLE") || ran.stderr.contains("insufficient"));
            let quiet = run(mode, &["-q"], guest, args);
            quiet.expect_code(code, guest);
            assert_eq!(said(&quiet), [""; 0], "{mode} {guest}");
        }
    }
}

#[test]
fn what_both_streams_share_is_heard_as_well() {
    for mode in MODES {
        let script = "exec \"$@\" 2>&1";
        let mut wrun = Wrun::program(std::path::Path::new("sh"));
        wrun = wrun.args(["-c", script, "sh"]).arg(crate::support::wrun());
        let digest = repo("guest-tasks/digest/digest.wasm");
        let ran = wrun.args(["--mode", mode]).arg(digest).arg("/in/x").run();
        ran.expect_code(1, mode);
        assert!(ran.text().ends_with(&format!("{NONE}\n")), "{mode}: {ran}");
    }
}

#[test]
fn refused_accesses_are_named_with_their_option() {
    let tree = repo("guest-tasks/inputs/tree");
    let dir = format!("{}::/in:ro", tree.display());
    for mode in MODES {
        let read_only = run(
            mode,
            &["--dir", &dir],
            "files/files.wasm",
            &["write", "/in/new", "text"],
        );
        read_only.expect_code(11, mode);
        let said_of_it = said(&read_only);
        let line = "wrun: the task exited with 11; it was refused: changing \"new\" in a \
                    read-only directory (--dir without :ro)";
        assert_eq!(said_of_it, [line], "{mode}");
        let tcp = run(mode, &[], "tcp-client/tcp-client.wasm", &["127.0.0.1:9"]);
        tcp.expect_code(1, mode);
        let line = "wrun: the task exited with 1; it was refused: connecting to 127.0.0.1:9 \
                    (--allow-tcp 127.0.0.1:9)";
        assert_eq!(said(&tcp), [line], "{mode}");
    }
}

/// What the permissions of a file forbid is not said to be outside what is granted, with
/// WASI 0.1 and 0.2.
#[test]
fn permissions_are_told_apart_from_grants() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let Some(wrun) = ordinary(folder.path()) else {
        return;
    };
    let path = |name: &str| folder.path().join(name);
    fs::copy(repo("guest-tasks/files/files.wasm"), path("files.wasm")).unwrap();
    // Opens `file-0`, and traps where it cannot.
    let open = "(call $open (local.get $root) (i32.const 0) (i32.const 1024) (i32.const 6)
          (i32.const 0) (i32.const 1) (i32.const 128))
        (if (i32.load8_u (i32.const 128)) (then unreachable))";
    fs::write(path("open.wat"), crate::files::component(open)).unwrap();
    fs::create_dir_all(path("in/closed")).unwrap();
    fs::write(path("in/file-0"), "x").unwrap();
    fs::write(path("in/closed/file"), "x").unwrap();
    let set = |name: &str, mode| {
        fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
    };
    for (name, mode) in [("in/file-0", 0o000), ("in/closed", 0o000), ("in", 0o555)] {
        set(name, mode);
    }
    let folder_of_pipe = path("pipes");
    fs::create_dir(&folder_of_pipe).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(folder_of_pipe.join("file-0"))
        .status();
    assert!(made.unwrap().success());
    let dir = |name: &str| format!("{}::/in", path(name).display());
    let forbid = |name: &str| {
        format!(
            "it was refused: access to {name:?}: its permissions, or those of a directory above \
             it, forbid it"
        )
    };
    let special = "it was refused: opening \"file-0\", which is neither a file nor a directory; \
                   tasks may not";
    for mode in MODES {
        for (granted, args, code, expected) in [
            (
                "in",
                &["files.wasm", "read", "/in/file-0"][..],
                10,
                &forbid("file-0")[..],
            ),
            (
                "in",
                &["files.wasm", "append", "/in/file-0", "x"],
                11,
                &forbid("file-0"),
            ),
            (
                "in",
                &["files.wasm", "read", "/in/closed/file"],
                10,
                &forbid("closed/file"),
            ),
            (
                "in",
                &["files.wasm", "mkdir", "/in/new"],
                13,
                &forbid("new"),
            ),
            (
                "in",
                &["files.wasm", "read", "/in/../files.wasm"],
                10,
                "it was refused: the path \"../files.wasm\" is outside what is granted (--dir)",
            ),
            ("in", &["open.wat"], 134, &forbid("file-0")),
            ("pipes", &["files.wasm", "read", "/in/file-0"], 10, special),
            ("pipes", &["open.wat"], 134, special),
        ] {
            let ran = wrun(mode)
                .args(["--dir", &dir(granted)])
                .arg(path(args[0]))
                .args(&args[1..])
                .run();
            ran.expect_code(code, mode);
            assert!(
                ran.stderr.ends_with(&format!("{expected}\n")),
                "{mode} {args:?}: {ran}"
            );
        }
    }
    // The folder is to be removed.
    set("in", 0o755);
    set("in/closed", 0o755);
}

#[test]
fn nothing_is_guessed() {
    let tree = repo("guest-tasks/inputs/tree");
    let dir = format!("{}::/in:ro", tree.display());
    for mode in MODES {
        for (options, guest, args, code) in [
            // It looked for directories, and says that its arguments are wrong.
            (&[][..], "files/files.wasm", &[][..], 2),
            (&[], "csv-stats/csv-stats.wasm", &["region"], 2),
            // It answers by its code, or with a message of its own.
            (&[], "hostile/exit-code.wat", &["7"], 7),
            // There is a directory, and no such file in it.
            (
                &["--dir", &dir],
                "files/files.wasm",
                &["read", "/in/no"],
                10,
            ),
            // All went well.
            (&[], "env/env.wasm", &[], 0),
        ] {
            let ran = run(mode, options, guest, args);
            assert_eq!(said(&ran), [""; 0], "{mode} {guest} {args:?}: {ran}");
            if guest != "hostile/exit-code.wat" {
                ran.expect_code(code, guest);
            }
        }
        // A trap has a reason of its own.
        let ran = run(mode, &[], "hostile/panic/panic.wasm", &[]);
        assert_eq!(ran.code(), 134, "{mode}: {ran}");
        assert!(!ran.stderr.contains("--dir"), "{mode}: {ran}");
    }
}

/// Guests with a runtime of their own, where they were built
/// (`guest-tasks/build.sh python javascript`).
#[test]
fn runtimes_that_always_look_for_directories_are_not_blamed() {
    for guest in ["primes.wasm", "template.wasm"] {
        let path = repo("target/guests").join(guest);
        if !path.exists() {
            tool::not_built(&path);
            continue;
        }
        for mode in MODES {
            let ran = Wrun::mode(mode).arg(&path).stdin("many").run();
            ran.expect_code(1, guest);
            assert!(!ran.stderr.contains("--dir"), "{mode} {guest}: {ran}");
        }
    }
}
