//! Messages as with Node's `fork`, `Worker` and `MessageChannel`: between a host and a
//! task, directly between two tasks, and the errors after an end is closed or killed.
//!
//! ```sh
//! cargo run --release --example talk -- [thread|process]
//! ```

use anyhow::{Context, ensure};
use std::path::PathBuf;
use std::time::Duration;
use wrun::{Limits, Message, Mode, Outcome, PortError, Runner, Task};

fn main() -> anyhow::Result<()> {
    // In process mode this program is its own worker; this must be the first call in main.
    wrun::worker_hook();

    let mode: Mode = match std::env::args().nth(1) {
        Some(name) => name.parse().map_err(anyhow::Error::msg)?,
        None => Mode::default(),
    };
    let runner = Runner::builder().mode(mode).build()?;
    let guests = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks"));
    let guest = runner.blocking_load(guests.join("ports/ports.wasm"))?;
    // The timeout ends every wait for a message.
    let limits = Limits::default().timeout(Duration::from_secs(60));
    let start = |what: &str| -> anyhow::Result<_> {
        let (theirs, ours) = runner.channel(8)?;
        // As in Node: a kill does not first request the task to stop.
        let task = Task::new(&guest).grace(Duration::ZERO);
        let task = task.input(what).port(theirs);
        let handle = runner.blocking_submit(task.limits(limits.clone()))?;
        Ok((handle, ours))
    };
    println!("in {mode} mode:");

    // child.send and child.on('message'); in the task, ports.parent.
    let (mut echo, port) = start("echo")?;
    port.blocking_send("ping")?;
    println!("a task said {:?}", port.blocking_receive()?.data);

    // receiveMessageOnPort: returns a message that has already arrived, or nothing.
    let nothing = port.try_receive().err();
    ensure!(nothing == Some(PortError::WouldBlock), "{nothing:?}");
    println!("and then {}", PortError::WouldBlock);

    // child.disconnect: the task sees that the port is closed, and so do later sends.
    port.close();
    let report = echo.blocking_report()?;
    ensure!(report.outcome.is_completed(), "{}", report.outcome);
    println!("it ended with {:?}", report.stdout);
    let unsent = port.try_send("more").err().context("it is closed")?;
    println!("to send {:?} more: {}", unsent.message.data, unsent.error);

    // new MessageChannel: each of two tasks gets one end, as in a transferList. Their
    // messages do not pass through the host.
    let (asks, to_asks) = start("ping 100")?;
    let (answers, to_answers) = start("echo")?;
    let (one, other) = runner.channel(1)?;
    to_asks.blocking_send(Message::default().port(one))?;
    to_answers.blocking_send(Message::default().port(other))?;
    for mut task in [asks, answers] {
        let report = task.blocking_report()?;
        ensure!(report.outcome.is_completed(), "{}", report.outcome);
        println!("of two tasks, one says {:?}", report.stdout);
    }

    // worker.terminate: the end of a task closes its ports.
    let (mut waits, port) = start("wait")?;
    waits.kill();
    let report = waits.blocking_report()?;
    ensure!(report.outcome == Outcome::Cancelled, "{}", report.outcome);
    let closed = port.blocking_receive().err();
    ensure!(closed == Some(PortError::Closed), "{closed:?}");
    println!("killed, it is {}: {}", report.outcome, PortError::Closed);
    Ok(())
}
