//! `wrun serve`: from options to a server, and from signals to its reload and its end.

use super::in_use::InUse;
use super::serve_args::ServeArgs;
use super::serve_config::{ConfigFile, Values};
use super::signals::Signals;
use super::{Failure, exit, stdio, text, traces};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;
use wrun::{Cache, Mode, ProcessOptions, Runner};
use wrun_serve::{App, ClientLimits, Error, Event, Listener, Pattern, Server, TlsFiles};
use wrun_sys::Unpoisoned;

/// Where it listens if nothing else is said.
const ADDRESS: &str = "127.0.0.1:8080";
/// How long a reload waits for the writer of settings that are a pipe.
const RELOADING: Duration = Duration::from_secs(10);

pub(super) fn serve(args: ServeArgs) -> Result<u8, Failure> {
    args.grants.children.check()?;
    args.children.check(args.max_memory)?;
    let routes = routes(&args)?;
    if args.access_log.0.is_some() {
        InUse::new(args.files()).check_stdout()?;
    }
    let builder = Runner::builder()
        .mode(args.mode)
        .preemption(args.preempt)
        .max_queued(args.max_queued)
        // The other kind is compiled beside it, where routes differ.
        .metered(args.of_apps().any(|args| args.fuel.is_some()))
        .cache(match args.no_cache {
            true => Cache::Off,
            false => Cache::User,
        });
    let builder = builder.http_authorities(args.grants.http_authorities(None)?);
    let mut builder = args.compiling.apply(builder);
    if args.mode == Mode::Process {
        // Its threads speak HTTP as well as serve the workers, which is about a third of all that a
        // request takes in a worker that is reused (`docs/benchmarks.md`).
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        builder = builder.worker_threads(processors.div_ceil(2));
    }
    if let Some(running) = args.max_running {
        builder = builder.max_running(running);
    }
    let max_tasks = args.of_apps().filter_map(|args| args.children.max_tasks);
    if let Some(tasks) = max_tasks.max() {
        builder = builder.max_children(tasks as usize);
    }
    let builder = builder.process(process(&args)?);
    let runner = builder
        .build()
        .map_err(|error| args.grants.failure(error))?;
    // Clients are served by the runner's threads.
    let event_loop = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_io()
        .enable_time()
        .thread_name("wrun-serve")
        .build()
        .map_err(super::no_event_loop)?;
    let code = event_loop.block_on(serve_on(runner, &args, routes));
    // What still blocks a thread, blocks no end.
    event_loop.shutdown_timeout(Duration::from_secs(1));
    code
}

/// What each route serves.
fn routes(args: &ServeArgs) -> Result<Vec<(Pattern, App)>, Failure> {
    let routes = args.apps();
    match routes.is_empty() {
        true => Err(Failure::new(
            exit::USAGE,
            "no app was named: expected APP, --route, or a [[route]] in the file of --config",
        )),
        false => Ok(routes),
    }
}

/// Reads the routes of a file again, and says what else was changed in it.
fn read_again(file: &ConfigFile, known: &Mutex<Values>) -> Result<Vec<(Pattern, App)>, String> {
    let args = file.read(Some(RELOADING))?;
    let routes = routes(&args).map_err(|failure| failure.message)?;
    let now = args.of_the_start;
    let before = std::mem::replace(&mut *known.lock().unpoisoned(), now.clone());
    let mut names: Vec<_> = before.keys().chain(now.keys()).collect();
    names.retain(|name| before.get(*name) != now.get(*name));
    names.sort();
    names.dedup();
    for name in names {
        let file = file.path().display();
        text::complain(&format!("{file}: {name:?} is taken at the next start"));
    }
    Ok(routes)
}

/// How worker processes are made and held.
fn process(args: &ServeArgs) -> Result<ProcessOptions, Failure> {
    args.walls.check(args.mode)?;
    Ok(args.pool.apply(args.walls.options()?))
}

