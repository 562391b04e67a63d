//! Runs guests that misbehave and ends each of them, by a limit, a request to stop or
//! a kill. The results are the same in both modes.
//!
//! ```sh
//! cargo run --release --example limits_and_kill -- [thread|process]
//! ```

use anyhow::ensure;
use std::path::PathBuf;
use std::time::Duration;
use wrun::{Limit, Limits, Mode, Outcome, Runner, Task};

fn main() -> anyhow::Result<()> {
    // In process mode this program is its own worker; this must be the first call in main.
    wrun::worker_hook();

    let mode: Mode = match std::env::args().nth(1) {
        Some(name) => name.parse().map_err(anyhow::Error::msg)?,
        None => Mode::default(),
    };
    let runner = Runner::builder().mode(mode).build()?;
    let guests = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks"));
    println!("in {mode} mode:");

    // A limit is a setting of the task. Exceeding it is an outcome, not an error.
    let limits = Limits::default;
    let half_a_second = Duration::from_millis(500);
    for (guest, limits, limit) in [
        // The deadline ends both an endless loop and an endless wait.
        (
            "hostile/endless-loop.wat",
            limits().timeout(half_a_second),
            Limit::Deadline,
        ),
        (
            "hostile/endless-sleep.wat",
            limits().timeout(half_a_second),
            Limit::Deadline,
        ),
        // Fuel limits the same amount of work on every machine.
        (
            "hostile/endless-loop.wat",
            limits().fuel(10_000_000),
            Limit::Fuel,
        ),
        (
            "hostile/memory-bomb.wat",
            limits().max_memory(32 << 20),
            Limit::Memory,
        ),
        (
            "hostile/stdout-flood.wat",
            limits().max_output(1 << 20),
            Limit::Output,
        ),
    ] {
        let artifact = runner.blocking_load(guests.join(guest))?;
        let report = runner.blocking_run(Task::new(&artifact).limits(limits))?;
        println!(
            "  {guest:28} {} after {:.0?}, {} bytes of output kept",
            report.outcome,
            report.stats.total,
            report.stdout.len()
        );
        ensure!(report.outcome == Outcome::LimitExceeded(limit));
    }

    // A task that observes cancellation is requested to stop, and may finish its work.
    let patient = runner.blocking_load(guests.join("patient/patient.wasm"))?;
    let mut handle = runner.blocking_submit(Task::new(&patient))?;
    handle.cancel();
    let report = handle.blocking_report()?;
    println!(
        "  {:28} {}: {}",
        "cancelled",
        report.outcome,
        String::from_utf8_lossy(&report.stdout).trim()
    );
    ensure!(report.outcome.is_completed());

    // Other tasks are killed. The killer can be sent to another thread.
    let endless = runner.blocking_load(guests.join("hostile/endless-loop.wat"))?;
    let mut handle = runner.blocking_submit(Task::new(&endless))?;
    let killer = handle.killer();
    let killing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        killer.kill();
    });
    let report = handle.blocking_report()?;
    println!(
        "  {:28} {} after {:.0?}",
        "killed", report.outcome, report.stats.total
    );
    ensure!(report.outcome == Outcome::Cancelled);
    ensure!(killing.join().is_ok());

    // The runner still works.
    let echo = runner.blocking_load(guests.join("echo/echo.wat"))?;
    let report = runner.blocking_run(Task::new(&echo).input("still here"))?;
    println!("  {:28} {}", "echo/echo.wat", report.outcome);
    ensure!(report.stdout == "still here");
    Ok(())
}
