//! The imports that a guest may have, and the messages for those that it may not.
//!
//! Invariant: a guest that passes [`check`] imports only names that the linkers
//! define.

use super::abi::{self, Interface};
use super::load_error::LoadError;
use super::source::{Facts, Shape, shown};

/// Refuses the first import that nothing provides, by name.
pub(super) fn check(facts: &Facts, shape: Shape) -> Result<(), LoadError> {
    for import in &facts.imports {
        let name = import.name.as_str();
        let (provided, module) = match shape {
            Shape::Component | Shape::CommandComponent | Shape::HttpComponent => {
                let provided = is_provided_interface(name) || is_http_interface(name);
                (provided || import.kind == "type", name)
            }
            Shape::CommandModule => {
                let (module, field) = name.split_once('.').unwrap_or((name, ""));
                let provided = module == "wasi_snapshot_preview1" && WASI_P1.contains(&field);
                (provided, module)
            }
            Shape::CoreModule => {
                // An interface's version contains dots too; a core name has none except after a
                // bracket, in a resource's method.
                let (module, field) = name
                    .split_once(".[")
                    .or_else(|| name.rsplit_once('.'))
                    .unwrap_or((name, ""));
                let module = module.strip_prefix("cm32p2|").unwrap_or(module);
                let provided = (module == "wasi_snapshot_preview1" && WASI_P1.contains(&field))
                    || is_provided_interface(module);
                (provided, module)
            }
        };
        if !provided {
            return Err(LoadError::UnknownImport {
                name: shown(name),
                hint: who_provides(module),
            });
        }
    }
    Ok(())
}

/// The imports of a guest that its workers must provide for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uses {
    pub(super) ports: bool,
    /// It can come to hold a region, by the interface or in a message, or can send requests
    /// to its runner: all interfaces with requests are among these.
    pub(super) regions: bool,
    /// It can observe cancellation.
    pub(super) observes_cancellation: bool,
}

pub(super) fn uses(facts: &Facts) -> Uses {
    let has = |interface: &str| {
        facts.imports.iter().any(|import| {
            let name = import.name.as_str();
            let name = name.strip_prefix("cm32p2|").unwrap_or(name);
            name.strip_prefix("wrun:task/")
                .and_then(|name| name.strip_prefix(interface))
                .is_some_and(|rest| rest.starts_with('@'))
        })
    };
    let of_any = |wanted: fn(&Interface) -> bool| {
        let mut all = abi::INTERFACES.iter();
        all.any(|it| wanted(it) && has(it.name))
    };
    Uses {
        ports: has("ports"),
        regions: of_any(|it| it.has_requests),
        observes_cancellation: of_any(|it| it.tells_cancellation),
    }
}

fn is_provided_interface(name: &str) -> bool {
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    if let Some(interface) = interface.strip_prefix("wrun:task/") {
        let mut all = abi::INTERFACES.iter();
        return all.any(|it| it.name == interface) && matches!(version, "0.1.0" | "0.1");
    }
    WASI_P2.contains(&interface) && is_version_0_2(version)
}

fn is_http_interface(name: &str) -> bool {
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    cfg!(feature = "http") && WASI_HTTP.contains(&interface) && is_version_0_2(version)
}

fn is_version_0_2(version: &str) -> bool {
    version == "0.2" || version.starts_with("0.2.")
}

fn who_provides(module: &str) -> String {
    let interface = module.split('@').next().unwrap_or(module);
    match interface {
        "wasi_unstable" => "it is WASI before 0.1; rebuild the task for wasm32-wasip1".into(),
        "wasi" if module == "wasi" => {
            "wasi-threads is not provided; build the task without threads".into()
        }
        "env" => "modules built for a browser or without WASI expect it from JavaScript; \
                  build for a wasi target"
            .into(),
        "wbg" | "__wbindgen_placeholder__" => {
            "wasm-bindgen's JavaScript provides it; build for a wasi target".into()
        }
        _ if interface.starts_with("wrun:task/") => {
            format!("wrun {} does not provide it", env!("CARGO_PKG_VERSION"))
        }
        _ if interface.starts_with("wasi:http") && module.contains("@0.2") => {
            match cfg!(feature = "http") {
                true => "of wasi:http, components may import types and outgoing-handler".into(),
                false => "this build of wrun has no HTTP".into(),
            }
        }
        _ if interface.starts_with("wasi:") && module.contains("@0.3") => {
            "it is WASI 0.3; wrun provides 0.2".into()
        }
        _ if interface.starts_with("wasi:") => {
            "it is not in the wasi:cli/imports world of WASI 0.2".into()
        }
        _ => "a task may import WASI and wrun:task only".into(),
    }
}

/// Interfaces of WASI 0.2 that tasks may import, at any 0.2 version.
const WASI_P2: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Interfaces that components may import besides, where this library has HTTP.
const WASI_HTTP: &[&str] = &["wasi:http/outgoing-handler", "wasi:http/types"];

/// Functions of `wasi_snapshot_preview1`.
const WASI_P1: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];
