//! Pages of a memory file mapped over a window of a guest's linear memory, and removed
//! again; or their bytes copied there, and back.
//!
//! Why it is sound, for the guest and for wasmtime, which reads linear memory as plain
//! slices when it lifts a string or a list:
//!
//! - A window is lifted by wasmtime from the guest's own arguments, so it lies in
//!   linear memory, which is accessible for reading and writing. Linear memory does
//!   not move (`memory_may_move(false)`), does not shrink, and is not a slot of a
//!   pool: only the store uses it, and it is unmapped with the store, including
//!   everything that was mapped over it.
//! - Mapping and lifting happen in a host call, with the store borrowed exclusively:
//!   no guest code runs and no slice of its memory is held. Each is one `mmap` with
//!   `MAP_FIXED`, which replaces pages in one step; the kernel checks limits before.
//! - It checks the seals of a file only after the old pages are gone. A failure then would
//!   leave a hole, which another mapping could take, or which would fault. If other
//!   processes can add seals, pages are therefore mapped elsewhere first and then moved
//!   over the window, which is slower. If there is a hole all the same, the process ends.
//! - Mapped pages ([`Pages`]) have no other writer: neither another guest nor this host,
//!   nor another process, even a compromised one. Pages that are mapped for writing are of
//!   a file whose only holder is this process: the runner has just made it, or has checked
//!   with the kernel that there is no other descriptor or mapping of it
//!   (`region/claim.rs`). Those of a frozen file are mapped copy-on-write, and its seal
//!   guarantees that no writable mapping existed when it was added, and that none will. So
//!   only the guest itself changes the bytes of its window.
//! - If other processes may have the pages, the window keeps its own, and the kernel
//!   copies the bytes: from the file when the window is set up, and back when it is lifted
//!   and when the guest accesses the region otherwise. No slice sees concurrent writes of
//!   others.
//! - Pages are reserved and the file cannot shrink, so that no access faults.
//! - Dropping an [`Overlay`] accesses no address: a store drops its data before its
//!   memory. Only [`Overlay::lift`] does, and it requires the store.

use super::Pages;
use rustix::mm::{
    Advice, MapFlags, MremapFlags, ProtFlags, madvise, mmap, mmap_anonymous, mremap_fixed, munmap,
};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::ptr;
use wasmtime::component::WasmList;
use wasmtime::{StoreContext, StoreContextMut};

/// The address range of a list in this process.
pub fn window<T: 'static>(store: StoreContext<'_, T>, list: &WasmList<u8>) -> Range<usize> {
    let bytes = list.as_le_slice(store).as_ptr_range();
    bytes.start as usize..bytes.end as usize
}

/// A copied window up to this size is cleared, which takes less time than new pages: each
/// new page is allocated when it is touched next.
const CLEARED: usize = 1 << 20;

/// A window with pages mapped over it.
#[derive(Debug)]
pub struct Overlay<P> {
    window: Range<usize>,
    /// The store, identified by the address of its data while it lives.
    store: usize,
    /// What is mapped or copied there, leased while it is.
    pages: P,
}

fn identity<T: 'static>(store: &StoreContextMut<'_, T>) -> usize {
    std::ptr::from_ref(store.data()) as usize
}

