//! Numbers of one region, made and sorted by several tasks in place: it is split, each
//! part is worked on by the task that has it, and the parts are joined again. Then it is
//! found where the result's parts begin in each of the sorted ones; what belongs to one is
//! put side by side; and each task merges one part. There is no second region.

use crate::{DIGEST, MOST, WORKER, digest, give, parent, take, within};
use std::fmt::Write as _;
use wrun_guest::{Child, Exclusive, Message, PAGE, Port, PortError, start};

/// Numbers in a page: parts end with one.
const PER_PAGE: u64 = PAGE / 4;

/// Most numbers.
const LONGEST: u64 = 16 << 20;

/// What a worker is to do with a part: make it, of a seed and from an index on, and sort
/// it; or merge it, of so many numbers in order, then so many, and so on.
const MAKE: u64 = 0;
const MERGE: u64 = 1;

pub(crate) fn sort([workers, count, seed]: [u64; 3]) -> Result<Vec<u8>, String> {
    within("WORKERS", workers, 0..=MOST)?;
    within("NUMBERS", count, 1..=LONGEST)?;
    let mut numbers = Exclusive::new(count * 4)?;
    let (mut sorted, digests) = match workers {
        0 => {
            let mut all = numbers.map()?;
            make(all.view_mut(), seed, 0);
            all.view_mut::<u32>().sort_unstable();
            let digests = digests(all.view())?;
            drop(all);
            (numbers, digests)
        }
        workers => together(workers.min(count.div_ceil(PER_PAGE)), numbers, seed)?,
    };
    let all = sorted.map()?;
    let all = all.view::<u32>();
    let mut said = format!("{count} numbers");
    for tenth in 0..=10 {
        let _ = write!(said, " {}", all[(all.len() - 1) * tenth / 10]);
    }
    let _ = writeln!(said, " {:016x}", digest(DIGEST, digests));
    Ok(said.into_bytes())
}

/// The numbers from the one with the index `first` on: a function of the index, so that
/// whoever has a part of them can make it (splitmix64, by Steele, Lea and Flood).
fn make(numbers: &mut [u32], seed: u64, first: u64) {
    for (index, number) in (first + 1..).zip(numbers) {
        let mut mixed = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        *number = (mixed >> 32) as u32;
    }
}

/// Of each page, if the numbers are in order.
fn digests(numbers: &[u32]) -> Result<Vec<u64>, String> {
    if !numbers.is_sorted() {
        return Err("they are not sorted".into());
    }
    let pages = numbers.chunks(PER_PAGE as usize);
    Ok(pages
        .map(|page| digest(DIGEST, page.iter().map(|number| u64::from(*number))))
        .collect())
}

fn bytes(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    numbers.into_iter().flat_map(u64::to_le_bytes).collect()
}

fn numbers_of(bytes: &[u8]) -> Vec<u64> {
    let (numbers, _) = bytes.as_chunks::<8>();
    numbers
        .iter()
        .map(|number| u64::from_le_bytes(*number))
        .collect()
}

/// Sorted, and the digest of each page.
fn together(workers: u64, numbers: Exclusive, seed: u64) -> Result<(Exclusive, Vec<u64>), String> {
    let len = numbers.len();
    let pages = len.div_ceil(PAGE);
    // Where each part begins, and where the last one ends, in bytes.
    let cuts: Vec<u64> = (0..=workers)
        .map(|part| (part * pages / workers * PAGE).min(len))
        .collect();
    let mut others: Vec<(Child, Port)> = Vec::new();
    for _ in 0..workers {
        others.push(start(WORKER, b"part", 1)?);
    }
    let parts = split(numbers, &cuts)?;
    for ((part, other), cut) in parts.into_iter().zip(&others).zip(&cuts) {
        let data = bytes([MAKE, seed, cut / 4]);
        give(other, Message::new(data).region(part))?;
    }
    let (mut numbers, _) = join(&others)?;
    let mut all = numbers.map()?;
    let ends: Vec<usize> = cuts[1..].iter().map(|cut| (cut / 4) as usize).collect();
    let parts = regroup(all.view_mut(), &ends);
    drop(all);
    let regions = split(numbers, &cuts)?;
    for ((region, other), runs) in regions.into_iter().zip(&others).zip(parts) {
        let runs = runs.into_iter().map(|run| run as u64);
        let data = bytes([MERGE].into_iter().chain(runs));
        give(other, Message::new(data).region(region))?;
    }
    let (mut merged, digests) = join(&others)?;
    let all = merged.map()?;
    let all = all.view::<u32>();
    let borders = &cuts[1..cuts.len() - 1];
    if borders
        .iter()
        .any(|cut| all[(cut / 4) as usize - 1] > all[(cut / 4) as usize])
    {
        return Err("the parts are not in order".into());
    }
    Ok((merged, digests))
}

