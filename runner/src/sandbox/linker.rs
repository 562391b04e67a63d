//! What a guest's imports are answered by, for each shape of guest: WASI with
//! its refusals noted, and the interfaces of `wrun:task` that exist.

use super::abi::bindings::wrun::task::context;
use super::host::{Host, Wasi};
use crate::report::Access;
use std::time::Duration;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime::{Caller, Extern, StoreContextMut};
use wasmtime_wasi::filesystem::WasiFilesystemView;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as p1, WasiSnapshotPreview1};
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as PreopensHost;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, ErrorCode, Host as FilesystemHost, HostDescriptor,
    OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    Host as LookupHost, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode as SocketErrorCode, Host as NetworkHost, IpAddressFamily, Network,
};
use wasmtime_wasi::p2::bindings::sockets::tcp::TcpSocket;
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host as TcpCreateHost;
use wasmtime_wasi::p2::bindings::sockets::udp::UdpSocket;
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket::Host as UdpCreateHost;
use wasmtime_wasi::p2::{FsError, SocketError};
use wasmtime_wasi::sockets::WasiSocketsView;
use wiggle::GuestMemory;

/// The version that `wasmtime-wasi` registers; guests of any 0.2 find it.
const WASI: &str = "0.2.12";

/// For components: WASI 0.2 and `wrun:task`.
pub(crate) fn component(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    context::add_to_linker::<Host, HasSelf<Host>>(&mut linker, |host| host)?;
    linker.allow_shadowing(true);
    watch_filesystem(&mut linker)?;
    watch_names(&mut linker)?;
    count_sockets(&mut linker)?;
    watch_udp(&mut linker)?;
    Ok(linker)
}

/// For core modules: WASI 0.1.
pub(crate) fn module(engine: &wasmtime::Engine) -> wasmtime::Result<wasmtime::Linker<Host>> {
    let mut linker = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |host: &mut Host| match &mut host.wasi {
        Wasi::P1(p1) => &mut **p1,
        Wasi::P2 { .. } => unreachable!("module linkers are only used with WASI 0.1 hosts"),
    })?;
    linker.allow_shadowing(true);
    // wasmtime-wasi refuses codes from 126 on; a shell's convention is no reason
    // to lose what the guest said. Codes are a byte, as for every process.
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "proc_exit",
        |code: i32| -> wasmtime::Result<()> { Err(wasmtime_wasi::I32Exit(code & 0xff).into()) },
    )?;
    watch_module_filesystem(&mut linker)?;
    sleep_without_blocking(&mut linker)?;
    Ok(linker)
}

/// Sizes of WASI 0.1's `subscription` and `event`, with the offsets used below.
const SUBSCRIPTION: usize = 48;
const EVENT: usize = 32;

