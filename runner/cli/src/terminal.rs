//! What a task's output may do to the terminal that shows it.
//!
//! Invariant of [`Terminal::Safe`]: every control character that reaches the terminal is
//! the end of a line, a tab or a backspace, or is part of a complete sequence of the list
//! that [`is_harmless`] has; everything is UTF-8; and when the output ends, colours and
//! cursor are restored.

use std::io::{self, IsTerminal};
use std::str::FromStr;
use wrun::Terminals;

/// Maximum length of a sequence that is passed on, in bytes.
const MAX_SEQUENCE: usize = 64;
/// Begins a sequence.
const ESC: u8 = 0x1b;

/// What a task's output may do to a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// Sequences on the list.
    #[default]
    Safe,
    /// Everything.
    Raw,
}

impl FromStr for Terminal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "safe" => Ok(Terminal::Safe),
            "raw" => Ok(Terminal::Raw),
            other => Err(format!("{other:?} is neither safe nor raw")),
        }
    }
}

/// Which streams are terminals for a task that reads this program's stdin or does not, and
/// writes to its stdout or does not.
pub(super) fn terminals(reads_stdin: bool, writes_stdout: bool) -> Terminals {
    Terminals {
        stdin: reads_stdin && io::stdin().is_terminal(),
        stdout: writes_stdout && io::stdout().is_terminal(),
        stderr: io::stderr().is_terminal(),
    }
}

/// The variables that tell a task the size of the terminal, for which WASI has no call;
/// and, if it may use all control sequences, the terminal's name.
pub(super) fn variables(terminal: Terminal, terminals: Terminals) -> Vec<(&'static str, String)> {
    let shown_on = match terminals {
        Terminals { stdout: true, .. } => rustix::stdio::stdout(),
        Terminals { stderr: true, .. } => rustix::stdio::stderr(),
        _ => return Vec::new(),
    };
    let mut variables = Vec::new();
    if let Ok(size) = rustix::termios::tcgetwinsize(shown_on) {
        // Some do not know, and report zero.
        for (name, value) in [("COLUMNS", size.ws_col), ("LINES", size.ws_row)] {
            if value > 0 {
                variables.push((name, value.to_string()));
            }
        }
    }
    if terminal == Terminal::Raw
        && let Ok(name) = std::env::var("TERM")
    {
        variables.push(("TERM", name));
    }
    variables
}

/// Makes a stream's output harmless, chunk by chunk.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// The beginning of a sequence or of a character whose end has not arrived.
    begun: Vec<u8>,
    /// Colours are changed.
    coloured: bool,
    /// The cursor is hidden.
    hidden: bool,
}

impl Filter {
    /// The output to show after `chunk` arrived.
    pub(super) fn pass(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(self.begun.len() + chunk.len());
        let joined;
        let mut rest = match self.begun.is_empty() {
            true => chunk,
            false => {
                self.begun.extend_from_slice(chunk);
                joined = std::mem::take(&mut self.begun);
                &joined
            }
        };
        while !rest.is_empty() {
            let text = rest.iter().position(|byte| *byte == ESC);
            let text = text.unwrap_or(rest.len());
            let begun = text_of(&rest[..text], &mut shown);
            rest = &rest[text - begun..];
            if begun == rest.len() {
                break;
            }
            if begun > 0 {
                push(&mut shown, char::REPLACEMENT_CHARACTER);
                rest = &rest[begun..];
            }
            let len = match sequence(rest) {
                Sequence::Begun => break,
                Sequence::Whole(len) if is_harmless(&rest[..len]) => {
                    self.note(&rest[..len]);
                    shown.extend_from_slice(&rest[..len]);
                    len
                }
                Sequence::Whole(_) | Sequence::Other => {
                    shown.push(b'?');
                    1
                }
            };
            rest = &rest[len..];
        }
        self.begun = rest.to_vec();
        shown
    }

    /// The output to show at the end of the stream, which restores the terminal.
    pub(super) fn end(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        match std::mem::take(&mut self.begun).split_first() {
            None => {}
            Some((&ESC, rest)) => {
                shown.push(b'?');
                shown.extend_from_slice(rest);
            }
            Some(_) => push(&mut shown, char::REPLACEMENT_CHARACTER),
        }
        if std::mem::take(&mut self.coloured) {
            shown.extend_from_slice(b"\x1b[0m");
        }
        if std::mem::take(&mut self.hidden) {
            shown.extend_from_slice(b"\x1b[?25h");
        }
        shown
    }

