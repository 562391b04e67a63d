//! A server that embeds wrun, with what servers have: tokio with all its features, axum,
//! rayon, another allocator, tracing; and what may have happened to a process before.
//!
//! Its worker program is itself, as in README.md, or itself by another name, where it does
//! something before `worker_hook` that others might.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::routing::post;
use rayon::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tower::ServiceExt;
use tracing::span::{Attributes, Id};
use tracing::{Event, Instrument, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use wrun::{
    Artifact, ErrorKind, Limit, Limits, Message, Mode, Outcome, ProcessOptions, RegionKind, Runner,
    Start, Task, TrapKind,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ECHO: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../guest-tasks/echo/echo.wat"
);
const SPIN: &[u8] =
    br#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;
const TRAP: &[u8] = br#"(module (memory (export "memory") 1)
    (func (export "_start") (drop (i32.load (i32.const 100000)))))"#;

/// A runner and the tasks that it runs.
struct Server {
    runner: Runner,
    echo: Artifact,
    spin: Artifact,
    trap: Artifact,
}

impl Server {
    fn new(mode: Mode, start: Start) -> Result<Self, wrun::Error> {
        Server::with(
            Runner::builder()
                .mode(mode)
                .process(ProcessOptions::default().start(start)),
        )
    }

    fn with(builder: wrun::Builder) -> Result<Self, wrun::Error> {
        let runner = builder.build()?;
        Ok(Server {
            echo: runner.blocking_load(ECHO)?,
            spin: runner.blocking_load_bytes("spin.wat", SPIN)?,
            trap: runner.blocking_load_bytes("trap.wat", TRAP)?,
            runner,
        })
    }

    /// README.md's example, and the two ends that take signals.
    fn check(&self) {
        let limits = Limits::default()
            .timeout(Duration::from_secs(30))
            .max_memory(64 << 20);
        let task = Task::new(&self.echo).input("some text").limits(limits);
        let report = self.runner.blocking_run(task).expect("a report");
        match report.outcome {
            Outcome::Completed(output) => assert_eq!(output.to_string_lossy(), "some text"),
            other => panic!("the plug-in {other}"),
        }
        let report = self
            .runner
            .blocking_run(Task::new(&self.trap))
            .expect("a report");
        match report.outcome {
            Outcome::Trapped(trap) => assert_eq!(trap.kind, TrapKind::MemoryOutOfBounds),
            other => panic!("the plug-in {other}"),
        }
        let limits = Limits::default().timeout(Duration::from_millis(200));
        let report = self
            .runner
            .blocking_run(Task::new(&self.spin).limits(limits));
        let outcome = report.expect("a report").outcome;
        assert_eq!(outcome, Outcome::LimitExceeded(Limit::Deadline));
    }
}

/// Every way in which a task can be run here.
const WAYS: [(Mode, Start); 3] = [
    (Mode::Thread, Start::Fork),
    (Mode::Process, Start::Fork),
    (Mode::Process, Start::Exec),
];

fn main() {
    let name = std::env::current_exe().ok();
    let name = name.as_ref().and_then(|path| path.file_name()?.to_str());
    match name {
        Some("late-thread") => {
            // A thread names itself.
            let (named, waits) = std::sync::mpsc::channel();
            std::thread::Builder::new()
                .name("metrics".into())
                .spawn(move || {
                    let _ = named.send(());
                    std::thread::park();
                })
                .expect("a thread");
            let _ = waits.recv();
        }
        Some("late-runtime") => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(async { wrun::worker_hook() }),
        Some("crowded") => crowd(),
        _ => {}
    }
    wrun::worker_hook(); // this program is its own worker in process mode
    let seen = Seen::default();
    let subscriber = tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_filter(tracing_subscriber::filter::LevelFilter::INFO),
        )
        .with(seen.clone());
    tracing::subscriber::set_global_default(subscriber).expect("the first one");
    let part = std::env::args().nth(1).unwrap_or_default();
    match &*part {
        "server" => server(&seen),
        "fork" => forks(),
        "hooks" => hooks(),
        "thief" => thief(),
        "streams" => streams(),
        other => panic!("no part {other:?}: server, fork, hooks, thief, streams"),
    }
    println!("{part}: done");
}

/// What this program's subscriber has seen of wrun.
#[derive(Clone, Default)]
struct Seen(Arc<Tasks>);

