//! A loaded task file: its code, compiled with and without fuel when first needed.
//!
//! Invariant: each kind of code is compiled at most once for an artifact, and prepared at
//! most once by the executor; checking whether it exists never waits.

use super::code::Code;
use super::source::Shape;
use crate::executor::Runnable;
use bytes::Bytes;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use wrun_sys::Process;
use wrun_sys::Unpoisoned;
use wrun_types::spec::Spec;

/// A task file that was loaded: recognised, checked, compiled. Cheap to clone; belongs to
/// the runner that loaded it.
#[derive(Clone)]
pub struct Artifact(pub(super) Arc<Loaded>);

pub(super) struct Loaded {
    pub(super) runner: u64,
    /// The settings of a task that changes none, with the name.
    pub(super) spec: Arc<Spec>,
    pub(super) shape: Shape,
    pub(super) digest: blake3::Hash,
    pub(super) source_len: u64,
    /// The task file; `None` if it came compiled.
    pub(super) source: Option<Bytes>,
    /// Without and with fuel.
    pub(super) codes: [Slot<Code>; 2],
    /// What the executor prepared from each.
    pub(super) prepared: [Preparing; 2],
    pub(super) made_in: Process,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.made_in.is_current() {
            return;
        }
        // In a fork, the executor's part still serves the other process: dropping it would end
        // that process's workers.
        for preparing in &mut self.prepared {
            std::mem::forget(preparing.ready.take());
        }
    }
}

/// How a task file was compiled, if a runner compiled it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compiled {
    /// How long that took, including the wait for a processor.
    pub time: Duration,
    /// Why the code was not stored, if there is a [`Cache`](wrun_types::config::Cache) for
    /// it: each runner compiles it again.
    pub not_kept: Option<String>,
}

impl Compiled {
    /// A compilation that took less time is not reported.
    pub const NOTICEABLE: Duration = Duration::from_millis(100);

    /// The beginning of [`Compiled::note`].
    #[doc(hidden)]
    pub const NOT_KEPT: &str = "the compiled code is not cached";

    /// A note for people, if there is one.
    #[doc(hidden)]
    pub fn note(&self) -> Option<String> {
        let why = self.not_kept.as_ref()?;
        (self.time > Compiled::NOTICEABLE).then(|| format!("{}: {why}", Compiled::NOT_KEPT))
    }
}

/// What the executor prepares, at most once. Each task looks at it, on any processor: that changes
/// nothing in memory.
#[derive(Default)]
pub(super) struct Preparing {
    ready: OnceLock<Ready>,
    making: Mutex<()>,
}

struct Ready {
    runnable: Arc<dyn Runnable>,
    /// See [`Artifact::made`], as long as the code is not cleared again.
    compiled: Option<Compiled>,
    clears: u64,
}

/// Filled once; another caller that wants to fill it meanwhile waits. Reading never waits:
/// filling takes as long as compiling.
pub(super) struct Slot<T> {
    value: Mutex<Option<Arc<T>>>,
    making: Mutex<()>,
    /// How often it was cleared.
    clears: AtomicU64,
}

impl<T> Slot<T> {
    pub(super) fn empty() -> Self {
        Slot {
            value: Mutex::new(None),
            making: Mutex::new(()),
            clears: AtomicU64::new(0),
        }
    }

    pub(super) fn full(value: Arc<T>) -> Self {
        Slot {
            value: Mutex::new(Some(value)),
            making: Mutex::new(()),
            clears: AtomicU64::new(0),
        }
    }

    pub(super) fn get(&self) -> Option<Arc<T>> {
        self.value().clone()
    }

    pub(super) fn clear(&self) {
        self.value().take();
        self.clears.fetch_add(1, Ordering::Release);
    }

    pub(super) fn get_or_try<E>(
        &self,
        make: impl FnOnce() -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        let _making = self.making.lock().unpoisoned();
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let value = make()?;
        *self.value() = Some(value.clone());
        Ok(value)
    }

    fn value(&self) -> MutexGuard<'_, Option<Arc<T>>> {
        self.value.lock().unpoisoned()
    }
}

impl Artifact {
    /// The task file's name without directories, or the name it was loaded
    /// under.
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// The settings of a task that changes none.
    #[doc(hidden)]
    pub fn spec(&self) -> &Arc<Spec> {
        &self.0.spec
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

    /// How its code was compiled, if this runner compiled it; `None` if the code came from
    /// the cache, or was loaded compiled.
    pub fn compiled(&self) -> Option<Compiled> {
        [false, true].into_iter().find_map(|it| self.made(it))
    }

    /// [`Artifact::compiled`] for one kind of code.
    #[doc(hidden)]
    pub fn made(&self, metered: bool) -> Option<Compiled> {
        let code = &self.0.codes[usize::from(metered)];
        match self.0.prepared[usize::from(metered)].ready.get() {
            Some(ready) if ready.clears == code.clears.load(Ordering::Acquire) => {
                ready.compiled.clone()
            }
            _ => code.get()?.made.clone(),
        }
    }

    /// Whether it was loaded as an artifact of `wrun compile`.
    #[doc(hidden)]
    pub fn is_precompiled(&self) -> bool {
        self.0.source.is_none()
    }

    #[doc(hidden)]
    pub fn runner(&self) -> u64 {
        self.0.runner
    }

    /// Whether it can come to hold regions.
    #[doc(hidden)]
    pub fn has_regions(&self) -> bool {
        let mut codes = self.0.codes.iter().filter_map(Slot::get);
        codes.any(|code| code.meta.regions)
    }

    /// Its runnable, if it is ready.
    #[doc(hidden)]
    pub fn prepared(&self, metered: bool) -> Option<&Arc<dyn Runnable>> {
        let ready = self.0.prepared[usize::from(metered)].ready.get()?;
        Some(&ready.runnable)
    }

    /// Its runnable, made at most once.
    #[doc(hidden)]
    pub fn prepare<E>(
        &self,
        metered: bool,
        make: impl FnOnce() -> Result<Arc<dyn Runnable>, E>,
    ) -> Result<Arc<dyn Runnable>, E> {
        let preparing = &self.0.prepared[usize::from(metered)];
        let _making = preparing.making.lock().unpoisoned();
        if let Some(ready) = preparing.ready.get() {
            return Ok(ready.runnable.clone());
        }
        let runnable = make()?;
        let ready = Ready {
            runnable: runnable.clone(),
            clears: self.0.codes[usize::from(metered)]
                .clears
                .load(Ordering::Acquire),
            compiled: self.made(metered),
        };
        preparing.ready.get_or_init(|| ready);
        Ok(runnable)
    }
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifact")
            .field("name", &self.0.spec.name)
            .field("shape", &self.0.shape)
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}
