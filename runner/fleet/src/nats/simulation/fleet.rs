//! Many workers on one simulated server, some of which are lost, until all tasks have results.

use super::queue::SimulatedQueue;
use super::server::Server;
use super::traffic::Traffic;
use crate::protocol::{Answer, TaskMessage, Token};
use crate::worker::{Execute, Executed, Worker};
use serde_json::json;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a lease lasts: the default.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How often the server looks at its clock.
const TICK: Duration = Duration::from_millis(250);
/// How often a worker says that it is there.
const PRESENT: Duration = Duration::from_secs(10);
/// Processor time of the server for a message, by the measurement in `docs/fleet.md`: 0.14 ms for
/// the eight messages of a task.
const A_MESSAGE: Duration = Duration::from_nanos(143_000 / 8);
/// Memory of the server for a result that it keeps, by estimate.
const A_RESULT: u64 = 150;

/// What is simulated.
pub(super) struct Plan {
    pub(super) tasks: u32,
    pub(super) workers: usize,
    pub(super) jobs: usize,
    pub(super) tenants: u32,
    pub(super) shortest: Duration,
    pub(super) longest: Duration,
    /// How often a worker is lost with all its tasks, and another one starts.
    pub(super) lost_every: Option<Duration>,
}

/// What came of it.
pub(super) struct Found {
    plan: (u32, usize, usize, u32),
    pub(super) results: u64,
    pub(super) traffic: Traffic,
    late: u64,
    redelivered: u64,
    lost: u64,
    took: Duration,
    looked: usize,
    computed: std::time::Duration,
}

/// Runs a task for a time that its number decides.
struct Sleeps {
    shortest: Duration,
    spread: u32,
}

impl Execute for Sleeps {
    async fn execute(&self, message: TaskMessage, _tenant: &Token) -> Executed {
        let text = message.input.text.as_deref().unwrap_or_default();
        let number: u32 = text.parse().expect("a number");
        // Knuth's hash: neighbours differ.
        let millis = number.wrapping_mul(2_654_435_761) % self.spread;
        let time = self.shortest + Duration::from_millis(millis.into());
        tokio::time::sleep(time).await;
        assert!(message.id.as_str().ends_with(&format!(".{text}")));
        let report = json!({"outcome": {"kind": "completed"}, "stats": {"run_ns": 1}});
        Executed::Answer(Box::new(Answer::report(message.id, report)))
    }
}

fn start(plan: &Plan, server: &Arc<Mutex<Server>>) -> JoinHandle<()> {
    let queue = SimulatedQueue::new(server.clone(), ACK_WAIT);
    let spread = (plan.longest - plan.shortest).as_millis().max(1);
    let sleeps = Sleeps {
        shortest: plan.shortest,
        spread: u32::try_from(spread).expect("a spread"),
    };
    let worker = Worker::new(Arc::new(queue), Arc::new(sleeps), "w", plan.jobs);
    let server = server.clone();
    tokio::spawn(async move {
        let present = async {
            loop {
                server.lock().expect("no test has failed").present();
                tokio::time::sleep(PRESENT).await;
            }
        };
        tokio::select! {
            () = present => {}
            ended = worker.run() => ended.expect("the worker goes on"),
        }
    })
}

/// Simulates it to its end.
pub(super) async fn simulate(plan: &Plan) -> Found {
    let began_computing = std::time::Instant::now();
    let server = Server::new(plan.tasks, plan.tenants, ACK_WAIT);
    let server = Arc::new(Mutex::new(server));
    let mut workers: Vec<_> = (0..plan.workers).map(|_| start(plan, &server)).collect();
    let began = Instant::now();
    let (mut lost, mut last_lost) = (0_u64, began);
    loop {
        tokio::time::sleep(TICK).await;
        {
            let mut server = server.lock().expect("no test has failed");
            server.tick();
            if server.results_made == u64::from(plan.tasks) {
                break;
            }
        }
        if plan
            .lost_every
            .is_some_and(|every| last_lost.elapsed() >= every)
        {
            last_lost = Instant::now();
            let which = usize::try_from(lost).expect("few") * 7919 % plan.workers;
            workers[which].abort();
            workers[which] = start(plan, &server);
            lost += 1;
        }
    }
    let took = began.elapsed();
    workers.iter().for_each(JoinHandle::abort);
    for worker in workers {
        let _ = worker.await;
    }
    let server = Arc::into_inner(server).expect("all workers have ended");
    let server = server.into_inner().expect("no test has failed");
    Found {
        plan: (plan.tasks, plan.workers, plan.jobs, plan.tenants),
        results: server.results_made,
        late: server.late,
        redelivered: server.redelivered,
        looked: server.seen,
        traffic: server.traffic,
        lost,
        took,
        computed: began_computing.elapsed(),
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tasks, workers, jobs, tenants) = self.plan;
        let a_task = f64::from(tasks);
        let (messages, bytes) = (self.traffic.messages(), self.traffic.bytes());
        let seconds = self.took.as_secs_f64();
        writeln!(
            f,
            "{tasks} tasks, {workers} workers with {jobs} jobs each, {tenants} tenants: {seconds:.0} s \
             by their clock, {:.0} s by ours",
            self.computed.as_secs_f64()
        )?;
        writeln!(
            f,
            "{} workers lost, {} deliveries again, {} late results",
            self.lost, self.redelivered, self.late
        )?;
        writeln!(f, "\n| message | number | a task | bytes a task |")?;
        writeln!(f, "|---|---:|---:|---:|")?;
        self.traffic.lines(u64::from(tasks), f)?;
        writeln!(
            f,
            "| all | {messages} | {:.3} | {:.0} |",
            messages as f64 / a_task,
            bytes as f64 / a_task
        )?;
        let (most, most_bytes) = self.traffic.most();
        let busy = A_MESSAGE.as_secs_f64();
        writeln!(
            f,
            "\n{:.0} tasks a second; {:.0} messages and {:.2} MB a second, at most {most} and {:.2} MB",
            a_task / seconds,
            messages as f64 / seconds,
            bytes as f64 / seconds / 1e6,
            most_bytes as f64 / 1e6
        )?;
        writeln!(
            f,
            "a processor of the server: {:.0} % busy, at most {:.0} %; results in its memory: {:.2} GB; \
             an answer who has tasks: {} bytes",
            messages as f64 / seconds * busy * 100.0,
            most as f64 * busy * 100.0,
            (self.results * A_RESULT) as f64 / 1e9,
            self.looked
        )
    }
}
