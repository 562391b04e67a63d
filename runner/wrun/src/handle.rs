//! The embedder's end of a submitted task.

use crate::core::Ends;
use crate::driving::Driving;
#[cfg(feature = "http")]
use crate::http::Responding;
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::coop::unconstrained;
use wrun_sandbox::token::Token;
use wrun_sandbox::{Progress, blocking};
use wrun_sys::Process;
use wrun_types::error::{Error, ErrorKind};
use wrun_types::report::Report;

/// A submitted task.
///
/// Dropping it kills the task, so that no task runs without a handle;
/// [`TaskHandle::detach`] lets it run.
#[must_use = "dropping a handle kills its task"]
#[derive(Debug)]
pub struct TaskHandle {
    id: u64,
    driving: Driving,
    kill: Token,
    cancel: Token,
    stdout: Option<OutputStream>,
    stderr: Option<OutputStream>,
    /// Streams that were not taken before the report was waited for: they are read, so that
    /// the task does not wait for a reader.
    discarded: [Option<OutputStream>; 2],
    progress: watch::Receiver<Progress>,
    #[cfg(feature = "http")]
    response: Option<Responding>,
    /// In a fork of that process the task does not run, and never ends.
    made_in: Process,
}

impl TaskHandle {
    pub(crate) fn new(
        id: u64,
        driving: Driving,
        [kill, cancel]: [Token; 2],
        ends: Ends,
        progress: watch::Receiver<Progress>,
    ) -> Self {
        TaskHandle {
            id,
            driving,
            kill,
            cancel,
            stdout: ends.stdout,
            stderr: ends.stderr,
            discarded: [None, None],
            progress,
            #[cfg(feature = "http")]
            response: ends.response,
            made_in: Process::current(),
        }
    }

    /// The task's id, unique within its runner, from 1.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The output as it is produced; `Some` once, for a task submitted with
    /// [`Stdio::Stream`](crate::Stdio::Stream), before its report was waited for.
    pub fn take_stdout(&mut self) -> Option<OutputStream> {
        self.stdout.take()
    }

    /// Stderr as it is produced; as [`TaskHandle::take_stdout`].
    pub fn take_stderr(&mut self) -> Option<OutputStream> {
        self.stderr.take()
    }

    /// Waits for the head of the response of a task that answers a request
    /// ([`Task::request`](crate::Task::request)); `Some` once. `None` if the task ended
    /// without a response: then its [report](TaskHandle::report) says how.
    ///
    /// The body arrives while the task continues, and the task waits while it is not read. It
    /// ends with an error if the task does not complete, so that a part of a body is never
    /// taken for all of it. If the body is dropped, the task continues and finds it closed.
    ///
    /// Cancel safe.
    #[cfg(feature = "http")]
    pub async fn response(&mut self) -> Option<http::Response<wrun_sandbox::http::Body>> {
        if !self.made_in.is_current() {
            return None;
        }
        std::future::poll_fn(|cx| {
            self.driving.advance(cx);
            let Some(response) = &mut self.response else {
                return Poll::Ready(None);
            };
            let response = ready!(Pin::new(response).poll(cx));
            self.response = None;
            // Its body comes whether or not somebody waits for the report.
            self.driving.go_on();
            Poll::Ready(response.ok())
        })
        .await
    }

    /// The task's latest progress; zero before it reported any.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Waits until the task reports progress; `None` once it will report no more.
    pub async fn progress_changed(&mut self) -> Option<Progress> {
        if !self.made_in.is_current() {
            return None;
        }
        self.progress.changed().await.ok()?;
        Some(*self.progress.borrow_and_update())
    }

    /// A handle for [`TaskHandle::progress_changed`], for other owners.
    pub fn progress_watch(&self) -> ProgressWatch {
        ProgressWatch(self.progress.clone())
    }

    /// Requests the task to stop: `context.cancelled` becomes true. A task that does not
    /// check it continues.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Ends the task, at any stage: requests it to stop, and ends it after its
    /// [grace](crate::Task::grace) period, or at once if it cannot observe the request. Its
    /// outcome is [`Cancelled`](crate::Outcome::Cancelled), unless it ended by itself.
    pub fn kill(&self) {
        self.kill.cancel();
    }

    /// A handle for [`TaskHandle::kill`], for other owners.
    pub fn killer(&self) -> Killer {
        Killer(self.kill.clone())
    }

