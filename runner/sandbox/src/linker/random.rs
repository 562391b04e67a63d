//! Random bytes in parts, with turns of other tasks in between.
//!
//! wasmtime-wasi generates them in one piece, byte by byte: 64 MiB occupy a thread for a
//! third of a second. Short requests, which are the common case, still go to it.

use super::turns::{TURN, Turns, long_result};
use super::wasi_0_1::guest_of;
use super::wasi_0_2::WASI;
use crate::host::Host;
use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng};
use wasmtime::component::Linker;
use wasmtime::{Caller, StoreContextMut, Trap};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as p1;
use wasmtime_wasi::p2::bindings::random::{insecure, random};
use wasmtime_wasi::random::{WasiRandomCtx, WasiRandomView};
use wiggle::GuestMemory;

/// Longest request that is passed to wasmtime-wasi.
const SHORT: usize = 4 << 10;
/// Maximum of one request by a component, as in wasmtime: the bytes are first made in the
/// host's memory.
const MAX: u64 = 64 << 20;

/// A generator for one long request.
fn generator() -> wasmtime::Result<StdRng> {
    StdRng::try_from_rng(&mut SysRng)
        .map_err(|error| wasmtime::Error::msg(format!("the system has no random bytes: {error}")))
}

/// `get-random-bytes`, or its insecure counterpart; `short` is the original.
async fn bytes(
    mut store: StoreContextMut<'_, Host>,
    len: u64,
    short: fn(&mut WasiRandomCtx, u64) -> wasmtime::Result<Vec<u8>>,
) -> wasmtime::Result<(Vec<u8>,)> {
    let host = store.data_mut();
    if len <= SHORT as u64 {
        return Ok((short(host.random(), len)?,));
    }
    if len > MAX {
        return Err(wasmtime::Error::msg(format!(
            "{len} random bytes are too many for one call: at most {MAX}"
        )));
    }
    let len = usize::try_from(len)?;
    let mut bytes = Vec::new();
    let _turn = long_result(len).await;
    if !host.limiter.can_return(len) || bytes.try_reserve_exact(len).is_err() {
        return Err(wasmtime::Error::msg(format!(
            "{len} random bytes do not fit the task's memory"
        )));
    }
    let mut generator = generator()?;
    let mut turns = Turns::default();
    while bytes.len() < len {
        let at = bytes.len();
        bytes.resize(len.min(at + TURN), 0);
        generator.fill_bytes(&mut bytes[at..]);
        turns.spend(TURN).await;
    }
    Ok((bytes,))
}

/// Shadows both for components.
pub(super) fn for_components(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:random/random@{WASI}"))?
        .func_wrap_async("get-random-bytes", |store, (len,): (u64,)| {
            Box::new(bytes(store, len, |wasi, len| {
                random::Host::get_random_bytes(wasi, len)
            }))
        })?;
    linker
        .instance(&format!("wasi:random/insecure@{WASI}"))?
        .func_wrap_async("get-insecure-random-bytes", |store, (len,): (u64,)| {
            Box::new(bytes(store, len, |wasi, len| {
                insecure::Host::get_insecure_random_bytes(wasi, len)
            }))
        })
}

/// Shadows `random_get` for modules. The bytes are written directly into the guest's
/// memory, so that is the only bound.
pub(super) fn for_modules(linker: &mut wasmtime::Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        "wasi_snapshot_preview1",
        "random_get",
        |mut caller: Caller<'_, Host>, (buf, len): (i32, i32)| {
            Box::new(async move {
                let (memory, host, fuel) = guest_of(&mut caller)?;
                let at = buf.cast_unsigned() as usize;
                let size = len.cast_unsigned() as usize;
                if size <= SHORT {
                    let mut guest = GuestMemory::Unshared(memory);
                    return p1::random_get(host.p1(fuel)?, &mut guest, buf, len);
                }
                let place = at
                    .checked_add(size)
                    .and_then(|end| memory.get_mut(at..end))
                    .ok_or(Trap::MemoryOutOfBounds)?;
                let mut generator = generator()?;
                let mut turns = Turns::default();
                for part in place.chunks_mut(TURN) {
                    generator.fill_bytes(part);
                    turns.spend(part.len()).await;
                }
                Ok(0)
            })
        },
    )?;
    Ok(())
}
