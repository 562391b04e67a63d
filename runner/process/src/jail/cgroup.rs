//! Control groups, version 2, if the runner has the right to make them.
//!
//! The runner's side: it makes one for its workers, under its own group, and moves only
//! workers. Invariant: a group that is dropped is emptied and removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A group whose processes were killed is empty a moment later.
const REMOVALS: u32 = 50;
const BETWEEN: Duration = Duration::from_millis(2);

static MADE: AtomicU64 = AtomicU64::new(0);

/// Limits for the processes of a group together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl CgroupLimits {
    /// The controllers for these limits.
    fn controllers(&self) -> Vec<&'static str> {
        let of = [("memory", self.memory), ("pids", self.pids)];
        of.into_iter()
            .filter_map(|(name, limit)| limit.map(|_| name))
            .collect()
    }
}

/// A separate group for workers.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a group under the runner's own.
    ///
    /// # Errors
    ///
    /// Why there can be none, for people.
    pub fn create(limits: &CgroupLimits) -> Result<Self, String> {
        Self::create_in(Path::new("/"), limits)
    }

    /// The same with another root for every path that is read.
    fn create_in(root: &Path, limits: &CgroupLimits) -> Result<Self, String> {
        let parent = own_group(root)?;
        delegate(&parent, &limits.controllers())?;
        let path = parent.join(format!(
            "wrun-{}-{}",
            std::process::id(),
            MADE.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir(&path)
            .map_err(|error| format!("{} cannot be made: {error}", path.display()))?;
        // Dropped, it is removed again if a limit cannot be set.
        let group = Cgroup { path };
        for (file, limit) in [("memory.max", limits.memory), ("pids.max", limits.pids)] {
            if let Some(limit) = limit {
                let file = group.path.join(file);
                fs::write(&file, limit.to_string())
                    .map_err(|error| format!("{} cannot be set: {error}", file.display()))?;
            }
        }
        // Swap is memory, too; not every kernel counts it.
        if limits.memory.is_some() {
            let _ = fs::write(group.path.join("memory.swap.max"), "0");
        }
        Ok(group)
    }

    /// Its directory, for [`Plan::cgroup`](super::Plan::cgroup).
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Kernels before 5.14 do not have it; then the processes' owner has killed them.
        let _ = fs::OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.kill"))
            .and_then(|mut file| io::Write::write_all(&mut file, b"1"));
        for _ in 0..REMOVALS {
            match fs::remove_dir(&self.path) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(BETWEEN);
                }
                _ => break,
            }
        }
    }
}

/// The directory of this process's own group.
fn own_group(root: &Path) -> Result<PathBuf, String> {
    let read = |file: &str| {
        fs::read_to_string(root.join(file)).map_err(|error| format!("/{file}: {error}"))
    };
    let groups = read("proc/self/cgroup")?;
    let own = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or("there are no control groups of version 2")?;
    let mounts = read("proc/self/mountinfo")?;
    let (mounted, at) = mounts
        .lines()
        .find_map(mount_of)
        .ok_or("control groups of version 2 are not mounted")?;
    let below = Path::new(own)
        .strip_prefix(&mounted)
        .map_err(|_| format!("the group {own} is outside of what is mounted"))?;
    let at = at.strip_prefix("/").unwrap_or(&at);
    Ok(root.join(at).join(below))
}

/// The part of the group tree that a line of `mountinfo` mounts, and where.
fn mount_of(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, kind) = line.split_once(" - ")?;
    if kind.split(' ').next() != Some("cgroup2") {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    let path = |field: &str| PathBuf::from(field.replace("\\040", " "));
    Some((path(fields.next()?), path(fields.next()?)))
}

