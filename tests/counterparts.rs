//! docs/counterparts.md says what is: its commands do what it says, in both modes, and
//! what it names is there.

use crate::support::{MODES, repo, wrun};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The cells of every row of its tables. Rows that are marked `check` speak of what is
/// still to come.
fn rows() -> Vec<Vec<String>> {
    let text = fs::read_to_string(repo("docs/counterparts.md")).unwrap();
    let rows: Vec<Vec<String>> = text
        .lines()
        .filter(|line| line.starts_with('|') && !line.contains("<!-- check -->"))
        .map(|line| {
            // A bar within a command is written `\|`.
            let line = line.replace("\\|", "\0");
            let cells = line.trim_matches('|').split('|');
            cells
                .map(|it| it.replace('\0', "|").trim().to_owned())
                .collect()
        })
        .filter(|row: &Vec<String>| !row[0].starts_with("---") && row[0] != "Node")
        .collect();
    assert!(rows.len() > 100, "{} rows", rows.len());
    for row in &rows {
        assert_eq!(row.len(), 3, "{row:?}");
    }
    rows
}

/// What stands between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|it| it == "rs") {
            all.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|it| it.is_ascii_alphanumeric() || it == '_')
}

#[test]
fn what_it_names_is_there() {
    let mut rust = String::new();
    sources(&repo("runner"), &mut rust);
    let help: String = [&["--help"][..], &["serve", "--help"]]
        .into_iter()
        .map(|args| {
            let help = std::process::Command::new(wrun()).args(args).output();
            String::from_utf8(help.unwrap().stdout).unwrap()
        })
        .collect();
    let mut looked_at = 0;
    for row in rows() {
        for name in quoted(&row[1]) {
            let option = name.split(' ').next().unwrap_or_default();
            if option.starts_with("--") {
                let there = [" ", "\n"].map(|end| help.contains(&format!("{option}{end}")));
                assert!(there.contains(&true), "{option} of {row:?}");
                looked_at += 1;
            }
            if let Some((of, item)) = name.split_once("::")
                && is_name(of)
                && is_name(item)
            {
                let there = [
                    "fn ITEM(",
                    "fn ITEM<",
                    "pub ITEM:",
                    "const ITEM:",
                    "    ITEM,",
                    "    ITEM(",
                    "    ITEM {",
                ]
                .iter()
                .any(|form| rust.contains(&form.replace("ITEM", item)));
                let of_it = rust.contains(&format!("pub struct {of}"))
                    || rust.contains(&format!("pub enum {of}"));
                assert!(there && of_it, "{name} of {row:?}");
                looked_at += 1;
            }
            let interface = name.split_once('.');
            if let Some((
                interface @ ("broadcast" | "context" | "locks" | "ports" | "regions" | "tasks"),
                item,
            )) = interface
            {
                let text = fs::read_to_string(repo(&format!("wit/{interface}.wit"))).unwrap();
                let there = ["", "%"]
                    .iter()
                    .any(|escape| text.contains(&format!("  {escape}{item}: ")));
                assert!(there, "{name} of {row:?}");
                looked_at += 1;
            }
        }
        for name in quoted(&row[2]) {
            if let Some((file, test)) = name.split_once("::")
                && is_name(file)
                && is_name(test)
            {
                let text = fs::read_to_string(repo(&format!("tests/{file}.rs")));
                let text = text.unwrap_or_else(|error| panic!("{name} of {row:?}: {error}"));
                assert!(text.contains(&format!("fn {test}(")), "{name} of {row:?}");
                looked_at += 1;
            }
            if let Some(rest) = name.strip_prefix("cargo run --release --example ") {
                let example = rest.split(' ').next().unwrap();
                assert!(repo(&format!("examples/{example}.rs")).exists(), "{row:?}");
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 200, "{looked_at} names");
}

#[test]
fn its_commands_work() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("wrun");
    let script = "#!/bin/sh
case $1 in
  serve) shift; exec \"$WRUN\" serve --mode \"$MODE\" \"$@\";;
  *) exec \"$WRUN\" --mode \"$MODE\" \"$@\";;
esac
";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut tried = 0;
    for row in rows() {
        let Some(command) = quoted(&row[2]).find(|it| it.contains("wrun ")) else {
            continue;
        };
        let expected = match row[2].rsplit_once(" exits ") {
            Some((_, code)) => code.parse().unwrap_or_else(|_| panic!("{row:?}")),
            None => 0,
        };
        for mode in MODES {
            let output = std::process::Command::new("sh")
                .args(["-c", command])
                .current_dir(repo(""))
                .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
                .env("WRUN", wrun())
                .env("MODE", mode)
                .env("WRUN_CACHE_DIR", crate::support::command::shared_cache())
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap();
            let code = output.status.code();
            assert_eq!(code, Some(expected), "{mode}: {command}: {output:?}");
            tried += 1;
        }
    }
    assert!(tried > 50, "{tried} commands");
}

#[test]
fn its_examples_work() {
    let mut commands = BTreeSet::new();
    for row in rows() {
        let examples = quoted(&row[2]).filter_map(|command| {
            let rest = command.strip_prefix("cargo run --release --example ")?;
            Some(rest.to_owned())
        });
        commands.extend(examples);
    }
    for command in &commands {
        let (name, args) = command.split_once(" -- ").expect(command);
        for mode in MODES {
            let args = args
                .split(' ')
                .map(|arg| if MODES.contains(&arg) { mode } else { arg });
            let output = std::process::Command::new(crate::examples::example(name))
                .args(args)
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{mode}: {command}: {}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    assert!(commands.len() > 4, "{commands:?}");
}
