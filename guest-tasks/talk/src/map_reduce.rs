//! Words of one frozen text, counted by several tasks at once. Each maps the text and
//! counts the words that begin in its part of it; the bytes are never copied. What it
//! found is its output.

use crate::{MOST, WORKER, give, outputs, parent, within};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use wrun_guest::{Exclusive, Message, start};

/// Most bytes of text.
const LONGEST: u64 = 64 << 20;

/// How many of the most frequent words are told.
const TOLD: usize = 5;

/// FNV-1a: the words are not chosen against it.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(crate::DIGEST)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = crate::digest(self.0, bytes.iter().map(|byte| u64::from(*byte)));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Counts<'text> = HashMap<&'text [u8], u64, BuildHasherDefault<Fnv>>;

/// The text, again and again until there are as many bytes; its words, counted.
pub(crate) fn count([workers, bytes]: [u64; 2], text: &[u8]) -> Result<Vec<u8>, String> {
    within("WORKERS", workers, 0..=MOST)?;
    within("BYTES", bytes, 1..=LONGEST)?;
    if text.is_empty() {
        return Err("there is no text".into());
    }
    let mut region = Exclusive::new(bytes)?;
    let mut all = region.map()?;
    for part in all.chunks_mut(text.len()) {
        part.copy_from_slice(&text[..part.len()]);
    }
    drop(all);
    let region = region.freeze()?;

    let mut children = Vec::new();
    for part in 0..workers {
        let worker = start(WORKER, b"map", 1)?;
        let range = [part * bytes / workers, (part + 1) * bytes / workers];
        let data = range.map(u64::to_le_bytes).concat();
        give(&worker, Message::new(data).region(region.duplicate()?))?;
        // With the port: what waits in it would be lost.
        children.push(worker);
    }
    if workers == 0 {
        let text = region.map()?;
        return Ok(tell(&words(&text, 0..text.len())));
    }
    let found = outputs(&children)?;
    let mut counts = Counts::default();
    for line in found
        .iter()
        .flat_map(|found| found.split(|byte| *byte == b'\n'))
    {
        if line.is_empty() {
            continue;
        }
        let space = line
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or("no count")?;
        let count = str::from_utf8(&line[..space])
            .ok()
            .and_then(|count| count.parse().ok());
        *counts.entry(&line[space + 1..]).or_default() += count.unwrap_or(0_u64);
    }
    Ok(tell(&counts))
}

/// A worker: a frozen region and a range of it come, counts go.
pub(crate) fn map() -> Result<Vec<u8>, String> {
    let message = parent()?.receive()?;
    let (start, end) = message.data.split_first_chunk::<8>().ok_or("no range")?;
    let start = u64::from_le_bytes(*start);
    let end = u64::from_le_bytes(*end.first_chunk::<8>().ok_or("no range")?);
    let region = message.frozen()?;
    let text = region.map()?;
    if start > end || end > text.len() as u64 {
        return Err("the range is beyond the text".into());
    }
    let mut said = Vec::new();
    for (word, count) in words(&text, start as usize..end as usize) {
        said.extend(format!("{count} ").into_bytes());
        said.extend(word);
        said.push(b'\n');
    }
    Ok(said)
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80
}

/// The words that begin in `range`; the last may end behind it.
fn words(text: &[u8], range: Range<usize>) -> Counts<'_> {
    let mut counts = Counts::default();
    let mut at = range.start;
    // One that began before belongs to the part before.
    if at > 0 && is_letter(text[at - 1]) {
        at += text[at..]
            .iter()
            .take_while(|byte| is_letter(**byte))
            .count();
    }
    while at < range.end {
        if !is_letter(text[at]) {
            at += 1;
            continue;
        }
        let len = text[at..]
            .iter()
            .take_while(|byte| is_letter(**byte))
            .count();
        *counts.entry(&text[at..at + len]).or_default() += 1;
        at += len;
    }
    counts
}

fn tell(counts: &Counts<'_>) -> Vec<u8> {
    let mut sorted: Vec<_> = counts
        .iter()
        .map(|(word, count)| (u64::MAX - count, *word))
        .collect();
    sorted.sort_unstable();
    let total: u64 = counts.values().sum();
    let mut said = format!("{total} words, {} different\n", counts.len());
    for (count, word) in sorted.iter().take(TOLD) {
        let _ = writeln!(
            said,
            "{} {}",
            u64::MAX - count,
            String::from_utf8_lossy(word)
        );
    }
    said.into_bytes()
}
