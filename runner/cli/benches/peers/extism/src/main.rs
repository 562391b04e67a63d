//! extism beside wrun: `peer-extism fresh|kept FOLDER`. A plug-in is compiled once; for
//! each task either a new one is made of it, or one that had tasks before is called again.

use anyhow::Context;
use extism::{CompiledPlugin, Manifest, Plugin, PluginBuilder, Wasm};
use protocol::Peer;
use std::any::Any;
use std::path::Path;
use std::sync::Mutex;

#[path = "../../protocol.rs"]
mod protocol;

struct Extism {
    compiled: CompiledPlugin,
    /// Those that wait for their next task, when they are kept.
    idle: Option<Mutex<Vec<Plugin>>>,
}

impl Extism {
    fn take(&self) -> anyhow::Result<Plugin> {
        let idle = self.idle.as_ref().and_then(|idle| idle.lock().ok()?.pop());
        match idle {
            Some(plugin) => Ok(plugin),
            None => Plugin::new_from_compiled(&self.compiled),
        }
    }
}

impl Peer for Extism {
    fn run(&self, input: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut plugin = self.take()?;
        let output = plugin.call::<&[u8], Vec<u8>>("run", input)?;
        if let Some(idle) = &self.idle
            && let Ok(mut idle) = idle.lock()
        {
            idle.push(plugin);
        }
        Ok(output)
    }

    fn hold(&self, count: usize) -> anyhow::Result<Box<dyn Any>> {
        let mut held = Vec::new();
        for _ in 0..count {
            let mut plugin = Plugin::new_from_compiled(&self.compiled)?;
            plugin.call::<&[u8], Vec<u8>>("run", b"e")?;
            held.push(plugin);
        }
        Ok(Box::new(held))
    }
}

fn main() -> anyhow::Result<()> {
    let [_, way, folder] = &std::env::args().collect::<Vec<_>>()[..] else {
        anyhow::bail!("peer-extism fresh|kept FOLDER");
    };
    let folder = Path::new(folder);
    let manifest = Manifest::new([Wasm::data(std::fs::read(folder.join("work-extism.wasm"))?)]);
    let compiled = PluginBuilder::new(manifest)
        .compile()
        .context("extism does not load it")?;
    let idle = (way == "kept").then(|| Mutex::new(Vec::new()));
    protocol::serve(&Extism { compiled, idle }, folder)
}
