//! What a test needs and a machine may lack: a program, guests that are not committed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Tells that a test, or a part of it, is skipped because something is missing. Panics
/// where `WRUN_REQUIRE_<WHAT>` is 1: nothing required is skipped.
#[track_caller]
pub(crate) fn missing(what: &str, why: &str) {
    let variable = format!("WRUN_REQUIRE_{}", what.to_uppercase().replace('-', "_"));
    let required = std::env::var(&variable).is_ok_and(|value| value == "1");
    assert!(!required, "{variable} is 1, but {why}");
    println!("SKIPPED: {why} (with {variable}=1 this fails the test)");
}

/// The first of these programs that is in a directory of `PATH`.
pub(crate) fn find(names: &[&str]) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    names
        .iter()
        .flat_map(|name| std::env::split_paths(&folders).map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
}

/// Whether this program is available; where it is not, [`missing`] tells.
#[track_caller]
pub(crate) fn available(program: &str) -> bool {
    let found = find(&[program]).is_some();
    if !found {
        missing(program, &format!("there is no {program}"));
    }
    found
}

/// The path of a Python that has these modules and functions (`socket.recv_fds`); where
/// there is none, [`missing`] tells.
#[track_caller]
pub(crate) fn python(needed: &[&str]) -> Option<String> {
    let code = format!(
        "import os, socket, sys; {}; print(sys.executable)",
        needed.join("; ")
    );
    let output = Command::new("python3").args(["-c", &code]).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        missing(
            "python3",
            &format!("there is no python3 with {}", needed.join(" and ")),
        );
        return None;
    };
    let path = String::from_utf8(output.stdout).unwrap();
    Some(path.trim().to_owned())
}

/// Tells that a guest which is too big to commit is not built.
#[track_caller]
pub(crate) fn not_built(guest: &Path) {
    let guest = guest.display();
    let why = format!("{guest} is not built: guest-tasks/build.sh python javascript builds it");
    missing("all-guests", &why);
}
