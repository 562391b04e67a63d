//! The walls in the order in which they are set up.
//!
//! ```text
//! exec -> begin -> (split: the first process of its own namespace) -> the code is
//! mapped -> seal -> [zygote: fork] -> tighten -> the guest
//! ```
//!
//! Each stage is a type, so that none is left out: [`begin`] makes [`Walls`], only these
//! can be sealed, and only [`Sealed`] can tighten.

use super::account::{Account, JailError, Stand};
use super::identity::Identity;
use super::namespaces::Early;
use super::plan::{Grants, Plan, Role, TaskWalls};
use super::rlimits::Raise;
use super::{facts, identity, landlock, namespaces, rlimits, seccomp};
use rustix::process::{
    DumpableBehavior, Pid, Signal, getpid, getppid, set_dumpable_behavior,
    set_parent_process_death_signal,
};
use rustix::thread::{no_new_privs, set_no_new_privs};
use seccompiler::BpfProgram;
use std::io;
use wrun_sys::{self, Side};
use wrun_types::config::Jail;
use wrun_types::jail_report::{JailReport, Layer};

/// The first walls are in place.
#[derive(Debug)]
pub struct Walls {
    plan: Plan,
    account: Account,
    begun: Option<Box<Begun>>,
}

/// What [`begin`] leaves to the later stages; `None` with [`Jail::Off`].
#[derive(Debug)]
struct Begun {
    identity: Identity,
    /// The runner's limit on descriptors.
    descriptors: u64,
    /// It is still outside of the new process namespace.
    outside: bool,
    mount: Result<(), String>,
    core: rustix::io::Result<()>,
}

/// The process that returned from [`Walls::split`].
pub enum Split {
    /// The process that was started. It must report the number of the other, which
    /// continues in its place, and end.
    Outside { pid: i32 },
    /// The process that continues: the first of its namespace, or the one that was started
    /// if there is no namespace. The first process of a namespace gets no signals whose
    /// default would end it, except `SIGKILL` from outside and those of its own faults:
    /// `abort` ends it with `SIGSEGV`.
    Inside(Walls),
}

/// All walls of the process are in place.
#[derive(Debug)]
pub struct Sealed {
    role: Role,
    grants: Grants,
    /// Maximum of bytes that regions can have.
    regions: u64,
    mode: Jail,
    /// The process that was sealed.
    pid: Pid,
    /// Its memory at that time.
    used: rlimits::Used,
    /// The runner's limit on descriptors.
    descriptors: u64,
    rlimits: bool,
    landlock: bool,
    /// Compiled once, because it is installed in every child.
    taken: Option<BpfProgram>,
}

/// Stage 1, right after exec: with one thread, the standard streams and descriptors that
/// this process opened itself, before anything untrusted is read.
///
/// # Errors
///
/// A required wall is not available, with [`Jail::Strict`]; a requested identity cannot be
/// set.
pub fn begin(plan: Plan) -> Result<Walls, JailError> {
    begin_after(plan, None)
}

/// As [`begin`], in a process that has entered namespaces `early`.
///
/// # Errors
///
/// As [`begin`].
pub fn begin_after(plan: Plan, early: Option<Early>) -> Result<Walls, JailError> {
    let mut account = Account::new(&plan);
    // Once now, and again when nothing clears it any more.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // While there are root's rights, if there are any.
    let descriptors = match plan.role {
        Role::Zygote | Role::Worker => rlimits::reserve_descriptors(Raise::Both),
        Role::Compiler => 0,
    };
    if plan.mode == Jail::Off {
        return Ok(Walls {
            plan,
            account,
            begun: None,
        });
    }
    account.put_up(Layer::NoNewPrivs, || {
        let set = set_no_new_privs(true).and_then(|()| no_new_privs());
        match set {
            Ok(true) => Stand::enforced("no program gains privileges"),
            Ok(false) => Stand::unavailable("it does not stay"),
            Err(errno) => Stand::unavailable(errno.to_string()),
        }
    })?;
    let core = rlimits::no_core();
    account.put_up(Layer::Cgroup, || match &plan.cgroup {
        Err(why) => Stand::unavailable(why.as_str()),
        Ok(cgroup) => Stand::of(
            std::fs::write(cgroup.join("cgroup.procs"), "0"),
            "that of the runner's workers, with limits",
        ),
    })?;
    let entered = namespaces::enter(&plan, &mut account, early)?;
    Ok(Walls {
        plan,
        account,
        begun: Some(Box::new(Begun {
            identity: entered.identity,
            descriptors,
            outside: entered.pid,
            mount: entered.mount,
            core,
        })),
    })
}

impl Walls {
    /// If a process namespace was made, continues in a new process, the first one in it,
    /// which is a child of this process's parent. The new process cannot check whether that
    /// parent is alive: the parent has no number there.
    ///
    /// # Errors
    ///
    /// The process cannot be made.
    pub fn split(mut self) -> Result<Split, JailError> {
        match &mut self.begun {
            Some(begun) if begun.outside => begun.outside = false,
            _ => return Ok(Split::Inside(self)),
        }
        match wrun_sys::fork_sibling() {
            Ok(Side::Caller(pid)) => Ok(Split::Outside {
                pid: pid.as_raw_nonzero().get(),
            }),
            Ok(Side::Sibling) => {
                let _ = set_parent_process_death_signal(Some(Signal::KILL));
                Ok(Split::Inside(self))
            }
            Err(source) => Err(JailError::System {
                what: "cannot start the first process of a namespace",
                source,
            }),
        }
    }

