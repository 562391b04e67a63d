//! The pages on writing tasks do what they say: every block of code in them is a file or a
//! command, and a section's commands, typed as they stand, make its tasks and run them.
//!
//! Compilers are installed for it, from PyPI and npm, so that is done where
//! `WRUN_GUIDES` is set, as the gate does. Rust's Wasm targets are rustup's or those
//! of `guest-tasks/toolchains.sh` (in `WRUN_TOOLCHAINS`, or `target/toolchains`).

use crate::support::{repo, tool, wrun};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A block of code.
struct Block {
    line: usize,
    /// The file that it is; none for commands.
    file: Option<String>,
    text: String,
}

/// What stands under one heading.
struct Section {
    title: String,
    blocks: Vec<Block>,
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<_> = fs::read_dir(repo("docs/tasks"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    pages.push(repo("guest-tasks/wrun-guest/README.md"));
    pages.sort();
    pages
}

fn name_of(page: &Path) -> String {
    let parent = page.parent().unwrap().file_name().unwrap();
    format!(
        "{}-{}",
        parent.display(),
        page.file_stem().unwrap().display()
    )
}

/// The file that the text before a block says it is: "`name`:" or "`name`, which ...:".
fn file_named(words: &str) -> Option<String> {
    let words = words.trim().strip_suffix(':')?;
    let mut parts = words.rsplit('`');
    let behind = parts.next()?;
    let name = parts.next()?;
    (!behind.contains('.') && !name.contains(' ')).then(|| name.to_owned())
}

fn sections(page: &Path) -> Vec<Section> {
    let text = fs::read_to_string(page).unwrap();
    let mut sections = vec![Section {
        title: String::new(),
        blocks: Vec::new(),
    }];
    let mut lines = text.lines().enumerate();
    let mut words = String::new();
    while let Some((number, line)) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            sections.push(Section {
                title: title.to_owned(),
                blocks: Vec::new(),
            });
        }
        if let Some(language) = line.strip_prefix("```") {
            let code: Vec<_> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| *line != "```")
                .collect();
            let file = match language {
                "sh" => None,
                _ => Some(file_named(&words).unwrap_or_else(|| {
                    let page = page.display();
                    panic!("{page}:{}: no file is named before the block", number + 1)
                })),
            };
            sections.last_mut().unwrap().blocks.push(Block {
                line: number + 1,
                file,
                text: code.join("\n") + "\n",
            });
            words.clear();
        } else if !line.is_empty() {
            words = format!("{words} {line}");
        } else if !words.trim_end().ends_with(':') {
            words.clear();
        }
    }
    sections.retain(|section| !section.blocks.is_empty());
    sections
}

/// What a block's comments say that its commands print, in this order.
fn promised(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| {
            ["wrun ", "curl "]
                .iter()
                .any(|command| line.contains(command))
        })
        .filter_map(|line| line.split_once("   # "))
        .map(|(_, printed)| printed)
        .collect()
}

/// Where a section's commands are typed: a folder beside a copy of this repository.
struct Place {
    folder: tempfile::TempDir,
    path: String,
    rustc: Option<PathBuf>,
}

impl Place {
    /// With what Python's and Node's packages bring; none where there is no Python.
    fn new() -> Option<Self> {
        let folder = tempfile::Builder::new()
            .prefix("wrun-guides-")
            .tempdir()
            .unwrap();
        let bin = folder.path().join("venv/bin");
        let venv = Command::new("python3")
            .args(["-m", "venv"])
            .arg(folder.path().join("venv"))
            .output();
        if !venv.is_ok_and(|made| made.status.success()) {
            return None;
        }
        symlink(repo(""), folder.path().join("wrun")).unwrap();
        fs::create_dir(folder.path().join("target")).unwrap();
        let toolchains = match std::env::var_os("WRUN_TOOLCHAINS") {
            Some(folder) => folder.into(),
            None => repo("target/toolchains"),
        };
        let rustc = toolchains.join("bin/rustc-wasm");
        let rustc = rustc.exists().then_some(rustc);
        if rustc.is_some() {
            // There is nothing for rustup to add.
            let rustup = "#!/bin/sh\n[ \"$1 $2\" = 'target add' ]\n";
            let path = crate::support::command::write(&bin, "rustup", rustup);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(path, mode).unwrap();
        }
        let path = std::env::var("PATH").unwrap();
        let wrun = wrun().parent().unwrap().display().to_string();
        let path = format!("{}:{wrun}:{path}", bin.display());
        Some(Place {
            folder,
            path,
            rustc,
        })
    }

