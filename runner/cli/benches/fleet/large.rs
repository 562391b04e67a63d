//! An input of a gibibyte on its way from a file through the object store to a task that reads all
//! of it, and the most memory that everybody on the way has.

use crate::server::Server;
use crate::{guest, wrun_program};
use anyhow::ensure;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use wrun_compare::measure::{Memory, descendants};

const SIZES: [u64; 2] = [64 << 20, 1 << 30];
const MIB: f64 = 1024.0 * 1024.0;

/// A table of both sizes and modes.
pub(crate) fn measure(server: &Server) -> anyhow::Result<String> {
    let mut table = String::from(
        "| input | mode | wall | here | memory: submitter | server | worker |\n\
         |--:|---|--:|--:|--:|--:|--:|\n",
    );
    for size in SIZES {
        let input = server.folder.path().join("input");
        fill(&input, size)?;
        for mode in ["process", "thread"] {
            eprintln!("{} MiB, {mode} ...", size >> 20);
            let (right, here) = digest(&["--mode", mode], &input, |_| {})?;
            let worker = server.workers(mode, &["large"])?;
            let roots = [server.pid(), worker.pids()[0]];
            let mut most = [0.0_f64; 3];
            let on_fleet = ["fleet", "--nats", &server.url(), "submit", "--wait"];
            let (digest, wall) = digest(&on_fleet, &input, |submitter| {
                for (most, root) in most.iter_mut().zip([submitter, roots[0], roots[1]]) {
                    *most = most.max(resident(root));
                }
            })?;
            ensure!(digest == right, "{digest} is not {right}");
            table += &format!(
                "| {} MiB | {mode} | {:.1} s | {:.1} s | {:.0} MiB | {:.0} MiB | {:.0} MiB |\n",
                size >> 20,
                wall.as_secs_f64(),
                here.as_secs_f64(),
                most[0] / MIB,
                most[1] / MIB,
                most[2] / MIB,
            );
        }
        std::fs::remove_file(input)?;
    }
    Ok(table)
}

/// Numbers, so that no block is like another.
fn fill(path: &Path, size: u64) -> anyhow::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for number in 0..size / 8 {
        file.write_all(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())?;
    }
    file.flush()?;
    Ok(())
}

/// What `wrun` with these arguments prints as the digest, and how long it takes. The process is
/// looked at while it runs.
fn digest(
    args: &[&str],
    input: &Path,
    mut look: impl FnMut(u32),
) -> anyhow::Result<(String, Duration)> {
    let mut command = Command::new(wrun_program());
    command.args(args);
    match args.contains(&"submit") {
        true => command.arg("--input").arg(input).stdin(Stdio::null()),
        false => command.stdin(File::open(input)?),
    };
    command.arg(guest("digest/digest.wasm"));
    let began = Instant::now();
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let has_ended = AtomicBool::new(false);
    let pid = child.id();
    let ended = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let ended = child.wait_with_output();
            has_ended.store(true, Ordering::Relaxed);
            ended
        });
        while !has_ended.load(Ordering::Relaxed) {
            look(pid);
            std::thread::sleep(Duration::from_millis(20));
        }
        waiting.join()
    });
    let took = began.elapsed();
    let Ok(ended) = ended else {
        anyhow::bail!("the thread that waits has panicked");
    };
    let ended = ended?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{command:?}: {said}");
    Ok((String::from_utf8(ended.stdout)?.trim().to_owned(), took))
}

/// Bytes of memory of a process and all below it, each shared page divided by its users.
fn resident(pid: u32) -> f64 {
    let all = std::iter::once(pid).chain(descendants(pid));
    all.filter_map(|pid| Memory::of(&pid.to_string()).ok())
        .map(|memory| memory.proportional)
        .sum()
}