/// Makes the group pass on the controllers for the limits; if it does not yet, this is
/// tried once, but the kernel refuses it in most groups that have processes.
fn delegate(group: &Path, controllers: &[&'static str]) -> Result<(), String> {
    let list = |file: &str| {
        fs::read_to_string(group.join(file))
            .map_err(|error| format!("{}: {error}", group.join(file).display()))
    };
    let lacks = |list: &str| -> Vec<&str> {
        let all = controllers.iter().copied();
        all.filter(|name| !list.split_whitespace().any(|has| has == *name))
            .collect()
    };
    let available = list("cgroup.controllers")?;
    let missing = lacks(&available);
    if !missing.is_empty() {
        return Err(format!(
            "{} has no {} (it has {})",
            group.display(),
            missing.join(" and no "),
            match available.trim() {
                "" => "nothing",
                available => available,
            },
        ));
    }
    let missing = lacks(&list("cgroup.subtree_control")?);
    if missing.is_empty() {
        return Ok(());
    }
    let wanted: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
    let _ = fs::write(group.join("cgroup.subtree_control"), wanted.join(" "));
    let missing = lacks(&list("cgroup.subtree_control")?);
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} does not pass on {} (cgroup.subtree_control)",
        group.display(),
        missing.join(" and ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of a machine that are read.
    fn machine(own: &str, mount: &str, controllers: &str, passed_on: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().expect("a parent")).expect("directories");
            fs::write(file, text).expect("a file");
        };
        write("proc/self/cgroup", own);
        write("proc/self/mountinfo", mount);
        write("cg/unit/cgroup.controllers", controllers);
        write("cg/unit/cgroup.subtree_control", passed_on);
        root
    }

    const OWN: &str = "8:pids:/\n0::/unit\n";
    const MOUNT: &str = "22 27 0:21 / /proc rw - proc proc rw\n\
                         31 23 0:28 / /cg rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
    const LIMITS: CgroupLimits = CgroupLimits {
        memory: Some(1 << 30),
        pids: Some(8),
    };

    #[track_caller]
    fn refused(machine: &tempfile::TempDir, words: &str) {
        let why = Cgroup::create_in(machine.path(), &LIMITS).expect_err("there can be none");
        assert!(why.contains(words), "{why}");
    }

    #[test]
    fn what_is_missing_is_told() {
        let all = "cpu memory pids\n";
        refused(
            &machine("8:pids:/\n", MOUNT, all, all),
            "no control groups of version 2",
        );
        refused(&machine(OWN, "", all, all), "not mounted");
        let elsewhere = MOUNT.replace("0:28 / ", "0:28 /other ");
        refused(
            &machine(OWN, &elsewhere, all, all),
            "outside of what is mounted",
        );
        refused(
            &machine(OWN, MOUNT, "hugetlb\n", ""),
            "no memory and no pids (it has hugetlb)",
        );
        refused(&machine(OWN, MOUNT, "", ""), "(it has nothing)");
        refused(&machine("0::/gone\n", MOUNT, all, all), "No such file");
    }

    #[test]
    fn a_group_that_passes_nothing_on_is_asked_once() {
        let machine = machine(OWN, MOUNT, "memory pids", "pids");
        // A plain file keeps what is written, so the attempt is visible.
        let control = machine.path().join("cg/unit/cgroup.subtree_control");
        refused(&machine, "does not pass on memory and pids");
        assert_eq!(fs::read_to_string(control).expect("it is there"), "+memory");
    }

    #[test]
    fn a_group_has_its_limits_and_goes_when_it_is_dropped() {
        let all = "cpu memory pids\n";
        let machine = machine(OWN, MOUNT, all, all);
        let group = Cgroup::create_in(machine.path(), &LIMITS).expect("it can be made");
        let path = group.path().to_owned();
        assert!(path.starts_with(machine.path().join("cg/unit")));
        let limit = |file: &str| fs::read_to_string(path.join(file)).expect("it is set");
        assert_eq!(limit("memory.max"), (1 << 30).to_string());
        assert_eq!(limit("pids.max"), "8");
        // The kernel's files do not prevent removing a group; these do.
        for file in fs::read_dir(&path).expect("a directory").flatten() {
            fs::remove_file(file.path()).expect("it goes");
        }
        drop(group);
        assert!(!path.exists());
    }

    #[test]
    fn only_what_is_limited_has_to_be_passed_on() {
        let machine = machine(OWN, MOUNT, "pids", "pids");
        let pids = CgroupLimits {
            memory: None,
            ..LIMITS
        };
        let group = Cgroup::create_in(machine.path(), &pids).expect("it can be made");
        assert!(group.path().join("pids.max").exists());
        refused(&machine, "no memory (it has pids)");
    }

    #[test]
    fn this_machine_has_one_or_says_why_not() {
        match Cgroup::create(&LIMITS) {
            Ok(group) => assert!(group.path().is_dir()),
            Err(why) => {
                println!("{why}");
                assert!(!why.is_empty());
            }
        }
    }
}
