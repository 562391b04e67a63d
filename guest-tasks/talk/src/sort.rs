//! Numbers of one region, made and sorted by several tasks in place: it is split, each
//! part is worked on by the task that has it, and the parts are joined again. Then the
//! whole is frozen, and each task merges a part of the result from all of it.

use crate::{DIGEST, MOST, WORKER, digest, give, parent, take, within};
use std::fmt::Write as _;
use wrun_guest::{Child, Exclusive, Frozen, Message, PAGE, Port, PortError, start};

/// Numbers in a page: parts end with one.
const PER_PAGE: u64 = PAGE / 4;

/// Most numbers.
const LONGEST: u64 = 16 << 20;

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
        give(other, Message::new(bytes([seed, cut / 4])).region(part))?;
    }
    let merged = Exclusive::new(len)?;
    let (numbers, _) = join(&others)?;
    let numbers = numbers.freeze()?;
    let parts = split(merged, &cuts)?;
    for ((part, other), cut) in parts.into_iter().zip(&others).zip(&cuts) {
        // Which of the result it is to make, and where the sorted parts are.
        let data = bytes([*cut].iter().chain(&cuts).map(|cut| cut / 4));
        give(
            other,
            Message::new(data).region(part).region(numbers.duplicate()?),
        )?;
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

/// A worker: regions come to be made and sorted, to be sorted, or with another to be
/// merged from.
pub(crate) fn part() -> Result<Vec<u8>, String> {
    let port = parent()?;
    loop {
        let mut message = match port.receive() {
            Err(PortError::Closed) => return Ok(vec![]),
            message => message?,
        };
        let from = match message.regions.len() {
            2 => message.regions.pop(),
            _ => None,
        };
        let data = std::mem::take(&mut message.data);
        let told = numbers_of(&data);
        let mut part = message.exclusive()?;
        let mut mapped = part.map()?;
        let said = match (from, &told[..]) {
            (None, [seed, first]) => {
                make(mapped.view_mut(), *seed, *first);
                mapped.view_mut::<u32>().sort_unstable();
                vec![]
            }
            (None, _) if data == b"sort" => {
                mapped.view_mut::<u32>().sort_unstable();
                vec![]
            }
            (Some(from), [first, cuts @ ..]) => {
                let from = Frozen::try_from(from)?.map()?;
                merge(from.view(), cuts, *first as usize, mapped.view_mut())?;
                digests(mapped.view())?
            }
            _ => return Err("neither `sort`, nor a seed, nor a merge".into()),
        };
        drop(mapped);
        port.send(Message::new(bytes(said)).region(part))?;
    }
}

/// Writes what comes from the `first` on, of all numbers in order, to `to`; between two
/// cuts they are in order already.
fn merge(all: &[u32], cuts: &[u64], first: usize, to: &mut [u32]) -> Result<(), String> {
    let runs: Option<Vec<&[u32]>> = cuts
        .windows(2)
        .map(|cut| all.get(cut[0] as usize..cut[1] as usize))
        .collect();
    let runs = runs.ok_or("a part is beyond the numbers")?;
    let starts = ranked(&runs, first);
    let ends = ranked(&runs, first + to.len());
    let mut left: Vec<&[u32]> = runs
        .iter()
        .zip(starts.iter().zip(ends))
        .map(|(run, (start, end))| &run[*start..end])
        .collect();
    let mut filled = 0;
    // Two are merged faster than many; the others wait until one of them is through.
    while left.len() > 2 {
        let (least, number) = left
            .iter()
            .enumerate()
            .filter_map(|(at, run)| Some((at, *run.first()?)))
            .min_by_key(|(_, number)| *number)
            .ok_or("too few numbers")?;
        to[filled] = number;
        filled += 1;
        left[least] = &left[least][1..];
        left.retain(|run| !run.is_empty());
    }
    let (one, other) = (
        left.first().copied().unwrap_or_default(),
        left.get(1).copied().unwrap_or_default(),
    );
    let to = &mut to[filled..];
    if one.len() + other.len() != to.len() {
        return Err("too few numbers".into());
    }
    let (mut i, mut j, mut at) = (0, 0, 0);
    while i < one.len() && j < other.len() {
        let (x, y) = (one[i], other[j]);
        // Without a branch: which of them comes next is chance.
        let from_one = x <= y;
        to[at] = if from_one { x } else { y };
        i += usize::from(from_one);
        j += usize::from(!from_one);
        at += 1;
    }
    to[at..at + one.len() - i].copy_from_slice(&one[i..]);
    at += one.len() - i;
    to[at..].copy_from_slice(&other[j..]);
    Ok(())
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
