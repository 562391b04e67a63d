//! What the host's code can be ordered to do in a guest's place, and what came of it.
//! Plain data.
//!
//! A comparison orders it, to see what a mode holds when a sandbox does not
//! (`compare`). Invariant: nothing that a task's author, its user or an
//! embedder sets becomes an act. It is a field of its own in a task's order, which only
//! this crate sets; a program that could forge such an order runs native code already.

use serde::{Deserialize, Serialize};

/// One thing to do. None does harm where nothing stops it, but to the process that does
/// it: signals have the number 0, what is written and connected to is the orderer's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Injection {
    /// Reads memory that is not readable.
    Segfault,
    Abort,
    /// Dies by the signal that the kernel sends when memory is short, which nothing
    /// catches. Memory is not used up.
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
    /// Attaches to a process as a debugger, and lets go of it.
    Ptrace(Whose),
    /// Sends a process signal 0: whether it may.
    Signal(Whose),
    /// Reads memory of a process at this address, which is there.
    Memory {
        of: Whose,
        at: u64,
    },
    /// Maps a page that is both written and run.
    ExecutableMemory,
    /// Reads the environment of a process.
    Environment(Whose),
}

/// The process that an act is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whose {
    /// The one that acts: where that is the runner's.
    Own,
    /// Another one, by the number that the runner knows it by.
    Process(i32),
}

impl Injection {
    /// What a program that an act became exits with.
    #[doc(hidden)]
    pub const EXECUTED: i32 = 42;
    /// What a process that an act started exits with.
    #[doc(hidden)]
    pub const FORKED: i32 = 7;
    /// Bytes that [`Injection::Memory`] reads.
    #[doc(hidden)]
    pub const MEMORY: usize = 32;
    /// Bytes that files are read up to.
    #[doc(hidden)]
    pub const READ: usize = 4096;
}

/// What came of an act, where its process lived to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InjectionResult {
    /// It was done. Of what was read, the BLAKE3 hash; of a process, its status.
    Did(Vec<u8>),
    /// The system refused.
    Refused {
        /// Its error number.
        errno: i32,
        /// That of the same call with arguments that make no sense: the same where a
        /// filter refuses the call before the kernel looks at them.
        senseless: i32,
    },
}

impl InjectionResult {
    /// As text, which is how a task's report carries it.
    #[doc(hidden)]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What [`InjectionResult::to_text`] made; none of anything else.
    #[doc(hidden)]
    pub fn of_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}
