//! The invariants of ARCHITECTURE.md that neither crates nor lints check, read off the
//! sources.

use crate::support::repo;
use std::fs;
use std::path::{Path, PathBuf};

/// Code without comments, line by line.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
}

/// The Rust files of the test binary, each with the file that should declare it.
fn test_files(folder: &Path, parent: &Path, files: &mut Vec<(PathBuf, PathBuf)>) {
    for entry in fs::read_dir(folder).expect("a folder of tests") {
        let path = entry.expect("an entry").path();
        let module = path.with_extension("rs");
        if path.is_dir() {
            // Packages of their own are not modules.
            if !path.join("Cargo.toml").exists() {
                let inner = path.join("mod.rs");
                let inner = if inner.exists() { inner } else { module };
                test_files(&path, &inner, files);
            }
        } else if path == module && path != parent {
            files.push((path, parent.to_owned()));
        }
    }
}

#[test]
fn wire_does_no_input_or_output() {
    let io = ["std::io", "std::fs", "std::os", "tokio::", "rustix::"];
    let mut files = 0;
    for entry in fs::read_dir(repo("runner/process/src/wire")).expect("a folder of the sources") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a source file");
        files += 1;
        for line in code(&text) {
            let found = io.iter().find(|it| line.contains(**it));
            assert!(found.is_none(), "{}: {line}", path.display());
        }
    }
    assert!(files > 3, "the folder has moved");
}

#[test]
fn every_test_file_is_part_of_the_binary() {
    let mut files = Vec::new();
    test_files(&repo("tests"), &repo("tests/main.rs"), &mut files);
    assert!(files.len() > 50, "{files:?}");
    for (path, parent) in files {
        let module = path.file_stem().and_then(|it| it.to_str()).expect("UTF-8");
        let above = fs::read_to_string(&parent).expect("the module above");
        let declared = [format!("mod {module};"), format!("pub mod {module};")];
        assert!(
            above
                .lines()
                .any(|line| declared.iter().any(|it| it == line)),
            "{} does not declare {}",
            parent.display(),
            path.display()
        );
    }
}

#[test]
fn what_tests_share_has_no_tests() {
    let mut files = Vec::new();
    test_files(&repo("tests"), &repo("tests/main.rs"), &mut files);
    for (path, _) in files {
        let text = fs::read_to_string(&path).expect("a source file");
        let has_tests = code(&text).any(|line| {
            let line = line.trim_start();
            line.starts_with("#[test]") || line.starts_with("#[tokio::test")
        });
        let folder = path.parent().expect("a folder");
        let is_module = folder == repo("tests");
        assert!(
            has_tests == is_module,
            "{} has tests: {has_tests}",
            path.display()
        );
    }
}

/// What an option of the command is, its user is told by the command.
#[test]
fn the_library_names_no_option_of_the_command() {
    for part in ["types", "sys", "sandbox", "process", "wrun"] {
        let mut files = Vec::new();
        let folder = repo(&format!("runner/{part}/src"));
        test_files(&folder, &folder.join("lib.rs"), &mut files);
        assert!(files.len() > 5, "{part} has moved");
        for (path, _) in files {
            let text = fs::read_to_string(&path).expect("a source file");
            if path.components().any(|it| it.as_os_str() == "tests") {
                continue;
            }
            for line in code(&text) {
                let option = line.split("--").skip(1).any(|rest| {
                    let first = rest.chars().next();
                    first.is_some_and(|first| first.is_ascii_lowercase())
                });
                assert!(!option, "{} has an option: {line}", path.display());
            }
        }
    }
}
