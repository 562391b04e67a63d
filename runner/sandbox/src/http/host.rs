//! What a store has for a guest that speaks HTTP.

use crate::denials::Denials;
use crate::host::{Host, Wasi};
use crate::sink::CHUNK;
use std::pin::Pin;
use wasmtime_wasi::WasiView;
use wasmtime_wasi_http::{
    Error, RequestOptions, Result, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};
use wrun_types::report::Access;

/// Bytes of names and values in one collection of header fields. Servers in use take between
/// 8 KiB and 64 KiB.
const MAX_FIELDS: usize = 64 << 10;

/// See the [module](self).
pub(crate) struct HttpHost {
    ctx: WasiHttpCtx,
    hooks: Hooks,
}

struct Hooks {
    denials: Denials,
}

impl HttpHost {
    pub(crate) fn new(denials: Denials) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(MAX_FIELDS);
        HttpHost {
            ctx,
            hooks: Hooks { denials },
        }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.http.hooks,
            table: match &mut self.wasi {
                Wasi::P2 { table, .. } => table,
                Wasi::P1(p1) => p1.ctx().table,
            },
            ctx: &mut self.http.ctx,
        }
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Box<dyn Future<Output = Result<(http::Response<WasiBody>, Io)>> + Send>;

impl WasiHttpHooks for Hooks {
    /// No destination is granted.
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _io: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Sent {
        let authority = request.uri().authority();
        let authority = authority.map_or("no authority", |authority| authority.as_str());
        self.denials.note(Access::TcpConnect, authority);
        Box::new(Box::pin(async { Err(Error::HttpRequestDenied) })
            as Pin<
                Box<dyn Future<Output = Result<(http::Response<WasiBody>, Io)>> + Send>,
            >)
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }
}
