//! What an operator wants to know of a server.

use crate::error::Error;
use crate::listen::Address;
use std::fmt;
use std::io;

/// What happened to a server, for its operator; [`fmt::Display`] is a line for people.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// It answers at this address.
    Listening {
        /// The address; with the port that the system chose.
        address: Address,
        /// With TLS.
        secure: bool,
    },
    /// Health, readiness and metrics are at this address.
    Admin {
        /// The address.
        address: Address,
    },
    /// From here on, this version answers all requests that arrive.
    Reloaded {
        /// Its number: 1 at the start, one more after each reload.
        version: u64,
    },
    /// A reload found what is served already.
    Unchanged {
        /// The version that goes on.
        version: u64,
    },
    /// A reload found something that cannot be served.
    Refused {
        /// The version that goes on.
        version: u64,
        /// Why.
        error: Error,
    },
    /// A connection could not be accepted; the server tries again.
    NotAccepted {
        /// Where.
        address: Address,
        /// Why.
        error: io::Error,
    },
    /// How an app runs, which its operator may not expect: its workers are root, its code is not
    /// cached. It is told once, not for each request.
    Note {
        /// The app, by the name of its route.
        route: String,
        /// A line for people.
        note: String,
    },
    /// No more connections are accepted; the requests that are there are answered.
    Draining {
        /// How many connections there are.
        connections: usize,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Listening { address, secure } => match (address, secure) {
                (Address::Tcp(address), false) => write!(f, "listening on http://{address}"),
                (Address::Tcp(address), true) => write!(f, "listening on https://{address}"),
                (address, _) => write!(f, "listening on {address}"),
            },
            Event::Admin { address } => write!(f, "health and metrics on {}", Url(address)),
            Event::Reloaded { version } => {
                write!(f, "version {version} answers all requests from now on")
            }
            Event::Unchanged { version } => {
                write!(f, "nothing has changed: version {version} goes on")
            }
            Event::Refused { version, error } => {
                write!(
                    f,
                    "the reload is refused, version {version} goes on: {error}"
                )
            }
            Event::NotAccepted { address, error } => {
                let hint = wrun::limit_hint(error);
                write!(f, "cannot accept a connection on {address}: {error}{hint}")
            }
            Event::Note { route, note } => write!(f, "{route}: {note}"),
            Event::Draining { connections } => {
                write!(
                    f,
                    "no more connections are accepted; {connections} are open"
                )
            }
        }
    }
}

struct Url<'a>(&'a Address);

impl fmt::Display for Url<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Address::Tcp(address) => write!(f, "http://{address}"),
            other => other.fmt(f),
        }
    }
}
