//! An order that can be sent before its worker exists.

use super::channel::Sender;
use crate::wire::{FrameError, Input, Order, Output, RunOrder};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;
use wrun_sandbox::Budgets;
use wrun_sandbox::InputKind;
use wrun_sandbox::Sink;
use wrun_sandbox::executor::Job;
use wrun_types::spec::Spec;

/// Orders up to this size can be sent ahead of their worker: every socket has room for
/// them.
const AHEAD: usize = 16 << 10;

/// The order of a task to which nothing else is sent: it can be sent before its worker
/// exists.
///
/// If the worker's start fails after the order was sent, the task runs again in another
/// worker, without a visible difference: it has no directories, no addresses and no port,
/// and its messages were not read.
pub(super) struct Plain {
    task_id: u64,
    attempt: u32,
    spec: Arc<Spec>,
    input: Bytes,
    stdout: Output,
    stderr: Output,
}

impl Plain {
    /// `None` if the task needs more than that.
    pub(super) fn of(job: &Job) -> Option<Self> {
        let InputKind::Bytes(input) = &job.stdin else {
            return None;
        };
        let piped = |sink: &Sink| sink.is_channel();
        if input.len() > AHEAD
            || job.artifact.shape().is_command()
            || piped(&job.stdout)
            || piped(&job.stderr)
            || !job.spec.dirs.is_empty()
            || !job.spec.tcp.is_empty()
            || job.port.is_some()
            || job.exchange.is_some()
            // The order states the time left, which would pass meanwhile.
            || job.deadline.is_some()
        {
            return None;
        }
        let output = |sink: &Sink| Output {
            piped: false,
            budget: job.spec.limits.output_budget(sink.is_capture()),
        };
        Some(Plain {
            task_id: job.task_id,
            attempt: job.attempt,
            spec: job.spec.clone(),
            input: input.clone(),
            stdout: output(&job.stdout),
            stderr: output(&job.stderr),
        })
    }

    pub(super) fn frame(&self) -> Result<Vec<u8>, FrameError> {
        Sender::frame(&Order::Run(Box::new(RunOrder {
            task_id: self.task_id,
            attempt: self.attempt,
            spec: (*self.spec).clone(),
            remaining: None,
            input: Input::Inline(self.input.clone()),
            stdout: self.stdout,
            stderr: self.stderr,
            joined: false,
            port: None,
            request: None,
        })))
    }
}

/// An order as it was sent, as far as the socket took it.
pub(super) struct SentOrder {
    pub(super) frame: Vec<u8>,
    /// Bytes of the frame that were sent.
    pub(super) sent: usize,
    pub(super) at: Instant,
}
