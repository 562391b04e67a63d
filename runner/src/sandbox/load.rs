//! From a task file to an [`Artifact`]: read with a cap, recognised, checked,
//! compiled once or taken from the cache.

use super::cache::Cache;
use super::code::{self, Code, CodeError};
use super::compile::Compiler;
use super::engine::EngineError;
use super::makings::Makings;
use super::source::Shape;
use crate::config::Config;
use crate::error::Error;
use crate::sys::Process;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Why bytes are no task.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub(crate) enum LoadError {
    #[error("the task is empty")]
    Empty,
    #[error("the task is not WebAssembly: neither the binary format nor WAT text")]
    NotWasm,
    #[error("the task looks like WAT text but is not: {message}")]
    Text { message: String },
    #[error("the task is not valid WebAssembly: {message}")]
    Invalid { message: String },
    #[error("the task imports {name}, which nothing provides: {hint}")]
    UnknownImport { name: String, hint: String },
    #[error("there is nothing to run: {wanted}; this one exports {exports}")]
    NoEntry {
        wanted: Cow<'static, str>,
        exports: String,
    },
    #[error("the task exports run but not {name}, which the canonical ABI needs")]
    MissingExport { name: Cow<'static, str> },
    #[error("the task does not fit the world wrun:task/task: {message}")]
    Componentize { message: String },
    #[error("there is not enough memory to compile the task")]
    OutOfMemory,
    #[error("the task needs {what}, which wrun does not support: {hint}")]
    Unsupported { what: String, hint: String },
    // From here on: nothing that whoever compiles says. These must stay last, or
    // postcard counts the others differently when it reads than when it writes.
    #[serde(skip)]
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[serde(skip)]
    #[error("{} is a directory, not a task", path.display())]
    IsDirectory { path: PathBuf },
    #[serde(skip)]
    #[error("the task has more than {limit} bytes, the cap on task files")]
    TooBig { limit: u64 },
    #[serde(skip)]
    #[error(
        "the task is a compiled artifact; it is native code, and is loaded only when you vouch \
         for it (--allow-precompiled)"
    )]
    Precompiled,
    #[serde(skip)]
    #[error("cannot load the artifact: {0}")]
    Artifact(CodeError),
    #[serde(skip)]
    #[error(
        "the artifact was compiled {} fuel and cannot run {}",
        with_or_without(!*wanted), with_or_without(*wanted)
    )]
    ArtifactFuel { wanted: bool },
    #[serde(skip)]
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[serde(skip)]
    #[error("cannot keep compiled code: {source}")]
    System { source: CodeError },
    #[serde(skip)]
    #[error("compiling the task takes longer than the {} it may take", humantime::format_duration(*limit))]
    CompileTime { limit: Duration },
    #[serde(skip)]
    #[error(
        "compiling the task takes more memory than the {} it may have",
        bytesize::ByteSize(*limit).display().iec()
    )]
    CompileMemory { limit: u64 },
    #[serde(skip)]
    #[error(
        "compiling the task crashed, in a process of its own; nothing else was affected: {how}"
    )]
    CompileCrashed { how: String },
    /// There is nobody to compile it.
    #[serde(skip)]
    #[error("{0}")]
    Compiler(Error),
}

/// Bytes of a text about a task; whole sentences about one are shorter.
const MAX_TEXT: usize = 4_000;

impl LoadError {
    /// With texts that are on one line and of bounded length, whatever a guest or
    /// a compiler that it took over wrote into them. Twice changes nothing more.
    pub(crate) fn tamed(mut self) -> Self {
        match &mut self {
            LoadError::Text { message: text }
            | LoadError::Invalid { message: text }
            | LoadError::Componentize { message: text } => tame(text),
            LoadError::UnknownImport { name, hint } => {
                tame(name);
                tame(hint);
            }
            LoadError::Unsupported { what, hint } => {
                tame(what);
                tame(hint);
            }
            LoadError::NoEntry { wanted, exports } => {
                tame(wanted.to_mut());
                tame(exports);
            }
            LoadError::MissingExport { name } => tame(name.to_mut()),
            _ => {}
        }
        self
    }
}

fn with_or_without(fuel: bool) -> &'static str {
    if fuel { "with" } else { "without" }
}

fn tame(text: &mut String) {
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, "\u{fffd}");
    }
    text.truncate(text.floor_char_boundary(MAX_TEXT));
}

