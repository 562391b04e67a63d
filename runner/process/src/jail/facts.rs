//! Checks of what a worker's start must have done.

use super::account::Stand;
use rustix::process::{Resource, getrlimit};
use std::os::fd::RawFd;

/// Numbers that are tried if descriptors cannot be listed.
const MAX_TRIED: u64 = 1 << 16;

/// Whether this process has no inherited descriptor but its three streams. A descriptor
/// that came with the program does not have close-on-exec, or it would not have come;
/// everything here is opened and received with it.
pub(super) fn descriptors() -> Stand {
    let open: Vec<RawFd> = match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect(),
        Err(_) => {
            let most = getrlimit(Resource::Nofile).current.unwrap_or(MAX_TRIED);
            (0..RawFd::try_from(most.min(MAX_TRIED)).unwrap_or(RawFd::MAX)).collect()
        }
    };
    let inherited: Vec<String> = open
        .into_iter()
        .filter(|descriptor| {
            *descriptor > 2 && wrun_sys::closes_on_exec(*descriptor) == Some(false)
        })
        .map(|descriptor| descriptor.to_string())
        .collect();
    if inherited.is_empty() {
        Stand::enforced("none but its own")
    } else {
        Stand::partial(format!("inherited: {}", inherited.join(", ")))
    }
}

/// Whether the environment is empty.
pub(super) fn environment() -> Stand {
    match std::env::vars_os().count() {
        0 => Stand::enforced("empty"),
        count => Stand::partial(format!("it has {count} variables")),
    }
}
