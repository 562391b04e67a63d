//! The terms on the page, for readers who have never seen wrun.

use crate::{CostRow, Fault, Measure, Policy, Transport};
use wrun::Mode;

/// How a policy gives a task its sandbox, in a few words.
pub(super) fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Instance => "fresh instance",
        Policy::Signal => "fresh instance, preempted by a signal",
        Policy::Spare => "forked ahead",
        Policy::Fork => "forked on demand",
        Policy::Exec => "started as a program",
        Policy::Reuse => "used again",
    }
}

/// A measure, as a heading.
pub(super) fn measure(measure: Measure) -> &'static str {
    match measure {
        Measure::Compile => "Compile the file",
        Measure::Load => "Load, code in the cache",
        Measure::Cold => "First result of a new runner",
        Measure::Warm => "A task when all is warm",
        Measure::Throughput => "Tasks a second",
        Measure::Latency => "A request beside others",
        Measure::RoundTrip => "Message there and back",
        Measure::Bandwidth => "Bytes a second in messages",
        Measure::Resident => "Resident (RSS)",
        Measure::Proportional => "Shared pages divided (PSS)",
        Measure::Private => "Not shared (private)",
        Measure::Compute => "CPU time of the guest's own code",
        Measure::Cpu => "CPU time of a task",
        Measure::Faults => "Page faults of a task",
        Measure::Switches => "Context switches of a task",
        Measure::Descriptors => "Descriptors of a waiting task",
    }
}

/// How bytes travel.
pub(super) fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Copied => "copied",
        Transport::Region => "region",
    }
}

/// A row's mode and variant: `process, forked ahead`, `thread, copied`.
pub(super) fn series(row: &CostRow) -> String {
    let mut name = row.mode.name().to_owned();
    if let Some(how) = row.policy {
        name = format!("{name}, {}", policy(how));
    }
    if let Some(how) = row.transport {
        name = format!("{name}, {}", transport(how));
    }
    name
}

/// The class of elements of a mode.
pub(super) fn class(mode: Mode) -> &'static str {
    mode.name()
}

/// The origin of a fault, which is also how bad it is if a mode does not contain it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// The guest, by a mistake or on purpose.
    Guest,
    /// The code that runs the guest, beneath the sandbox.
    Host,
    /// Code that has broken out of the sandbox.
    Escaped,
}

impl Origin {
    pub(super) const ALL: [Origin; 3] = [Origin::Guest, Origin::Host, Origin::Escaped];

    /// As a heading.
    pub(super) fn title(self) -> &'static str {
        match self {
            Origin::Guest => "The guest misbehaves",
            Origin::Host => "What runs the guest dies",
            Origin::Escaped => "Code has escaped the sandbox",
        }
    }

    /// Its explanation.
    pub(super) fn explained(self) -> &'static str {
        match self {
            Origin::Guest => "Any bug of a task can do this, and anybody's task on purpose.",
            Origin::Host => {
                "A bug in the compiler or runtime under the guest, or a machine short of memory."
            }
            Origin::Escaped => {
                "The sandbox has a hole and somebody uses it: what the walls behind it still stop."
            }
        }
    }
}

/// The origin of a fault.
pub(super) fn origin(fault: Fault) -> Origin {
    match fault {
        Fault::Trap
        | Fault::StackOverflow
        | Fault::EndlessLoop
        | Fault::MemoryBomb
        | Fault::OutputFlood
        | Fault::LockHolder => Origin::Guest,
        Fault::Segfault | Fault::Abort | Fault::OomKill => Origin::Host,
        Fault::ReadFile
        | Fault::WriteFile
        | Fault::Connect
        | Fault::Fork
        | Fault::Exec
        | Fault::Ptrace
        | Fault::Signal
        | Fault::HostMemory
        | Fault::ExecutableMemory
        | Fault::HostEnvironment => Origin::Escaped,
    }
}

/// The name of a fault, and its description, for people.
pub(super) fn fault(fault: Fault) -> (&'static str, &'static str) {
    match fault {
        Fault::Trap => ("Trap", "the guest traps"),
        Fault::StackOverflow => ("Stack overflow", "the guest calls itself without end"),
        Fault::EndlessLoop => ("Endless loop", "the guest computes without end"),
        Fault::MemoryBomb => ("Memory bomb", "the guest takes all memory it can have"),
        Fault::OutputFlood => ("Output flood", "the guest writes without end"),
        Fault::LockHolder => ("Lock holder dies", "the guest holds a named lock and dies"),
        Fault::Segfault => ("Segfault", "the host's code reads an unmapped address"),
        Fault::Abort => ("Abort", "the host's code aborts"),
        Fault::OomKill => ("Out-of-memory kill", "the kernel kills what runs the guest"),
        Fault::ReadFile => ("Read a file", "of the machine"),
        Fault::WriteFile => ("Write a file", "of the machine"),
        Fault::Connect => ("Connect", "to the network"),
        Fault::Fork => ("Start a process", "by fork"),
        Fault::Exec => ("Run a program", "by exec"),
        Fault::Ptrace => ("Attach", "to the runner, as a debugger"),
        Fault::Signal => ("Send a signal", "to the runner"),
        Fault::HostMemory => ("Read memory", "of the runner"),
        Fault::ExecutableMemory => ("Make code", "memory both written and run"),
        Fault::HostEnvironment => ("Read the environment", "of the runner"),
    }
}

/// A fault inside a sentence: what happens, or what escaped code does.
pub(super) fn fault_in_words(fault: Fault) -> &'static str {
    match fault {
        Fault::Trap => "a trap",
        Fault::StackOverflow => "a stack overflow",
        Fault::EndlessLoop => "an endless loop",
        Fault::MemoryBomb => "a memory bomb",
        Fault::OutputFlood => "an output flood",
        Fault::LockHolder => "a death with a lock held",
        Fault::Segfault => "a segfault",
        Fault::Abort => "an abort",
        Fault::OomKill => "an out-of-memory kill",
        Fault::ReadFile => "reading files",
        Fault::WriteFile => "writing files",
        Fault::Connect => "connecting to the network",
        Fault::Fork => "starting processes",
        Fault::Exec => "running programs",
        Fault::Ptrace => "attaching to the runner",
        Fault::Signal => "sending the runner a signal",
        Fault::HostMemory => "reading the runner's memory",
        Fault::ExecutableMemory => "making new code",
        Fault::HostEnvironment => "reading the runner's environment",
    }
}

/// `a, b and c`.
pub(super) fn list(words: &[impl AsRef<str>]) -> String {
    match words {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

/// Some faults in a sentence.
pub(super) fn faults(faults: &[Fault]) -> String {
    let words: Vec<_> = faults.iter().copied().map(fault_in_words).collect();
    list(&words)
}

/// `1 task`, `4 tasks`.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
