//! Compiled code with its description, as a file: the form in the cache, in the output of
//! `wrun compile`, and in the memory file that workers map.
//!
//! ```text
//! [ELF of wasmtime][Meta, postcard][Footer, 56 bytes]
//! Footer: meta length u32, format version u32, BLAKE3 of all before it [32],
//!         the ELF's length u64, magic [8]
//! ```
//!
//! The description follows the code so that wasmtime can map the file as it is. Integers
//! are little-endian. Invariant: a [`Code`] was verified against its digest after it was
//! sealed, so the mapped bytes are the verified ones.

use super::artifact::Compiled;
use super::bulk::Offsets;
use super::engine::{Checks, Kind};
use super::pair::is_pair;
use super::source::Shape;
use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

const MAGIC: [u8; 8] = *b"wrunart\0";
const FORMAT: u32 = 5;
pub(super) const FOOTER: usize = 56;
/// Cap on the description.
const MAX_META: usize = 1 << 20;
/// Cap on a whole file.
pub const MAX_FILE: u64 = 4 << 30;

/// Bytes that are copied at a time.
const COPY: usize = 1 << 20;

/// The description of compiled code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The version of wrun that compiled it: engines of another version have other code.
    pub wrun: String,
    pub shape: Shape,
    pub checks: Checks,
    /// Whether it imports regions: it then needs an engine without a pool, and a jail that
    /// allows memory files.
    pub regions: bool,
    /// Whether it has a memory that can outgrow 4 GiB: it then needs an engine that
    /// reserves room for it, without a pool.
    pub wide: bool,
    /// BLAKE3 of the task file, in hexadecimal.
    pub source: String,
    /// Bytes of the task file.
    pub source_len: u64,
    /// Whether it communicates: it imports `ports`.
    pub talks: bool,
    /// Whether it can observe cancellation: it imports `context` or `ports`.
    pub observes_cancellation: bool,
    /// Maps offsets in its code to those in the binary it was compiled from.
    pub offsets: Offsets,
}

impl Meta {
    pub fn new(shape: Shape, checks: Checks, source: &blake3::Hash, len: u64) -> Self {
        Meta {
            wrun: env!("CARGO_PKG_VERSION").to_owned(),
            shape,
            checks,
            regions: false,
            wide: false,
            source: source.to_hex().to_string(),
            source_len: len,
            talks: false,
            observes_cancellation: false,
            offsets: Offsets::default(),
        }
    }

    /// Whether a pool may hold it. A slot is reused as it is, so code that maps regions
    /// over its memory must not have one. And a slot has room for 4 GiB.
    pub fn fits_a_pool(&self) -> bool {
        !self.regions && !self.wide
    }

    /// The kind of engine that runs it.
    pub fn kind(&self) -> Kind {
        Kind {
            checks: self.checks,
            wide: self.wide,
        }
    }
}

/// Verified compiled code in a sealed memory file.
#[derive(Debug)]
pub struct Code {
    pub meta: Meta,
    /// How this process compiled it; `None` if it comes from elsewhere.
    pub made: Option<Compiled>,
    file: File,
    len: u64,
}

/// Why bytes are not compiled code that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    #[error("not a wrun artifact")]
    NotAnArtifact,
    #[error("the artifact has format version {0}, expected {FORMAT}; compile the task again")]
    Format(u32),
    #[error("the artifact was made by wrun {0}, this is wrun {ours}; compile the task again", ours = env!("CARGO_PKG_VERSION"))]
    Version(String),
    #[error("the artifact is damaged: {0}")]
    Damaged(&'static str),
    #[error("this engine rejects the artifact: {0}")]
    Engine(String),
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
}

fn io_error(what: &'static str) -> impl Fn(io::Error) -> CodeError {
    move |source| CodeError::Io { what, source }
}

/// Whether the last bytes of a file are the footer of an artifact, or of two.
pub(crate) fn is_artifact(tail: &[u8]) -> bool {
    tail.len() >= FOOTER && (tail.ends_with(&MAGIC) || is_pair(tail))
}

