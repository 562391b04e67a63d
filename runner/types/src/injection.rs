//! Actions that the host's code can be ordered to take in a guest's place, and their
//! results. Plain data.
//!
//! A comparison orders them to see what a mode contains after a sandbox has failed
//! (`compare`). Invariant: nothing that a task's author, its user or an embedder sets
//! becomes an action. It is a separate field of a task's order, which only this crate sets;
//! a program that could forge such an order runs native code already.

use serde::{Deserialize, Serialize};

/// One action. If nothing stops it, it harms only the process that takes it: signals have
/// the number 0, and files and listeners are the orderer's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Injection {
    /// Reads memory that is not readable.
    Segfault,
    Abort,
    /// Dies by the signal that the kernel sends when memory is short, which cannot be
    /// caught. It does not use up memory.
    OomKill,
    /// Reads the start of this file.
    ReadFile(String),
    /// Makes this file, with a few bytes.
    WriteFile(String),
    /// Connects to this TCP port of the loopback interface.
    Connect(u16),
    /// Starts a process, which ends at once.
    Fork,
    /// Becomes this program, with the arguments `-c` and `exit 42`.
    Exec(String),
    /// Attaches to a process as a debugger, and detaches.
    Ptrace(Whose),
    /// Sends a process signal 0, which checks for permission only.
    Signal(Whose),
    /// Reads memory of a process at this address, which is mapped.
    Memory {
        of: Whose,
        at: u64,
    },
    /// Maps a page that is both writable and executable.
    ExecutableMemory,
    /// Reads the environment of a process.
    Environment(Whose),
}

/// The process that an action is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whose {
    /// The process that acts, if it is the runner's.
    Own,
    /// Another process, by the number that the runner knows it by.
    Process(i32),
}

impl Injection {
    /// Exit status of a program that an action has executed.
    #[doc(hidden)]
    pub const EXECUTED: i32 = 42;
    /// Exit status of a process that an action has started.
    #[doc(hidden)]
    pub const FORKED: i32 = 7;
    /// Bytes that [`Injection::Memory`] reads.
    #[doc(hidden)]
    pub const MEMORY: usize = 32;
    /// Maximum of bytes that are read from a file.
    #[doc(hidden)]
    pub const READ: usize = 4096;
}

/// The result of an action that its process survived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InjectionResult {
    /// It succeeded. The BLAKE3 hash of the bytes that were read, or the status of the
    /// process.
    Did(Vec<u8>),
    /// The system refused.
    Refused {
        /// Its error number.
        errno: i32,
        /// The error number of the same call with invalid arguments: it is equal if a filter
        /// refuses the call before the kernel checks them.
        senseless: i32,
    },
}

impl InjectionResult {
    /// As text, which is how a task's report carries it.
    #[doc(hidden)]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The reverse of [`InjectionResult::to_text`]; `None` for any other text.
    #[doc(hidden)]
    pub fn of_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}
