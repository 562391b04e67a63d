//! The protocol between a runner and its workers: bytes to messages and back,
//! nothing else. `docs/wire.md` describes it.
//!
//! No I/O types here, so that decoding can be tested and fuzzed as pure
//! functions. Invariant: no length from the peer is believed before it is
//! checked against a cap, and nothing a peer sends can panic.

mod ask;
mod compile;
mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod handshake;
mod message;

pub(crate) use ask::{Data, WireAnswer, WireAsk};
pub(crate) use compile::{CompileOrder, CompilerSays, MAX_ANSWER};
pub(crate) use frame::{Decoder, FrameError, encode};
pub(crate) use handshake::Hello;
pub(crate) use message::{
    ControlOrder, ControlSays, Done, Input, Order, Output, RunOrder, Spare, StartOrder, WorkerSays,
};
