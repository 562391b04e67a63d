//! Listing directories: a snapshot for each reader, in time linear in the entries.
//!
//! wasmtime-wasi lists the whole directory again for each buffer that a guest of WASI 0.1
//! fills, stats each entry on another thread, and uses the guest's cookie as an index into
//! the new list: a guest that deletes what it has read misses entries, and the time grows
//! with the square of their number. Here a directory is read when the guest begins (cookie
//! 0), and cookies are indices into that snapshot.
//!
//! Invariant: a snapshot counts as the task's memory as long as it lives, and entries that
//! do not fit are not added.

use super::turns::Turns;
use super::wasi_0_1::guest_of;
use super::wasi_0_2::WASI;
use crate::host::{Entry, Host, Kind, Listing};
use crate::limits::Limiter;
use rustix::fs::{AtFlags, FileType, RawDir, statat};
use rustix::io::Errno;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::MaybeUninit;
use std::sync::Arc;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime::{Caller, StoreContextMut, Trap};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as p1;
use wasmtime_wasi::p2::FsError;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorType, DirectoryEntry, ErrorCode, Host as _,
};
use wiggle::GuestMemory;

/// Bytes that the kernel fills at a time: some hundreds of entries. Other tasks have their
/// turn in between.
const BUFFER: usize = 16 << 10;

impl From<FileType> for Kind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Kind::Regular,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            FileType::CharacterDevice => Kind::CharacterDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            // As in wasmtime-wasi's attributes of the file.
            FileType::Fifo | FileType::Socket | FileType::Unknown => Kind::Unknown,
        }
    }
}

impl Kind {
    /// Its `filetype` in WASI 0.1.
    fn p1(self) -> u8 {
        match self {
            Kind::Unknown => 0,
            Kind::BlockDevice => 1,
            Kind::CharacterDevice => 2,
            Kind::Directory => 3,
            Kind::Regular => 4,
            Kind::Link => 7,
        }
    }

    fn p2(self) -> DescriptorType {
        match self {
            Kind::Unknown => DescriptorType::Unknown,
            Kind::BlockDevice => DescriptorType::BlockDevice,
            Kind::CharacterDevice => DescriptorType::CharacterDevice,
            Kind::Directory => DescriptorType::Directory,
            Kind::Regular => DescriptorType::RegularFile,
            Kind::Link => DescriptorType::SymbolicLink,
        }
    }
}

/// The inode number that guests see, as wasmtime-wasi computes it for its attributes:
/// programs compare the two.
fn inode(device: u64, inode: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (device, inode).hash(&mut hasher);
    hasher.finish()
}

/// A directory that is being read, by a separate descriptor.
struct Reader {
    directory: Arc<File>,
    buffer: Vec<MaybeUninit<u8>>,
    /// Stat each entry: WASI 0.1 returns inode numbers with the names.
    inodes: bool,
}

impl Reader {
    fn new(directory: Arc<File>, inodes: bool) -> Self {
        Reader {
            directory,
            buffer: vec![MaybeUninit::uninit(); BUFFER],
            inodes,
        }
    }

    /// The next entries, as many as the kernel returns at a time; empty at the end.
    fn some(&mut self) -> Result<Listing, Errno> {
        let mut listing = Listing::default();
        let mut raw = RawDir::new(&*self.directory, &mut self.buffer);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                let mut kind = Kind::from(entry.file_type());
                let mut number = 0;
                if self.inodes || kind == Kind::Unknown {
                    let stat = statat(&*self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
                    // An entry that was removed just now is still listed.
                    if let Ok(stat) = stat {
                        kind = FileType::from_raw_mode(stat.st_mode).into();
                        number = inode(stat.st_dev, stat.st_ino);
                    }
                }
                listing.push(name.to_bytes(), number, kind)?;
            }
            if raw.is_buffer_empty() && !listing.entries.is_empty() {
                break;
            }
        }
        Ok(listing)
    }
}

impl Listing {
    fn push(&mut self, name: &[u8], inode: u64, kind: Kind) -> Result<(), Errno> {
        let end = self.names.len().saturating_add(name.len());
        let end = u32::try_from(end).map_err(|_| Errno::NOMEM)?;
        self.names
            .try_reserve(name.len())
            .map_err(|_| Errno::NOMEM)?;
        self.entries.try_reserve(1).map_err(|_| Errno::NOMEM)?;
        self.names.extend_from_slice(name);
        self.entries.push(Entry { inode, end, kind });
        Ok(())
    }

    /// Bytes that it occupies, including the spare capacity of vectors that grow.
    fn size(&self) -> usize {
        2 * (self.names.len() + self.entries.len() * size_of::<Entry>())
    }

