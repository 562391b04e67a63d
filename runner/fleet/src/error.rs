//! What can go wrong between a program and its fleet.

use std::fmt;

/// Why a call of this crate failed. What becomes of a task is never an `Error`: it is in the
/// task's [`Answer`](crate::Answer).
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Classes of errors, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting, a message or a file is not valid. Trying again does not help.
    Invalid,
    /// The server refused the connection or a request: a wrong password, a missing permission.
    Denied,
    /// The server does not answer, or not in time. Trying again later may work.
    Unavailable,
    /// JetStream is not enabled on the server, or not for this account, or not yet.
    NoJetStream,
    /// The queue of this class and tenant is full. Trying again later may work.
    Full,
    /// The server has no room left on its disk or in its memory. Trying again later may work.
    NoSpace,
    /// There is no such task, module or object.
    NotFound,
    /// A file of this machine cannot be read or written.
    Io,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, message)
    }

    /// A failed request to the server, by what it was for.
    pub(crate) fn server(doing: &str, why: impl fmt::Display) -> Self {
        let why = why.to_string();
        Error::new(kind_of(&why), format!("cannot {doing}: {why}"))
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// True when the same call may succeed later, unchanged.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            // A server that has just started may have no JetStream yet.
            ErrorKind::Unavailable | ErrorKind::Full | ErrorKind::NoSpace | ErrorKind::NoJetStream
        )
    }
}

/// The client of NATS has no codes for most of its errors, so their words are read.
fn kind_of(why: &str) -> ErrorKind {
    let why = why.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|words| why.contains(words));
    if has(&["maximum messages", "maximum bytes", "per subject exceeded"]) {
        ErrorKind::Full
    } else if has(&["insufficient", "no space", "resource limits exceeded"]) {
        ErrorKind::NoSpace
    } else if has(&[
        "stream not found",
        "consumer not found",
        "resource does not exist",
    ]) {
        // It is made again, or the server has not read it yet.
        ErrorKind::Unavailable
    } else if has(&["jetstream not enabled", "10039", "10076"]) {
        ErrorKind::NoJetStream
    } else if has(&[
        "permissions violation",
        "authorization",
        "authentication",
        // A stream that is sealed is read-only for good.
        "sealed stream",
    ]) {
        ErrorKind::Denied
    } else if has(&["not found", "no message found"]) {
        ErrorKind::NotFound
    } else {
        ErrorKind::Unavailable
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_has_a_kind() {
        for (words, kind) in [
            ("maximum messages exceeded (10077)", ErrorKind::Full),
            ("maximum messages per subject exceeded", ErrorKind::Full),
            ("insufficient resources", ErrorKind::NoSpace),
            ("jetstream not enabled for account", ErrorKind::NoJetStream),
            ("authorization violation", ErrorKind::Denied),
            (
                "invalid operation on sealed stream (10109)",
                ErrorKind::Denied,
            ),
            ("timed out", ErrorKind::Unavailable),
        ] {
            assert_eq!(Error::server("publish", words).kind(), kind, "{words}");
        }
    }
}
