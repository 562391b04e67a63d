//! Those that are told what a worker does: people, metrics, traces.

use super::Metrics;
use crate::trace::TraceContext;
use std::fmt;
use std::sync::Arc;

/// What happened in a worker, for people who watch it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The queue cannot be reached; only the first of several attempts is an event.
    Unreachable(String),
    /// It can again.
    Reachable,
    /// A task was given back, by its id and why.
    GivenBack(String, String),
    /// A task was moved to the dead, by its id and why.
    Buried(String, String),
    /// A task ran here although another answer was first, by its id.
    Late(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Unreachable(why) => write!(f, "the queue cannot be reached: {why}"),
            Event::Reachable => f.write_str("the queue can be reached again"),
            Event::GivenBack(id, why) => write!(f, "gave task {id} back: {why}"),
            Event::Buried(id, why) => write!(f, "buried task {id}: {why}"),
            Event::Late(id) => write!(f, "task {id} had been answered by another worker"),
        }
    }
}

/// What a worker tells of itself, and to whom.
pub struct Observer {
    pub(super) metrics: Arc<Metrics>,
    pub(super) events: Box<dyn Fn(Event) + Send + Sync>,
    pub(super) context: Option<TraceContext>,
}

impl Observer {
    /// Counts there, and tells nobody else.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Observer {
            metrics,
            events: Box::new(|_| {}),
            context: None,
        }
    }

    /// Is told what happens; it must not block. Default: nobody is.
    pub fn on_event(mut self, events: impl Fn(Event) + Send + Sync + 'static) -> Self {
        self.events = Box::new(events);
        self
    }

    /// Gives the spans of tasks their places in the traces of their submitters. Default: each
    /// begins a new one.
    pub fn trace_context(mut self, context: TraceContext) -> Self {
        self.context = Some(context);
        self
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}
