//! Everything that wrun promises across modes, tried from outside: the command
//! as its users type it, the library as embedders use it. One binary; a module
//! per promise.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that fails here has found something"
)]

mod architecture;
mod examples;
mod leaks;
mod library;
mod limits;
mod support;
