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
//!   `MAP_FIXED`: at no time is there a hole that another mapping could take, or that
//!   would fault.
//! - Nobody else writes to the pages that are laid ([`Mappable`]): neither another
//!   guest nor this host. The window's bytes change by what its own guest does.
//! - Pages are reserved and the file cannot shrink, so that no access faults.
//! - Dropping an [`Overlay`] touches no address: a store drops its data before its
//!   memory. Only [`Overlay::lift`] does, and it wants the store.

use crate::region::Mappable;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
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
        let shared = if pages.is_private() {
            MapFlags::PRIVATE
        } else {
            MapFlags::SHARED
        };
        let place = window.start as *mut c_void;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let (file, offset) = (pages.file(), pages.offset());
        // SAFETY: replaces whole pages of a linear memory of this store by others
        // that can be read and written just the same. No reference to them exists:
        // the store is borrowed exclusively. The rest is what the module says.
        unsafe {
            mmap(
                place,
                window.len(),
                prot,
                shared | MapFlags::FIXED,
                file,
                offset,
            )
        }?;
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
        let place = self.window.start as *mut c_void;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // As wasmtime maps its own, so that the kernel joins them again.
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: as for `lay`: the window is in a linear memory of this store, which
        // lives, and memory neither moves nor shrinks.
        match unsafe { mmap_anonymous(place, self.window.len(), prot, flags) } {
            Ok(_) => Ok(()),
            Err(errno) => Err((self, errno.into())),
        }
    }
}
