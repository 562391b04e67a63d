//! The only home of `unsafe` and of raw operating-system details, beside the two
//! lines that hand wasmtime its own artifacts. One file per kind of thing;
//! callers see safe types.

mod fork;
mod inherited;
mod pidfd;
mod stdout;
mod ticks;
mod wait;

pub(crate) use fork::{Alone, Forked, exit_now};
pub(crate) use inherited::{blank, close_inherited};
pub(crate) use pidfd::{Pidfd, pid_of};
pub(crate) use stdout::was_stdout_closed;
pub(crate) use ticks::{has_ticks, start_ticks, stop_ticks, tick_for};
pub(crate) use wait::{End, Exit, Whom, own_usage, wait};
