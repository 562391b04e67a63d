//! The standard streams as a guest sees them.

use super::input::Source;
use super::sink::Sink;
use crate::task::Terminals;
use wasmtime_wasi::cli::IsTerminal;

/// What a guest's standard streams read and write.
pub(super) struct Streams<'a> {
    pub(super) stdin: &'a Source,
    pub(super) stdout: &'a Sink,
    pub(super) stderr: &'a Sink,
    pub(super) terminals: Terminals,
}

/// A stream, and whether it is a terminal to the guest.
pub(crate) struct Standard<S> {
    pub(super) stream: S,
    is_terminal: bool,
}

impl<S: Clone> Standard<S> {
    pub(super) fn new(stream: &S, is_terminal: bool) -> Self {
        Standard {
            stream: stream.clone(),
            is_terminal,
        }
    }
}

impl<S> IsTerminal for Standard<S> {
    fn is_terminal(&self) -> bool {
        self.is_terminal
    }
}