fn split(mut rest: Exclusive, cuts: &[u64]) -> Result<Vec<Exclusive>, String> {
    let mut parts = Vec::new();
    for cut in cuts.windows(2).take(cuts.len() - 2) {
        let (part, next) = rest.split(cut[1] - cut[0])?;
        parts.push(part);
        rest = next;
    }
    parts.push(rest);
    Ok(parts)
}

/// What the others send back, in their order, as one; and the numbers with it.
fn join(others: &[(Child, Port)]) -> Result<(Exclusive, Vec<u64>), String> {
    let mut whole: Option<Exclusive> = None;
    let mut told = Vec::new();
    for other in others {
        let mut message = take(other)?;
        told.extend(numbers_of(&std::mem::take(&mut message.data)));
        let part = message.exclusive()?;
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => whole.join(part)?,
        }
    }
    whole
        .map(|whole| (whole, told))
        .ok_or_else(|| "no parts".into())
}

/// A worker: regions come to be made and sorted, to be sorted, or to be merged.
pub(crate) fn part() -> Result<Vec<u8>, String> {
    let port = parent()?;
    loop {
        let mut message = match port.receive() {
            Err(PortError::Closed) => return Ok(vec![]),
            message => message?,
        };
        let data = std::mem::take(&mut message.data);
        let told = numbers_of(&data);
        let mut part = message.exclusive()?;
        let mut mapped = part.map()?;
        let said = match &told[..] {
            [MAKE, seed, first] => {
                make(mapped.view_mut(), *seed, *first);
                mapped.view_mut::<u32>().sort_unstable();
                vec![]
            }
            [MERGE, runs @ ..] => {
                merge(mapped.view_mut(), runs)?;
                digests(mapped.view())?
            }
            _ if data == b"sort" => {
                mapped.view_mut::<u32>().sort_unstable();
                vec![]
            }
            _ => return Err("neither `sort`, nor a seed, nor runs".into()),
        };
        drop(mapped);
        port.send(Message::new(bytes(said)).region(part))?;
    }
}

/// Of numbers that are in order up to each of the `ends`, puts together what comes up to
/// each of them once all are in order. How many there are of each run, of each part of the
/// result.
fn regroup(all: &mut [u32], ends: &[usize]) -> Vec<Vec<usize>> {
    let mut begin = 0;
    let runs: Vec<&[u32]> = ends
        .iter()
        .map(|end| &all[std::mem::replace(&mut begin, *end)..*end])
        .collect();
    let mut before = vec![0; runs.len()];
    let parts: Vec<Vec<usize>> = ends
        .iter()
        .map(|end| {
            let counts = ranked(&runs, *end);
            let of_part = counts.iter().zip(&before).map(|(end, begin)| end - begin);
            let of_part = of_part.collect();
            before = counts;
            of_part
        })
        .collect();
    // One run after the other is taken in: what it has of a part goes behind what the
    // earlier ones have of it.
    for run in 1..ends.len() {
        let mut at = 0;
        // Of earlier runs, behind `at`.
        let mut later = ends[run - 1];
        for part in &parts {
            let earlier: usize = part[..run].iter().sum();
            at += earlier;
            later -= earlier;
            all[at..at + later + part[run]].rotate_left(later);
            at += part[run];
        }
    }
    parts
}

