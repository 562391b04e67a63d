//! The invariants of ARCHITECTURE.md that neither the compiler nor a lint
//! checks, read off the sources.

use crate::support::repo;
use std::fs;
use std::path::{Path, PathBuf};

/// The Rust files below a folder of the runner's sources.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).expect("a folder of the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                files.push((path, text));
            }
        }
    }
    let mut files = Vec::new();
    collect(&repo("runner").join(folder), &mut files);
    assert!(!files.is_empty(), "no sources in {folder}");
    files
}

/// Code without comments, line by line.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
}

fn assert_free_of(folder: &str, words: &[&str], why: &str) {
    for (path, text) in sources(folder) {
        for line in code(&text) {
            for word in words {
                assert!(
                    !line.contains(word),
                    "{why}: {} has {word}: {line}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn sandbox_does_not_know_where_it_runs() {
    let others = [
        "crate::thread",
        "crate::process",
        "crate::runner",
        "crate::executor",
    ];
    assert_free_of("sandbox", &others, "sandbox cannot tell the modes apart");
}

/// The modules that a line of code names by `crate::`.
fn named(line: &str) -> Vec<&str> {
    let mut modules = Vec::new();
    for (_, rest) in line
        .match_indices("crate::")
        .map(|(at, it)| line.split_at(at + it.len()))
    {
        let listed = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split('}').next());
        let paths = listed.unwrap_or(rest).split(", ");
        let names = paths.map(|path| {
            let end = path.find(|c: char| c != '_' && !c.is_alphanumeric());
            &path[..end.unwrap_or(path.len())]
        });
        modules.extend(names.take(if listed.is_some() { usize::MAX } else { 1 }));
    }
    modules
}

#[test]
fn modules_import_no_higher_layer() {
    let map = fs::read_to_string(repo("ARCHITECTURE.md")).expect("the map");
    let table = map.split("\n## Layers\n").nth(1).expect("a section");
    let table = table.split("```").nth(1).expect("a table");
    let layers: Vec<Vec<&str>> = table
        .lines()
        .skip(1)
        .map(|line| line.split(' ').collect())
        .collect();
    let layer_of = |module: &str| layers.iter().position(|layer| layer.contains(&module));
    for (path, text) in sources("") {
        let inner = path.strip_prefix(repo("runner")).expect("a source");
        let first = inner.iter().next().and_then(|it| it.to_str());
        let module = first.expect("a name").trim_end_matches(".rs");
        // Tests may look at what is above; the command sees the public names.
        let is_test = inner.iter().any(|it| it == "tests" || it == "tests.rs");
        if matches!(module, "lib" | "main" | "cli") || is_test {
            continue;
        }
        let layer = layer_of(module);
        assert!(layer.is_some(), "{module} is in no layer");
        let text = text.split("#[cfg(test)]\nmod tests {").next();
        for line in code(text.unwrap_or_default()) {
            for other in named(line) {
                let below = layer_of(other);
                assert!(
                    below.is_some() && below <= layer,
                    "{} imports {other}, which is in no lower layer: {line}",
                    inner.display()
                );
            }
        }
    }
}

#[test]
fn the_command_line_uses_the_public_api() {
    let inner = [
        "crate::sandbox",
        "crate::thread",
        "crate::process",
        "crate::wire",
        "crate::executor",
        "crate::runner",
        "crate::task",
    ];
    assert_free_of("cli", &inner, "cli sees only the public API");
}

#[test]
fn wire_does_no_input_or_output() {
    let io = ["std::io", "std::fs", "std::os", "tokio::", "rustix::"];
    assert_free_of("wire", &io, "wire is pure");
}

#[test]
fn unsafe_code_is_where_it_is_looked_for() {
    for (path, text) in sources("") {
        let at_home = path.components().any(|part| part.as_os_str() == "sys")
            || path.ends_with("sandbox/code.rs");
        let found = code(&text).any(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
        assert!(at_home || !found, "unsafe in {}", path.display());
    }
}

#[test]
fn only_the_hook_ends_the_program_and_only_process_starts_others() {
    for (path, text) in sources("") {
        let hook = path.ends_with("process/worker_main.rs");
        let spawner = path.ends_with("process/suspend.rs")
            || path.components().any(|part| part.as_os_str() == "tests");
        // What only tests do, a program does not.
        let text = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        for line in code(text) {
            assert!(
                hook || !line.contains("process::exit("),
                "{} ends the program",
                path.display()
            );
            assert!(
                spawner || !(line.contains("Command::new(") || line.contains("sys::start(")),
                "{} starts a program",
                path.display()
            );
        }
    }
}

#[test]
fn every_test_file_is_part_of_the_binary() {
    let main = fs::read_to_string(repo("tests/main.rs")).expect("tests/main.rs");
    for entry in fs::read_dir(repo("tests")).expect("tests/") {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("UTF-8");
        if let Some(module) = name.strip_suffix(".rs")
            && module != "main"
        {
            assert!(
                main.contains(&format!("mod {module};")),
                "tests/{name} is in no binary"
            );
        }
    }
}

/// What an option of the command is, its user is told by the command.
#[test]
fn the_library_names_no_option_of_the_command() {
    for part in ["types", "sys", "sandbox", "process", "wrun"] {
        for (path, text) in sources(&format!("{part}/src")) {
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
