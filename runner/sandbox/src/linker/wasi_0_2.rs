//! WASI 0.2 with its refusals recorded: calls that depend on grants are shadowed by
//! functions that call the original and examine its result.

use super::Refused;
use super::wasi_0_1::MAX_PATH;
use crate::host::{Host, out_of_descriptors};
use std::net::IpAddr;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::WasiFilesystemView;
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as PreopensHost;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, ErrorCode, Host as FilesystemHost, HostDescriptor,
    OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    Host as LookupHost, HostResolveAddressStream, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode as SocketErrorCode, Host as NetworkHost, IpAddress, IpAddressFamily, IpSocketAddress,
    Network,
};
use wasmtime_wasi::p2::bindings::sockets::tcp::{HostTcpSocket, TcpSocket};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host as TcpCreateHost;
use wasmtime_wasi::p2::bindings::sockets::udp::UdpSocket;
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket::Host as UdpCreateHost;
use wasmtime_wasi::p2::{FsError, SocketError};
use wasmtime_wasi::sockets::WasiSocketsView;
use wrun_types::report::Access;

/// The version that `wasmtime-wasi` registers; it serves guests of any 0.2.
pub(super) const WASI: &str = "0.2.12";

/// The codes that mean a refusal, with its reason.
fn refused(code: ErrorCode) -> Option<Refused> {
    match code {
        ErrorCode::Access => Some(Refused::ByPermissions),
        ErrorCode::NotPermitted | ErrorCode::ReadOnly => Some(Refused::ByGrant),
        _ => None,
    }
}

/// Converts an error of the original for the guest, and records a refusal.
fn answer<T>(
    host: &mut Host,
    result: Result<T, FsError>,
    path: &str,
    write: bool,
) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => {
            let mut code = host.filesystem().convert_error_code(error)?;
            // There is no code for it; this is the closest.
            if code == ErrorCode::Io && out_of_descriptors() {
                code = ErrorCode::InsufficientMemory;
            }
            if let Some(refused) = refused(code) {
                host.note_path(path, write, refused);
            }
            Ok((Err(code),))
        }
    }
}

/// Shadows the calls that take a path by functions that call the original and record what
/// it refuses. Only files and directories are opened: opening a FIFO or a device can block
/// a thread of the host for an unbounded time, and no deadline reaches it there.
pub(super) fn watch_filesystem(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
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
                if path.len() > MAX_PATH {
                    return Ok((Err(ErrorCode::NameTooLong),));
                }
                // Before a file is created or truncated.
                if !host.has_room(1) {
                    return Ok((Err(ErrorCode::InsufficientMemory),));
                }
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
                if special {
                    host.note_path(&path, write, Refused::Special);
                    return Ok((Err(ErrorCode::Access),));
                }
                let result = host
                    .filesystem()
                    .open_at(dir, path_flags, path.clone(), open_flags, flags)
                    .await;
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
                // A trailing slash is an error in wasmtime-wasi, but not in POSIX.
                let name = match path.trim_end_matches('/') {
                    "" => &path,
                    name => name,
                };
                let result = host
                    .filesystem()
                    .remove_directory_at(dir, name.to_owned())
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

/// Sockets that a task without any grant may make: enough to be refused when it connects,
/// with a record of it.
const UNGRANTED_SOCKETS: u32 = 4;

pub(super) fn count_sockets(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:sockets/tcp-create-socket@{WASI}"))?
        .func_wrap(
            "create-tcp-socket",
            |mut store: StoreContextMut<'_, Host>, (family,): (IpAddressFamily,)| {
                let host = store.data_mut();
                let may = host.has_tcp || host.sockets_made < UNGRANTED_SOCKETS;
                let result = if may && host.has_room(1) {
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

/// A local address of the guest's own choice is never granted, in either mode, because a
/// worker's walls let no socket be bound.
pub(super) fn refuse_binding(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    type Parameters = (Resource<TcpSocket>, Resource<Network>, IpSocketAddress);
    linker
        .instance(&format!("wasi:sockets/tcp@{WASI}"))?
        .func_wrap_async(
            "[method]tcp-socket.start-bind",
            |mut store: StoreContextMut<'_, Host>, (socket, network, address): Parameters| {
                Box::new(async move {
                    let host = store.data_mut();
                    host.denials.set_binds(true);
                    let result = host.sockets().start_bind(socket, network, address).await;
                    host.denials.set_binds(false);
                    let answer: Result<(), SocketErrorCode> = match result {
                        Ok(()) => Ok(()),
                        Err(error) => Err(host.sockets().convert_error_code(error)?),
                    };
                    Ok((answer,))
                })
            },
        )
}

/// Resolving is granted per name, and a grant was resolved when it was made: the guest gets
/// those addresses. No resolver is called: it would need threads, files and sockets that a
/// jailed worker does not have, and later addresses would not be granted anyway.
pub(super) fn watch_names(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut names = linker.instance(&format!("wasi:sockets/ip-name-lookup@{WASI}"))?;
    names.func_wrap(
        "resolve-addresses",
        |mut store: StoreContextMut<'_, Host>, (network, name): (Resource<Network>, String)| {
            let host = store.data_mut();
            let granted = host.names.get(&name).cloned();
            let first = match &granted {
                Some(addresses) => addresses.front().copied(),
                None => name.parse::<IpAddr>().ok(),
            };
            let result = match first {
                _ if !host.has_room(1) => Err(SocketErrorCode::OutOfMemory.into()),
                // Addresses need no resolver: the stream is ready, and for a granted name its
                // results are replaced.
                Some(address) => {
                    LookupHost::resolve_addresses(&mut host.sockets(), network, address.to_string())
                }
                None if granted.is_some() => Err(SocketErrorCode::NameUnresolvable.into()),
                None => Err(SocketErrorCode::AccessDenied.into()),
            };
            let answer: Result<Resource<ResolveAddressStream>, SocketErrorCode> = match result {
                Ok(stream) => {
                    match granted {
                        Some(addresses) => host.resolving.insert(stream.rep(), addresses),
                        None => host.resolving.remove(&stream.rep()),
                    };
                    Ok(stream)
                }
                Err(error) => {
                    let code = host.sockets().convert_error_code(error)?;
                    if matches!(
                        code,
                        SocketErrorCode::AccessDenied | SocketErrorCode::PermanentResolverFailure
                    ) && granted.is_none()
                    {
                        host.denials.note(Access::NameLookup, &name);
                    }
                    Err(code)
                }
            };
            Ok((answer,))
        },
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, Host>, (stream,): (Resource<ResolveAddressStream>,)| {
            let host = store.data_mut();
            let rep = stream.rep();
            let next = host.sockets().resolve_next_address(stream);
            let answer: Result<Option<IpAddress>, SocketErrorCode> = match next {
                Ok(next) => Ok(match host.resolving.get_mut(&rep) {
                    Some(addresses) => addresses.pop_front().map(IpAddress::from),
                    None => next,
                }),
                Err(error) => Err(host.sockets().convert_error_code(error)?),
            };
            Ok((answer,))
        },
    )
}

/// UDP is never granted, so no socket is made whose use could be recorded.
pub(super) fn watch_udp(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
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
