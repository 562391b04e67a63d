//! A fault among siblings: one runner, tasks that work in it, and one of them that causes a
//! fault while the others run.

use super::catalogue::By;
use super::clients::{Calling, Clients, Handler};
use super::target::Aim;
use crate::{Fault, Requests};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use wrun::{
    Artifact, Builder, Cache, Crash, Error, ErrorKind, JailReport, Limit, Limits, Mode, Outcome,
    Report, Runner, Task, TaskHandle,
    measure::{Injection, InjectionResult, Whose},
};

/// Tasks that run beside each fault.
pub(super) const SIBLINGS: u32 = 8;

/// How long a task may take to be ready.
const READY: Duration = Duration::from_secs(20);
/// How long the detection of a fault, and a good task after it, may take.
const KNOWN: Duration = Duration::from_secs(20);
/// Timeouts of a task that never ends, counted from its submission: on a busy machine it
/// may not have begun by the first of them.
const TIMEOUTS: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_secs(2),
    Duration::from_secs(10),
];
const MEMORY: u64 = 32 << 20;
const OUTPUT: u64 = 1 << 20;

/// A runner, its guests, and secret bytes in its host's memory.
pub(super) struct Stage {
    runner: Arc<Runner>,
    clients: Option<Clients>,
    sibling: Artifact,
    victim: Option<Artifact>,
    lock: Option<Artifact>,
    secret: Box<[u8; Injection::MEMORY]>,
}

/// The observations of one fault.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Played {
    pub(super) ended: Ended,
    /// Whether the right bytes were read; also true for a fault that reads nothing.
    pub(super) is_true: bool,
    pub(super) lost: u32,
    /// Of clients of a handler beside it.
    pub(super) requests: Option<Requests>,
    pub(super) detected_ns: u64,
    pub(super) recovered_ns: Option<u64>,
    pub(super) jail: Option<JailReport>,
}

/// How the task with the fault ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ended {
    Injected(InjectionResult),
    Trapped(String),
    Limit(Limit),
    Signal(i32),
    Exit(i32),
    Other(String),
}

impl Stage {
    /// Compiles its guests, and blocks meanwhile.
    pub(super) fn set(builder: Builder, handler: Option<&Handler>) -> Result<Self, Error> {
        // With room for clients.
        let most = SIBLINGS as usize * 4;
        let cache = handler.map_or(Cache::Off, Handler::cache);
        let runner = Arc::new(builder.cache(cache).max_running(most).build()?);
        let clients = handler.map(|handler| Clients::new(handler, runner.clone()));
        let sibling = load(&runner, "sibling", include_str!("../guests/sibling.wat"))?;
        Ok(Stage {
            clients: clients.transpose()?,
            runner,
            sibling,
            victim: None,
            lock: None,
            secret: Box::new(rand::random()),
        })
    }

    /// Loads the guests for a fault. Compiles, and blocks meanwhile.
    pub(super) fn prepare(&mut self, fault: Fault) -> Result<(), Error> {
        let (slot, name, text) = match fault {
            Fault::LockHolder => (&mut self.lock, "lock", include_str!("../guests/lock.wat")),
            _ if fault.by() == By::Guest => (
                &mut self.victim,
                "victim",
                include_str!("../guests/victim.wat"),
            ),
            _ => return Ok(()),
        };
        if slot.is_none() {
            *slot = Some(load(&self.runner, name, text)?);
        }
        Ok(())
    }

    /// Injects a fault while the siblings run. `about_to` is called just before, with
    /// the number of requests that were answered.
    pub(super) async fn play(
        &self,
        fault: Fault,
        aim: &Aim,
        about_to: &mut dyn FnMut(Option<u32>),
    ) -> Result<Played, Error> {
        let holds = fault == Fault::LockHolder;
        let seed = rand::random();
        let mut siblings = Vec::new();
        for number in 0..SIBLINGS - u32::from(holds) {
            siblings.push(self.sibling(seed, number).await?);
        }
        for (sibling, _) in &mut siblings {
            ready(sibling, "a task beside it").await?;
        }
        let mut victim = self.victim(fault, aim).await?;
        let waiter = match &self.lock {
            Some(lock) if holds => Some(self.waiter(lock).await?),
            _ => None,
        };

        let calling = match &self.clients {
            Some(clients) => Some(clients.call().await?),
            None => None,
        };
        about_to(calling.as_ref().map(Calling::answered));
        let injected = Instant::now();
        victim.cancel();
        let report = known(victim.report(), "the task with the fault").await?;
        let known_at = Instant::now();
        let mut lost = 0;
        let recovered = match waiter {
            Some((mut waiter, wanted)) => {
                let had = known(waiter.report(), "the task that waits").await;
                let had = had.is_ok_and(|report| completed_with(&report, &wanted));
                lost += u32::from(!had);
                had
            }
            None => self.recovers(seed).await,
        };
        let recovered_ns = recovered.then(|| nanoseconds(known_at.elapsed()));
        let requests = match calling {
            Some(calling) => Some(calling.end().await),
            None => None,
        };
        // All are cancelled before any is waited for.
        for (sibling, _) in &siblings {
            sibling.cancel();
        }
        for (mut sibling, wanted) in siblings {
            let report = known(sibling.report(), "a task beside it").await;
            let well = report.is_ok_and(|report| completed_with(&report, &wanted));
            lost += u32::from(!well);
        }
        let ended = Ended::of(&report.outcome, fault);
        Ok(Played {
            is_true: self.is_true(fault, &ended, aim),
            ended,
            lost,
            requests,
            detected_ns: nanoseconds(known_at - injected),
            recovered_ns,
            jail: report.jail,
        })
    }

