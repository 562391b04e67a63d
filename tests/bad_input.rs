//! Whatever a user hands to `wrun`, wrong files, wrong flags, full disks, odd
//! caches: one clear line on stderr, the documented code, and never a panic.

use crate::support::command::{Ran, Wrun, ordinary, scratch, write};
use crate::support::guests::too_many_instances;
use crate::support::{MODES, repo, tool};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Asserts one line on stderr that begins with `wrun: `, the code, and nothing on
/// stdout; returns the line.
#[track_caller]
fn one_line(ran: &Ran, code: i32, what: &str) -> String {
    ran.expect_code(code, what);
    assert!(
        ran.stderr.starts_with("wrun: ") && ran.stderr.ends_with('\n'),
        "{what}: stderr is not a complaint of wrun: {ran}"
    );
    assert_eq!(
        ran.stderr.lines().count(),
        1,
        "{what}: more than one line: {ran}"
    );
    assert!(ran.stdout.is_empty(), "{what}: there is output: {ran}");
    ran.stderr.trim_end().to_owned()
}

/// Runs a file in both modes: each must refuse it with this code and a line that
/// contains all of `words`; the lines must be the same.
#[track_caller]
fn refused(path: &Path, code: i32, words: &[&str]) {
    let lines = MODES.map(|mode| {
        let what = format!("{mode}: {}", path.display());
        let line = one_line(&Wrun::mode(mode).arg(path).run(), code, &what);
        for word in words {
            assert!(line.contains(word), "{what}: no {word:?} in {line:?}");
        }
        line
    });
    assert_eq!(lines[0], lines[1], "the modes say different things");
}

fn guest(name: &str) -> PathBuf {
    repo("guest-tasks").canonicalize().unwrap().join(name)
}

#[test]
fn a_path_that_is_not_a_task_file_is_refused() {
    let scratch = scratch();
    let folder = scratch.path();
    refused(&folder.join("missing.wasm"), 127, &["missing.wasm"]);
    refused(
        &folder.join("missing/missing.wasm"),
        127,
        &["missing/missing.wasm"],
    );
    refused(folder, 126, &["is a directory"]);
    refused(
        &write(folder, "empty.wasm", ""),
        126,
        &["wrun: ", "/empty.wasm: the task is empty"],
    );
    let text = "Dear reader, this is a letter.\n";
    refused(
        &write(folder, "letter.txt", text),
        126,
        &["/letter.txt: the task is not WebAssembly"],
    );
    refused(
        &write(folder, "script", "#!/bin/sh\nexec true\n"),
        126,
        &["/script: the task is not WebAssembly"],
    );
    refused(
        Path::new("/proc/self/exe"),
        126,
        &["/proc/self/exe: ", "not WebAssembly"],
    );
    refused(
        &write(folder, "bytes.wasm", [0xff; 4096]),
        126,
        &["/bytes.wasm: the task is not WebAssembly"],
    );
    refused(
        &write(folder, "open.wat", "(module (func"),
        126,
        &["/open.wat: the task looks like WAT text"],
    );
    // A file below a file.
    let below = write(folder, "file", "x").join("task.wasm");
    refused(&below, 126, &["task.wasm"]);
    let dangling = folder.join("dangling.wasm");
    symlink(folder.join("nowhere"), &dangling).unwrap();
    refused(&dangling, 127, &["dangling.wasm"]);
    let loops = folder.join("loops.wasm");
    symlink(&loops, &loops).unwrap();
    refused(&loops, 126, &["loops.wasm"]);
}

/// Each command that loads a task names the file, once.
#[test]
fn what_is_not_a_task_is_named_by_each_command() {
    let scratch = scratch();
    let empty = write(scratch.path(), "empty.wasm", "");
    let empty = empty.display().to_string();
    let hello = guest("hello-command/hello-command.wat");
    let hello = hello.display().to_string();
    let child = format!("x={empty}");
    for mode in MODES {
        let ran = Wrun::mode(mode).args(["--task", &child, &hello]).run();
        let line = one_line(&ran, 126, mode);
        let expected = format!("wrun: --task {child}: the task is empty");
        assert_eq!(line, expected, "{mode}");
    }
    for command in [
        &["inspect", &*empty][..],
        &["compile", "-o", "/dev/null", &empty],
        &["compare", &empty],
    ] {
        let line = one_line(&Wrun::new().args(command).run(), 126, command[0]);
        assert_eq!(line, format!("wrun: {empty}: the task is empty"));
    }
}

