//! The regions of a runner: their number, their bytes, and the tasks they count for.
//!
//! Bytes count against the task for which a region was made, and against the total of the
//! runner, as long as the region has any holder: another task, its host, a queue. Within a
//! process the last handle subtracts them. If regions go to other processes, those are not
//! trusted to report it: the kernel reports when the last descriptor and the last mapping
//! of a file are gone, in any process (`IN_DELETE_SELF` of inotify, on a file without a
//! name). The watch keeps no memory alive, and needs no descriptor per file.
//!
//! Invariant: freed regions are looked for before anything is refused.

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

/// Maximum of regions of a runner. For each one that is gone the kernel queues two events
/// until they are read, and by default at most 16,384.
const MAX_REGIONS: usize = 4096;
/// Maximum of existing regions that were made for one task.
const MAX_MADE: usize = 256;

/// How often a claim checks whether others have released the region: a sender drops what it
/// sent a moment after it was received, or later if other work takes its processor. First
/// repeatedly, for as long as a sender that its receiver has displaced needs to run again,
/// with a turn for others between any two checks; then after pauses, for as long as copying
/// all of it would take.
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
    /// If regions go to other processes.
    elsewhere: Option<Watch>,
    /// Whether a task that could have regions may open files.
    opens_files: AtomicBool,
    /// Held while a file is opened and examined.
    claiming: Mutex<()>,
}

/// The regions that were made for one task or host, and their current totals.
#[derive(Debug, Default)]
struct Account(Mutex<Sum>);

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    bytes: u64,
    number: usize,
}

/// One region's share of its accounts; subtracted when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    total: Arc<Account>,
    maker: Option<Arc<Account>>,
    bytes: u64,
}

/// Receives the kernel's events about files that are gone.
#[derive(Debug, Default)]
struct Watch(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    /// Set with the first region.
    events: Option<OwnedFd>,
    charges: HashMap<i32, (Charge, FileId)>,
    /// Charges of the watched files.
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
    /// For regions that stay in this process, or that other processes may have; at most
    /// `max_bytes`.
    pub fn new(max_bytes: u64, elsewhere: bool) -> Self {
        let max_number = if elsewhere {
            MAX_REGIONS
        } else {
            // Each is a descriptor, and other things need some too.
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

    /// Claims an exclusive region for a worker that sent its only descriptor ([`claim`]):
    /// returns a descriptor of the same file, and whether there is no other descriptor or
    /// mapping. Neither the worker nor the descriptor is trusted.
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
                    // The previous holder may have sealed it; now there is no other holder who
                    // could.
                    let seals = rustix::fs::fcntl_get_seals(&own);
                    let sealed = SealFlags::WRITE | SealFlags::FUTURE_WRITE;
                    let free = seals.is_ok_and(|seals| !seals.intersects(sealed));
                    let free = free && !self.opens_files.load(Ordering::Acquire);
                    return (own, free);
                }
                Ok(false) if began.elapsed() < AT_ONCE => {
                    // Its sender may be waiting for this very processor.
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

    /// The size of the file, if it is that of a region that was made here.
    fn made(&self, file: BorrowedFd<'_>) -> Option<u64> {
        // First a call that no file system can block: only memory files have seals.
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
    /// [`RegionError::Limit`] beyond the runner's limits; [`RegionError::System`].
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

    /// Subtracts regions that are gone.
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

    /// Keeps a charge until the file has no holder any more.
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
        // It ends when there are no more events.
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
    /// With at most `max_bytes` together.
    pub fn new(ledger: Arc<Ledger>, max_bytes: u64) -> Self {
        Maker {
            ledger,
            account: Arc::default(),
            max_bytes,
        }
    }

    /// A region of `len` bytes, if the regions of the task may have `room` bytes together;
    /// and how many they have, including this one.
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

    /// Bytes of its regions that exist.
    pub fn bytes(&self) -> u64 {
        self.ledger.settle();
        self.known_bytes()
    }

    /// As [`Maker::bytes`], without checking for freed regions: it may be more.
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
            // Also a region whose maker is gone.
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
        // Requested, and never taken.
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
