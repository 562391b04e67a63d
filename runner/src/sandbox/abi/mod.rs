//! The host's side of `wit/`. One file per interface; what has no file here is
//! not offered, and a task that imports it is refused by name.

mod context;

pub use context::Progress;
pub(crate) use context::TaskContext;

pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "wrun:task/task",
        imports: { default: trappable },
        exports: { default: async },
        with: { "wasi": wasmtime_wasi::p2::bindings },
    });
}

/// Interfaces of `wrun:task` that this version provides.
pub(crate) const PROVIDED: &[&str] = &["context"];
