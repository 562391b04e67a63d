//! What compiling may take, and what people are told of it: the options that limit it,
//! the line on a terminal, and that code is not kept where there is no cache.

use crate::compiling::{assert_limit, bomb, compilers, large_bomb, slow_to_compile};
use crate::support::command::{Wrun, scratch, write};
use crate::support::{BOTH, MODES, Schema, alone, builder, children, repo, still_works, within};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use wrun::{Cache, ErrorKind, Limit, Mode, Runner, Task};

fn report(path: &Path) -> Value {
    let report = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    Schema::load().check(&report).unwrap();
    report
}

// --- limits -----------------------------------------------------------------

const LIMITS: [(&str, &str, i32, &str, u64, &str); 2] = [
    (
        "--compile-timeout",
        "1500ms",
        124,
        "compile-time",
        1_500_000_000,
        "longer than the 1s 500ms it may take; --compile-timeout gives compiling more",
    ),
    (
        "--compile-memory",
        "128MiB",
        137,
        "compile-memory",
        128 << 20,
        "more memory than the 128.0 MiB it may have; --compile-memory gives compiling more",
    ),
];

#[test]
fn limits_on_compiling_hold_in_both_modes() {
    let scratch = scratch();
    let task = write(scratch.path(), "bomb.wasm", large_bomb());
    for (option, value, code, limit, number, words) in LIMITS {
        let said = MODES.map(|mode| {
            let to = scratch.path().join("report.json");
            let ran = Wrun::mode(mode)
                .args([option, value, "--timeout", "100ms", "--report"])
                .arg(&to)
                .arg(&task)
                .run();
            ran.expect_code(code, &format!("{mode}, {option}"));
            assert!(ran.stderr.contains(words), "{mode}: {}", ran.stderr);
            let report = report(&to);
            assert_eq!(
                report["outcome"],
                json!({"kind": "limit-exceeded", "limit": limit, "limit_value": number}),
                "{mode}"
            );
            assert_eq!(report["mode"], json!(mode));
            ran.stderr
        });
        assert_eq!(said[0], said[1], "{option}");

        let to = scratch.path().join("artifact");
        let ran = Wrun::new()
            .args(["compile", option, value, "-o"])
            .arg(&to)
            .arg(&task)
            .run();
        ran.expect_code(code, &format!("compile {option}"));
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
        assert!(!to.exists(), "an artifact of nothing");

        let ran = Wrun::new()
            .args(["compare", option, value, "--json", "-"])
            .arg(&task)
            .run();
        ran.expect_code(1, &format!("compare {option}"));
        let text = ran.text();
        assert!(words.split("; ").all(|it| text.contains(it)), "{text}");
    }
}

#[test]
fn a_limit_that_suffices_changes_nothing() {
    for mode in MODES {
        let ran = Wrun::mode(mode)
            .args([
                "--no-cache",
                "--compile-timeout",
                "10min",
                "--compile-memory",
                "1GiB",
            ])
            .arg(repo("guest-tasks/hello/hello.wat"))
            .stdin("limits")
            .run();
        ran.expect_code(0, mode);
        assert_eq!(
            (ran.text().as_str(), &*ran.stderr),
            ("hello, limits", ""),
            "{mode}"
        );
    }
}

#[test]
fn nonsense_is_refused() {
    for (option, value) in [
        ("--compile-timeout", "0"),
        ("--compile-timeout", "soon"),
        ("--compile-memory", "much"),
        ("--compile-memory", "1 pound"),
    ] {
        for command in [&["run"][..], &["compile", "-o", "/dev/null"], &["compare"]] {
            let ran = Wrun::new()
                .args(command)
                .args([option, value, "task.wasm"])
                .run();
            ran.expect_code(2, &format!("{command:?} {option} {value}"));
            assert!(ran.stderr.contains(option), "{}", ran.stderr);
        }
    }
    // The least that can be said.
    for mode in MODES {
        let ran = Wrun::mode(mode)
            .args(["--no-cache", "--compile-memory", "1"])
            .arg(repo("guest-tasks/hello/hello.wat"))
            .run();
        ran.expect_code(137, mode);
        assert!(
            ran.stderr.contains("--compile-memory"),
            "{mode}: {}",
            ran.stderr
        );
    }
}

