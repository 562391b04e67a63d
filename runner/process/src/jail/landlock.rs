//! Landlock: access to files below granted directories and to granted ports only; no
//! signals and no abstract sockets to the outside.
//!
//! The part about files is required; every version has it. Later additions are used if the
//! kernel has them, and seccomp refuses the same things in another way.

use super::account::Stand;
use super::plan::{Grants, TaskWalls};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};
use rustix::io::Errno;

/// The newest version that was reviewed: later rights are not denied without a review.
const NEWEST: ABI = ABI::V10;

/// What a guest may do with read-only files.
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// What a guest may do with other files: all of WASI, which has no devices, pipes, sockets
/// or programs.
const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | RemoveDir | RemoveFile | MakeDir | MakeReg
        | MakeSym | Refer
});

/// Whether the kernel supports it, and which version.
pub(super) fn probe(grants: Grants) -> Stand {
    let version = match wrun_sys::landlock_abi() {
        Ok(version) => version,
        Err(error) => {
            let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOSYS) => "the kernel was built without it, or is older than 5.13",
                Some(Errno::OPNOTSUPP) => "it is switched off at boot (lsm=)",
                _ => "it may not be asked for",
            };
            return Stand::unavailable(format!("{why}: {error}"));
        }
    };
    let when = if grants.any() { "; per task" } else { "" };
    let what = what_it_covers(version, grants);
    Stand::enforced(format!("ABI {version}: {what}{when}"))
}

fn what_it_covers(version: u32, grants: Grants) -> &'static str {
    match version {
        0..=3 if grants.tcp => "files; TCP ports are left to the host's own check",
        0..=3 => "files; TCP and signals are left to seccomp",
        4..=5 => "files, TCP ports; signals are left to seccomp",
        _ => "files, TCP ports, signals, abstract sockets",
    }
}

/// Restricts this thread, and all it starts, to the grants of `task`; to nothing if there
/// is none.
pub(super) fn restrict(task: Option<&TaskWalls<'_>>) -> Result<(), RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    if let Some(task) = task {
        for (directory, read_only) in task.dirs {
            let access = if *read_only { READ } else { WRITE };
            ruleset = ruleset.add_rule(PathBeneath::new(directory, access))?;
        }
        for port in task.tcp_ports {
            ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
    }
    ruleset.restrict_self().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_kernel_is_said_to_leave_things_to_others() {
        let none = Grants::default();
        let tcp = Grants {
            tcp: true,
            ..Grants::default()
        };
        assert!(what_it_covers(1, none).contains("left to seccomp"));
        assert!(what_it_covers(3, tcp).contains("left to the host"));
        assert!(what_it_covers(4, tcp).contains("TCP ports; signals"));
        assert!(!what_it_covers(6, tcp).contains("left"));
    }
}