impl<P: Pages> Overlay<P> {
    /// Maps `pages` over the window that `list` is. An overlay must be kept in the data of
    /// `store`, so that it does not outlive it.
    ///
    /// # Errors
    ///
    /// The window is not whole pages, or not as long as the pages; the kernel refuses.
    #[expect(unsafe_code, reason = "a guest's own pages are replaced")]
    pub fn lay<T: 'static>(
        store: &mut StoreContextMut<'_, T>,
        list: &WasmList<u8>,
        pages: P,
    ) -> io::Result<Self> {
        let window = window((&*store).into(), list);
        let page = rustix::param::page_size();
        let whole = window.start.is_multiple_of(page) && window.len().is_multiple_of(page);
        if !whole || window.is_empty() || window.len() != pages.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let store = identity(store);
        if pages.is_copied() {
            return Ok(Overlay {
                window,
                store,
                pages,
            });
        }
        let flags = if pages.is_private() {
            MapFlags::PRIVATE | MapFlags::NORESERVE
        } else {
            MapFlags::SHARED
        };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let (file, offset) = (pages.file(), pages.offset());
        if pages.is_known_elsewhere() {
            // SAFETY: a new mapping at an address that the kernel chooses.
            let fresh = unsafe { mmap(ptr::null_mut(), window.len(), prot, flags, file, offset) }?;
            // SAFETY: as below.
            unsafe { move_over(&window, fresh) }?;
        } else {
            let place = window.start as *mut c_void;
            let flags = flags | MapFlags::FIXED;
            // SAFETY: replaces whole pages of a linear memory of this store by others that can
            // be read and written in the same way. No reference to them exists: the store is
            // borrowed exclusively. The module's documentation has the rest.
            let laid = unsafe { mmap(place, window.len(), prot, flags, file, offset) };
            laid.inspect_err(|_| end_at_a_hole(&window))?;
        }
        Ok(Overlay {
            window,
            store,
            pages,
        })
    }

    /// The window has its own bytes, which must be [filled](Overlay::fill) in and
    /// [saved](Overlay::save).
    pub fn is_copied(&self) -> bool {
        self.pages.is_copied()
    }

    /// The part of the window that corresponds to this part of the file.
    pub fn part(&self, in_file: &Range<u64>) -> Range<usize> {
        let at = |offset: u64| {
            let offset = offset.saturating_sub(self.pages.offset());
            usize::try_from(offset).map_or(self.window.len(), |at| at.min(self.window.len()))
        };
        at(in_file.start)..at(in_file.end)
    }

    /// Copies bytes of the file into a part of a copied window.
    ///
    /// # Errors
    ///
    /// The store is another one, the part is not in the window, or reading fails.
    pub fn fill<T: 'static>(
        &self,
        store: &mut StoreContextMut<'_, T>,
        part: Range<usize>,
    ) -> io::Result<()> {
        let (file, mut at) = (self.pages.file(), self.pages.offset() + part.start as u64);
        let mut left = self.bytes(store, part)?;
        while !left.is_empty() {
            let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *left, at))?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = &mut left[read..];
            at += read as u64;
        }
        Ok(())
    }

    /// Copies a part of a copied window into the file.
    ///
    /// # Errors
    ///
    /// As for [`Overlay::fill`]; or another process has sealed the file against writing.
    pub fn save<T: 'static>(
        &self,
        store: &mut StoreContextMut<'_, T>,
        part: Range<usize>,
    ) -> io::Result<()> {
        let (file, mut at) = (self.pages.file(), self.pages.offset() + part.start as u64);
        let mut left: &[u8] = self.bytes(store, part)?;
        while !left.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(file, left, at))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left = &left[written..];
            at += written as u64;
        }
        Ok(())
    }

    /// The bytes of a part of a copied window.
    #[expect(unsafe_code, reason = "a guest's own memory by its address")]
    fn bytes<'a, T: 'static>(
        &self,
        store: &'a mut StoreContextMut<'_, T>,
        part: Range<usize>,
    ) -> io::Result<&'a mut [u8]> {
        let inside = part.start <= part.end && part.end <= self.window.len();
        if identity(store) != self.store || !self.is_copied() || !inside {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = (self.window.start + part.start) as *mut u8;
        // SAFETY: the window was lifted by wasmtime as bytes of a linear memory of this store,
        // which neither moves nor shrinks; nothing was mapped over it. The store is borrowed as
        // long as the slice lives, so there is no other reference to its memory, and no code
        // runs that could write there.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, part.len()) })
    }

    pub fn window(&self) -> Range<usize> {
        self.window.clone()
    }

    /// Maps empty pages over the window, in place of what was mapped there.
    ///
    /// # Errors
    ///
    /// The store is another one; the kernel refuses. The pages are still mapped then, and
    /// the overlay must be kept.
    #[expect(unsafe_code, reason = "a guest's own pages are replaced")]
    pub fn lift<T: 'static>(
        self,
        store: &mut StoreContextMut<'_, T>,
    ) -> Result<(), (Self, io::Error)> {
        if identity(store) != self.store {
            return Err((self, io::ErrorKind::InvalidInput.into()));
        }
        if self.is_copied() && self.window.len() <= CLEARED {
            return match self.bytes(store, 0..self.window.len()) {
                Ok(bytes) => {
                    bytes.fill(0);
                    Ok(())
                }
                Err(error) => Err((self, error)),
            };
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // As wasmtime maps its own pages, so that the kernel merges them again.
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

/// Moves a mapping made here, as long as the window, over the window.
///
/// # Errors
///
/// The kernel refuses. The mapping is gone then, and the window unchanged.
///
/// # Safety
///
/// Nothing refers to the mapping, nor to the content of the window, which may be replaced.
#[expect(unsafe_code, reason = "a mapping is moved")]
unsafe fn move_over(window: &Range<usize>, fresh: *mut c_void) -> rustix::io::Result<()> {
    let place = window.start as *mut c_void;
    let len = window.len();
    // SAFETY: both are the caller's, and nothing refers to them.
    let moved = unsafe { mremap_fixed(fresh, len, len, MremapFlags::MAYMOVE, place) };
    let Err(errno) = moved else {
        return Ok(());
    };
    // SAFETY: a mapping that could not be moved is where it was; nothing refers to it.
    let _ = unsafe { munmap(fresh, len) };
    end_at_a_hole(window);
    Err(errno)
}

/// Ends the process if not all of a window is mapped, after the kernel failed half way: the
/// next mapping could come to lie in a guest's memory.
#[expect(unsafe_code, reason = "whether memory is mapped is asked")]
fn end_at_a_hole(window: &Range<usize>) {
    // SAFETY: `MADV_NORMAL` changes no contents; it fails if part of the range is not
    // mapped (madvise(2), ENOMEM).
    if unsafe { madvise(window.start as *mut c_void, window.len(), Advice::Normal) }.is_err() {
        std::process::abort();
    }
}
