//! The stderr of a process that this one started, kept for the case that it dies.
//!
//! Each process has its own pipe. Invariant: the kept part is bounded, and reading never
//! waits, whichever process has the other end.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

/// Bytes that are kept from the beginning, and from the end.
const HALF: usize = 2040;
/// Maximum length of the text, in bytes.
const MOST: usize = 4096;
/// Reads at once: more than a pipe holds.
const READS: usize = 32;

/// The runner's end. After it is dropped, writes to the pipe fail.
pub(super) struct StderrCapture {
    pipe: OwnedFd,
    start: Vec<u8>,
    /// After `start`.
    end: VecDeque<u8>,
    /// Bytes between the two were dropped.
    cut: bool,
}

impl StderrCapture {
    /// A pipe: the runner's end, and the end for the stderr of a process.
    pub(super) fn pipe() -> io::Result<(Self, OwnedFd)> {
        let (pipe, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let capture = StderrCapture {
            pipe,
            start: Vec::new(),
            end: VecDeque::new(),
            cut: false,
        };
        Ok((capture, theirs))
    }

    /// Reads what is available: a process that writes much must not wait forever.
    pub(super) fn read_available(&mut self) {
        let mut bytes = [0; 4096];
        for _ in 0..READS {
            let mut watched = [PollFd::new(&self.pipe, PollFlags::IN)];
            let is_there = poll(&mut watched, Some(&Timespec::default()));
            if !matches!(is_there, Ok(1..)) {
                return;
            }
            match rustix::io::read(&self.pipe, &mut bytes) {
                Ok(0) => return,
                Ok(len) => self.keep(&bytes[..len]),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(HALF - self.start.len()));
        self.start.extend_from_slice(first);
        self.end.extend(rest);
        let over = self.end.len().saturating_sub(HALF);
        self.cut |= over > 0;
        self.end.drain(..over);
    }

    /// The captured text, in characters that are safe to print; `None` if it is empty.
    pub(super) fn text(&mut self) -> Option<String> {
        self.read_available();
        let mut bytes = self.start.clone();
        if self.cut {
            bytes.extend_from_slice(b"\n...\n");
        }
        bytes.extend(&self.end);
        let text = String::from_utf8_lossy(&bytes);
        let mut safe = String::new();
        for char in text.trim().chars() {
            let char = match char {
                '\n' | '\t' => char,
                char if char.is_control() => '\u{fffd}',
                char => char,
            };
            if safe.len() + char.len_utf8() > MOST {
                break;
            }
            safe.push(char);
        }
        (!safe.is_empty()).then_some(safe)
    }
}

/// The start of a text from a child, on one line.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(writes: &[&[u8]]) -> Option<String> {
        let (mut capture, theirs) = StderrCapture::pipe().expect("a pipe");
        for write in writes {
            rustix::io::write(&theirs, write).expect("there is room");
            capture.read_available();
        }
        capture.text()
    }

    #[test]
    fn beginning_and_end_are_kept() {
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[b" \n"]), None);
        assert_eq!(after(&[b"a\n", b"b\n"]).as_deref(), Some("a\nb"));
        let long = [b'x'; 3000];
        assert_eq!(after(&[&long]).map(|text| text.len()), Some(3000));
        let text = after(&[b"first", &long, &long, b"last"]).expect("text");
        assert!(text.starts_with("first") && text.ends_with("last"));
        assert!(text.contains("x\n...\nx") && text.len() <= MOST, "{text}");
    }

    #[test]
    fn what_commands_a_terminal_is_no_part_of_it() {
        let text = after(&[b"a\x1b[31m\xff\x07b\0"]).expect("text");
        assert_eq!(text, "a\u{fffd}[31m\u{fffd}\u{fffd}b\u{fffd}");
        let text = after(&[&[0xff; 4096]]).expect("text");
        assert!(text.len() <= MOST);
    }
}
