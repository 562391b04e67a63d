//! Two artifacts of one task in one file: for threads, and for processes.
//!
//! ```text
//! [artifact for thread mode][artifact for process mode][Footer, 48 bytes]
//! Footer: the first one's length u64, BLAKE3 of all before it [32], magic [8]
//! ```
//!
//! A runner reads the one it needs, and refuses both if either is damaged.

use super::code::CodeError;

const MAGIC: [u8; 8] = *b"wrunpair";
const FOOTER: usize = 48;
const LEN: usize = 8;

/// Whether the last bytes of a file are the footer of a pair.
pub(super) fn is_pair(tail: &[u8]) -> bool {
    tail.len() >= FOOTER && tail.ends_with(&MAGIC)
}

/// One file of both.
pub fn join(thread: &[u8], process: &[u8]) -> Vec<u8> {
    let len = (thread.len() as u64).to_le_bytes();
    let digest = digest(&[thread, process, &len]);
    [thread, process, &len, digest.as_bytes(), &MAGIC].concat()
}

fn digest(parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// An artifact of a pair; the whole file if it is not a pair.
pub(super) fn part(bytes: &[u8], for_threads: bool) -> Result<&[u8], CodeError> {
    if !is_pair(bytes) {
        return Ok(bytes);
    }
    let (both, footer) = bytes.split_at(bytes.len() - FOOTER);
    let (len, rest) = footer.split_at(LEN);
    if digest(&[both, len]).as_bytes()[..] != rest[..rest.len() - MAGIC.len()] {
        return Err(CodeError::Damaged("its digest does not match"));
    }
    let mut first = [0; LEN];
    first.copy_from_slice(len);
    let parts = usize::try_from(u64::from_le_bytes(first))
        .ok()
        .and_then(|len| both.split_at_checked(len));
    match parts {
        Some((thread, _)) if for_threads => Ok(thread),
        Some((_, process)) => Ok(process),
        None => Err(CodeError::Damaged("its lengths do not add up")),
    }
}

/// The pair with a right digest.
#[cfg(feature = "fuzzing")]
pub(super) fn mended(pair: &[u8]) -> Vec<u8> {
    let (both, footer) = pair.split_at(pair.len() - FOOTER);
    let len = &footer[..LEN];
    [both, len, digest(&[both, len]).as_bytes(), &MAGIC].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_found() {
        let pair = join(b"thread", b"process");
        assert!(is_pair(&pair));
        assert_eq!(part(&pair, true).expect("whole"), b"thread");
        assert_eq!(part(&pair, false).expect("whole"), b"process");
        assert_eq!(part(b"one", true).expect("alone"), b"one");
        assert!(!is_pair(&pair[..pair.len() - 1]));
        for at in 0..pair.len() - MAGIC.len() {
            let mut damaged = pair.clone();
            damaged[at] ^= 1;
            assert!(part(&damaged, true).is_err(), "byte {at}");
        }
        for from in 1..=pair.len() - FOOTER {
            assert!(part(&pair[from..], true).is_err(), "from {from}");
        }
        // A length that is too large, with a right digest.
        let len = u64::MAX.to_le_bytes();
        let wrong = [&len[..], digest(&[&len]).as_bytes(), &MAGIC].concat();
        assert!(part(&wrong, true).is_err());
    }
}
