//! `wrun:task/regions`: memory that tasks share without serialization.
//!
//! Defined by hand, not by generated bindings: `map` needs the address of its window, and
//! `write` need not copy the list first.
//!
//! Handles and mappings are separate resources, and a guest drops them in any order. A
//! mapping keeps the region's pages, its lease and its slot: a region whose handle is gone
//! is mapped until the mapping is. Dropping the store drops both, before its memory; after
//! that the region cannot be given away, so its exclusivity ends with the store.

use super::bindings::wrun::task::regions::{
    Kind as AbiKind, RegionError as AbiError, WaitResult as AbiWaited,
};
use crate::host::{Host, NoWindow};
use crate::limits::RegionSlot;
use crate::linker::long_result;
use crate::region::{Kind, Mappable, Op, Refused, Region, RegionError, STEP, Waited, Word};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::StoreContextMut;
use wasmtime::component::{Lift, Linker, Lower, Resource, ResourceTable, ResourceType, WasmList};
use wrun_sys::{self, Overlay};

const INTERFACE: &str = "wrun:task/regions@0.1.0";

/// Bytes that are copied at a time between a guest's memory and a region.
const COPY: usize = 256 << 10;

type Store<'a> = StoreContextMut<'a, Host>;
type Answer<T> = wasmtime::Result<(Result<T, AbiError>,)>;

/// A guest's `region`.
#[expect(unreachable_pub, reason = "generated bindings re-export it")]
pub struct Handle {
    /// `None` once it was split, or joined to another.
    held: Option<Held>,
    /// The last mapping of it whose bytes were copied; it is valid while the region is
    /// mapped, because there is no other one then.
    copied: Option<u32>,
}

impl Handle {
    fn of(held: Option<Held>) -> Self {
        Handle { held, copied: None }
    }
}

struct Held {
    region: Region,
    slot: Arc<RegionSlot>,
}

/// A guest's `mapping`.
#[expect(unreachable_pub, reason = "generated bindings re-export it")]
pub struct Mapping {
    /// `None` only while it is made.
    overlay: Option<Overlay<Mappable>>,
    len: usize,
    _slot: Arc<RegionSlot>,
}

impl From<AbiKind> for Kind {
    fn from(kind: AbiKind) -> Self {
        match kind {
            AbiKind::Exclusive => Kind::Exclusive,
            AbiKind::Frozen => Kind::Frozen,
            AbiKind::Shared => Kind::Shared,
        }
    }
}

/// Converts a result for the guest. An error that the guest did not cause ends it, with a
/// message for people.
fn told<T>(result: Result<T, RegionError>) -> wasmtime::Result<Result<T, AbiError>> {
    Ok(Err(match result {
        Ok(value) => return Ok(Ok(value)),
        Err(error) if error.is_limit() => AbiError::Limit,
        Err(RegionError::OutOfBounds) => AbiError::OutOfBounds,
        Err(RegionError::Misaligned) => AbiError::Misaligned,
        Err(RegionError::Busy) => AbiError::Busy,
        Err(RegionError::WrongKind) => AbiError::WrongKind,
        Err(error) => return Err(wasmtime::Error::new(error)),
    }))
}

impl Host {
    pub(super) fn table(&mut self) -> &mut ResourceTable {
        self.wasi.table()
    }

    fn handle(&mut self, region: &Resource<Handle>) -> wasmtime::Result<&mut Handle> {
        Ok(self.table().get_mut(region)?)
    }

    /// The region of a handle, if it still has one.
    fn region(
        &mut self,
        region: &Resource<Handle>,
    ) -> wasmtime::Result<Result<&mut Held, AbiError>> {
        Ok(self
            .handle(region)?
            .held
            .as_mut()
            .ok_or(AbiError::OutOfBounds))
    }

    /// Whether a region may be given away.
    pub(super) fn may_move(&mut self, region: &Resource<Handle>) -> wasmtime::Result<bool> {
        let held = self.region(region)?;
        Ok(held.is_ok_and(|held| held.region.check_moves().is_ok()))
    }

    /// Takes a region that may be given away out of the guest's table.
    pub(super) fn give_away(&mut self, region: Resource<Handle>) -> wasmtime::Result<Region> {
        let Handle { held, .. } = self.table().delete(region)?;
        let held = held.ok_or_else(|| wasmtime::Error::msg("the region is empty"))?;
        Ok(held.region)
    }

    /// A handle for a region that was received, or returned.
    pub(super) fn take_in(&mut self, region: Region) -> wasmtime::Result<Resource<Handle>> {
        let slot = Arc::new(self.limiter.slot_for_received());
        let held = Some(Held { region, slot });
        Ok(self.table().push(Handle::of(held))?)
    }