/// The file's bytes after the ELF.
pub(crate) fn trailer(elf: &[u8], meta: &Meta) -> Result<Vec<u8>, CodeError> {
    let mut trailer =
        postcard::to_allocvec(meta).map_err(|_| CodeError::Damaged("its description"))?;
    let meta_len = u32::try_from(trailer.len()).unwrap_or(u32::MAX);
    let mut hasher = blake3::Hasher::new();
    hasher.update(elf).update(&trailer);
    trailer.extend_from_slice(&meta_len.to_le_bytes());
    trailer.extend_from_slice(&FORMAT.to_le_bytes());
    trailer.extend_from_slice(hasher.finalize().as_bytes());
    trailer.extend_from_slice(&(elf.len() as u64).to_le_bytes());
    trailer.extend_from_slice(&MAGIC);
    Ok(trailer)
}

impl Code {
    /// Takes freshly compiled code.
    pub fn new(elf: &[u8], meta: &Meta) -> Result<Self, CodeError> {
        let mut file = Code::blank()?;
        Code::write(&mut file, elf, meta)?;
        Code::seal(file)
    }

    /// An empty memory file, for [`Code::write`] and then [`Code::seal`].
    pub fn blank() -> Result<File, CodeError> {
        memory_file()
    }

    /// Writes compiled code with its description.
    pub fn write(file: &mut File, elf: &[u8], meta: &Meta) -> Result<(), CodeError> {
        let trailer = trailer(elf, meta)?;
        file.write_all(elf)
            .and_then(|()| file.write_all(&trailer))
            .map_err(io_error("cannot fill a memory file"))
    }

    /// Copies a file into memory, seals it, verifies it.
    pub fn from_file(file: &mut File) -> Result<Self, CodeError> {
        let mut memory = memory_file()?;
        let copied = io::copy(&mut file.take(MAX_FILE + 1), &mut memory)
            .map_err(io_error("cannot copy it into memory"))?;
        if copied > MAX_FILE {
            return Err(CodeError::Damaged("it is larger than 4 GiB"));
        }
        Code::seal(memory)
    }

    /// Copies bytes into memory, seals them, verifies them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodeError> {
        let mut memory = memory_file()?;
        memory
            .write_all(bytes)
            .map_err(io_error("cannot fill a memory file"))?;
        Code::seal(memory)
    }

    /// The whole file's bytes.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(len)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.copy_to(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the whole file.
    pub fn copy_to(&self, to: &mut impl Write) -> io::Result<()> {
        let mut buffer = vec![0; usize::try_from(self.len).unwrap_or(COPY).min(COPY)];
        let mut at = 0;
        while at < self.len {
            // Not the file's own position, which workers share.
            let len = self.file.read_at(&mut buffer, at)?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all(&buffer[..len])?;
            at += len as u64;
        }
        Ok(())
    }

    /// Takes a memory file that another process has verified; checks that it is sealed and
    /// well-formed, but not its digest.
    pub fn from_sealed(file: File) -> Result<Self, CodeError> {
        let seals = rustix::fs::fcntl_get_seals(&file)
            .map_err(|errno| io_error("cannot read the seals")(errno.into()))?;
        if !seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW) {
            return Err(CodeError::Damaged("it is not sealed"));
        }
        let (meta, _, len) = parse(&file)?;
        Ok(Code::found(meta, file, len))
    }

    /// Seals a memory file, whichever process wrote it, and verifies it.
    pub fn seal(mut file: File) -> Result<Self, CodeError> {
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)
            .map_err(|errno| io_error("cannot seal a memory file")(errno.into()))?;
        let (meta, digest, len) = parse(&file)?;
        let covered = len - FOOTER as u64;
        file.seek(SeekFrom::Start(0))
            .map_err(io_error("cannot read it"))?;
        let mut hasher = blake3::Hasher::new();
        hasher
            .update_reader((&file).take(covered))
            .map_err(io_error("cannot read it"))?;
        if hasher.finalize() != digest {
            return Err(CodeError::Damaged("its digest does not match"));
        }
        if meta.wrun != env!("CARGO_PKG_VERSION") {
            return Err(CodeError::Version(meta.wrun));
        }
        Ok(Code::found(meta, file, len))
    }

    fn found(meta: Meta, file: File, len: u64) -> Self {
        Code {
            meta,
            made: None,
            file,
            len,
        }
    }

    /// The sealed file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A path for mapping it; `None` without `/proc`.
    fn path(&self) -> Option<String> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        std::fs::symlink_metadata(&path).is_ok().then_some(path)
    }

    /// The code as a component of `engine`.
    #[expect(unsafe_code, reason = "wasmtime's artifact deserialization")]
    pub fn component(&self, engine: &Engine) -> Result<Component, CodeError> {
        // SAFETY: `deserialize_file` requires that the file came from
        // `Engine::precompile_component` and is not modified while mapped. Its digest was
        // verified after it was made by this program, its own cache, or a file that the user
        // declared trusted, and the seals exclude modification. `deserialize` requires the
        // first for the bytes.
        unsafe {
            match self.path() {
                Some(path) => Component::deserialize_file(engine, path),
                None => Component::deserialize(
                    engine,
                    self.bytes().map_err(io_error("cannot read it"))?,
                ),
            }
        }
        .map_err(|error| CodeError::Engine(format!("{error:#}")))
    }

    /// The code as a core module of `engine`.
    #[expect(unsafe_code, reason = "wasmtime's artifact deserialization")]
    pub fn module(&self, engine: &Engine) -> Result<Module, CodeError> {
        // SAFETY: as for `component`, with `Engine::precompile_module`.
        unsafe {
            match self.path() {
                Some(path) => Module::deserialize_file(engine, path),
                None => {
                    Module::deserialize(engine, self.bytes().map_err(io_error("cannot read it"))?)
                }
            }
        }
        .map_err(|error| CodeError::Engine(format!("{error:#}")))
    }
}