/// Puts numbers in order, of which the first so many are, then so many, and so on.
fn merge(all: &mut [u32], runs: &[u64]) -> Result<(), String> {
    let runs: Vec<usize> = runs.iter().filter(|run| **run > 0).map(|run| *run as usize).collect();
    let wanted = runs.iter().try_fold(0_usize, |sum, run| sum.checked_add(*run));
    let Some((last, earlier)) = runs.split_last().filter(|_| wanted == Some(all.len())) else {
        return Err("the runs are not the part".into());
    };
    // The last one stays: what is written never gets ahead of what is read of it.
    let mut begin = 0;
    let mut merged: Vec<u32> = Vec::new();
    for len in earlier {
        let run = &all[begin..begin + len];
        begin += len;
        if merged.is_empty() {
            merged = run.to_vec();
            continue;
        }
        let count = merged.len();
        let earlier = merged.clone();
        merged.extend(run);
        merge_into(&mut merged, &earlier, count);
    }
    merge_into(all, &merged, all.len() - last);
    Ok(())
}

/// Merges what `all` has from `second` on with `first`, of which there are so many: the two
/// halves of the result in turns, as neither has to wait for the other's numbers.
fn merge_into(all: &mut [u32], first: &[u32], second: usize) {
    let half = all.len() / 2;
    let counts = ranked(&[first, &all[second..]], half);
    let (low, high) = (counts[0], second + counts[1]);
    // The second half is written over what the first one reads.
    let early = all[second..high].to_vec();
    let mut one = Merge { x: 0, y: 0, at: 0 };
    let mut other = Merge { x: low, y: high, at: half };
    while one.x < low && one.y < early.len() && other.x < first.len() && other.y < all.len() {
        all[one.at] = one.next(first[one.x], early[one.y]);
        all[other.at] = other.next(first[other.x], all[other.y]);
        (one.at, other.at) = (one.at + 1, other.at + 1);
    }
    while one.x < low && one.y < early.len() {
        all[one.at] = one.next(first[one.x], early[one.y]);
        one.at += 1;
    }
    for left in [&first[one.x..low], &early[one.y..]] {
        all[one.at..one.at + left.len()].copy_from_slice(left);
        one.at += left.len();
    }
    while other.x < first.len() && other.y < all.len() {
        all[other.at] = other.next(first[other.x], all[other.y]);
        other.at += 1;
    }
    let left = &first[other.x..];
    all[other.at..other.at + left.len()].copy_from_slice(left);
}

/// Where two runs are read, and where what they are merged into is written.
struct Merge {
    x: usize,
    y: usize,
    at: usize,
}

impl Merge {
    /// Without a branch: which of them comes next is chance.
    fn next(&mut self, x: u32, y: u32) -> u32 {
        let first = x <= y;
        self.x += usize::from(first);
        self.y += usize::from(!first);
        if first { x } else { y }
    }
}

/// How many of each run are among the first `rank` of all. Of equal numbers those of
/// earlier runs come first.
fn ranked(runs: &[&[u32]], rank: usize) -> Vec<usize> {
    let below = |number: u64| -> Vec<usize> {
        runs.iter()
            .map(|run| run.partition_point(|it| u64::from(*it) < number))
            .collect()
    };
    // The largest number that has at most `rank` below it.
    let (mut low, mut high) = (0_u64, 1_u64 << 32);
    while low < high {
        let middle = (low + high).div_ceil(2);
        match below(middle).iter().sum::<usize>() <= rank {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    let mut counts = below(low);
    let mut missing = rank.saturating_sub(counts.iter().sum());
    for (count, equal) in counts.iter_mut().zip(below(low + 1)) {
        let more = missing.min(equal - *count);
        *count += more;
        missing -= more;
    }
    counts
}
