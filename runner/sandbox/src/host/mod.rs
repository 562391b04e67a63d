//! The data of a store for its guest: WASI state, limits, the task's own context. Made for
//! each run and dropped with it.

mod context;
mod file_calls;
mod listings;
mod ports;
mod windows;

pub use context::{OnProgress, Progress, TaskContext};
pub(crate) use file_calls::FileCalls;
pub(crate) use listings::{Entry, Kind, Listing, Listings};
pub use ports::Ports;
pub(crate) use windows::{NoWindow, Windows};

use crate::denials::Denials;
use crate::limits::Limiter;
use crate::standard::{Standard, Streams};
use rand::rand_core::UnwrapErr;
use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wrun_types::grant::TcpGrant;
use wrun_types::report::Access;
use wrun_types::spec::Spec;

/// Maximum of host resources (files, sockets, streams, pollables) that one guest may hold
/// at once. Many are descriptors, of which a process has some thousands. Beyond it, calls
/// that can return an error do so.
pub(crate) const MAX_RESOURCES: usize = 1_000;
/// Additional ones for calls that cannot return an error: pollables, the standard streams,
/// the list of granted directories. So a guest that has as many files as it may have can
/// still wait and write. None of these is a descriptor.
const RESERVED_RESOURCES: usize = 4_000;

/// The `T` of every store.
pub(crate) struct Host {
    pub wasi: Wasi,
    pub limiter: Limiter,
    pub context: TaskContext,
    pub denials: Denials,
    /// Whether host calls may block the thread for a moment, because it has no other work.
    pub blocking: bool,
    /// How file streams access their files.
    pub file_calls: FileCalls,
    /// Whether read-only directories were granted: the likely reason of a refused write.
    pub has_read_only: bool,
    /// Whether any TCP connections are granted.
    pub has_tcp: bool,
    /// TCP sockets made so far.
    pub sockets_made: u32,
    /// Host names that the guest may resolve, with their addresses.
    pub names: HashMap<String, VecDeque<IpAddr>>,
    /// Lookups of granted names: the addresses that were not returned yet.
    pub resolving: HashMap<u32, VecDeque<IpAddr>>,
    /// The windows of the guest's memory over which regions are mapped.
    pub windows: Windows,
    /// Directories that a guest of WASI 0.1 is reading.
    pub(crate) listings: Listings,
    /// For a guest that speaks HTTP.
    #[cfg(feature = "http")]
    pub(crate) http: crate::http::HttpHost,
}

/// What a guest uses of WASI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WasiUse {
    /// A component that imports nothing of it.
    Nothing,
    /// A component.
    Components,
    /// A core module.
    Modules,
}

/// WASI state of either generation.
pub(crate) enum Wasi {
    /// For components.
    P2 {
        /// Made when it is first asked for, with nothing in it, if the guest imports nothing of
        /// WASI: making it costs a tenth of a small task.
        ctx: Option<Box<WasiCtx>>,
        table: ResourceTable,
    },
    /// For core modules.
    P1(Box<WasiP1Ctx>),
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        match &mut self.wasi {
            Wasi::P2 { ctx, table } => WasiCtxView {
                ctx: ctx.get_or_insert_with(|| Box::new(WasiCtxBuilder::new().build())),
                table,
            },
            Wasi::P1(p1) => p1.ctx(),
        }
    }
}

impl Wasi {
    /// The guest's resources.
    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        match self {
            Wasi::P2 { table, .. } => table,
            Wasi::P1(p1) => p1.ctx().table,
        }
    }
}

impl Host {
    /// The host of one run.
    ///
    /// # Errors
    ///
    /// A granted directory cannot be opened.
    pub(crate) fn new(
        spec: &Spec,
        wasi: WasiUse,
        blocking: bool,
        streams: Streams<'_>,
        context: TaskContext,
        granted: Granted<'_>,
    ) -> Result<Self, GrantError> {
        let denials = Denials::default();
        // Directories are opened in any case: a wrong grant is an error.
        let mut wasi = if wasi == WasiUse::Nothing && spec.dirs.is_empty() {
            Wasi::P2 {
                ctx: None,
                table: ResourceTable::new(),
            }
        } else {
            let mut builder = builder(spec, blocking, streams, &denials, granted)?;
            match wasi {
                WasiUse::Modules => Wasi::P1(Box::new(builder.build_p1())),
                WasiUse::Nothing | WasiUse::Components => Wasi::P2 {
                    ctx: Some(Box::new(builder.build())),
                    table: ResourceTable::new(),
                },
            }
        };
        let most = MAX_RESOURCES + RESERVED_RESOURCES;
        wasi.table().set_max_capacity(most);
        Ok(Host {
            wasi,
            limiter: Limiter::new(&spec.limits, context.services.clone()),
            #[cfg(feature = "http")]
            http: crate::http::HttpHost::new(
                denials.clone(),
                spec.http.clone(),
                context.services.clone(),
            ),
            context,
            denials,
            blocking,
            file_calls: FileCalls::new(blocking),
            has_tcp: !spec.tcp.is_empty(),
            sockets_made: 0,
            has_read_only: spec.dirs.iter().any(|grant| grant.read_only),
            names: names(&spec.tcp),
            resolving: HashMap::new(),
            windows: Windows::default(),
            listings: Listings::default(),
        })
    }

    /// Whether the guest may have this many more resources.
    pub(crate) fn has_room(&mut self, more: usize) -> bool {
        let table = self.wasi.table();
        table.iter_mut().take(MAX_RESOURCES).count() + more <= MAX_RESOURCES
    }