#[test]
fn a_name_cannot_forge_a_second_line() {
    let scratch = scratch();
    for name in [
        "a\nwrun: all is well",
        "a\u{1b}[31mred\u{1b}[0m",
        "\r",
        "ünï",
    ] {
        for mode in MODES {
            let ran = Wrun::mode(mode).arg(scratch.path().join(name)).run();
            let line = one_line(&ran, 127, &format!("{mode}: {name:?}"));
            assert!(!line.contains('\u{1b}'), "{mode}: {line:?}");
        }
    }
}

#[test]
fn a_truncated_module_at_every_kind_of_cut() {
    let scratch = scratch();
    for task in [
        "cat/cat.wasm",
        "digest/digest.wasm",
        "markdown/markdown.wasm",
    ] {
        let whole = fs::read(guest(task)).unwrap();
        for cut in [
            1,
            3,
            4,
            7,
            8,
            9,
            20,
            whole.len() / 4,
            whole.len() / 2,
            whole.len() - 100,
            whole.len() - 1,
        ] {
            let name = format!("{}-{cut}.wasm", task.replace('/', "-"));
            refused(&write(scratch.path(), &name, &whole[..cut]), 126, &[]);
        }
    }
}

#[test]
fn a_module_with_flipped_bytes_is_refused_or_runs_in_its_sandbox() {
    let scratch = scratch();
    let whole = fs::read(guest("cat/cat.wasm")).unwrap();
    for at in (8..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        let path = write(scratch.path(), "flipped.wasm", &bytes);
        let codes = MODES.map(|mode| {
            let ran = Wrun::mode(mode)
                .args(["--timeout", "20s", "--fuel", "10000000", "--no-cache"])
                .arg(&path)
                .stdin("some input\n")
                .run();
            assert!(
                ran.misbehaviour().is_none(),
                "{mode}: byte {at}: {:?}",
                ran.misbehaviour()
            );
            assert_ne!(
                ran.code(),
                125,
                "{mode}: byte {at}: wrun itself failed: {ran}"
            );
            ran.code()
        });
        assert_eq!(codes[0], codes[1], "byte {at}: the modes differ");
    }
}

#[test]
fn a_component_for_another_world_and_files_without_an_entry() {
    refused(&guest("hostile/other-world.wat"), 126, &["run"]);
    refused(&guest("hostile/no-entry.wat"), 126, &["no entry point"]);
    refused(
        &guest("hostile/empty-component.wat"),
        126,
        &["no entry point"],
    );
    refused(&guest("hostile/missing-memory.wat"), 126, &["memory"]);
    refused(
        &guest("hostile/missing-realloc.wat"),
        126,
        &["cabi_realloc"],
    );
    refused(&guest("hostile/wrong-signature.wat"), 126, &["run"]);
    let scratch = scratch();
    refused(
        &write(
            scratch.path(),
            "http.wat",
            r#"(component
                (import "wasi:http/types@0.2.0" (instance))
                (core module $m (func (export "f")))
                (core instance $i (instantiate $m))
                (func $f (canon lift (core func $i "f")))
                (instance $h (export "handle" (func $f)))
                (export "wasi:http/incoming-handler@0.2.0" (instance $h)))"#,
        ),
        126,
        &["answers HTTP requests", "wrun serve"],
    );
}

/// A core module that imports something and exports `run`.
fn importing(folder: &Path, name: &str, imports: &str) -> PathBuf {
    let text = format!(
        r#"(module {imports}
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            (func (export "run") (param i32 i32) (result i32) (i32.const 0)))"#
    );
    write(folder, name, text)
}