    /// A new handle, if there is room for one.
    fn hold(&mut self, held: Option<Held>) -> Result<Resource<Handle>, AbiError> {
        self.push(Handle::of(held)).ok_or(AbiError::Limit)
    }
}

/// The value of a result, or that result as the guest's own.
macro_rules! answer {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return Ok((Err(error),)),
        }
    };
}

/// For guests that import the interface.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut regions = linker.instance(INTERFACE)?;
    regions.resource(
        "region",
        ResourceType::host::<Handle>(),
        |mut store, rep| {
            let handle = Resource::<Handle>::new_own(rep);
            store.data_mut().table().delete(handle)?;
            Ok(())
        },
    )?;
    regions.resource_async("mapping", ResourceType::host::<Mapping>(), |store, rep| {
        Box::new(unmap(store, rep))
    })?;
    regions.func_wrap_async("[static]region.create", |store, (len, kind)| {
        Box::new(create(store, len, kind))
    })?;
    regions.func_wrap(
        "[method]region.len",
        |mut store: Store<'_>, (region,): (Resource<Handle>,)| {
            let held = store.data_mut().region(&region)?;
            Ok((held.map_or(0, |held| held.region.len()),))
        },
    )?;
    regions.func_wrap(
        "[method]region.kind",
        |mut store: Store<'_>, (region,): (Resource<Handle>,)| {
            let held = store.data_mut().region(&region)?;
            let kind = held.map_or(Kind::Exclusive, |held| held.region.kind());
            Ok((match kind {
                Kind::Exclusive => AbiKind::Exclusive,
                Kind::Frozen => AbiKind::Frozen,
                Kind::Shared => AbiKind::Shared,
            },))
        },
    )?;
    regions.func_wrap(
        "[method]region.duplicate",
        |mut store: Store<'_>, (region,): (Resource<Handle>,)| -> Answer<Resource<Handle>> {
            let host = store.data_mut();
            let held = answer!(host.region(&region)?);
            let region = answer!(told(held.region.duplicate())?);
            let slot = Arc::new(answer!(host.limiter.slot().ok_or(AbiError::Limit)));
            Ok((host.hold(Some(Held { region, slot })),))
        },
    )?;
    regions.func_wrap_async("[method]region.read", |store, (region, offset, len)| {
        Box::new(read(store, region, offset, len))
    })?;
    regions.func_wrap_async("[method]region.write", |store, (region, offset, bytes)| {
        Box::new(write(store, region, offset, bytes))
    })?;
    regions.func_wrap_async("[method]region.map", |store, (region, offset, window)| {
        Box::new(map(store, region, offset, window))
    })?;
    regions.func_wrap(
        "[method]region.freeze",
        |mut store: Store<'_>, (region,): (Resource<Handle>,)| -> Answer<()> {
            let held = answer!(store.data_mut().region(&region)?);
            Ok((told(held.region.freeze())?,))
        },
    )?;
    regions.func_wrap("[method]region.split", |store, (region, at)| {
        split(store, &region, at)
    })?;
    regions.func_wrap("[method]region.join", |store, (region, next)| {
        join(store, &region, &next)
    })?;
    regions.func_wrap(
        "[method]mapping.len",
        |mut store: Store<'_>, (mapping,): (Resource<Mapping>,)| {
            let mapping = store.data_mut().table().get(&mapping)?;
            Ok((mapping.len as u64,))
        },
    )?;
    words::<u32>(linker, "u32")?;
    words::<u64>(linker, "u64")?;
    waiting(linker)
}

async fn create(mut store: Store<'_>, len: u64, kind: AbiKind) -> Answer<Resource<Handle>> {
    let made = store.data_mut().limiter.make(len, kind.into()).await;
    let (mut draft, slot) = answer!(told(made)?);
    while answer!(told(draft.reserve())?) {
        crate::turn::yield_now().await;
    }
    let region = answer!(told(draft.finish())?);
    let slot = Arc::new(slot);
    Ok((store.data_mut().hold(Some(Held { region, slot })),))
}