    /// Stage 2, after the last file was opened by its path and the last code was mapped,
    /// and before anything untrusted. Afterwards files, new code and threads are not
    /// possible, except for a compiler's threads.
    ///
    /// # Errors
    ///
    /// A required wall is not available, with [`Jail::Strict`].
    pub fn seal(self) -> Result<(Sealed, JailReport), JailError> {
        let Walls {
            plan,
            mut account,
            begun,
        } = self;
        let grants = plan.grants();
        let pid = getpid();
        let mut sealed = Sealed {
            role: plan.role,
            grants,
            regions: plan.regions,
            mode: plan.mode,
            pid,
            used: rlimits::Used::default(),
            descriptors: 0,
            rlimits: false,
            landlock: false,
            taken: None,
        };
        let parent_death = || set_parent_process_death_signal(Some(Signal::KILL));
        let Some(begun) = begun.map(|begun| *begun) else {
            parent_death().map_err(|errno| JailError::System {
                what: "cannot set the signal for the parent's death",
                source: errno.into(),
            })?;
            return Ok((sealed, account.finish()));
        };
        account.put_up(Layer::Descriptors, facts::descriptors)?;
        account.put_up(Layer::Environment, facts::environment)?;
        // These make rustix cache values from the kernel, which is not possible later.
        let used = rlimits::used();
        let _ = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        sealed.used = used.as_ref().copied().unwrap_or_default();
        sealed.descriptors = begun.descriptors;
        let probed = landlock::probe(grants);
        account.put_up(Layer::MountNamespace, || {
            namespaces::empty_root(begun.mount)
        })?;
        sealed.rlimits = account.put_up(Layer::Rlimits, || rlimits::of_process(&plan, used))?;
        account.put_up(Layer::Identity, || {
            identity::drop_capabilities(begun.identity)
        })?;
        account.put_up(Layer::ParentDeath, || {
            Stand::of(parent_death(), "killed with its parent")
        })?;
        sealed.landlock = account.put_up(Layer::Landlock, || {
            if grants.any() {
                return probed;
            }
            match landlock::restrict(None) {
                // If the kernel does not have it, `probed` has the reason.
                Ok(_) => probed,
                Err(error) => Stand::unavailable(error.to_string()),
            }
        })?;
        account.put_up(Layer::CoreDumps, || {
            let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
            match begun.core.and(hidden) {
                Ok(()) => Stand::enforced("none, and not to be looked at"),
                Err(errno) => Stand::partial(errno.to_string()),
            }
        })?;
        let mut taken = None;
        account.put_up(Layer::Seccomp, || {
            let number = pid.as_raw_nonzero().get().cast_unsigned();
            let applied = seccomp::taken(grants).and_then(|small| {
                seccomp::apply(plan.role, grants, number)?;
                taken = Some(small);
                Ok(())
            });
            Stand::of(
                applied,
                match plan.role {
                    Role::Zygote | Role::Worker => "a list of allowed calls; fewer per task",
                    Role::Compiler => "a list of allowed calls",
                },
            )
        })?;
        sealed.taken = taken.filter(|_| plan.role != Role::Compiler);
        Ok((sealed, account.finish()))
    }
}

impl Sealed {
    /// For a compiler, once it has its threads: no further ones are possible.
    ///
    /// # Errors
    ///
    /// The kernel refuses what it permitted before. The process must end then.
    pub fn no_more_threads(&self) -> Result<(), JailError> {
        if self.mode == Jail::Off || !self.rlimits {
            return Ok(());
        }
        rlimits::no_more_threads()
    }

    /// Whether the last walls do not depend on the grants of a task.
    pub fn fits_any_task(&self) -> bool {
        !self.grants.any()
    }

    /// Stage 3, in the process that is about to run `task`: the child of a zygote, or a
    /// worker itself. A compiler has [`no_more_threads`](Sealed::no_more_threads) instead.
    ///
    /// # Errors
    ///
    /// The zygote is dead; the task has grants that were not planned for; the kernel
    /// refuses what it permitted before. The process must end then.
    pub fn tighten(&self, task: &TaskWalls<'_>) -> Result<(), JailError> {
        let system = |what, source| JailError::System { what, source };
        let pid = getpid();
        if pid != self.pid {
            set_parent_process_death_signal(Some(Signal::KILL)).map_err(|errno| {
                system("cannot set the signal for the zygote's death", errno.into())
            })?;
            if getppid() != Some(self.pid) {
                let gone = io::Error::other("it died");
                return Err(system("the zygote is gone", gone));
            }
        }
        if self.mode == Jail::Off || self.role == Role::Compiler {
            return Ok(());
        }
        if !task.dirs.is_empty() && !self.grants.files {
            return Err(JailError::NotPlanned("directories"));
        }
        if !task.tcp_ports.is_empty() && !self.grants.tcp {
            return Err(JailError::NotPlanned("connections"));
        }
        if self.rlimits {
            rlimits::of_task(self.used, self.descriptors, self.grants, self.regions, task)?;
        }
        if self.landlock && self.grants.any() {
            landlock::restrict(Some(task)).map_err(|error| {
                system("cannot restrict the task's files", io::Error::other(error))
            })?;
        }
        if let Some(taken) = &self.taken {
            seccomp::take(taken, pid.as_raw_nonzero().get().cast_unsigned()).map_err(|error| {
                system(
                    "cannot restrict the task's system calls",
                    io::Error::other(error),
                )
            })?;
        }
        Ok(())
    }
}