/// The relative sleep that one subscription asks for: its user data, how long.
fn plain_sleep(subscription: &[u8]) -> Option<(u64, Duration)> {
    let u64_at = |at: usize| -> Option<u64> {
        let bytes = subscription.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let is_clock = *subscription.get(8)? == 0;
    let is_absolute = *subscription.get(40)? & 1 != 0;
    let sleeps = is_clock && !is_absolute;
    sleeps.then_some((u64_at(0)?, Duration::from_nanos(u64_at(24)?)))
}

/// Where file calls may block the thread, wasmtime-wasi has a plain sleep block
/// it too: neither deadlines nor output would get their turn meanwhile.
fn sleep_without_blocking(linker: &mut wasmtime::Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        "wasi_snapshot_preview1",
        "poll_oneoff",
        |mut caller: Caller<'_, Host>, (subs, events, count, result): (i32, i32, i32, i32)| {
            Box::new(async move {
                let fuel = wasmtime::AsContextMut::as_context_mut(&mut caller).hostcall_fuel();
                let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
                    return Err(wasmtime::Error::msg("the module exports no memory"));
                };
                let at = |start: i32, len: usize| {
                    let start = start as u32 as usize;
                    start..start.saturating_add(len)
                };
                let subscription = memory.data(&caller).get(at(subs, SUBSCRIPTION));
                let sleep = match (count, subscription) {
                    (1, Some(subscription)) => plain_sleep(subscription),
                    _ => None,
                };
                let Some((userdata, duration)) = sleep else {
                    let (bytes, host) = memory.data_and_store_mut(&mut caller);
                    let Wasi::P1(ctx) = &mut host.wasi else {
                        return Err(wasmtime::Error::msg("not a WASI 0.1 host"));
                    };
                    ctx.set_hostcall_fuel(fuel);
                    let mut guest = GuestMemory::Unshared(bytes);
                    return p1::poll_oneoff(&mut **ctx, &mut guest, subs, events, count, result)
                        .await;
                };
                tokio::time::sleep(duration).await;
                let bytes = memory.data_mut(&mut caller);
                // Success, of a clock: all else is zero.
                let mut event = [0; EVENT];
                event[..8].copy_from_slice(&userdata.to_le_bytes());
                for (range, value) in [
                    (at(events, EVENT), &event[..]),
                    (at(result, 4), &1u32.to_le_bytes()),
                ] {
                    match bytes.get_mut(range) {
                        Some(place) => place.copy_from_slice(value),
                        None => return Err(wasmtime::Trap::MemoryOutOfBounds.into()),
                    }
                }
                Ok(0)
            })
        },
    )?;
    Ok(())
}

impl Host {
    /// Notes a refused file operation. `write` says that it would have changed
    /// something.
    fn note_path(&mut self, path: &str, write: bool) {
        let escapes = path.starts_with('/') || path.split('/').any(|part| part == "..");
        let access = if write && self.has_read_only && !escapes {
            Access::Write
        } else {
            Access::Path
        };
        self.denials.note(access, path);
    }
}

fn is_denial(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Access | ErrorCode::NotPermitted | ErrorCode::ReadOnly
    )
}

/// Turns an error of the original into what the guest gets, noting a refusal.
fn answer<T>(
    host: &mut Host,
    result: Result<T, FsError>,
    path: &str,
    write: bool,
) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => {
            let code = host.filesystem().convert_error_code(error)?;
            if is_denial(code) {
                host.note_path(path, write);
            }
            Ok((Err(code),))
        }
    }
}

