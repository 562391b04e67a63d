//! A program that uses wasmtime as its documentation says: a core module without WASI, a
//! pool, a new instance for each task. It shares no code with the floors of the benchmark
//! `cost` ([`wrun::measure::Bare`]), which run components with WASI as wrun does: this is what
//! a program without wrun would be.

use crate::protocol::Peer;
use anyhow::{Context, ensure};
use std::any::Any;
use std::path::Path;
use std::time::Duration;
use wasmtime::{Config, Engine, Instance, InstancePre, Linker, Module, Store};
use wasmtime::{PoolingAllocationConfig, TypedFunc};

pub(crate) struct Bare {
    engine: Engine,
    pre: InstancePre<()>,
    epochs: bool,
}

/// How often the epoch ticks, and after how many ticks a task is ended.
const TICK: Duration = Duration::from_millis(10);
const TICKS: u64 = 6_000;

impl Bare {
    /// Compiles the module, or loads what an earlier start left in the cache.
    #[expect(unsafe_code, reason = "wasmtime's artifact deserialization")]
    pub(crate) fn new(folder: &Path, epochs: bool) -> anyhow::Result<Self> {
        let mut config = Config::new();
        config
            .epoch_interruption(epochs)
            .allocation_strategy(PoolingAllocationConfig::new());
        let engine = Engine::new(&config)?;
        let cache = std::env::var_os("XDG_CACHE_HOME").context("no cache")?;
        let compiled = Path::new(&cache).join("work.cwasm");
        let module = if compiled.exists() {
            // SAFETY: the benchmark made the folder for this program alone, which wrote
            // the file.
            unsafe { Module::deserialize_file(&engine, &compiled) }?
        } else {
            let module = Module::from_file(&engine, folder.join("work.wasm"))?;
            std::fs::write(&compiled, module.serialize()?)?;
            module
        };
        let pre = Linker::new(&engine).instantiate_pre(&module)?;
        if epochs {
            let engine = engine.weak();
            std::thread::spawn(move || {
                while let Some(engine) = engine.upgrade() {
                    engine.increment_epoch();
                    std::thread::sleep(TICK);
                }
            });
        }
        Ok(Bare {
            engine,
            pre,
            epochs,
        })
    }

    fn instance(&self) -> anyhow::Result<(Store<()>, Instance)> {
        let mut store = Store::new(&self.engine, ());
        if self.epochs {
            store.set_epoch_deadline(TICKS);
        }
        let instance = self.pre.instantiate(&mut store)?;
        Ok((store, instance))
    }
}

impl Peer for Bare {
    fn run(&self, input: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (mut store, instance) = self.instance()?;
        let memory = instance
            .get_memory(&mut store, "memory")
            .context("no memory")?;
        let allocate: TypedFunc<(u32, u32, u32, u32), u32> =
            instance.get_typed_func(&mut store, "cabi_realloc")?;
        let run: TypedFunc<(u32, u32), u32> = instance.get_typed_func(&mut store, "run")?;
        let length = u32::try_from(input.len())?;
        let at = allocate.call(&mut store, (0, 0, 1, length))?;
        memory.write(&mut store, at as usize, input)?;
        let answer = run.call(&mut store, (at, length))? as usize;
        let bytes = memory.data(&store);
        let word = |at: usize| -> anyhow::Result<usize> {
            let word = bytes
                .get(at..at + 4)
                .context("the result is outside of the memory")?;
            Ok(u32::from_le_bytes(word.try_into()?) as usize)
        };
        ensure!(bytes.get(answer) == Some(&0), "the task failed");
        let (at, length) = (word(answer + 4)?, word(answer + 8)?);
        let output = bytes
            .get(at..at + length)
            .context("the output is outside of the memory")?;
        Ok(output.to_vec())
    }

    fn hold(&self, count: usize) -> anyhow::Result<Box<dyn Any>> {
        let held: anyhow::Result<Vec<_>> = (0..count).map(|_| self.instance()).collect();
        Ok(Box::new(held?))
    }
}
