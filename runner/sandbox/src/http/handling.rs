//! One request in a store: its resources for the guest, and its response.

use super::exchange::{Body, BodyError, Exchange};
use super::guest_body::GuestBody;
use crate::host::Host;
use crate::run_result::{MAX_FAILURE, truncate};
use http::header::{CONTENT_LENGTH, HOST, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use wasmtime::Store;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wrun_sys::Unpoisoned;
use wrun_types::limits::Limit;
use wrun_types::outcome::{Outcome, Output};

/// A request that is being answered.
pub(crate) struct Handling {
    request: Option<Request<Body>>,
    answer: Arc<Answer>,
    max_input: u64,
}

/// What the run and its response have in common.
struct Answer {
    respond: Mutex<Option<oneshot::Sender<Response<Body>>>>,
    /// The error that the guest answered with.
    refused: Mutex<Option<String>>,
    /// Bytes that the response body may have.
    max_output: u64,
    over_input: CancellationToken,
    over_output: CancellationToken,
}

impl Handling {
    /// `max_input` and `max_output` are bytes of bodies.
    pub(crate) fn new(exchange: Exchange, max_input: Option<u64>, max_output: Option<u64>) -> Self {
        Handling {
            request: Some(exchange.request),
            answer: Arc::new(Answer {
                respond: Mutex::new(Some(exchange.respond)),
                refused: Mutex::new(None),
                max_output: max_output.unwrap_or(u64::MAX),
                over_input: CancellationToken::new(),
                over_output: CancellationToken::new(),
            }),
            max_input: max_input.unwrap_or(u64::MAX),
        }
    }

    /// Tells of bodies that are too long.
    pub(crate) fn over(&self) -> Over {
        Over(self.answer.clone())
    }

    /// Has the guest answer the request.
    pub(crate) async fn call(
        &mut self,
        proxy: &Proxy,
        store: &mut Store<Host>,
    ) -> wasmtime::Result<Outcome> {
        let Some(request) = self.request.take() else {
            return Err(wasmtime::format_err!("the request was answered before"));
        };
        let scheme = match request.uri().scheme() {
            Some(scheme) if *scheme == http::uri::Scheme::HTTPS => Scheme::Https,
            _ => Scheme::Http,
        };
        let mut http = store.data_mut().http();
        let request = http.new_incoming_request(scheme, self.limited(request))?;
        let answer = self.answer.clone();
        let out = http.new_response_outparam_from_callback(move |response| {
            match response {
                Ok(response) => answer.send(response),
                Err(code) => answer.refuse(&code),
            };
        })?;
        let handler = proxy.wasi_http_incoming_handler();
        handler.call_handle(&mut *store, request, out).await?;
        Ok(self.outcome())
    }

    /// `request` with a host, and with a body that is no longer than it may be.
    fn limited(&self, request: Request<Body>) -> Request<Body> {
        let (mut parts, body) = request.into_parts();
        if parts.uri.authority().is_none() && !parts.headers.contains_key(HOST) {
            // As HTTP/1.0 has it.
            let nowhere = HeaderValue::from_static("localhost");
            parts.headers.insert(HOST, nowhere);
        }
        let body = match self.max_input {
            u64::MAX => body,
            max => limited(body, max, self.answer.over_input.clone()),
        };
        Request::from_parts(parts, body)
    }

    /// What came of a call that returned.
    fn outcome(&self) -> Outcome {
        if let Some(code) = self.answer.refused.lock().unpoisoned().take() {
            return Outcome::Failed(format!("the handler answered with an error: {code}"));
        }
        if self.answer.respond.lock().unpoisoned().is_some() {
            return Outcome::Failed("the handler returned without a response".to_owned());
        }
        Outcome::Completed(Output::default())
    }
}

/// Whether a body has more bytes than it may have.
pub(crate) struct Over(Arc<Answer>);

impl Over {
    /// The limit that was exceeded.
    pub(crate) fn limit(&self) -> Option<Limit> {
        if self.0.over_input.is_cancelled() {
            Some(Limit::Input)
        } else if self.0.over_output.is_cancelled() {
            Some(Limit::Output)
        } else {
            None
        }
    }

    /// Waits until one is exceeded.
    pub(crate) async fn exceeded(&self) -> Limit {
        tokio::select! {
            () = self.0.over_input.cancelled() => Limit::Input,
            () = self.0.over_output.cancelled() => Limit::Output,
        }
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        // Who waits for a response waits in vain.
        self.answer.respond.lock().unpoisoned().take();
    }
}

impl Answer {
    fn send(self: &Arc<Self>, response: Response<HyperOutgoingBody>) {
        let Some(respond) = self.respond.lock().unpoisoned().take() else {
            return;
        };
        let (parts, body) = response.into_parts();
        let declared = parts.headers.get(CONTENT_LENGTH);
        let declared = declared.and_then(|len| len.to_str().ok()?.parse().ok());
        let body = GuestBody::of(body, declared).boxed_unsync();
        let body = match self.max_output {
            u64::MAX => body,
            max => limited(body, max, self.over_output.clone()),
        };
        let _ = respond.send(Response::from_parts(parts, body));
    }

    fn refuse(&self, code: &ErrorCode) {
        let mut text = code.to_string();
        truncate(&mut text, MAX_FAILURE);
        *self.refused.lock().unpoisoned() = Some(text);
    }
}

/// A body that fails, and says so by `over`, where it is longer than `max` bytes.
fn limited(body: Body, max: u64, over: CancellationToken) -> Body {
    let body = Limited::new(body, usize::try_from(max).unwrap_or(usize::MAX));
    body.map_err(move |error| match error.downcast::<BodyError>() {
        Ok(error) => *error,
        // The only other one.
        Err(_) => {
            over.cancel();
            BodyError::new("the body is longer than allowed")
        }
    })
    .boxed_unsync()
}
