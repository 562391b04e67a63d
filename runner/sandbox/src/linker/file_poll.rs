//! WASI 0.1's `poll_oneoff` when a guest waits for files, too.
//!
//! wasmtime-wasi waits for a file by reading it on a thread, which a worker may not start.
//! A file is always ready, so no wait is needed: the call is made with a clock that is due
//! in place of each file, and the files' events are added to its result.

use super::wasi_0_1::{EVENT, SUBSCRIPTION};
use crate::host::MAX_RESOURCES;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as p1, WasiSnapshotPreview1};
use wiggle::{GuestError, GuestMemory, Region};

/// Offsets in a `subscription`, and values there.
mod subscription {
    pub(super) const TAG: usize = 8;
    pub(super) const TAG_CLOCK: u8 = 0;
    pub(super) const TAG_FD_READ: u8 = 1;
    pub(super) const FD: usize = 16;
    pub(super) const CLOCK_ID: usize = 16;
    pub(super) const MONOTONIC: u32 = 1;
    pub(super) const END: usize = super::SUBSCRIPTION;
}

/// Offsets in an `event`, and values there.
mod event {
    pub(super) const TYPE: usize = 10;
    pub(super) const TYPE_FD_READ: u8 = 1;
    pub(super) const BYTES: usize = 16;
    pub(super) const FLAGS: usize = 24;
    pub(super) const HANGUP: u16 = 1;
}

/// Size of a `filestat`, and the offset of the file size in it.
const FILESTAT: usize = 64;
const FILESTAT_SIZE: usize = 32;

/// Arguments of `poll_oneoff`.
#[derive(Clone, Copy)]
pub(super) struct Poll {
    pub(super) subscriptions: i32,
    pub(super) events: i32,
    pub(super) count: i32,
    pub(super) result: i32,
}

/// A readable file, and the guest's position in it.
struct Reading {
    fd: i32,
    position: u64,
}

impl Poll {
    /// Makes the call; returns its errno.
    pub(super) async fn run(
        self,
        ctx: &mut WasiP1Ctx,
        memory: &mut [u8],
        fuel: usize,
    ) -> wasmtime::Result<i32> {
        let files = self.files(ctx, memory)?;
        if files.iter().all(Option::is_none) {
            ctx.set_hostcall_fuel(fuel);
            let mut guest = GuestMemory::Unshared(memory);
            return p1::poll_oneoff(
                ctx,
                &mut guest,
                self.subscriptions,
                self.events,
                self.count,
                self.result,
            )
            .await;
        }
        for (pointer, align) in [(self.subscriptions, 8), (self.events, 8), (self.result, 4)] {
            let start = pointer.cast_unsigned();
            if start % align != 0 {
                let region = Region { start, len: align };
                return Err(GuestError::PtrNotAligned(region, align).into());
            }
        }
        self.with_files(&files, ctx, memory, fuel).await
    }

    /// For each subscription, its file if it waits to read one. Empty if the call cannot
    /// succeed for any reason.
    fn files(self, ctx: &mut WasiP1Ctx, memory: &[u8]) -> wasmtime::Result<Vec<Option<Reading>>> {
        let count = self.count.cast_unsigned() as usize;
        let start = self.subscriptions.cast_unsigned() as usize;
        // A guest has no room for more: each takes a resource.
        let subscriptions = match count {
            1..=MAX_RESOURCES => memory.get(start..).unwrap_or_default(),
            _ => &[],
        };
        let subscriptions = subscriptions
            .get(..count * SUBSCRIPTION)
            .unwrap_or_default();
        subscriptions
            .chunks_exact(SUBSCRIPTION)
            .map(|one| {
                if one[subscription::TAG] != subscription::TAG_FD_READ {
                    return Ok(None);
                }
                let fd = u32_at(one, subscription::FD).cast_signed();
                let mut position = [0; 8];
                // Only files have a position.
                let errno = p1::fd_tell(ctx, &mut GuestMemory::Unshared(&mut position), fd, 0)?;
                let position = u64::from_le_bytes(position);
                Ok((errno == 0).then_some(Reading { fd, position }))
            })
            .collect()
    }