#[test]
fn an_import_that_nothing_provides_is_named() {
    let scratch = scratch();
    let folder = scratch.path();
    let import = |module: &str, name: &str| format!(r#"(import "{module}" "{name}" (func))"#);
    // The first of several.
    let two = import("env", "mystery") + &import("env", "enigma");
    let path = importing(folder, "two.wat", &two);
    refused(&path, 126, &["mystery"]);
    for interface in ["ports", "tasks"] {
        let path = importing(
            folder,
            &format!("{interface}.wat"),
            &import(&format!("wrun:task/{interface}@0.1.0"), "anything"),
        );
        refused(&path, 126, &[&format!("wrun:task/{interface}")]);
    }
    for (module, name) in [
        ("wrun:task/context@9.9.9", "info"),
        ("wasi:nn/graph@0.2.0", "load"),
        ("wasi_snapshot_preview1", "fd_teleport"),
        ("wasi_unstable", "fd_write"),
        ("wasi", "thread-spawn"),
    ] {
        let path = importing(folder, "one.wat", &import(module, name));
        refused(&path, 126, &[module.split('@').next().unwrap()]);
        // The same in a command.
        let command = format!(
            r#"(module {} (memory (export "memory") 1) (func (export "_start")))"#,
            import(module, name)
        );
        let path = write(folder, "command.wat", command);
        refused(&path, 126, &[module.split('@').next().unwrap(), name]);
    }
    refused(
        &guest("hostile/imports-later.wat"),
        126,
        &["wrun:task/later"],
    );
    refused(&guest("hostile/unknown-wasi.wat"), 126, &["fd_teleport"]);
}

#[test]
fn a_file_of_300_megabytes_is_refused_before_it_is_read() {
    let scratch = scratch();
    let path = scratch.path().join("huge.wasm");
    File::create(&path).unwrap().set_len(300 << 20).unwrap();
    refused(&path, 126, &["bytes, the limit"]);
    let line = one_line(&Wrun::new().arg("inspect").arg(&path).run(), 126, "inspect");
    assert!(line.contains("the limit"), "{line}");
    let line = one_line(
        &Wrun::new()
            .arg("compile")
            .arg(&path)
            .arg("-o")
            .arg(scratch.path().join("out"))
            .run(),
        126,
        "compile",
    );
    assert!(line.contains("the limit"), "{line}");
}

#[test]
fn every_flag_refuses_what_it_cannot_take() {
    let echo = guest("echo/echo.wat");
    let bad: [(&str, &[&str]); 13] = [
        ("--input", &[""]),
        ("--output", &[""]),
        ("--report", &[""]),
        ("--mode", &["", "fiber", "THREAD", "thread,process"]),
        (
            "--timeout",
            &[
                "",
                "0",
                "0s",
                "-1",
                "soon",
                "1e999",
                "nan",
                "inf",
                "5 lightyears",
            ],
        ),
        (
            "--fuel",
            &["", "0", "-1", "1.5", "18446744073709551616", "lots"],
        ),
        ("--max-memory", &["", "lots", "-1", "1XB", "MiB"]),
        ("--max-output", &["", "lots", "-1", "1XB", "MiB"]),
        ("--max-input", &["", "lots", "-1", "1XB", "MiB"]),
        ("--dir", &["", "::", "::/in", "a::", ":ro", ":rw"]),
        ("--env", &["", "=", "=x", "NOT_SET_ANYWHERE"]),
        (
            "--allow-tcp",
            &[
                "",
                "host",
                ":80",
                "127.0.0.1",
                "127.0.0.1:",
                "127.0.0.1:0",
                "127.0.0.1:65536",
                "127.0.0.1:http",
            ],
        ),
        ("--no-such-flag", &["x"]),
    ];
    for (flag, values) in bad {
        for value in values {
            let ran = Wrun::new().arg(format!("{flag}={value}")).arg(&echo).run();
            let what = format!("{flag}={value}");
            ran.expect_code(2, &what);
            assert!(
                ran.stderr.starts_with("error: ") && ran.stderr.contains(flag),
                "{what}: not the message of clap: {ran}"
            );
            assert!(ran.stdout.is_empty(), "{what}: {ran}");
        }
    }
    // Those that only the task's start can judge.
    let late: [(&str, &[&str]); 4] = [
        ("--input", &["/no/such/file", "/tmp"]),
        (
            "--dir",
            &["/no/such/dir", "/dev/null", "/no/such/dir::/in:ro"],
        ),
        ("--output", &["/no/such/dir/file", "/tmp"]),
        ("--report", &["/no/such/dir/file", "/tmp"]),
    ];
    for (flag, values) in late {
        for value in values {
            for mode in MODES {
                let what = format!("{mode}: {flag}={value}");
                let ran = Wrun::mode(mode)
                    .arg(format!("{flag}={value}"))
                    .arg(&echo)
                    .run();
                let code = if ["--output", "--report"].contains(&flag) {
                    125
                } else {
                    2
                };
                let line = one_line(&ran, code, &what);
                let named = value.split('=').next().unwrap().split("::").next().unwrap();
                assert!(
                    line.contains(named),
                    "{what}: the line does not name it: {line:?}"
                );
            }
        }
    }
    // Flags that take no value.
    for flag in ["--stats=yes", "--allow-precompiled=1", "--no-cache=1"] {
        let ran = Wrun::new().arg(flag).arg(&echo).run();
        ran.expect_code(2, flag);
    }
    let twice = ["--mode", "thread", "--mode", "process"];
    Wrun::new()
        .args(twice)
        .arg(&echo)
        .run()
        .expect_code(2, "--mode twice");
}

/// Of each option with a number, a time or a size, in the same words.
#[test]
fn numbers_say_what_is_expected() {
    let whole = |first: u64, last: u64| format!("expected a whole number from {first} to {last}");
    let time = "500ms, 5s, 2min, or a number of seconds";
    let some = format!("expected a time greater than zero: {time}");
    let any = format!("expected a time: {time}");
    let size = "expected a size: 512KiB, 64MiB, 2GiB, or a number of bytes".to_owned();
    let u32_max = u64::from(u32::MAX);
    let run = [
        ("--retries", "N", whole(0, 100)),
        ("--fuel", "N", whole(1, u64::MAX)),
        ("--max-tasks", "N", whole(0, 4096)),
        ("--max-depth", "N", whole(0, 64)),
        ("--spares", "N", whole(0, u64::MAX)),
        ("--reuse", "N", whole(1, u32_max)),
        ("--workers", "N", whole(1, 4096)),
        ("--gid", "N", whole(1, u32_max - 1)),
        ("--timeout", "TIME", some.clone()),
        ("--idle-timeout", "TIME", some.clone()),
        ("--compile-timeout", "TIME", some.clone()),
        ("--grace", "TIME", any),
        ("--max-memory", "SIZE", size.clone()),
        ("--max-total-memory", "SIZE", size.clone()),
        ("--max-output", "SIZE", size.clone()),
        ("--max-input", "SIZE", size.clone()),
        ("--compile-memory", "SIZE", size.clone()),
    ];
    let compare = [
        ("--runs", "N", whole(1, 10_000)),
        ("--budget", "TIME", some.clone()),
        ("--timeout", "TIME", some.clone()),
        ("--max-memory", "SIZE", size),
    ];
    let mut told = run.map(|it| ("run", it)).to_vec();
    told.extend(compare.map(|it| ("compare", it)));
    for (command, (option, kind, expected)) in told {
        for value in ["x", "-1", "99999999999999999999999x"] {
            let ran = Wrun::new()
                .arg(command)
                .arg(format!("{option}={value}"))
                .arg(guest("echo/echo.wat"))
                .run();
            ran.expect_code(2, option);
            let line =
                format!("error: invalid value '{value}' for '{option} <{kind}>': {expected}");
            assert_eq!(ran.stderr.lines().next(), Some(&*line), "{command}");
        }
    }
    // The ends of a range belong to it.
    for (option, outside) in [
        ("--retries", "101"),
        ("--workers", "0"),
        ("--workers", "4097"),
    ] {
        let ran = Wrun::new().args([option, outside]).arg("no.wasm").run();
        ran.expect_code(2, outside);
        assert!(ran.stderr.contains("expected a whole number"), "{ran}");
    }
    for (option, inside) in [
        ("--retries", "100"),
        ("--retries", "0"),
        ("--workers", "4096"),
    ] {
        let ran = Wrun::new().args([option, inside]).arg("no.wasm").run();
        ran.expect_code(127, inside);
    }
}

#[test]
fn a_task_whose_arguments_are_not_text() {
    use std::os::unix::ffi::OsStrExt;
    for mode in MODES {
        let ran = Wrun::mode(mode)
            .arg(guest("env/env.wasm"))
            .arg(std::ffi::OsStr::from_bytes(b"caf\xe9"))
            .run();
        let line = one_line(&ran, 2, mode);
        assert!(line.contains("UTF-8"), "{mode}: {line}");
    }
}

#[test]
fn a_full_disk_ends_the_task_with_one_line() {
    for mode in MODES {
        for (task, input) in [
            ("hello-command/hello-command.wat", 0),
            ("hello/hello.wat", 0),
            ("cat/cat.wasm", 10 << 20),
            ("echo/echo.wat", 1 << 20),
        ] {
            let what = format!("{mode}: --output /dev/full {task}");
            let ran = Wrun::mode(mode)
                .args(["--output", "/dev/full"])
                .arg(guest(task))
                .stdin(vec![b'x'; input])
                .run();
            if input > 0 || task.starts_with("hello") {
                let line = one_line(&ran, 125, &what);
                assert!(line.contains("/dev/full"), "{what}: {line}");
            }
            let full = File::options().write(true).open("/dev/full").unwrap();
            let what = format!("{mode}: stdout to /dev/full, {task}");
            let ran = Wrun::mode(mode)
                .arg(guest(task))
                .stdin(vec![b'x'; input])
                .stdout_to(full)
                .run();
            let line = one_line(&ran, 125, &what);
            assert!(line.contains("stdout"), "{what}: {line}");
        }
        // A task that never ends does not keep a full disk waiting.
        let ran = Wrun::mode(mode)
            .args(["--output", "/dev/full"])
            .arg(guest("hostile/stdout-flood.wat"))
            .run();
        one_line(&ran, 125, &format!("{mode}: a flood to a full disk"));
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ran = Wrun::new().arg("man").stdout_to(full).run();
    one_line(&ran, 125, "man");
}

/// Runs a task that works, in both modes.
#[track_caller]
fn works(cache: &Path, what: &str) {
    for mode in MODES {
        let ran = Wrun::mode(mode)
            .cache(cache)
            // That it is none is said where compiling takes long, as on a busy machine.
            .arg("--quiet")
            .arg(guest("hello/hello.wat"))
            .stdin("cache")
            .run();
        let what = format!("{mode}: {what}");
        ran.expect_code(0, &what);
        assert_eq!(ran.text(), "hello, cache", "{what}");
        assert!(ran.stderr.is_empty(), "{what}: {ran}");
    }
}

/// All entries below a cache directory.
fn entries(cache: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![cache.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files
}

/// The only entry below a cache directory for that mode.
fn entry(cache: &Path, mode: &str) -> PathBuf {
    let all = entries(cache);
    let is_for_threads = |path: &Path| path.to_string_lossy().ends_with("-epochs.wrun");
    let mut its = all
        .iter()
        .filter(|path| is_for_threads(path) == (mode == "thread"));
    match (its.next(), its.next()) {
        (Some(entry), None) => entry.clone(),
        _ => panic!("one task, an entry for each mode: {all:?}"),
    }
}

#[test]
fn a_cache_that_cannot_be_used_is_left_out() {
    let scratch = scratch();
    let folder = scratch.path();
    works(&write(folder, "file", "x").join("cache"), "below a file");
    works(&write(folder, "file", "x"), "a file");
    works(Path::new("/dev/null"), "a device");
    works(Path::new("/proc/self/cache"), "where nothing can be made");
    works(Path::new("/dev/full/cache"), "below a device");
    // root may write where permissions say no: then it is a cache, and works.
    let read_only = folder.join("read-only");
    fs::create_dir(&read_only).unwrap();
    fs::set_permissions(&read_only, fs::Permissions::from_mode(0o500)).unwrap();
    works(&read_only, "read-only");
    fs::set_permissions(&read_only, fs::Permissions::from_mode(0o700)).unwrap();
    // Filled first, then taken away.
    let filled = folder.join("filled");
    works(&filled, "made on demand");
    assert_eq!(
        entries(&filled).len(),
        2,
        "one task, an entry for each mode"
    );
    for entry in entries(&filled) {
        fs::set_permissions(&entry, fs::Permissions::from_mode(0o000)).unwrap();
    }
    works(&filled, "with entries that may not be read");
}

#[test]
fn a_component_of_too_many_instances_is_not_a_task() {
    let scratch = scratch();
    let task = write(scratch.path(), "many.wat", too_many_instances());
    let [thread, process] = MODES.map(|mode| {
        let ran = Wrun::mode(mode).arg(&task).run();
        ran.expect_code(126, mode);
        assert_eq!(ran.text(), "", "{mode}");
        ran.stderr
    });
    assert_eq!(thread, process);
    assert!(thread.contains("instances count exceeds limit"), "{thread}");
}

#[test]
fn a_full_disk_under_the_cache_is_like_no_cache() {
    if !tool::available("mount") {
        return;
    }
    let scratch = scratch();
    let disk = scratch.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16k,mode=700", "wrun-test"])
        .arg(&disk)
        .output()
        .is_ok_and(|mount| mount.status.success());
    if !mounted {
        println!(
            "SKIPPED: no tiny disk without the right to mount; /dev/full and unusable paths are tried elsewhere"
        );
        return;
    }
    let result = std::panic::catch_unwind(|| works(&disk, "a disk of 16 KiB"));
    let left = entries(&disk);
    let unmounted = std::process::Command::new("umount").arg(&disk).status();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    assert!(unmounted.unwrap().success(), "the disk is still in use");
    assert!(left.is_empty(), "left on a full disk: {left:?}");
}

#[test]
fn a_damaged_entry_is_compiled_anew() {
    for mode in MODES {
        damaged_entry(mode);
    }
}

fn damaged_entry(mode: &str) {
    let scratch = scratch();
    let cache = scratch.path().join("cache");
    works(&cache, "first");
    let entry = &entry(&cache, mode);
    let good = fs::read(entry).unwrap();
    for at in [
        0,
        100,
        good.len() / 3,
        good.len() / 2,
        good.len() - 60,
        good.len() - 30,
        good.len() - 1,
    ] {
        let mut bytes = good.clone();
        bytes[at] ^= 0x01;
        fs::write(entry, &bytes).unwrap();
        works(&cache, &format!("byte {at} of {} flipped", good.len()));
        assert_eq!(
            fs::read(entry).unwrap(),
            good,
            "byte {at} was flipped, and the entry was not replaced"
        );
    }
    for len in [0, 1, 55, 56, good.len() / 2, good.len() - 1] {
        fs::write(entry, &good[..len]).unwrap();
        works(&cache, &format!("cut to {len} bytes"));
        assert_eq!(fs::read(entry).unwrap(), good, "cut to {len}");
    }
    fs::write(entry, [good.clone(), vec![0; 10]].concat()).unwrap();
    works(&cache, "with bytes behind its end");
}

#[test]
fn code_that_others_could_have_written_is_not_run() {
    for mode in MODES {
        code_of_others(mode);
    }
}

fn code_of_others(mode: &str) {
    let scratch = scratch();
    let cache = scratch.path().join("cache");
    works(&cache, "first");
    let entry = &entry(&cache, mode);
    // A mark that using the entry would not leave, and replacing it would.
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let folder = entry.parent().unwrap();
    let before = inode(entry);
    works(&cache, "again");
    assert_eq!(inode(entry), before, "a good entry was not used");
    // An entry that others may write is replaced.
    fs::set_permissions(entry, fs::Permissions::from_mode(0o666)).unwrap();
    works(&cache, "an entry that others may write");
    assert_ne!(
        inode(entry),
        before,
        "an entry that others may write was used"
    );
    // A folder that others may write is left alone: what it holds is not used.
    let other = scratch.path().join("other");
    works(&other, "another");
    let foreign = &self::entry(&other, mode);
    fs::write(foreign, "not even an artifact").unwrap();
    let parent = foreign.parent().unwrap();
    fs::set_permissions(parent, fs::Permissions::from_mode(0o777)).unwrap();
    works(&other, "a folder that others may write");
    assert_eq!(
        fs::read(foreign).unwrap(),
        b"not even an artifact",
        "a folder that others may write was written to"
    );
    // An entry that is a link, to a good entry even, is not followed.
    let target = scratch.path().join("target");
    fs::rename(entry, &target).unwrap();
    symlink(&target, entry).unwrap();
    works(&cache, "an entry that is a link");
    assert!(
        fs::symlink_metadata(entry).unwrap().is_file(),
        "an entry that is a link was left in place"
    );
    // A fifo there delays no task.
    fs::remove_file(entry).unwrap();
    let made = std::process::Command::new("mkfifo").arg(entry).status();
    assert!(made.unwrap().success());
    works(&cache, "an entry that is a fifo");
    // A folder of another user is not trusted, though root may write there.
    if std::os::unix::fs::chown(folder, Some(65534), None).is_ok() {
        for entry in entries(&cache) {
            fs::write(entry, "not even an artifact").unwrap();
        }
        works(&cache, "a folder of somebody else");
        for entry in entries(&cache) {
            assert_eq!(
                fs::read(entry).unwrap(),
                b"not even an artifact",
                "a folder of somebody else was written to"
            );
        }
    }
}

#[test]
fn a_reader_that_is_gone_ends_wrun_silently() {
    for mode in MODES {
        for task in [
            "hello/hello.wat",
            "hello-command/hello-command.wat",
            "hostile/stdout-flood.wat",
        ] {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let ran = Wrun::mode(mode).arg(guest(task)).stdout_to(writer).run();
            let what = format!("{mode}: {task}");
            ran.expect_code(128 + 13, &what);
            assert!(ran.stderr.is_empty(), "{what}: {ran}");
        }
    }
    for args in [
        &["man"][..],
        &["completions", "bash"],
        &["inspect", "/proc/self/exe"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = Wrun::new().args(args).stdout_to(writer).run();
        assert!(ran.misbehaviour().is_none(), "{args:?}: {ran}");
        if args[0] != "inspect" {
            ran.expect_code(128 + 13, &format!("{args:?}"));
        }
    }
}

#[test]
fn descriptors_that_are_closed_from_the_start() {
    for mode in MODES {
        for closed in [">&-", "<&-", "2>&-", "<&- >&- 2>&-"] {
            let mut shell = std::process::Command::new("sh");
            let output = shell
                .arg("-c")
                .arg(format!("\"$0\" --mode {mode} \"$1\" {closed}"))
                .arg(crate::support::wrun())
                .arg(guest("cat/cat.wasm"))
                .env("WRUN_CACHE_DIR", crate::support::command::shared_cache())
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap();
            // Output that cannot be written is a failure, and reported as one where
            // there is anywhere to say it.
            let (code, message) = match closed {
                ">&-" => (
                    125,
                    "wrun: cannot write to stdout: Bad file descriptor (os error 9)\n",
                ),
                "<&- >&- 2>&-" => (125, ""),
                _ => (0, ""),
            };
            assert_eq!(
                output.status.code(),
                Some(code),
                "{mode}: {closed}: {output:?}"
            );
            assert_eq!(
                String::from_utf8_lossy(&output.stderr),
                message,
                "{mode}: {closed}: {output:?}"
            );
        }
    }
}

#[test]
fn a_fifo_in_a_granted_directory_delays_no_task() {
    for mode in MODES {
        let scratch = scratch();
        let fifo = scratch.path().join("fifo");
        let made = std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap();
        assert!(made.success());
        // So long that what is looked at first might not be what is opened.
        let roundabout = format!("/d/{}fifo", "./".repeat(2_500));
        let ran = Wrun::mode(mode)
            .args(["--timeout", "60s", "--dir"])
            .arg(format!("{}::/d", scratch.path().display()))
            .arg(guest("files/files.wasm"))
            .args(["read", &roundabout])
            .run();
        // What the guest says where it cannot read.
        ran.expect_code(10, &format!("{mode}: roundabout"));
        for task in ["read", "write"] {
            let ran = Wrun::mode(mode)
                .args(["--stats", "--timeout", "60s", "--dir"])
                .arg(format!("{}::/d", scratch.path().display()))
                .arg(guest("files/files.wasm"))
                .args([task, "/d/fifo"])
                .args((task == "write").then_some("x"))
                .run();
            let what = format!("{mode}: {task}");
            assert_ne!(ran.code(), 124, "{what} waited for somebody: {ran}");
            assert!(ran.stderr.contains("EACCES"), "{what}: {ran}");
            assert!(
                ran.stderr.contains("\"fifo\""),
                "{what} is not reported: {ran}"
            );
        }
    }
}

#[test]
fn an_output_file_is_left_alone_until_the_task_runs() {
    for mode in MODES {
        let scratch = scratch();
        let precious = write(scratch.path(), "precious", "keep me");
        let ran = Wrun::mode(mode)
            .arg("--output")
            .arg(&precious)
            .arg(guest("hostile/not-wasm.wasm"))
            .run();
        ran.expect_code(126, mode);
        assert_eq!(fs::read(&precious).unwrap(), b"keep me", "{mode}");
        let task = scratch.path().join("task.wat");
        fs::copy(guest("hello/hello.wat"), &task).unwrap();
        let before = fs::read(&task).unwrap();
        let ran = Wrun::mode(mode).arg("--output").arg(&task).arg(&task).run();
        ran.expect_code(2, mode);
        assert_eq!(fs::read(&task).unwrap(), before, "{mode}");
        // Shorter output than what was there leaves nothing of it.
        let ran = Wrun::mode(mode)
            .stdin("x")
            .arg("--output")
            .arg(&precious)
            .arg(guest("echo/echo.wat"))
            .run();
        ran.expect_code(0, mode);
        assert_eq!(fs::read(&precious).unwrap(), b"x", "{mode}");
    }
}

#[test]
fn a_stderr_that_takes_no_more_does_not_end_the_task() {
    for mode in MODES {
        let scratch = scratch();
        let report = scratch.path().join("report.json");
        let script = "exec \"$0\" --mode \"$1\" --report \"$2\" \"$3\" two words 2>/dev/full";
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(crate::support::wrun())
            .arg(mode)
            .arg(&report)
            .arg(guest("tcp-client/tcp-client.wasm"))
            .env("WRUN_CACHE_DIR", crate::support::command::shared_cache())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{mode}: {output:?}");
        let report = fs::read_to_string(&report).unwrap();
        assert!(report.contains("\"exited\""), "{mode}: {report}");
    }
}

#[test]
fn a_missing_file_may_be_meant_as_a_command() {
    let words = ["cannot read help: No such file", "`wrun --help` lists"];
    refused(Path::new("help"), 127, &words);
}

#[test]
fn a_dash_is_stdout_for_output_as_for_reports() {
    let scratch = scratch();
    for mode in MODES {
        let mut wrun = Wrun::new()
            .args(["--mode", mode, "--output", "-"])
            .arg(guest("hello-command/hello-command.wat"));
        wrun.command.current_dir(scratch.path());
        let ran = wrun.run();
        ran.expect_code(0, mode);
        assert_eq!(ran.text().trim_end(), "hello, command", "{mode}");
        assert!(!scratch.path().join("-").exists(), "{mode}");
    }
}

#[test]
fn a_grant_says_that_it_is_for_writing_as_well() {
    let scratch = scratch();
    let granted = scratch.path().join("granted");
    fs::create_dir(&granted).unwrap();
    for mode in MODES {
        for (suffix, code) in [(":rw", 0), ("", 0), (":ro", 11)] {
            let ran = Wrun::mode(mode)
                .args(["--dir", &format!("{}::/d{suffix}", granted.display())])
                .arg(guest("files/files.wasm"))
                .args(["write", "/d/new", suffix])
                .run();
            ran.expect_code(code, &format!("{mode} {suffix}"));
        }
        let written = fs::read_to_string(granted.join("new")).unwrap();
        assert_eq!(written, "", "{mode}: by the grant without a suffix, last");
    }
}

/// A directory that this user may not search is refused before the task starts; one that
/// may be searched but not listed is of use.
#[test]
fn a_directory_that_cannot_be_opened_is_refused_in_both_modes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(wrun) = ordinary(folder.path()) else {
        return;
    };
    let task = write(
        folder.path(),
        "files.wasm",
        std::fs::read(guest("files/files.wasm")).unwrap(),
    );
    let [closed, searched] = [("closed", 0o600), ("searched", 0o311)].map(|(name, mode)| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        write(&path, "file", "text");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    });
    let run = |mode: &str, dir: &Path| {
        let dir = format!("{}::/d", dir.display());
        wrun(mode)
            .args(["--dir", &dir])
            .arg(&task)
            .args(["read", "/d/file"])
            .run()
    };
    for mode in MODES {
        let line = one_line(&run(mode, &closed), 2, mode);
        let expected = format!(
            "wrun: cannot grant the directory {}: Permission denied (os error 13)",
            closed.display()
        );
        assert_eq!(line, expected, "{mode}");
        let ran = run(mode, &searched);
        ran.expect_code(0, mode);
        assert_eq!(ran.text(), "text", "{mode}");
    }
    // The folder is to be removed.
    for path in [&closed, &searched] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn two_directories_cannot_have_one_name() {
    let scratch = scratch();
    let [one, two] = ["one", "two"].map(|name| {
        let path = scratch.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path.display().to_string()
    });
    for mode in MODES {
        for (first, second) in [("/x", "/x"), ("/x", "/x/"), ("/", "//")] {
            let line = one_line(
                &Wrun::new()
                    .args(["--mode", mode])
                    .args(["--dir", &format!("{one}::{first}")])
                    .args(["--dir", &format!("{two}::{second}:ro")])
                    .arg(guest("hello-command/hello-command.wat"))
                    .run(),
                2,
                mode,
            );
            let name = first.to_owned();
            let expected = format!("two directories are granted under the name {name:?}");
            assert!(line.contains(&expected), "{mode}: {line}");
        }
    }
}
