//! Compiling in this process, on a separate thread, and on more if the system allows them.
//!
//! A compilation cannot be interrupted. When its time is up, the caller is told so, and it
//! continues to its end without a use. Invariant: as many run at a time as there are
//! processors, including abandoned ones.

use super::code::Code;
use super::compile::{self, Compiler, SMALL};
use super::engine::{self, Checks, EngineError, Kind};
use super::load_error::LoadError;
use bytes::Bytes;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;
use wasmtime::Engine;
use wrun_sys::Unpoisoned;
use wrun_sys::{self, shortage};
use wrun_types::compile_budget::CompileBudget;

/// The stack of a thread that compiles: as large as that of the first thread of a compiler
/// process.
const STACK: usize = 8 << 20;

/// See the [module](self).
pub struct InProcess {
    engines: Arc<Engines>,
    budget: CompileBudget,
    permits: Arc<ThreadPermits>,
}

#[derive(Default)]
struct Engines([OnceLock<Engine>; 2 * Kind::COUNT]);

impl Engines {
    fn get(&self, kind: Kind, parallel: bool) -> Result<&Engine, EngineError> {
        let slot = &self.0[kind.index() + Kind::COUNT * usize::from(parallel)];
        match slot.get() {
            Some(engine) => Ok(engine),
            None => {
                let engine = engine::compiler(kind, parallel)?;
                Ok(slot.get_or_init(|| engine))
            }
        }
    }
}

/// Permits for compilations.
struct ThreadPermits {
    free: Mutex<usize>,
    changed: Condvar,
}

impl ThreadPermits {
    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unpoisoned()
    }

    /// One of the permits; `None` if none became available in time.
    fn take(self: &Arc<Self>, patience: Duration) -> Option<ThreadPermit> {
        let taken = |free: &mut usize| *free == 0;
        let (mut free, _) = self
            .changed
            .wait_timeout_while(self.free(), patience, taken)
            .unpoisoned();
        *free = free.checked_sub(1)?;
        Some(ThreadPermit(self.clone()))
    }
}

/// One permit; returned when dropped.
struct ThreadPermit(Arc<ThreadPermits>);

impl Drop for ThreadPermit {
    fn drop(&mut self) {
        *self.0.free() += 1;
        self.0.changed.notify_one();
    }
}

/// One compilation.
struct Work {
    engines: Arc<Engines>,
    source: Bytes,
    digest: blake3::Hash,
    checks: Checks,
    _permit: ThreadPermit,
}

impl Work {
    fn run(&self) -> Result<Code, LoadError> {
        let Work { source, digest, .. } = self;
        let pool = threads(source);
        let engine = |kind| self.engines.get(kind, pool.is_some()).cloned();
        let compile = || compile::with(engine, (&**source).into(), digest, self.checks);
        let (elf, meta) = match &pool {
            Some(pool) => pool.install(compile)?,
            None => compile()?,
        };
        Code::new(&elf, &meta).map_err(|source| LoadError::System { source })
    }
}

/// Threads to compile on; `None` if none are available. Not those of rayon's global pool:
/// if that cannot start, every later use of it in the program panics.
fn threads(source: &[u8]) -> Option<ThreadPool> {
    if source.len() <= SMALL {
        return None;
    }
    let count = processors();
    if shortage::room_for_threads(count, 0).ok() != Some(count) {
        return None;
    }
    let named = |number| format!("wrun-compile-{number}");
    let pool = ThreadPoolBuilder::new()
        .num_threads(count)
        .thread_name(named);
    pool.build().ok().filter(|_| count > 1)
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

impl InProcess {
    pub fn new(budget: CompileBudget) -> Self {
        InProcess {
            engines: Arc::default(),
            budget,
            permits: Arc::new(ThreadPermits {
                free: Mutex::new(processors()),
                changed: Condvar::new(),
            }),
        }
    }
}

impl Compiler for InProcess {
    fn compile(
        &self,
        source: &Bytes,
        digest: &blake3::Hash,
        checks: Checks,
    ) -> Result<Code, LoadError> {
        let time = self.budget.time(source.len() as u64);
        let permit = self.permits.take(time);
        let work = Arc::new(Work {
            engines: self.engines.clone(),
            source: source.clone(),
            digest: *digest,
            checks,
            _permit: permit.ok_or(LoadError::CompilersBusy { waited: time })?,
        });
        let (done, result) = sync_channel(1);
        let its = work.clone();
        let thread = || {
            wrun_sys::room_for(STACK)?;
            shortage::room_for_threads(1, 0)?;
            let named = thread::Builder::new().name("wrun-compile".into());
            named.stack_size(STACK).spawn(move || {
                let _ = done.send(its.run());
            })
        };
        // Without a new thread, on this one: for as long as it takes.
        let Ok(thread) = thread() else {
            return work.run();
        };
        drop(work);
        match result.recv_timeout(time) {
            Ok(compiled) => compiled,
            Err(RecvTimeoutError::Timeout) => Err(LoadError::CompileTime { limit: time }),
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => unreachable!("it sends before it ends"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Takes much longer to compile than the test waits: a function with many locals that
    /// are live at the head of many loops.
    fn slow() -> Bytes {
        let loops: String = (0..1500)
            .map(|n| {
                let (one, two) = (n % 5000, (n * 7 + 1) % 5000);
                format!("(loop (local.set {two} (local.get {one})) (br_if 0 (local.get {two})))")
            })
            .collect();
        let locals = "i32 ".repeat(5000);
        let text = format!(r#"(module (func (export "_start") (local {locals}) {loops}))"#);
        Bytes::from(wat::parse_str(&text).expect("WebAssembly"))
    }

    fn compile(compiler: &InProcess, source: &Bytes) -> Result<Code, LoadError> {
        let checks = Checks {
            metered: false,
            epochs: true,
        };
        compiler.compile(source, &blake3::hash(source), checks)
    }

    #[test]
    fn the_wait_ends_and_what_goes_on_keeps_its_place() {
        let compiler = InProcess::new(CompileBudget {
            time: Some(Duration::from_millis(20)),
            memory: None,
        });
        let slow = slow();
        let began = Instant::now();
        for _ in 0..processors() {
            let error = compile(&compiler, &slow).expect_err("20 ms");
            assert!(matches!(error, LoadError::CompileTime { .. }), "{error}");
        }
        assert_eq!(*compiler.permits.free(), 0);
        let quick = Bytes::from_static(br#"(module (func (export "_start")))"#);
        let error = compile(&compiler, &quick).expect_err("nobody is free");
        assert!(matches!(error, LoadError::CompilersBusy { .. }), "{error}");
        eprintln!("given up after {:?}", began.elapsed());
        // They end by themselves, and others are compiled.
        while *compiler.permits.free() < processors() {
            thread::sleep(Duration::from_millis(10));
        }
        eprintln!("ended after {:?}", began.elapsed());
        let compiler = InProcess {
            budget: CompileBudget::default(),
            ..compiler
        };
        compile(&compiler, &quick).expect("compiles");
    }
}
