//! What drives a submitted task to its report: a task of the runner's runtime, or the code that
//! waits for the report.
//!
//! Invariant: a task that nothing waits for any more is driven by the runtime, to its end.

use crate::in_place::InPlace;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};
use wrun_sandbox::token::Token;
use wrun_sys::Unpoisoned;
use wrun_types::error::{Error, ErrorKind};
use wrun_types::report::Report;

/// A large value, which tokio would move several times.
type Ended = Box<Result<Report, Error>>;
type Driver = Pin<Box<dyn Future<Output = Result<Report, Error>> + Send>>;

/// See the [module](self).
pub(crate) enum Driving {
    /// A task of the runtime.
    Apart(JoinHandle<Ended>),
    /// Who waits for it, on a thread of this runtime. The mutex is never locked: with it, a handle
    /// can be shared between threads.
    Here(Mutex<InPlace<Driver>>, Handle),
    /// Nothing more: it has ended.
    Over(Ended),
    /// Its report was taken.
    Taken,
}

impl Driving {
    pub(crate) fn apart(
        driving: impl Future<Output = Result<Report, Error>> + Send + 'static,
        runtime: &Handle,
    ) -> Self {
        // In a box, because it is large, and tokio moves what it spawns several times.
        let driving = Box::pin(driving);
        Driving::Apart(runtime.spawn(async move { Box::new(driving.await) }))
    }

    /// `kill` kills the task, if this is dropped.
    pub(crate) fn here(
        driving: impl Future<Output = Result<Report, Error>> + Send + 'static,
        kill: Token,
        runtime: &Handle,
    ) -> Self {
        let here = InPlace::new(Box::pin(driving) as Driver, kill);
        Driving::Here(Mutex::new(here), runtime.clone())
    }

    pub(crate) fn is_taken(&self) -> bool {
        matches!(self, Driving::Taken)
    }

    /// Why there is no report.
    pub(crate) fn taken() -> Error {
        Error::new(
            ErrorKind::ReportTaken,
            "the report of the task was already taken from its handle",
        )
    }

    /// Drives the task, if that is for its caller to do: on another runtime, or none, it is not.
    pub(crate) fn advance(&mut self, cx: &mut Context<'_>) {
        let Driving::Here(here, runtime) = self else {
            return;
        };
        let is_there = Handle::try_current().is_ok_and(|current| current.id() == runtime.id());
        if !is_there {
            return self.go_on();
        }
        let here = here.get_mut().unpoisoned();
        if let Poll::Ready(report) = Pin::new(here).poll(cx) {
            *self = Driving::Over(Box::new(report));
        }
    }

    /// From here on the runtime drives the task.
    pub(crate) fn go_on(&mut self) {
        if let Driving::Here(here, runtime) = self
            && let Some(driving) = here.get_mut().unpoisoned().take()
        {
            *self = Driving::Apart(runtime.spawn(async move { Box::new(driving.await) }));
        }
    }

    /// The report, once. Cancel safe.
    pub(crate) fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Result<Report, Error>> {
        self.advance(cx);
        if let Driving::Apart(join) = self {
            let ended = ready!(Pin::new(join).poll(cx));
            *self = Driving::Taken;
            return Poll::Ready(ended.map_or_else(|error| Err(not_driven(&error)), |it| *it));
        }
        if let Driving::Here(..) = self {
            return Poll::Pending;
        }
        match std::mem::replace(self, Driving::Taken) {
            Driving::Over(report) => Poll::Ready(*report),
            _ => Poll::Ready(Err(Driving::taken())),
        }
    }
}

impl std::fmt::Debug for Driving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Driving::Apart(_) => "Apart",
            Driving::Here(..) => "Here",
            Driving::Over(_) => "Over",
            Driving::Taken => "Taken",
        })
    }
}

fn not_driven(error: &JoinError) -> Error {
    match error.is_panic() {
        true => Error::new(
            ErrorKind::System,
            "the runner failed while it ran the task; this is a bug of wrun",
        ),
        false => Error::shut_down(),
    }
}
