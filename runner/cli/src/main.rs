//! The command `wrun`: parses, calls the libraries, prints. One file per subcommand.
//!
//! Uses the public API of `wrun`, `wrun-compare`, `wrun-fleet`, `wrun-map` and `wrun-serve`, and those parts of `wrun-sys`
//! that concern the program itself: its allocator, its standard streams, its signals.

#![forbid(unsafe_code)]

mod args;
mod compare;
mod compile;
mod destination;
mod early;
mod exit;
mod fleet;
mod fleet_args;
mod grant_args;
mod in_use;
mod input;
mod inspect;
mod lazy;
mod limit_args;
mod loading;
mod log;
mod man;
mod map;
mod map_args;
mod map_fleet;
mod map_progress;
mod map_report;
mod map_run;
mod nats_args;
mod output;
mod process;
mod progress;
mod read;
mod result_to;
mod run;
mod screen;
mod serve;
mod serve_args;
mod serve_config;
mod serve_value;
mod signals;
mod stdio;
mod table;
mod terminal;
mod text;
mod traces;
mod values;
mod worker;
mod worker_admin;

use args::{Cli, Command};
use clap::{CommandFactory, FromArgMatches};
use fleet_args::FleetCommand;
use std::io;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: wrun_sys::Allocator = wrun_sys::Allocator;

fn main() -> ExitCode {
    wrun_compare::worker_hook();
    // Before anything is read, and before there is a thread.
    let _early = early::worker();
    wrun_sys::survive_file_size_signal();
    wrun_sys::end_without_memory();
    wrun_sys::hear_signals();
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    let (mut cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let error = values::with_its_option(error);
            let shown = error.render();
            let text = match stdio::has_colours(error.use_stderr()) {
                true => shown.ansi().to_string(),
                false => shown.to_string(),
            };
            if error.use_stderr() {
                text::say(&text);
                return ExitCode::from(exit::USAGE);
            }
            return ended(print(text.as_bytes()));
        }
    };
    if let Some(Command::Serve(args)) = &mut cli.command
        && let Some(("serve", matches)) = matches.subcommand()
        && let Err(failure) = serve_config::apply(args, matches)
    {
        return ended(Err(failure));
    }
    if cli.command.as_ref().is_none_or(Command::has_workers) {
        // If this fails, Ctrl-Z stops this process alone, which is not a reason not to run.
        let _ = wrun::job_control_around(screen::hide, screen::show_again);
    }
    if let Err(failure) = start_log(&cli) {
        return ended(Err(failure));
    }
    let result = match cli.command {
        None => run::run(cli.run),
        Some(Command::Run(args)) => run::run(*args),
        Some(Command::Inspect(args)) => inspect::inspect(&args),
        Some(Command::Compile(args)) => compile::compile(&args),
        Some(Command::Compare(args)) => compare::compare(*args),
        Some(Command::Serve(args)) => serve::serve(*args),
        Some(Command::Map(args)) => map::map(*args),
        Some(Command::Worker(args)) => worker::worker(*args),
        Some(Command::Fleet(args)) => fleet::fleet(*args),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "wrun", &mut script);
            print(&script)
        }
        Some(Command::Man { command }) => man::man(command.as_deref()),
    };
    ended(result)
}

fn start_log(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        None => cli.run.log.start(),
        Some(Command::Run(args)) => args.log.start(),
        Some(Command::Compile(args)) => args.log.start(),
        Some(Command::Compare(args)) => args.log.start(),
        Some(Command::Map(args)) => {
            // Tasks that run here are in nobody's trace.
            let layer = args.on.as_ref().and_then(|_| traces::layer());
            args.log.start_beside(layer)
        }
        Some(Command::Worker(args)) => args.log.start_beside(traces::layer()),
        Some(Command::Serve(args)) => args.log.start_beside(traces::layer()),
        Some(Command::Fleet(args)) => match args.command {
            FleetCommand::Submit(_) => log::start(traces::layer()),
            _ => Ok(()),
        },
        Some(Command::Inspect(_) | Command::Completions { .. } | Command::Man { .. }) => Ok(()),
    }
}

fn ended(result: Result<u8, Failure>) -> ExitCode {
    traces::flush();
    log::flush();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Failure { code, message }) => {
            // A file's name may contain anything, and must not look like our own text.
            text::complain(&message.replace(char::is_control, "\u{fffd}"));
            ExitCode::from(code)
        }
    }
}

/// Why a command failed: a line for people and an exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Failure {
            code,
            message: message.into(),
        }
    }
}

impl From<wrun::Error> for Failure {
    fn from(error: wrun::Error) -> Self {
        Failure::new(exit::of_error(&error), text::error(&error))
    }
}

/// The event loop for loading, tasks and signals.
fn event_loop() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(no_event_loop)
}

fn no_event_loop(error: io::Error) -> Failure {
    let hint = wrun::limit_hint(&error);
    Failure::new(
        exit::RUNNER,
        format!("cannot make an event loop: {error}{hint}"),
    )
}

/// Writes a result to stdout; without a reader the program ends as other tools do.
fn print(bytes: &[u8]) -> Result<u8, Failure> {
    if wrun_sys::was_stdout_closed() {
        return Err(stdout_failed(&rustix::io::Errno::BADF.into()));
    }
    match stdio::stdout().say(bytes) {
        Ok(()) => Ok(0),
        Err(error) => Err(stdout_failed(&error)),
    }
}

/// The failure of a program whose stdout accepts no more. Does not return if there is no
/// reader: the program dies of SIGPIPE, silently.
fn stdout_failed(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE);
    }
    let hint = wrun::limit_hint(error);
    Failure::new(
        exit::RUNNER,
        format!("cannot write to stdout: {error}{hint}"),
    )
}
