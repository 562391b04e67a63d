//! A fleet without a network: real workers, real decisions about what to ask for
//! ([`Lanes`](super::lanes::Lanes)), and a server in memory that counts what it would send and
//! receive, with a clock that jumps to the next thing that happens.
//!
//! `WRUN_FLEET_SIMULATED=10000000` has the number of tasks; `docs/fleet.md` has what it prints.

mod fleet;
mod queue;
mod server;
mod traffic;

use fleet::{Plan, simulate};
use std::time::Duration;

/// The number of tasks of the large simulation.
const TASKS: &str = "WRUN_FLEET_SIMULATED";

/// As many as are simulated in a usual run of the tests.
fn tasks() -> u32 {
    std::env::var(TASKS).map_or(100_000, |tasks| tasks.parse().expect("a number of tasks"))
}

/// The plan that `docs/fleet.md` is about.
fn thousand_workers() -> Plan {
    Plan {
        tasks: tasks(),
        workers: 1000,
        jobs: 4,
        tenants: 10,
        shortest: Duration::from_secs(1),
        longest: Duration::from_secs(7),
        lost_every: Some(Duration::from_secs(10)),
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_workers_give_each_task_one_result() {
    let plan = thousand_workers();
    let found = simulate(&plan).await;
    println!("{found}");
    assert_eq!(found.results, u64::from(plan.tasks));
    let messages = found.traffic.messages_of_tasks() as f64 / f64::from(plan.tasks);
    assert!(
        messages < 12.0,
        "{messages} messages for each task: {found}"
    );
}

/// What each worker asks about grows with the tenants. A tenth of each by default, which takes a
/// hundredth of the time.
#[tokio::test(start_paused = true)]
async fn many_tenants_cost_looks() {
    let part: u32 = match std::env::var_os(TASKS) {
        Some(_) => 1,
        None => 10,
    };
    let plan = Plan {
        tasks: 20_000 / part,
        workers: 1000 / part as usize,
        tenants: 1000 / part,
        lost_every: None,
        ..thousand_workers()
    };
    let found = simulate(&plan).await;
    println!("{found}");
    assert_eq!(found.results, u64::from(plan.tasks));
}

/// How long a request and its answer are on their way.
const ROUND_TRIP: Duration = Duration::from_millis(1);
