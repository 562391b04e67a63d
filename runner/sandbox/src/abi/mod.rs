//! The host's side of `wit/`. One file per interface; what has no file here is
//! not offered, and a task that imports it is refused by name.

mod broadcast;
mod context;
mod locks;
mod ports;
mod regions;
mod tasks;

pub use context::Progress;
pub use context::TaskContext;
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub use locks::GuestLock;
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub use ports::GuestPort;
pub use ports::Ports;
pub(crate) use regions::{Windows, add_to_linker as add_regions};
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub use tasks::GuestChild;

pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "wrun:task/task",
        imports: {
            "wrun:task/ports.[method]port.send": async | trappable,
            "wrun:task/ports.[method]port.receive": async | trappable,
            "wrun:task/locks.request": async | trappable,
            "wrun:task/broadcast.open": async | trappable,
            "wrun:task/tasks.spawn": async | trappable,
            "wrun:task/tasks.[method]child.wait": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: {
            "wasi": wasmtime_wasi::p2::bindings,
            "wrun:task/ports.port": super::GuestPort,
            "wrun:task/tasks.child": super::GuestChild,
            "wrun:task/locks.lock": super::GuestLock,
            "wrun:task/regions.region": crate::abi::regions::Handle,
            "wrun:task/regions.mapping": crate::abi::regions::Mapping,
        },
    });
}

/// Interfaces of `wrun:task` that this version provides.
pub(crate) const PROVIDED: &[&str] =
    &["broadcast", "context", "locks", "ports", "regions", "tasks"];
