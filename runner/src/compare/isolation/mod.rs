//! What each mode holds: faults that are really injected while other tasks run.
//!
//! What a guest does, and what happens in workers, happens to a runner of this program.
//! In thread mode, what ends or takes over the host happens in a program that is started
//! for it, a whole runner with its tasks. Every wait has an end, and what could not be
//! seen is said to be not measured, with the reason.
//!
//! Invariant: nothing is left behind, no process, no file, whatever became of a fault.

mod catalogue;
mod host;
mod place;
mod scene;
mod stopped;

use crate::builder::Builder;
use crate::compare::{Fault, Finding};
use crate::config::Mode;
use crate::error::{Error, ErrorKind};
use catalogue::By;
use host::Host;
pub(crate) use host::be_sacrificed;
pub use place::Place;
use scene::Stage;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc;
use stopped::Known;
use tokio::runtime::Runtime;

/// Injects faults, each in one mode, while eight other tasks run, and tells of each what
/// became of it: what stopped it, how many of the others were lost, whether the host
/// lived, how long it took to know and to go on.
///
/// `builder` has the worker program, the jail and the identity; its mode does not count.
/// A fault that cannot be injected here is [`Finding::NotMeasured`]. `found` is called in
/// the order of `wanted`; with [`ControlFlow::Break`], no other fault is injected. Blocks
/// for a third of a second per fault, more or less.
///
/// The faults do no harm beyond the tasks and the programs that are started for them:
/// what is written, connected to and read is made for it, the signal is number 0, the
/// program is a shell that exits. With [`Jail::Off`](crate::Jail::Off) and in thread mode
/// they really happen.
///
/// # Errors
///
/// [`ErrorKind::System`] when there is no place for temporary files, or no thread.
///
/// # Examples
///
/// ```
/// use std::ops::ControlFlow;
/// use wrun::compare::{Fault, Finding, inject};
/// use wrun::{Mode, Runner};
///
/// # fn main() -> Result<(), wrun::Error> {
/// inject(&Runner::builder(), &[(Fault::Trap, Mode::Thread)], &mut |fault, mode, finding| {
///     if let Finding::Measured(seen) = finding {
///         println!("{} in {mode} mode: stopped by {}", fault.name(), seen.stopped_by);
///         assert!(seen.held);
///     }
///     ControlFlow::Continue(())
/// })
/// # }
/// ```
pub fn inject(
    builder: &Builder,
    wanted: &[(Fault, Mode)],
    found: &mut dyn FnMut(Fault, Mode, Finding) -> ControlFlow<()>,
) -> Result<(), Error> {
    inject_at(builder, Place::new()?, wanted, found)
}

/// [`inject`], with what escaped code aims at. For wrun's own tests, which look whether
/// it was hit.
///
/// # Errors
///
/// As [`inject`].
#[doc(hidden)]
pub fn inject_at(
    builder: &Builder,
    place: Place,
    wanted: &[(Fault, Mode)],
    found: &mut dyn FnMut(Fault, Mode, Finding) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut isolation = Isolation {
        builder: builder.clone(),
        worker: builder.named_worker()?,
        runtime: runtime()?,
        place,
        thread: None,
        process: None,
    };
    // Whoever calls may be on a thread that drives other futures. The programs that are
    // started mean this one thread.
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::sync_channel(1);
        let (answer, answers) = mpsc::sync_channel(1);
        let work = move || {
            for (fault, mode) in wanted {
                let finding = isolation.measure(*fault, *mode);
                let went_on = tell.send((*fault, *mode, finding)).is_ok();
                if !went_on || !matches!(answers.recv(), Ok(ControlFlow::Continue(()))) {
                    break;
                }
            }
        };
        std::thread::Builder::new()
            .name("wrun-compare".into())
            .spawn_scoped(scope, work)
            .map_err(|error| {
                Error::new(ErrorKind::System, format!("cannot start a thread: {error}"))
            })?;
        for (fault, mode, finding) in told {
            // It has ended where it does not listen.
            let _ = answer.send(found(fault, mode, finding));
        }
        Ok(())
    })
}

/// What all faults share.
struct Isolation {
    builder: Builder,
    worker: Option<PathBuf>,
    runtime: Runtime,
    place: Place,
    /// Runners of this program, as long as nothing went wrong with them.
    thread: Option<Stage>,
    process: Option<Stage>,
}

impl Isolation {
    fn measure(&mut self, fault: Fault, mode: Mode) -> Finding {
        let sacrificed = mode == Mode::Thread && fault.by() != By::Guest;
        if let Some(why) = self.place.lacks(fault) {
            return Finding::NotMeasured { why };
        }
        self.place.tidy();
        let played = if sacrificed {
            match host::sacrifice(self.worker.as_deref(), fault, self.place.aim()) {
                Ok(Host::Lives(played)) => Ok(*played),
                Ok(Host::Dead(seen)) => return Finding::Measured(seen),
                Ok(Host::Unknown(why)) => return Finding::NotMeasured { why },
                Err(error) => Err(error),
            }
        } else {
            self.play(fault, mode)
        };
        let played = match played {
            Ok(played) => played,
            Err(error) => {
                return Finding::NotMeasured {
                    why: error.to_string(),
                };
            }
        };
        let known = Known {
            fault,
            mode,
            sacrificed,
            trace: self.place.trace_of(fault),
            is_open: self.place.aim().is_open,
            ptrace_scope: ptrace_scope(),
        };
        known.finding(&played)
    }

    /// In a runner of this program, which is made anew after something went wrong.
    fn play(&mut self, fault: Fault, mode: Mode) -> Result<scene::Played, Error> {
        let slot = match mode {
            Mode::Thread => &mut self.thread,
            Mode::Process => &mut self.process,
        };
        let mut stage = match slot.take() {
            Some(stage) => stage,
            None => Stage::set(self.builder.clone().mode(mode))?,
        };
        stage.prepare(fault)?;
        let aim = self.place.aim();
        let played = self.runtime.block_on(stage.play(fault, aim, &mut || {}))?;
        if played.lost == 0 && played.recovered_ns.is_some() {
            *slot = Some(stage);
        }
        Ok(played)
    }
}

/// For waiting with an end; what runs has threads of its own.
fn runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| Error::new(ErrorKind::System, format!("cannot wait: {error}")))
}

/// How the kernel restricts debuggers, where it does.
fn ptrace_scope() -> Option<u8> {
    let text = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?;
    text.trim().parse().ok()
}
