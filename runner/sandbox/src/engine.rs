//! Engines: one configuration wherever tasks are compiled or run, so that an artifact made
//! by one engine loads in all of them.

use super::epoch;
use serde::{Deserialize, Serialize};
use wasmtime::{
    Collector, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmFeatures,
};
use wrun_sys::shortage;
use wrun_types::error::{Error, ErrorKind};
use wrun_types::limits::Limits;

/// Stack space for WebAssembly frames. Interpreters compiled to Wasm recurse deeply;
/// wasmtime's own default is 512 KiB.
const MAX_WASM_STACK: usize = 1 << 20;

/// The stack a guest runs on, including host calls. A host call that overflowed it would
/// abort the process, so the rest below the guest must be ample: 2 MiB is Rust's default
/// for a whole thread.
const ASYNC_STACK: usize = MAX_WASM_STACK + (2 << 20);

/// Maximum of mappings for one task of the pool: memory, its image, its guard, a table, a
/// stack (measured with 10,000 waiting tasks).
const MAPPINGS_PER_TASK: usize = 5;

/// Mappings left to the rest of the process.
const MAPPINGS_KEPT: usize = 8_192;

/// How much of the memory that a task wrote a slot of the pool keeps, cleared by copying:
/// freeing pages and faulting them in again costs small tasks more, and each other
/// processor an interrupt. At most half a megabyte per slot.
const KEEP_RESIDENT: usize = 256 << 10;

/// The same where nothing tells which pages a task wrote to, and all of this is cleared: most
/// write to a few pages, behind a stack of which they use little (64 KiB: 2 us; 256 KiB: 16 us, as
/// measured by perf in workers that answered small HTTP requests).
const KEEP_RESIDENT_UNSEEN: usize = 64 << 10;

/// Maximum of address space that wasmtime reserves for one memory: 4 GiB and guards; for a
/// memory with a larger initial size, that size, guards and room to grow.
const RESERVATION: u64 = 5 << 30;

/// Maximum size of one memory of a [wide](Kind::wide) task. Memories never move: moving one
/// copies all of it, in one step that cannot be interrupted. So the address space is
/// reserved from the start, and 128 TiB have room for 2,000 such memories.
pub(super) const WIDE_MEMORY: u64 = 64 << 30;

/// An engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cannot make a WebAssembly engine: {0}")]
    Engine(String),
    #[error("cannot start the epoch clock: {0}")]
    Epoch(#[source] std::io::Error),
    #[error("cannot handle the timer signal: {0}")]
    Ticks(#[source] std::io::Error),
    #[error("cannot handle the signal that preempts: {0}")]
    Interrupts(#[source] std::io::Error),
    #[error("guests cannot be preempted by a signal: {0}")]
    NoSignal(&'static str),
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        shortage::error(ErrorKind::System, error)
    }
}

/// How an engine allocates memory for its sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Each sandbox maps its own: 22 µs rather than 5, but any shape of task.
    OnDemand,
    /// Slots for this many sandboxes, mapped once and reused.
    Pool { slots: usize },
}

/// What compiled code looks at while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Fuel is counted.
    pub metered: bool,
    /// Functions and loops compare the epoch with a deadline, so that a thread can be shared.
    /// A process of its own needs none: its guest is preempted by a signal.
    pub epochs: bool,
}

/// The target of compiled code. An engine runs code of its own kind only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub checks: Checks,
    /// It has a memory that can outgrow 4 GiB.
    pub wide: bool,
}

impl Kind {
    /// The number of kinds.
    pub const COUNT: usize = 8;

    /// A number below [`Kind::COUNT`].
    pub fn index(self) -> usize {
        let Checks { metered, epochs } = self.checks;
        usize::from(metered) + 2 * usize::from(self.wide) + 4 * usize::from(epochs)
    }

    /// Address space that is reserved for one memory at most.
    pub fn reservation(self) -> u64 {
        match self.wide {
            true => WIDE_MEMORY + (1 << 30),
            false => RESERVATION,
        }
    }
}

/// The WebAssembly features that the engines accept: version 3.0, and components. An
/// explicit list, so that a new version of wasmtime does not change which tasks are
/// accepted.
pub(super) const FEATURES: WasmFeatures = WasmFeatures::WASM3
    .union(WasmFeatures::GC_TYPES)
    .union(WasmFeatures::COMPONENT_MODEL);

