//! Home of `unsafe` and of raw operating-system details, except for the two lines that hand
//! wasmtime its own artifacts. One file per kind of call or memory; callers see safe types.

#![expect(
    missing_docs,
    clippy::len_without_is_empty,
    clippy::new_without_default,
    reason = "no public API: wrun documents what it re-exports"
)]

mod allocator;
mod arguments;
#[cfg(any(test, feature = "test-hooks"))]
#[path = "../test-hooks/attempt.rs"]
pub mod attempt;
mod descriptor;
pub mod direct;
mod fork;
mod id_map;
mod inherited;
#[cfg(feature = "measure")]
mod inject;
mod job;
#[cfg(feature = "test-hooks")]
#[path = "../test-hooks/keeper.rs"]
mod keeper;
mod landlock;
mod large_pages;
mod namespace;
mod null;
mod overlay;
mod pages;
mod pidfd;
pub mod preempt;
#[cfg(feature = "test-hooks")]
#[path = "../test-hooks/probe.rs"]
mod probe;
mod process;
mod receive;
mod room;
mod shared_words;
pub mod shortage;
mod shown;
mod signal;
mod slice;
mod sole;
mod stack;
mod start;
mod startup;
mod stdout;
mod ticks;
mod to_map;
mod unpoisoned;
mod unread;
mod wait;
mod watch;

pub use allocator::Allocator;
pub use allocator::{end_without_memory, share_heap};
pub use arguments::{any_argument, any_variable, rename_process};
pub use descriptor::closes_on_exec;
pub use fork::{Alone, Forked, exit_now};
pub use id_map::{map_owners, user_namespace};
pub use inherited::{blank, close_inherited};
#[cfg(feature = "measure")]
pub use inject::inject;
pub use job::{JOB_SIGNALS, JobSignals};
pub use landlock::landlock_abi;
pub use large_pages::{Collapsed, FileId, IMAGE_SEALS, LARGE, collapse, map_own_code};
pub use namespace::{Side, fork_inside, fork_sibling, unshare};
pub use null::null;
pub use overlay::{Overlay, window};
pub use pages::Pages;
pub use pidfd::{Pidfd, Sent, end_of_reaped, member_of};
#[cfg(feature = "test-hooks")]
pub use probe::probe;
pub use process::Process;
pub use receive::receive;
pub use room::room_for;
pub use shared_words::SharedWords;
pub use shown::{Seen, Shown};
#[cfg(any(test, feature = "test-hooks"))]
pub use signal::die_of_broken_pipes;
pub use signal::{
    NoPipeSignal, dies_of_broken_pipes, ignore_file_size_signal, is_ignored, stop_by,
    survive_file_size_signal,
};
pub use slice::LongSlice;
pub use sole::is_sole;
pub use stack::stack_size;
pub use start::{Program, start};
pub use startup::{
    fill_standard_streams, hear_signals, is_denied_code, start_afresh, unblock_traps,
};
pub use stdout::was_stdout_closed;
pub use ticks::{are_ticking, has_ticks, prepare_ticks, start_ticks, stop_ticks};
pub use to_map::ToMap;
pub use unpoisoned::Unpoisoned;
pub use unread::has_unread;
pub use wait::{
    End, Exit, Whom, children_usage, has_child_in, is_child, own_usage, thread_cpu, wait,
};
pub use watch::{Watched, watch};
