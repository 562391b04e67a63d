//! The task's progress, or that it is still being compiled, in the last line of the
//! terminal.
//!
//! Invariant: the task's output on the terminal is not altered: the line is erased while
//! output is written, and stays away while the cursor is not at the beginning of a line. A
//! terminal that accepts nothing delays only the threads that write to it.

use super::terminal::is_in_line;
use super::{screen, text};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use wrun::{Progress, ProgressWatch, Runner};
use wrun_sys::Unpoisoned;

/// How long erasing the line may take.
const LAST_LINE: Duration = Duration::from_millis(200);
/// How long a task must have been compiling before it is shown; and the interval of
/// updates.
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Line {
    content: Arc<Mutex<LineContent>>,
    wanted: bool,
}

struct LineContent {
    /// `None` until the task reports progress. It has its `MultiProgress`, because only
    /// that can be erased for a while.
    bar: Option<(MultiProgress, ProgressBar)>,
    name: String,
    /// The cursor is behind output of the task.
    in_line: bool,
}

impl Line {
    /// For a task of this name; nothing is shown unless stderr is a terminal.
    pub(super) fn new(name: &str, wanted: bool) -> Self {
        Line {
            content: Arc::new(Mutex::new(LineContent {
                bar: None,
                name: text::name(name),
                in_line: false,
            })),
            wanted: wanted && io::stderr().is_terminal(),
        }
    }

    /// Shows the task's progress while this is polled; then erases the line, and drops
    /// `gone`.
    pub(super) async fn follow(&self, mut watch: ProgressWatch, gone: Sender<()>) {
        if !self.wanted {
            return;
        }
        // Progress that is missed while the terminal accepts nothing is outdated by then.
        let (latest, to_show) = sync_channel(1);
        let mut showing = Some((to_show, gone));
        while let Some(progress) = watch.changed().await {
            if let Some((to_show, gone)) = showing.take() {
                let line = self.clone();
                let thread = std::thread::Builder::new().name("wrun-progress".into());
                let shown = thread.spawn(move || line.show(&to_show, &gone));
                if shown.is_err() {
                    return;
                }
            }
            let _ = latest.try_send(progress);
        }
    }

    fn show(&self, latest: &Receiver<Progress>, _gone: &Sender<()>) {
        for progress in latest {
            self.lock().show(progress);
        }
        if let Some((lines, bar)) = self.lock().bar.take() {
            bar.abandon();
            let _ = lines.clear();
        }
    }

    /// Writes something to the terminal.
    pub(super) fn around<T>(&self, shown: &[u8], write: impl FnOnce() -> T) -> T {
        let mut content = self.lock();
        if let Some((lines, _)) = &content.bar {
            let _ = lines.clear();
        }
        if let Some(in_line) = is_in_line(shown) {
            content.in_line = in_line;
        }
        write()
    }

    fn lock(&self) -> MutexGuard<'_, LineContent> {
        self.content.lock().unpoisoned()
    }
}

/// A signal that a line is gone.
pub(super) fn gone() -> (Sender<()>, Gone) {
    let (sender, receiver) = channel();
    (sender, Gone(receiver))
}

pub(super) struct Gone(Receiver<()>);

impl Gone {
    /// Waits until it is, or the terminal does not accept it.
    pub(super) fn wait(self) {
        let _ = self.0.recv_timeout(LAST_LINE);
    }
}

impl LineContent {
    fn show(&mut self, Progress { done, total, .. }: Progress) {
        if self.in_line {
            return;
        }
        let (_, bar) = self.bar.get_or_insert_with(|| {
            // At most this many times per second.
            let lines = MultiProgress::with_draw_target(screen::draw_target(10));
            // Not set once it is shown: that would draw it before it has its style.
            let bar = ProgressBar::no_length().with_prefix(self.name.clone());
            let bar = lines.add(bar);
            (lines, bar)
        });
        if bar.length() != total || bar.position() == 0 {
            let style = match total {
                Some(_) => "{prefix} [{bar:30}] {human_pos}/{human_len} {percent} %, {elapsed}",
                None => "{prefix} {human_pos}, {elapsed}",
            };
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.progress_chars("=> "));
            }
            match total {
                Some(total) => bar.set_length(total),
                None => bar.unset_length(),
            }
        }
        bar.set_position(done);
    }
}

/// Shows for how long a task has been compiling, while this is polled; then erases the
/// line, and drops `gone`. No effect unless stderr is a terminal.
pub(super) async fn compiling(
    name: &str,
    wanted: bool,
    runner: &Runner,
    gone: Sender<()>,
) -> Infallible {
    let began = Instant::now();
    let (latest, to_show) = sync_channel(1);
    let mut showing = Some((to_show, gone));
    while wanted && io::stderr().is_terminal() {
        tokio::time::sleep(SECOND).await;
        if runner.compiling() == 0 {
            continue;
        }
        if let Some((to_show, gone)) = showing.take() {
            let name = text::name(name);
            let thread = std::thread::Builder::new().name("wrun-progress".into());
            let shown = thread.spawn(move || show_compiling(&name, &to_show, &gone));
            if shown.is_err() {
                break;
            }
        }
        let _ = latest.try_send(began.elapsed());
    }
    std::future::pending().await
}

fn show_compiling(name: &str, latest: &Receiver<Duration>, _gone: &Sender<()>) {
    let bar = ProgressBar::with_draw_target(None, screen::draw_target(10));
    if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
        bar.set_style(style);
    }
    for time in latest {
        bar.set_message(format!("compiling {name}: {} s", time.as_secs()));
    }
    bar.finish_and_clear();
}
