//! From a task file to an [`Artifact`]: read with a cap, recognised, checked,
//! compiled once or taken from the cache.

use super::artifact::{Artifact, Compiled, Loaded, Slot};
use super::cache::Cache;
use super::code::{self, Code, CodeError};
use super::compile::Compiler;
use super::engine::Checks;
use super::load_error::LoadError;
use super::makings::Makings;
use super::pair;
use super::source::Shape;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use wrun_sys::Process;
use wrun_types::compile_budget::CompileBudget;
use wrun_types::config::{Config, Mode, Preemption};
use wrun_types::error::Error;
use wrun_types::spec::Spec;

/// Loads and compiles for one runner.
pub struct Loader {
    runner: u64,
    cache: Option<Cache>,
    /// Why there is no cache although one was configured.
    no_cache: Option<String>,
    max_module_size: u64,
    /// Whether `load` compiles with fuel counted.
    metered: bool,
    /// Whether tasks share threads, and their code must check the epoch.
    epochs: bool,
    /// Also limits the wait for another caller that compiles the same task.
    budget: CompileBudget,
    compiler: Box<dyn Compiler>,
    closed: AtomicBool,
    makings: Makings,
}

impl Loader {
    pub fn new(config: &Config, compiler: Box<dyn Compiler>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (cache, no_cache) = match Cache::open(&config.cache) {
            Ok(cache) => (cache, None),
            Err(why) => (None, Some(why)),
        };
        Loader {
            runner: NEXT.fetch_add(1, Ordering::Relaxed),
            cache,
            no_cache,
            max_module_size: config.max_module_size,
            metered: config.metered,
            epochs: config.code_for == Mode::Thread && config.preemption == Preemption::Epoch,
            budget: config.compile_budget,
            compiler,
            closed: AtomicBool::new(false),
            makings: Makings::default(),
        }
    }

    /// Compiles nothing more, and abandons running compilations.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.compiler.close();
    }

    /// How many task files are being compiled, including those whose compilation by others
    /// is waited for.
    pub fn compiling(&self) -> usize {
        self.makings.count()
    }

    pub fn runner(&self) -> u64 {
        self.runner
    }

    /// Loads a file; compiled artifacts only if they are trusted.
    pub fn load_file(&self, path: &Path, trusted: bool) -> Result<Artifact, Error> {
        let failed = |error: LoadError| error.of_file(path);
        let bytes = read(path, self.max_module_size).map_err(failed)?;
        let name = path.file_name().map_or_else(
            || path.as_os_str().to_string_lossy(),
            |name| name.to_string_lossy(),
        );
        self.load(&name, bytes, trusted).map_err(failed)
    }

    /// Loads bytes under a name.
    pub fn load(&self, name: &str, bytes: Bytes, trusted: bool) -> Result<Artifact, LoadError> {
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
        // A cached entry was checked when it was made, and contains its shape. Code of the kind
        // that is not wanted now still states the shape of the task.
        let cached = [self.metered, !self.metered]
            .into_iter()
            .find_map(|metered| self.cached(&digest, self.checks(metered)));
        let code = match cached {
            Some(code) => Arc::new(code),
            None => self.compile_once(&bytes, &digest, self.checks(self.metered))?,
        };
        let (shape, metered) = (code.meta.shape, code.meta.checks.metered);
        let mut codes = [Slot::empty(), Slot::empty()];
        codes[usize::from(metered)] = Slot::full(code);
        let source_len = bytes.len() as u64;
        Ok(self.artifact(name, shape, digest, source_len, Some(bytes), codes))
    }

    fn load_compiled(&self, name: &str, bytes: &[u8]) -> Result<Artifact, LoadError> {
        let part = pair::part(bytes, self.epochs).map_err(LoadError::Artifact)?;
        let code = Code::from_bytes(part).map_err(LoadError::Artifact)?;
        let digest = blake3::Hash::from_hex(&code.meta.source)
            .map_err(|_| LoadError::Artifact(CodeError::Damaged("its description")))?;
        let (shape, source_len) = (code.meta.shape, code.meta.source_len);
        let Checks { metered, epochs } = code.meta.checks;
        // A process of its own can run code that could share a thread, if slower.
        if self.epochs && !epochs {
            return Err(LoadError::ArtifactMode);
        }
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
            spec: Arc::new(Spec::new(name)),
            shape,
            digest,
            source_len,
            source,
            codes,
            prepared: Default::default(),
            made_in: Process::current(),
        }))
    }

    fn checks(&self, metered: bool) -> Checks {
        Checks {
            metered,
            epochs: self.epochs,
        }
    }

    fn cached(&self, digest: &blake3::Hash, checks: Checks) -> Option<Code> {
        let code = self.cache.as_ref()?.get(&Cache::key(digest, checks))?;
        let fits = code.meta.source == *digest.to_hex() && code.meta.checks == checks;
        fits.then_some(code)
    }

    /// The compiled code for a runner of that mode; compiles if it does not exist yet.
    pub fn code_for(
        &self,
        mode: Mode,
        artifact: &Artifact,
        metered: bool,
    ) -> Result<Arc<Code>, LoadError> {
        let checks = Checks {
            metered,
            epochs: mode == Mode::Thread,
        };
        if checks == self.checks(metered) {
            return self.code(artifact, metered);
        }
        let Some(source) = &artifact.0.source else {
            return Err(LoadError::ArtifactMode);
        };
        let digest = &artifact.0.digest;
        match self.cached(digest, checks) {
            Some(code) => Ok(Arc::new(code)),
            None => self.compile_once(source, digest, checks),
        }
    }

    /// The compiled code; compiles if it does not exist yet.
    pub fn code(&self, artifact: &Artifact, metered: bool) -> Result<Arc<Code>, LoadError> {
        artifact.0.codes[usize::from(metered)].get_or_try(|| {
            let Some(source) = &artifact.0.source else {
                return Err(LoadError::ArtifactFuel { wanted: metered });
            };
            let (digest, checks) = (&artifact.0.digest, self.checks(metered));
            if let Some(code) = self.cached(digest, checks) {
                return Ok(Arc::new(code));
            }
            self.compile_once(source, digest, checks)
        })
    }

    /// Compiles again, after an engine refused the code in the cache (another machine's
    /// code on a shared disk, for example).
    pub fn recompile(
        &self,
        artifact: &Artifact,
        metered: bool,
        refused: CodeError,
    ) -> Result<Arc<Code>, LoadError> {
        if artifact.0.source.is_none() {
            return Err(LoadError::Artifact(refused));
        }
        if let Some(cache) = &self.cache {
            cache.remove(&Cache::key(&artifact.0.digest, self.checks(metered)));
        }
        artifact.0.codes[usize::from(metered)].clear();
        self.code(artifact, metered)
    }

    /// Compiles code that the cache does not have, unless another thread or process is
    /// doing so now: then waits for that.
    fn compile_once(
        &self,
        source: &Bytes,
        digest: &blake3::Hash,
        checks: Checks,
    ) -> Result<Arc<Code>, LoadError> {
        let key = Cache::key(digest, checks);
        let patience = self.budget.time(source.len() as u64);
        let mut making = match self.makings.begin(&key) {
            Ok(making) => making,
            Err(others) => {
                if let Some(code) = others.wait(patience) {
                    return Ok(code);
                }
                // It failed, or takes too long: compile here.
                return self.compile(source, digest, checks).map(Arc::new);
            }
        };
        let open = || !self.closed.load(Ordering::Relaxed);
        let cache = self.cache.as_ref();
        let _turn = cache.and_then(|cache| cache.turn(&key, patience, open));
        let code = match self.cached(digest, checks) {
            Some(code) => code,
            None => self.compile(source, digest, checks)?,
        };
        Ok(making.done(code))
    }

    fn compile(
        &self,
        source: &Bytes,
        digest: &blake3::Hash,
        checks: Checks,
    ) -> Result<Code, LoadError> {
        let began = Instant::now();
        let mut code = self.compiler.compile(source, digest, checks)?;
        let time = began.elapsed();
        let kept = self.cache.as_ref().map_or(Ok(()), |cache| {
            cache.put(&Cache::key(digest, checks), &code)
        });
        let not_kept = self.no_cache.clone().or(kept.err());
        code.made = Some(Compiled { time, not_kept });
        Ok(code)
    }
}

