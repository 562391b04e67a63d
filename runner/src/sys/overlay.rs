//! Pages of a memory file laid over a window of a guest's linear memory, and taken
//! off again.
//!
//! What makes it sound, for the guest and for wasmtime, which reads linear memory
//! as plain slices when it lifts a string or a list:
//!
//! - A window is lifted by wasmtime from the guest's own arguments, so it lies in
//!   linear memory, which is accessible for reading and writing. Linear memory does
//!   not move (`memory_may_move(false)`), does not shrink, and is not a slot of a
//!   pool: it is the store's alone and unmapped with it, with all that was laid over
//!   it.
//! - Laying and lifting happen in a host call, with the store borrowed exclusively:
//!   no guest code runs and no slice of its memory is held. Each is one `mmap` with
//!   `MAP_FIXED`, which replaces in one step; limits the kernel looks at before.
//! - What it looks at only when the old pages are gone, seals of a file, could leave a
//!   hole, which another mapping could take, or which would fault. Where other
//!   processes can add seals, pages are mapped elsewhere first and then moved over the
//!   window, which is slower. Should there be a hole all the same,
//!   the process ends.
//! - Nobody else writes to the pages that are laid ([`Mappable`]): neither another
//!   guest nor this host. The window's bytes change by what its own guest does.
//! - Pages are reserved and the file cannot shrink, so that no access faults.
//! - Dropping an [`Overlay`] touches no address: a store drops its data before its
//!   memory. Only [`Overlay::lift`] does, and it wants the store.

use crate::region::Mappable;
use rustix::mm::{
    Advice, MapFlags, MremapFlags, ProtFlags, madvise, mmap, mmap_anonymous, mremap_fixed, munmap,
};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::ptr;
use wasmtime::component::WasmList;
use wasmtime::{StoreContext, StoreContextMut};

/// Where a list lies in this process.
pub(crate) fn window<T: 'static>(store: StoreContext<'_, T>, list: &WasmList<u8>) -> Range<usize> {
    let bytes = list.as_le_slice(store).as_ptr_range();
    bytes.start as usize..bytes.end as usize
}

/// A window that pages are laid over.
#[derive(Debug)]
pub(crate) struct Overlay {
    window: Range<usize>,
    /// The store, by where its data lies; that is for as long as it lives.
    store: usize,
    /// What is laid there, leased for as long as it is.
    _pages: Mappable,
}

fn identity<T: 'static>(store: &StoreContextMut<'_, T>) -> usize {
    std::ptr::from_ref(store.data()) as usize
}

impl Overlay {
    /// Lays `pages` over the window that `list` is. An overlay must be kept in the
    /// data of `store`, so that it does not outlive it.
    ///
    /// # Errors
    ///
    /// The window is not whole pages, or as long as what is laid over it; the kernel
    /// refuses.
    #[expect(unsafe_code, reason = "a guest's own pages are replaced")]
    pub(crate) fn lay<T: 'static>(
        store: &mut StoreContextMut<'_, T>,
        list: &WasmList<u8>,
        pages: Mappable,
    ) -> io::Result<Overlay> {
        let window = window((&*store).into(), list);
        let page = rustix::param::page_size();
        let whole = window.start.is_multiple_of(page) && window.len().is_multiple_of(page);
        if !whole || window.is_empty() || window.len() != pages.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = if pages.is_private() {
            MapFlags::PRIVATE | MapFlags::NORESERVE
        } else {
            MapFlags::SHARED
        };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let (file, offset) = (pages.file(), pages.offset());
        if pages.is_known_elsewhere() {
            // SAFETY: a new mapping, where the kernel likes.
            let fresh = unsafe { mmap(ptr::null_mut(), window.len(), prot, flags, file, offset) }?;
            // SAFETY: as below.
            unsafe { move_over(&window, fresh) }?;
        } else {
            let place = window.start as *mut c_void;
            let flags = flags | MapFlags::FIXED;
            // SAFETY: replaces whole pages of a linear memory of this store by others
            // that can be read and written just the same. No reference to them exists:
            // the store is borrowed exclusively. The rest is what the module says.
            let laid = unsafe { mmap(place, window.len(), prot, flags, file, offset) };
            laid.inspect_err(|_| end_at_a_hole(&window))?;
        }
        Ok(Overlay {
            window,
            store: identity(store),
            _pages: pages,
        })
    }

    pub(crate) fn window(&self) -> Range<usize> {
        self.window.clone()
    }

    /// Puts empty pages over the window, in place of what was laid there.
    ///
    /// # Errors
    ///
    /// The store is another one; the kernel refuses. What was laid there still is
    /// then, and the overlay is to be kept.
    #[expect(unsafe_code, reason = "a guest's own pages are replaced")]
    pub(crate) fn lift<T: 'static>(
        self,
        store: &mut StoreContextMut<'_, T>,
    ) -> Result<(), (Self, io::Error)> {
        if identity(store) != self.store {
            return Err((self, io::ErrorKind::InvalidInput.into()));
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // As wasmtime maps its own, so that the kernel joins them again.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let flags = flags | MapFlags::FIXED;
        let place = self.window.start as *mut c_void;
        // SAFETY: as for `lay`: the window is in a linear memory of this store, which
        // lives, and memory neither moves nor shrinks.
        match unsafe { mmap_anonymous(place, self.window.len(), prot, flags) } {
            Ok(_) => Ok(()),
            Err(errno) => {
                end_at_a_hole(&self.window);
                Err((self, errno.into()))
            }
        }
    }
}

/// Moves a mapping of ours, as long as the window, over the window.
///
/// # Errors
///
/// The kernel refuses. The mapping is gone then, and the window as it was.
///
/// # Safety
///
/// Nothing refers to the mapping, nor to what is in the window, which may be replaced.
#[expect(unsafe_code, reason = "a mapping is moved")]
unsafe fn move_over(window: &Range<usize>, fresh: *mut c_void) -> rustix::io::Result<()> {
    let place = window.start as *mut c_void;
    let len = window.len();
    // SAFETY: both are the caller's, and nothing refers to them.
    let moved = unsafe { mremap_fixed(fresh, len, len, MremapFlags::MAYMOVE, place) };
    let Err(errno) = moved else {
        return Ok(());
    };
    // SAFETY: what could not be moved is where it was; nothing refers to it.
    let _ = unsafe { munmap(fresh, len) };
    end_at_a_hole(window);
    Err(errno)
}

/// Ends the process if not all of a window is mapped, after the kernel gave up half way
/// through: whatever is mapped next could come to lie in a guest's memory.
#[expect(unsafe_code, reason = "whether memory is mapped is asked")]
fn end_at_a_hole(window: &Range<usize>) {
    // SAFETY: `MADV_NORMAL` changes no contents; where nothing is mapped, it says so
    // (madvise(2), ENOMEM).
    if unsafe { madvise(window.start as *mut c_void, window.len(), Advice::Normal) }.is_err() {
        std::process::abort();
    }
}
