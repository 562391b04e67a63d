//! A runner's regions: how many there are, how many bytes, and whose.
//!
//! Bytes count against the task that had them made, and against the total of the
//! runner, for as long as anybody has the region: another task, its host, a queue.
//! Within a process the last handle gives them back. Where regions go to other
//! processes, nobody's word is taken: the kernel says when the last descriptor and
//! the last mapping of a file are gone, in whichever process (`IN_DELETE_SELF` of
//! inotify, on a file that has no name). The watch keeps no memory alive, and takes
//! no descriptor for a file.
//!
//! Invariant: what was given back is looked for before anything is refused.

use super::{Draft, Kind, RegionError, claim, system};
use rustix::fs::SealFlags;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::process::{Resource, getrlimit};
use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use wrun_sys::Unpoisoned;

/// Regions of a runner at most. The kernel keeps two events of each that is gone
/// until they are read, and 16,384 by default.
const MAX_REGIONS: usize = 4096;
/// Regions at most that were made for one task and exist.
const MAX_MADE: usize = 256;

/// How often a claim looks whether others have let go: who sends drops what it sent a
/// moment after it was received, or later, where other work takes its processor. First
/// again and again, for as long as it takes a sender that its receiver has pushed off its
/// processor to be back, with a turn for others between any two looks; then after pauses,
/// for as long as copying all of it would take.
const AT_ONCE: Duration = Duration::from_micros(100);
const PAUSE: Duration = Duration::from_millis(1);
const COPIED_IN_A_PAUSE: u64 = 2 << 20;
const MAX_PAUSES: u64 = 10;

/// All regions of a runner.
#[derive(Debug)]
pub struct Ledger {
    total: Arc<Account>,
    max_bytes: u64,
    max_number: usize,
    /// Where regions go to other processes.
    elsewhere: Option<Watch>,
    /// A task that could have regions may open files.
    opens_files: AtomicBool,
    /// Held while a file is opened and looked at.
    claiming: Mutex<()>,
}

/// What somebody had made, and what of it exists.
#[derive(Debug, Default)]
struct Account(Mutex<Sum>);

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    bytes: u64,
    number: usize,
}

/// One region's share of its accounts; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    total: Arc<Account>,
    maker: Option<Arc<Account>>,
    bytes: u64,
}

/// Who is told by the kernel when a file is gone.
#[derive(Debug, Default)]
struct Watch(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    /// From the first region on.
    events: Option<OwnedFd>,
    charges: HashMap<i32, (Charge, FileId)>,
    /// Of those with charges.
    files: HashSet<FileId>,
}

/// Device and inode.
type FileId = (u64, u64);

fn id(stat: &rustix::fs::Stat) -> FileId {
    (stat.st_dev, stat.st_ino)
}

impl Account {
    fn sum(&self) -> MutexGuard<'_, Sum> {
        self.0.lock().unpoisoned()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        for account in [Some(&self.total), self.maker.as_ref()]
            .into_iter()
            .flatten()
        {
            let mut sum = account.sum();
            sum.bytes = sum.bytes.saturating_sub(self.bytes);
            sum.number = sum.number.saturating_sub(1);
        }
    }
}

impl Ledger {
    /// Of regions that stay in this process, or that other processes may have; of
    /// `max_bytes` at most.
    pub fn new(max_bytes: u64, elsewhere: bool) -> Self {
        let max_number = if elsewhere {
            MAX_REGIONS
        } else {
            // Each is a descriptor, and others need some too.
            let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
            usize::try_from(descriptors / 2).map_or(MAX_REGIONS, |half| half.min(MAX_REGIONS))
        };
        Ledger {
            total: Arc::default(),
            max_bytes,
            max_number,
            elsewhere: elsewhere.then(Watch::default),
            opens_files: AtomicBool::new(false),
            claiming: Mutex::new(()),
        }
    }

    /// From now on, tasks that could have regions may open files.
    pub fn opens_files(&self) {
        self.opens_files.store(true, Ordering::Release);
    }

