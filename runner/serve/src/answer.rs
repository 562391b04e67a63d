//! The task of a request while it is answered, and the body of the answer.
//!
//! Invariant: each record is closed once, with the report of its task, by what comes
//! first: the end of the body, its failure, or a client that is gone.

use crate::app::{Body, BodyError};
use crate::clock::Answering;
use crate::flushed::Flushed;
use crate::record::{Ended, Record};
use crate::reply::Reply;
use crate::shared::Shared;
use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use wrun::{Report, TaskHandle};

/// A task and the record of its request. Dropping it kills the task.
pub(crate) struct Attended {
    /// None once it is finished.
    task: Option<(TaskHandle, Record)>,
    shared: Arc<Shared>,
}

impl Attended {
    pub(crate) fn new(handle: TaskHandle, record: Record, shared: Arc<Shared>) -> Self {
        Attended {
            task: Some((handle, record)),
            shared,
        }
    }

    /// What the task answers; none where it ended without.
    pub(crate) async fn response(&mut self) -> Option<Response<Body>> {
        match &mut self.task {
            Some((handle, _)) => crate::app::response(handle).await,
            None => None,
        }
    }

    pub(crate) fn record(&mut self) -> Option<&mut Record> {
        self.task.as_mut().map(|(_, record)| record)
    }

    /// What the client gets is of the server.
    pub(crate) fn answered(&mut self, reply: &Reply, response: &Response<Outgoing>) {
        if let Some(record) = self.record() {
            record.answered(reply, response);
        }
    }

    /// Waits for the end of a task that did not answer. Its record stays open.
    pub(crate) async fn report(&mut self) -> Result<Report, wrun::Error> {
        match &mut self.task {
            Some((handle, _)) => handle.report().await,
            // What finishes it takes `self`.
            None => std::future::pending().await,
        }
    }

    /// Closes the record of a task whose report was taken.
    pub(crate) fn close(mut self, report: &Result<Report, wrun::Error>) {
        if let Some((_, record)) = self.task.take() {
            self.shared.books.close(&record, ended(report));
        }
    }

    /// Lets the task come to its end after its answer, whose rest is not wanted, and closes the
    /// record.
    pub(crate) fn finish(mut self, rest: Option<Body>, complete: bool) {
        if let Some((handle, record)) = self.task.take() {
            finish(&self.shared, handle, record, rest, complete);
        }
    }
}

fn ended(report: &Result<Report, wrun::Error>) -> Ended<'_> {
    match report {
        Ok(report) => Ended::Task(report),
        Err(error) => Ended::Error(error),
    }
}

fn finish(
    shared: &Arc<Shared>,
    mut handle: TaskHandle,
    mut record: Record,
    rest: Option<Body>,
    complete: bool,
) {
    record.complete = complete;
    // Most have ended with their answer.
    if let Some(report) = handle.try_report() {
        return shared.books.close(&record, ended(&report));
    }
    let books = shared.books.clone();
    let closing = async move {
        if let Some(mut rest) = rest {
            while let Some(Ok(_)) = rest.frame().await {}
        }
        let report = handle.report().await;
        books.close(&record, ended(&report));
    };
    shared.closing.spawn_on(closing, &shared.runtime);
}

impl Drop for Attended {
    fn drop(&mut self) {
        if let Some((handle, record)) = self.task.take() {
            handle.kill();
            let complete = record.complete;
            finish(&self.shared, handle, record, None, complete);
        }
    }
}

/// The body of an answer.
pub(crate) struct Outgoing {
    kind: Kind,
    /// Until it is sent, the connection is not idle.
    answering: Option<Answering>,
}

enum Kind {
    Whole(Option<Bytes>),
    Guest(Box<Flushed<Guest>>),
}

impl Outgoing {
    pub(crate) fn whole(bytes: Bytes, answering: Option<Answering>) -> Self {
        let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
        Outgoing {
            kind: Kind::Whole(bytes),
            answering,
        }
    }

    /// What a guest answers; with the length that it announced.
    pub(crate) fn guest(
        body: Body,
        attended: Attended,
        length: Option<u64>,
        answering: Answering,
    ) -> Self {
        Outgoing {
            kind: Kind::Guest(Box::new(Flushed::new(Guest {
                body: Some(body),
                attended: Some(attended),
                left: length,
            }))),
            answering: Some(answering),
        }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(answering) = &mut self.answering {
            answering.wanted();
        }
        let frame = match &mut self.kind {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Guest(guest) => Pin::new(guest.as_mut()).poll_frame(cx),
        };
        if let (Poll::Ready(Some(Ok(_))), Some(answering)) = (&frame, &mut self.answering) {
            answering.offered();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Guest(guest) => guest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Guest(guest) => guest.size_hint(),
        }
    }
}

struct Guest {
    body: Option<Body>,
    attended: Option<Attended>,
    /// What is left of the length that was announced.
    left: Option<u64>,
}

impl http_body::Body for Guest {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return self.fail(error),
            None if self.left.is_some_and(|left| left > 0) => {
                return self.fail(BodyError::new("the body is shorter than it was announced"));
            }
            None => {
                self.finish(true);
                return Poll::Ready(None);
            }
        };
        let len = frame.data_ref().map_or(0, Bytes::len) as u64;
        if let Some(left) = &mut self.left {
            match left.checked_sub(len) {
                Some(rest) => *left = rest,
                None => {
                    return self.fail(BodyError::new("the body is longer than it was announced"));
                }
            }
        }
        if let Some(record) = self.attended.as_mut().and_then(Attended::record) {
            record.sent += len;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_whole()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, self.left) {
            (_, Some(left)) => SizeHint::with_exact(left),
            (Some(body), None) => body.size_hint(),
            (None, None) => SizeHint::with_exact(0),
        }
    }
}

impl Guest {
    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.finish(false);
        Poll::Ready(Some(Err(error)))
    }

    fn finish(&mut self, complete: bool) {
        if let Some(attended) = self.attended.take() {
            attended.finish(self.body.take(), complete);
        }
    }

    /// Nothing of the body is left to be sent.
    fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Nothing is requested after the last byte that was announced.
        if self.left == Some(0) || self.is_whole() {
            self.finish(true);
        }
        // Otherwise the client is gone, and what attends to the task kills it.
    }
}
