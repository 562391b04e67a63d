//! `wrun compile`.

use super::args::CompileArgs;
use super::in_use::InUse;
use super::loading::Loading;
use super::result_to::ResultTo;
use super::signals::Signals;
use super::{Failure, exit};
use wrun::{Mode, ProcessOptions, Runner};

pub(super) fn compile(args: &CompileArgs) -> Result<u8, Failure> {
    let in_use = InUse::new([&*args.task]);
    let to = ResultTo::open("--output", Some(&args.output), &in_use)?;
    // Before anything is compiled.
    if to.is_terminal() {
        let message = format!(
            "-o {}: refusing to write an artifact to a terminal: expected a file",
            args.output.display()
        );
        return Err(Failure::new(exit::USAGE, message));
    }
    let builder = Runner::builder()
        .mode(Mode::Process)
        .process(ProcessOptions::default().spares(0))
        .max_running(1)
        .worker_threads(1)
        .metered(args.metered);
    let builder = match args.mode {
        Some(mode) => builder.code_for(mode),
        None => builder,
    };
    let runner = args.compiling.apply(builder).build()?;
    let runtime = super::event_loop()?;
    let bytes = runtime.block_on(async {
        let mut signals = Signals::catch().map_err(super::no_event_loop)?;
        let loading = Loading {
            runner: &runner,
            trusted: false,
            shown: !args.quiet,
            timeout: None,
            compiling: args.compiling,
        };
        let loaded = loading.load(&args.task, &mut signals).await;
        let artifact = loaded.map_err(|why| why.failure)?;
        let compiling = async {
            match args.mode {
                Some(mode) => runner.compile_for(&artifact, mode).await,
                None => runner.compile(&artifact).await,
            }
        };
        let compiled = loading.within(&args.task, &mut signals, compiling).await;
        compiled.map_err(|why| why.failure)
    })?;
    to.write(&bytes, None)?;
    Ok(0)
}
