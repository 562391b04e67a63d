//! The options of process mode: their definitions, conflicts, and settings.

use super::values::{one_of, whole};
use super::{Failure, exit};
use clap::Args;
use std::ops::RangeInclusive;
use std::time::Duration;
use wrun::{Builder, Jail, Mode, ProcessOptions, Start, Task};

const HEADING: &str = "Process mode";

/// Options for the walls around worker processes.
#[derive(Args, Debug)]
pub(crate) struct WallArgs {
    /// The kernel's walls around the task: `strict` (fail if a required wall is missing),
    /// `best-effort` (use the walls that are available) or `off` [default: strict]
    #[arg(
        long,
        value_name = "JAIL",
        help_heading = HEADING,
        value_parser = one_of::<Jail>(&["strict", "best-effort", "off"])
    )]
    pub(crate) jail: Option<Jail>,

    /// Run the task as this user ID, or each process as a different user ID of this range;
    /// requires root, and must not be 0 [default: the current user; as root, one of
    /// 2013265920-2013331455]
    #[arg(long, value_name = "N[-M]", help_heading = HEADING, value_parser = uids)]
    pub(crate) uid: Option<RangeInclusive<u32>>,

    /// Run the task as this group ID [default: the value of --uid]
    #[arg(
        long,
        value_name = "N",
        help_heading = HEADING,
        requires = "uid",
        value_parser = whole::<u32>(1..=u64::from(u32::MAX) - 1)
    )]
    pub(crate) gid: Option<u32>,
}

impl WallArgs {
    /// The settings that they make.
    pub(super) fn options(&self) -> Result<ProcessOptions, Failure> {
        let options = ProcessOptions::default().jail(self.jail.unwrap_or_default());
        let usage = |message: &str| Err(Failure::new(exit::USAGE, message));
        let Some(uid) = &self.uid else {
            return Ok(options);
        };
        if self.jail == Some(Jail::Off) {
            return usage("--uid cannot be used with --jail off");
        }
        if !rustix::process::geteuid().is_root() {
            return usage("--uid requires root: only root may run a task as another user");
        }
        let (first, last) = (*uid.start(), *uid.end());
        if first == last {
            return Ok(options.identity(first, self.gid.unwrap_or(first)));
        }
        if self.gid.is_some() {
            return usage(
                "--gid cannot be used with a range of --uid: the group of each user is its number",
            );
        }
        Ok(options.users(uid.clone()))
    }
}

impl WallArgs {
    /// Refuses walls that thread mode does not have.
    pub(super) fn check(&self, mode: Mode) -> Result<(), Failure> {
        let usage = |message: &str| Err(Failure::new(exit::USAGE, message));
        let walls = self.jail.is_some_and(|jail| jail != Jail::Off);
        match mode {
            Mode::Thread if walls => {
                usage("--jail needs --mode process: a thread cannot be jailed")
            }
            Mode::Thread if self.uid.is_some() => {
                usage("--uid needs --mode process: threads have the user of their process")
            }
            _ => Ok(()),
        }
    }
}

/// One number, or a range of them.
fn uids(text: &str) -> Result<RangeInclusive<u32>, String> {
    let number = |text: &str| {
        text.parse()
            .ok()
            .filter(|number| (1..u32::MAX).contains(number))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(
            "expected a user ID from 1 to 4294967294, or a range N-M of them, N not above M"
                .to_owned(),
        ),
    }
}

/// How long worker processes are used.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ReuseArgs {
    /// Run up to N tasks in each process, one after another, each in a fresh sandbox
    #[arg(
        long,
        value_name = "N",
        help_heading = HEADING,
        default_value_t = 1,
        value_parser = whole::<u32>(1..=u32::MAX.into())
    )]
    pub(crate) reuse: u32,

    /// End worker processes that have been idle for this long
    #[arg(
        long,
        value_name = "TIME",
        help_heading = HEADING,
        default_value = "60s",
        value_parser = super::values::duration
    )]
    pub(crate) idle_timeout: Duration,
}

impl ReuseArgs {
    fn apply(self, options: ProcessOptions) -> ProcessOptions {
        options.reuse(self.reuse).idle_timeout(self.idle_timeout)
    }
}

/// Options that say how a server's worker processes are made. In thread mode they have no
/// effect.
#[derive(Args, Debug)]
pub(crate) struct PoolArgs {
    /// How to start worker processes: `exec` (start the program for each) or `fork` (from a
    /// process that has the app loaded)
    #[arg(
        long,
        value_name = "HOW",
        help_heading = HEADING,
        default_value_t = Start::Fork,
        value_parser = one_of::<Start>(&["exec", "fork"])
    )]
    pub(crate) start: Start,

    /// Keep N worker processes ready for the next requests
    #[arg(
        long,
        value_name = "N",
        help_heading = HEADING,
        default_value_t = ProcessOptions::SPARES_DEFAULT,
        value_parser = whole::<usize>(0..=u64::MAX)
    )]
    pub(crate) spares: usize,

    #[command(flatten)]
    pub(crate) reuse: ReuseArgs,
}

impl PoolArgs {
    /// What they set.
    pub(super) fn apply(&self, options: ProcessOptions) -> ProcessOptions {
        self.reuse
            .apply(options.start(self.start).spares(self.spares))
    }
}

/// Options for how worker processes are started and confined. In thread mode those that
/// only concern speed have no effect.
#[derive(Args, Debug)]
pub(crate) struct ProcessArgs {
    #[command(flatten)]
    pub(crate) walls: WallArgs,

    /// Retry up to N times if the task's process died, and for no other reason; never after
    /// streamed input was read or output was passed on
    #[arg(
        long,
        value_name = "N",
        help_heading = HEADING,
        default_value_t = 0,
        value_parser = whole::<u32>(0..=Task::MAX_RETRIES.into())
    )]
    pub(crate) retries: u32,

    /// How to start worker processes: `exec` (start the program for each; without this option
    /// the first is forked before the options are read) or `fork` (from a process that has the
    /// task loaded; faster for many runs)
    #[arg(
        long,
        value_name = "HOW",
        help_heading = HEADING,
        default_value_t = Start::Exec,
        value_parser = one_of::<Start>(&["exec", "fork"])
    )]
    pub(crate) start: Start,

    /// Keep N worker processes ready for the next tasks
    #[arg(
        long,
        value_name = "N",
        help_heading = HEADING,
        default_value_t = 0,
        value_parser = whole::<usize>(0..=u64::MAX)
    )]
    pub(crate) spares: usize,

    /// Run at most N tasks at the same time
    #[arg(
        long,
        value_name = "N",
        help_heading = HEADING,
        default_value = "1",
        value_parser = whole::<u32>(1..=4096)
    )]
    pub(crate) workers: u32,

    #[command(flatten)]
    pub(crate) reuse: ReuseArgs,
}

impl ProcessArgs {
    /// Configures a runner, unless the options contradict each other.
    pub(super) fn apply(&self, mode: Mode, builder: Builder) -> Result<Builder, Failure> {
        self.walls.check(mode)?;
        let options = self.walls.options()?.start(self.start).spares(self.spares);
        let options = self.reuse.apply(options);
        Ok(builder.process(options).max_running(self.workers as usize))
    }
}
