//! How far a batch is: a line on a terminal, plain lines elsewhere; and what failed, as it fails.

use super::{screen, text};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wrun_map::{Failures, Meter};

/// The interval of plain lines.
const PLAIN: Duration = Duration::from_secs(10);
/// Failed inputs that are printed.
const PRINTED: u64 = 50;

/// See the [module](self).
pub(super) struct MapProgress {
    bar: Option<ProgressBar>,
    /// When the last plain line was printed.
    plain: Option<Instant>,
    began: Instant,
    /// Inputs that had ended before this run.
    before: u64,
    failures: Arc<Failures>,
    meter: Arc<Meter>,
    printed: u64,
    prints_failed: bool,
}

impl MapProgress {
    pub(super) fn new(
        is_wanted: bool,
        prints_failed: bool,
        failures: Arc<Failures>,
        meter: Arc<Meter>,
    ) -> Self {
        let bar = (is_wanted && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, screen::draw_target(10));
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        MapProgress {
            plain: (is_wanted && bar.is_none()).then(Instant::now),
            bar,
            began: Instant::now(),
            before: failures.ended(),
            failures,
            meter,
            printed: 0,
            prints_failed,
        }
    }

    /// Shows the latest state, if it is time for that.
    pub(super) fn show(&mut self, in_flight: usize, retries: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(self.line(in_flight, retries));
        } else if self.plain.is_some_and(|last| last.elapsed() >= PLAIN) {
            self.plain = Some(Instant::now());
            text::complain(&self.line(in_flight, retries));
        }
    }

    fn line(&self, in_flight: usize, retries: u64) -> String {
        let ended = self.failures.ended();
        let elapsed = self.began.elapsed().as_secs_f64();
        let rate = (ended - self.before) as f64 / elapsed.max(0.001);
        let mut line = match self.meter.total() {
            Some(total) => format!("{ended} of {total}"),
            None => format!("{ended} done"),
        };
        line += &match rate {
            0.0 => String::new(),
            rate if rate < 10.0 => format!(", {rate:.1}/s"),
            rate => format!(", {rate:.0}/s"),
        };
        let left = match (self.meter.total(), self.meter.fraction()) {
            (Some(total), _) if rate > 0.0 => Some(total.saturating_sub(ended) as f64 / rate),
            // The part of the file that was read, less what waits.
            (None, Some(read)) if read > 0.0 && rate > 0.0 => {
                let total = self.meter.found() as f64 / read;
                Some((total - ended as f64).max(0.0) / rate)
            }
            _ => None,
        };
        if let Some(left) = left.filter(|left| left.is_finite() && *left < 1e7) {
            let left = Duration::from_secs(left.ceil() as u64);
            line += &format!(", {} left", humantime::format_duration(left));
        }
        for (count, what) in [(self.failures.failed(), "failed"), (retries, "repeated")] {
            if count > 0 {
                line += &format!(", {count} {what}");
            }
        }
        line + &format!(", {in_flight} in flight")
    }

    /// Prints that an input failed.
    pub(super) fn failed(&mut self, name: &str, why: &str) {
        self.printed += 1;
        if !self.prints_failed || self.printed > PRINTED + 1 {
            return;
        }
        let message = match self.printed > PRINTED {
            true => "more inputs failed, which are not printed here".to_owned(),
            false => format!("{}: {}", text::name(name), text::name(why)),
        };
        self.around(|| text::complain(&message));
    }

    /// Prints something else.
    pub(super) fn say(&self, message: &str) {
        self.around(|| text::complain(message));
    }

    fn around(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Erases the line.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
