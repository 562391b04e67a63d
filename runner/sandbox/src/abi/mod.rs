//! The host's side of `wit/`. One file per interface; what has no file here is
//! not offered, and a task that imports it is refused by name.

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

/// The interfaces of `wrun:task` that this version provides, each with its file of `wit/`.
pub(crate) const INTERFACES: [(&str, &str); 6] = [
    ("context", include_str!("../../wit/context.wit")),
    ("regions", include_str!("../../wit/regions.wit")),
    ("ports", include_str!("../../wit/ports.wit")),
    ("tasks", include_str!("../../wit/tasks.wit")),
    ("locks", include_str!("../../wit/locks.wit")),
    ("broadcast", include_str!("../../wit/broadcast.wit")),
];

/// Links them. All that need more of the runner than its clock only where the code imports
/// one of them, which is `talks`: where it runs, its memory can be replaced page by page,
/// which in a slot of a pool would stay.
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
