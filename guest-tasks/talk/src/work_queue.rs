//! A queue of jobs in a shared region. Whoever coordinates puts numbers of blocks in,
//! workers take them, and count the primes in them.
//!
//! | offset | word |
//! |---:|---|
//! | 0 | how many jobs were ever taken |
//! | 4 | how many were ever put in; its top bit says that there will be no more |
//! | 8 | how many are done |
//! | 16 | primes, 64 bits |
//! | 64 | `SLOTS` jobs: number `n` is in slot `n % SLOTS` |
//!
//! A worker reads the slot before it takes the job. It was not overwritten if it could
//! take it: that takes a `compare_exchange` of the first word, and a slot is used again
//! only once its job was taken.

use crate::{MOST, WORKER, ended, give, outputs, parent, within};
use std::time::Duration;
use wrun_guest::{Child, Message, Port, Shared, SharedU32, Waited, start};

const SLOTS: u32 = 16;
const CLOSED: u32 = 1 << 31;

/// How long nobody takes a job before somebody looks why.
const PATIENCE: Duration = Duration::from_millis(200);

struct Queue<'region> {
    taken: SharedU32<'region>,
    put: SharedU32<'region>,
    slots: Vec<SharedU32<'region>>,
}

impl<'region> Queue<'region> {
    fn new(region: &'region Shared) -> Result<Self, String> {
        let slots: Result<_, _> = (0..SLOTS)
            .map(|at| region.u32(64 + 4 * u64::from(at)))
            .collect();
        Ok(Queue {
            taken: region.u32(0)?,
            put: region.u32(4)?,
            slots: slots?,
        })
    }

    fn slot(&self, number: u32) -> &SharedU32<'region> {
        &self.slots[(number % SLOTS) as usize]
    }

    /// Waits while the queue is full, and looks after those that are to take. One task
    /// puts.
    fn put(&self, job: u32, workers: &[(Child, Port)]) -> Result<(), String> {
        let put = self.put.load();
        loop {
            let taken = self.taken.load();
            if put - taken < SLOTS {
                break;
            }
            if self.taken.wait_timeout(taken, PATIENCE) != Waited::TimedOut {
                continue;
            }
            let gone = workers.iter().find(|(child, _)| child.subscribe().ready());
            if let Some((child, _)) = gone {
                return Err(ended(child));
            }
        }
        self.slot(put).store(job);
        self.put.store(put + 1);
        self.put.notify(1);
        Ok(())
    }

    fn close(&self) {
        self.put.fetch_or(CLOSED);
        self.put.notify_all();
    }

    /// Waits while the queue is empty; none once it is closed as well. Any task takes.
    fn take(&self) -> Option<u32> {
        loop {
            let taken = self.taken.load();
            let put = self.put.load();
            if put & !CLOSED == taken {
                if put & CLOSED != 0 {
                    return None;
                }
                self.put.wait(put);
                continue;
            }
            let job = self.slot(taken).load();
            if self.taken.compare_exchange(taken, taken + 1).is_ok() {
                self.taken.notify(1);
                return Some(job);
            }
        }
    }
}

pub(crate) fn primes([workers, below, block]: [u64; 3]) -> Result<Vec<u8>, String> {
    within("WORKERS", workers, 1..=MOST)?;
    within("BELOW", below, 1..=10_000_000)?;
    within("BLOCK", block, 1..=below)?;
    let region = Shared::new(4096)?;
    let queue = Queue::new(&region)?;
    let mut children = Vec::new();
    for _ in 0..workers {
        let worker = start(WORKER, format!("work {below} {block}").as_bytes(), 1)?;
        give(&worker, Message::default().region(region.duplicate()?))?;
        children.push(worker);
    }
    let jobs = below.div_ceil(block) as u32;
    for job in 0..jobs {
        queue.put(job, &children)?;
    }
    queue.close();
    // Each says how many jobs it did: who did which is chance, the sum is not.
    let mut did = 0;
    for said in outputs(&children)? {
        did += str::from_utf8(&said)
            .ok()
            .and_then(|said| said.trim().parse::<u64>().ok())
            .ok_or("a worker said something else")?;
    }
    if region.u32(8)?.load() != jobs {
        return Err("jobs were lost".into());
    }
    let primes = region.u64(16)?.load();
    Ok(format!("{primes} primes below {below}, {did} jobs, {workers} workers\n").into_bytes())
}

pub(crate) fn work([below, block]: [u64; 2]) -> Result<Vec<u8>, String> {
    let region = parent()?.receive()?.shared()?;
    let queue = Queue::new(&region)?;
    let (primes, done) = (region.u64(16)?, region.u32(8)?);
    let mut jobs = 0;
    while let Some(job) = queue.take() {
        let first = u64::from(job) * block;
        let count = (first..below.min(first + block))
            .filter(|number| is_prime(*number))
            .count();
        primes.fetch_add(count as u64);
        done.fetch_add(1);
        done.notify_all();
        jobs += 1;
    }
    Ok(format!("{jobs}\n").into_bytes())
}

fn is_prime(number: u64) -> bool {
    let number = number as u32;
    if number < 4 {
        return number > 1;
    }
    let mut by = 3;
    while by * by <= number {
        if number.is_multiple_of(by) {
            return false;
        }
        by += 2;
    }
    !number.is_multiple_of(2)
}