    /// A task that works until it is cancelled, and its expected result.
    async fn sibling(&self, seed: u64, number: u32) -> Result<(TaskHandle, Vec<u8>), Error> {
        let input = seed.wrapping_add(u64::from(number) << 32);
        let task = Task::new(&self.sibling)
            .input(input.to_le_bytes().to_vec())
            .limits(limits().timeout(READY + KNOWN + KNOWN));
        let handle = self.runner.submit(task).await?;
        Ok((handle, sum_of(input).to_le_bytes().to_vec()))
    }

    /// The task with the fault, if it must be ready first.
    async fn victim(&self, fault: Fault, aim: &Aim) -> Result<TaskHandle, Error> {
        let what = "the task with the fault";
        let (artifact, input) = match (fault, &self.victim, &self.lock) {
            (Fault::LockHolder, _, Some(lock)) => (lock, b"hold".to_vec()),
            (Fault::Trap, Some(victim), _) => (victim, vec![0]),
            (Fault::StackOverflow, Some(victim), _) => (victim, vec![1]),
            (Fault::EndlessLoop, Some(victim), _) => (victim, vec![2]),
            (Fault::MemoryBomb, Some(victim), _) => (victim, vec![3]),
            (Fault::OutputFlood, Some(victim), _) => (victim, vec![4]),
            // Its guest never runs.
            _ => (&self.sibling, Vec::new()),
        };
        let task = || -> Result<Task, Error> {
            let task = Task::new(artifact).input(input.clone());
            Ok(match self.act(fault, aim)? {
                Some(act) => wrun::measure::injecting(task, act),
                None => task,
            })
        };
        if fault != Fault::EndlessLoop {
            let task = task()?.limits(limits().timeout(KNOWN));
            let mut handle = self.runner.submit(task).await?;
            ready(&mut handle, what).await?;
            return Ok(handle);
        }
        let mut last = Error::shut_down();
        for time in TIMEOUTS {
            let task = task()?.limits(limits().timeout(time));
            let mut handle = self.runner.submit(task).await?;
            match ready(&mut handle, what).await {
                Ok(()) => return Ok(handle),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The action of the host's code; `None` if the guest causes the fault.
    fn act(&self, fault: Fault, aim: &Aim) -> Result<Option<Injection>, Error> {
        let host = match self.runner.mode() {
            Mode::Thread => Whose::Own,
            Mode::Process => Whose::Process(std::process::id().cast_signed()),
        };
        let text = |path: &Path| {
            let text = path.to_str().map(str::to_owned);
            text.ok_or_else(|| failed("the temporary directory has a name that is not UTF-8"))
        };
        Ok(Some(match fault {
            Fault::Segfault => Injection::Segfault,
            Fault::Abort => Injection::Abort,
            Fault::OomKill => Injection::OomKill,
            Fault::ReadFile => Injection::ReadFile(text(&aim.secret)?),
            Fault::WriteFile => Injection::WriteFile(text(&aim.written)?),
            Fault::Connect => Injection::Connect(aim.port),
            Fault::Fork => Injection::Fork,
            Fault::Exec => Injection::Exec(text(&aim.program)?),
            Fault::Ptrace => Injection::Ptrace(host),
            Fault::Signal => Injection::Signal(host),
            Fault::HostMemory => Injection::Memory {
                of: host,
                at: self.secret.as_ptr() as u64,
            },
            Fault::ExecutableMemory => Injection::ExecutableMemory,
            Fault::HostEnvironment => Injection::Environment(host),
            _ => return Ok(None),
        }))
    }

    /// A task that waits for the lock that another holds, and its expected result.
    async fn waiter(&self, lock: &Artifact) -> Result<(TaskHandle, Vec<u8>), Error> {
        let input = b"in turn.".to_vec();
        let task = Task::new(lock)
            .input(input.clone())
            .limits(limits().timeout(READY + KNOWN));
        let mut handle = self.runner.submit(task).await?;
        ready(&mut handle, "the task that waits").await?;
        let waits = async {
            while wrun::measure::locks_waited_for(&self.runner) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(READY, waits)
            .await
            .map_err(|_| failed("no task came to wait for the lock"))?;
        Ok((handle, input))
    }

    /// Whether another task completes.
    async fn recovers(&self, seed: u64) -> bool {
        let Ok((mut handle, wanted)) = self.sibling(seed, SIBLINGS).await else {
            return false;
        };
        handle.cancel();
        let report = known(handle.report(), "a task after it").await;
        report.is_ok_and(|report| completed_with(&report, &wanted))
    }

    /// Runs one good task.
    pub(super) async fn run_one(&self) -> Result<(), Error> {
        match self.recovers(rand::random()).await {
            true => Ok(()),
            false => Err(failed("a task did not complete")),
        }
    }

    /// Whether the right bytes were read.
    fn is_true(&self, fault: Fault, ended: &Ended, aim: &Aim) -> bool {
        let Ended::Injected(InjectionResult::Did(said)) = ended else {
            return true;
        };
        let hash_of = |bytes: &[u8]| blake3::hash(bytes).as_bytes().to_vec();
        let file = |path: &Path| {
            let bytes = std::fs::read(path).ok()?;
            let start = &bytes[..bytes.len().min(Injection::READ)];
            (!start.is_empty()).then(|| hash_of(start))
        };
        match fault {
            Fault::ReadFile => file(&aim.secret).as_ref() == Some(said),
            Fault::HostMemory => hash_of(&*self.secret) == *said,
            Fault::HostEnvironment => file(Path::new("/proc/self/environ")).as_ref() == Some(said),
            Fault::Fork => said.first().copied().map(i32::from) == Some(Injection::FORKED),
            _ => true,
        }
    }
}

impl Ended {
    fn of(outcome: &Outcome, fault: Fault) -> Self {
        match outcome {
            Outcome::Failed(text) if fault.by() != By::Guest => {
                match InjectionResult::of_text(text) {
                    Some(acted) => Ended::Injected(acted),
                    None => Ended::Other(outcome.to_string()),
                }
            }
            Outcome::Trapped(trap) => Ended::Trapped(trap.to_string()),
            Outcome::LimitExceeded(limit) => Ended::Limit(*limit),
            Outcome::Crashed(crash) => match crash.how() {
                Crash::Signal(signal) => Ended::Signal(*signal),
                Crash::Exit(status) => Ended::Exit(*status),
                _ => Ended::Other(outcome.to_string()),
            },
            other => Ended::Other(other.to_string()),
        }
    }
}

fn limits() -> Limits {
    Limits::default().max_memory(MEMORY).max_output(OUTPUT)
}

fn load(runner: &Runner, name: &str, text: &'static str) -> Result<Artifact, Error> {
    runner.blocking_load_bytes(&format!("{name}.wat"), text.as_bytes())
}

/// Waits until a task reports that it is ready.
async fn ready(handle: &mut TaskHandle, what: &str) -> Result<(), Error> {
    match timeout(READY, handle.progress_changed()).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(failed(&format!("{what} ended before it was ready"))),
        Err(_) => Err(failed(&format!(
            "{what} was not ready in {} s",
            READY.as_secs()
        ))),
    }
}

async fn known(
    outcome: impl Future<Output = Result<Report, Error>>,
    what: &str,
) -> Result<Report, Error> {
    match timeout(KNOWN, outcome).await {
        Ok(outcome) => outcome,
        Err(_) => Err(failed(&format!(
            "{what} had not ended after {} s",
            KNOWN.as_secs()
        ))),
    }
}

fn completed_with(report: &Report, wanted: &[u8]) -> bool {
    let output = report.outcome.output();
    output.is_some_and(|output| output.as_bytes() == wanted)
}

/// For waiting with an end; what runs has threads of its own.
pub(super) fn runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| failed(&format!("cannot wait: {error}")))
}

pub(super) fn failed(why: &str) -> Error {
    Error::new(ErrorKind::System, why)
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The expected result of `sibling.wat`.
fn sum_of(seed: u64) -> u64 {
    const WORDS: u64 = 8192;
    (0..WORDS).fold(0, |sum, word| mix(sum ^ mix(seed.wrapping_add(word))))
}

fn mix(mut x: u64) -> u64 {
    x ^= x >> 31;
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ (x >> 29)
}
