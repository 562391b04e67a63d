//! What all connections of a server share.

use crate::admin::Operated;
use crate::limits::ClientLimits;
use crate::printed;
use crate::record::Books;
use crate::site::Site;
use crate::small_body::SmallBodies;
use crate::trace::Connect;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wrun::Runner;

/// What all connections of a server share.
pub(crate) struct Shared {
    pub(crate) runner: Runner,
    site: RwLock<Arc<Site>>,
    pub(crate) limits: ClientLimits,
    pub(crate) small_bodies: SmallBodies,
    pub(crate) debug_errors: bool,
    pub(crate) books: Arc<Books>,
    /// Takes what apps print.
    pub(crate) printed: Option<printed::Take>,
    /// Gives the spans of requests their places in traces.
    pub(crate) connect: Option<Connect>,
    /// That of the runner, whose tasks answer where their clients are served.
    pub(crate) runtime: Handle,
    /// No more connections, no more requests on those there are.
    pub(crate) drain: CancellationToken,
    /// Connections end at once.
    pub(crate) abort: CancellationToken,
    pub(crate) connections: TaskTracker,
    /// Tasks whose clients have their answers, or are gone.
    pub(crate) closing: TaskTracker,
}

impl Shared {
    pub(crate) fn new(
        runner: Runner,
        site: Site,
        limits: ClientLimits,
        debug_errors: bool,
        books: Arc<Books>,
    ) -> Self {
        Shared {
            runtime: runner.runtime(),
            runner,
            site: RwLock::new(Arc::new(site)),
            limits,
            small_bodies: SmallBodies::new(),
            debug_errors,
            books,
            printed: None,
            connect: None,
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
            connections: TaskTracker::new(),
            closing: TaskTracker::new(),
        }
    }

    /// What is served now. A request keeps what it got.
    pub(crate) fn site(&self) -> Arc<Site> {
        self.site
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From here on, each request that is looked up gets the new version.
    pub(crate) fn switch(&self, site: Site) {
        let site = Arc::new(site);
        self.books
            .metrics
            .version
            .set(i64::try_from(site.version).unwrap_or(i64::MAX));
        *self.site.write().unwrap_or_else(PoisonError::into_inner) = site;
    }
}

impl Operated for Shared {
    fn readiness(&self) -> Result<String, String> {
        match self.drain.is_cancelled() {
            true => Err("draining".into()),
            false => Ok(format!("ok, version {}", self.site().version)),
        }
    }

    fn metrics(&self) -> Result<String, fmt::Error> {
        self.books.metrics.text(&self.runner.stats())
    }
}
