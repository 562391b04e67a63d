//! Process mode: every task in an operating-system process of its own, forked
//! from a zygote that has the task loaded and jailed, or started as a program.
//!
//! The only place that makes processes. Invariants: every process has one owner
//! that kills and reaps it on every path; a worker is treated as hostile once a
//! guest runs in it.

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
mod channel;
mod child;
mod compile;
mod compile_main;
mod compile_wait;
mod error;
mod group;
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
mod stream;
mod suspend;
mod task_main;
mod trace;
mod users;
pub mod wire;
mod words;
mod worker;
mod worker_main;
mod zygote;
mod zygote_main;

use crate::jail::{CgroupLimits, Grants, Plan, Raise, Role, reserve_descriptors};
pub use compile::ChildCompiler;
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
use wrun_types::spec::Spec;

/// How the note begins that a worker was root.
pub const AS_ROOT: &str = "the worker ran as root (uid 0)";

pub struct ProcessExecutor {
    shared: Arc<Shared>,
    pools: Mutex<Vec<Weak<Pools>>>,
}

/// What the workers of all artifacts have in common.
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
    /// The artifact imports regions, or what else needs the runner's services.
    regions: bool,
    /// The artifact can learn that it is asked to stop.
    observes_cancellation: bool,
    code: Arc<Mutex<Arc<Code>>>,
    by_grants: Mutex<HashMap<Grants, Arc<Pool>>>,
}

impl ProcessExecutor {
    pub fn new(loader: Arc<Loader>, config: &Config) -> Result<Self, ProcessError> {
        let program = worker_program(config.worker.as_deref())?;
        let users = users_of(config).map(Arc::new);
        // Before any worker is started: what a task may have follows from it.
        reserve_descriptors(Raise::Soft);
        let running = config.max_running + config.max_children;
        let spawner = Arc::new(Spawner::start(program, running)?);
        let group = Group::new(CgroupLimits {
            memory: None,
            // Each may be two while it goes on as another.
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
                told: Arc::default(),
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
    /// Whether the directories of a task are mapped for a worker that is not root; where
    /// its worker is root, what people should know.
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
        // A mount goes when all processors have seen it go.
        let tried = tokio::task::spawn_blocking(move || {
            let directories = spec.dirs.iter().map(|grant| grant.host.as_path());
            let (path, error) = trial.obstacle(directories)?;
            Some(format!(
                "{AS_ROOT}, without capabilities: the owners of files in {} cannot be mapped to \
                 another user, since {}; another user for workers avoids that, or running the \
                 runner as an ordinary user",
                path.display(),
                owners::why(&error),
            ))
        });
        let note = tried.await;
        let note = note.map_err(|_| Error::new(ErrorKind::ShutDown, "the runner is shut down"))?;
        Ok((note.is_none(), note))
    }
}

/// What a guest may have in a process of its own, in bytes, with the host's copies of what
/// it is given, of what it returns, and of what its children are and do.
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

    fn close(&self) {
        self.shared.loader.close();
        let pools = std::mem::take(&mut *self.pools.lock().unpoisoned());
        for pools in pools.iter().filter_map(Weak::upgrade) {
            for pool in pools.by_grants().values() {
                pool.close();
            }
        }
        self.shared.spawner.close();
        // No process is in it any more.
        if let Some(group) = &self.shared.settings.group {
            group.remove();
        }
    }
}

#[async_trait::async_trait]
impl Runnable for Pools {
    async fn execute(&self, job: Job) -> Result<Executed, Error> {
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
            self.shared.settings.told.as_root(note);
        }
        let mut executed = attempt::run(&pool, job, self.regions, renew).await?;
        executed.notes.extend(as_root);
        Ok(executed)
    }

    fn observes_cancellation(&self) -> bool {
        self.observes_cancellation
    }
}
