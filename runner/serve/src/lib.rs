//! Serves HTTP components of WebAssembly: each request is a task of [`wrun`], behind the walls
//! of its mode.
//!
//! A component that exports `wasi:http/incoming-handler@0.2` is an [`App`]. A [`Server`] has apps
//! answer the requests of one or more ports, by host and path ([`Pattern`]), over HTTP/1.1 and
//! HTTP/2, with TLS or without. Each request is a task of its own: it shares nothing with
//! others, has the [limits](App::limits) and grants of its app, and is killed when its client
//! goes away. What becomes of it decides the status of the answer:
//!
//! | the task | the client gets |
//! |---|---|
//! | answered | that answer |
//! | trapped, failed, or exceeded another limit | 500 |
//! | passed its deadline | 504 |
//! | crashed with its worker (process mode) | 502 |
//! | had no place in the queue | 503, with `Retry-After` |
//! | failed after a part of its answer | a connection that is cut (HTTP/2: a stream that is reset) |
//!
//! ```no_run
//! use std::time::Duration;
//! use wrun::Runner;
//! use wrun_serve::{App, Listener, Pattern, Server};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     wrun::worker_hook();
//!     let runner = Runner::builder().max_running(64).build()?;
//!     tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
//!         let server = Server::builder(runner)
//!             .route(Pattern::any(), App::new("shop.wasm"))
//!             .listen(Listener::tcp("127.0.0.1:8080").await?)
//!             .on_event(|event| eprintln!("{event}"))
//!             .start()
//!             .await?;
//!         // Until it is time to go:
//!         std::future::pending::<()>().await;
//!         server.drain(Duration::from_secs(30)).await;
//!         Ok(())
//!     })
//! }
//! ```
//!
//! Each request has a span of `tracing` (target `wrun::serve`), in which are those of its task. Its
//! fields have the names of OpenTelemetry: `http.request.method`, `url.path`, `http.route`,
//! `http.response.status_code`, `error.type`; [`Builder::trace_context`] connects it with the trace of
//! the client and of the app.
//!
//! What a client may take of the server itself is in [`ClientLimits`]: slow clients and large
//! headers cost a connection, and no task.

#![forbid(unsafe_code)]

mod access;
mod admin;
mod answer;
mod app;
mod clock;
mod connection;
mod error;
mod event;
mod flushed;
mod hygiene;
mod limits;
mod listen;
mod metrics;
mod noted;
mod printed;
mod record;
mod reply;
mod route;
mod runner_metrics;
mod server;
mod service;
mod shared;
mod site;
mod small_body;
mod stream;
mod tls;
mod trace;
mod upload;
mod watch;

pub use access::AccessFormat;
pub use admin::{Admin, Operated};
pub use app::App;
pub use error::Error;
pub use event::Event;
pub use limits::ClientLimits;
pub use listen::{Address, Listener};
pub use printed::Printed;
pub use route::{Pattern, PatternError};
pub use runner_metrics::RunnerMetrics;
pub use server::{Builder, Server};
pub use tls::TlsFiles;
pub use trace::{NotTraceParent, TraceParent};
