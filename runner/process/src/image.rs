//! The worker program's code on large pages, once for all zygotes of a runner.
//!
//! A forked process begins without pages of code: it faults them in, some sixteen at a
//! time, and frees each when it ends, which was a third of the cost of a small task. A
//! large page is one fault. See `docs/adr/0013`.
//!
//! Invariant: a zygote maps a sealed copy of the very file that it was started from, made
//! by its runner.

use object::elf::{FileHeader64, PF_W, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache};
use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use wrun_sys::{self, Collapsed, FileId, IMAGE_SEALS, LARGE};

/// A program with more code than this gets no image.
const MOST: usize = 256 << 20;

/// A copy of a program's code and constants.
#[derive(Debug)]
pub struct Image {
    pub of: FileId,
    file: OwnedFd,
    /// Keeps the pages counted as shared, which they are.
    _pages: Collapsed,
}

impl Image {
    /// The image of a program; an error if the system has no large pages, or the program is
    /// not laid out for them.
    pub fn of(program: &Path) -> io::Result<Self> {
        if large_page_size()? != LARGE {
            return Err(io::Error::other("large pages have another size"));
        }
        let mut program = File::open(program)?;
        let of = FileId::of(&program)?;
        let len = code_len(&program)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut copy = File::from(memfd_create("wrun-image", flags)?);
        copy.set_len(len as u64)?;
        // Examining it has changed its position.
        program.rewind()?;
        io::copy(&mut (&program).take(len as u64), &mut copy)?;
        if FileId::of(&program)? != of {
            return Err(io::Error::other("the program was changed"));
        }
        fcntl_add_seals(&copy, IMAGE_SEALS)?;
        let pages = wrun_sys::collapse(&copy, 0, len)?;
        Ok(Image {
            of,
            file: copy.into(),
            _pages: pages,
        })
    }

    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The size of the part of the file that is never written to, in large pages.
fn code_len(program: &File) -> io::Result<usize> {
    let cache = ReadCache::new(program);
    let bad = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let header = FileHeader64::<LittleEndian>::parse(&cache).map_err(bad)?;
    let endian = header.endian().map_err(bad)?;
    let headers = header.program_headers(endian, &cache).map_err(bad)?;
    let mut end = 0;
    for header in headers {
        if header.p_type(endian) != PT_LOAD || header.p_flags(endian) & PF_W != 0 {
            continue;
        }
        let offset = header.p_offset(endian);
        if offset % LARGE as u64 != header.p_vaddr(endian) % LARGE as u64 {
            return Err(io::Error::other("it is not laid out for large pages"));
        }
        end = end.max(offset.saturating_add(header.p_filesz(endian)));
    }
    let len = usize::try_from(end)
        .ok()
        .and_then(|end| end.checked_next_multiple_of(LARGE))
        .filter(|len| (1..=MOST).contains(len));
    len.ok_or_else(|| io::Error::other("it has too much code, or none"))
}

fn large_page_size() -> io::Result<usize> {
    let size = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")?;
    size.trim().parse().map_err(io::Error::other)
}
