//! Which peers there are on this machine, and how each is started.

use crate::PEER_ARG;
use crate::described::Described;
use crate::program::Started;
use crate::shell::Shell;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How a row's tasks are run.
pub(crate) enum Way {
    /// By a program that stays and is told what to do.
    Program(Started),
    /// By a program for each.
    Shell(Shell),
}

/// The `wrun` program that this benchmark was built with.
fn wrun() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_wrun"))
}

/// What `peers.sh` installed.
fn peers() -> anyhow::Result<PathBuf> {
    let program = wrun();
    let target = program.ancestors().nth(2).context("no target directory")?;
    Ok(target.join("peers"))
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/peers")
        .join(path)
}

/// How to start a row, or why it cannot be.
pub(crate) fn way(row: &Described, folder: &Path) -> anyhow::Result<Way> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let peers = peers()?;
    let installed = |path: &str| -> anyhow::Result<PathBuf> {
        let path = peers.join(path);
        anyhow::ensure!(
            path.exists(),
            "not installed: run runner/cli/benches/peers.sh"
        );
        Ok(path)
    };
    let command = folder.join("work-command.wasm");
    let shell = |program: PathBuf, arguments: &[&str]| {
        Way::Shell(Shell {
            program,
            arguments: arguments
                .iter()
                .map(|&it| it.to_owned())
                .chain([text(&command)])
                .collect(),
            cache: PathBuf::new(),
        })
    };
    let program = |program: PathBuf, arguments: &[&str], environment: &[(&str, &Path)]| {
        Way::Program(Started {
            program,
            arguments: arguments
                .iter()
                .map(|&it| it.to_owned())
                .chain([text(folder)])
                .collect(),
            environment: environment
                .iter()
                .map(|&(key, value)| (key.to_owned(), text(value)))
                .collect(),
        })
    };
    Ok(match row.id {
        "wrun-command-thread" => shell(wrun(), &["--mode", "thread"]),
        "wrun-command-process" => shell(wrun(), &["--mode", "process"]),
        "wasmtime-run" => shell(installed("wasmtime")?, &["run"]),
        "extism-fresh" | "extism-kept" => {
            let way = row.id.trim_start_matches("extism-");
            program(installed("extism/release/peer-extism")?, &[way], &[])
        }
        "native-thread" | "native-fork" => {
            let way = row.id.trim_start_matches("native-");
            program(installed("native")?, &[way], &[])
        }
        id if id.starts_with("wrun") || id.starts_with("bare") => {
            program(std::env::current_exe()?, &[PEER_ARG, id], &[])
        }
        id => {
            let modules = installed("node/node_modules")?;
            let node = Command::new("node")
                .arg("--version")
                .stdout(Stdio::null())
                .status();
            anyhow::ensure!(node.is_ok(), "there is no node");
            let script = here("node/peer.js");
            let variables = [("NODE_PATH", modules.as_path())];
            program("node".into(), &[&text(&script), id], &variables)
        }
    })
}

/// Names and versions of what was compared.
pub(crate) fn versions() -> anyhow::Result<Vec<(String, String)>> {
    let says = |program: &Path, word: usize| -> Option<String> {
        let output = Command::new(program).arg("--version").output().ok()?;
        let line = String::from_utf8_lossy(&output.stdout);
        let line = line.lines().next()?;
        Some(line.split(' ').nth(word)?.to_owned())
    };
    let locked = |text: &str, before: &str| -> Option<String> {
        let rest = text.split_once(before)?.1;
        Some(rest.split('"').next()?.to_owned())
    };
    let extism = include_str!("extism/Cargo.lock");
    let wrun = include_str!("../../../../Cargo.lock");
    let node = include_str!("node/package.json");
    let version =
        |name: &str, text: &str| locked(text, &format!("name = \"{name}\"\nversion = \""));
    let all = [
        ("wrun", says(&self::wrun(), 1)),
        ("wasmtime within wrun and bare", version("wasmtime", wrun)),
        ("`wasmtime run`", says(&peers()?.join("wasmtime"), 1)),
        ("extism", version("extism", extism)),
        ("wasmtime within extism", version("wasmtime", extism)),
        ("Node", says(Path::new("node"), 0)),
        ("piscina", locked(node, "\"piscina\": \"")),
        ("workerpool", locked(node, "\"workerpool\": \"")),
        ("gcc", says(Path::new("gcc"), 3)),
    ];
    let all = all.into_iter();
    Ok(all
        .filter_map(|(name, version)| Some((name.to_owned(), version?)))
        .collect())
}
