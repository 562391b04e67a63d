//! What clients may take. Plain data; enforced in `connection`, `upload` and `request`.

use std::time::Duration;

/// What a client may take of the server, whatever the app does.
///
/// Limits of the app are another thing: [`App::limits`](crate::App::limits).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientLimits {
    /// From the first byte of a request until its header is complete, and from the
    /// connection until its first request. After it, the answer is 408 and the connection is
    /// closed. The TLS handshake may take as long. Default: 10 seconds.
    pub header_timeout: Duration,
    /// Between two parts of a request's body, while the app waits for them. After it, the
    /// answer is 408. Default: 30 seconds.
    pub body_timeout: Duration,
    /// Between two requests of a connection. Default: 60 seconds.
    pub idle_timeout: Duration,
    /// How long the client may take nothing of a response that is ready to be sent. After it,
    /// the connection is closed. Default: 30 seconds.
    pub send_timeout: Duration,
    /// The header of a request in bytes. Beyond it, the answer is 431. Default: 32 KiB.
    pub max_header_size: u32,
    /// Header fields of a request. Beyond it, the answer is 431. Default: 100.
    pub max_headers: usize,
    /// The body of a request in bytes; none for no limit. Beyond it, the answer is 413, before
    /// any of it is read where its length is announced. Default: 64 MiB.
    pub max_body: Option<u64>,
    /// Connections at the same time. Others wait in the queue of the kernel until one is
    /// closed. Default: 10,000.
    pub max_connections: usize,
    /// Requests of one HTTP/2 connection at the same time. Default: 100.
    pub max_streams: u32,
}

impl Default for ClientLimits {
    fn default() -> Self {
        ClientLimits {
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(30),
            max_header_size: 32 << 10,
            max_headers: 100,
            max_body: Some(64 << 20),
            max_connections: 10_000,
            max_streams: 100,
        }
    }
}

impl ClientLimits {
    /// Least that [`ClientLimits::max_header_size`] can be: 8 KiB.
    pub const MIN_HEADER_SIZE: u32 = 8 << 10;

    /// Sets [`ClientLimits::header_timeout`].
    pub fn header_timeout(mut self, time: Duration) -> Self {
        self.header_timeout = time;
        self
    }

    /// Sets [`ClientLimits::body_timeout`].
    pub fn body_timeout(mut self, time: Duration) -> Self {
        self.body_timeout = time;
        self
    }

    /// Sets [`ClientLimits::idle_timeout`].
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.idle_timeout = time;
        self
    }

    /// Sets [`ClientLimits::send_timeout`].
    pub fn send_timeout(mut self, time: Duration) -> Self {
        self.send_timeout = time;
        self
    }

    /// Sets [`ClientLimits::max_header_size`]; less than
    /// [`ClientLimits::MIN_HEADER_SIZE`] is raised to that.
    pub fn max_header_size(mut self, bytes: u32) -> Self {
        self.max_header_size = bytes.max(ClientLimits::MIN_HEADER_SIZE);
        self
    }

    /// The maximum of [`ClientLimits::max_headers`]: tasks take 2,048 fields.
    pub const MAX_HEADERS: usize = 2_000;

    /// Sets [`ClientLimits::max_headers`], at most to [`ClientLimits::MAX_HEADERS`].
    pub fn max_headers(mut self, fields: usize) -> Self {
        self.max_headers = fields.min(ClientLimits::MAX_HEADERS);
        self
    }

    /// Sets [`ClientLimits::max_body`].
    pub fn max_body(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_body = bytes.into();
        self
    }

    /// Sets [`ClientLimits::max_connections`].
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// Sets [`ClientLimits::max_streams`].
    pub fn max_streams(mut self, streams: u32) -> Self {
        self.max_streams = streams.max(1);
        self
    }
}
