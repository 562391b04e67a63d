//! A server: made, started, reloaded, drained.

use crate::access::{AccessFormat, AccessLog};
use crate::admin;
use crate::app::App;
use crate::connection;
use crate::error::Error;
use crate::event::Event;
use crate::limits::ClientLimits;
use crate::listen::{Address, Listener};
use crate::metrics::Metrics;
use crate::noted::{Noted, Tell};
use crate::printed::{self, Printed};
use crate::record::Books;
use crate::route::Pattern;
use crate::shared::Shared;
use crate::site::{Plan, RouteSource};
use crate::tls::TlsFiles;
use crate::trace::{Connect, TraceParent};
use crate::watch::Watch;
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wrun::Runner;

/// How long a listener waits after it could not accept.
const PAUSE: Duration = Duration::from_millis(50);
/// How long what is left may take once connections were aborted.
const LAST: Duration = Duration::from_secs(5);

/// Settings of a [`Server`]; see [`Server::builder`].
#[must_use = "a builder does nothing until start is called"]
pub struct Builder {
    runner: Runner,
    plan: Plan,
    listeners: Vec<Listener>,
    admin: Option<Listener>,
    limits: ClientLimits,
    access: Option<(AccessFormat, Box<dyn Write + Send>)>,
    debug_errors: bool,
    watch: bool,
    tell: Tell,
    printed: Option<printed::Take>,
    connect: Option<Connect>,
}

impl Builder {
    /// Has an app answer the requests that match a pattern.
    pub fn route(mut self, pattern: Pattern, app: App) -> Self {
        self.plan.routes.push((pattern, app));
        self
    }

    /// Has each reload read the routes again, instead of those of [`Builder::route`], with which
    /// the server starts: their apps, limits and grants. `read` is called on a thread that may
    /// block; its error refuses the reload. `files` are what it reads, for [`Builder::watch`].
    pub fn routes_from(
        mut self,
        files: Vec<PathBuf>,
        read: impl Fn() -> Result<Vec<(Pattern, App)>, String> + Send + Sync + 'static,
    ) -> Self {
        let read = Arc::new(read);
        self.plan.source = Some(RouteSource { files, read });
        self
    }