/// A task file that was loaded: recognised, checked, compiled. Cheap to clone;
/// belongs to the runner that loaded it.
#[derive(Clone)]
pub struct Artifact(Arc<Loaded>);

struct Loaded {
    runner: u64,
    name: String,
    shape: Shape,
    digest: blake3::Hash,
    source_len: u64,
    /// The task file; none when it came compiled.
    source: Option<Bytes>,
    /// Without and with fuel.
    codes: [Slot<Code>; 2],
    /// What the executor made of each.
    prepared: [Slot<dyn Any + Send + Sync>; 2],
    made_in: Process,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.made_in.is_current() {
            return;
        }
        // In a fork, what the executor made still serves the other process: dropping it
        // would end that one's workers.
        for slot in &mut self.prepared {
            let value = slot.value.get_mut();
            std::mem::forget(value.unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

/// Filled once; whoever wants to fill it meanwhile waits. Looking never waits:
/// making takes as long as compiling.
struct Slot<T: ?Sized> {
    value: Mutex<Option<Arc<T>>>,
    making: Mutex<()>,
}

impl<T: ?Sized> Slot<T> {
    fn empty() -> Self {
        Slot {
            value: Mutex::new(None),
            making: Mutex::new(()),
        }
    }

    fn full(value: Arc<T>) -> Self {
        Slot {
            value: Mutex::new(Some(value)),
            making: Mutex::new(()),
        }
    }

    fn get(&self) -> Option<Arc<T>> {
        self.value().clone()
    }

    fn clear(&self) {
        self.value().take();
    }

    fn get_or_try<E>(&self, make: impl FnOnce() -> Result<Arc<T>, E>) -> Result<Arc<T>, E> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let value = make()?;
        *self.value() = Some(value.clone());
        Ok(value)
    }

    fn value(&self) -> MutexGuard<'_, Option<Arc<T>>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Artifact {
    /// The task file's name without directories, or the name it was loaded
    /// under.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What kind of guest it is.
    pub fn shape(&self) -> Shape {
        self.0.shape
    }

    /// BLAKE3 of the task file, in hexadecimal.
    pub fn digest(&self) -> String {
        self.0.digest.to_hex().to_string()
    }

    /// Bytes of the task file.
    pub fn source_len(&self) -> u64 {
        self.0.source_len
    }

    pub(crate) fn runner(&self) -> u64 {
        self.0.runner
    }

    /// It can come to hold regions.
    pub(crate) fn has_regions(&self) -> bool {
        let mut codes = self.0.codes.iter().filter_map(Slot::get);
        codes.any(|code| code.meta.regions)
    }

    /// The executor's own view of it, if made.
    pub(crate) fn prepared(&self, metered: bool) -> Option<Arc<dyn Any + Send + Sync>> {
        self.0.prepared[usize::from(metered)].get()
    }

    /// The executor's own view of it, made at most once.
    pub(crate) fn prepare<E>(
        &self,
        metered: bool,
        make: impl FnOnce() -> Result<Arc<dyn Any + Send + Sync>, E>,
    ) -> Result<Arc<dyn Any + Send + Sync>, E> {
        self.0.prepared[usize::from(metered)].get_or_try(make)
    }
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifact")
            .field("name", &self.0.name)
            .field("shape", &self.0.shape)
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}

/// Loads and compiles for one runner.
pub(crate) struct Loader {
    runner: u64,
    cache: Option<Cache>,
    max_module_size: u64,
    /// What `load` compiles for.
    metered: bool,
    /// How long to wait for somebody else who compiles the same.
    patience: Duration,
    compiler: Box<dyn Compiler>,
    closed: AtomicBool,
    makings: Makings,
}

impl Loader {
    pub(crate) fn new(config: &Config, compiler: Box<dyn Compiler>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Loader {
            runner: NEXT.fetch_add(1, Ordering::Relaxed),
            cache: Cache::open(&config.cache),
            max_module_size: config.max_module_size,
            metered: config.metered,
            patience: config.compile_timeout,
            compiler,
            closed: AtomicBool::new(false),
            makings: Makings::default(),
        }
    }

    /// Compiles nothing more; what is being compiled elsewhere is given up.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.compiler.close();
    }

    pub(crate) fn runner(&self) -> u64 {
        self.runner
    }

    /// Loads a file; compiled artifacts only when they are trusted.
    pub(crate) fn load_file(&self, path: &Path, trusted: bool) -> Result<Artifact, LoadError> {
        let bytes = read(path, self.max_module_size)?;
        let name = path.file_name().map_or_else(
            || path.as_os_str().to_string_lossy(),
            |name| name.to_string_lossy(),
        );
        self.load(&name, bytes, trusted)
    }

    /// Loads bytes under a name.
    pub(crate) fn load(
        &self,
        name: &str,
        bytes: Bytes,
        trusted: bool,
    ) -> Result<Artifact, LoadError> {
        if bytes.len() as u64 > self.max_module_size {
            return Err(LoadError::TooBig {
                limit: self.max_module_size,
            });
        }
        if code::is_artifact(&bytes) {
            if !trusted {
                return Err(LoadError::Precompiled);
            }
            return self.load_compiled(name, &bytes);
        }
        let digest = blake3::hash(&bytes);
        // A cached entry was checked when it was made; its shape is in it. Code of
        // the other kind than is wanted now says at least what the task is.
        let cached = [self.metered, !self.metered]
            .into_iter()
            .find_map(|metered| self.cached(&digest, metered));
        let code = match cached {
            Some(code) => Arc::new(code),
            None => self.compile_once(&bytes, &digest, self.metered)?,
        };
        let (shape, metered) = (code.meta.shape, code.meta.metered);
        let mut codes = [Slot::empty(), Slot::empty()];
        codes[usize::from(metered)] = Slot::full(code);
        let source_len = bytes.len() as u64;
        Ok(self.artifact(name, shape, digest, source_len, Some(bytes), codes))
    }

    fn load_compiled(&self, name: &str, bytes: &[u8]) -> Result<Artifact, LoadError> {
        let code = Code::from_bytes(bytes).map_err(LoadError::Artifact)?;
        let digest = blake3::Hash::from_hex(&code.meta.source)
            .map_err(|_| LoadError::Artifact(CodeError::Damaged("its description")))?;
        let (shape, source_len) = (code.meta.shape, code.meta.source_len);
        let metered = code.meta.metered;
        let mut codes = [Slot::empty(), Slot::empty()];
        codes[usize::from(metered)] = Slot::full(Arc::new(code));
        Ok(self.artifact(name, shape, digest, source_len, None, codes))
    }

    fn artifact(
        &self,
        name: &str,
        shape: Shape,
        digest: blake3::Hash,
        source_len: u64,
        source: Option<Bytes>,
        codes: [Slot<Code>; 2],
    ) -> Artifact {
        Artifact(Arc::new(Loaded {
            runner: self.runner,
            name: name.to_owned(),
            shape,
            digest,
            source_len,
            source,
            codes,
            prepared: [Slot::empty(), Slot::empty()],
            made_in: Process::current(),
        }))
    }

    fn cached(&self, digest: &blake3::Hash, metered: bool) -> Option<Code> {
        let code = self.cache.as_ref()?.get(&Cache::key(digest, metered))?;
        let fits = code.meta.source == *digest.to_hex() && code.meta.metered == metered;
        fits.then_some(code)
    }

    /// The compiled code; compiles when nobody has.
    pub(crate) fn code(&self, artifact: &Artifact, metered: bool) -> Result<Arc<Code>, LoadError> {
        artifact.0.codes[usize::from(metered)].get_or_try(|| {
            let Some(source) = &artifact.0.source else {
                return Err(LoadError::ArtifactFuel { wanted: metered });
            };
            if let Some(code) = self.cached(&artifact.0.digest, metered) {
                return Ok(Arc::new(code));
            }
            self.compile_once(source, &artifact.0.digest, metered)
        })
    }

    /// Compiles anew, after an engine refused what the cache held (another
    /// machine's code on a shared disk, say).
    pub(crate) fn recompile(
        &self,
        artifact: &Artifact,
        metered: bool,
        refused: CodeError,
    ) -> Result<Arc<Code>, LoadError> {
        if artifact.0.source.is_none() {
            return Err(LoadError::Artifact(refused));
        }
        if let Some(cache) = &self.cache {
            cache.remove(&Cache::key(&artifact.0.digest, metered));
        }
        artifact.0.codes[usize::from(metered)].clear();
        self.code(artifact, metered)
    }

    /// Compiles what the cache does not have, unless another thread or another process does
    /// it right now: then waits for that.
    fn compile_once(
        &self,
        source: &Bytes,
        digest: &blake3::Hash,
        metered: bool,
    ) -> Result<Arc<Code>, LoadError> {
        let key = Cache::key(digest, metered);
        let mut making = match self.makings.begin(&key) {
            Ok(making) => making,
            Err(others) => {
                if let Some(code) = others.wait(self.patience) {
                    return Ok(code);
                }
                // It failed, or takes too long: this one sees for itself.
                return self.compile(source, digest, metered).map(Arc::new);
            }
        };
        let open = || !self.closed.load(Ordering::Relaxed);
        let cache = self.cache.as_ref();
        let _turn = cache.and_then(|cache| cache.turn(&key, self.patience, open));
        let code = match self.cached(digest, metered) {
            Some(code) => code,
            None => self.compile(source, digest, metered)?,
        };
        Ok(making.done(code))
    }

    fn compile(
        &self,
        source: &Bytes,
        digest: &blake3::Hash,
        metered: bool,
    ) -> Result<Code, LoadError> {
        let code = self.compiler.compile(source, digest, metered)?;
        if let Some(cache) = &self.cache {
            cache.put(&Cache::key(digest, metered), &code);
        }
        Ok(code)
    }
}

/// Reads a task file, at most `limit` bytes of it.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Bytes, LoadError> {
    let fail = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if metadata.is_dir() {
        return Err(LoadError::IsDirectory {
            path: path.to_owned(),
        });
    }
    if metadata.len() > limit {
        return Err(LoadError::TooBig { limit });
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(usize::try_from(metadata.len()).unwrap_or_default())
        .map_err(|_| fail(io::ErrorKind::OutOfMemory.into()))?;
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > limit {
        return Err(LoadError::TooBig { limit });
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cache as CacheConfig;
    use crate::sandbox::InProcess;
    use std::sync::atomic::AtomicUsize;

    const TASK: &[u8] = br#"(module (func (export "_start")))"#;

    /// Counts what it compiles, and takes its time.
    struct Counting(Arc<AtomicUsize>, InProcess);

    impl Compiler for Counting {
        fn compile(
            &self,
            source: &Bytes,
            digest: &blake3::Hash,
            metered: bool,
        ) -> Result<Code, LoadError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(200));
            self.1.compile(source, digest, metered)
        }
    }

