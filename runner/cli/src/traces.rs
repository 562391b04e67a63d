//! OpenTelemetry: the spans of requests, of tasks, and of tasks on their way to other machines,
//! sent to a collector over OTLP as the environment (`OTEL_*`) says.
//!
//! Invariant: nothing waits for the collector. A thread of the SDK sends; spans beyond its queue are
//! lost, and a collector that does not answer costs a line on stderr.

use super::text;
use async_trait::async_trait;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{Layer, Registry};
use wrun_fleet::{TraceContext, Tracing};
use wrun_serve::TraceParent;

/// A part of what takes spans and events.
pub(super) type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// How long the last spans may take to be sent.
const LAST_SPANS: Duration = Duration::from_secs(3);
/// How long a request to the collector may take, unless the environment says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the collector's answer that are read.
const MAX_ANSWER: u64 = 64 << 10;
/// The name of the service, unless the environment says otherwise.
const SERVICE: &str = "wrun";

/// The variable with the `traceparent` of what started this program.
const PARENT: &str = "TRACEPARENT";

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// What sends spans, if the environment asks for it.
pub(super) fn layer() -> Option<AnyLayer> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let made = match is_wanted(variable) {
        Ok(false) => return None,
        Ok(true) => provider(variable),
        Err(why) => Err(why),
    };
    let provider = match made {
        Ok(provider) => provider,
        Err(why) => {
            text::complain(&format!("traces are not sent: {why}"));
            return None;
        }
    };
    let scope = InstrumentationScope::builder("wrun").with_version(env!("CARGO_PKG_VERSION"));
    let tracer = provider.tracer_with_scope(scope.build());
    let _ = PROVIDER.set(provider);
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target("wrun", LevelFilter::INFO));
    Some(Box::new(layer))
}

/// Whether spans are to be sent.
///
/// # Errors
///
/// It asks for what is not there.
fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> Result<bool, String> {
    let is_disabled = variable("OTEL_SDK_DISABLED");
    if is_disabled.is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    let of_traces = |name: &str| {
        let own = variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
        own.or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
    };
    let is_wanted = match variable("OTEL_TRACES_EXPORTER").as_deref() {
        Some("otlp") => true,
        Some("none") => false,
        Some(other) => {
            return Err(format!(
                "unknown OTEL_TRACES_EXPORTER {other:?}: expected otlp or none"
            ));
        }
        None => of_traces("ENDPOINT").is_some(),
    };
    match of_traces("PROTOCOL") {
        Some(other) if is_wanted && other != "http/protobuf" => Err(format!(
            "unknown OTEL_EXPORTER_OTLP_PROTOCOL {other:?}: expected http/protobuf"
        )),
        _ => Ok(is_wanted),
    }
}

fn provider(variable: impl Fn(&str) -> Option<String>) -> Result<SdkTracerProvider, String> {
    let millis = variable("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT");
    let millis = millis.or_else(|| variable("OTEL_EXPORTER_OTLP_TIMEOUT"));
    let timeout = millis.and_then(|text| text.parse().ok());
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector::new(
            timeout.map_or(TIMEOUT, Duration::from_millis),
        ))
        .build()
        .map_err(|error| error.to_string())?;
    let is_named = variable("OTEL_SERVICE_NAME").is_some()
        || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|it| it.contains("service.name="));
    let mut resource = Resource::builder();
    if !is_named {
        resource = resource.with_service_name(SERVICE);
    }
    Ok(SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_batch_exporter(exporter)
        .build())
}

/// True if spans are sent.
pub(super) fn is_on() -> bool {
    PROVIDER.get().is_some()
}

/// Sends what is left, for a moment at most.
pub(super) fn flush() {
    if let Some(provider) = PROVIDER.get() {
        // That it failed was said.
        let _ = provider.shutdown_with_timeout(LAST_SPANS);
    }
}

