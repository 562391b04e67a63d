//! The floor of a task: the same code on the same engine, with wasmtime and wasmtime-wasi
//! used as documented, and without wrun: no limits, no record of refusals, no budgets, no
//! report. Of `wrun:task`, it has what a task asks about itself, which is answered from what the
//! store has; a call of anything else ends the run.
//!
//! Only for measuring, with a task that is known to end.

use super::abi::bindings::wrun::task::context;
#[cfg(feature = "http")]
use super::bare_http::Http;
use super::code::{Code, CodeError};
use super::source::Shape;
use bytes::Bytes;
use std::time::Duration;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    Component, ComponentExportIndex, HasSelf, Instance, InstancePre, Linker, Resource,
    ResourceTable, ResourceType,
};
use wasmtime::{CallHook, Engine, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::{Command, CommandPre};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
#[cfg(feature = "http")]
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
#[cfg(feature = "http")]
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};
use wrun_types::spec::Spec;

/// Output beyond this fails the run.
const MAX_OUTPUT: usize = 64 << 20;

/// A task that is linked and waits to be instantiated.
pub struct Bare {
    engine: Engine,
    entry: Entry,
}

enum Entry {
    Task(InstancePre<Host>, ComponentExportIndex),
    Command(CommandPre<Host>),
    Module(wasmtime::InstancePre<Host>),
    #[cfg(feature = "http")]
    Http(ProxyPre<Host>),
}

struct Host {
    wasi: Wasi,
    table: ResourceTable,
    about: About,
    #[cfg(feature = "http")]
    http: Http,
}

/// What a task can ask about itself.
struct About {
    name: String,
    timeout: Option<Duration>,
}

enum Wasi {
    P2(Box<WasiCtx>),
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

#[cfg(feature = "http")]
impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.http.hooks,
            table: &mut self.table,
            ctx: &mut self.http.ctx,
        }
    }
}

/// Why a floor cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum BareError {
    #[error(transparent)]
    Code(#[from] CodeError),
    #[error("{}", .0.root_cause())]
    Wasmtime(wasmtime::Error),
    #[error("without wrun, the task does not produce the same output")]
    Differs,
}

/// An instance that waits for its call.
pub struct Held {
    store: Store<Host>,
    /// The stdout of a command.
    output: Option<MemoryOutputPipe>,
    guest: Guest,
}

enum Guest {
    Task(Instance),
    Command(Command),
    Module(wasmtime::Instance),
    #[cfg(feature = "http")]
    Http(Proxy),
}

impl Bare {
    /// Links a task against WASI and nothing else.
    pub fn new(engine: &Engine, code: &Code) -> Result<Self, BareError> {
        let entry = Bare::link(engine, code)?;
        Ok(Bare {
            engine: engine.clone(),
            entry,
        })
    }

    /// Links a component of the world `wrun:task/task` that was compiled without wrun, by an
    /// engine with any settings.
    pub fn of_component(engine: &Engine, component: &Component) -> Result<Self, BareError> {
        let entry = Bare::link_task(component, linked(engine, component)?)?;
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
        let pre = linked(engine, &component)?;
        if code.meta.shape == Shape::CommandComponent {
            return Ok(Entry::Command(CommandPre::new(pre).map_err(no)?));
        }
        #[cfg(feature = "http")]
        if code.meta.shape.is_http() {
            return Ok(Entry::Http(ProxyPre::new(pre).map_err(no)?));
        }
        Bare::link_task(&component, pre)
    }

    fn link_task(component: &Component, pre: InstancePre<Host>) -> Result<Entry, BareError> {
        let run = component.get_export_index(None, "run");
        let run =
            run.ok_or_else(|| BareError::Wasmtime(wasmtime::Error::msg("there is no run")))?;
        Ok(Entry::Task(pre, run))
    }