    fn note(&mut self, sequence: &[u8]) {
        match sequence {
            b"\x1b[m" | b"\x1b[0m" => self.coloured = false,
            b"\x1b[?25l" => self.hidden = true,
            b"\x1b[?25h" => self.hidden = false,
            [.., b'm'] => self.coloured = true,
            _ => {}
        }
    }
}

/// Whether the cursor is not at the beginning of its line after filtered output is shown;
/// `None` if the output does not change that.
pub(super) fn is_in_line(shown: &[u8]) -> Option<bool> {
    let end = shown.iter().rposition(|byte| *byte == b'\n');
    let mut last = &shown[end.map_or(0, |end| end + 1)..];
    while !last.is_empty() {
        match sequence(last) {
            Sequence::Whole(len) => last = &last[len..],
            Sequence::Begun | Sequence::Other => return Some(true),
        }
    }
    end.map(|_| false)
}

enum Sequence {
    /// Its end has not arrived.
    Begun,
    /// A control sequence of this length in bytes.
    Whole(usize),
    /// Something else, or it is too long.
    Other,
}

/// The sequence that begins with [`ESC`], as ECMA-48 5.4 defines control sequences: `ESC
/// [`, bytes from `0x30` to `0x3f`, bytes from `0x20` to `0x2f`, one from `0x40` to `0x7e`.
fn sequence(bytes: &[u8]) -> Sequence {
    match bytes {
        [ESC] => return Sequence::Begun,
        [ESC, b'[', ..] => {}
        _ => return Sequence::Other,
    }
    let end = bytes
        .iter()
        .skip(2)
        .take(MAX_SEQUENCE - 2)
        .position(|byte| !matches!(byte, 0x20..0x40));
    match end.map(|end| end + 2) {
        Some(end) if matches!(bytes[end], 0x40..=0x7e) => Sequence::Whole(end + 1),
        None if bytes.len() < MAX_SEQUENCE => Sequence::Begun,
        _ => Sequence::Other,
    }
}

/// Whether a control sequence only changes colours, or the content of the cursor's line or
/// of lines below it, where only the task's own output can be.
fn is_harmless(sequence: &[u8]) -> bool {
    let Some((last, parameters)) = sequence[2..].split_last() else {
        return false;
    };
    let numbers = |separators: &[u8]| {
        parameters
            .iter()
            .all(|byte| byte.is_ascii_digit() || separators.contains(byte))
    };
    match last {
        // Colours and styles.
        b'm' => numbers(b";:"),
        // Right, left, to a column; erase in the line; insert, delete, erase characters.
        b'C' | b'D' | b'G' | b'K' | b'@' | b'P' | b'X' => numbers(b""),
        // Erase what is behind the cursor.
        b'J' => matches!(parameters, b"" | b"0"),
        // Hide and show the cursor.
        b'h' | b'l' => parameters == b"?25",
        _ => false,
    }
}

/// Converts bytes without [`ESC`]. Returns how many bytes at the end are the beginning of a
/// character.
fn text_of(mut bytes: &[u8], shown: &mut Vec<u8>) -> usize {
    loop {
        let (text, wrong) = match std::str::from_utf8(bytes) {
            Ok(text) => (text, Some(0)),
            Err(error) => {
                let text = std::str::from_utf8(&bytes[..error.valid_up_to()]);
                (text.unwrap_or_default(), error.error_len())
            }
        };
        for c in text.chars() {
            let c = match c {
                '\n' | '\r' | '\t' | '\u{8}' => c,
                '\0'..' ' | '\u{7f}' => '?',
                // Control characters, too.
                '\u{80}'..'\u{a0}' => '\u{bf}',
                _ => c,
            };
            push(shown, c);
        }
        bytes = &bytes[text.len()..];
        match wrong {
            Some(0) => return 0,
            Some(len) => {
                push(shown, char::REPLACEMENT_CHARACTER);
                bytes = &bytes[len..];
            }
            None => return bytes.len(),
        }
    }
}