    /// Types commands; what they print, or how they failed.
    fn sh(&self, folder: &Path, text: &str) -> Result<String, String> {
        // A server that the commands left running has the pipe that is read here.
        let text = format!("trap 'kill ${{!-}} 2>/dev/null || :' EXIT\n{text}");
        let mut shell = Command::new("timeout");
        shell
            .args(["600", "sh", "-eu", "-c", &text])
            .current_dir(folder)
            .stdin(Stdio::null())
            .env("PATH", &self.path)
            .env("WRUN_CACHE_DIR", self.folder.path().join("cache"))
            // That it compiles is what matters here, and not how fast it is.
            .envs([
                ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
                ("CARGO_PROFILE_RELEASE_LTO", "off"),
                ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
            ])
            .env_remove("CARGO_TARGET_DIR");
        if let Some(rustc) = &self.rustc {
            shell.env("RUSTC", rustc);
        }
        let output = shell.output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(stdout),
            false => Err(format!(
                "{}\n{stdout}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    }

    /// Does what a section says.
    fn follow(&self, name: &str, section: &Section) -> Result<(), String> {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        for shared in ["guest-tasks", "wit"] {
            symlink(repo(shared), folder.join(shared)).unwrap();
        }
        // Crates that several pages use are compiled once.
        symlink(self.folder.path().join("target"), folder.join("target")).unwrap();
        for block in &section.blocks {
            if let Some(file) = &block.file {
                let path = folder.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, &block.text).unwrap();
                // `cargo new` has been typed.
                if file == "src/main.rs" && !folder.join("Cargo.toml").exists() {
                    self.sh(&folder, "cargo init --quiet --vcs none --name upper")?;
                }
                continue;
            }
            let printed = self
                .sh(&folder, &block.text)
                .map_err(|error| format!("line {}: {error}", block.line))?;
            let mut rest = &*printed;
            for promised in promised(&block.text) {
                rest = rest
                    .split_once(promised)
                    .ok_or_else(|| {
                        let line = block.line;
                        format!("line {line}: {promised:?} is not in\n{printed}")
                    })?
                    .1;
            }
        }
        Ok(())
    }
}

fn rustup_has_targets() -> bool {
    let listed = Command::new("rustup")
        .args(["target", "list", "--installed"])
        .output();
    listed.is_ok_and(|listed| {
        let targets = String::from_utf8_lossy(&listed.stdout).into_owned();
        ["wasm32-wasip1", "wasm32-wasip2"].map(|target| targets.contains(target)) == [true; 2]
    })
}

#[test]
fn blocks_of_the_guides_are_files_or_commands() {
    let mut commands = 0;
    for page in pages() {
        for section in sections(&page) {
            let name = format!("{}: {}", page.display(), section.title);
            let shells = section.blocks.iter().filter(|block| block.file.is_none());
            let runs: Vec<_> = shells.filter(|it| it.text.contains("wrun ")).collect();
            let has_files = section.blocks.iter().any(|block| block.file.is_some());
            assert!(!has_files || !runs.is_empty(), "{name}: nothing is run");
            commands += runs.len();
            for block in runs {
                // One that shows a mode shows both.
                let shows = |mode| block.text.matches(mode).count();
                let [thread, process] = ["--mode thread", "--mode process"].map(shows);
                let name = format!("{name}, line {}", block.line);
                assert!(thread + process == 0 || process > 0, "{name}: one mode");
            }
        }
    }
    assert!(commands >= 18, "only {commands} blocks run a task");
}

#[test]
fn what_the_guides_say_is_so() {
    let required = std::env::var_os("WRUN_GUIDES").is_some();
    let Some(place) = Place::new() else {
        assert!(
            !required,
            "WRUN_GUIDES is set, but there is no python3-venv"
        );
        return tool::missing("python3-venv", "there is no python3-venv");
    };
    let has_rust = place.rustc.is_some() || rustup_has_targets();
    let mut failed = String::new();
    for page in pages() {
        for (index, section) in sections(&page).iter().enumerate() {
            let name = format!("{}-{index}", name_of(&page));
            let has = |word| section.blocks.iter().any(|block| block.text.contains(word));
            let began = std::time::Instant::now();
            let compiles = [" install ", "cargo build", "ziglang"].map(has);
            if !required && compiles.contains(&true) {
                println!("SKIPPED: {name}: WRUN_GUIDES is not set, and it needs a compiler");
                continue;
            }
            if !has_rust && has("cargo build") {
                println!("SKIPPED: {name}: Rust has no Wasm targets; guest-tasks/toolchains.sh");
                continue;
            }
            match place.follow(&name, section) {
                Ok(()) => println!("{name}: as it says, in {:?}", began.elapsed()),
                Err(error) => failed.push_str(&format!("== {name}: {error}\n")),
            }
        }
    }
    assert!(failed.is_empty(), "{failed}");
}
