//! Process mode: every task in a separate operating-system process, forked from a zygote
//! that has the task loaded and jailed, or started as a program.
//!
//! The only code that starts processes. Invariants: every process has one owner that kills
//! and reaps it on every path; a worker is regarded as hostile once a guest runs in it.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(feature = "measure"),
    expect(unreachable_pub, reason = "`measure` re-exports them")
)]
#![expect(
    missing_docs,
    rustdoc::private_intra_doc_links,
    clippy::should_implement_trait,
    reason = "no public API: wrun documents what it re-exports"
)]

mod attempt;
mod begin;
mod breaker;
mod census;
mod channel;
mod child;
mod compile;
mod compile_main;
mod compile_wait;
mod early;
mod error;
mod group;
#[cfg(all(feature = "http", feature = "fuzzing"))]
pub mod http;
#[cfg(not(all(feature = "http", feature = "fuzzing")))]
mod http;
mod image;
pub mod jail;
#[cfg(feature = "measure")]
pub mod measure;
mod owners;
mod plain;
mod pool;
mod program;
mod reaped;
mod requests;
mod roles;
mod spawn;
mod stderr;
mod stream;
mod suspend;
mod task_main;
mod trace;
mod users;
pub mod wire;
mod worker;
mod worker_main;
mod zygote;
mod zygote_main;

use crate::jail::{CgroupLimits, Grants, Plan, Raise, Role, reserve_descriptors};
use census::Census;
pub use compile::ChildCompiler;
pub use early::{EarlyWorker, early_worker};
use error::ProcessError;
use group::Group;
use owners::Trial;
use pool::{Pool, Settings};
pub use program::worker_program;
use spawn::Spawner;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
pub use suspend::{StopSignal, job_control, job_control_around, suspend};
use users::users_of;
pub use worker_main::hook;
use wrun_sandbox::executor::{Executed, Executor, Job, Runnable};
use wrun_sandbox::port::Transport;
use wrun_sandbox::region::Ledger;
use wrun_sandbox::{Artifact, Code, Loader};
use wrun_sys::Unpoisoned;
use wrun_types::config::{Config, Jail};
use wrun_types::error::{Error, ErrorKind};
use wrun_types::limits::Limits;
use wrun_types::outcome::Outcome;
use wrun_types::spec::Spec;
use wrun_types::worker_stats::WorkerStats;

/// The beginning of the note that a worker ran as root.
pub const AS_ROOT: &str = "the worker ran as root (uid 0)";

pub struct ProcessExecutor {
    shared: Arc<Shared>,
    pools: Mutex<Vec<Weak<Pools>>>,
}

/// State that the workers of all artifacts share.
struct Shared {
    loader: Arc<Loader>,
    spawner: Arc<Spawner>,
    settings: Settings,
    ledger: Arc<Ledger>,
    trial: Arc<Trial>,
}

/// The workers of one artifact.
struct Pools {
    shared: Arc<Shared>,
    /// The artifact imports ports.
    talks: bool,
    /// The artifact imports regions, or another interface with requests.
    regions: bool,
    /// The artifact can observe cancellation.
    observes_cancellation: bool,
    code: Arc<Mutex<Arc<Code>>>,
    by_grants: Mutex<HashMap<Grants, Arc<Pool>>>,
}

impl ProcessExecutor {
    pub fn new(loader: Arc<Loader>, config: &Config) -> Result<Self, ProcessError> {
        let program = worker_program(config.worker.as_deref())?;
        let users = users_of(config).map(Arc::new);
        // Before any worker is started: a task's limits depend on it.
        reserve_descriptors(Raise::Soft);
        let running = config.max_running + config.max_children;
        let spawner = Arc::new(Spawner::start(program, running)?);
        let group = Group::new(CgroupLimits {
            memory: None,
            // Each may be two while it continues as another process.
            pids: Some((spawner.most() as u64).saturating_mul(2)),
        });
        let shared = Shared {
            loader,
            ledger: Arc::new(Ledger::new(config.region_memory, true)),
            spawner,
            settings: Settings {
                start: config.start,
                spares: config.spares,
                reuse: config.reuse,
                idle_timeout: config.idle_timeout,
                plan: Plan {
                    mode: config.jail,
                    role: Role::Worker,
                    grants: Grants::default(),
                    identity: config.identity,
                    own_user: None,
                    cgroup: Err(String::new()),
                    regions: config.region_memory,
                    compile: None,
                    #[cfg(feature = "test-hooks")]
                    absent: config.absent.clone(),
                },
                users,
                group: (config.jail != Jail::Off).then(|| Arc::new(group)),
                reported: Arc::default(),
                census: Arc::new(Census::default()),
            },
            trial: Arc::default(),
        };
        Ok(ProcessExecutor {
            shared: Arc::new(shared),
            pools: Mutex::default(),
        })
    }
}