    /// Adds entries, if they fit the task's memory.
    fn append(&mut self, more: &Listing, limiter: &mut Limiter) -> Result<(), Errno> {
        if !limiter.keep(more.size()) {
            return Err(Errno::NOMEM);
        }
        self.counted += more.size();
        for index in 0..more.entries.len() {
            if let Some((entry, name)) = more.get(index) {
                self.push(name, entry.inode, entry.kind)?;
            }
        }
        Ok(())
    }

    fn get(&self, index: usize) -> Option<(Entry, &[u8])> {
        let entry = *self.entries.get(index)?;
        let begin = match index.checked_sub(1) {
            Some(before) => self.entries.get(before)?.end as usize,
            None => 0,
        };
        Some((entry, self.names.get(begin..entry.end as usize)?))
    }

    /// Reads a whole directory.
    async fn read(reader: Reader, blocking: bool, limiter: &mut Limiter) -> Result<Self, Errno> {
        let mut listing = Listing::default();
        let mut reader = reader;
        loop {
            let more = if blocking {
                crate::turn::yield_now().await;
                reader.some()
            } else {
                let read = tokio::task::spawn_blocking(move || {
                    let some = reader.some();
                    (reader, some)
                });
                match read.await {
                    Ok((back, some)) => {
                        reader = back;
                        some
                    }
                    Err(_) => return Err(listing.end(Errno::IO, limiter)),
                }
            };
            let added = match more {
                Ok(more) if more.entries.is_empty() => return Ok(listing),
                Ok(more) => listing.append(&more, limiter),
                Err(error) => Err(error),
            };
            if let Err(error) = added {
                return Err(listing.end(error, limiter));
            }
        }
    }

    /// Frees it, because of `error`.
    fn end(self, error: Errno, limiter: &mut Limiter) -> Errno {
        limiter.release(self.counted);
        error
    }
}

impl Host {
    /// Drops the listing of a descriptor, which is closed or read again.
    fn forget_listing(&mut self, fd: i32) {
        if let Some(listing) = self.listings.0.remove(&fd) {
            self.limiter.release(listing.counted);
        }
    }
}

/// `errno` values of WASI 0.1.
const ERRNO_IO: i32 = 29;
const ERRNO_NOMEM: i32 = 48;
const ERRNO_NOTDIR: i32 = 54;
const ERRNO_BADF: i32 = 8;

/// Opens a directory of a guest of WASI 0.1 again, and returns it with its inode number.
async fn open_again(
    host: &mut Host,
    fuel: usize,
    fd: i32,
) -> wasmtime::Result<Result<(Arc<File>, u64), i32>> {
    /// Offsets in a memory made for the calls: a path, a `filestat` and the position of the
    /// inode number in it, the new descriptor.
    const PATH: i32 = 0;
    const FILESTAT: i32 = 8;
    const INODE: usize = 16;
    const OPENED: i32 = 72;
    const DIRECTORY: i32 = 2;
    let mut memory = [0; 76];
    memory[0] = b'.';
    let mut guest = GuestMemory::Unshared(&mut memory);
    let errno = p1::fd_filestat_get(host.p1(fuel)?, &mut guest, fd, FILESTAT).await?;
    if errno != 0 {
        return Ok(Err(errno));
    }
    // Only wasmtime-wasi knows the resource of a descriptor. The table fills the slot that
    // was freed last: this one.
    let table = host.wasi.table();
    let place = table.push(())?;
    let place_is = place.rep();
    table.delete(place)?;
    let mut guest = GuestMemory::Unshared(&mut memory);
    let errno = p1::path_open(
        host.p1(fuel)?,
        &mut guest,
        fd,
        0,
        PATH,
        1,
        DIRECTORY,
        0,
        0,
        0,
        OPENED,
    )
    .await?;
    if errno != 0 {
        // A file is a bad descriptor for listing, as in wasmtime.
        return Ok(Err(if errno == ERRNO_NOTDIR {
            ERRNO_BADF
        } else {
            errno
        }));
    }
    let table = host.wasi.table();
    let opened = match table.get(&Resource::<Descriptor>::new_borrow(place_is)) {
        Ok(Descriptor::Dir(directory)) => Some(directory.dir.clone()),
        _ => None,
    };
    let u32_at = |at: usize| [0, 1, 2, 3].map(|byte| memory[at + byte]);
    let u64_at = |at: usize| [0, 1, 2, 3, 4, 5, 6, 7].map(|byte| memory[at + byte]);
    let new = i32::from_le_bytes(u32_at(OPENED as usize));
    let inode = u64::from_le_bytes(u64_at(INODE));
    let mut guest = GuestMemory::Unshared(&mut []);
    let errno = p1::fd_close(host.p1(fuel)?, &mut guest, new).await?;
    match opened {
        Some(opened) if errno == 0 => Ok(Ok((opened, inode))),
        _ => Err(wasmtime::Error::msg("a directory that was opened is lost")),
    }
}

