//! `wasi:http`, with bodies that tell a guest that finished them from one that is gone.

use super::wasi_0_2::WASI;
use crate::host::Host;
use wasmtime::component::{Component, Linker, Resource};
use wasmtime::{Engine, StoreContextMut};
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_http::{FieldMap, WasiHttpView};

/// Whether a component sends or answers HTTP requests.
pub(super) fn is_imported(engine: &Engine, component: &Component) -> bool {
    let ty = component.component_type();
    let imported = ty
        .imports(engine)
        .any(|(name, _)| name.starts_with("wasi:http/"));
    imported
        || ty
            .exports(engine)
            .any(|(name, _)| name.starts_with("wasi:http/"))
}

/// Gives trailers to each body that its guest finishes, if empty ones: the body of a store that
/// is dropped in the middle of it ends without.
pub(super) fn mark_finished(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    type Store<'a> = StoreContextMut<'a, Host>;

    let mut types = linker.instance(&format!("wasi:http/types@{WASI}"))?;
    types.func_wrap(
        "[static]outgoing-body.finish",
        |mut store: Store<'_>,
         (body, trailers): (Resource<HostOutgoingBody>, Option<Resource<FieldMap>>)| {
            let table = store.data_mut().http().table;
            let body = table.delete(body)?;
            let trailers = match trailers {
                Some(trailers) => table.delete(trailers)?,
                None => FieldMap::new_mutable(0),
            };
            Ok((body.finish(Some(trailers)),))
        },
    )
}
