//! `wrun worker`: from options to a worker, and from signals to its end.

use super::fleet_args::WorkerArgs;
use super::nats_args::failure;
use super::signals::Signals;
use super::worker_admin::{self, Operating};
use super::{Failure, exit, text, traces};
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wrun::{Cache, Jail, Mode, Runner};
use wrun_fleet::{
    Fleet, Guests, Metrics, NatsObjects, NatsQueue, Observer, Presence, QueueLimits, QueueSettings,
    StoreLimits, TaskId, Worker, WorkerConfig,
};
use wrun_serve::{Admin, RunnerMetrics};

/// How often a worker says that it is there.
const PRESENT: Duration = Duration::from_secs(10);
/// Memory to compile a module, if nothing else is said. With a limit, thread mode compiles in a
/// child, too.
const COMPILE_MEMORY: u64 = 2 << 30;
/// Processors for each thread that speaks with the server. Between two such threads, passing a
/// message on costs as much as a small task.
const PROCESSORS_A_THREAD: usize = 8;
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

type FleetWorker = Worker<NatsQueue, Guests<NatsObjects>>;

pub(super) fn worker(args: WorkerArgs) -> Result<u8, Failure> {
    let config = match &args.config {
        None => WorkerConfig::default(),
        Some(path) => WorkerConfig::read(path)
            .map_err(|error| Failure::new(exit::USAGE, error.to_string()))?,
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let jobs = args.jobs.map_or(processors, |jobs| jobs as usize);
    let mut builder = Runner::builder()
        .mode(args.mode)
        .preemption(args.preempt)
        .max_running(jobs)
        .max_queued(jobs)
        .max_module_size(args.max_module)
        .compile_memory(COMPILE_MEMORY)
        .cache(match args.no_cache {
            true => Cache::Off,
            false => Cache::User,
        });
    args.walls.check(args.mode)?;
    builder = args.compiling.apply(builder);
    let runner = builder
        .process(args.pool.apply(args.walls.options()?))
        .build()?;
    let runner = Arc::new(runner);
    match args.mode {
        // Guests compute on the runner's threads, and the server must not wait for them.
        Mode::Thread => {
            let event_loop = tokio::runtime::Builder::new_multi_thread()
                .worker_threads((processors / PROCESSORS_A_THREAD).max(1))
                .enable_io()
                .enable_time()
                .thread_name("wrun-worker")
                .build()
                .map_err(super::no_event_loop)?;
            let code = event_loop.block_on(work(runner, &args, config, jobs));
            // What still blocks a thread, blocks no end.
            event_loop.shutdown_timeout(Duration::from_secs(1));
            code
        }
        // They wait for processes, as they wait for the server.
        _ => {
            let runtime = runner.runtime();
            // The runner ends here, where that may be waited for.
            runtime.block_on(work(runner.clone(), &args, config, jobs))
        }
    }
}

async fn work(
    runner: Arc<Runner>,
    args: &WorkerArgs,
    config: WorkerConfig,
    jobs: usize,
) -> Result<u8, Failure> {
    let mut signals = Signals::catch().map_err(super::no_event_loop)?;
    let connect = args.connection.connect(args.nats.as_deref())?;
    let host = host();
    let name = match &args.name {
        Some(name) => name.clone(),
        None => named(&host),
    };
    let say = speaker(args.quiet);
    let listener = match &args.admin {
        Some(address) => Some(worker_admin::listen(address).await?),
        None => None,
    };
    let told = say.clone();
    let (limits, client) = (QueueLimits::default(), format!("wrun worker {name}"));
    let connecting = Fleet::connect(&connect, &client, &limits, move |line| told(&line));
    let fleet = tokio::select! {
        fleet = connecting => fleet.map_err(failure)?,
        code = signals.next() => return Err(Failure::new(code, "interrupted while connecting")),
    };
    let mut settings = QueueSettings::default();
    settings.ack_wait = args.ack_wait;
    settings.max_in_flight = args.max_in_flight;
    settings.weights = args.weights.clone();
    let queue = fleet.queue(settings).await.map_err(failure)?;
    let jail = match args.mode {
        Mode::Thread => "none",
        _ => match args.walls.jail.unwrap_or_default() {
            Jail::Strict => "strict",
            Jail::BestEffort => "best-effort",
            _ => "off",
        },
    };
    let grants: Vec<_> = config.grants().collect();
    say(&format!(
        "worker {name}: {jobs} tasks at the same time, mode {}, jail {jail}, grants: {}",
        mode_name(args.mode),
        if grants.is_empty() {
            "none".to_owned()
        } else {
            grants.join(", ")
        },
    ));
    let store = StoreLimits {
        spool: args.max_spool,
        module_size: args.max_module,
        ..StoreLimits::default()
    };
    let metrics = Arc::new(Metrics::new(&args.weights));
    let guests = Guests::new(
        runner.clone(),
        queue.objects(),
        config,
        store,
        metrics.clone(),
    );
    let guests = Arc::new(guests);
    let told = say.clone();
    let mut observer =
        Observer::new(metrics.clone()).on_event(move |event| told(&event.to_string()));
    if traces::is_on() {
        observer = observer.trace_context(traces::of_fleet());
    }
    let queue = Arc::new(queue);
    let worker = Worker::observed(queue, guests.clone(), name.as_str(), jobs, observer);
    let operating = Arc::new(Operating {
        of_runner: RunnerMetrics::new(runner.mode()),
        runner,
        fleet: fleet.clone(),
        worker: worker.clone(),
        metrics,
    });
    let admin = listener.map(|listener| Admin::start(operating, listener));
    if let Some(admin) = &admin {
        say(&format!("health and metrics on http://{}", admin.address()));
    }
    let presence = Presence::new(&name, host, mode_name(args.mode), jail, jobs as u64);
    warn_of_namesakes(&fleet, &presence).await;
    let id = presence.id.clone();
    let present = tokio::spawn(announce(fleet.clone(), presence, worker.clone(), guests));
    let code = run(&worker, args, &mut signals, &say).await;
    present.abort();
    let _ = tokio::time::timeout(LAST_WORDS, fleet.leave(&id)).await;
    code
}

async fn run(
    worker: &Arc<FleetWorker>,
    args: &WorkerArgs,
    signals: &mut Signals,
    say: &impl Fn(&str),
) -> Result<u8, Failure> {
    // On the thread that hears the server.
    let running = worker.clone();
    let mut running = tokio::spawn(async move { running.run().await });
    let ended = |ended: Result<Result<(), wrun_fleet::Error>, tokio::task::JoinError>| match ended {
        Ok(ended) => ended.map_err(failure),
        Err(error) => Err(Failure::new(exit::RUNNER, error.to_string())),
    };
    let code = loop {
        tokio::select! {
            result = &mut running => return ended(result).map(|()| 0),
            code = signals.next() => match code {
                exit::HUNG_UP => {}
                code => break code,
            },
        }
    };
    let tasks = worker.counters().running();
    say(&format!(
        "draining: {tasks} tasks may end within {}; a second signal gives them back now",
        humantime::format_duration(args.grace)
    ));
    let drain = async {
        let draining = worker.drain(args.grace);
        tokio::pin!(draining);
        tokio::select! {
            left = &mut draining => left,
            _ = signals.next() => worker.drain(Duration::ZERO).await,
        }
    };
    let (left, result) = tokio::join!(drain, running);
    ended(result)?;
    let counters = worker.counters();
    say(&format!(
        "drained: {} tasks answered, {} given back",
        counters.answered(),
        counters.given_back()
    ));
    Ok(if left == 0 { 0 } else { code })
}

/// Says it if another worker has the same name: in results they cannot be told apart.
async fn warn_of_namesakes(fleet: &Fleet, own: &Presence) {
    // If it cannot be known, the worker works all the same.
    let workers = fleet.workers().await.unwrap_or_default();
    for other in workers.iter().filter(|other| other.name == own.name) {
        let ago = Duration::from_millis(now_ms().saturating_sub(other.at_ms));
        text::complain(&format!(
            "another worker is named {} (process {} on host {}, last heard of {} s ago): results \
             do not say which of them ran a task, --name gives this one another name",
            own.name,
            other.pid,
            other.host,
            ago.as_secs()
        ));
    }
}

/// Says every now and then what the worker is and does.
async fn announce(
    fleet: Fleet,
    mut presence: Presence,
    worker: Arc<FleetWorker>,
    guests: Arc<Guests<NatsObjects>>,
) {
    let mut ticks = tokio::time::interval(PRESENT);
    loop {
        ticks.tick().await;
        let counters = worker.counters();
        presence.running = counters.running() as u64;
        presence.answered = counters.answered();
        presence.late = counters.late();
        presence.given_back = counters.given_back();
        presence.buried = counters.buried();
        presence.modules = guests.modules() as u64;
        presence.draining = counters.is_draining();
        presence.at_ms = now_ms();
        // The next one may get through.
        let _ = fleet.announce(&presence).await;
    }
}

fn speaker(quiet: bool) -> impl Fn(&str) + Clone + Send + Sync + 'static {
    move |line: &str| {
        if !quiet {
            text::complain(line);
        }
    }
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Thread => "thread",
        _ => "process",
    }
}

fn host() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}

/// The host and the process, in letters that names have.
fn named(host: &str) -> TaskId {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let host: String = host.chars().take(40).map(plain).collect();
    let name = format!("{host}-{}", std::process::id());
    name.parse().unwrap_or_else(|_| TaskId::random())
}
