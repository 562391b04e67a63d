//! The only home of `unsafe` and of raw operating-system details, beside the two
//! lines that hand wasmtime its own artifacts. One file per kind of thing;
//! callers see safe types.

mod act;
mod allocator;
#[cfg(test)]
pub(crate) mod attempt;
mod descriptor;
mod fork;
mod heritage;
mod id_map;
mod inherited;
mod job;
#[cfg(feature = "test-hooks")]
mod keeper;
mod landlock;
mod large_pages;
mod namespace;
mod null;
mod overlay;
mod pages;
mod pidfd;
#[cfg(feature = "test-hooks")]
mod probe;
mod process;
mod receive;
mod room;
mod shared_words;
mod shown;
mod signal;
mod sole;
mod start;
mod stdout;
mod ticks;
mod to_map;
mod unread;
mod wait;
mod watch;

pub(crate) use act::act;
pub use allocator::Allocator;
pub(crate) use allocator::end_without_memory;
pub(crate) use descriptor::closes_on_exec;
pub(crate) use fork::{Alone, Forked, exit_now};
pub(crate) use heritage::{
    fill_standard_streams, hear_signals, is_denied_code, start_afresh, unblock_traps,
};
pub(crate) use id_map::{map_owners, user_namespace};
pub(crate) use inherited::{blank, close_inherited};
pub(crate) use job::{JOB_SIGNALS, JobSignals};
pub(crate) use landlock::landlock_abi;
pub(crate) use large_pages::{Collapsed, FileId, IMAGE_SEALS, LARGE, collapse, map_own_code};
pub(crate) use namespace::{Side, fork_sibling, unshare};
pub(crate) use null::null;
pub(crate) use overlay::{Overlay, window};
pub(crate) use pages::Pages;
pub(crate) use pidfd::{Pidfd, Sent, end_of_reaped, member_of};
#[cfg(feature = "test-hooks")]
pub(crate) use probe::probe;
pub(crate) use process::Process;
pub(crate) use receive::receive;
pub(crate) use room::room_for;
pub(crate) use shared_words::SharedWords;
pub(crate) use shown::{Seen, Shown};
#[cfg(any(test, feature = "test-hooks"))]
pub(crate) use signal::die_of_broken_pipes;
pub(crate) use signal::{
    NoPipeSignal, dies_of_broken_pipes, ignore_file_size_signal, is_ignored, stop_by,
    survive_file_size_signal,
};
pub(crate) use sole::is_sole;
pub(crate) use start::{Program, start};
pub(crate) use stdout::was_stdout_closed;
pub(crate) use ticks::{are_ticking, has_ticks, start_ticks, stop_ticks, tick_for};
pub(crate) use to_map::ToMap;
pub(crate) use unread::has_unread;
pub(crate) use wait::{End, Exit, Whom, children_usage, has_child_in, is_child, own_usage, wait};
pub(crate) use watch::{Watched, watch};
