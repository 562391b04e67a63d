//! What the kernel knows about processes, from `/proc`: whose child one is, how
//! much memory it used, which processes run a given program.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A process, told from a later one with the same number by its start time.
pub type Process = (i32, u64);

/// Parent and start time of each process; zombies are left out.
fn table() -> BTreeMap<i32, (i32, u64)> {
    let mut table = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name, in parentheses, may contain anything.
        let Some((_, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        if let (Some(state), Some(Ok(parent)), Some(Ok(start))) = (
            fields.first(),
            fields.get(1).map(|field| field.parse()),
            fields.get(19).map(|field| field.parse()),
        ) && !["Z", "X"].contains(state)
        {
            table.insert(pid, (parent, start));
        }
    }
    table
}

/// Signals a process, unless it is gone: its number may be another process's by now.
/// Tests that start thousands of processes go through all numbers. Whether it was
/// there.
pub fn signal((pid, start): Process, signal: Signal) -> bool {
    let pid = Pid::from_raw(pid).unwrap();
    // Whose it is does not change once it is open.
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return false;
    };
    let now = table()
        .get(&pid.as_raw_nonzero().get())
        .map(|(_, start)| *start);
    now == Some(start) && pidfd_send_signal(&pidfd, signal).is_ok()
}

/// Signals a process below this one, unless it is gone. Whether it was there.
pub fn signal_below(pid: i32, how: Signal) -> bool {
    let all = descendants(std::process::id().cast_signed());
    let process = all.into_iter().find(|(it, _)| *it == pid);
    process.is_some_and(|process| signal(process, how))
}

/// All processes below `pid`.
pub fn descendants(pid: i32) -> BTreeSet<Process> {
    below(&table(), pid)
}

/// The processes below `pid` that have none below them.
pub fn leaves(pid: i32) -> Vec<i32> {
    let table = table();
    let parents: BTreeSet<i32> = table.values().map(|(parent, _)| *parent).collect();
    let all = below(&table, pid).into_iter().map(|(pid, _)| pid);
    all.filter(|pid| !parents.contains(pid)).collect()
}

fn below(table: &BTreeMap<i32, (i32, u64)>, pid: i32) -> BTreeSet<Process> {
    let mut found = BTreeSet::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for (&child, &(its_parent, start)) in table {
            if its_parent == parent && found.insert((child, start)) {
                parents.push(child);
            }
        }
    }
    found
}

/// Processes that run the program at `path`, wherever they hang in the tree.
///
/// Give each test a hard link of its own to `wrun` ([`own_copy`]): a worker runs
/// the same file as its runner, so all processes of one test are found, also
/// those whose parent is gone.
pub fn running(path: &Path) -> BTreeSet<Process> {
    table()
        .into_iter()
        .filter(|(pid, _)| {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.as_path() == path)
        })
        .map(|(pid, (_, start))| (pid, start))
        .collect()
}

/// Whether a process is a worker that stands ready: then it has an event loop. It
/// is taken for one where looking is not allowed.
pub fn serves(pid: i32) -> bool {
    // One that is about to be gone is not to be killed instead of the one that goes on
    // for it.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    if stat
        .rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    {
        return false;
    }
    // Between fork and exec a process still has the descriptors of its parent.
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if !String::from_utf8_lossy(&line).contains("__wrun-worker") {
        return false;
    }
    let descriptors = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(descriptors) => descriptors,
        Err(error) => return error.kind() == std::io::ErrorKind::PermissionDenied,
    };
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|target| target.to_string_lossy().contains("eventpoll"))
}

/// A `wrun` of a test's own.
pub fn own_copy(folder: &Path) -> PathBuf {
    let original = super::wrun();
    let copy = folder.canonicalize().unwrap().join("wrun");
    if fs::hard_link(&original, &copy).is_err() {
        fs::copy(&original, &copy).unwrap();
    }
    copy
}

/// The peak of a process's resident memory so far, in bytes; none when it is
/// gone.
pub fn peak_memory(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

/// The processes that this process started and that exist, dead ones that
/// were not reaped included.
pub(crate) fn children() -> Vec<i32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(
            list.split_whitespace()
                .map(|pid| pid.parse::<i32>().unwrap()),
        );
    }
    children
}

/// The processes that run tasks, or wait for one: those below this one that have
/// no children.
pub(crate) fn workers() -> Vec<i32> {
    leaves(std::process::id().cast_signed())
}

/// A process's state, and the processor time that it has used, in ticks; none once it is
/// gone. It is stopped (`T`) once all of its threads are.
pub fn stat(pid: i32) -> Option<(char, u64)> {
    let (state, time) = stat_in(&format!("/proc/{pid}/stat"))?;
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let states = threads.filter_map(|it| stat_in(&it.path().join("stat").display().to_string()));
    let runs = states.map(|(state, _)| state).find(|state| *state != 'T');
    Some((runs.unwrap_or(state), time))
}

fn stat_in(file: &str) -> Option<(char, u64)> {
    let stat = fs::read_to_string(file).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let time = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((fields.first()?.chars().next()?, time(11)? + time(12)?))
}

/// The processor time that a process and all below it have used, in ticks. In this process
/// without the thread that looks.
pub fn processor_time(pid: i32) -> u64 {
    let below = descendants(pid).into_iter().map(|(pid, _)| pid);
    let below: u64 = below.filter_map(stat).map(|(_, time)| time).sum();
    if pid != std::process::id().cast_signed() {
        return below + stat(pid).map_or(0, |(_, time)| time);
    }
    let this = rustix::thread::gettid().to_string();
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let others = threads.filter(|thread| thread.file_name() != this.as_str());
    let times = others.filter_map(|it| stat_in(&it.path().join("stat").display().to_string()));
    below + times.map(|(_, time)| time).sum::<u64>()
}

/// Waits until a process and all below it compute nothing: each of them waits.
#[track_caller]
pub fn await_rest(what: &str, time: Duration, pid: i32) {
    super::settled(what, time, || processor_time(pid));
}
