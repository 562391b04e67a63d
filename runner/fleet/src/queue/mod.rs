//! The seam between what a worker decides and what holds the queue: five verbs, *lease*,
//! *extend*, *complete*, *retry* and *bury*.
//!
//! A lease ends by itself after [`Queue::ack_wait`] unless it is extended, and the task is then
//! delivered again. JetStream stands behind the seam; [`MemoryQueue`] does in tests of the
//! worker, with the clock of the runtime.

mod marks;
mod memory;
mod turns;

pub use marks::{Mark, Marks};
pub use memory::MemoryQueue;
pub use turns::Weights;
pub(crate) use turns::{LaneKey, Turns};

use crate::error::Error;
use crate::protocol::{Answer, DeadTask, TaskId, Token};
use bytes::Bytes;
use std::time::Duration;

/// A task that this worker may run until the lease ends.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The message, which is not trusted.
    pub body: Bytes,
    /// Its class.
    pub class: Token,
    /// Its tenant.
    pub tenant: Token,
    /// How often it was delivered, with this time.
    pub deliveries: u64,
    /// How long ago it was submitted, by the clocks of the server and of this machine.
    pub waited: Duration,
    /// What the queue knows it by.
    pub(crate) handle: String,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It is the task's result.
    Won,
    /// The task had a result already, which stays.
    Late,
}

/// What is known of a task that was delivered before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How often workers gave it back. All other deliveries before this one ended with the loss
    /// of a worker, or of its connection.
    pub given_back: u64,
    /// Whether it has a result.
    pub is_answered: bool,
}

/// Holds tasks and leases them to workers. Each call has a deadline of its own, and fails with
/// an error that [`is_retryable`](Error::is_retryable) if the queue cannot be reached.
pub trait Queue: Send + Sync + 'static {
    /// How long a lease lasts.
    fn ack_wait(&self) -> Duration;

    /// **Lease**: waits for tasks, and returns at least one and at most `room`. Never has more
    /// in hand than `room`, those on their way included. Cancel safe: a task on its way is not
    /// lost. One call at a time.
    fn lease(&self, room: usize) -> impl Future<Output = Result<Vec<Lease>, Error>> + Send;

    /// **Extend**: the lease lasts from now on as long as a new one.
    fn extend(&self, lease: &Lease) -> impl Future<Output = Result<(), Error>> + Send;

    /// **Complete**: makes the answer the task's result, unless it has one, and takes the task
    /// out of the queue. Without an answer it only does the latter.
    fn complete(
        &self,
        lease: &Lease,
        answer: Option<&Answer>,
        reply_to: Option<&str>,
    ) -> impl Future<Output = Result<Completion, Error>> + Send;

    /// **Retry**: gives the task back, for this reason, to be delivered again after this time.
    fn retry(
        &self,
        lease: &Lease,
        id: Option<&TaskId>,
        after: Duration,
        why: &str,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// **Bury**: moves the task to the dead, and makes that its result, unless it has one.
    fn bury(
        &self,
        lease: &Lease,
        dead: &DeadTask,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// What is known of a task that was delivered or submitted before.
    fn history(&self, id: &TaskId) -> impl Future<Output = Result<History, Error>> + Send;

    /// Tasks that are to be ended.
    fn marks(&self) -> &Marks;

    /// Gives back what was leased and not returned by [`Queue::lease`], which is not called again.
    fn close(&self) -> impl Future<Output = ()> + Send;
}
