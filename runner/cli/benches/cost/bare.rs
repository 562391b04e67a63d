//! The floor of tasks: wasmtime and wasmtime-wasi used as their documentation says
//! ([`wrun::measure::Bare`]), on an engine that does not have wrun's settings except those that
//! the row names.

use crate::guest;
use anyhow::Context;
use bytes::Bytes;
use std::sync::OnceLock;
use wasmtime::component::Component;
use wasmtime::{Config, Enabled, Engine, PoolingAllocationConfig};
use wrun::measure::Spec;

/// The allocation strategy of an engine.
#[derive(Clone, Copy)]
pub(crate) enum Memory {
    /// A pool with the defaults of wasmtime.
    Pool,
    /// A pool that clears memory as that of wrun does.
    PoolAsWrun,
    OnDemand,
}

/// The same value as in the engine of wrun.
const KEEP_RESIDENT: usize = 256 << 10;

/// A guest that is compiled and linked by an engine of its own.
pub(crate) struct Bare {
    bare: wrun::measure::Bare,
    /// No arguments, no variables, no directories.
    spec: Spec,
}

impl Bare {
    /// Compiles and links a guest, with or without checks of the epoch.
    pub(crate) fn new(path: &str, memory: Memory, epochs: bool) -> anyhow::Result<Self> {
        let engine = Engine::new(&config(memory, epochs))?;
        let component = Component::new(&engine, component(path)?)?;
        Ok(Bare {
            bare: wrun::measure::Bare::of_component(&engine, &component)?,
            spec: Spec::warm_up(),
        })
    }

    /// A fresh sandbox, one call, the end.
    pub(crate) async fn run(&self, input: &Bytes) -> wasmtime::Result<Bytes> {
        self.bare.run(&self.spec, input).await
    }
}

fn config(memory: Memory, epochs: bool) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(epochs)
        .memory_may_move(false)
        .concurrency_support(false);
    let mut pool = PoolingAllocationConfig::new();
    if let Memory::PoolAsWrun = memory {
        pool.linear_memory_keep_resident(KEEP_RESIDENT)
            .table_keep_resident(KEEP_RESIDENT)
            .pagemap_scan(Enabled::Auto);
    }
    if !matches!(memory, Memory::OnDemand) {
        config.allocation_strategy(pool);
    }
    config
}

/// A guest of the world `wrun:task/task` as a component.
fn component(path: &str) -> anyhow::Result<Vec<u8>> {
    let mut module = wat::parse_file(guest(path))?;
    let mut resolve = wit_parser::Resolve::new();
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");
    let (package, _) = resolve.push_path(wit)?;
    let world = resolve.select_world(&[package], Some("task"))?;
    let utf8 = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, utf8)?;
    wit_component::ComponentEncoder::default()
        .module(&module)?
        .validate(true)
        .encode()
}

/// A multi-thread runtime of tokio, made once.
pub(crate) fn runtime() -> anyhow::Result<&'static tokio::runtime::Runtime> {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    if RUNTIME.get().is_none() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let _ = RUNTIME.set(runtime);
    }
    RUNTIME.get().context("no runtime")
}
