//! Reading and writing in parts: calls with large buffers.
//!
//! wasmtime-wasi first copies the whole buffer to the host if another thread does the work,
//! refuses buffers beyond the host's budget for one call, and copies data for a stream that
//! never blocks without yielding. Here one call of the guest becomes as many of its calls
//! as necessary, each with a bounded part of the buffer.

use super::turns::Turns;
use super::wasi_0_1::guest_of;
use super::wasi_0_2::WASI;
use crate::host::Host;
use std::os::unix::fs::FileExt;
use wasmtime::component::{Linker, Resource, WasmList};
use wasmtime::{Caller, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as p1;
use wasmtime_wasi::p2::bindings::filesystem::types::{ErrorCode, Host as _};
use wiggle::GuestMemory;

/// Bytes of one part.
const PART: usize = 256 << 10;
/// Maximum that wasmtime-wasi reads at a position at once, whatever the buffer.
const PART_AT: usize = 64 << 10;
/// Buffers that are examined to find one that is not empty; `IOV_MAX` in POSIX.
const MAX_BUFFERS: usize = 1024;

const ERRNO_SUCCESS: i32 = 0;
const ERRNO_BADF: i32 = 8;
const ERRNO_INVAL: i32 = 28;

/// The operation.
#[derive(Clone, Copy)]
enum Transfer {
    Read,
    ReadAt(i64),
    Write,
    WriteAt(i64),
}

/// Parameters of one call: descriptor, buffers, their number, the address of the result.
type Call = (i32, i32, i32, i32);

impl Transfer {
    /// The original.
    async fn call(
        self,
        host: &mut Host,
        fuel: usize,
        memory: &mut [u8],
        (fd, buffers, count, result): Call,
    ) -> wasmtime::Result<i32> {
        let ctx = host.p1(fuel)?;
        let guest = &mut GuestMemory::Unshared(memory);
        match self {
            Transfer::Read => p1::fd_read(ctx, guest, fd, buffers, count, result).await,
            Transfer::Write => p1::fd_write(ctx, guest, fd, buffers, count, result).await,
            Transfer::ReadAt(at) => p1::fd_pread(ctx, guest, fd, buffers, count, at, result).await,
            Transfer::WriteAt(at) => {
                p1::fd_pwrite(ctx, guest, fd, buffers, count, at, result).await
            }
        }
    }

    /// The same for the rest after `done` bytes.
    fn after(self, done: usize) -> Self {
        match self {
            Transfer::ReadAt(at) => Transfer::ReadAt(at.wrapping_add_unsigned(done as u64)),
            Transfer::WriteAt(at) => Transfer::WriteAt(at.wrapping_add_unsigned(done as u64)),
            other => other,
        }
    }

    fn part(self) -> usize {
        match self {
            Transfer::ReadAt(_) => PART_AT,
            _ => PART,
        }
    }

    /// Whether it ends with a part of which only `done` of `asked` bytes were transferred.
    fn ends_with(self, done: usize, asked: usize) -> bool {
        match self {
            Transfer::ReadAt(_) => done == 0,
            _ => done < asked,
        }
    }
}

/// The buffers of a call.
enum Found {
    /// The first that is not empty: its index, address and length.
    Buffer(usize, usize, usize),
    /// All are empty.
    Nothing,
    TooMany,
    /// The list is outside of the memory.
    OutOfBounds,
}

fn u32_at(memory: &[u8], at: usize) -> Option<u32> {
    let bytes = memory.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn first_buffer(memory: &[u8], buffers: i32, count: i32) -> Found {
    let start = buffers.cast_unsigned() as usize;
    let count = count.cast_unsigned() as usize;
    for index in 0..count.min(MAX_BUFFERS) {
        let at = start + index * 8;
        let (Some(begin), Some(len)) = (u32_at(memory, at), u32_at(memory, at + 4)) else {
            return Found::OutOfBounds;
        };
        if len > 0 {
            return Found::Buffer(index, begin as usize, len as usize);
        }
    }
    if count > MAX_BUFFERS {
        Found::TooMany
    } else {
        Found::Nothing
    }
}

/// Memory of the guest that holds a buffer's description and a result while the guest waits
/// for its call. It is not in the buffer itself, and its content is restored afterwards.
struct Borrowed {
    at: usize,
    was: [u8; Borrowed::LEN],
}

impl Borrowed {
    const LEN: usize = 12;

    /// `None` if the buffer is nearly all of the memory.
    fn new(memory: &[u8], begin: usize, len: usize) -> Option<Self> {
        let last = memory.len().checked_sub(Self::LEN)? & !3;
        let at = match begin.checked_add(len)? {
            _ if begin >= Self::LEN => 0,
            end if end <= last => last,
            _ => return None,
        };
        let was = memory.get(at..at + Self::LEN)?.try_into().ok()?;
        // It has 32 bits, like all memories of this WASI version.
        u32::try_from(at).ok()?;
        Some(Borrowed { at, was })
    }

    fn describe(&self, memory: &mut [u8], begin: usize, len: usize) -> Call {
        let parts = [begin as u32, len as u32, 0];
        for (index, part) in parts.iter().enumerate() {
            let at = self.at + index * 4;
            memory[at..at + 4].copy_from_slice(&part.to_le_bytes());
        }
        let at = self.at as u32;
        (0, at.cast_signed(), 1, (at + 8).cast_signed())
    }

    fn result(&self, memory: &[u8]) -> usize {
        u32_at(memory, self.at + 8).unwrap_or(0) as usize
    }

    fn put_back(&self, memory: &mut [u8]) {
        memory[self.at..self.at + Self::LEN].copy_from_slice(&self.was);
    }
}

/// Reads nothing: returns at once, even from a stream that has nothing to read.
/// wasmtime-wasi waits for such a stream, and then reports an interruption.
async fn read_nothing(
    host: &mut Host,
    fuel: usize,
    memory: &mut [u8],
    (fd, buffers, count, result): Call,
) -> wasmtime::Result<i32> {
    /// Offsets in a `fdstat`, and values there.
    const RIGHTS: usize = 8;
    const FD_READ: u8 = 1 << 1;
    const STREAMS: [u8; 2] = [0, 2];
    let mut fdstat = [0; 24];
    let mut guest = GuestMemory::Unshared(&mut fdstat);
    let errno = p1::fd_fdstat_get(host.p1(fuel)?, &mut guest, fd, 0).await?;
    if errno != ERRNO_SUCCESS {
        return Ok(errno);
    }
    if !STREAMS.contains(&fdstat[0]) {
        let call = (fd, buffers, count, result);
        return Transfer::Read.call(host, fuel, memory, call).await;
    }
    if fdstat[RIGHTS] & FD_READ == 0 {
        return Ok(ERRNO_BADF);
    }
    tell(memory, result, 0)
}

/// Reports success and this many bytes.
fn tell(memory: &mut [u8], result: i32, done: usize) -> wasmtime::Result<i32> {
    let at = result.cast_unsigned() as usize;
    let place = at
        .checked_add(4)
        .and_then(|end| memory.get_mut(at..end))
        .ok_or(wasmtime::Trap::MemoryOutOfBounds)?;
    // It is at most a buffer's length.
    place.copy_from_slice(&(done as u32).to_le_bytes());
    Ok(ERRNO_SUCCESS)
}

async fn transfer(
    mut caller: Caller<'_, Host>,
    transfer: Transfer,
    (fd, buffers, count, result): Call,
) -> wasmtime::Result<i32> {
    let (memory, host, fuel) = guest_of(&mut caller)?;
    let (index, begin, len) = match first_buffer(memory, buffers, count) {
        Found::Buffer(index, begin, len) => (index, begin, len),
        Found::TooMany => return Ok(ERRNO_INVAL),
        Found::Nothing if matches!(transfer, Transfer::Read) => {
            return read_nothing(host, fuel, memory, (fd, buffers, count, result)).await;
        }
        Found::Nothing | Found::OutOfBounds => {
            let call = (fd, buffers, count, result);
            return transfer.call(host, fuel, memory, call).await;
        }
    };
    let within = begin
        .checked_add(len)
        .is_some_and(|end| end <= memory.len());
    if len <= transfer.part() || !within {
        let buffer = buffers.wrapping_add((index * 8) as i32);
        let call = (fd, buffer, 1, result);
        return transfer.call(host, fuel, memory, call).await;
    }
    // A buffer that is all of the memory is not filled to the end.
    let len = len.min(memory.len() - 2 * Borrowed::LEN - begin.min(Borrowed::LEN));
    let Some(borrowed) = Borrowed::new(memory, begin, len) else {
        return Ok(ERRNO_INVAL);
    };
    let mut turns = Turns::default();
    let mut done = 0;
    let errno = loop {
        let asked = (len - done).min(transfer.part());
        let (_, buffer, one, place) = borrowed.describe(memory, begin + done, asked);
        let call = (fd, buffer, one, place);
        let errno = transfer.after(done).call(host, fuel, memory, call).await?;
        if errno != ERRNO_SUCCESS {
            break errno;
        }
        let now = borrowed.result(memory).min(asked);
        done += now;
        if done == len || transfer.ends_with(now, asked) {
            break ERRNO_SUCCESS;
        }
        turns.spend(now).await;
    };
    borrowed.put_back(memory);
    // An error after the first part is reported by the next call, if it persists.
    if errno != ERRNO_SUCCESS && done == 0 {
        return Ok(errno);
    }
    tell(memory, result, done)
}

/// Shadows the four calls for modules.
pub(super) fn for_modules(linker: &mut wasmtime::Linker<Host>) -> wasmtime::Result<()> {
    const WASI: &str = "wasi_snapshot_preview1";
    linker.func_wrap_async(WASI, "fd_read", |caller, call: Call| {
        Box::new(transfer(caller, Transfer::Read, call))
    })?;
    linker.func_wrap_async(WASI, "fd_write", |caller, call: Call| {
        Box::new(transfer(caller, Transfer::Write, call))
    })?;
    linker.func_wrap_async(
        WASI,
        "fd_pread",
        |caller, (fd, buffers, count, at, result): (i32, i32, i32, i64, i32)| {
            let call = (fd, buffers, count, result);
            Box::new(transfer(caller, Transfer::ReadAt(at), call))
        },
    )?;
    linker.func_wrap_async(
        WASI,
        "fd_pwrite",
        |caller, (fd, buffers, count, at, result): (i32, i32, i32, i64, i32)| {
            let call = (fd, buffers, count, result);
            Box::new(transfer(caller, Transfer::WriteAt(at), call))
        },
    )?;
    Ok(())
}

/// Writes a component's list to a file, without copying all of it.
async fn write(
    store: StoreContextMut<'_, Host>,
    file: Resource<Descriptor>,
    list: WasmList<u8>,
    at: u64,
) -> wasmtime::Result<(Result<u64, ErrorCode>,)> {
    let mut store = store;
    let host = store.data_mut();
    let blocking = host.blocking;
    let file = match host.wasi.table().get(&file)? {
        Descriptor::Dir(_) => return Ok((Err(ErrorCode::BadDescriptor),)),
        Descriptor::File(file) if file.perms.write_not_permitted() => {
            return Ok((Err(ErrorCode::NotPermitted),));
        }
        Descriptor::File(file) => file.file.clone(),
    };
    let mut turns = Turns::default();
    let mut done = 0;
    loop {
        let left = &list.as_le_slice(&store)[done..];
        let part = &left[..left.len().min(PART)];
        let asked = part.len();
        let begin = at.saturating_add(done as u64);
        let written = if blocking {
            file.write_at(part, begin)
        } else {
            let (part, file) = (part.to_vec(), file.clone());
            let written = tokio::task::spawn_blocking(move || file.write_at(&part, begin));
            written.await.map_err(std::io::Error::other).flatten()
        };
        let now = match written {
            Ok(now) => now.min(asked),
            // An error after the first part is reported by the next call, if it persists.
            Err(_) if done > 0 => break,
            Err(error) => {
                let error = store
                    .data_mut()
                    .filesystem()
                    .convert_error_code(error.into())?;
                return Ok((Err(error),));
            }
        };
        done += now;
        if now < asked || done == list.len() {
            break;
        }
        turns.spend(asked).await;
    }
    Ok((Ok(done as u64),))
}

/// Shadows `write` for components.
pub(super) fn for_components(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:filesystem/types@{WASI}"))?
        .func_wrap_async("[method]descriptor.write", |store, (file, list, at)| {
            Box::new(write(store, file, list, at))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_borrowed_place_is_outside_of_the_buffer() {
        let memory = vec![7_u8; 100];
        let place = |begin, len| Borrowed::new(&memory, begin, len).map(|borrowed| borrowed.at);
        assert_eq!(place(12, 88), Some(0));
        assert_eq!(place(0, 88), Some(88));
        assert_eq!(place(11, 77), Some(88));
        assert_eq!(place(0, 89), None);
        assert_eq!(place(11, 89), None);
        assert_eq!(Borrowed::new(&memory[..11], 0, 1).map(|it| it.at), None);
    }
}
