//! The `wrun` program; everything it does is in the library's `cli`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: wrun::cli::Allocator = wrun::cli::Allocator;

fn main() -> ExitCode {
    wrun::worker_hook();
    wrun::cli::main()
}
