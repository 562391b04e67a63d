//! What a store has for a guest that speaks HTTP.

use super::fetch::{Fetcher, MAX_FIELD_BYTES, check};
use super::fetch_error::FetchError;
use crate::denials::Denials;
use crate::host::Host;
use crate::services::Services;
use crate::sink::CHUNK;
use std::sync::Arc;
use wasmtime_wasi_http::{
    Error, RequestOptions, Result, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};
use wrun_types::grant::HttpGrant;
use wrun_types::report::Access;

/// See the [module](self).
pub(crate) struct HttpHost {
    ctx: WasiHttpCtx,
    hooks: Hooks,
}

struct Hooks {
    denials: Denials,
    grants: Vec<HttpGrant>,
    fetcher: Fetcher,
}

impl HttpHost {
    /// For a guest that may send requests to `grants`, by these services.
    pub(crate) fn new(
        denials: Denials,
        grants: Vec<HttpGrant>,
        services: Arc<dyn Services>,
    ) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(MAX_FIELD_BYTES);
        HttpHost {
            ctx,
            hooks: Hooks {
                denials,
                grants,
                fetcher: Fetcher::new(services),
            },
        }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.http.hooks,
            table: self.wasi.table(),
            ctx: &mut self.http.ctx,
        }
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Box<dyn Future<Output = Result<(http::Response<WasiBody>, Io)>> + Send>;

impl WasiHttpHooks for Hooks {
    /// Passes on what is granted to the runner, and notes what is not.
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _io: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Sent {
        let checked = check(request.method(), request.uri(), &self.grants);
        if checked == Err(FetchError::Denied) {
            let authority = request.uri().authority();
            let authority = authority.map_or("", |authority| authority.as_str());
            self.denials.note(Access::HttpRequest, authority);
        }
        let sent = checked.map(|()| self.fetcher.send(request, options));
        Box::new(async move {
            let response = sent?.await?;
            // The runner does the input and output of the connection.
            Ok((response, Box::new(async { Ok(()) }) as Io))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }
}
