//! What every test needs: where things are, and both modes.

use std::path::PathBuf;

/// Both modes, in the order that messages name them.
pub(crate) const MODES: [&str; 2] = ["thread", "process"];

/// The `wrun` that was built with these tests.
pub(crate) fn wrun() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_wrun"))
}

/// A file of the repository.
pub(crate) fn repo(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// Both modes, for tests of the library.
pub(crate) const BOTH: [wrun::Mode; 2] = [wrun::Mode::Thread, wrun::Mode::Process];

/// A runner's builder, with the worker that was built with these tests.
pub(crate) fn builder(mode: wrun::Mode) -> wrun::Builder {
    wrun::Runner::builder()
        .mode(mode)
        .process(wrun::ProcessOptions::default().worker(wrun()))
}

/// A runner with the defaults.
pub(crate) fn runner(mode: wrun::Mode) -> wrun::Runner {
    builder(mode).build().expect("a runner with the defaults")
}

/// Loads a guest by its path under `guest-tasks/`.
pub(crate) fn guest(runner: &wrun::Runner, path: &str) -> wrun::Artifact {
    match runner.blocking_load(repo("guest-tasks").join(path)) {
        Ok(artifact) => artifact,
        Err(error) => panic!("guest-tasks/{path} cannot be loaded: {error}"),
    }
}

/// Loads a guest from WAT text.
pub(crate) fn wat(runner: &wrun::Runner, name: &str, text: &str) -> wrun::Artifact {
    match runner.blocking_load_bytes(name, text.as_bytes().to_vec()) {
        Ok(artifact) => artifact,
        Err(error) => panic!("{name} cannot be loaded: {error}"),
    }
}

/// What every test of a misdeed ends with: the runner runs a good task.
pub(crate) fn still_works(runner: &wrun::Runner) {
    let echo = guest(runner, "echo/echo.wat");
    let report = runner
        .blocking_run(wrun::Task::new(&echo).input("still here"))
        .expect("the runner runs a good task after a bad one");
    assert_eq!(
        report.outcome.output().map(|output| output.as_bytes()),
        Some(&b"still here"[..]),
        "a good task after a bad one in {} mode: {}",
        runner.mode(),
        report.outcome
    );
}

/// Input that neither delivers nor ends.
pub(crate) fn silent() -> wrun::Input {
    struct Silent;
    impl tokio::io::AsyncRead for Silent {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Pending
        }
    }
    wrun::Input::reader(Silent)
}

/// Runs `test` in a process of its own: this test binary again, with only the
/// test called `name` in it, and an empty directory for temporary files. For
/// tests that look at the whole process (descriptors, mappings, threads, memory),
/// which others would disturb. What it prints is printed when it passes.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "WRUN_TEST_ALONE";
    if std::env::var(ALONE).is_ok_and(|alone| alone == name) {
        return test();
    }
    let temporary = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ALONE, name)
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{name}, alone in a process, {}:\n{stdout}{stderr}",
        output.status
    );
    // A test that was skipped says so on its stdout.
    print!("{stdout}{stderr}");
}

/// The processes that this process started and that exist, dead ones that
/// nobody reaped included.
pub(crate) fn children() -> Vec<i32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(
            list.split_whitespace()
                .map(|pid| pid.parse::<i32>().unwrap()),
        );
    }
    children
}