async fn serve_on(
    runner: Runner,
    args: &ServeArgs,
    routes: Vec<(Pattern, App)>,
) -> Result<u8, Failure> {
    let mut signals = Signals::catch().map_err(super::no_event_loop)?;
    let mut builder = Server::builder(runner)
        .client_limits(limits(args))
        .debug_errors(args.debug_errors)
        .watch(args.watch)
        .on_event(|event| match event {
            Event::Note { route, note } => {
                if let Some(note) = text::of_serving(note) {
                    text::complain(&format!("{route}: {note}"));
                }
            }
            event => text::complain(&event.to_string()),
        })
        .on_print(|printed| {
            let (route, task, line) = (printed.route, printed.task_id, printed.line);
            text::complain(&format!("{route} task={task}: {line}"));
        });
    if traces::is_on() {
        builder = builder.trace_context(traces::connect);
    }
    for (pattern, app) in routes {
        builder = builder.route(pattern, app);
    }
    if let Some(file) = args.config_file.clone() {
        let files = vec![file.path().to_owned()];
        let known = Mutex::new(args.of_the_start.clone());
        builder = builder.routes_from(files, move || read_again(&file, &known));
    }
    for listener in listeners(args).await? {
        builder = builder.listen(listener);
    }
    if let Some(address) = &args.admin {
        builder = builder.admin(listen(address).await?);
    }
    if let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) {
        builder = builder.tls(TlsFiles::new(cert, key));
    }
    if let Some(path) = &args.trial {
        builder = builder.trial(path);
    }
    if let Some(format) = args.access_log.0 {
        builder = builder.access_log(format, stdio::stdout());
    }
    let server = tokio::select! {
        server = builder.start() => server.map_err(failure)?,
        code = signals.next() => {
            return Err(Failure::new(code, "interrupted while loading"));
        }
    };
    let code = loop {
        match signals.next().await {
            exit::HUNG_UP => {
                tokio::select! {
                    () = server.reload_and_tell() => {}
                    code = another(&mut signals) => break code,
                }
            }
            code => break code,
        }
    };
    let cut = tokio::select! {
        cut = server.drain(args.grace) => cut,
        // Dropped, it ends at once.
        code = another(&mut signals) => return Ok(code),
    };
    if cut == 0 {
        return Ok(0);
    }
    let connections = match cut {
        1 => "1 connection was",
        _ => &format!("{cut} connections were"),
    };
    text::complain(&format!("{connections} cut: --grace was over"));
    Ok(code)
}

/// Waits for a signal that means the end.
async fn another(signals: &mut Signals) -> u8 {
    loop {
        match signals.next().await {
            exit::HUNG_UP => {}
            code => return code,
        }
    }
}

fn limits(args: &ServeArgs) -> ClientLimits {
    ClientLimits::default()
        .header_timeout(args.header_timeout)
        .body_timeout(args.body_timeout)
        .idle_timeout(args.keep_alive)
        .send_timeout(args.send_timeout)
        .max_header_size(args.max_header)
        .max_headers(args.max_headers)
        .max_body(args.max_body.0)
        .max_connections(args.max_connections)
        .max_streams(args.max_streams)
}

/// Where to listen: as it is said, else where the service manager listens, else at the default.
async fn listeners(args: &ServeArgs) -> Result<Vec<Listener>, Failure> {
    let mut listeners = Listener::inherited().map_err(failure)?;
    for address in &args.addr {
        listeners.push(listen(address).await?);
    }
    for path in &args.unix {
        listeners.push(Listener::unix(path).map_err(failure)?);
    }
    if listeners.is_empty() {
        listeners.push(listen(ADDRESS).await?);
    }
    Ok(listeners)
}

async fn listen(address: &str) -> Result<Listener, Failure> {
    Listener::tcp(address).await.map_err(failure)
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Load { file, source } => {
            let message = text::error(&source);
            let named = format!("{}: ", file.display());
            let message = message.strip_prefix(&named).unwrap_or(&message);
            Failure::new(exit::of_error(&source), format!("{named}{message}"))
        }
        Error::NotHttp(file) => {
            let file = file.display();
            let message = format!(
                "{file}: not an HTTP component: expected the export \
                 wasi:http/incoming-handler@0.2; `wrun {file}` runs other tasks"
            );
            Failure::new(exit::NOT_LOADABLE, message)
        }
        Error::Trial { .. } => Failure::new(exit::FAILED, error.to_string()),
        Error::Listen {
            ref address,
            ref source,
        } => {
            let hint = match source.kind() {
                std::io::ErrorKind::AddrInUse => "; --addr chooses another address".to_owned(),
                _ => wrun::limit_hint(source).to_string(),
            };
            Failure::new(
                exit::RUNNER,
                format!("cannot listen on {address}: {source}{hint}"),
            )
        }
        other => Failure::new(exit::USAGE, other.to_string()),
    }
}

/// True for an address with a port, of a number or a name.
pub(super) fn address(text: &str) -> Result<String, String> {
    let expected = || format!("expected HOST:PORT, such as {ADDRESS}");
    if text.parse::<SocketAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let is_host = !host.is_empty() && !host.contains([':', '/', ' ']);
    match port.parse::<u16>() {
        Ok(_) if is_host => Ok(text.to_owned()),
        _ => Err(expected()),
    }
}