    fn loader(cache: CacheConfig, compiled: &Arc<AtomicUsize>) -> Loader {
        Loader {
            runner: 1,
            cache: Cache::open(&cache),
            max_module_size: 1 << 20,
            metered: false,
            patience: Duration::from_secs(600),
            compiler: Box::new(Counting(compiled.clone(), InProcess::default())),
            closed: AtomicBool::new(false),
            makings: Makings::default(),
        }
    }

    #[test]
    fn many_that_load_the_same_compile_once() {
        let directory = tempfile::tempdir().expect("tempdir");
        let compiled = Arc::new(AtomicUsize::new(0));
        // Locks are those of open files: two loaders are as two processes.
        let cache = || CacheConfig::Directory(directory.path().into());
        let loaders = [loader(cache(), &compiled), loader(cache(), &compiled)];
        std::thread::scope(|scope| {
            for at in 0..8 {
                let loader = &loaders[at % 2];
                scope.spawn(move || loader.load("t", TASK.into(), false).expect("loads"));
            }
        });
        assert_eq!(compiled.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn without_a_cache_those_who_wait_share() {
        let compiled = Arc::new(AtomicUsize::new(0));
        let loader = loader(CacheConfig::Off, &compiled);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| loader.load("t", TASK.into(), false).expect("loads"));
            }
        });
        // Whoever comes late finds nothing.
        let concurrent = compiled.load(Ordering::SeqCst);
        assert!((1..8).contains(&concurrent), "{concurrent}");
        loader.load("t", TASK.into(), false).expect("loads");
        assert_eq!(compiled.load(Ordering::SeqCst), concurrent + 1);
    }

    #[test]
    fn a_task_that_is_none_holds_nobody_up() {
        let compiled = Arc::new(AtomicUsize::new(0));
        let loader = loader(CacheConfig::Off, &compiled);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loader
                        .load("t", b"none".as_slice().into(), false)
                        .expect_err("no")
                });
            }
        });
    }
}
