//! Namespaces: a worker cannot reach what it cannot name.
//!
//! In the order that kernels permit: first with root's rights, if there are any; the rest
//! within a separate user namespace.

use super::account::{Account, JailError, Stand};
use super::identity::{self, Identity};
use super::plan::Plan;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::process::{
    DumpableBehavior, chdir, getegid, geteuid, pivot_root, set_dumpable_behavior,
};
use rustix::thread::UnshareFlags;
use std::collections::BTreeMap;
use std::io;
use wrun_types::jail_report::Layer;

/// Each layer that is a namespace, with its flag.
const KINDS: [(Layer, UnshareFlags); 4] = [
    (Layer::PidNamespace, UnshareFlags::NEWPID),
    (Layer::NetNamespace, UnshareFlags::NEWNET),
    (Layer::IpcNamespace, UnshareFlags::NEWIPC),
    (Layer::MountNamespace, UnshareFlags::NEWNS),
];

/// Used if available, but not reported: a host's name and control groups are not worth a
/// line in a report.
const EXTRA: [UnshareFlags; 2] = [UnshareFlags::NEWUTS, UnshareFlags::NEWCGROUP];

/// Directories to mount an empty one over; every system has one of them.
const PLACES: [&str; 5] = ["/proc", "/tmp", "/dev", "/etc", "/usr"];

/// Those that a process enters before it has its plan, if it is the first one of a process
/// namespace already. Not the one of control groups, whose root is the group that the plan names.
const EARLY: [UnshareFlags; 4] = [
    UnshareFlags::NEWNET,
    UnshareFlags::NEWIPC,
    UnshareFlags::NEWNS,
    UnshareFlags::NEWUTS,
];

/// The namespaces of a process that entered them before it had its plan.
#[derive(Debug)]
pub struct Early {
    entered: Outcomes,
    /// Whether its user has a number, if it is in a user namespace.
    mapped: Option<Result<(), String>>,
}

impl Early {
    /// For a process that was forked into a process namespace of its own. If it is in a user
    /// namespace of its own, too, `ids` are the user and the group that it had before.
    pub fn enter(ids: Option<(u32, u32)>) -> Self {
        let mut entered = Outcomes::from([(UnshareFlags::NEWPID.bits(), Ok(()))]);
        let mapped = ids.map(|ids| {
            entered.insert(UnshareFlags::NEWUSER.bits(), Ok(()));
            map_ids(ids).map_err(|error| error.to_string())
        });
        unshare(&EARLY, &mut entered);
        Early { entered, mapped }
    }
}

/// The steps that [`enter`] leaves for later.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) identity: Identity,
    /// Children will be in a process namespace that this process is not in.
    pub(super) pid: bool,
    /// Whether a mount namespace was entered, or why not.
    pub(super) mount: Result<(), String>,
}

