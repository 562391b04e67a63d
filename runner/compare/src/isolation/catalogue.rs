//! The faults: their names, their descriptions, and the origin of each.

use crate::Fault;

/// The origin of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The guest, within its sandbox.
    Guest,
    /// The host's code under the guest, by mistake.
    Host,
    /// Code that escaped the sandbox.
    Escaped,
}

impl Fault {
    /// All of them, in the order of tables.
    pub const ALL: [Fault; 19] = [
        Fault::Trap,
        Fault::StackOverflow,
        Fault::EndlessLoop,
        Fault::MemoryBomb,
        Fault::OutputFlood,
        Fault::LockHolder,
        Fault::Segfault,
        Fault::Abort,
        Fault::OomKill,
        Fault::ReadFile,
        Fault::WriteFile,
        Fault::Connect,
        Fault::Fork,
        Fault::Exec,
        Fault::Ptrace,
        Fault::Signal,
        Fault::HostMemory,
        Fault::ExecutableMemory,
        Fault::HostEnvironment,
    ];

    /// The name in results, such as `stack-overflow`.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Trap => "trap",
            Fault::StackOverflow => "stack-overflow",
            Fault::EndlessLoop => "endless-loop",
            Fault::MemoryBomb => "memory-bomb",
            Fault::OutputFlood => "output-flood",
            Fault::LockHolder => "lock-holder",
            Fault::Segfault => "segfault",
            Fault::Abort => "abort",
            Fault::OomKill => "oom-kill",
            Fault::ReadFile => "read-file",
            Fault::WriteFile => "write-file",
            Fault::Connect => "connect",
            Fault::Fork => "fork",
            Fault::Exec => "exec",
            Fault::Ptrace => "ptrace",
            Fault::Signal => "signal",
            Fault::HostMemory => "host-memory",
            Fault::ExecutableMemory => "executable-memory",
            Fault::HostEnvironment => "host-environment",
        }
    }

    /// A line for people, such as `the guest calls itself without end`.
    pub fn describe(self) -> &'static str {
        match self {
            Fault::Trap => "the guest traps",
            Fault::StackOverflow => "the guest calls itself without end",
            Fault::EndlessLoop => "the guest computes without end",
            Fault::MemoryBomb => "the guest takes all the memory that it can have",
            Fault::OutputFlood => "the guest writes without end",
            Fault::LockHolder => "the guest dies with a lock that another task waits for",
            Fault::Segfault => "the host's code under the guest reads what is not mapped",
            Fault::Abort => "the host's code under the guest aborts",
            Fault::OomKill => "what runs the guest is killed, as when memory is short",
            Fault::ReadFile => "escaped code reads a file",
            Fault::WriteFile => "escaped code writes a file",
            Fault::Connect => "escaped code connects to the network",
            Fault::Fork => "escaped code starts a process",
            Fault::Exec => "escaped code runs a program",
            Fault::Ptrace => "escaped code attaches to the host as a debugger",
            Fault::Signal => "escaped code sends the host a signal",
            Fault::HostMemory => "escaped code reads the host's memory",
            Fault::ExecutableMemory => "escaped code makes memory that is written and run",
            Fault::HostEnvironment => "escaped code reads the host's environment",
        }
    }

    /// The fault with this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Fault::ALL.into_iter().find(|fault| fault.name() == name)
    }

    pub(super) fn by(self) -> By {
        match self {
            Fault::Trap
            | Fault::StackOverflow
            | Fault::EndlessLoop
            | Fault::MemoryBomb
            | Fault::OutputFlood
            | Fault::LockHolder => By::Guest,
            Fault::Segfault | Fault::Abort | Fault::OomKill => By::Host,
            _ => By::Escaped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_results() {
        for fault in Fault::ALL {
            let written = serde_json::to_value(fault).expect("a name");
            assert_eq!(written, fault.name());
            assert_eq!(Fault::from_name(fault.name()), Some(fault));
        }
        assert_eq!(Fault::from_name("meteorite"), None);
    }
}
