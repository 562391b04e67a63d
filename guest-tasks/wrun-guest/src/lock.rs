//! Named locks, which all tasks of one runner share.

use crate::bindings::wrun::task::locks::{self, Lock as Handle};

pub use crate::bindings::wrun::task::locks::{LockError, Mode as LockMode};

/// A lock that this task has. Dropping it gives it back, and so does the end of the
/// task, however that ends.
#[derive(Debug)]
#[must_use = "a lock is given back when it is dropped"]
pub struct Lock(#[expect(dead_code, reason = "for its drop")] Handle);

/// Waits until this task has the lock of that name, alone
/// ([`LockMode::Exclusive`]) or with others who share it ([`LockMode::Shared`]). Whoever
/// asks first has it first.
///
/// # Errors
///
/// [`LockError::BadName`] for no bytes or more than 256, [`LockError::Limit`],
/// [`LockError::Cancelled`] where the host asked the task to stop meanwhile.
pub fn lock(name: &str, mode: LockMode) -> Result<Lock, LockError> {
    // None is for those who do not wait; whoever waits has it or an error.
    match locks::request(name, mode, false)? {
        Some(lock) => Ok(Lock(lock)),
        None => Err(LockError::Limit),
    }
}

/// As [`lock`], without waiting: none where it cannot be had at once.
///
/// # Errors
///
/// As for [`lock`].
pub fn try_lock(name: &str, mode: LockMode) -> Result<Option<Lock>, LockError> {
    Ok(locks::request(name, mode, true)?.map(Lock))
}
