//! `wrun compile`.

use super::args::CompileArgs;
use super::result_to::ResultTo;
use super::{Failure, exit};
use crate::{Mode, Runner};
use std::io::{self, IsTerminal};
use std::path::Path;

pub(super) fn compile(args: &CompileArgs) -> Result<u8, Failure> {
    // Before anything is compiled.
    if args.output == Path::new("-") && io::stdout().is_terminal() {
        let message = "-o -: stdout is a terminal, which an artifact is not for";
        return Err(Failure::new(exit::USAGE, message));
    }
    let to = ResultTo::open("--output", Some(&args.output), &[Some(&args.task)])?;
    let runner = Runner::builder()
        .mode(Mode::Process)
        .spares(0)
        .max_running(1)
        .worker_threads(1)
        .metered(args.metered)
        .build()?;
    let artifact = runner.load(&args.task)?;
    to.write(&runner.compile(&artifact)?, None)?;
    Ok(0)
}
