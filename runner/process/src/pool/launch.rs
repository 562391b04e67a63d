//! Starting a program, until it is ready or it is clear why not.

use super::{NoWorker, NotReady, Pool};
use crate::breaker::Failure;
use crate::channel::ChannelError;
use crate::child::{Child, LOOK_EVERY, Place, REAP_TIMEOUT};
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
    /// Starts a program and waits until it is what it should be.
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
        let place = Place {
            _permit: permit,
            _user: user,
        };
        let mut launch = self
            .spawner
            .spawn(order, code, place)
            .await
            .map_err(NoWorker::from)?;
        launch.owners = owners;
        match timeout(HANDSHAKE, self.shake(&mut launch)).await {
            Ok(Ok(jail)) => {
                self.settings.told.jail(&jail);
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
            // A program that is no worker goes of itself; one that is killed
            // might have been one.
            Err(ChannelError::Closed | ChannelError::Io(_)) => {
                let exit = timeout(REAP_TIMEOUT, launch.child.wait()).await;
                let is_gone = exit.is_ok();
                let crash = crash_of(exit.ok().flatten());
                if matches!(crash, Crash::Signal(_)) || is_gone && crash == Crash::Lost {
                    return Err(NotReady::Died(failure_of(&crash), crash.to_string()));
                }
                let mut what = crash.to_string();
                if let Some(said) = last_words(launch) {
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
                        return Err(bad(format!("it went where it cannot be: {error}")));
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
                    if let Some(said) = last_words(launch) {
                        what = format!("{what}; it said: {said}");
                    }
                    return Err(NotReady::Died(failure_of(&crash), what));
                }
                Err(error) => return Err(bad(error.to_string())),
            }
        }
    }
}

/// Waits until somebody stops a process; the signal.
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

/// The first line of what a program wrote to stderr before it went.
fn last_words(launch: &mut Launch) -> Option<String> {
    let words = launch.words.told()?;
    let line = words.lines().find(|line| !line.trim().is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(512).collect())
}

/// What a process says in its own words, as far as anybody wants to read it.
pub(crate) fn bounded(mut words: String) -> String {
    cut(&mut words, 4096);
    words
}

fn cut(words: &mut String, most: usize) {
    let mut end = words.len().min(most);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    words.truncate(end);
    words.shrink_to_fit();
}

/// What a report can be at most, when a process that may have been taken over makes it.
fn distrusted(mut report: JailReport) -> JailReport {
    report.layers.truncate(Layer::ALL.len());
    for layer in &mut report.layers {
        cut(&mut layer.detail, 256);
    }
    report.layers.shrink_to_fit();
    report
}
