//! The tests of `tests/` that check a promise, run one by one.

use anyhow::{Context, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The program of all tests, as cargo builds it.
pub(crate) struct Suite(PathBuf);

/// The result of a test.
pub(crate) enum Went {
    Passed(Vec<String>),
    Failed(Vec<String>),
    /// It cannot run on this machine; the reason.
    Skipped(String),
}

impl Suite {
    pub(crate) fn build() -> anyhow::Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args([
                "test",
                "--release",
                "-p",
                "wrun-cli",
                "--test",
                "integration",
            ])
            .args(["--no-run", "--message-format", "json-render-diagnostics"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        ensure!(built.status.success(), "the tests could not be built");
        let said = String::from_utf8_lossy(&built.stdout);
        let program = said.lines().find_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            let named = message["target"]["name"] == "integration";
            Some(message["executable"].as_str()?.to_owned()).filter(|_| named)
        });
        Ok(Suite(program.context("cargo built no tests")?.into()))
    }

    /// Runs a test alone, so that others do not affect it.
    pub(crate) fn run(&self, name: &str, variable: Option<(&str, &str)>) -> anyhow::Result<Went> {
        let output = Command::new(&self.0)
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .envs(variable)
            // As cargo does.
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.0.display()))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            stdout.contains("running 1 test\n"),
            "there is no test {name}"
        );
        if let Some(why) = stdout
            .lines()
            .find_map(|line| Some(line.split_once("SKIPPED")?.1))
        {
            return Ok(Went::Skipped(why.trim_start_matches(": ").to_owned()));
        }
        // The output of a test continues the line that the harness began.
        let began = format!("test {name} ... ");
        let own = |line| str::trim(str::strip_prefix(line, &began).unwrap_or(line));
        let lines = || stdout.lines().chain(stderr.lines()).map(own);
        if output.status.success() {
            let own = lines().filter(|line| !is_the_harness(line));
            return Ok(Went::Passed(own.map(str::to_owned).collect()));
        }
        Ok(Went::Failed(lines().map(str::to_owned).collect()))
    }
}

fn is_the_harness(line: &str) -> bool {
    line.is_empty() || line == "ok" || line.starts_with("running ") || line.starts_with("test ")
}