/// Enters namespaces, but for those that were entered `early`, and assumes the worker's identity
/// between them.
pub(super) fn enter(
    plan: &Plan,
    account: &mut Account,
    early: Option<Early>,
) -> Result<Entered, JailError> {
    let wanted: Vec<(Layer, UnshareFlags)> = KINDS
        .into_iter()
        .filter(|(layer, _)| !account.is_absent(*layer))
        .filter(|(layer, _)| !(*layer == Layer::NetNamespace && plan.grants().tcp))
        .collect();
    let mut flags: Vec<UnshareFlags> = wanted.iter().map(|(_, flag)| *flag).collect();
    if !flags.is_empty() {
        flags.extend(EXTRA);
    }
    let is_outside = early.is_none();
    let (mut entered, mapped) = early.map_or_else(Default::default, |it| (it.entered, it.mapped));
    let is_in = |entered: &Outcomes, flag: UnshareFlags| outcome(entered, flag).is_ok();
    let missing = |entered: &Outcomes| -> Vec<UnshareFlags> {
        let flags = flags.iter().copied();
        flags.filter(|flag| !is_in(entered, *flag)).collect()
    };
    if geteuid().is_root() {
        let missing = missing(&entered);
        unshare(&missing, &mut entered);
    }
    let identity = if account.is_absent(Layer::Identity) {
        Identity::default()
    } else {
        identity::assume(plan)?
    };
    // A change of user makes the process's own files in /proc root's.
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    if !account.is_absent(Layer::UserNamespace) {
        let again: Vec<UnshareFlags> = match is_in(&entered, UnshareFlags::NEWUSER) {
            true => missing(&entered),
            // The mount namespace again, so that it belongs to the user namespace and may be
            // changed with this process's rights in that.
            false => std::iter::once(UnshareFlags::NEWUSER)
                .chain(
                    flags
                        .iter()
                        .copied()
                        .filter(|flag| *flag == UnshareFlags::NEWNS || !is_in(&entered, *flag)),
                )
                .collect(),
        };
        let ids = (geteuid().as_raw(), getegid().as_raw());
        unshare(&again, &mut entered);
        let mapped = mapped.unwrap_or_else(|| {
            outcome(&entered, UnshareFlags::NEWUSER)?;
            map_ids(ids).map_err(|error| error.to_string())
        });
        account.put_up(Layer::UserNamespace, || {
            match outcome(&entered, UnshareFlags::NEWUSER) {
                Ok(()) => match mapped {
                    Ok(()) => Stand::enforced(format!("with one user, {}", ids.0)),
                    Err(error) => Stand::partial(format!("its user has no number: {error}")),
                },
                Err(why) => Stand::unavailable(why),
            }
        })?;
    } else {
        account.put_up(Layer::UserNamespace, || Stand::unavailable(""))?;
    }
    for (layer, flag, words) in [
        (Layer::PidNamespace, UnshareFlags::NEWPID, "its own"),
        (
            Layer::NetNamespace,
            UnshareFlags::NEWNET,
            "without a network",
        ),
        (Layer::IpcNamespace, UnshareFlags::NEWIPC, "its own"),
    ] {
        account.put_up(layer, || {
            if layer == Layer::NetNamespace && plan.grants().tcp {
                return Stand::unavailable("the runner's network, since sockets are granted");
            }
            match outcome(&entered, flag) {
                Ok(()) => Stand::enforced(words),
                Err(why) => Stand::unavailable(why),
            }
        })?;
    }
    Ok(Entered {
        identity,
        pid: is_outside && outcome(&entered, UnshareFlags::NEWPID).is_ok(),
        mount: outcome(&entered, UnshareFlags::NEWNS),
    })
}

/// By flag, the result.
type Outcomes = BTreeMap<u32, Result<(), String>>;

fn outcome(outcomes: &Outcomes, flag: UnshareFlags) -> Result<(), String> {
    outcomes
        .get(&flag.bits())
        .cloned()
        .unwrap_or_else(|| Err("not asked for".into()))
}

/// All at once, or else one after the other, so that each has its own error. Namespaces
/// entered before are kept.
fn unshare(flags: &[UnshareFlags], outcomes: &mut Outcomes) {
    let all = flags
        .iter()
        .fold(UnshareFlags::empty(), |all, flag| all | *flag);
    let at_once = wrun_sys::unshare(all).is_ok();
    for flag in flags {
        let result = if at_once {
            Ok(())
        } else {
            wrun_sys::unshare(*flag).map_err(|error| error.to_string())
        };
        match outcomes.get(&flag.bits()) {
            Some(Ok(())) => {}
            _ => {
                outcomes.insert(flag.bits(), result);
            }
        }
    }
}

/// Maps this process's user and group to the same numbers in its user namespace.
fn map_ids((uid, gid): (u32, u32)) -> io::Result<()> {
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    // Required for mapping groups without privilege.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// Makes the root of this mount namespace an empty, read-only directory. Open files stay
/// open.
pub(super) fn empty_root(entered: Result<(), String>) -> Stand {
    if let Err(why) = entered {
        return Stand::unavailable(why);
    }
    match pivot() {
        Ok(()) => Stand::enforced("an empty root"),
        Err(error) => Stand::partial(format!("its root is the system's: {error}")),
    }
}

fn pivot() -> io::Result<()> {
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for place in PLACES {
        match mount(
            "none",
            place,
            "tmpfs",
            flags,
            c"size=4k,nr_inodes=2,mode=555",
        ) {
            Ok(()) => {
                chdir(place)?;
                // The old root is now mounted over the new one.
                pivot_root(".", ".")?;
                unmount(".", UnmountFlags::DETACH)?;
                return Ok(chdir("/")?);
            }
            Err(errno) => last = errno.into(),
        }
    }
    Err(last)
}
