//! The rights of a worker: those of an unprivileged user, without capabilities.

use super::account::{JailError, Stand};
use super::plan::Plan;
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgroups};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use std::fmt::Write as _;

/// The user and the group that own nothing.
const NOBODY_AT_ALL: (u32, u32) = (65534, 65534);

/// The capabilities of root that setting up the other walls requires until
/// [`drop_capabilities`]: mounting, emptying the bounding set, and giving root a number in
/// a user namespace.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP);

/// The resulting user and group, for the report that [`drop_capabilities`] completes.
#[derive(Debug, Default)]
pub(super) struct Identity {
    words: String,
    fault: Option<String>,
}

/// Switches to the worker's user: the requested one; or, if started as root, its own. It
/// stays root only if directories are granted whose owners could not be mapped to that
/// user, because files that only root may read can be granted, and Landlock protects the
/// rest.
///
/// # Errors
///
/// A user is required, by an option or by mapped directories, and cannot be set.
pub(super) fn assume(plan: &Plan) -> Result<Identity, JailError> {
    let own = (geteuid().as_raw(), getegid().as_raw());
    if own.0 != 0 {
        return match plan.identity {
            Some((uid, gid)) if (uid, gid) != own => Err(JailError::Identity {
                uid,
                gid,
                why: format!("only root may choose, and the runner's user is {}", own.0),
            }),
            _ => Ok(Identity {
                words: words(own),
                fault: None,
            }),
        };
    }
    let grants = plan.grants();
    let target = match plan.identity {
        Some(target) => Some(target),
        None if grants.files && !grants.mapped => None,
        None => Some(plan.own_user.map_or(NOBODY_AT_ALL, |own| (own, own))),
    };
    let groups = set_thread_groups(&[]);
    let Some(target) = target else {
        return Ok(Identity {
            words: format!(
                "{}, since directories are granted whose owner cannot be mapped to another user",
                words((0, own.1))
            ),
            fault: groups
                .err()
                .filter(|_| has_groups())
                .map(|errno| format!("its groups are kept: {errno}")),
        });
    };
    let is_bound = plan.identity.is_some() || grants.mapped;
    let switched = groups
        .or_else(|errno| if has_groups() { Err(errno) } else { Ok(()) })
        .and_then(|()| match switch(target) {
            // A user namespace without this number.
            Err(Errno::INVAL) if !is_bound => switch(NOBODY_AT_ALL).map(|()| NOBODY_AT_ALL),
            switched => switched.map(|()| target),
        });
    match switched {
        Ok(user) => Ok(Identity {
            words: match grants.mapped {
                true => format!(
                    "{}; files of root's in granted directories count as its own",
                    words(user)
                ),
                false => words(user),
            },
            fault: None,
        }),
        Err(errno) if is_bound => Err(JailError::Identity {
            uid: target.0,
            gid: target.1,
            why: errno.to_string(),
        }),
        // Root of a user namespace without other users is an ordinary user outside of it.
        Err(_) if is_namespaced() => Ok(Identity {
            words: format!("{}, of a user namespace that has no other", words(own)),
            fault: None,
        }),
        Err(errno) => Ok(Identity {
            words: words(own),
            fault: Some(format!(
                "it cannot be another ({errno}); start the runner as an ordinary user"
            )),
        }),
    }
}

/// Changes user and group, and keeps the capabilities that later walls require.
fn switch((uid, gid): (u32, u32)) -> rustix::io::Result<()> {
    let before = capabilities(None)?;
    set_keep_capabilities(true)?;
    let gid = Gid::from_raw(gid);
    set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(uid);
    set_thread_res_uid(uid, uid, uid)?;
    set_keep_capabilities(false)?;
    let kept = before.permitted & NEEDED;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )
}

fn words((uid, gid): (u32, u32)) -> String {
    let mut words = format!("user {uid}, group {gid}");
    let groups = getgroups()
        .unwrap_or_default()
        .iter()
        .filter(|group| group.as_raw() != gid)
        .count();
    if groups > 0 {
        let _ = write!(words, ", {groups} further groups");
    }
    words.push_str(", no capabilities");
    words
}

fn has_groups() -> bool {
    getgroups().is_ok_and(|groups| !groups.is_empty())
}

/// Whether users here are not those of the machine.
fn is_namespaced() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

/// Drops every capability permanently.
pub(super) fn drop_capabilities(identity: Identity) -> Stand {
    let Identity { mut words, fault } = identity;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // A capability that does not exist cannot be cleared; the result is checked below.
    let _ = clear_ambient_capability_set();
    let bounding = empty_bounding_set();
    let dropped = set_capabilities(None, none)
        .and_then(|()| capabilities(None))
        .map(|left| left == none);
    match (dropped, fault) {
        (Ok(true), None) => {
            if let Err(errno) = bounding {
                let _ = write!(
                    words,
                    "; the bounding set stays ({errno}), without effect under no_new_privs"
                );
            }
            Stand::enforced(words)
        }
        (Ok(true), Some(fault)) => Stand::partial(format!("{words}; {fault}")),
        (Ok(false), _) => Stand::partial("capabilities are left"),
        (Err(errno), _) => Stand::partial(format!("capabilities are kept: {errno}")),
    }
}

fn empty_bounding_set() -> rustix::io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel has no more capabilities.
            Err(Errno::INVAL) => break,
            Err(errno) => match capability_is_in_bounding_set(capability) {
                // It need not be removed.
                Ok(false) => {}
                Err(Errno::INVAL) => break,
                _ => return Err(errno),
            },
        }
    }
    Ok(())
}
