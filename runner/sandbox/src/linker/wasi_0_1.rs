//! WASI 0.1 with its refusals recorded.

use super::Refused;
use crate::host::{Host, Wasi, out_of_descriptors};
use wasmtime::{Caller, Extern};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as p1, WasiSnapshotPreview1};
use wiggle::GuestMemory;
use wrun_types::report::Access;

/// Sizes of WASI 0.1's `subscription` and `event`.
pub(super) const SUBSCRIPTION: usize = 48;
pub(super) const EVENT: usize = 32;

/// Parameters of WASI 0.1's `path_open`.
type PathOpen = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

const ERRNO_ACCES: i32 = 2;
const ERRNO_IO: i32 = 29;
const ERRNO_MFILE: i32 = 33;
const ERRNO_NAMETOOLONG: i32 = 37;
const ERRNO_NFILE: i32 = 41;
/// Longest path that is opened, that of Linux. A longer one would be opened piece by piece,
/// but the path that is checked first must be the one that is opened.
pub(super) const MAX_PATH: usize = 4096;

/// A guest's memory, its host, and the budget of one call in the host.
pub(super) fn guest_of<'a>(
    caller: &'a mut Caller<'_, Host>,
) -> wasmtime::Result<(&'a mut [u8], &'a mut Host, usize)> {
    let fuel = wasmtime::AsContextMut::as_context_mut(caller).hostcall_fuel();
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(wasmtime::Error::msg("the module exports no memory"));
    };
    let (bytes, host) = memory.data_and_store_mut(caller);
    Ok((bytes, host, fuel))
}

impl Host {
    /// The state of WASI 0.1, at the start of a call.
    pub(super) fn p1(&mut self, fuel: usize) -> wasmtime::Result<&mut WasiP1Ctx> {
        let Wasi::P1(ctx) = &mut self.wasi else {
            return Err(wasmtime::Error::msg("not a WASI 0.1 host"));
        };
        ctx.set_hostcall_fuel(fuel);
        Ok(ctx)
    }
}

/// A path in a guest's memory, as far as it is within the memory.
fn path_of(memory: &[u8], ptr: i32, len: i32) -> &[u8] {
    let start = ptr.cast_unsigned() as usize;
    let len = (len.cast_unsigned() as usize).min(MAX_PATH);
    start
        .checked_add(len)
        .and_then(|end| memory.get(start..end))
        .unwrap_or_default()
}

/// The length of a path without trailing slashes. Removing a directory by such a path is
/// valid in POSIX, but an error in wasmtime-wasi.
fn without_slash(memory: &[u8], ptr: i32, len: i32) -> i32 {
    let path = path_of(memory, ptr, len);
    let kept = path.iter().rposition(|byte| *byte != b'/');
    match kept.and_then(|last| i32::try_from(last + 1).ok()) {
        Some(kept) => kept,
        None => len,
    }
}

/// Whether a path exists and is neither file, directory nor link. Calls WASI's own
/// `path_filestat_get`, with a memory made for this call.
async fn is_special(
    ctx: &mut WasiP1Ctx,
    fd: i32,
    flags: i32,
    path: &[u8],
) -> wasmtime::Result<bool> {
    /// Size of a `filestat`, and the offset of the type in it.
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

/// wasmtime-wasi has no errno for a process that has used up its descriptors.
fn or_no_descriptors(errno: i32) -> i32 {
    if errno == ERRNO_IO && out_of_descriptors() {
        ERRNO_NFILE
    } else {
        errno
    }
}

/// Whether a path is longer than any that is looked up: examining it takes time.
fn is_long(len: i32) -> bool {
    len.cast_unsigned() as usize > MAX_PATH
}

/// The `errno` values of WASI 0.1 that mean a refusal, with its reason.
fn refused(errno: i32) -> Option<Refused> {
    match errno {
        ERRNO_ACCES => Some(Refused::ByPermissions),
        // perm, rofs, notcapable.
        63 | 69 | 76 => Some(Refused::ByGrant),
        _ => None,
    }
}

/// Bits of `oflags` that create or truncate a file, and of `rights` that write one.
const OFLAGS_WRITE: i32 = 0b1001;
const RIGHTS_FD_WRITE: i64 = 1 << 6;

/// The same for WASI 0.1: the guest's call, the original, a record if refused.
macro_rules! watch_p1 {
    ($linker:ident, $name:ident($($arg:ident: $ty:ty),*), path: ($ptr:ident, $len:ident), $(other: $other:ident,)? $(as: $as:path,)? write: $write:expr) => {
        $linker.func_wrap_async(
            "wasi_snapshot_preview1",
            stringify!($name),
            |mut caller: Caller<'_, Host>, ($($arg,)*): ($($ty,)*)| {
                Box::new(async move {
                    let (bytes, host, fuel) = guest_of(&mut caller)?;
                    if is_long($len) $(|| is_long($other))? {
                        return Ok(ERRNO_NAMETOOLONG);
                    }
                    $(let $len = $as(bytes, $ptr, $len);)?
                    let mut guest = GuestMemory::Unshared(&mut *bytes);
                    let errno = p1::$name(host.p1(fuel)?, &mut guest, $($arg),*).await?;
                    let errno = or_no_descriptors(errno);
                    if let Some(refused) = refused(errno) {
                        let path = path_of(bytes, $ptr, $len);
                        host.note_path(&String::from_utf8_lossy(path), $write, refused);
                    }
                    Ok(errno)
                })
            },
        )?;
    };
}

