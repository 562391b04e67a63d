//! Small requests: how many a second, and how long the slow ones take.

use crate::Amount;
use crate::load::{Load, Turn};
use crate::report::{Hello, Results, Wanted};
use crate::server::{Server, Used};
use crate::tasks::Tasks;
use anyhow::Context;
use std::time::Duration;

const APP: &str = "http-hello/http-hello.wasm";
/// Before each turn: what was idle has workers, and its memory, again.
const WARM: Duration = Duration::from_secs(1);

pub(crate) const BARE: &str = "bare hyper";
pub(crate) const THREAD: &str = "wrun, thread";
pub(crate) const REUSE: &str = "wrun, process, --reuse 1000";
pub(crate) const PROCESS: &str = "wrun, process";
const WASMTIME: &str = "wasmtime serve";
const NODE: &str = "Node cluster";
const TASKS: &str = "tasks in fresh processes";

struct Side {
    name: &'static str,
    server: Server,
    turns: Vec<Turn>,
    used: Used,
}

impl Side {
    fn new(name: &'static str, server: Server) -> anyhow::Result<Self> {
        server.check().context(name)?;
        Ok(Side {
            name,
            server,
            turns: Vec::new(),
            used: Used::default(),
        })
    }

    fn turn(&mut self, load: &Load, amount: Amount) -> anyhow::Result<()> {
        load.run(self.server.address, WARM)?;
        self.turns.push(load.run(self.server.address, amount.turn)?);
        Ok(())
    }

    /// The memory in the middle of a turn that is not timed: reading it stops the workers.
    fn weigh(&mut self, load: &Load) -> anyhow::Result<()> {
        let server = &self.server;
        self.used = std::thread::scope(|scope| {
            let running = scope.spawn(|| load.run(server.address, 2 * WARM));
            std::thread::sleep(WARM);
            let used = server.memory();
            match running.join() {
                Ok(turn) => turn.map(|_| used),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        Ok(())
    }
}

pub(crate) fn measure(amount: Amount, load: &Load, results: &mut Results) -> anyhow::Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    let mut sides = vec![
        Side::new(BARE, Server::bare()?)?,
        Side::new(THREAD, Server::wrun(APP, &["--mode", "thread"])?)?,
        Side::new(REUSE, Server::wrun(APP, &["--reuse", "1000"])?)?,
        Side::new(PROCESS, Server::wrun(APP, &[])?)?,
    ];
    for (name, server) in [
        (WASMTIME, Server::wasmtime(APP)),
        (NODE, Server::node(processors)),
    ] {
        match server.and_then(|server| Side::new(name, server)) {
            Ok(side) => sides.push(side),
            Err(error) => results.skip(name, &error),
        }
    }
    let tasks = Tasks::new()?;
    let mut task_rates = Vec::new();
    for round in 0..amount.rounds {
        eprintln!("hello: round {} of {} ...", round + 1, amount.rounds);
        task_rates.push(tasks.rate(amount.turn)?);
        for side in &mut sides {
            side.turn(load, amount).context(side.name)?;
        }
        // In another order each time.
        sides.rotate_left(1);
    }
    sides.sort_by_key(|side| order(side.name));
    for side in &mut sides {
        side.weigh(load).context(side.name)?;
    }
    for side in &sides {
        results
            .hello
            .push(Hello::new(side.name, &side.turns, side.used));
    }
    let rates = |name: &str| -> Option<Vec<f64>> {
        if name == TASKS {
            return Some(task_rates.clone());
        }
        let side = sides.iter().find(|side| side.name == name)?;
        Some(side.turns.iter().map(|turn| turn.rate).collect())
    };
    results.tasks(TASKS, &task_rates);
    for (of, to, wanted) in [
        (THREAD, WASMTIME, Some(Wanted::AtLeast(1.3))),
        (THREAD, BARE, Some(Wanted::AtLeast(0.6))),
        (REUSE, THREAD, Some(Wanted::AtLeast(0.5))),
        (PROCESS, TASKS, Some(Wanted::AtLeast(0.8))),
        (THREAD, NODE, None),
        (REUSE, NODE, None),
        (PROCESS, NODE, None),
    ] {
        if let (Some(some), Some(others)) = (rates(of), rates(to)) {
            let ratios = some.iter().zip(&others).map(|(one, other)| one / other);
            results.ratio(&format!("requests/s: {of} / {to}"), ratios, wanted);
        }
    }
    Ok(())
}

fn order(name: &str) -> usize {
    let all = [BARE, THREAD, REUSE, PROCESS, WASMTIME, NODE];
    all.iter().position(|it| *it == name).unwrap_or(all.len())
}