#[test]
fn a_limit_has_thread_mode_compile_in_a_child_that_goes_with_the_runner() {
    alone(
        "compile_limits::a_limit_has_thread_mode_compile_in_a_child_that_goes_with_the_runner",
        || {
            for mode in BOTH {
                let runner = builder(mode).compile_memory(4 << 30).build().unwrap();
                let patient = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                let scratch = scratch();
                let task = write(scratch.path(), "bomb.wasm", large_bomb());
                patient.block_on(async {
                    let soon = Duration::from_millis(50);
                    let loading = tokio::time::timeout(soon, runner.load(&task)).await;
                    assert!(loading.is_err(), "a bomb was compiled");
                });
                assert!(
                    within(Duration::from_secs(60), || !compilers().is_empty()),
                    "{mode}: no compiler"
                );
                assert_eq!(runner.compiling(), 1, "{mode}");
                drop(runner);
                assert_eq!(children(), Vec::<i32>::new(), "{mode}");
            }
            let runner = builder(Mode::Thread)
                .compile_timeout(Duration::from_secs(1))
                .build()
                .unwrap();
            assert_limit(
                runner.blocking_load_bytes("bomb", large_bomb()),
                Limit::CompileTime,
            );
            assert_eq!((runner.compiling(), children()), (0, Vec::new()));
            still_works(&runner);
        },
    );
}

#[test]
fn without_a_program_to_compile_in_the_wait_ends() {
    // Not a worker itself, and none is named.
    let runner = Runner::builder()
        .mode(Mode::Thread)
        .compile_timeout(Duration::from_millis(200))
        .compile_memory(1)
        .build()
        .unwrap();
    let error = runner
        .blocking_load_bytes("bomb", bomb(7_000, 2_000))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LoadLimit, "{error}");
    assert_eq!(
        (error.limit(), error.limit_value()),
        (Some(Limit::CompileTime), Some(200_000_000))
    );
    assert_eq!(runner.compiling(), 0, "no load waits for it");
    let began = std::time::Instant::now();
    drop(runner);
    eprintln!("dropped in {:?}", began.elapsed());
}

// --- no cache ---------------------------------------------------------------