impl Shared {
    /// Whether the directories of a task are mapped for a worker that is not root; if its
    /// worker is root, a note for people.
    async fn owners(&self, spec: &Arc<Spec>) -> Result<(bool, Option<String>), Error> {
        let Settings { plan, users, .. } = &self.settings;
        if plan.mode == Jail::Off {
            let root = rustix::process::geteuid().is_root();
            let note = || format!("{AS_ROOT}, with all capabilities: there is no jail");
            return Ok((false, root.then(note)));
        }
        let are_own = users.as_ref().is_some_and(|users| !users.are_chosen());
        #[cfg(feature = "test-hooks")]
        let are_own = are_own
            && !plan
                .absent
                .contains(&wrun_types::jail_report::Layer::Identity);
        if spec.dirs.is_empty() || !are_own {
            return Ok((false, None));
        }
        if self
            .trial
            .knows(spec.dirs.iter().map(|grant| grant.host.as_path()))
        {
            return Ok((true, None));
        }
        let (trial, spec) = (self.trial.clone(), spec.clone());
        // Removing a mount waits for all processors.
        let tried = tokio::task::spawn_blocking(move || {
            let directories = spec.dirs.iter().map(|grant| grant.host.as_path());
            let (path, error) = trial.obstacle(directories)?;
            Some(format!(
                "{AS_ROOT}, without capabilities: the owners of files in {} cannot be mapped to \
                 another user ({}); to avoid it, run as an ordinary user, or choose a user for \
                 workers",
                path.display(),
                owners::why(&error),
            ))
        });
        let note = tried.await;
        let note = note.map_err(|_| Error::new(ErrorKind::ShutDown, "the runner is shut down"))?;
        Ok((note.is_none(), note))
    }
}

/// The memory of a guest in a separate process, in bytes, including the host's copies of
/// its input, of what it returns, and of its children's input and output.
fn memory_of_a_process(spec: &Spec) -> u64 {
    let limits = &spec.limits;
    let input = limits.max_input.unwrap_or(Limits::INPUT_DEFAULT);
    let output = limits.max_output.unwrap_or(Limits::CAPTURE_DEFAULT);
    let own = limits.max_memory.saturating_add(input);
    own.saturating_add(output).saturating_add(spec.child_data)
}

impl Pools {
    fn for_grants(&self, grants: Grants) -> Arc<Pool> {
        let mut pools = self.by_grants();
        let pool = pools.entry(grants).or_insert_with(|| {
            Arc::new(Pool::new(
                self.code.clone(),
                self.shared.spawner.clone(),
                self.shared.settings.clone(),
                grants,
            ))
        });
        pool.clone()
    }

    fn by_grants(&self) -> MutexGuard<'_, HashMap<Grants, Arc<Pool>>> {
        let pools = self.by_grants.lock();
        pools.unpoisoned()
    }
}

impl Executor for ProcessExecutor {
    fn prepare(&self, artifact: &Artifact, metered: bool) -> Result<Arc<dyn Runnable>, Error> {
        artifact.prepare(metered, || {
            let code = self.shared.loader.code(artifact, metered)?;
            let made = Arc::new(Pools {
                shared: self.shared.clone(),
                talks: code.meta.talks,
                regions: code.meta.regions,
                observes_cancellation: code.meta.observes_cancellation,
                code: Arc::new(Mutex::new(code)),
                by_grants: Mutex::default(),
            });
            let mut pools = self.pools.lock().unpoisoned();
            pools.retain(|pools| pools.strong_count() > 0);
            pools.push(Arc::downgrade(&made));
            Ok(made as _)
        })
    }

    fn transport(&self) -> &Transport {
        &Transport::Socket
    }

    fn ledger(&self) -> &Arc<Ledger> {
        &self.shared.ledger
    }

    fn workers(&self) -> Option<WorkerStats> {
        let mut stats = self.shared.settings.census.stats();
        let pools: Vec<_> = {
            let pools = self.pools.lock().unpoisoned();
            pools.iter().filter_map(Weak::upgrade).collect()
        };
        for pools in pools {
            let pools: Vec<_> = pools.by_grants().values().cloned().collect();
            for pool in pools {
                let (spares, reusable) = pool.idle();
                stats.spares += spares;
                stats.reusable += reusable;
            }
        }
        Some(stats)
    }

    fn close(&self) {
        self.shared.loader.close();
        let pools = std::mem::take(&mut *self.pools.lock().unpoisoned());
        for pools in pools.iter().filter_map(Weak::upgrade) {
            for pool in pools.by_grants().values() {
                pool.close();
            }
        }
        self.shared.spawner.close();
        // It has no process any more.
        if let Some(group) = &self.shared.settings.group {
            group.remove();
        }
    }
}

#[async_trait::async_trait]
impl Runnable for Pools {
    async fn execute(&self, job: Box<Job>) -> Result<Executed, Error> {
        let metered = job.metered();
        if !job.spec.dirs.is_empty() && (self.regions || self.talks) {
            self.shared.ledger.opens_files();
        }
        let (mapped, as_root) = self.shared.owners(&job.spec).await?;
        let pool = self.for_grants(Grants {
            files: !job.spec.dirs.is_empty(),
            mapped,
            tcp: !job.spec.tcp.is_empty(),
            talks: self.talks,
            regions: self.regions,
        });
        let renew = {
            let loader = self.shared.loader.clone();
            let artifact = job.artifact.clone();
            let code = self.code.clone();
            move |refused| {
                let renewed = loader.recompile(&artifact, metered, refused)?;
                *code.lock().unpoisoned() = renewed;
                Ok(())
            }
        };
        if let Some(note) = &as_root {
            self.shared.settings.reported.as_root(note);
        }
        let mut executed = attempt::run(&pool, job, self.regions, renew).await?;
        if matches!(executed.result.outcome, Outcome::Crashed(_)) {
            self.shared.settings.census.died();
        }
        executed.notes.extend(as_root);
        Ok(executed)
    }

    fn observes_cancellation(&self) -> bool {
        self.observes_cancellation
    }
}