#[derive(Default)]
struct Tasks {
    /// In the span of a request, and in none.
    requested: AtomicUsize,
    others: AtomicUsize,
    ended: AtomicUsize,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() == "wrun::task" {
            let parent = context
                .span(id)
                .and_then(|span| Some(span.parent()?.name()));
            let counted = match parent {
                Some("request") => &self.0.requested,
                _ => &self.0.others,
            };
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut is_end = false;
        event.record(
            &mut |field: &tracing::field::Field, _: &dyn std::fmt::Debug| {
                is_end |= field.name() == "outcome";
            },
        );
        let in_task = context
            .event_span(event)
            .is_some_and(|it| it.name() == "task");
        if event.metadata().target() == "wrun::task" && is_end && in_task {
            self.0.ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Seen {
    /// Tasks since the last time: of requests, others, and those that ended.
    fn take(&self) -> [usize; 3] {
        let Tasks {
            requested,
            others,
            ended,
        } = &*self.0;
        [requested, others, ended].map(|count| count.swap(0, Ordering::Relaxed))
    }
}

/// Requests that each run a task, in both modes, and the same from rayon's pool.
fn server(seen: &Seen) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    for (mode, start) in WAYS {
        let server = Arc::new(Server::new(mode, start).expect("a server"));
        server.check();
        let app = Router::new()
            .route("/echo/{word}", post(echo))
            .with_state(server.clone());
        runtime.block_on(async {
            let requests: Vec<_> = (0..50)
                .map(|number| {
                    let request = Request::post(format!("/echo/word-{number}"));
                    let request = request.body(Body::empty()).expect("a request");
                    let span = tracing::info_span!("request", number);
                    tokio::spawn(app.clone().oneshot(request).instrument(span))
                })
                .collect();
            for (number, response) in requests.into_iter().enumerate() {
                let response = response.await.expect("no panic").expect("a response");
                let status = response.status();
                let body = to_bytes(response.into_body(), 1 << 20)
                    .await
                    .expect("a body");
                let body = String::from_utf8_lossy(&body);
                assert_eq!(
                    (status, &*body),
                    (StatusCode::OK, &*format!("word-{number}"))
                );
            }
        });
        (0..50).into_par_iter().for_each(|number: i32| {
            let task = Task::new(&server.echo).input(number.to_string());
            let report = server.runner.blocking_run(task).expect("a report");
            assert_eq!(report.stdout, number.to_string());
        });
        // Three of the check.
        assert_eq!(seen.take(), [50, 53, 103], "{mode:?} {start:?}");
        tracing::info!("{mode:?} {start:?}: 100 tasks completed");
    }
}

async fn echo(
    State(server): State<Arc<Server>>,
    Path(word): Path<String>,
) -> Result<String, (StatusCode, String)> {
    let failed =
        |error: &dyn std::fmt::Display| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let task = Task::new(&server.echo).input(word);
    let handle = server
        .runner
        .submit(task)
        .await
        .map_err(|error| failed(&error))?;
    let report = handle.await.map_err(|error| failed(&error))?;
    match report.outcome {
        Outcome::Completed(output) => Ok(output.to_string_lossy().into_owned()),
        other => Err(failed(&other)),
    }
}

/// A process that used wrun forks, as pre-forking servers and daemons do.
fn forks() {
    for (mode, start) in WAYS {
        let server = Server::new(mode, start).expect("a server");
        server.check();
        let (theirs, port) = server.runner.channel(4).expect("a channel");
        let limits = Limits::default().timeout(Duration::from_secs(60));
        let running = server
            .runner
            .blocking_submit(Task::new(&server.spin).limits(limits));
        let mut running = running.expect("a task");
        // Sockets are watched by the event loop from now on.
        let waited = port.blocking_receive_timeout(Duration::from_millis(20));
        assert_eq!(waited.unwrap_err(), wrun::PortError::WouldBlock);
        // SAFETY: the child uses what a fork of a process with threads may use, as far as
        // the C library and the allocator let it.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: it takes any number.
            unsafe { libc::alarm(60) };
            let again = server
                .runner
                .blocking_run(Task::new(&server.echo).input("x"));
            assert_eq!(again.expect_err("not here").kind(), ErrorKind::ShutDown);
            let again = server.runner.try_submit(Task::new(&server.echo));
            assert_eq!(again.expect_err("not here").kind(), ErrorKind::ShutDown);
            let load = server.runner.blocking_load(ECHO);
            assert_eq!(load.expect_err("not here").kind(), ErrorKind::ShutDown);
            assert_eq!(
                running.blocking_report().expect_err("not here").kind(),
                ErrorKind::ShutDown
            );
            assert_eq!(
                port.blocking_receive().unwrap_err(),
                wrun::PortError::Closed
            );
            drop((theirs, port, server));
            for (mode, start) in WAYS {
                Server::new(mode, start).expect("a server").check();
            }
            // SAFETY: it takes any number and does not return.
            unsafe { libc::_exit(0) }
        }
        let mut status = 0;
        // SAFETY: the pointer is to a variable of the right type.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the forked child, {mode:?} {start:?}");
        // What the child dropped is still here.
        running.kill();
        assert_eq!(
            running.blocking_report().expect("a report").outcome,
            Outcome::Cancelled
        );
        theirs.blocking_send("still connected").expect("sent");
        assert_eq!(
            port.blocking_receive().expect("received").data,
            "still connected"
        );
        server.check();
        tracing::info!("{mode:?} {start:?}: forked");
    }
}

/// This program by another name.
fn named(name: &str) -> (PathBuf, PathBuf) {
    let own = std::env::current_exe().expect("its path");
    let folder = own.with_file_name(format!("embedder-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    std::fs::hard_link(own, &path).expect("a link");
    (folder, path)
}

/// Programs that do something before `worker_hook`.
fn hooks() {
    for (name, words) in [("late-thread", "metrics"), ("late-runtime", "asynchronous")] {
        let (folder, program) = named(name);
        let error =
            Server::with(Runner::builder().process(ProcessOptions::default().worker(&program)))
                .err();
        std::fs::remove_dir_all(folder).expect("removed");
        let error = error.expect("a worker that cannot be");
        assert_eq!(error.kind(), ErrorKind::NoWorker, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("first thing in main") && text.contains(words),
            "{text}"
        );
    }
    let (folder, program) = named("crowded");
    for start in [Start::Fork, Start::Exec] {
        let server = Server::with(
            Runner::builder().process(ProcessOptions::default().worker(&program).start(start)),
        );
        server.expect("a server").check();
    }
    std::fs::remove_dir_all(folder).expect("removed");
}

/// What libraries may have done before `main`: descriptors, handlers, timers, a mask, a
/// panic hook.
fn crowd() {
    extern "C" fn handler(_: libc::c_int) {}
    let handler = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
    let often = libc::timeval {
        tv_sec: 0,
        tv_usec: 1_000,
    };
    let timer = libc::itimerval {
        it_interval: often,
        it_value: often,
    };
    // SAFETY: the handler does nothing, pointers are to variables of the right types.
    unsafe {
        for signal in [libc::SIGPROF, libc::SIGVTALRM, libc::SIGTERM, libc::SIGUSR1] {
            libc::signal(signal, handler);
        }
        libc::setitimer(libc::ITIMER_PROF, &timer, std::ptr::null_mut());
        libc::setitimer(libc::ITIMER_VIRTUAL, &timer, std::ptr::null_mut());
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
    std::panic::set_hook(Box::new(|_| {
        loop {
            std::thread::park();
        }
    }));
    std::mem::forget(std::fs::File::open("/etc/passwd"));
    std::mem::forget(std::os::unix::net::UnixStream::pair());
}

/// Another thread waits for any child, and takes the status of ours.
fn thief() {
    let over = Arc::new(AtomicBool::new(false));
    let ended = over.clone();
    let thief = std::thread::spawn(move || {
        let mut taken = 0;
        while !ended.load(Ordering::Relaxed) {
            // SAFETY: a null status is allowed.
            match unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } {
                -1 => std::thread::yield_now(),
                _ => taken += 1,
            }
        }
        taken
    });
    for (mode, start) in WAYS {
        let server = Server::new(mode, start).expect("a server");
        for _ in 0..5 {
            server.check();
        }
        tracing::info!("{mode:?} {start:?}: robbed");
    }
    over.store(true, Ordering::Relaxed);
    assert!(thief.join().expect("no panic") > 0);
}

/// The standard streams were closed after the program had started.
fn streams() {
    // SAFETY: nothing of this program uses them now.
    unsafe {
        for stream in 0..3 {
            libc::close(stream);
        }
    }
    for (mode, start) in WAYS {
        let server = Server::new(mode, start).expect("a server");
        let (region, (theirs, port)) = (
            server
                .runner
                .region(4096, RegionKind::Exclusive)
                .expect("a region"),
            server.runner.channel(1).expect("a channel"),
        );
        // Into what would be the first that was opened.
        print!("{}", "x".repeat(4096));
        eprint!("{}", "x".repeat(4096));
        let _ = std::io::Write::flush(&mut std::io::stdout());
        let mut bytes = [1; 4096];
        region.read(0, &mut bytes).expect("read");
        assert_eq!(bytes, [0; 4096]);
        theirs.blocking_send(Message::new("whole")).expect("sent");
        assert_eq!(port.blocking_receive().expect("received").data, "whole");
        region.write(0, &[1]).expect("written");
        server.check();
    }
}