    /// A handle for [`TaskHandle::cancel`], for other owners.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.cancel.clone())
    }

    /// Waits for the task's end and returns its report, once. From now on, streams that
    /// were not taken are discarded.
    ///
    /// Dropping the future ends only the wait: the task continues, and a later call waits
    /// for the same report. Awaiting the handle itself (`handle.await`) owns it; dropping
    /// that future kills the task.
    ///
    /// # Errors
    ///
    /// The runner itself failed, or the task could not be loaded; whatever the guest does
    /// is in the report. [`ErrorKind::ReportTaken`] if the report, or such an error, was
    /// returned before.
    pub async fn report(&mut self) -> Result<Report, Error> {
        if !self.made_in.is_current() {
            return Err(Error::forked());
        }
        let driving = &mut self.driving;
        if driving.is_taken() {
            return Err(Driving::taken());
        }
        let [stdout, stderr] = &mut self.discarded;
        for (stream, discarded) in [
            (&mut self.stdout, &mut *stdout),
            (&mut self.stderr, &mut *stderr),
        ] {
            if let Some(stream) = stream.take() {
                *discarded = Some(stream);
            }
        }
        loop {
            tokio::select! {
                biased;
                report = std::future::poll_fn(|cx| driving.poll_report(cx)) => return report,
                () = discard(stdout) => {}
                () = discard(stderr) => {}
            }
        }
    }

    /// The report, if the task has ended; `None` while it has not. Does not wait, and discards no
    /// streams.
    ///
    /// # Errors
    ///
    /// As [`TaskHandle::report`].
    pub fn try_report(&mut self) -> Option<Result<Report, Error>> {
        if !self.made_in.is_current() {
            return Some(Err(Error::forked()));
        }
        if let Driving::Here(..) = self.driving {
            return None;
        }
        let mut cx = Context::from_waker(Waker::noop());
        match self.driving.poll_report(&mut cx) {
            Poll::Ready(report) => Some(report),
            Poll::Pending => None,
        }
    }

    /// [`TaskHandle::report`] for code that is not asynchronous.
    ///
    /// # Errors
    ///
    /// As [`TaskHandle::report`]; [`ErrorKind::BlockingInAsync`] in asynchronous code, with
    /// no effect on the task.
    pub fn blocking_report(&mut self) -> Result<Report, Error> {
        must_not_be_async("report")?;
        // This thread does nothing else until then, so it need not yield.
        let mut report = std::pin::pin!(unconstrained(self.report()));
        loop {
            if let Some(report) = blocking::wait(report.as_mut(), None) {
                return report;
            }
        }
    }

    /// Lets the task run without a handle.
    pub fn detach(mut self) {
        self.driving.go_on();
        self.driving = Driving::Taken;
    }
}

impl IntoFuture for TaskHandle {
    type Output = Result<Report, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// [`TaskHandle::report`], which keeps the handle until then: dropping the future kills
    /// the task.
    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move { self.report().await })
    }
}

/// # Errors
///
/// The caller is asynchronous code, which a blocking call would delay, or block forever.
pub(crate) fn must_not_be_async(instead: &str) -> Result<(), Error> {
    match Handle::try_current() {
        Ok(_) => Err(Error::new(
            ErrorKind::BlockingInAsync,
            format!("a blocking call in asynchronous code: use {instead}"),
        )),
        Err(_) => Ok(()),
    }
}

/// Reads a stream to its end and discards it; never ends without a stream.
async fn discard(stream: &mut Option<OutputStream>) {
    if let Some(reading) = stream {
        while reading.next_chunk().await.is_some() {}
        *stream = None;
    } else {
        std::future::pending().await
    }
}

impl Drop for TaskHandle {
    fn drop(&mut self) {
        if !self.made_in.is_current() {
            // Dropping it would wake the other process's event loop.
            std::mem::forget(std::mem::replace(&mut self.driving, Driving::Taken));
        } else if !self.driving.is_taken() {
            self.kill.cancel();
        }
    }
}

/// Kills one task; cheap to clone. See [`TaskHandle::killer`].
#[derive(Clone, Debug)]
pub struct Killer(Token);

impl Killer {
    /// As [`TaskHandle::kill`].
    pub fn kill(&self) {
        self.0.cancel();
    }
}

/// Requests one task to stop; cheap to clone. See [`TaskHandle::canceller`].
#[derive(Clone, Debug)]
pub struct Canceller(Token);

impl Canceller {
    /// As [`TaskHandle::cancel`].
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// The progress of one task; see [`TaskHandle::progress_watch`].
#[derive(Clone, Debug)]
pub struct ProgressWatch(watch::Receiver<Progress>);

impl ProgressWatch {
    /// As [`TaskHandle::progress`].
    pub fn latest(&self) -> Progress {
        *self.0.borrow()
    }

    /// As [`TaskHandle::progress_changed`].
    pub async fn changed(&mut self) -> Option<Progress> {
        self.0.changed().await.ok()?;
        Some(*self.0.borrow_and_update())
    }
}

/// Output of a running task, in order. Ends when the task has ended and all is read. While
/// it is not read, the task waits: about 1 MiB is buffered.
#[derive(Debug)]
pub struct OutputStream {
    chunks: mpsc::Receiver<Bytes>,
    rest: Bytes,
    /// In a fork of that process, it is not written to and does not end.
    made_in: Process,
}

impl OutputStream {
    pub(crate) fn new(chunks: mpsc::Receiver<Bytes>) -> Self {
        OutputStream {
            chunks,
            rest: Bytes::new(),
            made_in: Process::current(),
        }
    }

    /// The next bytes, as many as are available, at most 64 KiB; `None` at the end.
    pub async fn next_chunk(&mut self) -> Option<Bytes> {
        if !self.rest.is_empty() {
            return Some(std::mem::take(&mut self.rest));
        }
        if !self.made_in.is_current() {
            return None;
        }
        self.chunks.recv().await
    }

    /// [`OutputStream::next_chunk`] for code that is not asynchronous.
    ///
    /// # Panics
    ///
    /// In asynchronous code.
    pub fn blocking_next_chunk(&mut self) -> Option<Bytes> {
        if !self.rest.is_empty() {
            return Some(std::mem::take(&mut self.rest));
        }
        if !self.made_in.is_current() {
            return None;
        }
        self.chunks.blocking_recv()
    }
}

impl AsyncRead for OutputStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            if !self.made_in.is_current() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.chunks.poll_recv(cx)) {
                Some(chunk) => self.rest = chunk,
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest.split_to(len));
        Poll::Ready(Ok(()))
    }
}