/// Reads a task file, at most `limit` bytes of it.
pub fn read(path: &Path, limit: u64) -> Result<Bytes, LoadError> {
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
    use crate::InProcess;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;
    use wrun_types::config::Cache as CacheConfig;

    const TASK: &[u8] = br#"(module (func (export "_start")))"#;

    /// Counts its compilations, and delays them.
    struct Counting(Arc<AtomicUsize>, InProcess);

    impl Compiler for Counting {
        fn compile(
            &self,
            source: &Bytes,
            digest: &blake3::Hash,
            checks: Checks,
        ) -> Result<Code, LoadError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(200));
            self.1.compile(source, digest, checks)
        }
    }

    fn loader(cache: CacheConfig, compiled: &Arc<AtomicUsize>) -> Loader {
        Loader {
            runner: 1,
            cache: Cache::open(&cache).expect("opens"),
            no_cache: None,
            max_module_size: 1 << 20,
            metered: false,
            epochs: true,
            budget: CompileBudget::default(),
            compiler: Box::new(Counting(
                compiled.clone(),
                InProcess::new(CompileBudget::default()),
            )),
            closed: AtomicBool::new(false),
            makings: Makings::default(),
        }
    }

    #[test]
    fn many_that_load_the_same_compile_once() {
        let directory = tempfile::tempdir().expect("tempdir");
        let compiled = Arc::new(AtomicUsize::new(0));
        // The locks belong to open files: two loaders behave like two processes.
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
        // A loader that comes late need not compile.
        let concurrent = compiled.load(Ordering::SeqCst);
        assert!((1..8).contains(&concurrent), "{concurrent}");
        let artifact = loader.load("t", TASK.into(), false).expect("loads");
        assert_eq!(compiled.load(Ordering::SeqCst), concurrent + 1);
        assert_eq!(loader.compiling(), 0);
        let how = artifact.compiled().expect("it was compiled");
        assert!(how.time >= Duration::from_millis(200), "{how:?}");
        // No cache was configured.
        assert_eq!(how.note(), None);
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
