//! The host's side of `wit/`. One file per interface; an interface without a file here is
//! not provided, and a task that imports it is refused with its name.

mod broadcast;
mod context;
mod locks;
mod ports;
mod regions;
mod tasks;

#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub use locks::GuestLock;
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub use ports::GuestPort;
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub use tasks::GuestChild;

use crate::host::Host;
use wasmtime::component::{HasSelf, Linker};

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

/// An interface of `wrun:task`.
pub(crate) struct Interface {
    pub(crate) name: &'static str,
    /// Its file of `wit/`.
    pub(crate) wit: &'static str,
    /// A task that imports it can come to hold a region, or send requests to its runner:
    /// its workers must provide for that.
    pub(crate) has_requests: bool,
    /// A task that imports it can observe cancellation.
    pub(crate) tells_cancellation: bool,
}

/// The interfaces of this version.
pub(crate) const INTERFACES: [Interface; 6] = [
    Interface {
        name: "context",
        wit: include_str!("../../wit/context.wit"),
        has_requests: false,
        tells_cancellation: true,
    },
    Interface {
        name: "regions",
        wit: include_str!("../../wit/regions.wit"),
        has_requests: true,
        tells_cancellation: false,
    },
    Interface {
        name: "ports",
        wit: include_str!("../../wit/ports.wit"),
        has_requests: true,
        tells_cancellation: true,
    },
    Interface {
        name: "tasks",
        wit: include_str!("../../wit/tasks.wit"),
        has_requests: true,
        tells_cancellation: true,
    },
    Interface {
        name: "locks",
        wit: include_str!("../../wit/locks.wit"),
        has_requests: true,
        tells_cancellation: true,
    },
    Interface {
        name: "broadcast",
        wit: include_str!("../../wit/broadcast.wit"),
        has_requests: true,
        tells_cancellation: false,
    },
];

/// Links them. Those that need more of the runner than its clock are linked only if the
/// code imports one of them (`talks`): such code runs where its memory can be replaced page
/// by page, which would persist in a slot of a pool.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>, talks: bool) -> wasmtime::Result<()> {
    use bindings::wrun::task::{broadcast, context, locks, ports, tasks};
    context::add_to_linker::<Host, HasSelf<Host>>(linker, |host| host)?;
    if talks {
        ports::add_to_linker::<Host, HasSelf<Host>>(linker, |host| host)?;
        tasks::add_to_linker::<Host, HasSelf<Host>>(linker, |host| host)?;
        locks::add_to_linker::<Host, HasSelf<Host>>(linker, |host| host)?;
        broadcast::add_to_linker::<Host, HasSelf<Host>>(linker, |host| host)?;
        regions::add_to_linker(linker)?;
    }
    Ok(())
}