/// Makes the span of a request one of its client's trace, and says where it is in it.
pub(super) fn connect(span: &Span, parent: Option<(TraceParent, &str)>) -> Option<TraceParent> {
    if let Some((parent, state)) = parent {
        let context = SpanContext::new(
            TraceId::from_bytes(parent.trace_id.to_be_bytes()),
            SpanId::from_bytes(parent.span_id.to_be_bytes()),
            TraceFlags::new(parent.flags),
            true,
            state.parse::<TraceState>().unwrap_or_default(),
        );
        let _ = span.set_parent(Context::new().with_remote_span_context(context));
    }
    let context = span.context();
    let own = context.span().span_context().clone();
    own.is_valid().then(|| TraceParent {
        trace_id: u128::from_be_bytes(own.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(own.span_id().to_bytes()),
        flags: own.trace_flags().to_u8(),
    })
}

/// The same for tasks of a fleet, whose parents may be any text.
pub(super) fn of_fleet() -> TraceContext {
    Arc::new(|span, parent| {
        let parent = parent.and_then(|text| text.parse().ok());
        let own = connect(span, parent.map(|parent| (parent, "")));
        own.map(|own| own.to_string())
    })
}

/// How what this command submits belongs to a trace: that of the variable `TRACEPARENT`, if it
/// is one.
pub(super) fn of_submitter() -> Tracing {
    let parent = std::env::var(PARENT).ok();
    let parent = parent.and_then(|text| text.parse::<TraceParent>().ok());
    let tracing = Tracing::default().parent(parent.map(|parent| parent.to_string()));
    match is_on() {
        true => tracing.context(of_fleet()),
        false => tracing,
    }
}

/// The same for many submissions, which are in a span of their own.
pub(super) fn of_batch(batch: &str) -> Tracing {
    if !is_on() {
        return of_submitter();
    }
    let span = tracing::info_span!(target: "wrun::fleet", "map", wrun.batch = batch);
    let parent = std::env::var(PARENT).ok();
    of_fleet()(&span, parent.as_deref());
    of_submitter().within(span)
}

/// Where spans go. It blocks, on the thread of the SDK that sends them and does nothing else.
#[derive(Debug)]
struct Collector {
    agent: ureq::Agent,
    /// The last request failed, which was said.
    is_failing: AtomicBool,
}

impl Collector {
    fn new(timeout: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0);
        Collector {
            agent: config.build().into(),
            is_failing: AtomicBool::new(false),
        }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (head, body) = request.into_parts();
        let response = self.agent.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = response.into_parts();
        let body = body.with_config().limit(MAX_ANSWER).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // Not what else is in the address, which may be a secret.
        let host = request.uri().host().unwrap_or_default().to_owned();
        let port = request.uri().port_u16();
        let sent = self.send(request);
        let why = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("the answer is {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        let was_failing = self.is_failing.swap(why.is_some(), Ordering::Relaxed);
        if let Some(why) = why.filter(|_| !was_failing) {
            let port = port.map_or(String::new(), |port| format!(":{port}"));
            text::complain(&format!(
                "traces cannot be sent to {host}{port}, and some are lost: {why}"
            ));
        }
        Ok(sent?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides() {
        let is_wanted = |set: &[(&str, &str)]| {
            is_wanted(|name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:4318");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://x:4318/traces");
        let of_metrics = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://x:4318");
        let exporter = |name| ("OTEL_TRACES_EXPORTER", name);
        let protocol = |name| ("OTEL_EXPORTER_OTLP_PROTOCOL", name);
        for (set, expected) in [
            (&[][..], Ok(false)),
            (&[of_metrics], Ok(false)),
            (&[endpoint], Ok(true)),
            (&[own], Ok(true)),
            (&[exporter("otlp")], Ok(true)),
            (&[endpoint, exporter("none")], Ok(false)),
            (&[endpoint, ("OTEL_SDK_DISABLED", "True")], Ok(false)),
            (&[endpoint, ("OTEL_SDK_DISABLED", "0")], Ok(true)),
            (&[endpoint, protocol("http/protobuf")], Ok(true)),
            (&[protocol("grpc")], Ok(false)),
            (&[endpoint, protocol("grpc")], Err(())),
            (&[exporter("zipkin")], Err(())),
        ] {
            assert_eq!(is_wanted(set).map_err(|_| ()), expected, "{set:?}");
        }
    }
}
