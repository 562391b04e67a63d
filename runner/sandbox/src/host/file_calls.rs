//! How the file streams of a guest access their files.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How the file streams of one guest access their files.
#[derive(Clone)]
pub(crate) struct FileCalls {
    /// If they may not block the thread and streams exist: whether the last call on one has
    /// work that must be waited for.
    wanted: Option<Arc<AtomicBool>>,
    pub(crate) blocking: bool,
}

impl FileCalls {
    pub(crate) fn new(blocking: bool) -> Self {
        FileCalls {
            wanted: None,
            blocking,
        }
    }

    /// For a stream of the same guest.
    pub(crate) fn of_a_stream(&mut self) -> Self {
        if !self.blocking {
            self.wanted.get_or_insert_default();
        }
        self.clone()
    }

    pub(crate) fn want(&self) {
        if let Some(wanted) = &self.wanted {
            wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a stream has such work; resets it.
    pub(crate) fn take_wanted(&self) -> bool {
        let wanted = self.wanted.as_ref();
        wanted.is_some_and(|wanted| wanted.swap(false, Ordering::Relaxed))
    }

    pub(crate) async fn run<R: Send + 'static>(
        &self,
        file: &Arc<File>,
        call: impl FnOnce(&File) -> io::Result<R> + Send + 'static,
    ) -> io::Result<R> {
        if self.blocking {
            return call(file);
        }
        let file = file.clone();
        tokio::task::spawn_blocking(move || call(&file))
            .await
            .map_err(io::Error::other)?
    }
}
