//! The protocol between a runner and its workers: bytes to messages and back,
//! nothing else. `docs/wire.md` describes it.
//!
//! No I/O types here, so that decoding can be tested and fuzzed as pure
//! functions. Invariant: no length from the peer is believed before it is
//! checked against a cap, and nothing a peer sends can panic.

mod compile;
mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handshake;
mod http;
mod message;
mod request;

pub use compile::{CompileOrder, CompilerSays, MAX_ANSWER};
pub use frame::{Decoder, FrameError, encode};
pub use handshake::Hello;
pub use http::{
    ExchangeId, FetchHead, Fields, MAX_PART, MIN_ROOM, OWN, Part, RequestHead, ResponseHead,
    WINDOW, room_of,
};
pub use message::{
    ControlOrder, ControlSays, Done, Input, Order, Output, RunOrder, Spare, StartOrder, WorkerSays,
};
pub use request::{Data, WireRequest, WireResponse};