    /// A store, with what a command reads and writes.
    fn store(
        &self,
        spec: &Spec,
        streams: Option<(&Bytes, &MemoryOutputPipe)>,
    ) -> wasmtime::Result<Store<Host>> {
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
            builder.preopened_dir(&grant.host, grant.guest_name(), perms)?;
        }
        if let Some((input, output)) = streams {
            builder
                .stdin(MemoryInputPipe::new(input.clone()))
                .stdout(output.clone());
        }
        let wasi = match self.entry {
            Entry::Module(_) => Wasi::P1(Box::new(builder.build_p1())),
            _ => Wasi::P2(Box::new(builder.build())),
        };
        let table = ResourceTable::new();
        let host = Host {
            wasi,
            table,
            about: About {
                name: spec.name.clone(),
                timeout: spec.limits.timeout,
            },
            #[cfg(feature = "http")]
            http: Http::default(),
        };
        Store::try_new(&self.engine, host)
    }

    /// A fresh sandbox, one call, its output. Input and output of a handler are a
    /// `WholeRequest` and a `WholeResponse`.
    pub async fn run(&self, spec: &Spec, input: &Bytes) -> wasmtime::Result<Bytes> {
        let held = self.hold(spec, input, false).await?;
        self.call(held, input).await
    }

    /// A fresh sandbox that is not called yet. With `ahead`, a guest that would have to run
    /// for it fails.
    pub async fn hold(&self, spec: &Spec, input: &Bytes, ahead: bool) -> wasmtime::Result<Held> {
        let output = self
            .entry
            .is_command()
            .then(|| MemoryOutputPipe::new(MAX_OUTPUT));
        let mut store = self.store(spec, output.as_ref().map(|output| (input, output)))?;
        // Start functions may take longer than a tick.
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        if ahead {
            store.call_hook(|_, hook| match hook {
                CallHook::CallingWasm => Err(wasmtime::format_err!("the guest is not to run")),
                _ => Ok(()),
            });
        }
        let guest = match &self.entry {
            Entry::Task(pre, _) => Guest::Task(pre.instantiate_async(&mut store).await?),
            Entry::Command(pre) => Guest::Command(pre.instantiate_async(&mut store).await?),
            Entry::Module(pre) => Guest::Module(pre.instantiate_async(&mut store).await?),
            #[cfg(feature = "http")]
            Entry::Http(pre) => Guest::Http(pre.instantiate_async(&mut store).await?),
        };
        if ahead {
            store.call_hook(|_, _| Ok(()));
        }
        Ok(Held {
            store,
            output,
            guest,
        })
    }

    /// The call, and the end of the sandbox.
    pub async fn call(&self, held: Held, input: &Bytes) -> wasmtime::Result<Bytes> {
        let Held {
            mut store,
            output,
            guest,
        } = held;
        match (guest, &self.entry) {
            (Guest::Task(instance), Entry::Task(_, run)) => {
                let run = instance
                    .get_typed_func::<(&[u8],), (Result<Vec<u8>, String>,)>(&mut store, run)?;
                let (result,) = run.call_async(&mut store, (input,)).await?;
                return result.map(Bytes::from).map_err(wasmtime::Error::msg);
            }
            (Guest::Command(command), _) => {
                let ended = command.wasi_cli_run().call_run(&mut store).await;
                let failed = |()| wasmtime::Error::msg("it failed");
                good(ended.and_then(|done| done.map_err(failed)))?;
            }
            (Guest::Module(instance), _) => {
                let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
                good(start.call_async(&mut store, ()).await)?;
            }
            #[cfg(feature = "http")]
            (Guest::Http(proxy), _) => {
                return super::bare_http::answer(&mut store, &proxy, input).await;
            }
            (Guest::Task(_), _) => return Err(wasmtime::Error::msg("there is no run")),
        }
        drop(store);
        Ok(output.map(|output| output.contents()).unwrap_or_default())
    }
}

impl Entry {
    fn is_command(&self) -> bool {
        matches!(self, Entry::Command(_) | Entry::Module(_))
    }
}

/// With WASI, and traps in place of wrun.
fn linked(engine: &Engine, component: &Component) -> Result<InstancePre<Host>, BareError> {
    let no = BareError::Wasmtime;
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(no)?;
    #[cfg(feature = "http")]
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).map_err(no)?;
    context::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host).map_err(no)?;
    stub_wrun(&mut linker, component).map_err(no)?;
    linker.instantiate_pre(component).map_err(no)
}

/// Makes the other functions that a task imports from wrun trap: a task that does not call them
/// has a floor all the same. WASI stays as it is, for any version of 0.2.
fn stub_wrun(linker: &mut Linker<Host>, component: &Component) -> wasmtime::Result<()> {
    let ty = component.component_type();
    let mut known = Vec::new();
    for (name, import) in ty.imports(component.engine()) {
        let ComponentItem::ComponentInstance(interface) = import.ty else {
            continue;
        };
        let interface_name = name.split('@').next().unwrap_or(name);
        let is_stub = interface_name.starts_with("wrun:task/") && interface_name != CONTEXT;
        let mut stub = match is_stub {
            true => Some(linker.instance(name)?),
            false => None,
        };
        for (name, export) in interface.exports(component.engine()) {
            match (export.ty, &mut stub) {
                (ComponentItem::ComponentFunc(_), Some(stub)) => {
                    let why = format!("it calls {interface_name}, which only wrun provides");
                    stub.func_new(name, move |_, _, _, _| {
                        Err(wasmtime::Error::msg(why.clone()))
                    })?;
                }
                // A resource that an earlier interface has defined is only named again.
                (ComponentItem::Resource(resource), stub) if !known.contains(&resource) => {
                    known.push(resource);
                    if let Some(stub) = stub {
                        stub.resource(name, ResourceType::host::<()>(), |_, _| Ok(()))?;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The one interface of wrun that a floor has.
const CONTEXT: &str = "wrun:task/context";

impl context::Host for Host {
    fn info(&mut self) -> wasmtime::Result<context::TaskInfo> {
        let remaining = self.about.timeout;
        Ok(context::TaskInfo {
            task_id: 1,
            attempt: 1,
            mode: context::Mode::Thread,
            name: self.about.name.clone(),
            remaining_ns: remaining.map(|it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX)),
        })
    }

    fn cancelled(&mut self) -> wasmtime::Result<bool> {
        Ok(false)
    }

    fn subscribe_cancelled(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        let table = self.ctx().table;
        let never = table.push(Never)?;
        subscribe(table, never)
    }

    /// Nobody watches it.
    fn progress(&mut self, _: u64, _: Option<u64>) -> wasmtime::Result<()> {
        Ok(())
    }
}

/// A cancellation that does not come.
struct Never;

#[async_trait::async_trait]
impl Pollable for Never {
    async fn ready(&mut self) {
        std::future::pending().await
    }
}

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