async fn read(
    mut store: Store<'_>,
    region: Resource<Handle>,
    offset: u64,
    len: u64,
) -> Answer<Vec<u8>> {
    let held = answer!(store.data_mut().region(&region)?);
    answer!(told(held.region.check(offset, len))?);
    let len = answer!(usize::try_from(len).map_err(|_| AbiError::OutOfBounds));
    // Before anything is allocated: the region can be another task's, with a larger limit.
    if !store.data().limiter.can_hold(len) {
        return Ok((Err(AbiError::Limit),));
    }
    let _turn = long_result(len).await;
    let mut bytes = Vec::new();
    answer!(bytes.try_reserve_exact(len).map_err(|_| AbiError::Limit));
    while bytes.len() < len {
        let at = bytes.len();
        bytes.resize(len.min(at + STEP), 0);
        let part = (offset + at as u64, (bytes.len() - at) as u64);
        with_copied(&mut store, &region, part, Overlay::save)?;
        let held = answer!(store.data_mut().region(&region)?);
        answer!(told(
            held.region.read(offset + at as u64, &mut bytes[at..])
        )?);
        if bytes.len() < len {
            crate::turn::yield_now().await;
        }
    }
    Ok((Ok(bytes),))
}

async fn write(
    mut store: Store<'_>,
    region: Resource<Handle>,
    offset: u64,
    bytes: WasmList<u8>,
) -> Answer<()> {
    let held = answer!(store.data_mut().region(&region)?);
    answer!(told(held.region.check_writable())?);
    answer!(told(held.region.check(offset, bytes.len() as u64))?);
    let mut buffer = vec![0; COPY.min(bytes.len())];
    let mut at = 0;
    while at < bytes.len() {
        // Through a buffer: the bytes can be those of a window over which this very region is
        // mapped, and would change while they are borrowed.
        let left = &bytes.as_le_slice(&store)[at..];
        let part = &mut buffer[..left.len().min(COPY)];
        part.copy_from_slice(&left[..part.len()]);
        let held = answer!(store.data_mut().region(&region)?);
        answer!(told(held.region.write(offset + at as u64, part))?);
        let written = (offset + at as u64, part.len() as u64);
        at += part.len();
        with_copied(&mut store, &region, written, Overlay::fill)?;
        if at.is_multiple_of(STEP) {
            crate::turn::yield_now().await;
        }
    }
    Ok((Ok(()),))
}

/// If the region is mapped by copying, does something with the part of the window that
/// corresponds to `(offset, len)` of the region. An obstacle by another process is ignored:
/// the bytes are as much its own as this guest's.
fn with_copied<'a>(
    store: &mut Store<'a>,
    region: &Resource<Handle>,
    (offset, len): (u64, u64),
    does: impl FnOnce(&Overlay<Mappable>, &mut Store<'a>, Range<usize>) -> io::Result<()>,
) -> wasmtime::Result<()> {
    let handle = store.data_mut().handle(region)?;
    let (Some(held), Some(rep)) = (&handle.held, handle.copied) else {
        return Ok(());
    };
    if !held.region.is_mapped() {
        return Ok(());
    }
    let Ok(in_file) = held.region.in_file(offset, len) else {
        return Ok(());
    };
    let mapping = Resource::<Mapping>::new_borrow(rep);
    let Some(overlay) = store.data_mut().table().get_mut(&mapping)?.overlay.take() else {
        return Ok(());
    };
    let part = overlay.part(&in_file);
    let _ = does(&overlay, store, part);
    store.data_mut().table().get_mut(&mapping)?.overlay = Some(overlay);
    Ok(())
}

/// Claims a region that came from another process: it may then be mapped without a copy.
async fn claim(store: &mut Store<'_>, region: &Resource<Handle>) -> Answer<()> {
    let host = store.data_mut();
    let handle = host.handle(region)?;
    let claimed = handle.held.take_if(|held| held.region.is_to_be_claimed());
    let Some(Held { region: came, slot }) = claimed else {
        return Ok((Ok(()),));
    };
    let claimed = answer!(told(host.limiter.claim(came).await)?);
    let held = Some(Held {
        region: claimed,
        slot,
    });
    host.handle(region)?.held = held;
    Ok((Ok(()),))
}

