//! The floor of tasks: a program that uses wasmtime and wasmtime-wasi as their
//! documentation says, and nothing of wrun.

use crate::guest;
use anyhow::Context;
use std::path::Path;
use std::sync::OnceLock;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker, ResourceTable};
use wasmtime::{Config, Enabled, Engine, PoolingAllocationConfig, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

/// How sandboxes get their memory.
#[derive(Clone, Copy)]
pub(crate) enum Memory {
    /// A pool with wasmtime's defaults.
    Pool,
    /// A pool that clears memory as wrun's does.
    PoolAsWrun,
    OnDemand,
}

/// As in wrun's engine.
const KEEP_RESIDENT: usize = 256 << 10;

/// A component that is linked and waits to be instantiated.
pub(crate) struct Bare {
    engine: Engine,
    pre: InstancePre<Host>,
    run: ComponentExportIndex,
    epochs: bool,
}

struct Host {
    ctx: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.ctx,
            table: &mut self.table,
        }
    }
}

impl Bare {
    /// Compiles and links a guest, with or without checks of the epoch.
    pub(crate) fn new(path: &str, memory: Memory, epochs: bool) -> anyhow::Result<Self> {
        let engine = Engine::new(&config(memory, epochs))?;
        let component = Component::new(&engine, component(path)?)?;
        Bare::link(engine, &component, epochs)
    }

    /// Compiles a guest for [`Bare::load`].
    pub(crate) fn compile(path: &str, memory: Memory, epochs: bool) -> anyhow::Result<Vec<u8>> {
        let engine = Engine::new(&config(memory, epochs))?;
        Ok(engine.precompile_component(&component(path)?)?)
    }

    /// Maps and links what was compiled, without a compiler's threads.
    #[expect(unsafe_code, reason = "wasmtime's artifact deserialization")]
    pub(crate) fn load(path: &Path, memory: Memory, epochs: bool) -> anyhow::Result<Self> {
        let engine = Engine::new(&config(memory, epochs))?;
        // SAFETY: the file was just made by `Bare::compile` and nobody else knows
        // it.
        let component = unsafe { Component::deserialize_file(&engine, path) }?;
        Engine::tls_eager_initialize();
        Bare::link(engine, &component, epochs)
    }

    fn link(engine: Engine, component: &Component, epochs: bool) -> anyhow::Result<Self> {
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        let run = component
            .get_export_index(None, "run")
            .context("the guest exports no run")?;
        let pre = linker.instantiate_pre(component)?;
        Ok(Bare {
            engine,
            pre,
            run,
            epochs,
        })
    }

    /// A fresh sandbox, one call, the end.
    pub(crate) async fn run(&self, input: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut store = Store::new(
            &self.engine,
            Host {
                ctx: WasiCtxBuilder::new().build(),
                table: ResourceTable::new(),
            },
        );
        if self.epochs {
            store.set_epoch_deadline(1);
            store.epoch_deadline_async_yield_and_update(1);
        }
        let instance = self.pre.instantiate_async(&mut store).await?;
        let run = instance
            .get_typed_func::<(&[u8],), (Result<Vec<u8>, String>,)>(&mut store, self.run)?;
        let (result,) = run.call_async(&mut store, (input,)).await?;
        result.map_err(anyhow::Error::msg)
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

/// The runtime that such a program would have.
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
