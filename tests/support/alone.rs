//! A test in a process of its own.

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