async fn map(
    mut store: Store<'_>,
    region: Resource<Handle>,
    offset: u64,
    list: WasmList<u8>,
) -> Answer<Resource<Mapping>> {
    let window = wrun_sys::window((&store).into(), &list);
    {
        let held = answer!(store.data_mut().region(&region)?);
        answer!(told(held.region.map(offset, window.len()).map(drop))?);
    }
    if !window.start.is_multiple_of(rustix::param::page_size()) {
        return Ok((Err(AbiError::Misaligned),));
    }
    if let (Err(error),) = claim(&mut store, &region).await? {
        return Ok((Err(error),));
    }
    let host = store.data_mut();
    let held = answer!(host.region(&region)?);
    let slot = held.slot.clone();
    let pages = answer!(told(held.region.map(offset, window.len()))?);
    // Steps that can fail without an effect come before the pages are mapped.
    let mapping = Mapping {
        overlay: None,
        len: window.len(),
        _slot: slot,
    };
    let mapping = answer!(host.push(mapping).ok_or(AbiError::Limit));
    let laid = match host.windows.add(&window) {
        Err(NoWindow::Overlaps) => Err(AbiError::Busy),
        Err(NoWindow::TooMany) => Err(AbiError::Limit),
        Ok(()) => match lay(&mut store, &list, pages).await {
            Ok(overlay) => Ok(overlay),
            Err(error) => {
                store.data_mut().windows.remove(&window);
                let what = "cannot map a region";
                match told::<()>(Err(RegionError::System { what, error }))? {
                    Ok(()) => Err(AbiError::Busy),
                    Err(error) => Err(error),
                }
            }
        },
    };
    let host = store.data_mut();
    match laid {
        Ok(overlay) => {
            host.handle(&region)?.copied = overlay.is_copied().then_some(mapping.rep());
            host.table().get_mut(&mapping)?.overlay = Some(overlay);
            Ok((Ok(mapping),))
        }
        Err(error) => {
            host.table().delete(mapping)?;
            Ok((Err(error),))
        }
    }
}

/// Maps pages over a window, or copies their bytes there.
async fn lay(
    store: &mut Store<'_>,
    list: &WasmList<u8>,
    pages: Mappable,
) -> io::Result<Overlay<Mappable>> {
    let overlay = Overlay::lay(store, list, pages)?;
    if overlay.is_copied() {
        for part in steps(overlay.window().len()) {
            if part.start > 0 {
                crate::turn::yield_now().await;
            }
            overlay.fill(store, part)?;
        }
    }
    Ok(overlay)
}

/// A length in pieces, with turns of other tasks in between.
fn steps(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(STEP).map(move |at| at..len.min(at + STEP))
}

/// Drops a mapping. If the kernel refuses, the guest ends, and the overlay stays with the
/// store.
async fn unmap(mut store: Store<'_>, rep: u32) -> wasmtime::Result<()> {
    let mapping = Resource::<Mapping>::new_own(rep);
    let table = store.data_mut().table();
    if let Some(overlay) = table.get_mut(&mapping)?.overlay.take() {
        let window = overlay.window();
        if overlay.is_copied() {
            for part in steps(window.len()) {
                if part.start > 0 {
                    crate::turn::yield_now().await;
                }
                // A process that obstructs this could as well overwrite the bytes later.
                if overlay.save(&mut store, part).is_err() {
                    break;
                }
            }
        }
        if let Err((overlay, error)) = overlay.lift(&mut store) {
            let table = store.data_mut().table();
            table.get_mut(&mapping)?.overlay = Some(overlay);
            return Err(error.into());
        }
        store.data_mut().windows.remove(&window);
    }
    let table = store.data_mut().table();
    table.delete(mapping)?;
    Ok(())
}

fn split(
    mut store: Store<'_>,
    region: &Resource<Handle>,
    at: u64,
) -> Answer<(Resource<Handle>, Resource<Handle>)> {
    let host = store.data_mut();
    let held = answer!(host.region(region)?);
    answer!(told(held.region.check_split(at))?);
    let first = answer!(host.hold(None));
    let second = match host.hold(None) {
        Ok(second) => second,
        Err(error) => {
            host.table().delete(first)?;
            return Ok((Err(error),));
        }
    };
    let slot = host.limiter.slot();
    let parts = match slot {
        Some(slot) => host.handle(region)?.split(at, slot),
        None => Err(AbiError::Limit),
    };
    match parts {
        Ok((one, other)) => {
            host.handle(&first)?.held = Some(one);
            host.handle(&second)?.held = Some(other);
            Ok((Ok((first, second)),))
        }
        Err(error) => {
            host.table().delete(first)?;
            host.table().delete(second)?;
            Ok((Err(error),))
        }
    }
}

fn join(mut store: Store<'_>, region: &Resource<Handle>, next: &Resource<Handle>) -> Answer<()> {
    let host = store.data_mut();
    if region.rep() == next.rep() {
        return Ok((Err(AbiError::Misaligned),));
    }
    let next_held = answer!(host.handle(next)?.held.take().ok_or(AbiError::OutOfBounds));
    let joined = match host.handle(region)?.held.as_mut() {
        Some(held) => match told(held.region.check_join(&next_held.region))? {
            Ok(()) => held.join(next_held),
            Err(error) => Err((next_held, error)),
        },
        None => Err((next_held, AbiError::OutOfBounds)),
    };
    Ok((match joined {
        Ok(()) => Ok(()),
        Err((next_held, error)) => {
            host.handle(next)?.held = Some(next_held);
            Err(error)
        }
    },))
}

