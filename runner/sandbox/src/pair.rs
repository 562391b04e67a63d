//! Two artifacts of one task in one file: for threads, and for processes.
//!
//! ```text
//! [artifact for thread mode][artifact for process mode][length of the first u64][magic 8]
//! ```
//!
//! Each is whole and is verified as if it were alone; a runner reads the one it needs.

use super::code::CodeError;

const MAGIC: [u8; 8] = *b"wrunpair";
const FOOTER: usize = 16;

/// Whether the last bytes of a file are the footer of a pair.
pub(super) fn is_pair(tail: &[u8]) -> bool {
    tail.len() >= FOOTER && tail.ends_with(&MAGIC)
}

/// One file of both.
pub fn join(thread: &[u8], process: &[u8]) -> Vec<u8> {
    let len = thread.len() as u64;
    [thread, process, &len.to_le_bytes(), &MAGIC].concat()
}

/// An artifact of a pair; the whole file if it is not a pair.
pub(super) fn part(bytes: &[u8], for_threads: bool) -> Result<&[u8], CodeError> {
    if !is_pair(bytes) {
        return Ok(bytes);
    }
    let (both, footer) = bytes.split_at(bytes.len() - FOOTER);
    let mut len = [0; 8];
    len.copy_from_slice(&footer[..8]);
    let parts = usize::try_from(u64::from_le_bytes(len))
        .ok()
        .and_then(|len| both.split_at_checked(len));
    match parts {
        Some((thread, _)) if for_threads => Ok(thread),
        Some((_, process)) => Ok(process),
        None => Err(CodeError::Damaged("its lengths do not add up")),
    }
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
        // What is cut is not a pair, or has parts that are not artifacts.
        assert!(!is_pair(&pair[..pair.len() - 1]));
        let wrong = [&u64::MAX.to_le_bytes()[..], &MAGIC].concat();
        assert!(part(&wrong, true).is_err());
    }
}
