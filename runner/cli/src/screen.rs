//! The line of the terminal in which progress is drawn.
//!
//! Invariant: between two drawings the cursor is at the beginning of the line, and the line
//! is shorter than the terminal is wide. So if a terminal is made narrower, and wraps or
//! cuts the line, all of it is at the cursor or behind it, where the next drawing erases
//! it. While the process is stopped the line is erased: the terminal is the shell's.

use super::{log, stdio};
use indicatif::{ProgressDrawTarget, TermLike};
use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};
use unicode_width::UnicodeWidthChar;
use wrun_sys::Unpoisoned;

/// The width of a terminal that does not report it.
const WIDTH: u16 = 80;
/// Erases the line.
const ERASE: &str = "\r\x1b[J";
/// How long a drawing in progress may delay stopping the process: it would be forever if
/// the terminal accepts nothing.
const PATIENCE: Duration = Duration::from_millis(200);

static LINE: Mutex<Line> = Mutex::new(Line {
    drawn: String::new(),
    is_hidden: false,
});

/// The line on the terminal; a process has one.
struct Line {
    /// The last drawing, whether it is shown or hidden.
    drawn: String,
    /// Nothing is drawn now.
    is_hidden: bool,
}

impl Line {
    fn draw(&mut self, drawn: String) -> io::Result<()> {
        self.drawn = drawn;
        match self.is_hidden {
            true => Ok(()),
            false => log::draw(&self.drawn, || {
                stdio::stderr().write_all(self.drawn.as_bytes())
            }),
        }
    }

    fn is_empty(&self) -> bool {
        self.drawn.replace(ERASE, "").trim_matches('\r').is_empty()
    }
}

/// Erases the line, and prevents drawing until [`show_again`]. For the thread that is about
/// to stop the process: it does not wait for a terminal that accepts nothing.
pub(super) fn hide() {
    let Some(mut line) = line() else {
        return;
    };
    line.is_hidden = true;
    if !line.is_empty() && is_ours() {
        stdio::stderr().write_if_ready(ERASE.as_bytes());
    }
}

/// Draws the line again, with its current content, if this job has the terminal.
pub(super) fn show_again() {
    // `None` only if it was not hidden: then a drawing waits for the terminal.
    let Some(mut line) = line() else {
        return;
    };
    line.is_hidden = false;
    if !line.is_empty() && is_ours() {
        stdio::stderr().write_if_ready(line.drawn.as_bytes());
    }
}

fn line() -> Option<MutexGuard<'static, Line>> {
    let until = Instant::now() + PATIENCE;
    loop {
        match LINE.try_lock() {
            Ok(line) => return Some(line),
            Err(TryLockError::Poisoned(line)) => return Some(line.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(PATIENCE / 100),
        }
    }
}

/// Whether the terminal is this job's, and not that of a shell or another job.
fn is_ours() -> bool {
    let foreground = rustix::termios::tcgetpgrp(rustix::stdio::stderr());
    foreground.is_ok_and(|group| group == rustix::process::getpgrp())
}

/// The target of a progress line: stderr, at most this many times per second.
pub(super) fn draw_target(hz: u8) -> ProgressDrawTarget {
    ProgressDrawTarget::term_like_with_hz(Box::new(Screen::default()), hz)
}

/// A drawing is written once it is complete.
#[derive(Debug, Default)]
struct Screen(Mutex<String>);

impl Screen {
    fn draw(&self, text: &str) {
        self.0.lock().unpoisoned().push_str(text);
    }
}

/// As much of it as fits in fewer than `width` columns.
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
        // Some do not know, and report zero.
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
        // The rest of the line is empty anyway.
        self.draw(cut(text.trim_end_matches(' '), self.width()));
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw(ERASE);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut drawn = self.0.lock().unpoisoned();
        let mut drawn = std::mem::take(&mut *drawn);
        if drawn.is_empty() {
            return Ok(());
        }
        drawn.push('\r');
        LINE.lock().unpoisoned().draw(drawn)
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
