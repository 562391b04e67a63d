//! The floor of a task: the same code on the same engine, with wasmtime and
//! wasmtime-wasi as their documentation has it, and nothing of wrun around it: no
//! limits, no refusals noted, no budgets, no report.
//!
//! Only for measuring, with a task that was seen to end.

use super::code::{Code, CodeError};
use super::source::Shape;
use crate::task::Spec;
use bytes::Bytes;
use wasmtime::component::{ComponentExportIndex, InstancePre, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

/// Output beyond it fails the run.
const MAX_OUTPUT: usize = 64 << 20;

/// A task that is linked and waits to be instantiated.
pub(crate) struct Bare {
    engine: Engine,
    entry: Entry,
}

enum Entry {
    Task(InstancePre<Host>, ComponentExportIndex),
    Command(CommandPre<Host>),
    Module(wasmtime::InstancePre<Host>),
}

struct Host {
    wasi: Wasi,
    table: ResourceTable,
}

enum Wasi {
    P2(WasiCtx),
    P1(Box<WasiP1Ctx>),
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        match &mut self.wasi {
            Wasi::P2(ctx) => WasiCtxView {
                ctx,
                table: &mut self.table,
            },
            Wasi::P1(p1) => p1.ctx(),
        }
    }
}

/// Why there is no floor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BareError {
    #[error(transparent)]
    Code(#[from] CodeError),
    #[error("it needs more than WASI: {0:#}")]
    Wasmtime(wasmtime::Error),
    #[error("without wrun around it, it did not do the same")]
    Differs,
}

/// An instance that is not called.
pub(crate) struct Held(
    #[expect(dead_code, reason = "its memory is what is wanted of it")] Store<Host>,
);

impl Bare {
    /// Links a task against WASI and nothing else.
    pub(crate) fn new(engine: &Engine, code: &Code) -> Result<Self, BareError> {
        let entry = Bare::link(engine, code)?;
        Ok(Bare {
            engine: engine.clone(),
            entry,
        })
    }

    fn link(engine: &Engine, code: &Code) -> Result<Entry, BareError> {
        let no = BareError::Wasmtime;
        if code.meta.shape == Shape::CommandModule {
            let module = code.module(engine)?;
            let mut linker = wasmtime::Linker::new(engine);
            wasmtime_wasi::p1::add_to_linker_async(&mut linker, Host::p1).map_err(no)?;
            return Ok(Entry::Module(linker.instantiate_pre(&module).map_err(no)?));
        }
        let component = code.component(engine)?;
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(no)?;
        // What a task imports and does not call is no reason to have no floor.
        linker
            .define_unknown_imports_as_traps(&component)
            .map_err(no)?;
        let pre = linker.instantiate_pre(&component).map_err(no)?;
        if code.meta.shape == Shape::CommandComponent {
            return Ok(Entry::Command(CommandPre::new(pre).map_err(no)?));
        }
        let run = component.get_export_index(None, "run");
        let run = run.ok_or_else(|| no(wasmtime::Error::msg("there is no run")))?;
        Ok(Entry::Task(pre, run))
    }

    fn store(&self, spec: &Spec, input: &Bytes) -> wasmtime::Result<(Store<Host>, Output)> {
        let output = MemoryOutputPipe::new(MAX_OUTPUT);
        let mut builder = WasiCtxBuilder::new();
        builder
            .arg(&spec.name)
            .args(&spec.args)
            .envs(&spec.env)
            .allow_blocking_current_thread(true);
        for grant in &spec.dirs {
            let perms = if grant.read_only {
                FsPerms::ReadOnly
            } else {
                FsPerms::ReadWrite
            };
            builder.preopened_dir(&grant.host, &grant.guest, perms)?;
        }
        if !matches!(self.entry, Entry::Task(..)) {
            builder
                .stdin(MemoryInputPipe::new(input.clone()))
                .stdout(output.clone());
        }
        let wasi = match self.entry {
            Entry::Module(_) => Wasi::P1(Box::new(builder.build_p1())),
            _ => Wasi::P2(builder.build()),
        };
        let table = ResourceTable::new();
        let mut store = Store::try_new(&self.engine, Host { wasi, table })?;
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        Ok((store, output))
    }

    /// A fresh sandbox, one call, its output.
    pub(crate) async fn run(&self, spec: &Spec, input: &Bytes) -> wasmtime::Result<Bytes> {
        let (mut store, output) = self.store(spec, input)?;
        match &self.entry {
            Entry::Task(pre, run) => {
                let instance = pre.instantiate_async(&mut store).await?;
                let run = instance
                    .get_typed_func::<(&[u8],), (Result<Vec<u8>, String>,)>(&mut store, run)?;
                let (result,) = run.call_async(&mut store, (input,)).await?;
                return result.map(Bytes::from).map_err(wasmtime::Error::msg);
            }
            Entry::Command(pre) => {
                let command = pre.instantiate_async(&mut store).await?;
                let ended = command.wasi_cli_run().call_run(&mut store).await;
                good(ended.and_then(|done| done.map_err(|()| wasmtime::Error::msg("it failed"))))?;
            }
            Entry::Module(pre) => {
                let instance = pre.instantiate_async(&mut store).await?;
                let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
                good(start.call_async(&mut store, ()).await)?;
            }
        }
        drop(store);
        Ok(output.contents())
    }

    /// A fresh sandbox that is not called.
    pub(crate) async fn hold(&self, spec: &Spec) -> wasmtime::Result<Held> {
        let (mut store, _output) = self.store(spec, &Bytes::new())?;
        match &self.entry {
            Entry::Task(pre, _) => drop(pre.instantiate_async(&mut store).await?),
            Entry::Command(pre) => drop(pre.instantiate_async(&mut store).await?),
            Entry::Module(pre) => drop(pre.instantiate_async(&mut store).await?),
        }
        Ok(Held(store))
    }
}

type Output = MemoryOutputPipe;

impl Host {
    fn p1(&mut self) -> &mut WasiP1Ctx {
        match &mut self.wasi {
            Wasi::P1(p1) => p1,
            Wasi::P2(_) => unreachable!("module linkers are only used with WASI 0.1 hosts"),
        }
    }
}

/// A command that exits with 0 has completed.
fn good(ended: wasmtime::Result<()>) -> wasmtime::Result<()> {
    match ended {
        Err(error)
            if error
                .downcast_ref::<I32Exit>()
                .is_some_and(|exit| exit.0 == 0) =>
        {
            Ok(())
        }
        other => other,
    }
}