impl Handle {
    /// The two parts of a region that can be split there.
    fn split(&mut self, at: u64, rest: RegionSlot) -> Result<(Held, Held), AbiError> {
        let Held { region, slot } = self.held.take().ok_or(AbiError::OutOfBounds)?;
        match region.split(at) {
            Ok((first, second)) => {
                let held = |region, slot| Held { region, slot };
                Ok((held(first, slot), held(second, Arc::new(rest))))
            }
            Err(Refused { region, .. }) => {
                self.held = Some(Held { region, slot });
                Err(AbiError::Busy)
            }
        }
    }
}

impl Held {
    /// Appends a region that can be joined to this one.
    fn join(&mut self, next: Held) -> Result<(), (Held, AbiError)> {
        let Held { region, slot } = next;
        match self.region.join(region) {
            Ok(()) => Ok(()),
            Err(Refused { region, .. }) => Err((Held { region, slot }, AbiError::Busy)),
        }
    }
}

/// Atomics on one size of words.
fn words<W>(linker: &mut Linker<Host>, name: &str) -> wasmtime::Result<()>
where
    W: Word + Lift + Lower + Send + Sync + 'static,
{
    type Make<W> = fn(W) -> Op<W>;
    fn apply<W: Word>(
        store: &mut Store<'_>,
        region: &Resource<Handle>,
        offset: u64,
        op: Op<W>,
    ) -> Answer<W> {
        let held = answer!(store.data_mut().region(region)?);
        Ok((told(held.region.apply(offset, op))?,))
    }
    let mut regions = linker.instance(INTERFACE)?;
    regions.func_wrap(
        &format!("[method]region.load-{name}"),
        |mut store: Store<'_>, (region, offset): (Resource<Handle>, u64)| {
            apply::<W>(&mut store, &region, offset, Op::Load)
        },
    )?;
    regions.func_wrap(
        &format!("[method]region.store-{name}"),
        |mut store: Store<'_>, (region, offset, value): (Resource<Handle>, u64, W)| {
            let (before,) = apply(&mut store, &region, offset, Op::Store(value))?;
            Ok((before.map(drop),))
        },
    )?;
    let ops: [(&str, Make<W>); 5] = [
        ("add", Op::Add),
        ("and", Op::And),
        ("or", Op::Or),
        ("xor", Op::Xor),
        ("exchange", Op::Exchange),
    ];
    for (op_name, op) in ops {
        regions.func_wrap(
            &format!("[method]region.{op_name}-{name}"),
            move |mut store: Store<'_>, (region, offset, value): (Resource<Handle>, u64, W)| {
                apply(&mut store, &region, offset, op(value))
            },
        )?;
    }
    regions.func_wrap(
        &format!("[method]region.compare-exchange-{name}"),
        |mut store: Store<'_>, (region, offset, expected, value): (Resource<Handle>, u64, W, W)| {
            let op = Op::CompareExchange { expected, value };
            apply(&mut store, &region, offset, op)
        },
    )
}

fn waiting(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut regions = linker.instance(INTERFACE)?;
    regions.func_wrap_async(
        "[method]region.wait",
        |store, (region, offset, expected, timeout)| {
            Box::new(wait(store, region, offset, expected, timeout))
        },
    )?;
    regions.func_wrap(
        "[method]region.notify",
        |mut store: Store<'_>,
         (region, offset, count): (Resource<Handle>, u64, u32)|
         -> Answer<u32> {
            let held = answer!(store.data_mut().region(&region)?);
            crate::port::settle();
            Ok((told(held.region.notify(offset, count))?,))
        },
    )
}

async fn wait(
    mut store: Store<'_>,
    region: Resource<Handle>,
    offset: u64,
    expected: u32,
    timeout: Option<u64>,
) -> Answer<AbiWaited> {
    // A time too far away to represent means forever.
    let until = timeout.and_then(|ns| Instant::now().checked_add(Duration::from_nanos(ns)));
    let held = answer!(store.data_mut().region(&region)?);
    let region = answer!(told(held.region.duplicate())?);
    // The guest may wait in the kernel, for a sender that waits for room.
    crate::port::settle();
    let waited = region.wait_until(offset, expected, until).await;
    Ok((told(waited)?.map(|waited| match waited {
        Waited::Woken => AbiWaited::Woken,
        Waited::NotEqual => AbiWaited::NotEqual,
        Waited::TimedOut => AbiWaited::TimedOut,
    }),))
}