fn memory_file() -> Result<File, CodeError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    rustix::fs::memfd_create("wrun-artifact", flags)
        .map(File::from)
        .map_err(|errno| io_error("cannot make a memory file")(errno.into()))
}

/// Reads the footer and the description; every length is checked against the
/// file before anything is allocated.
fn parse(file: &File) -> Result<(Meta, blake3::Hash, u64), CodeError> {
    let len = file.metadata().map_err(io_error("cannot read it"))?.len();
    if len < FOOTER as u64 {
        return Err(CodeError::NotAnArtifact);
    }
    let mut footer = [0; FOOTER];
    file.read_exact_at(&mut footer, len - FOOTER as u64)
        .map_err(io_error("cannot read it"))?;
    let (meta_len, rest) = footer.split_at(4);
    let (format, rest) = rest.split_at(4);
    let (digest, rest) = rest.split_at(32);
    let (elf_len, magic) = rest.split_at(8);
    if magic != MAGIC {
        return Err(CodeError::NotAnArtifact);
    }
    let format = le_u32(format);
    if format != FORMAT {
        return Err(CodeError::Format(format));
    }
    let meta_len = le_u32(meta_len) as usize;
    let mut elf = [0; 8];
    elf.copy_from_slice(elf_len);
    let elf_len = u64::from_le_bytes(elf);
    let total = elf_len
        .checked_add(meta_len as u64)
        .and_then(|sum| sum.checked_add(FOOTER as u64));
    if meta_len > MAX_META || total != Some(len) {
        return Err(CodeError::Damaged("its lengths do not add up"));
    }
    let mut meta = vec![0; meta_len];
    file.read_exact_at(&mut meta, elf_len)
        .map_err(io_error("cannot read it"))?;
    let meta = postcard::from_bytes(&meta).map_err(|_| CodeError::Damaged("its description"))?;
    let mut hash = [0; 32];
    hash.copy_from_slice(digest);
    Ok((meta, blake3::Hash::from_bytes(hash), len))
}

fn le_u32(bytes: &[u8]) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(bytes);
    u32::from_le_bytes(array)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Meta) {
        let source = blake3::hash(b"source");
        let checks = Checks {
            metered: false,
            epochs: true,
        };
        let meta = Meta::new(Shape::Component, checks, &source, 6);
        let elf = b"not really an ELF".to_vec();
        let mut file = elf.clone();
        file.extend(trailer(&elf, &meta).expect("encodes"));
        (file, meta)
    }

    fn load(bytes: &[u8]) -> Result<Code, CodeError> {
        let mut file = tempfile::tempfile().expect("tempfile");
        file.write_all(bytes).expect("write");
        file.seek(SeekFrom::Start(0)).expect("seek");
        Code::from_file(&mut file)
    }

    #[test]
    fn round_trip() {
        let (bytes, meta) = sample();
        assert!(is_artifact(&bytes));
        assert_eq!(load(&bytes).expect("loads").meta, meta);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let (bytes, _) = sample();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(load(&damaged).is_err(), "byte {at}");
            assert!(load(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
