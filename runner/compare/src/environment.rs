//! Where and when the measurements were made.

use super::results::Environment;
use std::time::SystemTime;
use wrun::Jail;

/// Looks around. What the system does not say is left empty.
pub fn look() -> Environment {
    let kernel = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let machine = rustix::system::sysinfo();
    #[expect(clippy::useless_conversion, reason = "its size differs by machine")]
    let memory = u64::from(machine.totalram).saturating_mul(machine.mem_unit.into());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Environment {
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        wrun: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("WRUN_COMMIT")
            .filter(|commit| !commit.is_empty())
            .map(str::to_owned),
        wasmtime: env!("WRUN_WASMTIME").to_owned(),
        kernel: format!("{} {}", text(kernel.sysname()), text(kernel.release())),
        architecture: text(kernel.machine()),
        cpu: cpu(),
        processors: u32::try_from(processors).unwrap_or(u32::MAX),
        memory_bytes: memory,
        load: load(),
        root: rustix::process::geteuid().is_root(),
        jail_mode: Jail::Strict,
        jail: None,
    }
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info
        .lines()
        .find(|line| line.starts_with("model name") || line.starts_with("Processor"));
    let name = line.and_then(|line| line.split_once(':'));
    name.map(|(_, name)| name.trim().to_owned())
        .unwrap_or_default()
}

/// The load average of a minute.
pub(super) fn load() -> f64 {
    std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}
