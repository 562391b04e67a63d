//! The only home of `unsafe` and of raw operating-system details, beside the two
//! lines that hand wasmtime its own artifacts. One file per kind of thing;
//! callers see safe types.

mod inherited;
mod pidfd;
mod stdout;

pub(crate) use inherited::close_inherited;
pub(crate) use pidfd::Pidfd;
pub(crate) use stdout::was_stdout_closed;