/// Parameters of `fd_readdir`.
type Readdir = (i32, i32, i32, i64, i32);

/// The guest's buffer: entries one after the other, the last one cut at the end of the
/// buffer.
struct Buffer<'a> {
    memory: &'a mut [u8],
    at: usize,
    left: usize,
}

impl Buffer<'_> {
    /// Whether there is room for more.
    fn put(&mut self, bytes: &[u8]) -> wasmtime::Result<bool> {
        let len = bytes.len().min(self.left);
        let place = self
            .at
            .checked_add(len)
            .and_then(|end| self.memory.get_mut(self.at..end))
            .ok_or(Trap::MemoryOutOfBounds)?;
        place.copy_from_slice(&bytes[..len]);
        self.at += len;
        self.left -= len;
        Ok(self.left > 0)
    }

    fn put_entry(
        &mut self,
        next: u64,
        inode: u64,
        kind: u8,
        name: &[u8],
    ) -> wasmtime::Result<bool> {
        let mut head = [0; 24];
        head[..8].copy_from_slice(&next.to_le_bytes());
        head[8..16].copy_from_slice(&inode.to_le_bytes());
        // A name is at most 255 bytes.
        head[16..20].copy_from_slice(&(name.len() as u32).to_le_bytes());
        head[20] = kind;
        Ok(self.put(&head)? && self.put(name)?)
    }
}

async fn readdir(
    mut caller: Caller<'_, Host>,
    (fd, buf, len, cookie, result): Readdir,
) -> wasmtime::Result<i32> {
    let (memory, host, fuel) = guest_of(&mut caller)?;
    let cookie = usize::try_from(cookie.cast_unsigned()).unwrap_or(usize::MAX);
    if cookie == 0 || !host.listings.0.contains_key(&fd) {
        host.forget_listing(fd);
        let (directory, number) = match open_again(host, fuel, fd).await? {
            Ok(opened) => opened,
            Err(errno) => return Ok(errno),
        };
        let reader = Reader::new(directory, true);
        let mut listing = match Listing::read(reader, host.blocking, &mut host.limiter).await {
            Ok(listing) => listing,
            Err(Errno::NOMEM) => return Ok(ERRNO_NOMEM),
            Err(_) => return Ok(ERRNO_IO),
        };
        listing.number = number;
        host.listings.0.insert(fd, listing);
    }
    let Some(listing) = host.listings.0.get(&fd) else {
        return Ok(ERRNO_BADF);
    };
    let mut buffer = Buffer {
        memory: &mut *memory,
        at: buf.cast_unsigned() as usize,
        left: len.cast_unsigned() as usize,
    };
    let mut turns = Turns::default();
    let mut index = cookie;
    loop {
        let next = index as u64 + 1;
        let directory = Kind::Directory.p1();
        let more = match index {
            0 => buffer.put_entry(next, listing.number, directory, b".")?,
            // Not its real number: it can be outside of the grant.
            1 => buffer.put_entry(next, listing.number, directory, b"..")?,
            _ => match listing.get(index - 2) {
                Some((entry, name)) => {
                    buffer.put_entry(next, entry.inode, entry.kind.p1(), name)?
                }
                None => break,
            },
        };
        if !more {
            break;
        }
        index += 1;
        turns.spend(64).await;
    }
    let used = len.cast_unsigned() - buffer.left as u32;
    let at = result.cast_unsigned() as usize;
    let place = at
        .checked_add(4)
        .and_then(|end| memory.get_mut(at..end))
        .ok_or(Trap::MemoryOutOfBounds)?;
    place.copy_from_slice(&used.to_le_bytes());
    Ok(0)
}

