//! The program's code on large pages, which a forked process need neither fault in nor free
//! one small page at a time.

use super::fork::Alone;
use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use serde::{Deserialize, Serialize};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::ptr;

/// The size of a large page, on x86-64 and on AArch64 with pages of 4 KiB.
pub const LARGE: usize = 2 << 20;

/// The changes that are forbidden for a copy of the code.
pub const IMAGE_SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::GROW)
    .union(SealFlags::SHRINK)
    .union(SealFlags::SEAL);

/// Collapses pages into large ones whatever the configuration, Linux 6.1 (madvise(2)).
const COLLAPSE: i32 = libc::MADV_COLLAPSE;

/// A mapping of a whole file on large pages; it exists so that the pages stay shared, and
/// is never read.
#[derive(Debug)]
pub struct Collapsed(Range<usize>);

/// Collapses the pages of a memory file from `offset` on into large ones. Offset and length
/// are multiples of [`LARGE`], and within the file.
///
/// # Errors
///
/// The kernel has no large pages, or none left.
#[expect(unsafe_code, reason = "a mapping of our own, that nobody reads")]
pub fn collapse(file: impl AsFd, offset: u64, len: usize) -> io::Result<Collapsed> {
    let space = reserve_aligned(len)?;
    let address = space.0.start as *mut c_void;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: replaces a reservation made here, to which no reference exists.
    unsafe { mmap(address, len, ProtFlags::READ, flags, file, offset) }?;
    // SAFETY: the range is the mapping that was just made; its contents stay.
    match unsafe { libc::madvise(address, len, COLLAPSE) } {
        0 => Ok(space),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Address space for a mapping at a multiple of [`LARGE`].
#[expect(unsafe_code, reason = "address space of our own")]
fn reserve_aligned(len: usize) -> io::Result<Collapsed> {
    let whole = len.checked_add(LARGE).ok_or(io::ErrorKind::InvalidInput)?;
    let nothing = ProtFlags::empty();
    // SAFETY: a new mapping at an address that the kernel chooses.
    let start = unsafe { mmap_anonymous(ptr::null_mut(), whole, nothing, MapFlags::PRIVATE) }?;
    let start = start as usize;
    let aligned = start.next_multiple_of(LARGE);
    let space = Collapsed(aligned..aligned + len);
    unmap(start..aligned);
    unmap(aligned + len..start + whole);
    Ok(space)
}

/// Unmaps address space that this code reserved and that nothing refers to.
#[expect(unsafe_code, reason = "unmapping")]
fn unmap(range: Range<usize>) {
    if !range.is_empty() {
        // SAFETY: by this private function's contract.
        let _ = unsafe { munmap(range.start as *mut c_void, range.len()) };
    }
}

impl Drop for Collapsed {
    fn drop(&mut self) {
        unmap(self.0.clone());
    }
}

/// A loaded segment of this program.
struct Segment {
    pages: Range<usize>,
    offset: usize,
    prot: ProtFlags,
    whole: bool,
}

/// Identifies a file, as long as it is not written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileId {
    pub fn of(file: &File) -> io::Result<Self> {
        let of = file.metadata()?;
        Ok(FileId {
            device: of.dev(),
            inode: of.ino(),
            size: of.size(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        })
    }
}

/// Maps the code and the constants of this program again, from `image`: a copy of the
/// beginning of the program file `of`, made by the runner that started this process.
/// Returns how many bytes it mapped: 0 if the program was not linked for it, with segments
/// at multiples of [`LARGE`] in memory and file.
///
/// # Errors
///
/// The image is not sealed, or is of another file than this program's; the kernel refuses a
/// mapping.
#[expect(unsafe_code, reason = "the program's own code is replaced by itself")]
pub fn map_own_code(_alone: &Alone, image: &File, of: FileId) -> io::Result<usize> {
    if !fcntl_get_seals(image)?.contains(IMAGE_SEALS) {
        return Err(io::Error::other("it is not sealed"));
    }
    if FileId::of(&File::open("/proc/self/exe")?)? != of {
        return Err(io::Error::other("it is of another program"));
    }
    let len = usize::try_from(image.metadata()?.len()).map_err(io::Error::other)?;
    let segments = own_segments();
    let mut mapped = 0;
    for segment in &segments {
        if segment.prot.contains(ProtFlags::WRITE) || !segment.whole {
            continue;
        }
        let Range { start, end } = segment.pages;
        if start % LARGE != segment.offset % LARGE {
            continue;
        }
        let large = start / LARGE * LARGE..end.next_multiple_of(LARGE);
        let offset = segment.offset / LARGE * LARGE;
        let others_there = segments
            .iter()
            .filter(|other| other.pages != segment.pages)
            .any(|other| other.pages.start < large.end && large.start < other.pages.end);
        if others_there || offset + large.len() > len {
            continue;
        }
        let place = large.start as *mut c_void;
        let offset = offset as u64;
        // Whether it may be mapped like this, before anything is replaced. SAFETY: a new
        // mapping at an address that the kernel chooses.
        let tried = unsafe {
            mmap(
                ptr::null_mut(),
                large.len(),
                segment.prot,
                MapFlags::PRIVATE,
                image,
                offset,
            )
        }?;
        unmap(tried as usize..tried as usize + large.len());
        if !reserve(large.start..start)? {
            continue;
        }
        if !reserve(end..large.end)? {
            unmap(large.start..start);
            continue;
        }
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: replaces pages of this program that no code can have written to by the same
        // bytes, and reservations that were just made; the kernel does so in one step, and
        // there is no other thread. The bytes are the same: the runner, which this process
        // trusts with all of its code, copied them from the file that is still this program's,
        // and the copy cannot have changed since.
        unsafe { mmap(place, large.len(), segment.prot, flags, image, offset) }?;
        mapped += large.len();
    }
    Ok(mapped)
}

/// Reserves exactly this address space; `false` if part of it is in use.
#[expect(unsafe_code, reason = "address space of our own")]
fn reserve(range: Range<usize>) -> io::Result<bool> {
    if range.is_empty() {
        return Ok(true);
    }
    let place = range.start as *mut c_void;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: replaces nothing.
    match unsafe { mmap_anonymous(place, range.len(), ProtFlags::empty(), flags) } {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The segments of the program, without those of its libraries.
#[expect(unsafe_code, reason = "the loader tells through a callback")]
fn own_segments() -> Vec<Segment> {
    unsafe extern "C" fn note(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        data: *mut c_void,
    ) -> libc::c_int {
        // SAFETY: the loader passes its description of an object, and the pointer that was
        // given to `dl_iterate_phdr` below.
        let (info, segments) = unsafe { (&*info, &mut *data.cast::<Vec<Segment>>()) };
        // SAFETY: the loader states that there are this many headers.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        segments.extend(
            headers
                .iter()
                .filter(|header| header.p_type == libc::PT_LOAD)
                .map(|header| segment(info.dlpi_addr as usize, header)),
        );
        // The first object is the program; stop here.
        1
    }
    let mut segments = Vec::new();
    let data = (&raw mut segments).cast();
    // SAFETY: the callback uses `data` as its type, and does not keep it.
    unsafe { libc::dl_iterate_phdr(Some(note), data) };
    segments
}

fn segment(base: usize, header: &libc::Elf64_Phdr) -> Segment {
    let page = rustix::param::page_size();
    let start = base + header.p_vaddr as usize;
    let first = start / page * page;
    let prot = [
        (libc::PF_R, ProtFlags::READ),
        (libc::PF_W, ProtFlags::WRITE),
        (libc::PF_X, ProtFlags::EXEC),
    ];
    Segment {
        pages: first..(start + header.p_memsz as usize).next_multiple_of(page),
        offset: (header.p_offset as usize).saturating_sub(start - first),
        prot: prot
            .into_iter()
            .filter(|(flag, _)| header.p_flags & flag != 0)
            .map(|(_, prot)| prot)
            .collect(),
        whole: header.p_filesz == header.p_memsz,
    }
}
