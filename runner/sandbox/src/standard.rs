//! The standard streams as a guest sees them.

use super::input::Source;
use super::sink::Sink;
use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream};
use wrun_types::spec::Terminals;

/// The sources and sinks of a guest's standard streams.
pub(super) struct Streams<'a> {
    pub(super) stdin: &'a Source,
    pub(super) stdout: &'a Sink,
    pub(super) stderr: &'a Sink,
    pub(super) terminals: Terminals,
}

/// A stream, and whether it is a terminal for the guest.
pub(crate) struct Standard<S> {
    stream: S,
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

impl StdinStream for Standard<Source> {
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.stream.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.stream.reader())
    }
}

impl StdoutStream for Standard<Sink> {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.stream.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.stream.writer())
    }
}