    /// Listens there, too.
    pub fn listen(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Answers with TLS (1.2 and 1.3), with HTTP/2 for clients that take it. Default: without.
    pub fn tls(mut self, files: TlsFiles) -> Self {
        self.plan.tls = Some(files);
        self
    }

    /// What clients may take. Default: [`ClientLimits::default`].
    pub fn client_limits(mut self, limits: ClientLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Writes a line for each request when it is over. A thread of its own writes; while it waits
    /// for their destination, 4,096 lines are kept and more are lost. Default: no log.
    pub fn access_log(mut self, format: AccessFormat, to: impl Write + Send + 'static) -> Self {
        self.access = Some((format, Box::new(to)));
        self
    }

    /// Answers `/healthz`, `/readyz` and `/metrics` there, to every client. Default: nowhere.
    pub fn admin(mut self, listener: Listener) -> Self {
        self.admin = Some(listener);
        self
    }

    /// Whether the answers that are the server's own say why: how a task ended, where it
    /// trapped. For development: they tell clients about the inside. Default: no.
    pub fn debug_errors(mut self, debug: bool) -> Self {
        self.debug_errors = debug;
        self
    }

    /// Reloads when a file changes, which is looked for twice a second. Default: no.
    pub fn watch(mut self, watch: bool) -> Self {
        self.watch = watch;
        self
    }

    /// A path that each app is asked for (`GET`, host `localhost`) before it is served, at the
    /// start and at each reload: a status below 500 is expected. Default: none; an app is
    /// compiled and its imports are checked.
    pub fn trial(mut self, path: impl Into<String>) -> Self {
        self.plan.trial = Some(path.into());
        self
    }

    /// Is told what happens to the server. Default: only the log (`tracing`, target
    /// `wrun::serve`).
    pub fn on_event(mut self, tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.tell = Arc::new(tell);
        self
    }

    /// Takes what apps print to stdout and stderr: each line as it comes, and at most 64 KiB of
    /// a request. It is called on the threads of the server, which wait for it. Default: it is
    /// thrown away.
    pub fn on_print(mut self, take: impl Fn(&Printed<'_>) + Send + Sync + 'static) -> Self {
        self.printed = Some(Arc::new(take));
        self
    }

    /// Gives requests their places in traces: `connect` gets the span of each request before it is
    /// entered, and what the client says that its parent is, with `tracestate`. What it returns
    /// is the `traceparent` that the app gets. Default: the app gets that of the client,
    /// unchanged.
    pub fn trace_context(
        mut self,
        connect: impl Fn(&tracing::Span, Option<(TraceParent, &str)>) -> Option<TraceParent>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.connect = Some(Arc::new(connect));
        self
    }

    /// Loads all apps and answers from then on. In the context of a tokio runtime with time and
    /// I/O, in which operators are answered and listeners wait; clients are served on the threads
    /// of the runner ([`Runner::runtime`](wrun::Runner::runtime)), where their tasks run.
    ///
    /// # Errors
    ///
    /// Those of [`Error`] that concern apps and certificates.
    pub async fn start(self) -> Result<Server, Error> {
        self.plan.check()?;
        let watch = self.watch.then(|| {
            let files = self.plan.files().map(Path::to_owned);
            Watch::new(files.collect())
        });
        let site = self.plan.load(&self.runner, 1).await?;
        let metrics = Metrics::new(self.runner.mode());
        metrics.version.set(1);
        let access = match self.access {
            Some((format, to)) => {
                let log = AccessLog::new(format, to, metrics.lost_lines.clone());
                Some(log.map_err(Error::AccessLog)?)
            }
            None => None,
        };
        let noted = Noted::new(self.tell.clone());
        site.note(&noted);
        let books = Arc::new(Books {
            metrics,
            access,
            noted,
        });
        let room = Arc::new(Semaphore::new(
            self.limits.max_connections.min(Semaphore::MAX_PERMITS),
        ));
        let secure = site.tls.is_some();
        let mut shared = Shared::new(self.runner, site, self.limits, self.debug_errors, books);
        shared.printed = self.printed;
        shared.connect = self.connect;
        let inner = Arc::new(Inner {
            shared: Arc::new(shared),
            plan: Mutex::new(self.plan),
            watched: std::sync::Mutex::default(),
            tell: self.tell,
            stop: CancellationToken::new(),
        });
        let addresses = self
            .listeners
            .iter()
            .map(|it| it.address().clone())
            .collect();
        let mut accepting = Vec::new();
        for listener in self.listeners {
            let address = listener.address().clone();
            inner.tell(&Event::Listening { address, secure });
            let accept = accept(inner.clone(), listener, room.clone());
            accepting.push(inner.shared.runtime.spawn(accept));
        }
        let admin_address = self.admin.as_ref().map(|it| it.address().clone());
        if let Some(listener) = self.admin {
            let address = listener.address().clone();
            inner.tell(&Event::Admin { address });
            let serving = admin::serve(inner.shared.clone(), listener, inner.stop.clone());
            tokio::spawn(serving);
        }
        if let Some(watch) = watch {
            tokio::spawn(inner.clone().watch(watch));
        }
        Ok(Server {
            inner,
            addresses,
            admin_address,
            accepting,
        })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("plan", &self.plan)
            .field("listeners", &self.listeners)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// A server that answers requests.
///
/// Dropping it ends all connections and their tasks at once; [`Server::drain`] lets them finish.
#[must_use = "dropping a server ends it"]
pub struct Server {
    inner: Arc<Inner>,
    addresses: Vec<Address>,
    admin_address: Option<Address>,
    accepting: Vec<JoinHandle<()>>,
}

struct Inner {
    shared: Arc<Shared>,
    /// What is served. Held while it is reloaded: one reload at a time.
    plan: Mutex<Plan>,
    /// The files of the last reload, whether it was refused or not.
    watched: std::sync::Mutex<Option<Vec<PathBuf>>>,
    tell: Tell,
    /// What is not for clients ends.
    stop: CancellationToken,
}

impl Server {
    /// A builder with the defaults. The runner's [`max_running`](wrun::Builder::max_running)
    /// is how many requests are answered at the same time, its
    /// [`max_queued`](wrun::Builder::max_queued) how many wait; beyond that, clients get 503.
    pub fn builder(runner: Runner) -> Builder {
        Builder {
            runner,
            plan: Plan::default(),
            listeners: Vec::new(),
            admin: None,
            limits: ClientLimits::default(),
            access: None,
            debug_errors: false,
            watch: false,
            tell: Arc::new(|_| ()),
            printed: None,
            connect: None,
        }
    }

    /// Where it listens, in the order of [`Builder::listen`].
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where [`Builder::admin`] listens.
    pub fn admin_address(&self) -> Option<&Address> {
        self.admin_address.as_ref()
    }

    /// The version that answers: 1 at the start, one more after each reload.
    pub fn version(&self) -> u64 {
        self.inner.shared.site().version
    }

    /// Loads and tries all apps and the certificate anew, and then switches to them: requests
    /// that arrive later get the new version, those that are there finish with the old one. Where
    /// nothing has changed, nothing is switched.
    ///
    /// Returns the version that answers from then on.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`]; the old version goes on.
    pub async fn reload(&self) -> Result<u64, Error> {
        self.inner.reload().await
    }

    /// [`Server::reload`], whose result [`Builder::on_event`] is told.
    pub async fn reload_and_tell(&self) {
        self.inner.reload_and_tell().await;
    }

    /// Accepts no more connections, answers the requests that are there, for this long at most,
    /// and ends. Returns how many connections had to be cut.
    pub async fn drain(mut self, grace: Duration) -> usize {
        let shared = self.inner.shared.clone();
        shared.drain.cancel();
        for accepting in &mut self.accepting {
            // Those that were accepted by the kernel are answered, too.
            let _ = accepting.await;
        }
        shared.connections.close();
        let connections = shared.connections.len();
        self.inner.tell(&Event::Draining { connections });
        let mut cut = 0;
        if timeout(grace, shared.connections.wait()).await.is_err() {
            cut = shared.connections.len();
            shared.abort.cancel();
            let _ = timeout(LAST, shared.connections.wait()).await;
        }
        shared.closing.close();
        let _ = timeout(LAST, shared.closing.wait()).await;
        self.inner.stop.cancel();
        let closing = tokio::task::spawn_blocking(move || {
            if let Some(access) = &shared.books.access {
                access.close(LAST);
            }
        });
        let _ = closing.await;
        cut
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.inner.shared.drain.cancel();
        self.inner.shared.abort.cancel();
        self.inner.stop.cancel();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn tell(&self, event: &Event) {
        match event {
            Event::Refused { .. } | Event::NotAccepted { .. } => {
                tracing::warn!(target: "wrun::serve", "{event}");
            }
            _ => tracing::info!(target: "wrun::serve", "{event}"),
        }
        (self.tell)(event);
    }

    async fn reload(&self) -> Result<u64, Error> {
        let mut plan = self.plan.lock().await;
        let shared = &self.shared;
        let old = shared.site();
        let version = old.version + 1;
        let loading = async {
            let next = plan.again().await?;
            let files = plan.files().chain(next.files()).map(Path::to_owned);
            let files: BTreeSet<_> = files.collect();
            *self.watched.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(files.into_iter().collect());
            let site = next.load(&shared.runner, version).await?;
            Ok((next, site))
        };
        let (next, site) = match loading.await {
            Ok(loaded) => loaded,
            Err(error) => {
                shared.books.metrics.reloaded("refused");
                return Err(error);
            }
        };
        *plan = next;
        if site.is_same(&old) {
            shared.books.metrics.reloaded("unchanged");
            return Ok(old.version);
        }
        site.note(&shared.books.noted);
        shared.switch(site);
        shared.books.metrics.reloaded("switched");
        Ok(version)
    }

    async fn reload_and_tell(&self) {
        let before = self.shared.site().version;
        let event = match self.reload().await {
            Ok(version) if version == before => Event::Unchanged { version },
            Ok(version) => Event::Reloaded { version },
            Err(error) => Event::Refused {
                version: before,
                error,
            },
        };
        self.tell(&event);
    }

    async fn watch(self: Arc<Self>, mut watch: Watch) {
        loop {
            tokio::select! {
                () = watch.changed() => {}
                () = self.shared.drain.cancelled() => return,
            }
            self.reload_and_tell().await;
            let watched = self.watched.lock();
            let watched = watched.unwrap_or_else(PoisonError::into_inner).take();
            if let Some(files) = watched {
                watch.follow(files);
            }
        }
    }
}

/// Accepts while there is room, and on the server's end what the kernel has accepted.
async fn accept(inner: Arc<Inner>, listener: Listener, room: Arc<Semaphore>) {
    let shared = &inner.shared;
    loop {
        let permit = tokio::select! {
            biased;
            () = shared.drain.cancelled() => break,
            permit = room.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else {
            return;
        };
        let accepted = tokio::select! {
            biased;
            () = shared.drain.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let serving = connection::serve(shared.clone(), stream, remote);
                shared.connections.spawn_on(
                    async move {
                        serving.await;
                        drop(permit);
                    },
                    &shared.runtime,
                );
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                let address = listener.address().clone();
                inner.tell(&Event::NotAccepted { address, error });
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    while !shared.abort.is_cancelled() {
        let Ok(permit) = room.clone().try_acquire_owned() else {
            return;
        };
        let mut next = std::pin::pin!(listener.accept());
        let accepted = std::future::poll_fn(|cx| match next.as_mut().poll(cx) {
            Poll::Ready(accepted) => Poll::Ready(accepted.ok()),
            Poll::Pending => Poll::Ready(None),
        });
        let Some((stream, remote)) = accepted.await else {
            return;
        };
        let serving = connection::serve(shared.clone(), stream, remote);
        shared.connections.spawn_on(
            async move {
                serving.await;
                drop(permit);
            },
            &shared.runtime,
        );
    }
}

/// The connection was gone before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    [ConnectionAborted, ConnectionReset, Interrupted].contains(&error.kind())
}