    /// Claims an exclusive region for a worker that sent its only descriptor
    /// ([`claim`]): a descriptor of the same file, and whether nobody has another, nor a
    /// mapping. The worker is not trusted, nor is what it sends.
    pub async fn claim(&self, file: OwnedFd) -> (OwnedFd, bool) {
        let Some(size) = self.made(file.as_fd()) else {
            return (file, false);
        };
        if self.opens_files.load(Ordering::Acquire) {
            return (file, false);
        }
        let lock = || self.claiming.lock().unpoisoned();
        let opened = {
            let _alone = lock();
            claim::reopen(file.as_fd())
        };
        let Ok(own) = opened else {
            return (file, false);
        };
        drop(file);
        let pauses = (size / COPIED_IN_A_PAUSE).min(MAX_PAUSES);
        let began = Instant::now();
        let mut paused = 0;
        loop {
            let sole = {
                let _alone = lock();
                wrun_sys::is_sole(own.as_fd())
            };
            match sole {
                Ok(true) => {
                    // The one that had it can have sealed it; now nobody is left who could.
                    let seals = rustix::fs::fcntl_get_seals(&own);
                    let sealed = SealFlags::WRITE | SealFlags::FUTURE_WRITE;
                    let free = seals.is_ok_and(|seals| !seals.intersects(sealed));
                    let free = free && !self.opens_files.load(Ordering::Acquire);
                    return (own, free);
                }
                Ok(false) if began.elapsed() < AT_ONCE => {
                    // Its sender may wait for this very processor.
                    std::thread::yield_now();
                    crate::turn::yield_now().await;
                }
                Ok(false) if paused < pauses => {
                    paused += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(false) | Err(_) => break,
            }
        }
        (own, false)
    }

    /// How large the file is, if it is that of a region that was made here.
    fn made(&self, file: BorrowedFd<'_>) -> Option<u64> {
        // First what no file system can keep waiting: only files in memory have seals.
        rustix::fs::fcntl_get_seals(file).ok()?;
        self.settle();
        let watch = self.elsewhere.as_ref()?;
        let stat = rustix::fs::fstat(file).ok()?;
        let known = watch.watched().files.contains(&id(&stat));
        known.then(|| u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Makes the file of a region of the host, whose pages are still to be reserved.
    ///
    /// # Errors
    ///
    /// [`RegionError::Limit`] beyond what the runner may have;
    /// [`RegionError::System`].
    pub fn make(&self, len: u64, kind: Kind) -> Result<Draft, RegionError> {
        self.make_for(None, len, kind)
    }

    /// For a task, whose regions may have this many bytes together, or for the host.
    fn make_for(
        &self,
        maker: Option<(&Arc<Account>, u64)>,
        len: u64,
        kind: Kind,
    ) -> Result<Draft, RegionError> {
        let bytes = Draft::memory(len, kind)?;
        self.settle();
        let charge = self.charge(maker, bytes).ok_or(RegionError::Limit)?;
        let mut draft = Draft::new(len, kind, self.elsewhere.is_some())?;
        match &self.elsewhere {
            Some(watch) => watch
                .keep(draft.file.as_fd(), charge)
                .map_err(system("cannot watch a memory file"))?,
            None => draft.charge = Some(charge),
        }
        Ok(draft)
    }

    fn charge(&self, maker: Option<(&Arc<Account>, u64)>, bytes: u64) -> Option<Charge> {
        let mut total = self.total.sum();
        let all = total.bytes.checked_add(bytes)?;
        if all > self.max_bytes || total.number >= self.max_number {
            return None;
        }
        if let Some((account, room)) = maker {
            let mut made = account.sum();
            let all = made.bytes.checked_add(bytes)?;
            if all > room || made.number >= MAX_MADE {
                return None;
            }
            made.bytes = all;
            made.number += 1;
        }
        total.bytes = all;
        total.number += 1;
        Some(Charge {
            total: self.total.clone(),
            maker: maker.map(|(account, _)| account.clone()),
            bytes,
        })
    }

    /// Bytes of all regions that exist.
    pub fn bytes(&self) -> u64 {
        self.settle();
        self.total.sum().bytes
    }

    /// Takes note of what is gone.
    fn settle(&self) {
        if let Some(watch) = &self.elsewhere {
            watch.settle();
        }
    }
}

impl Watch {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unpoisoned()
    }

    /// Keeps a charge until nobody has the file any more.
    fn keep(&self, file: BorrowedFd<'_>, charge: Charge) -> rustix::io::Result<()> {
        let id = id(&rustix::fs::fstat(file)?);
        let mut watched = self.watched();
        let events = match watched.events.take() {
            Some(events) => events,
            None => inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
        };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let number = inotify::add_watch(&events, path, WatchFlags::DELETE_SELF);
        watched.events = Some(events);
        watched.charges.insert(number?, (charge, id));
        watched.files.insert(id);
        Ok(())
    }

    fn settle(&self) {
        let mut watched = self.watched();
        let Watched {
            events,
            charges,
            files,
        } = &mut *watched;
        let Some(events) = events else {
            return;
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut gone = Reader::new(events, &mut buffer);
        // It ends when there are no more.
        while let Ok(event) = gone.next() {
            if let Some((_, id)) = charges.remove(&event.wd()) {
                files.remove(&id);
            }
        }
    }
}

/// Makes the regions of one task.
#[derive(Debug)]
pub struct Maker {
    ledger: Arc<Ledger>,
    account: Arc<Account>,
    max_bytes: u64,
}

impl Maker {
    /// Of `max_bytes` together, at most.
    pub fn new(ledger: Arc<Ledger>, max_bytes: u64) -> Self {
        Maker {
            ledger,
            account: Arc::default(),
            max_bytes,
        }
    }

    /// A region of `len` bytes, where those of the task may have `room` bytes
    /// together; and how many they have with it.
    ///
    /// # Errors
    ///
    /// As [`Ledger::make`].
    pub fn make(&self, len: u64, kind: Kind, room: u64) -> Result<(Draft, u64), RegionError> {
        let room = room.min(self.max_bytes);
        let draft = self
            .ledger
            .make_for(Some((&self.account, room)), len, kind)?;
        Ok((draft, self.account.sum().bytes))
    }

    /// As [`Ledger::claim`].
    pub async fn claim(&self, file: OwnedFd) -> (OwnedFd, bool) {
        self.ledger.claim(file).await
    }

    /// Bytes of those of its regions that exist.
    pub fn bytes(&self) -> u64 {
        self.ledger.settle();
        self.known_bytes()
    }

    /// As [`Maker::bytes`], as far as it is known: or more.
    pub fn known_bytes(&self) -> u64 {
        self.account.sum().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::IoSlice;

    fn made(maker: &Maker, pages: u64) -> Result<super::super::Region, RegionError> {
        let len = pages * super::super::page_size();
        let room = 10 * super::super::page_size();
        maker.make(len, Kind::Exclusive, room)?.0.finish()
    }

    #[test]
    fn who_has_made_regions_has_them_until_the_last_holder_is_gone() {
        let page = super::super::page_size();
        for elsewhere in [false, true] {
            let ledger = Arc::new(Ledger::new(15 * page, elsewhere));
            let one = Maker::new(ledger.clone(), u64::MAX);
            let other = Maker::new(ledger.clone(), u64::MAX);
            let held = made(&one, 8).expect("it fits");
            let refused = made(&one, 3).expect_err("more than its own");
            assert!(refused.is_limit());
            let (first, second) = held.split(page).expect("splits");
            assert!(made(&other, 8).expect_err("more than all").is_limit());
            let theirs = made(&other, 7).expect("it fits");
            assert_eq!((one.bytes(), other.bytes()), (8 * page, 7 * page));
            // A part keeps the whole file.
            drop(first);
            assert_eq!(one.bytes(), 8 * page);
            let mapped = second.map(0, page as usize).expect("maps");
            drop(second);
            assert_eq!(one.bytes(), 8 * page);
            drop(mapped);
            assert_eq!(one.bytes(), 0);
            // Also of one whose maker is gone.
            drop(other);
            assert!(made(&one, 10).expect_err("more than all").is_limit());
            drop(theirs);
            made(&one, 10).expect("it was given back");
        }
    }

    #[test]
    fn whatever_a_worker_says_it_may_have_is_bounded() {
        let ledger = Arc::new(Ledger::new(u64::MAX, true));
        let maker = Maker::new(ledger.clone(), 8192);
        let refused = maker.make(8193, Kind::Shared, u64::MAX);
        assert!(refused.expect_err("more than its limit").is_limit());
        for (len, kind) in [
            (0, Kind::Shared),
            (u64::MAX, Kind::Shared),
            (1, Kind::Frozen),
        ] {
            let refused = maker.make(len, kind, u64::MAX);
            assert!(!refused.expect_err("no region").is_limit());
        }
        assert_eq!((maker.bytes(), ledger.bytes()), (0, 0));
        // Asked for, and never taken.
        let (draft, bytes) = maker.make(8192, Kind::Shared, u64::MAX).expect("fits");
        assert_eq!(bytes, ledger.bytes());
        drop(draft);
        assert_eq!((maker.bytes(), ledger.bytes()), (0, 0));
    }

    #[test]
    fn descriptors_and_mappings_of_other_processes_count() {
        let ledger = Arc::new(Ledger::new(u64::MAX, true));
        let maker = Maker::new(ledger, u64::MAX);
        let region = made(&maker, 1).expect("it fits");
        let bytes = maker.bytes();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [region.to_send().expect("goes").0];
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(
            &ours,
            &[IoSlice::new(b"x")],
            &mut control,
            SendFlags::empty(),
        )
        .expect("sent");
        drop(region);
        assert_eq!(maker.bytes(), bytes, "it is on its way");
        drop((ours, theirs));
        assert_eq!(maker.bytes(), 0);
    }

    #[test]
    fn regions_are_counted() {
        let maker = Maker::new(Arc::new(Ledger::new(u64::MAX, true)), u64::MAX);
        let room = u64::MAX;
        let make = || {
            maker
                .make(1, Kind::Shared, room)
                .map(|made| made.0.finish())
        };
        let held: Vec<_> = (0..MAX_MADE).map(|_| make().expect("it fits")).collect();
        assert!(make().expect_err("no more").is_limit());
        drop(held);
        make().expect("they are gone").expect("a region");
    }
}
