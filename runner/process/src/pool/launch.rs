//! Starting a program, until it is ready or has failed.

use super::{NoWorker, NotReady, Pool};
use crate::breaker::Failure;
use crate::channel::ChannelError;
use crate::child::{Child, LOOK_EVERY, ProcessSlot, REAP_TIMEOUT};
use crate::error::ProcessError;
use crate::jail::{Plan, Role};
use crate::owners::Owners;
use crate::spawn::Launch;
use crate::wire::{ControlSays, Spare, StartOrder};
use crate::worker::crash_of;
use rustix::process::Signal;
use std::sync::Arc;
use std::time::Duration;
use wrun_sandbox::deadline::timeout;
use wrun_sys::Unpoisoned;
use wrun_types::jail_report::{JailReport, Layer};
use wrun_types::outcome::Crash;

/// A program that is not ready by then will not be.
const HANDSHAKE: Duration = Duration::from_secs(15);

impl Pool {
    /// Starts a program and waits until it is ready.
    pub(super) async fn launch(
        &self,
        zygote: bool,
        spare: Option<Spare>,
    ) -> Result<(Launch, Arc<JailReport>), NotReady> {
        let code = self.code.lock().unpoisoned().clone();
        let user = self.settings.users.as_ref().map(|users| users.pick());
        let mut order = StartOrder {
            zygote,
            plan: Plan {
                role: if zygote { Role::Zygote } else { Role::Worker },
                grants: self.grants,
                cgroup: match &self.settings.group {
                    Some(group) => group.path(),
                    None => Err("there is no jail".to_owned()),
                },
                ..self.settings.plan.clone()
            },
            tasks: self.settings.reuse,
            spare,
            image: None,
            clock: false,
        };
        if let Some(user) = &user {
            user.apply(&mut order.plan);
        }
        let owners = match &user {
            Some(user) if self.grants.mapped => {
                let owners = Owners::seen_by(user.number);
                let owners = owners.map_err(|source| ProcessError::System {
                    what: "cannot map the owners of granted directories",
                    source,
                });
                Some(Arc::new(owners.map_err(NoWorker::from)?))
            }
            _ => None,
        };
        let permit = self.spawner.permit().await.map_err(NoWorker::from)?;
        let slot = ProcessSlot {
            _permit: permit,
            _user: user,
            _bell: self.spawner.bell(),
        };
        let mut launch = self
            .spawner
            .spawn(order, code, slot)
            .await
            .map_err(NoWorker::from)?;
        launch.owners = owners;
        match timeout(HANDSHAKE, self.shake(&mut launch)).await {
            Ok(Ok(jail)) => {
                self.settings.reported.jail(&jail);
                Ok((launch, Arc::new(jail)))
            }
            Ok(Err(not)) => Err(not),
            Err(_late) => Err(NotReady::Died(
                Failure::Own,
                format!("no answer in {} s", HANDSHAKE.as_secs()),
            )),
        }
    }

    async fn shake(&self, launch: &mut Launch) -> Result<JailReport, NotReady> {
        let bad = |what: String| {
            NotReady::No(NoWorker::Error(ProcessError::Handshake {
                program: self.spawner.program().clone(),
                what,
            }))
        };
        let no = |error: ProcessError| NotReady::No(error.into());
        let hello = tokio::select! {
            hello = launch.says.hello() => hello,
            signal = stopped(&mut launch.child) => return Err(killed(signal)),
        };
        match hello {
            Ok(_) => {}
            // A program that is not a worker exits by itself; one that is killed might have
            // been a worker.
            Err(ChannelError::Closed | ChannelError::Io(_)) => {
                let exit = timeout(REAP_TIMEOUT, launch.child.wait()).await;
                let is_gone = exit.is_ok();
                let crash = crash_of(exit.ok().flatten());
                if matches!(crash, Crash::Signal(_)) || is_gone && crash == Crash::Lost {
                    return Err(NotReady::Died(failure_of(&crash), crash.to_string()));
                }
                let mut what = crash.to_string();
                if let Some(said) = first_stderr_line(launch) {
                    what = format!("{what}; it said: {said}");
                }
                return Err(bad(what));
            }
            Err(error) => return Err(bad(error.to_string())),
        }
        let mut moved = false;
        loop {
            let said = tokio::select! {
                said = launch.says.next::<ControlSays>() => said,
                signal = stopped(&mut launch.child) => return Err(killed(signal)),
            };
            match said {
                Ok(ControlSays::Moved(pid)) if !moved => {
                    moved = true;
                    if let Err(error) = launch.child.moved(pid).await {
                        return Err(bad(format!(
                            "it reported an invalid process number: {error}"
                        )));
                    }
                }
                Ok(ControlSays::Ready(jail)) => return Ok(distrusted(jail)),
                Ok(ControlSays::Stale(message)) => {
                    return Err(NotReady::No(NoWorker::Stale(bounded(message))));
                }
                Ok(ControlSays::Refused(message)) => {
                    let message = bounded(message);
                    return Err(no(ProcessError::Refused { message }));
                }
                Ok(ControlSays::NoJail(layer)) => {
                    let mut layer = layer;
                    cut(&mut layer.detail, 256);
                    return Err(no(ProcessError::NoJail(layer)));
                }
                Ok(ControlSays::JailFailed(message)) => {
                    let message = bounded(message);
                    return Err(no(ProcessError::JailFailed { message }));
                }
                Ok(_) => return Err(bad("it spoke before it was asked".into())),
                Err(ChannelError::Closed | ChannelError::Io(_)) => {
                    let exit = timeout(REAP_TIMEOUT, launch.child.wait()).await;
                    let crash = crash_of(exit.ok().flatten());
                    let mut what = crash.to_string();
                    if let Some(said) = first_stderr_line(launch) {
                        what = format!("{what}; it said: {said}");
                    }
                    return Err(NotReady::Died(failure_of(&crash), what));
                }
                Err(error) => return Err(bad(error.to_string())),
            }
        }
    }
}

/// Waits until a process is stopped; returns the signal.
pub(super) async fn stopped(child: &mut Child) -> i32 {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some(signal) = child.stopped_by() {
            return signal;
        }
    }
}

fn killed(signal: i32) -> NotReady {
    NotReady::Died(Failure::Killed, Crash::Signal(signal).to_string())
}

fn failure_of(crash: &Crash) -> Failure {
    let kill = Signal::KILL.as_raw();
    match crash {
        Crash::Signal(signal) if *signal == kill => Failure::Killed,
        _ => Failure::Own,
    }
}

/// The first line of what a program wrote to stderr before it ended.
fn first_stderr_line(launch: &mut Launch) -> Option<String> {
    let text = launch.stderr.text()?;
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(512).collect())
}

/// Limits a text from a process to a readable length.
pub(crate) fn bounded(mut text: String) -> String {
    cut(&mut text, 4096);
    text
}

fn cut(text: &mut String, most: usize) {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.shrink_to_fit();
}

/// Limits a report to possible values, if a process that may have been taken over makes it.
fn distrusted(mut report: JailReport) -> JailReport {
    report.layers.truncate(Layer::ALL.len());
    for layer in &mut report.layers {
        cut(&mut layer.detail, 256);
    }
    report.layers.shrink_to_fit();
    report
}