    async fn with_files(
        self,
        files: &[Option<Reading>],
        ctx: &mut WasiP1Ctx,
        memory: &mut [u8],
        fuel: usize,
    ) -> wasmtime::Result<i32> {
        let count = files.len();
        let [asked, told, counted] = [0, count * SUBSCRIPTION, count * (SUBSCRIPTION + EVENT)];
        let mut copy = vec![0; counted + 4];
        let start = self.subscriptions.cast_unsigned() as usize;
        copy[..told].copy_from_slice(&memory[start..start + told]);
        let mut user_data = Vec::with_capacity(count);
        for (index, one) in copy[..told].chunks_exact_mut(SUBSCRIPTION).enumerate() {
            user_data.push(u64_at(one, 0));
            one[..8].copy_from_slice(&(index as u64).to_le_bytes());
            if files[index].is_some() {
                one[subscription::TAG] = subscription::TAG_CLOCK;
                one[subscription::CLOCK_ID..subscription::END].fill(0);
                one[subscription::CLOCK_ID..][..4]
                    .copy_from_slice(&subscription::MONOTONIC.to_le_bytes());
            }
        }
        ctx.set_hostcall_fuel(fuel);
        let at = |offset: usize| i32::try_from(offset).unwrap_or(i32::MAX);
        let mut guest = GuestMemory::Unshared(&mut copy);
        let errno = p1::poll_oneoff(
            ctx,
            &mut guest,
            at(asked),
            at(told),
            self.count,
            at(counted),
        )
        .await?;
        if errno != 0 {
            return Ok(errno);
        }
        let mut others = vec![None; count];
        let ready = u32_at(&copy, counted) as usize;
        for one in copy[told..counted].chunks_exact(EVENT).take(ready) {
            let mut event = [0; EVENT];
            event.copy_from_slice(one);
            if let Some(place) = usize::try_from(u64_at(one, 0))
                .ok()
                .and_then(|index| others.get_mut(index))
            {
                *place = Some(event);
            }
        }
        let mut events = 0;
        for (index, file) in files.iter().enumerate() {
            let event = match file {
                Some(file) => match file.event(ctx).await? {
                    Ok(event) => Some(event),
                    Err(errno) => return Ok(errno),
                },
                None => others[index],
            };
            let Some(mut event) = event else {
                continue;
            };
            event[..8].copy_from_slice(&user_data[index].to_le_bytes());
            let start = self.events.cast_unsigned() as usize + events * EVENT;
            write(memory, start, &event)?;
            events += 1;
        }
        let events = u32::try_from(events).unwrap_or(u32::MAX).to_le_bytes();
        write(memory, self.result.cast_unsigned() as usize, &events)?;
        Ok(0)
    }
}

impl Reading {
    /// Its event, or the errno that ends the call.
    async fn event(&self, ctx: &mut WasiP1Ctx) -> wasmtime::Result<Result<[u8; EVENT], i32>> {
        let mut stat = [0; FILESTAT];
        let mut guest = GuestMemory::Unshared(&mut stat);
        let errno = p1::fd_filestat_get(ctx, &mut guest, self.fd, 0).await?;
        if errno != 0 {
            return Ok(Err(errno));
        }
        let mut event = [0; EVENT];
        event[event::TYPE] = event::TYPE_FD_READ;
        event[event::BYTES] = 1;
        if u64_at(&stat, FILESTAT_SIZE) <= self.position {
            event[event::FLAGS..][..2].copy_from_slice(&event::HANGUP.to_le_bytes());
        }
        Ok(Ok(event))
    }
}

fn write(memory: &mut [u8], start: usize, bytes: &[u8]) -> wasmtime::Result<()> {
    match memory.get_mut(start..start.saturating_add(bytes.len())) {
        Some(place) => {
            place.copy_from_slice(bytes);
            Ok(())
        }
        None => Err(GuestError::PtrOutOfBounds(Region {
            start: u32::try_from(start).unwrap_or(u32::MAX),
            len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        })
        .into()),
    }
}

/// Zero if the bytes do not exist.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    u32::from_le_bytes(bytes.copied().unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    u64::from_le_bytes(bytes.copied().unwrap_or_default())
}
