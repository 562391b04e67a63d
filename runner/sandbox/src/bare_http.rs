//! HTTP for floors: a request and its response as bytes, as what other tasks are given and put
//! out, and what answers one without wrun.

use super::http::{Body, BodyError};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use serde::{Deserialize, Serialize};
use std::pin::Pin;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{
    Error, RequestOptions, Result, WasiBody, WasiHttpCtx, WasiHttpHooks, WasiHttpView,
};

/// Response bodies beyond this are an error: they are kept whole.
const MAX_BODY: usize = 64 << 20;

/// A header field.
type Field = (String, Vec<u8>);

/// A request that can be made again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeRequest {
    method: String,
    uri: String,
    headers: Vec<Field>,
    body: Vec<u8>,
}

/// A response that has arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeResponse {
    pub status: u16,
    headers: Vec<Field>,
    pub body: Vec<u8>,
    trailers: Vec<Field>,
}

fn fields(map: &http::HeaderMap) -> Vec<Field> {
    let fields = map
        .iter()
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let mut fields: Vec<Field> = fields.collect();
    // Of one name, the order is kept.
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

impl WholeRequest {
    pub fn of(request: &Request<Bytes>) -> Self {
        WholeRequest {
            method: request.method().to_string(),
            uri: request.uri().to_string(),
            headers: fields(request.headers()),
            body: request.body().to_vec(),
        }
    }

    pub fn to_bytes(&self) -> Bytes {
        postcard::to_allocvec(self).map_or_else(|_| Bytes::new(), Bytes::from)
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }

    /// Method and target, for people.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.uri)
    }

    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// The request, once more.
    pub fn request(&self) -> std::result::Result<Request<Body>, http::Error> {
        let mut request = Request::builder().method(&*self.method).uri(&*self.uri);
        for (name, value) in &self.headers {
            request = request.header(name, &**value);
        }
        let body = Full::new(Bytes::from(self.body.clone()));
        request.body(body.map_err(|never| match never {}).boxed_unsync())
    }
}

impl WholeResponse {
    /// Reads a response to its end.
    pub async fn of<B>(response: Response<B>) -> std::result::Result<Self, BodyError>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY);
        let body = body.collect().await.map_err(BodyError::new)?;
        Ok(WholeResponse {
            status: head.status.as_u16(),
            headers: fields(&head.headers),
            trailers: body.trailers().map(fields).unwrap_or_default(),
            body: body.to_bytes().to_vec(),
        })
    }

    pub fn to_bytes(&self) -> Bytes {
        postcard::to_allocvec(self).map_or_else(|_| Bytes::new(), Bytes::from)
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// What a store has for a guest that speaks HTTP.
#[derive(Default)]
pub(super) struct Http {
    pub(super) ctx: WasiHttpCtx,
    pub(super) hooks: Refusing,
}

/// Refuses the requests of guests.
#[derive(Default)]
pub(super) struct Refusing;

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Box<dyn Future<Output = Result<(Response<WasiBody>, Io)>> + Send>;

impl WasiHttpHooks for Refusing {
    fn send_request(&mut self, _: Request<WasiBody>, _: Option<RequestOptions>, _: Io) -> Sent {
        let refused = async { Err(Error::HttpRequestDenied) };
        Box::new(Box::pin(refused)
            as Pin<
                Box<dyn Future<Output = Result<(Response<WasiBody>, Io)>> + Send>,
            >)
    }
}

/// Has a handler answer the request in `input`.
pub(super) async fn answer<T: WasiHttpView + 'static>(
    store: &mut Store<T>,
    proxy: &Proxy,
    input: &Bytes,
) -> wasmtime::Result<Bytes> {
    let request = WholeRequest::from_bytes(input);
    let request = request.ok_or_else(|| wasmtime::Error::msg("there is no request"))?;
    let request = request.request().map_err(wasmtime::Error::msg)?;
    let (respond, response) = oneshot::channel();
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request)?;
    let out = http.new_response_outparam(respond)?;
    let handling = proxy
        .wasi_http_incoming_handler()
        .call_handle(store, request, out);
    let answering = async {
        let response = response
            .await
            .map_err(|_| wasmtime::Error::msg("there is no response"))?;
        let response = response.map_err(|code| wasmtime::Error::msg(code.to_string()))?;
        let whole = WholeResponse::of(response).await;
        whole.map_err(wasmtime::Error::msg)
    };
    let (handled, answered) = tokio::join!(handling, answering);
    handled?;
    Ok(answered?.to_bytes())
}
