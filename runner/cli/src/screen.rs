//! The line of the terminal in which progress is drawn.
//!
//! Invariant: between two drawings the cursor is at the beginning of the line, and the
//! line is shorter than the terminal is wide. So a terminal that is made narrower, and
//! breaks the line in two or cuts it off, has all of it at the cursor or behind it, where
//! the next drawing erases it.

use super::{log, stdio};
use indicatif::{ProgressDrawTarget, TermLike};
use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use unicode_width::UnicodeWidthChar;

/// The width of a terminal that does not tell.
const WIDTH: u16 = 80;

/// Where a line about progress is drawn: stderr, at most so often a second.
pub(super) fn draw_target(hz: u8) -> ProgressDrawTarget {
    ProgressDrawTarget::term_like_with_hz(Box::new(Screen::default()), hz)
}

/// What is drawn is written once it is whole.
#[derive(Debug, Default)]
struct Screen(Mutex<String>);

impl Screen {
    fn draw(&self, text: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_str(text);
    }
}

/// As much of it as a line of fewer columns than `width` has.
fn cut(text: &str, width: u16) -> &str {
    let mut columns = 0;
    let end = text.char_indices().find(|(_, c)| {
        columns += c.width().unwrap_or(0);
        columns >= usize::from(width)
    });
    end.map_or(text, |(end, _)| &text[..end])
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stderr());
        // Some do not know, and say so by zero.
        let width = size.ok().map(|size| size.ws_col).filter(|width| *width > 0);
        width.unwrap_or(WIDTH)
    }

    // There is one line, and the cursor is at its beginning.

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        // The rest of the line is empty as it is.
        self.draw(cut(text.trim_end_matches(' '), self.width()));
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw("\r\x1b[J");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut drawn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut drawn = std::mem::take(&mut *drawn);
        if drawn.is_empty() {
            return Ok(());
        }
        drawn.push('\r');
        log::draw(&drawn, || stdio::stderr().write_all(drawn.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_line_is_shorter_than_the_terminal_is_wide() {
        assert_eq!(cut("12345", 80), "12345");
        assert_eq!(cut("12345", 6), "12345");
        assert_eq!(cut("12345", 5), "1234");
        assert_eq!(cut("a\u{4e2d}\u{6587}", 4), "a\u{4e2d}");
        assert_eq!(cut("a\u{4e2d}\u{6587}", 5), "a\u{4e2d}");
        assert_eq!(cut("a\u{4e2d}\u{6587}", 6), "a\u{4e2d}\u{6587}");
        assert_eq!(cut("ab", 1), "");
        assert_eq!(cut("", 0), "");
    }
}
