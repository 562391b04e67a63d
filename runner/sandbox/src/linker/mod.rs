//! The imports of a guest, for each shape of guest: WASI with its refusals recorded, and
//! the interfaces of `wrun:task` that exist.

mod clocks;
mod directory;
mod file_poll;
mod file_stream;
#[cfg(feature = "http")]
mod http;
mod random;
mod transfer;
mod turns;
mod wasi_0_1;
mod wasi_0_2;

pub(super) use turns::long_result;

use super::abi;
use super::host::{Host, Wasi, WasiUse};
use wasmtime::component::{Component, Linker};
use wrun_types::report::Access;

/// For components: WASI 0.2, and `wrun:task` and `wasi:http`; most of these only for code that
/// imports it.
pub(crate) fn component(
    engine: &wasmtime::Engine,
    #[cfg_attr(not(feature = "http"), expect(unused_variables))] component: &Component,
    regions: bool,
) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    abi::add_to_linker(&mut linker, regions)?;
    linker.allow_shadowing(true);
    wasi_0_2::watch_filesystem(&mut linker)?;
    file_stream::add_to_linker(&mut linker)?;
    wasi_0_2::watch_names(&mut linker)?;
    wasi_0_2::count_sockets(&mut linker)?;
    wasi_0_2::refuse_binding(&mut linker)?;
    wasi_0_2::watch_udp(&mut linker)?;
    clocks::for_components(&mut linker)?;
    directory::for_components(&mut linker)?;
    random::for_components(&mut linker)?;
    transfer::for_components(&mut linker)?;
    #[cfg(feature = "http")]
    if http::is_imported(engine, component) {
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        http::mark_finished(&mut linker)?;
    }
    Ok(linker)
}

/// What a component uses of WASI.
pub(crate) fn wasi_use(engine: &wasmtime::Engine, component: &Component) -> WasiUse {
    let ty = component.component_type();
    let mut names = ty.imports(engine).map(|(name, _)| name);
    match names.any(|name| name.starts_with("wasi:")) {
        true => WasiUse::Components,
        false => WasiUse::Nothing,
    }
}

/// For core modules: WASI 0.1.
pub(crate) fn module(engine: &wasmtime::Engine) -> wasmtime::Result<wasmtime::Linker<Host>> {
    let mut linker = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |host: &mut Host| match &mut host.wasi {
        Wasi::P1(p1) => &mut **p1,
        Wasi::P2 { .. } => unreachable!("module linkers are only used with WASI 0.1 hosts"),
    })?;
    linker.allow_shadowing(true);
    // wasmtime-wasi refuses codes from 126 on, but a shell's convention is not a reason to
    // lose the guest's code. Codes are a byte, as for every process.
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "proc_exit",
        |code: i32| -> wasmtime::Result<()> { Err(wasmtime_wasi::I32Exit(code & 0xff).into()) },
    )?;
    wasi_0_1::watch_filesystem(&mut linker)?;
    clocks::for_modules(&mut linker)?;
    directory::for_modules(&mut linker)?;
    random::for_modules(&mut linker)?;
    transfer::for_modules(&mut linker)?;
    Ok(linker)
}

/// The reason why a file operation was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// By the permissions of the file or of a directory above it (`EACCES`, from the
    /// kernel).
    ByPermissions,
    /// By this host, because it is neither a file nor a directory.
    Special,
    /// By the grants.
    ByGrant,
}

impl Host {
    /// Records a refused file operation. `write` means that it would have changed
    /// something.
    fn note_path(&mut self, path: &str, write: bool, refused: Refused) {
        let escapes = path.starts_with('/') || path.split('/').any(|part| part == "..");
        let access = match refused {
            Refused::ByPermissions => Access::Permission,
            Refused::Special => Access::SpecialFile,
            Refused::ByGrant if write && self.has_read_only && !escapes => Access::Write,
            Refused::ByGrant => Access::Path,
        };
        self.denials.note(access, path);
    }
}