/// Shadows the calls that take a path by ones that call the original and note
/// what it refuses. Only files and directories are opened: opening a FIFO or a
/// device can block a thread of the host for as long as somebody else likes, and
/// no deadline reaches it there.
fn watch_filesystem(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    type Store<'a> = StoreContextMut<'a, Host>;
    type Dir = Resource<Descriptor>;

    let mut types = linker.instance(&format!("wasi:filesystem/types@{WASI}"))?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: Store<'_>,
         (dir, path_flags, path, open_flags, flags): (
            Dir,
            PathFlags,
            String,
            OpenFlags,
            DescriptorFlags,
        )| {
            Box::new(async move {
                let host = store.data_mut();
                let write = open_flags.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE)
                    || flags.intersects(DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY);
                let here = Resource::new_borrow(dir.rep());
                let known = host
                    .filesystem()
                    .stat_at(here, path_flags, path.clone())
                    .await;
                let special = known.is_ok_and(|stat| {
                    !matches!(
                        stat.type_,
                        DescriptorType::RegularFile
                            | DescriptorType::Directory
                            | DescriptorType::SymbolicLink
                    )
                });
                let result = if special {
                    Err(FsError::from(ErrorCode::Access))
                } else {
                    host.filesystem()
                        .open_at(dir, path_flags, path.clone(), open_flags, flags)
                        .await
                };
                answer(host, result, &path, write)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.stat-at",
        |mut store: Store<'_>, (dir, flags, path): (Dir, PathFlags, String)| {
            Box::new(async move {
                let host = store.data_mut();
                let result = host.filesystem().stat_at(dir, flags, path.clone()).await;
                answer(host, result, &path, false)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.create-directory-at",
        |mut store: Store<'_>, (dir, path): (Dir, String)| {
            Box::new(async move {
                let host = store.data_mut();
                let result = host
                    .filesystem()
                    .create_directory_at(dir, path.clone())
                    .await;
                answer(host, result, &path, true)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.remove-directory-at",
        |mut store: Store<'_>, (dir, path): (Dir, String)| {
            Box::new(async move {
                let host = store.data_mut();
                let result = host
                    .filesystem()
                    .remove_directory_at(dir, path.clone())
                    .await;
                answer(host, result, &path, true)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.unlink-file-at",
        |mut store: Store<'_>, (dir, path): (Dir, String)| {
            Box::new(async move {
                let host = store.data_mut();
                let result = host.filesystem().unlink_file_at(dir, path.clone()).await;
                answer(host, result, &path, true)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.rename-at",
        |mut store: Store<'_>, (dir, old, new_dir, new): (Dir, String, Dir, String)| {
            Box::new(async move {
                let host = store.data_mut();
                let result = host
                    .filesystem()
                    .rename_at(dir, old, new_dir, new.clone())
                    .await;
                answer(host, result, &new, true)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.symlink-at",
        |mut store: Store<'_>, (dir, old, new): (Dir, String, String)| {
            Box::new(async move {
                let host = store.data_mut();
                let result = host.filesystem().symlink_at(dir, old, new.clone()).await;
                answer(host, result, &new, true)
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.link-at",
        |mut store: Store<'_>,
         (dir, flags, old, new_dir, new): (Dir, PathFlags, String, Dir, String)| {
            Box::new(async move {
                let host = store.data_mut();
                let result = host
                    .filesystem()
                    .link_at(dir, flags, old, new_dir, new.clone())
                    .await;
                answer(host, result, &new, true)
            })
        },
    )?;
    linker
        .instance(&format!("wasi:filesystem/preopens@{WASI}"))?
        .func_wrap(
            "get-directories",
            |mut store: Store<'_>, (): ()| -> wasmtime::Result<(Vec<(Dir, String)>,)> {
                let host = store.data_mut();
                let directories = PreopensHost::get_directories(&mut host.filesystem())?;
                if directories.is_empty() {
                    host.denials.note(Access::Directories, "");
                }
                Ok((directories,))
            },
        )
}

/// Sockets that a task without any grant may make: enough to be refused when it
/// connects, and to be told so.
const UNGRANTED_SOCKETS: u32 = 4;

fn count_sockets(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:sockets/tcp-create-socket@{WASI}"))?
        .func_wrap(
            "create-tcp-socket",
            |mut store: StoreContextMut<'_, Host>, (family,): (IpAddressFamily,)| {
                let host = store.data_mut();
                let result = if host.has_tcp || host.sockets_made < UNGRANTED_SOCKETS {
                    host.sockets_made = host.sockets_made.saturating_add(1);
                    TcpCreateHost::create_tcp_socket(&mut host.sockets(), family)
                } else {
                    Err(SocketError::from(SocketErrorCode::NewSocketLimit))
                };
                let answer: Result<Resource<TcpSocket>, SocketErrorCode> = match result {
                    Ok(socket) => Ok(socket),
                    Err(error) => Err(host.sockets().convert_error_code(error)?),
                };
                Ok((answer,))
            },
        )
}

/// Resolving is granted per name; wasmtime-wasi only knows all or none.
fn watch_names(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:sockets/ip-name-lookup@{WASI}"))?
        .func_wrap(
            "resolve-addresses",
            |mut store: StoreContextMut<'_, Host>, (network, name): (Resource<Network>, String)| {
                let host = store.data_mut();
                let granted = host.names.contains(&name);
                let result = if granted || name.parse::<std::net::IpAddr>().is_ok() {
                    LookupHost::resolve_addresses(&mut host.sockets(), network, name.clone())
                } else {
                    Err(SocketError::from(SocketErrorCode::AccessDenied))
                };
                let answer: Result<Resource<ResolveAddressStream>, SocketErrorCode> = match result {
                    Ok(stream) => Ok(stream),
                    Err(error) => {
                        let code = host.sockets().convert_error_code(error)?;
                        if matches!(
                            code,
                            SocketErrorCode::AccessDenied
                                | SocketErrorCode::PermanentResolverFailure
                        ) && !granted
                        {
                            host.denials.note(Access::NameLookup, &name);
                        }
                        Err(code)
                    }
                };
                Ok((answer,))
            },
        )
}

/// UDP is never granted, so that no socket comes to be whose use could be noted.
fn watch_udp(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:sockets/udp-create-socket@{WASI}"))?
        .func_wrap_async(
            "create-udp-socket",
            |mut store: StoreContextMut<'_, Host>, (family,): (IpAddressFamily,)| {
                Box::new(async move {
                    let host = store.data_mut();
                    let result = host.sockets().create_udp_socket(family).await;
                    let answer: Result<Resource<UdpSocket>, SocketErrorCode> = match result {
                        Ok(socket) => Ok(socket),
                        Err(error) => {
                            let code = host.sockets().convert_error_code(error)?;
                            if code == SocketErrorCode::AccessDenied {
                                host.denials.note(Access::Udp, "");
                            }
                            Err(code)
                        }
                    };
                    Ok((answer,))
                })
            },
        )
}

/// Parameters of WASI 0.1's `path_open`.
type PathOpen = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

const ERRNO_ACCES: i32 = 2;
/// Longest path that is looked at, that of Linux.
const MAX_PATH: usize = 4096;

/// A path in a guest's memory, as far as it is there.
fn path_of(memory: &[u8], ptr: i32, len: i32) -> &[u8] {
    let start = ptr.cast_unsigned() as usize;
    let len = (len.cast_unsigned() as usize).min(MAX_PATH);
    start
        .checked_add(len)
        .and_then(|end| memory.get(start..end))
        .unwrap_or_default()
}

/// Whether a path is there and is neither file, directory nor link. Asks WASI's
/// own `path_filestat_get`, with a memory made for the question.
async fn is_special(
    ctx: &mut WasiP1Ctx,
    fd: i32,
    flags: i32,
    path: &[u8],
) -> wasmtime::Result<bool> {
    /// Size of a `filestat`, and where in it the type is.
    const FILESTAT: i32 = 64;
    const FILETYPE: usize = 16;
    let mut memory = vec![0; FILESTAT as usize];
    memory.extend_from_slice(path);
    let len = i32::try_from(path.len()).unwrap_or(0);
    let mut guest = GuestMemory::Unshared(&mut memory);
    let errno = p1::path_filestat_get(ctx, &mut guest, fd, flags, FILESTAT, len, 0).await?;
    // directory, regular_file, symbolic_link
    Ok(errno == 0 && !matches!(memory.get(FILETYPE), Some(3 | 4 | 7)))
}

/// `errno` values of WASI 0.1 that mean a refusal: acces, perm, rofs, notcapable.
fn is_denied_errno(errno: i32) -> bool {
    matches!(errno, 2 | 63 | 69 | 76)
}

/// Bits of `oflags` that create or cut a file, and of `rights` that write one.
const OFLAGS_WRITE: i32 = 0b1001;
const RIGHTS_FD_WRITE: i64 = 1 << 6;

/// The same for WASI 0.1: the guest's call, the original, a note if refused.
macro_rules! watch_p1 {
    ($linker:ident, $name:ident($($arg:ident: $ty:ty),*), path: ($ptr:ident, $len:ident), write: $write:expr) => {
        $linker.func_wrap_async(
            "wasi_snapshot_preview1",
            stringify!($name),
            |mut caller: Caller<'_, Host>, ($($arg,)*): ($($ty,)*)| {
                Box::new(async move {
                    let fuel = wasmtime::AsContextMut::as_context_mut(&mut caller).hostcall_fuel();
                    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
                        return Err(wasmtime::Error::msg("the module exports no memory"));
                    };
                    let (bytes, host) = memory.data_and_store_mut(&mut caller);
                    let Wasi::P1(ctx) = &mut host.wasi else {
                        return Err(wasmtime::Error::msg("not a WASI 0.1 host"));
                    };
                    ctx.set_hostcall_fuel(fuel);
                    let mut guest = GuestMemory::Unshared(&mut *bytes);
                    let errno = p1::$name(&mut **ctx, &mut guest, $($arg),*).await?;
                    if is_denied_errno(errno) {
                        let path = path_of(bytes, $ptr, $len);
                        host.note_path(&String::from_utf8_lossy(path), $write);
                    }
                    Ok(errno)
                })
            },
        )?;
    };
}

fn watch_module_filesystem(linker: &mut wasmtime::Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        "wasi_snapshot_preview1",
        "path_open",
        |mut caller: Caller<'_, Host>,
         (fd, dirflags, ptr, len, oflags, rights, inheriting, fdflags, result): PathOpen| {
            Box::new(async move {
                let fuel = wasmtime::AsContextMut::as_context_mut(&mut caller).hostcall_fuel();
                let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
                    return Err(wasmtime::Error::msg("the module exports no memory"));
                };
                let (bytes, host) = memory.data_and_store_mut(&mut caller);
                let Wasi::P1(ctx) = &mut host.wasi else {
                    return Err(wasmtime::Error::msg("not a WASI 0.1 host"));
                };
                let path = path_of(bytes, ptr, len).to_vec();
                ctx.set_hostcall_fuel(fuel);
                let errno = if is_special(ctx, fd, dirflags, &path).await? {
                    ERRNO_ACCES
                } else {
                    ctx.set_hostcall_fuel(fuel);
                    let mut guest = GuestMemory::Unshared(bytes);
                    p1::path_open(
                        &mut **ctx, &mut guest, fd, dirflags, ptr, len, oflags, rights, inheriting,
                        fdflags, result,
                    )
                    .await?
                };
                if is_denied_errno(errno) {
                    let write = oflags & OFLAGS_WRITE != 0 || rights & RIGHTS_FD_WRITE != 0;
                    host.note_path(&String::from_utf8_lossy(&path), write);
                }
                Ok(errno)
            })
        },
    )?;
    watch_p1!(
        linker,
        path_filestat_get(fd: i32, flags: i32, ptr: i32, len: i32, result: i32),
        path: (ptr, len),
        write: false
    );
    watch_p1!(
        linker,
        path_create_directory(fd: i32, ptr: i32, len: i32),
        path: (ptr, len),
        write: true
    );
    watch_p1!(
        linker,
        path_remove_directory(fd: i32, ptr: i32, len: i32),
        path: (ptr, len),
        write: true
    );
    watch_p1!(
        linker,
        path_unlink_file(fd: i32, ptr: i32, len: i32),
        path: (ptr, len),
        write: true
    );
    watch_p1!(
        linker,
        path_rename(fd: i32, old: i32, old_len: i32, new_fd: i32, ptr: i32, len: i32),
        path: (ptr, len),
        write: true
    );
    watch_p1!(
        linker,
        path_symlink(old: i32, old_len: i32, fd: i32, ptr: i32, len: i32),
        path: (ptr, len),
        write: true
    );
    watch_p1!(
        linker,
        path_link(fd: i32, flags: i32, old: i32, old_len: i32, new_fd: i32, ptr: i32, len: i32),
        path: (ptr, len),
        write: true
    );
    // Enumerating ends with `badf`; when it does so at the first descriptor that
    // a directory could have, there are none.
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "fd_prestat_get",
        |mut caller: Caller<'_, Host>, fd: i32, result: i32| -> wasmtime::Result<i32> {
            let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
                return Err(wasmtime::Error::msg("the module exports no memory"));
            };
            let (bytes, host) = memory.data_and_store_mut(&mut caller);
            let Wasi::P1(ctx) = &mut host.wasi else {
                return Err(wasmtime::Error::msg("not a WASI 0.1 host"));
            };
            let mut guest = GuestMemory::Unshared(bytes);
            let errno = p1::fd_prestat_get(&mut **ctx, &mut guest, fd, result)?;
            if fd == 3 && errno != 0 {
                host.denials.note(Access::Directories, "");
            }
            Ok(errno)
        },
    )?;
    Ok(())
}