pub(super) fn watch_filesystem(linker: &mut wasmtime::Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        "wasi_snapshot_preview1",
        "path_open",
        |mut caller: Caller<'_, Host>,
         (fd, dirflags, ptr, len, oflags, rights, inheriting, fdflags, result): PathOpen| {
            Box::new(async move {
                let (bytes, host, fuel) = guest_of(&mut caller)?;
                if is_long(len) {
                    return Ok(ERRNO_NAMETOOLONG);
                }
                // Before a file is created or truncated.
                if !host.has_room(1) {
                    return Ok(ERRNO_MFILE);
                }
                let path = path_of(bytes, ptr, len).to_vec();
                let special = is_special(host.p1(fuel)?, fd, dirflags, &path).await?;
                let errno = if special {
                    ERRNO_ACCES
                } else {
                    let mut guest = GuestMemory::Unshared(bytes);
                    p1::path_open(
                        host.p1(fuel)?,
                        &mut guest,
                        fd,
                        dirflags,
                        ptr,
                        len,
                        oflags,
                        rights,
                        inheriting,
                        fdflags,
                        result,
                    )
                    .await?
                };
                let errno = or_no_descriptors(errno);
                let refused = match special {
                    true => Some(Refused::Special),
                    false => refused(errno),
                };
                if let Some(refused) = refused {
                    let write = oflags & OFLAGS_WRITE != 0 || rights & RIGHTS_FD_WRITE != 0;
                    host.note_path(&String::from_utf8_lossy(&path), write, refused);
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
        path_filestat_set_times(
            fd: i32, flags: i32, ptr: i32, len: i32, accessed: i64, modified: i64, how: i32
        ),
        path: (ptr, len),
        write: true
    );
    watch_p1!(
        linker,
        path_readlink(fd: i32, ptr: i32, len: i32, buf: i32, buf_len: i32, result: i32),
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
        as: without_slash,
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
        other: old_len,
        write: true
    );
    watch_p1!(
        linker,
        path_symlink(old: i32, old_len: i32, fd: i32, ptr: i32, len: i32),
        path: (ptr, len),
        other: old_len,
        write: true
    );
    watch_p1!(
        linker,
        path_link(fd: i32, flags: i32, old: i32, old_len: i32, new_fd: i32, ptr: i32, len: i32),
        path: (ptr, len),
        other: old_len,
        write: true
    );
    // Enumerating ends with `badf`; if it does so at the first descriptor that a directory
    // could have, there are no directories.
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "fd_prestat_get",
        |mut caller: Caller<'_, Host>, fd: i32, result: i32| -> wasmtime::Result<i32> {
            let (bytes, host, fuel) = guest_of(&mut caller)?;
            let mut guest = GuestMemory::Unshared(bytes);
            let errno = p1::fd_prestat_get(host.p1(fuel)?, &mut guest, fd, result)?;
            if fd == 3 && errno != 0 {
                host.denials.note(Access::Directories, "");
            }
            Ok(errno)
        },
    )?;
    Ok(())
}
