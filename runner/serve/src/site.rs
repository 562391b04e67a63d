//! One version of all that is served: loaded, tried, and then switched to as a whole.

use crate::app::{App, Loaded, response};
use crate::error::Error;
use crate::noted::Noted;
use crate::route::{Pattern, Table};
use crate::tls::{Tls, TlsFiles};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wrun::Runner;

/// What to load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) routes: Vec<(Pattern, App)>,
    pub(crate) tls: Option<TlsFiles>,
    /// A path that each app must answer before it is switched to.
    pub(crate) trial: Option<String>,
    /// Where the routes of each reload come from, if they do not stay.
    pub(crate) source: Option<RouteSource>,
}

/// What reads routes again.
#[derive(Clone)]
pub(crate) struct RouteSource {
    /// What it reads.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) read: ReadRoutes,
}

pub(crate) type ReadRoutes = Arc<dyn Fn() -> Result<Vec<(Pattern, App)>, String> + Send + Sync>;

impl fmt::Debug for RouteSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteSource").field(&self.files).finish()
    }
}

/// One version of all that is served.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) version: u64,
    routes: Table<Found>,
    pub(crate) tls: Option<Tls>,
}

/// An app and the name of its route.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: Arc<str>,
    pub(crate) app: Arc<Loaded>,
}

impl Plan {
    /// Before anything is loaded.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.routes.is_empty() {
            return Err(Error::NoRoutes);
        }
        for (at, (pattern, _)) in self.routes.iter().enumerate() {
            if self.routes[..at].iter().any(|(other, _)| other == pattern) {
                return Err(Error::DuplicateRoute(pattern.to_string()));
            }
        }
        Ok(())
    }

    /// All files that it is read from.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let apps = self.routes.iter().flat_map(|(_, app)| app.files());
        let sources = self.source.iter().flat_map(|source| &source.files);
        let tls = self.tls.iter().flat_map(TlsFiles::files);
        apps.chain(tls).chain(sources.map(PathBuf::as_path))
    }

    /// The plan of a reload.
    pub(crate) async fn again(&self) -> Result<Plan, Error> {
        let mut next = self.clone();
        if let Some(source) = &self.source {
            let read = source.read.clone();
            let read = tokio::task::spawn_blocking(move || read()).await;
            let read = read.unwrap_or_else(|_| Err("reading the routes panicked".into()));
            next.routes = read.map_err(Error::Routes)?;
        }
        next.check()?;
        Ok(next)
    }

    /// Loads and tries it.
    pub(crate) async fn load(&self, runner: &Runner, version: u64) -> Result<Site, Error> {
        let tls = match &self.tls {
            Some(files) => Some(files.load().await?),
            None => None,
        };
        let mut routes = Vec::new();
        for (pattern, app) in &self.routes {
            let loaded = app.load(runner).await?;
            if let Some(path) = &self.trial {
                try_out(&loaded, runner, path).await?;
            }
            let found = Found {
                name: pattern.to_string().into(),
                app: Arc::new(loaded),
            };
            routes.push((pattern.clone(), found));
        }
        Ok(Site {
            version,
            routes: Table::new(routes),
            tls,
        })
    }
}

impl Site {
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Found> {
        self.routes.find(host, path)
    }

    /// Tells what is to be noted before an app has answered.
    pub(crate) fn note(&self, noted: &Noted) {
        for (_, found) in self.routes.iter() {
            noted.tell(&found.name, found.app.notes());
        }
    }

    /// True if both serve the same.
    pub(crate) fn is_same(&self, other: &Site) -> bool {
        let apps = self.routes.iter().zip(other.routes.iter());
        let mut same =
            apps.map(|((here, one), (there, other))| here == there && one.app.is_same(&other.app));
        let as_many = self.routes.iter().len() == other.routes.iter().len();
        as_many && same.all(|same| same) && self.tls == other.tls
    }
}

/// Has an app answer one request.
async fn try_out(app: &Loaded, runner: &Runner, path: &str) -> Result<(), Error> {
    let failed = |why: String| Error::Trial {
        file: app.file().to_owned(),
        path: path.to_owned(),
        why,
    };
    let uri = format!("http://localhost{path}");
    let nothing = Empty::new().map_err(|never: Infallible| match never {});
    let request = Request::get(uri).body(nothing.boxed_unsync());
    let request = request.map_err(|error| failed(error.to_string()))?;
    let started = app.start(runner, request, Duration::ZERO, false);
    let mut handle = started.map_err(|error| failed(error.to_string()))?;
    let status = match response(&mut handle).await {
        Some(response) => {
            let (head, mut body) = response.into_parts();
            loop {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(failed(error.to_string())),
                    None => break Some(head.status),
                }
            }
        }
        None => None,
    };
    match (status, handle.report().await) {
        (_, Err(error)) => Err(failed(error.to_string())),
        (Some(status), _) if status >= StatusCode::INTERNAL_SERVER_ERROR => {
            Err(failed(format!("the status is {status}")))
        }
        (Some(_), Ok(report)) if report.outcome.is_completed() => Ok(()),
        (_, Ok(report)) => Err(failed(report.outcome.to_string())),
    }
}
