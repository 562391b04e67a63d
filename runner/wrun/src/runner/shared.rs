//! The objects of a runner that its tasks and its host share: channels, regions, broadcast
//! channels and named locks.

use super::Runner;
use crate::handle::must_not_be_async;
use wrun_sandbox::broadcast::Line;
use wrun_sandbox::lock_table::LockMode;
use wrun_sandbox::locks::{Hold, LockGuard, MAX_NAME};
use wrun_sandbox::port::Port;
use wrun_sandbox::region::{Kind as RegionKind, Region, RegionError};
use wrun_types::error::{Error, ErrorKind};

impl Runner {
    /// Two connected [`Port`]s: one for a task ([`Task::port`](crate::Task::port)), one to communicate with
    /// it. Up to `capacity` messages, 1 to [`Port::MAX_CAPACITY`], wait in each direction.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTask`] for another capacity; [`ErrorKind::System`] if no
    /// descriptors are left.
    pub fn channel(&self, capacity: u32) -> Result<(Port, Port), Error> {
        self.core.is_of_this_process()?;
        if !(1..=Port::MAX_CAPACITY).contains(&capacity) {
            return Err(Error::new(
                ErrorKind::InvalidTask,
                format!("a channel has a capacity of 1 to {}", Port::MAX_CAPACITY),
            ));
        }
        let _context = self.handle().enter();
        let transport = self.core.executor.transport();
        transport
            .channel(capacity)
            .map_err(|_| Error::new(ErrorKind::System, "no descriptors are left for a channel"))
    }

    /// A [`Region`] of `len` bytes, all zero, exclusive or shared. Its memory is reserved,
    /// which takes milliseconds for tens of MiB.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfBounds`] if `len` is 0; [`RegionError::WrongKind`] for a frozen
    /// one, which [`Runner::frozen_region`] makes; [`RegionError::Limit`];
    /// [`RegionError::System`] if no memory is left.
    pub fn region(&self, len: u64, kind: RegionKind) -> Result<Region, RegionError> {
        let ledger = self.core.executor.ledger();
        ledger.make(len, kind)?.finish()
    }

    /// A frozen [`Region`] of these bytes: one large input that any number of tasks
    /// read without a copy.
    ///
    /// # Errors
    ///
    /// As [`Runner::region`].
    pub fn frozen_region(&self, bytes: &[u8]) -> Result<Region, RegionError> {
        let mut region = self.region(bytes.len() as u64, RegionKind::Exclusive)?;
        region.write(0, bytes)?;
        region.freeze()?;
        Ok(region)
    }

    /// Current total of bytes in all regions of this runner, those of its tasks and of its
    /// host.
    pub fn region_memory_used(&self) -> u64 {
        self.core.executor.ledger().bytes()
    }

    /// Joins a broadcast channel of this runner, as a task does with `broadcast.open`: all
    /// other members receive what is sent through the port, bytes only. Up to 64 messages
    /// wait for each member; a member without room for the next one is closed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTask`] for an empty name or one of more than 256 bytes;
    /// [`ErrorKind::System`] if the runner's channels have 128 members, or no descriptors
    /// are left.
    pub fn broadcast(&self, name: &str) -> Result<Port, Error> {
        self.core.is_of_this_process()?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::new(
                ErrorKind::InvalidTask,
                "a broadcast channel has a name of 1 to 256 bytes",
            ));
        }
        let _context = self.handle().enter();
        let joined = self
            .core
            .starter
            .shared
            .broadcast
            .join(name, Line::default(), ());
        joined.map_err(|_| Error::new(ErrorKind::System, "there are too many of the channel"))
    }

    /// Acquires a named lock of this runner, as a task does with `locks.request`: waits
    /// until it is available, in the order of the requests of host and tasks. Shared
    /// requests do not pass an exclusive one that waits. Dropping the future withdraws the
    /// request.
    ///
    /// It waits forever if the caller holds the lock already; and tasks that request the
    /// lock wait until the host releases it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTask`] for an empty name or one of more than 256 bytes;
    /// [`ErrorKind::System`] if host and tasks hold or wait for 65,536 locks, or for 4,096
    /// names.
    ///
    /// # Examples
    ///
    /// ```
    /// use wrun::{LockMode, Mode, Runner, Task};
    ///
    /// # fn main() -> Result<(), wrun::Error> {
    /// let runner = Runner::builder().mode(Mode::Thread).build()?;
    /// let commons = runner.blocking_load("../../guest-tasks/commons/commons.wasm")?;
    ///
    /// let guard = runner.blocking_lock("ledger", LockMode::Exclusive)?;
    /// let mut task = runner.blocking_submit(Task::new(&commons).input("take ledger"))?;
    /// assert!(runner.try_lock("ledger", LockMode::Shared)?.is_none());
    /// // The task waits for its turn.
    /// drop(guard);
    /// assert_eq!(task.blocking_report()?.stdout, "taken");
    /// assert!(runner.try_lock("ledger", LockMode::Shared)?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lock(&self, name: &str, mode: LockMode) -> Result<LockGuard, Error> {
        self.core.is_of_this_process()?;
        check_lock(name)?;
        let locks = &self.core.starter.shared.locks;
        let held = locks.request(name, mode, false).await;
        lock_guard(held)?.ok_or_else(too_many_locks)
    }

    /// [`Runner::lock`] for code that is not asynchronous.
    ///
    /// # Errors
    ///
    /// As [`Runner::lock`]; [`ErrorKind::BlockingInAsync`] in asynchronous code.
    pub fn blocking_lock(&self, name: &str, mode: LockMode) -> Result<LockGuard, Error> {
        must_not_be_async("lock")?;
        self.core.is_of_this_process()?;
        self.handle().block_on(self.lock(name, mode))
    }

    /// Acquires a named lock if it is available; `None` if it is not.
    ///
    /// # Errors
    ///
    /// As [`Runner::lock`].
    pub fn try_lock(&self, name: &str, mode: LockMode) -> Result<Option<LockGuard>, Error> {
        self.core.is_of_this_process()?;
        check_lock(name)?;
        let locks = &self.core.starter.shared.locks;
        lock_guard(locks.request_now(name, mode))
    }
}

fn check_lock(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Error::new(
            ErrorKind::InvalidTask,
            "a lock has a name of 1 to 256 bytes",
        ));
    }
    Ok(())
}

fn lock_guard(held: Result<Option<Hold>, ()>) -> Result<Option<LockGuard>, Error> {
    let held = held.map_err(|()| too_many_locks())?;
    Ok(held.map(LockGuard::new))
}

fn too_many_locks() -> Error {
    Error::new(
        ErrorKind::System,
        "the runner has as many locks as it may have",
    )
}
