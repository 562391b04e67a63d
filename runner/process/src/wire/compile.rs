//! The messages between runner and compiler.
//!
//! ```text
//! compiler                     runner
//! Hello          ───────────▶
//!                ◀───────────  CompileOrder
//! Moved          ───────────▶  if it continues as another process
//! CompilerSays   ───────────▶  and the compiler is gone
//! ```

use crate::jail::Plan;
use serde::{Deserialize, Serialize};
use wrun_sandbox::{Checks, LoadError};
use wrun_types::jail_report::LayerReport;

/// Maximum of bytes that a compiler may send, greeting and frame: several times the longest
/// refusal.
pub const MAX_ANSWER: usize = 64 << 10;

/// A task file to compile. It and the file for the code come with the message.
#[derive(Debug, Serialize, Deserialize)]
pub struct CompileOrder {
    pub checks: Checks,
    /// BLAKE3 of the task file.
    pub source: [u8; 32],
    /// Maximum of threads that compile.
    pub threads: u32,
    /// Its jail, with its limits.
    pub plan: Plan,
}

/// A compiler's only message, except for `Moved` before it.
#[derive(Debug, Serialize, Deserialize)]
pub enum CompilerSays {
    /// The code is in the file.
    Compiled,
    /// The bytes are not a task.
    Refused(LoadError),
    /// The task did not cause it.
    Failed(String),
    /// It continues as this process, and the one that was started ends.
    Moved(i32),
    /// A required layer of the jail is not available.
    NoJail(LayerReport),
    /// The jail cannot be set up for another reason.
    JailFailed(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Decoder, encode};

    #[test]
    fn whatever_a_compiler_says_is_a_word_or_an_error() {
        for first in 0..=255 {
            for second in 0..=255 {
                let mut decoder = Decoder::default();
                decoder.push(&[6, 0, 0, 0, first, second, 0xff, 0xff, 0xff, 0xff]);
                let _ = decoder.next::<CompilerSays>();
            }
        }
    }

    #[test]
    fn a_refusal_travels() {
        let refusal = CompilerSays::Refused(LoadError::Empty);
        let mut decoder = Decoder::default();
        decoder.push(&encode(&refusal).expect("fits"));
        match decoder.next().expect("decodes") {
            Some(CompilerSays::Refused(LoadError::Empty)) => {}
            other => panic!("{other:?}"),
        }
    }
}
