//! Why a server does not start, or a reload is refused.

use std::io;
use std::path::PathBuf;

/// Why a server does not start, or does not take a new version.
///
/// What becomes of a request is never an `Error`: it is the status of its answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to serve.
    #[error("no app was named: expected at least one route")]
    NoRoutes,
    /// Two routes have one pattern.
    #[error("the route {0:?} is given twice: expected one app for each")]
    DuplicateRoute(String),
    /// What [`Builder::routes_from`](crate::Builder::routes_from) was given has none, for this
    /// reason.
    #[error("{0}")]
    Routes(String),
    /// The app cannot be loaded.
    #[error("{}: {source}", .file.display())]
    Load {
        /// Its file.
        file: PathBuf,
        /// Why.
        source: wrun::Error,
    },
    /// The file is a task, but not an HTTP component.
    #[error(
        "{}: not an HTTP component: expected the export wasi:http/incoming-handler@0.2",
        .0.display()
    )]
    NotHttp(PathBuf),
    /// The app was loaded and did not answer the trial request.
    #[error("{}: the trial request {path:?} failed: {why}", .file.display())]
    Trial {
        /// The app's file.
        file: PathBuf,
        /// The path that was requested.
        path: String,
        /// The status, or how the task ended.
        why: String,
    },
    /// The certificate or its key cannot be used.
    #[error("{}: {why}", .file.display())]
    Tls {
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// The thread that writes the access log cannot be started.
    #[error("cannot start a thread for the access log: {0}")]
    AccessLog(io::Error),
    /// An address or a socket cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address, as it was given.
        address: String,
        /// Why.
        source: io::Error,
    },
}
