//! A host for faults that it may not survive: a program that is a whole runner in thread
//! mode; its order, its messages, and what it means if they end.

use super::catalogue::By;
use super::clients::Handler;
use super::crash_host::{CrashHost, Died, MAX_ORDER, Said};
use super::scene::{Played, SIBLINGS, Stage, failed, nanoseconds, runtime};
use super::stopped::signal_name;
use super::target::Aim;
use crate::{Fault, Requests, Seen};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use wrun::{
    Builder, Error, Mode,
    measure::{Injection, deadline::Deadline, sys::End},
};

/// How long a host may take for everything.
const ALL: Duration = Duration::from_secs(60);
/// How long one that has closed its output may take to die.
const REAP_TIMEOUT: Duration = Duration::from_secs(2);

/// The order for a host.
#[derive(Serialize, Deserialize)]
struct HostOrder {
    /// `None` runs one good task.
    fault: Option<Fault>,
    aim: Aim,
    /// Whose clients make requests meanwhile.
    handler: Option<Handler>,
}

/// A message of a host, one per line.
#[derive(Serialize, Deserialize)]
enum Says {
    /// Just before the fault happens; the monotonic clock, in nanoseconds.
    Injecting {
        at: u64,
        /// Requests that were answered until then.
        answered: Option<u32>,
    },
    Played(Box<Played>),
    /// The good task completed.
    Completed,
    /// It could not execute the order.
    Failed(String),
}

/// The result of a host.
pub(super) enum Host {
    /// It survived.
    Lives(Box<Played>),
    /// It died of the fault.
    Dead(Seen),
    /// The fault was not injected, or its effect is unknown.
    Unknown(String),
}

/// Injects a fault in a separate host.
pub(super) fn crash_test(
    worker: Option<&Path>,
    fault: Fault,
    aim: &Aim,
    handler: Option<&Handler>,
) -> Result<Host, Error> {
    let mut host = start(worker, Some(fault), aim, handler)?;
    let until = Deadline::after(ALL);
    let began = clock();
    let mut injected = None;
    loop {
        match said(&mut host, until)? {
            Some(Says::Injecting { at, answered }) if injected.is_none() => {
                injected = Some((at, answered));
            }
            Some(Says::Played(played)) if injected.is_some() => return Ok(Host::Lives(played)),
            Some(Says::Failed(why)) => return Ok(Host::Unknown(why)),
            Some(_) => return Ok(Host::Unknown("the host spoke out of turn".into())),
            None => break,
        }
    }
    let known = clock();
    let known_at = Instant::now();
    let died = host.end(Deadline::after(REAP_TIMEOUT));
    let (injected, answered, end) = match (injected, died) {
        (Some((at, answered)), Died::Of(end)) => (at, answered, end),
        (None, Died::Of(_)) => {
            return Ok(Host::Unknown(
                "the host died before the fault was injected".into(),
            ));
        }
        (_, Died::Hung) => {
            return Ok(Host::Unknown(
                "the host said no more and did not die".into(),
            ));
        }
    };
    let recovered = recover(worker, aim).is_ok();
    Ok(Host::Dead(Seen {
        held: false,
        stopped_by: "nothing".to_owned(),
        detail: match end {
            End::Status(Injection::EXECUTED) if fault == Fault::Exec => {
                "the host became the program".to_owned()
            }
            End::Status(status) => format!("the host exited with status {status}"),
            End::Signal(signal) | End::Stopped(signal) => {
                format!("the host died of {}", signal_name(signal))
            }
        },
        siblings: SIBLINGS,
        // They were in it, and none had completed.
        siblings_lost: SIBLINGS,
        requests: answered.map(Requests::of_dead),
        host_alive: false,
        sacrificed: true,
        detected_ns: (began..=known)
            .contains(&injected)
            .then(|| known - injected),
        recovered_ns: recovered.then(|| nanoseconds(known_at.elapsed())),
    }))
}

/// A new host completes a task.
fn recover(worker: Option<&Path>, aim: &Aim) -> Result<(), Error> {
    let mut host = start(worker, None, aim, None)?;
    match said(&mut host, Deadline::after(ALL))? {
        Some(Says::Completed) => Ok(()),
        _ => Err(failed("a new host did not complete a task")),
    }
}

fn start(
    worker: Option<&Path>,
    fault: Option<Fault>,
    aim: &Aim,
    handler: Option<&Handler>,
) -> Result<CrashHost, Error> {
    let order = |handler: Option<&Handler>| {
        let order = serde_json::to_string(&HostOrder {
            fault,
            aim: aim.clone(),
            handler: handler.cloned(),
        });
        order.map_err(|error| failed(&format!("cannot say what a host is to do: {error}")))
    };
    let mut said = order(handler)?;
    if said.len() > MAX_ORDER {
        // A request that is too large: better without clients than not at all.
        said = order(None)?;
    }
    Ok(CrashHost::start(worker, &said)?)
}

/// Its next message; `None` if there are no more.
fn said(host: &mut CrashHost, until: Option<Deadline>) -> Result<Option<Says>, Error> {
    let line = host.line(until);
    match line.map_err(|error| failed(&format!("cannot listen to a host: {error}")))? {
        Said::Line(line) => serde_json::from_str(&line)
            .map(Some)
            .map_err(|_| failed("a host wrote a line that cannot be read")),
        Said::Closed => Ok(None),
        Said::Late => Err(failed(&format!(
            "a host had not done it after {} s",
            ALL.as_secs()
        ))),
    }
}

/// The same clock for all processes of the machine.
fn clock() -> u64 {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic));
    nanoseconds(now.unwrap_or_default())
}

/// In the program: executes `order`, and reports the result.
pub(super) fn obey_order(
    order: &str,
    say: &mut dyn FnMut(&str) -> io::Result<()>,
) -> io::Result<()> {
    let order: HostOrder = serde_json::from_str(order).map_err(io::Error::other)?;
    let mut say = |says: &Says| -> io::Result<()> { say(&serde_json::to_string(says)?) };
    let done = obey(&order, &mut say);
    match done {
        Ok(says) => say(&says),
        Err(error) => say(&Says::Failed(error.to_string())),
    }
}

fn obey(order: &HostOrder, say: &mut dyn FnMut(&Says) -> io::Result<()>) -> Result<Says, Error> {
    let system = |what: &str, error: io::Error| failed(&format!("{what}: {error}"));
    if order.fault.is_some_and(|fault| fault.by() == By::Host) {
        // A system's collector should not keep an intended crash.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|errno| system("cannot forbid core dumps", errno.into()))?;
    }
    let runtime = runtime()?;
    let builder = Builder::default().mode(Mode::Thread);
    let mut stage = Stage::set(builder, order.handler.as_ref())?;
    let Some(fault) = order.fault else {
        runtime.block_on(stage.run_one())?;
        return Ok(Says::Completed);
    };
    stage.prepare(fault)?;
    let mut told = Ok(());
    let played = runtime.block_on(stage.play(fault, &order.aim, &mut |answered| {
        let at = clock();
        told = say(&Says::Injecting { at, answered });
    }))?;
    told.map_err(|error| system("cannot say that it begins", error))?;
    Ok(Says::Played(Box::new(played)))
}