fn push(shown: &mut Vec<u8>, c: char) {
    shown.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one chunk, and byte by byte: with the same result.
    fn shown(bytes: &[u8]) -> String {
        let mut filter = Filter::default();
        let mut at_once = filter.pass(bytes);
        at_once.extend(filter.end());
        let mut filter = Filter::default();
        let mut in_pieces: Vec<u8> = bytes
            .iter()
            .flat_map(|byte| filter.pass(std::slice::from_ref(byte)))
            .collect();
        in_pieces.extend(filter.end());
        assert_eq!(at_once, in_pieces, "{bytes:?}");
        String::from_utf8(at_once).expect("UTF-8")
    }

    #[test]
    fn what_is_harmless_passes() {
        for text in [
            "",
            "a\tb\r\nc\u{8}d",
            "ä € 𝄞",
            "\x1b[1;38;2;255;100;0mred\x1b[0m",
            "\x1b[4:3mcurly\x1b[m",
            "\x1b[2Kx\x1b[5D\x1b[C\x1b[10G\x1b[3P\x1b[@\x1b[4X\x1b[J\x1b[0J",
            "\x1b[?25lspin\x1b[?25h",
        ] {
            assert_eq!(shown(text.as_bytes()), text);
        }
    }

    #[test]
    fn a_terminal_is_not_commanded() {
        for (bytes, seen) in [
            (&b"a\x1b[2J\n"[..], "a?[2J\n"),
            (b"\x1b]0;title\x07x", "?]0;title?x"),
            (b"\x1b]52;c;aGk=\x1b\\x", "?]52;c;aGk=?\\x"),
            (b"\x1bP$q\"p\x1b\\", "?P$q\"p?\\"),
            (b"\x1b[6n\x1b[c\x1b[>c", "?[6n?[c?[>c"),
            (b"\x1b[A\x1b[H\x1b[2;3H\x1b[1J", "?[A?[H?[2;3H?[1J"),
            (
                b"\x1b[>4;2m\x1b[?1049h\x1b[?1000h",
                "?[>4;2m?[?1049h?[?1000h",
            ),
            (b"\x1b[1;?25h\x1b[2 q\x1b[!p", "?[1;?25h?[2 q?[!p"),
            (b"\x1b7\x1b8\x1bc\x1b(0", "?7?8?c?(0"),
            (b"\x07\x00\x0e\x7f\x0c", "?????"),
            ("ä\u{9b}2J".as_bytes(), "ä\u{bf}2J"),
            (b"\x9b2J\xff\xe2\x82", "\u{fffd}2J\u{fffd}\u{fffd}"),
            (b"\xe2\x82\x1b[K\xe2a", "\u{fffd}\x1b[K\u{fffd}a"),
            // Sequences that do not end, or that others interrupt.
            (b"\x1b", "?"),
            (b"\x1b[12", "?[12"),
            (b"\x1b[1\x1b[K", "?[1\x1b[K"),
            (b"\x1b\x1b[K", "?\x1b[K"),
            (b"\x1b[1\nm", "?[1\nm"),
        ] {
            assert_eq!(shown(bytes), seen);
        }
        let long = format!("\x1b[{}m", "1;".repeat(500));
        assert_eq!(shown(long.as_bytes()), long.replace('\x1b', "?"));
    }

    #[test]
    fn where_the_cursor_is() {
        for (shown, expected) in [
            ("", None),
            ("\x1b[0m", None),
            ("a\n\x1b[0m", Some(false)),
            ("a\n\x1b[0m ", Some(true)),
            ("a\r", Some(true)),
            ("\n", Some(false)),
        ] {
            assert_eq!(is_in_line(shown.as_bytes()), expected, "{shown:?}");
        }
    }

    #[test]
    fn what_is_no_text_takes_no_time() {
        let mut filter = Filter::default();
        let bytes = vec![0xff; 1 << 20];
        assert_eq!(filter.pass(&bytes).len(), 3 << 20);
        let bytes = b"\x1b".repeat(1 << 20);
        let mut shown = filter.pass(&bytes);
        shown.extend(filter.end());
        assert_eq!(shown, b"?".repeat(1 << 20));
    }

    #[test]
    fn the_end_leaves_the_terminal_as_it_was() {
        assert_eq!(shown(b"\x1b[31mred"), "\x1b[31mred\x1b[0m");
        assert_eq!(shown(b"\x1b[?25lx"), "\x1b[?25lx\x1b[?25h");
        assert_eq!(
            shown(b"\x1b[1m\x1b[?25l\x1b[0"),
            "\x1b[1m\x1b[?25l?[0\x1b[0m\x1b[?25h"
        );
    }
}
