//! What the kernel says of the memory of processes, and which processes there are.

use std::fs;
use std::io;

/// Memory of a process, in bytes: sums of `smaps_rollup`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Resident, all shared pages counted.
    pub resident: f64,
    /// Resident, each shared page divided by the number of processes that map it.
    pub proportional: f64,
    /// What no other process maps.
    pub private: f64,
}

impl Memory {
    /// Of a process by its id, or of this one as `self`.
    ///
    /// # Errors
    ///
    /// It has ended, or may not be looked at.
    pub fn of(pid: &str) -> io::Result<Self> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        Ok(Memory::parse(&rollup))
    }

    fn parse(rollup: &str) -> Self {
        let sum = |wanted: &str| -> f64 {
            let lines = rollup.lines().filter(|line| line.starts_with(wanted));
            let kib = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            kib.sum::<f64>() * 1024.0
        };
        Memory {
            resident: sum("Rss:"),
            proportional: sum("Pss:"),
            private: sum("Private_"),
        }
    }
}

/// The processes that a process has started, and those that these have started; without
/// those whose parent has ended.
pub fn descendants(pid: u32) -> Vec<u32> {
    let (mut found, mut open) = (Vec::new(), vec![pid]);
    while let Some(pid) = open.pop() {
        let children = children(pid);
        found.extend(&children);
        open.extend(children);
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    for task in tasks.into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let pids = children.split_whitespace();
        all.extend(pids.filter_map(|pid| pid.parse::<u32>().ok()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_lines() {
        let memory = Memory::parse(
            "00400000-7ffe000 ---p 00000000 00:00 0 [rollup]\nRss:    20 kB\nPss:    10 kB\n\
             Pss_Dirty:   3 kB\nShared_Clean:  8 kB\nPrivate_Clean:  4 kB\nPrivate_Dirty:  8 kB\n",
        );
        let sums = (memory.resident, memory.proportional, memory.private);
        assert_eq!(sums, (20480.0, 10240.0, 12288.0));
    }
}