/// Shadows `fd_readdir` for modules, and the calls that close or renumber a descriptor.
pub(super) fn for_modules(linker: &mut wasmtime::Linker<Host>) -> wasmtime::Result<()> {
    const WASI: &str = "wasi_snapshot_preview1";
    linker.func_wrap_async(WASI, "fd_readdir", |caller, parameters: Readdir| {
        Box::new(readdir(caller, parameters))
    })?;
    linker.func_wrap_async(
        WASI,
        "fd_close",
        |mut caller: Caller<'_, Host>, (fd,): (i32,)| {
            Box::new(async move {
                let (memory, host, fuel) = guest_of(&mut caller)?;
                host.forget_listing(fd);
                let mut guest = GuestMemory::Unshared(memory);
                p1::fd_close(host.p1(fuel)?, &mut guest, fd).await
            })
        },
    )?;
    linker.func_wrap_async(
        WASI,
        "fd_renumber",
        |mut caller: Caller<'_, Host>, (from, to): (i32, i32)| {
            Box::new(async move {
                let (memory, host, fuel) = guest_of(&mut caller)?;
                let mut guest = GuestMemory::Unshared(memory);
                let errno = p1::fd_renumber(host.p1(fuel)?, &mut guest, from, to).await?;
                if errno == 0 && from != to {
                    host.forget_listing(to);
                    if let Some(listing) = host.listings.0.remove(&from) {
                        host.listings.0.insert(to, listing);
                    }
                }
                Ok(errno)
            })
        },
    )?;
    Ok(())
}

/// A component's `directory-entry-stream`.
struct Stream {
    listing: Listing,
    next: usize,
}

type Store<'a> = StoreContextMut<'a, Host>;

fn code(error: Errno) -> FsError {
    std::io::Error::from(error).into()
}

async fn read_directory(
    mut store: Store<'_>,
    descriptor: Resource<Descriptor>,
) -> wasmtime::Result<(Result<Resource<Stream>, ErrorCode>,)> {
    let host = store.data_mut();
    let directory = match host.wasi.table().get(&descriptor)? {
        Descriptor::Dir(directory) => directory.dir.clone(),
        Descriptor::File(_) => return Ok((Err(ErrorCode::NotDirectory),)),
    };
    if !host.has_room(1) {
        return Ok((Err(ErrorCode::InsufficientMemory),));
    }
    let blocking = host.blocking;
    let open = move || {
        use rustix::fs::{Mode, OFlags, openat};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&*directory, ".", flags, Mode::empty()).map(File::from)
    };
    let opened = if blocking {
        open()
    } else {
        let opened = tokio::task::spawn_blocking(open).await;
        opened.unwrap_or(Err(Errno::IO))
    };
    let read = match opened {
        Ok(opened) => {
            let reader = Reader::new(Arc::new(opened), false);
            Listing::read(reader, blocking, &mut host.limiter).await
        }
        // No more descriptors: the closest code that exists.
        Err(Errno::MFILE | Errno::NFILE) => Err(Errno::NOMEM),
        Err(error) => Err(error),
    };
    Ok((match read {
        Ok(listing) => {
            let stream = Stream { listing, next: 0 };
            Ok(host.wasi.table().push(stream)?)
        }
        Err(error) => Err(host.filesystem().convert_error_code(code(error))?),
    },))
}

fn next_entry(
    mut store: Store<'_>,
    (stream,): (Resource<Stream>,),
) -> wasmtime::Result<(Result<Option<DirectoryEntry>, ErrorCode>,)> {
    let stream = WasiView::ctx(store.data_mut()).table.get_mut(&stream)?;
    let entry = stream.listing.get(stream.next);
    let entry = entry.map(|(entry, name)| DirectoryEntry {
        type_: entry.kind.p2(),
        // A name that is not UTF-8 cannot be represented, and an error would end most programs'
        // listing: the replacement cannot be opened.
        name: String::from_utf8_lossy(name).into_owned(),
    });
    stream.next += usize::from(entry.is_some());
    Ok((Ok(entry),))
}

/// Shadows `read-directory` and its stream for components.
pub(super) fn for_components(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("wasi:filesystem/types@{WASI}"))?;
    types.resource(
        "directory-entry-stream",
        ResourceType::host::<Stream>(),
        |mut store: Store<'_>, rep| {
            let host = store.data_mut();
            let table = host.wasi.table();
            let stream = table.delete(Resource::<Stream>::new_own(rep))?;
            host.limiter.release(stream.listing.counted);
            Ok(())
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.read-directory",
        |store, (descriptor,): (Resource<Descriptor>,)| Box::new(read_directory(store, descriptor)),
    )?;
    types.func_wrap(
        "[method]directory-entry-stream.read-directory-entry",
        next_entry,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_names() {
        let mut listing = Listing::default();
        for name in ["a", "", "ccc"] {
            listing
                .push(name.as_bytes(), name.len() as u64, Kind::Regular)
                .expect("fits");
        }
        let entry = |index| listing.get(index).map(|(entry, name)| (entry.inode, name));
        assert_eq!(entry(0), Some((1, &b"a"[..])));
        assert_eq!(entry(1), Some((0, &b""[..])));
        assert_eq!(entry(2), Some((3, &b"ccc"[..])));
        assert_eq!(entry(3), None);
    }
}
