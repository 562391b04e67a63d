//! Rows that start a program for each task, as a shell does: `wrun` and `wasmtime run`.

use crate::protocol::Peer;
use anyhow::{Context, ensure};
use std::any::Any;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A command line; input and output are its stdin and stdout.
pub(crate) struct Shell {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Where it keeps compiled code.
    pub(crate) cache: PathBuf,
}

impl Shell {
    /// With another cache.
    pub(crate) fn with_cache(&self, cache: &Path) -> Self {
        Shell {
            program: self.program.clone(),
            arguments: self.arguments.clone(),
            cache: cache.to_owned(),
        }
    }

    fn start(&self) -> anyhow::Result<Child> {
        Command::new(&self.program)
            .args(&self.arguments)
            .env("XDG_CACHE_HOME", &self.cache)
            .env_remove("WRUN_CACHE_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))
    }
}

impl Peer for Shell {
    fn run(&self, input: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut child = self.start()?;
        // All of its input, then all of its output: the work reads to the end first.
        let told = child.stdin.take().context("no stdin")?.write_all(input);
        let mut output = Vec::new();
        let said = child
            .stdout
            .take()
            .context("no stdout")?
            .read_to_end(&mut output);
        let status = child.wait()?;
        ensure!(status.success(), "{}: {status}", self.program.display());
        told?;
        said?;
        Ok(output)
    }

    fn hold(&self, count: usize) -> anyhow::Result<Box<dyn Any>> {
        let mut held = Held(Vec::new());
        for _ in 0..count {
            held.0.push(self.start()?);
        }
        Ok(Box::new(held))
    }
}

/// Programs that wait for their input, and end with this value.
struct Held(Vec<Child>);

impl Drop for Held {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
