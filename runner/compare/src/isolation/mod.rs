//! What each mode contains: faults that are injected while other tasks run.
//!
//! Faults of guests and of workers are injected in a runner of this program. In thread
//! mode, faults that end or take over the host are injected in a program that is started
//! for them, a whole runner with its tasks. Every wait is bounded, and what could not be
//! observed is reported as not measured, with the reason.
//!
//! Invariant: no process and no file is left behind, whatever a fault did.

mod catalogue;
mod clients;
mod crash_host;
mod crash_host_main;
mod host;
mod scene;
mod stopped;
mod target;

use crate::{Fault, Finding};
use catalogue::By;
pub(crate) use clients::Handler;
pub(crate) use crash_host_main::ROLE;
use host::Host;
use scene::{Played, Stage, runtime};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc;
use stopped::Known;
pub use target::FaultTarget;
use tokio::runtime::Runtime;
use wrun::{Builder, Error, ErrorKind, Mode, measure::deadline};

/// Injects faults, each in one mode, while eight other tasks run, and reports for each:
/// what stopped it, how many of the others were lost, whether the host survived, how long
/// detection and recovery took.
///
/// `builder` has the worker program, the jail and the identity; its mode is ignored. A
/// fault that cannot be injected here is [`Finding::NotMeasured`]. `found` is called in the
/// order of `wanted`; after [`ControlFlow::Break`], no other fault is injected. Blocks for
/// about a tenth of a second per fault.
///
/// The faults only affect the tasks and the programs that are started for them: what is
/// written, connected to and read is made for it, the signal is number 0, the program is a
/// shell that exits. With [`Jail::Off`](wrun::Jail::Off) and in thread mode they really
/// happen.
///
/// # Errors
///
/// [`ErrorKind::System`] if there is no directory for temporary files, or no thread.
///
/// # Examples
///
/// ```
/// use std::ops::ControlFlow;
/// use wrun_compare::{Fault, Finding, inject};
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
    inject_beside(builder, None, FaultTarget::new()?, wanted, found)
}

/// [`inject`], with the targets of escaped code. For wrun's own tests, which check whether
/// they were hit.
///
/// # Errors
///
/// As [`inject`].
#[doc(hidden)]
pub fn inject_at(
    builder: &Builder,
    target: FaultTarget,
    wanted: &[(Fault, Mode)],
    found: &mut dyn FnMut(Fault, Mode, Finding) -> ControlFlow<()>,
) -> Result<(), Error> {
    inject_beside(builder, None, target, wanted, found)
}

/// [`inject_at`], while clients make requests of a handler.
pub(crate) fn inject_beside(
    builder: &Builder,
    handler: Option<Handler>,
    target: FaultTarget,
    wanted: &[(Fault, Mode)],
    found: &mut dyn FnMut(Fault, Mode, Finding) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut isolation = Isolation {
        builder: builder.clone(),
        handler,
        worker: wrun::measure::named_worker(builder)?,
        runtime: runtime()?,
        target,
        thread: Own::None,
        process: Own::None,
        no_crash_host: None,
    };
    // The caller may be on a thread that drives other futures. Started programs are bound
    // to this one thread.
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
            // If it does not receive this, it has ended.
            let _ = answer.send(found(fault, mode, finding));
        }
        Ok(())
    })
}

/// State that all faults share.
struct Isolation {
    builder: Builder,
    handler: Option<Handler>,
    worker: Option<PathBuf>,
    runtime: Runtime,
    target: FaultTarget,
    thread: Own,
    process: Own,
    /// Why crash-test hosts cannot be started: the next one would take as long to fail.
    no_crash_host: Option<String>,
}

/// A runner of this program.
#[derive(Default)]
enum Own {
    /// It is not made yet, or has failed.
    #[default]
    None,
    Ready(Stage),
    /// It cannot be made; the reason.
    Never(String),
}

impl Isolation {
    fn measure(&mut self, fault: Fault, mode: Mode) -> Finding {
        loop {
            let before = deadline::times();
            let found = self.inject(fault, mode);
            if deadline::times() == before {
                return found.unwrap_or_else(|why| Finding::NotMeasured { why });
            }
            // Everything was stopped meanwhile, and appeared late to others.
            self.thread = Own::None;
            self.process = Own::None;
            self.no_crash_host = None;
        }
    }

    /// Injects a fault; returns its result, or why it could not be injected.
    fn inject(&mut self, fault: Fault, mode: Mode) -> Result<Finding, String> {
        if let Some(why) = self.target.lacks(fault) {
            return Err(why);
        }
        self.target.tidy(fault);
        let sacrificed = mode == Mode::Thread && fault.by() != By::Guest;
        let played = match sacrificed {
            true => match self.crash_test(fault)? {
                Host::Lives(played) => *played,
                Host::Dead(seen) => return Ok(Finding::Measured(seen)),
                Host::Unknown(why) => return Err(why),
            },
            false => self.play(fault, mode)?,
        };
        let known = Known {
            fault,
            mode,
            sacrificed,
            trace: self.target.trace_of(fault),
            is_open: self.target.aim().is_open,
            ptrace_scope: ptrace_scope(),
        };
        Ok(known.finding(&played))
    }

    fn crash_test(&mut self, fault: Fault) -> Result<Host, String> {
        if let Some(why) = &self.no_crash_host {
            return Err(why.clone());
        }
        let handler = self.handler.as_ref();
        let aim = self.target.aim();
        host::crash_test(self.worker.as_deref(), fault, aim, handler).map_err(|error| {
            let why = error.to_string();
            self.no_crash_host = Some(why.clone());
            why
        })
    }

    /// In a runner of this program, which is made again after a failure.
    fn play(&mut self, fault: Fault, mode: Mode) -> Result<Played, String> {
        let own = match mode {
            Mode::Thread => &mut self.thread,
            Mode::Process => &mut self.process,
        };
        let mut stage = match std::mem::take(own) {
            Own::Ready(stage) => stage,
            Own::None => match Stage::set(self.builder.clone().mode(mode), self.handler.as_ref()) {
                Ok(stage) => stage,
                Err(error) => {
                    *own = Own::Never(error.to_string());
                    return Err(error.to_string());
                }
            },
            Own::Never(why) => {
                *own = Own::Never(why.clone());
                return Err(why);
            }
        };
        let aim = self.target.aim();
        let played = stage
            .prepare(fault)
            .and_then(|()| self.runtime.block_on(stage.play(fault, aim, &mut |_| {})));
        let played = played.map_err(|error| error.to_string())?;
        if played.lost == 0 && played.recovered_ns.is_some() {
            *own = Own::Ready(stage);
        }
        Ok(played)
    }
}

/// How the kernel restricts debuggers, where it does.
fn ptrace_scope() -> Option<u8> {
    let text = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?;
    text.trim().parse().ok()
}
