//! Spans of tasks on their way: a submission, and what a worker does with it. A message has the
//! `traceparent` of W3C Trace Context between them.
//!
//! Invariant: without a subscriber nothing is formatted, and the `traceparent` of the submitter
//! goes through as it is. What a message says is not trusted: a text that is not a `traceparent`
//! begins a new trace.

use crate::nats::task_subject;
use crate::protocol::{TaskId, Token};
use crate::queue::Lease;
use std::fmt;
use std::sync::Arc;
use tracing::Span;
use tracing::field::Empty;

/// Gives a span its place in a trace, before it is entered. Gets the span, and the `traceparent`
/// of its parent if that is in another program, which may be any text; returns the `traceparent`
/// of the span, if it has one. Without a parent, the span's own in this program counts.
pub type TraceContext = Arc<dyn Fn(&Span, Option<&str>) -> Option<String> + Send + Sync>;

/// How the submissions of a program belong to a trace:
/// [`Fleet::tracing`](crate::Fleet::tracing).
#[derive(Clone)]
pub struct Tracing {
    context: Option<TraceContext>,
    parent: Option<String>,
    within: Span,
}

impl Default for Tracing {
    fn default() -> Self {
        Tracing {
            context: None,
            parent: None,
            within: Span::none(),
        }
    }
}

impl Tracing {
    /// Connects spans by this. Default: spans of submissions have no place in a trace, and
    /// messages have the `traceparent` of [`Tracing::parent`].
    pub fn context(mut self, context: TraceContext) -> Self {
        self.context = Some(context);
        self
    }

    /// The `traceparent` of what started this program. Default: none.
    pub fn parent(mut self, parent: Option<String>) -> Self {
        self.parent = parent;
        self
    }

    /// The span that submissions are in, such as that of a batch. Default: the `parent`.
    pub fn within(mut self, span: Span) -> Self {
        self.within = span;
        self
    }

    /// The span of a submission, and the `traceparent` of its message, which said this before.
    pub(crate) fn submitting(
        &self,
        (class, tenant): (&Token, &Token),
        id: &TaskId,
        said: Option<&str>,
    ) -> (Span, Option<String>) {
        let span = tracing::info_span!(
            target: "wrun::fleet",
            parent: &self.within,
            "submit",
            otel.name = "send wrun.task",
            otel.kind = "producer",
            messaging.system = "nats",
            messaging.operation.type = "send",
            messaging.destination.name = task_subject(class, tenant),
            messaging.message.id = id.as_str(),
            otel.status_code = Empty,
        );
        let outside = said.or(match self.within.is_none() {
            true => self.parent.as_deref(),
            false => None,
        });
        let own = match &self.context {
            Some(context) if !span.is_disabled() => context(&span, outside),
            _ => None,
        };
        let parent = own.or_else(|| Some(said.or(self.parent.as_deref())?.to_owned()));
        (span, parent)
    }
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracing")
            .field("parent", &self.parent)
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

/// The span of a task in the hands of a worker, from its lease to its answer.
pub(crate) fn processing(
    lease: &Lease,
    message: Option<(&TaskId, Option<&str>)>,
    context: Option<&TraceContext>,
) -> Span {
    let span = tracing::info_span!(
        target: "wrun::fleet",
        "process",
        otel.name = "process wrun.task",
        otel.kind = "consumer",
        messaging.system = "nats",
        messaging.operation.type = "process",
        messaging.destination.name = task_subject(&lease.class, &lease.tenant),
        messaging.message.id = message.map(|(id, _)| id.as_str()),
        wrun.deliveries = lease.deliveries,
        wrun.outcome = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    );
    if let Some(context) = context
        && !span.is_disabled()
    {
        context(&span, message.and_then(|(_, parent)| parent));
    }
    span
}

/// How the task of this span ended: as a report or an answer says, or in a word of the worker.
pub(crate) fn ended(outcome: &'static str) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    span.record("wrun.outcome", outcome);
    if outcome != "completed" {
        span.record("error.type", outcome);
        span.record("otel.status_code", "ERROR");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_subscriber_the_parent_goes_through() {
        let token = |text: &str| text.parse::<Token>().expect("a token");
        let (class, tenant) = (token("normal"), token("a"));
        let id = "a".parse().expect("an id");
        let never: TraceContext = Arc::new(|_, _| panic!("there is no span"));
        let tracing = Tracing::default().context(never).parent(Some("p".into()));
        let said = |said| tracing.submitting((&class, &tenant), &id, said).1;
        assert_eq!(said(None).as_deref(), Some("p"));
        assert_eq!(said(Some("q")).as_deref(), Some("q"));
        let none = Tracing::default();
        assert_eq!(none.submitting((&class, &tenant), &id, None).1, None);
    }
}