#[test]
fn why_a_user_has_no_cache_is_said() {
    let scratch = scratch();
    let slow = write(scratch.path(), "slow.wat", slow_to_compile());
    for mode in MODES {
        let mut wrun = Wrun::mode(mode).arg(&slow);
        wrun.command
            .env_remove("WRUN_CACHE_DIR")
            .env_remove("XDG_CACHE_HOME")
            .env("HOME", "home")
            .current_dir(scratch.path());
        let ran = wrun.run();
        ran.expect_code(0, mode);
        let said = "there is no cache directory: expected an absolute path in HOME, and it is \
                    \"home\"; WRUN_CACHE_DIR";
        assert!(ran.stderr.contains(said), "{mode}: {ran}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "{mode}");
    }
}

#[test]
fn a_server_says_that_its_code_is_not_cached() {
    use crate::support::web::Site;
    let app = repo("guest-tasks/http-api/http-api.wasm");
    let app = app.display().to_string();
    for mode in MODES {
        let site = Site::start_as(Wrun::new().cache(Path::new("/dev/null")), mode, &[&app]);
        for _ in 0..2 {
            site.get("/");
        }
        let said = site.stop().stderr;
        let note = "wrun: /: the compiled code is not cached: cannot make /dev/null/v4-";
        assert_eq!(said.matches(note).count(), 1, "{mode}: {said}");
        assert!(said.contains("WRUN_CACHE_DIR"), "{mode}: {said}");
        let site = Site::start(mode, &[&app]);
        site.get("/");
        let said = site.stop().stderr;
        assert!(!said.contains("not cached"), "{mode}: {said}");
    }
}

#[test]
fn that_each_run_compiles_is_said() {
    let scratch = scratch();
    let slow = write(scratch.path(), "slow.wat", slow_to_compile());
    let quick = repo("guest-tasks/hello/hello.wat");
    let shared = scratch.path().join("shared");
    let made = Wrun::new().cache(&shared).arg(&quick).run();
    made.expect_code(0, "a cache is made");
    for entry in fs::read_dir(&shared).unwrap() {
        let anybodys = fs::Permissions::from_mode(0o777);
        fs::set_permissions(entry.unwrap().path(), anybodys).unwrap();
    }
    let good = scratch.path().join("good");
    for mode in MODES {
        // Not a directory; one that others can write to.
        for (cache, why) in [
            (Path::new("/dev/null"), "cannot make /dev/null/v4-"),
            (&shared, "is writable by other users"),
        ] {
            let what = format!("{mode}, {}", cache.display());
            let run = || Wrun::mode(mode).cache(cache);
            let ran = run().arg(&slow).run();
            ran.expect_code(0, &what);
            assert_eq!(ran.stderr.lines().count(), 1, "{what}: {}", ran.stderr);
            for words in [
                "wrun: each run compiles, this one for ",
                why,
                "WRUN_CACHE_DIR",
            ] {
                assert!(ran.stderr.contains(words), "{what}: {}", ran.stderr);
            }
            let quiet = run().arg("--quiet").arg(&slow).run();
            assert_eq!(quiet.expect_code(0, &what).stderr, "", "{what}");
            let to = scratch.path().join("report.json");
            // It takes milliseconds, and more on a machine that has much else to do.
            let ran = run().arg("--report").arg(&to).arg(&quick).run();
            ran.expect_code(0, &what);
            let noticed = report(&to)["stats"]["compile_ns"].as_u64() > Some(100_000_000);
            assert_eq!(ran.stderr.contains("each run compiles"), noticed, "{what}");
            assert_eq!(report(&to)["notes"] != json!([]), noticed, "{what}");

            let ran = run()
                .args(["--stats", "--report"])
                .arg(&to)
                .arg(&slow)
                .run();
            let row = |name: &str| {
                let mut rows = ran
                    .stderr
                    .lines()
                    .filter_map(|line| line.strip_prefix("  "));
                rows.find_map(|row| row.strip_prefix(name)).map(str::trim)
            };
            assert!(row("compile ").is_some(), "{what}: {}", ran.stderr);
            let note = row("note ").unwrap_or_default();
            assert!(
                note.starts_with("the compiled code is not cached: ") && note.contains(why),
                "{what}: {}",
                ran.stderr
            );
            assert!(!ran.stderr.contains("each run"), "{what}: {}", ran.stderr);
            let report = report(&to);
            assert_eq!(report["notes"], json!([note]), "{what}");
            assert!(
                report["stats"]["compile_ns"].as_u64() > Some(100_000_000),
                "{report}"
            );
        }

        // Kept: told of the first time, and nothing the second.
        let mut times = Vec::new();
        for _ in 0..2 {
            let to = scratch.path().join("report.json");
            let ran = Wrun::mode(mode)
                .cache(&good)
                .arg("--report")
                .arg(&to)
                .arg(&slow)
                .run();
            assert_eq!(ran.expect_code(0, mode).stderr, "", "{mode}");
            let report = report(&to);
            assert_eq!(report["notes"], json!([]), "{mode}");
            times.push(report["stats"]["compile_ns"].clone());
        }
        assert!(times[0].is_u64() && times[1].is_null(), "{mode}: {times:?}");
        fs::remove_dir_all(&good).unwrap();
        // Not wanted, so nothing is lacking.
        let ran = Wrun::mode(mode).arg("--no-cache").arg(&slow).run();
        assert_eq!(ran.expect_code(0, mode).stderr, "", "{mode}");
    }
}

#[test]
fn an_embedder_learns_what_compiling_took() {
    let scratch = scratch();
    for mode in BOTH {
        let load = |cache| {
            let runner = builder(mode).cache(cache).build().unwrap();
            let artifact = runner
                .blocking_load_bytes("slow", slow_to_compile())
                .unwrap();
            let report = runner.blocking_run(Task::new(&artifact)).unwrap();
            let compiled = artifact.compiled();
            assert_eq!(
                report.stats.compile,
                compiled.as_ref().map(|compiled| compiled.time),
                "{mode}"
            );
            (compiled, report.notes)
        };
        let (compiled, notes) = load(Cache::Off);
        let compiled = compiled.expect("it was compiled");
        assert!(compiled.time > Duration::ZERO && compiled.not_kept.is_none());
        assert_eq!(notes, Vec::<String>::new());
        let (compiled, notes) = load(Cache::Directory("/dev/null".into()));
        let why = compiled
            .expect("it was compiled")
            .not_kept
            .expect("not kept");
        assert_eq!(
            notes,
            [format!("the compiled code is not cached: {why}")],
            "{mode}"
        );
        let kept = || Cache::Directory(scratch.path().join(mode.name()));
        assert!(load(kept()).0.expect("it was compiled").not_kept.is_none());
        assert_eq!(load(kept()), (None, Vec::new()), "{mode}: from the cache");
    }
}
