//! The `wrun` program; everything it does is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    wrun::worker_hook();
    wrun::cli::main()
}
