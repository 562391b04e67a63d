//! How a check is run.

use bytes::Bytes;
use loom::model::Builder;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Switches of threads that no wait asks for, at most, in what is tried. Nearly all
/// faults that are known need two or fewer. `LOOM_MAX_PREEMPTIONS` says otherwise.
const PREEMPTIONS: usize = 3;

/// Runs a check in every order of its threads, up to [`PREEMPTIONS`].
pub(crate) fn check(work: impl Fn() + Send + Sync + 'static) {
    let orders = Arc::new(AtomicUsize::new(0));
    let count = orders.clone();
    let mut builder = Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(PREEMPTIONS));
    builder.max_branches = 10_000;
    builder.check(move || {
        count.fetch_add(1, Relaxed);
        work();
    });
    let orders = orders.load(Relaxed);
    assert!(orders > 1, "there is only one order");
    println!("{orders} orders");
}

/// Counts the messages that are somewhere.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Arc<AtomicUsize>);

struct Token {
    data: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Token {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Relaxed);
    }
}

impl Tokens {
    /// Bytes that are counted until they are dropped.
    pub(crate) fn bytes(&self, data: &[u8]) -> Bytes {
        self.0.fetch_add(1, Relaxed);
        Bytes::from_owner(Token {
            data: data.to_vec(),
            alive: self.0.clone(),
        })
    }

    pub(crate) fn alive(&self) -> usize {
        self.0.load(Relaxed)
    }
}