    /// Adds to the guest's resources, if there is room.
    pub(crate) fn push<T: Send + 'static>(&mut self, resource: T) -> Option<Resource<T>> {
        if !self.has_room(1) {
            return None;
        }
        self.wasi.table().push(resource).ok()
    }
}

/// What a guest that uses WASI is given.
fn builder(
    spec: &Spec,
    blocking: bool,
    streams: Streams<'_>,
    denials: &Denials,
    granted: Granted<'_>,
) -> Result<WasiCtxBuilder, GrantError> {
    let mut builder = WasiCtxBuilder::new();
    builder
        .stdin(Standard::new(streams.stdin, streams.terminals.stdin))
        .stdout(Standard::new(streams.stdout, streams.terminals.stdout))
        .stderr(Standard::new(streams.stderr, streams.terminals.stderr))
        .allow_blocking_current_thread(blocking)
        .arg(&spec.name)
        .args(&spec.args)
        .envs(&spec.env)
        .allow_udp(false)
        .allow_tcp(true)
        .allow_ip_name_lookup(spec.tcp.iter().any(|grant| grant.is_name));
    if blocking {
        fresh_random(&mut builder);
    }
    for (index, grant) in spec.dirs.iter().enumerate() {
        let path = granted
            .path(index, &grant.host)
            .map_err(|error| GrantError {
                path: grant.host.display().to_string(),
                reason: error.to_string(),
            })?;
        let perms = if grant.read_only {
            FsPerms::ReadOnly
        } else {
            FsPerms::ReadWrite
        };
        builder
            .preopened_dir(path, grant.guest_name(), perms)
            .map_err(|error| GrantError {
                path: grant.host.display().to_string(),
                reason: format!("{error:#}"),
            })?;
    }
    check_sockets(&mut builder, &spec.tcp, denials.clone());
    Ok(builder)
}

/// Whether this process has used up its descriptors. wasmtime-wasi reports that as an
/// ordinary I/O error; a moment later it may be different.
pub(crate) fn out_of_descriptors() -> bool {
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::Errno;
    matches!(
        eventfd(0, EventfdFlags::CLOEXEC),
        Err(Errno::MFILE | Errno::NFILE)
    )
}

/// The addresses of granted names: each address once, over all ports.
fn names(grants: &[TcpGrant]) -> HashMap<String, VecDeque<IpAddr>> {
    let mut names: HashMap<String, VecDeque<IpAddr>> = HashMap::new();
    for grant in grants.iter().filter(|grant| grant.is_name) {
        let known = names.entry(grant.host.clone()).or_default();
        for address in &grant.addresses {
            let ip = address.ip().to_canonical();
            if !known.contains(&ip) {
                known.push_back(ip);
            }
        }
    }
    names
}

/// How a sandbox opens granted directories.
#[derive(Clone, Copy)]
pub enum Granted<'a> {
    /// Opens them by the paths in their grants.
    ByPath,
    /// They were opened before, one for each grant, because their paths may not be
    /// reachable from here. For a process of one thread: it changes the working directory.
    Opened(&'a [OwnedFd]),
}

impl Granted<'_> {
    /// A path by which the directory of a grant can be opened now.
    fn path<'a>(&self, index: usize, host: &'a Path) -> std::io::Result<&'a Path> {
        let Granted::Opened(directories) = self else {
            return Ok(host);
        };
        let directory = directories.get(index);
        let directory =
            directory.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
        rustix::process::fchdir(directory)?;
        Ok(Path::new("."))
    }
}

/// Random numbers that no other sandbox has, for a worker: generators that are seeded when
/// a thread first uses them would be the same in every process forked from it.
fn fresh_random(builder: &mut WasiCtxBuilder) {
    builder
        .secure_random(Fresh::default())
        .insecure_random(Fresh::default())
        .insecure_random_seed(seed());
}

/// From the kernel, by one call.
fn seed() -> u128 {
    let mut bytes = [0; 16];
    UnwrapErr(SysRng).fill_bytes(&mut bytes);
    u128::from_ne_bytes(bytes)
}

/// A generator that is seeded by the kernel when it is first used.
#[derive(Default)]
struct Fresh(Option<StdRng>);

impl Fresh {
    fn seeded(&mut self) -> &mut StdRng {
        self.0
            .get_or_insert_with(|| StdRng::from_rng(&mut UnwrapErr(SysRng)))
    }
}

impl TryRng for Fresh {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.seeded().next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.seeded().next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.seeded().fill_bytes(bytes);
        Ok(())
    }
}

/// A granted directory cannot be opened any more.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the granted directory {path}: {reason}")]
pub struct GrantError {
    path: String,
    reason: String,
}

/// Allows connections to granted addresses only, and neither listening nor UDP.
fn check_sockets(builder: &mut WasiCtxBuilder, grants: &[TcpGrant], denials: Denials) {
    let granted: Vec<SocketAddr> = grants
        .iter()
        .flat_map(|grant| grant.addresses.iter().copied())
        .collect();
    builder.socket_addr_check(move |address, usage| {
        let allowed = match usage {
            SocketAddrUse::TcpConnect => granted.contains(&address),
            // The bind that connecting implies; it opens nothing, and refusing it would hide
            // the address that the guest wanted to connect to.
            SocketAddrUse::TcpBind => {
                !denials.binds() && address.port() == 0 && address.ip().is_unspecified()
            }
            _ => false,
        };
        if !allowed {
            let access = match usage {
                SocketAddrUse::TcpConnect => Access::TcpConnect,
                SocketAddrUse::TcpBind | SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => {
                    Access::TcpListen
                }
                _ => Access::Udp,
            };
            denials.note(access, &address.to_string());
        }
        Box::pin(async move { allowed })
    });
}