fn config(kind: Kind) -> Config {
    let mut config = Config::new();
    config
        .wasm_features(FEATURES, true)
        .wasm_features(FEATURES.complement(), false)
        .collector(Collector::Copying);
    if kind.wide {
        config
            .memory_reservation(WIDE_MEMORY)
            // Otherwise as much would be reserved: the collector's references have 32 bits.
            .gc_heap_reservation(4 << 30);
    }
    config
        .epoch_interruption(kind.checks.epochs)
        .consume_fuel(kind.checks.metered)
        .memory_may_move(false)
        .gc_heap_may_move(false)
        .concurrency_support(false)
        .max_wasm_stack(MAX_WASM_STACK)
        .async_stack_size(ASYNC_STACK);
    config
}

/// An engine that compiles and does not run; with `parallel`, on the threads of rayon's
/// global pool.
pub(crate) fn compiler(
    kind: Kind,
    #[cfg_attr(not(feature = "compile"), expect(unused))] parallel: bool,
) -> Result<Engine, EngineError> {
    #[cfg_attr(not(feature = "compile"), expect(unused_mut))]
    let mut config = config(kind);
    #[cfg(feature = "compile")]
    config.parallel_compilation(parallel);
    Engine::new(&config).map_err(|e| EngineError::Engine(format!("{e:#}")))
}

/// The configuration of an engine that runs and does not compile.
fn runs(kind: Kind) -> Config {
    #[cfg_attr(not(feature = "compile"), expect(unused_mut))]
    let mut config = config(kind);
    #[cfg(feature = "compile")]
    config.enable_compiler(false);
    config
}

/// An engine that runs and does not compile, in a process of one thread that forks: it
/// starts no thread, and guests are preempted by a timer signal while [`epoch::Running`]
/// guards exist. Its epoch does not advance.
pub fn single_threaded_runtime(kind: Kind, allocation: Allocation) -> Result<Engine, EngineError> {
    let mut config = runs(kind);
    if let Allocation::Pool { slots } = allocation {
        // In a fork, what the scan looks at would be the memory of its parent.
        config.allocation_strategy(pool(slots, Enabled::No));
    }
    let engine = Engine::new(&config).map_err(|e| EngineError::Engine(format!("{e:#}")))?;
    // The state that a thread sets up when it first runs a guest is then inherited by
    // children.
    Engine::tls_eager_initialize();
    wrun_sys::prepare_ticks().map_err(EngineError::Ticks)?;
    Ok(engine)
}

/// An engine that runs and does not compile. Its epoch ticks while
/// [`epoch::Running`] guards exist.
pub fn runtime(kind: Kind, allocation: Allocation) -> Result<Engine, EngineError> {
    let mut config = runs(kind);
    if let Allocation::Pool { slots } = allocation {
        config.allocation_strategy(pool(slots, Enabled::Auto));
    }
    let engine = Engine::new(&config).map_err(|e| EngineError::Engine(format!("{e:#}")))?;
    epoch::register(&engine).map_err(EngineError::Epoch)?;
    Ok(engine)
}

/// A pool with a slot for each of `slots` tasks; `scan` is how pages that were written to are found.
fn pool(slots: usize, scan: Enabled) -> InstanceAllocationStrategy {
    let slots = u32::try_from(slots).unwrap_or(u32::MAX);
    let keep = match scan {
        Enabled::No => KEEP_RESIDENT_UNSEEN,
        _ => KEEP_RESIDENT,
    };
    let mut pool = PoolingAllocationConfig::new();
    // A component made from one core module is four small core instances with two tables:
    // the module, its adapter, two shims.
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(6))
        // One for the module, one for a heap of the collector.
        .total_memories(slots.saturating_mul(2))
        .total_tables(slots.saturating_mul(3))
        .total_stacks(slots)
        .total_gc_heaps(slots)
        .max_core_instances_per_component(6)
        .max_memories_per_component(1)
        .max_tables_per_component(3)
        .max_memories_per_module(1)
        .max_tables_per_module(1)
        // As much as the limiter allows, so that the limiter refuses and not the pool.
        .table_elements(Limits::MAX_TABLE_ELEMENTS as usize)
        .linear_memory_keep_resident(keep)
        .table_keep_resident(keep)
        .pagemap_scan(scan);
    InstanceAllocationStrategy::Pooling(pool)
}

/// Maximum of tasks that fit this process's mappings at the same time.
pub fn max_pool_slots() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse::<usize>().ok())
        .unwrap_or(65_530);
    (limit.saturating_sub(MAPPINGS_KEPT) / MAPPINGS_PER_TASK).max(1)
}
