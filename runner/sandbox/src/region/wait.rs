//! Waiting at a word of a shared region until it is notified.
//!
//! Two ways, depending on who can hold the region. If all holders are in this process, a
//! waiter is in a list and blocks no thread. If holders can be other processes, the kernel
//! keeps the waiters (futex), and the wait is in short slices, so that other work of this
//! thread has its turn.
//!
//! Between two slices a waiter is in no list: it misses a notification then, and sees the
//! changed value instead. So, as with every futex: change the value first.

use super::{Region, RegionError};
use rustix::io::Errno;
use rustix::thread::futex;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a thread waits in the kernel before it checks for other work.
const SLICE: Duration = Duration::from_millis(2);

/// How often a thread that waits for a future checks whether the future still exists.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How waiting at a word of a [`Region`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// It was notified; or the value changed meanwhile.
    Woken,
    /// The value was not the expected one.
    NotEqual,
    /// The time was up.
    TimedOut,
}

impl Region {
    /// Blocks while the `u32` at `offset` of a shared region is `expected`, until
    /// [`Region::notify`], or until `time` is over. Change the value before you notify:
    /// a notification alone can be missed.
    ///
    /// # Errors
    ///
    /// As [`Region::load_u32`].
    pub fn blocking_wait(
        &self,
        offset: u64,
        expected: u32,
        time: Option<Duration>,
    ) -> Result<Waited, RegionError> {
        // `None` if the clock cannot represent it, which means never.
        let until = time.and_then(|time| Instant::now().checked_add(time));
        // Checked whenever the wait is polled, which is at that time at the latest.
        let over = std::future::poll_fn(|_| match until {
            Some(until) if until <= Instant::now() => Poll::Ready(()),
            _ => Poll::Pending,
        });
        let mut waiting = std::pin::pin!(self.wait_or(offset, expected, until, over));
        loop {
            if let Some(waited) = crate::blocking::wait(waiting.as_mut(), until) {
                return waited;
            }
        }
    }

    /// [`Region::blocking_wait`] for asynchronous code, with any executor or none. It has
    /// no timeout: dropping the future ends the wait.
    ///
    /// In process mode, where the kernel keeps the waiters, each wait has a thread, which
    /// ends with it, or a few milliseconds after the future was dropped.
    ///
    /// # Errors
    ///
    /// As [`Region::load_u32`]; [`RegionError::System`] if a thread cannot be started.
    pub async fn wait(&self, offset: u64, expected: u32) -> Result<Waited, RegionError> {
        if !self.is_elsewhere() {
            let never = std::future::pending();
            return self.wait_in_list(offset, expected, never).await;
        }
        let (word, _) = self.word_to_wait_at(offset)?;
        if word.load(SeqCst) != expected {
            return Ok(Waited::NotEqual);
        }
        let region = self.duplicate()?;
        let (tell, told) = oneshot::channel();
        let waiting = move || {
            loop {
                match region.blocking_wait(offset, expected, Some(LOOK_EVERY)) {
                    Ok(Waited::TimedOut) if tell.is_closed() => return,
                    Ok(Waited::TimedOut) => {}
                    // It was equal when the wait began.
                    Ok(Waited::NotEqual) => break drop(tell.send(Ok(Waited::Woken))),
                    waited => break drop(tell.send(waited)),
                }
            }
        };
        let system = |error| RegionError::System {
            what: "cannot start a thread to wait",
            error,
        };
        std::thread::Builder::new()
            .name("wrun-wait".to_owned())
            .spawn(waiting)
            .map_err(system)?;
        told.await
            .unwrap_or_else(|_| Err(system(std::io::ErrorKind::Interrupted.into())))
    }

    /// Waits while the word at `offset` is `expected`, until it is notified, or until a
    /// time. Needs the context of a tokio runtime.
    pub async fn wait_until(
        &self,
        offset: u64,
        expected: u32,
        until: Option<Instant>,
    ) -> Result<Waited, RegionError> {
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        self.wait_or(offset, expected, until, over).await
    }

    async fn wait_or(
        &self,
        offset: u64,
        expected: u32,
        until: Option<Instant>,
        over: impl Future<Output = ()>,
    ) -> Result<Waited, RegionError> {
        if self.is_elsewhere() {
            self.wait_in_kernel(offset, expected, until).await
        } else {
            self.wait_in_list(offset, expected, over).await
        }
    }

    /// Wakes up to `count` waiters at `offset`; returns how many.
    ///
    /// # Errors
    ///
    /// As [`Region::load_u32`].
    pub fn notify(&self, offset: u64, count: u32) -> Result<u32, RegionError> {
        let (word, at) = self.word_to_wait_at(offset)?;
        if self.is_elsewhere() {
            // The kernel reads it as a signed number.
            let count = count.min(i32::MAX as u32);
            // With 0, it wakes one.
            if count == 0 {
                return Ok(0);
            }
            let woken = futex::wake(word, futex::Flags::empty(), count)
                .map_err(super::system("cannot wake waiters"))?;
            return Ok(u32::try_from(woken).unwrap_or(count));
        }
        Ok(self.file.waiters.notify(at, count))
    }

    /// The word at `offset`, and its position in the file.
    fn word_to_wait_at(&self, offset: u64) -> Result<(&AtomicU32, usize), RegionError> {
        let (words, at) = self.word(offset, size_of::<u32>())?;
        let word = words.u32(at).ok_or(RegionError::OutOfBounds)?;
        Ok((word, at))
    }

    async fn wait_in_list(
        &self,
        offset: u64,
        expected: u32,
        over: impl Future<Output = ()>,
    ) -> Result<Waited, RegionError> {
        let (word, at) = self.word_to_wait_at(offset)?;
        let still = || word.load(SeqCst) == expected;
        let Some(standing) = self.file.waiters.stand(at, still) else {
            return Ok(Waited::NotEqual);
        };
        let timed_out = tokio::select! {
            biased;
            () = standing.woken() => false,
            () = over => true,
        };
        // A waiter that was removed from the list was woken, if late.
        if timed_out && standing.leave() {
            return Ok(Waited::TimedOut);
        }
        Ok(Waited::Woken)
    }

    async fn wait_in_kernel(
        &self,
        offset: u64,
        expected: u32,
        until: Option<Instant>,
    ) -> Result<Waited, RegionError> {
        let (word, _) = self.word_to_wait_at(offset)?;
        let mut waited = false;
        loop {
            if word.load(SeqCst) != expected {
                return Ok(if waited {
                    Waited::Woken
                } else {
                    Waited::NotEqual
                });
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(Waited::TimedOut);
            }
            let slice = left.map_or(SLICE, |left| left.min(SLICE));
            let slice = rustix::fs::Timespec::try_from(slice).ok();
            match futex::wait(word, futex::Flags::empty(), expected, slice.as_ref()) {
                Ok(()) => return Ok(Waited::Woken),
                // The loop checks the value.
                Err(Errno::AGAIN | Errno::TIMEDOUT | Errno::INTR) => {}
                Err(errno) => return Err(super::system("cannot wait")(errno)),
            }
            waited = true;
            tokio::task::yield_now().await;
        }
    }
}
