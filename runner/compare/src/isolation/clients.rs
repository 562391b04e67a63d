//! Clients of an HTTP handler beside a fault: what it costs their requests.
//!
//! Each has one request at a time, of which the first is answered before the fault and the last
//! is made after it is known.

use super::scene::failed;
use crate::bench::{Ready, answered};
use crate::comparison::Comparison;
use crate::results::Requests;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wrun::measure::{WholeRequest, WholeResponse};
use wrun::{Cache, DirGrant, Error, Limits, Runner, TcpGrant};

/// How many there are.
const CLIENTS: u32 = 4;
/// How long one answer may take, more than the handler's own time limit.
const LATE: Duration = Duration::from_secs(20);

/// A handler that was compared, as a program that is started for a fault gets it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Handler {
    file: PathBuf,
    /// Where its compiled code is.
    cache: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    dirs: Vec<DirGrant>,
    tcp: Vec<TcpGrant>,
    tasks: Vec<(String, PathBuf)>,
    limits: Limits,
    request: WholeRequest,
    expected: Expected,
}

/// What a right answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Expected {
    /// The whole of it.
    Digest([u8; 32]),
    /// The rest is another each time.
    Status(u16),
}

impl Expected {
    fn is(self, output: &Bytes) -> bool {
        match self {
            Expected::Digest(digest) => *blake3::hash(output).as_bytes() == digest,
            Expected::Status(status) => {
                WholeResponse::from_bytes(output).is_some_and(|it| it.status == status)
            }
        }
    }
}

impl Handler {
    /// What was compared, if it is one.
    pub(crate) fn of(
        comparison: &Comparison,
        ready: &Ready,
        cache: PathBuf,
        output: &Bytes,
        deterministic: bool,
    ) -> Option<Self> {
        let status = WholeResponse::from_bytes(output)?.status;
        // The program that gets it has another working directory.
        let file = |path: &PathBuf| std::path::absolute(path).ok();
        let task = |(name, path): &(String, PathBuf)| Some((name.clone(), file(path)?));
        let dir = |grant: &DirGrant| {
            let mut grant = grant.clone();
            grant.host = file(&grant.host)?;
            Some(grant)
        };
        Some(Handler {
            file: file(&comparison.task)?,
            cache,
            args: comparison.args.clone(),
            env: comparison.env.clone(),
            dirs: comparison.dirs.iter().map(dir).collect::<Option<_>>()?,
            tcp: comparison.tcp.clone(),
            tasks: comparison.tasks.iter().map(task).collect::<Option<_>>()?,
            limits: comparison.limits.clone(),
            request: ready.request()?,
            expected: match deterministic {
                true => Expected::Digest(*blake3::hash(output).as_bytes()),
                false => Expected::Status(status),
            },
        })
    }

    pub(super) fn cache(&self) -> Cache {
        Cache::Directory(self.cache.clone())
    }
}

/// A handler that is loaded.
pub(super) struct Clients {
    ready: Arc<Ready>,
    comparison: Arc<Comparison>,
    expected: Expected,
}

/// Clients that make requests.
pub(super) struct Calling {
    clients: JoinSet<()>,
    counted: Arc<Counted>,
}

#[derive(Default)]
struct Counted {
    answered: AtomicU32,
    lost: AtomicU32,
    enough: AtomicBool,
}

impl Clients {
    /// Loads the handler; blocks meanwhile.
    pub(super) fn new(handler: &Handler, runner: Arc<Runner>) -> Result<Self, Error> {
        let mut comparison = Comparison::new(&handler.file).limits(handler.limits.clone());
        comparison.args.clone_from(&handler.args);
        comparison.env.clone_from(&handler.env);
        comparison.dirs.clone_from(&handler.dirs);
        comparison.tcp.clone_from(&handler.tcp);
        comparison.tasks.clone_from(&handler.tasks);
        comparison.request = Some(handler.request.clone());
        Ok(Clients {
            ready: Arc::new(Ready::new(&comparison, runner)?),
            comparison: Arc::new(comparison),
            expected: handler.expected,
        })
    }

    /// Begins, and waits until each has an answer.
    pub(super) async fn call(&self) -> Result<Calling, Error> {
        let (tell, mut told) = mpsc::channel(CLIENTS as usize);
        let mut calling = Calling {
            clients: JoinSet::new(),
            counted: Arc::default(),
        };
        for _ in 0..CLIENTS {
            let (ready, comparison) = (self.ready.clone(), self.comparison.clone());
            let (counted, expected) = (calling.counted.clone(), self.expected);
            let mut tell = Some(tell.clone());
            calling.clients.spawn(async move {
                loop {
                    let last = counted.enough.load(Ordering::Relaxed);
                    let right = asked(&ready, &comparison, expected).await;
                    let count = match right {
                        true => &counted.answered,
                        false => &counted.lost,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    if let Some(tell) = tell.take() {
                        // None waits for it after the first failure.
                        let _ = tell.try_send(right);
                    }
                    if last {
                        return;
                    }
                    // Others have a turn, also where an answer is there at once.
                    tokio::task::yield_now().await;
                }
            });
        }
        for _ in 0..CLIENTS {
            match timeout(LATE, told.recv()).await {
                Ok(Some(true)) => {}
                _ => {
                    calling.end().await;
                    return Err(failed("a request beside it was not answered as before"));
                }
            }
        }
        Ok(calling)
    }
}

async fn asked(ready: &Ready, comparison: &Comparison, expected: Expected) -> bool {
    let asking = async {
        let handle = ready.runner.submit(ready.task(comparison)).await?;
        answered(handle).await
    };
    match timeout(LATE, asking).await {
        Ok(Ok((report, output))) => report.outcome.is_completed() && expected.is(&output),
        _ => false,
    }
}

impl Calling {
    /// Requests that were answered so far.
    pub(super) fn answered(&self) -> u32 {
        self.counted.answered.load(Ordering::Relaxed)
    }

    /// Each makes one more request.
    pub(super) async fn end(mut self) -> Requests {
        self.counted.enough.store(true, Ordering::Relaxed);
        // What they own is not to be dropped by the runtime that they end in.
        while self.clients.join_next().await.is_some() {}
        Requests {
            clients: CLIENTS,
            answered: self.answered(),
            lost: self.counted.lost.load(Ordering::Relaxed),
        }
    }
}

impl Requests {
    /// Of a program that died: each client waited for an answer.
    pub(super) fn of_dead(answered: u32) -> Self {
        Requests {
            clients: CLIENTS,
            answered,
            lost: CLIENTS,
        }
    }
}
