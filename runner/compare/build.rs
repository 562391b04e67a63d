//! Tells the crate what it was built from.

#![expect(clippy::disallowed_methods, reason = "git tells the commit")]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Not at each commit, but whenever the sources change, which compiles all anyway:
    // what was built before a commit says that it was built from something else.
    let in_checkout = Path::new("../../Cargo.lock").exists();
    let sources = if in_checkout { ".." } else { "src" };
    println!("cargo:rerun-if-changed={sources}");
    println!("cargo:rerun-if-env-changed=WRUN_COMMIT");
    let commit = std::env::var("WRUN_COMMIT").ok().or_else(commit);
    println!("cargo:rustc-env=WRUN_COMMIT={}", commit.unwrap_or_default());

    if in_checkout {
        println!("cargo:rerun-if-changed=../../Cargo.lock");
    }
    let wasmtime = wasmtime(Path::new("../../Cargo.lock"));
    println!("cargo:rustc-env=WRUN_WASMTIME={wasmtime}");
}

/// The commit of the checkout; with a mark when the sources differ from it.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&[
        "status",
        "--porcelain",
        "--",
        "..",
        "../../wit",
        "../../Cargo.lock",
    ])?;
    Some(if changed.is_empty() {
        commit
    } else {
        format!("{commit}, changed")
    })
}

/// The version of wasmtime, as locked; where nothing is, the one that is asked for.
fn wasmtime(lock: &Path) -> String {
    let lock = std::fs::read_to_string(lock).unwrap_or_default();
    let mut lines = lock.lines();
    let found = lines.any(|line| line == "name = \"wasmtime\"");
    let version = lines
        .next()
        .filter(|_| found)
        .and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    version.unwrap_or("48").to_owned()
}
