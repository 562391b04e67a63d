//! What an error of wasmtime says: an exit, a limit, or a trap with the names of its frames.
//!
//! Invariant: each error of a guest is one outcome, with a bounded message.

use super::bulk::Offsets;
use super::names::demangled;
use super::run_result::{MAX_MESSAGE, truncate};
use std::fmt::Write as _;
use wasmtime_wasi::I32Exit;
use wrun_types::limits::Limit;
use wrun_types::outcome::{Outcome, Output, Trap, TrapKind};

/// Whether the system refused something before guest code was running.
pub(super) fn is_the_systems(error: &wasmtime::Error) -> bool {
    let cause = error.root_cause();
    let refused = cause.is::<std::io::Error>()
        || cause.is::<rustix::io::Errno>()
        || error.is::<wasmtime::OutOfMemory>();
    refused && !error.is::<wasmtime::WasmBacktrace>()
}

/// The outcome of a guest whose call ended with this error. `offsets` lead from its code to its
/// file.
pub(super) fn outcome_of(error: &wasmtime::Error, offsets: &Offsets) -> Outcome {
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return match u8::try_from(code & 0xff) {
            Ok(0) | Err(_) => Outcome::Completed(Output::default()),
            Ok(code) => Outcome::Exited(code),
        };
    }
    let trap = error.downcast_ref::<wasmtime::Trap>();
    if trap == Some(&wasmtime::Trap::OutOfFuel) {
        return Outcome::LimitExceeded(Limit::Fuel);
    }
    // wasmtime has no error type for this.
    if trap.is_none()
        && error
            .root_cause()
            .to_string()
            .contains("fuel allocated for hostcalls")
    {
        // The result of `run` is read when no guest code runs any more.
        let in_a_call = error.is::<wasmtime::WasmBacktrace>();
        return Outcome::LimitExceeded(if in_a_call {
            Limit::HostCall
        } else {
            Limit::Output
        });
    }
    let mut message = match trap {
        Some(trap) => {
            let text = trap.to_string();
            text.strip_prefix("wasm trap: ").unwrap_or(&text).to_owned()
        }
        None => error.root_cause().to_string(),
    };
    if let Some(backtrace) = error.downcast_ref::<wasmtime::WasmBacktrace>() {
        for frame in backtrace.frames().iter().take(16) {
            let name = frame
                .func_name()
                .map_or_else(|| format!("function {}", frame.func_index()), demangled);
            let _ = write!(message, "\n  at {name}");
            let offset = frame.module_offset();
            if let Some(offset) = offset.and_then(|offset| offsets.original(offset)) {
                let _ = write!(message, " (+{offset:#x})");
            }
            if message.len() > MAX_MESSAGE {
                break;
            }
        }
    }
    truncate(&mut message, MAX_MESSAGE);
    Outcome::Trapped(Trap::new(trap.map_or(TrapKind::BadAbi, kind_of), message))
}

fn kind_of(trap: &wasmtime::Trap) -> TrapKind {
    use wasmtime::Trap as T;
    match trap {
        T::UnreachableCodeReached => TrapKind::Unreachable,
        T::StackOverflow => TrapKind::StackOverflow,
        T::MemoryOutOfBounds => TrapKind::MemoryOutOfBounds,
        T::TableOutOfBounds | T::IndirectCallToNull | T::BadSignature => TrapKind::BadTableAccess,
        T::IntegerOverflow | T::IntegerDivisionByZero | T::BadConversionToInteger => {
            TrapKind::Arithmetic
        }
        T::InvalidChar
        | T::StringOutOfBounds
        | T::ListOutOfBounds
        | T::CannotEnterComponent
        | T::CannotLeaveComponent => TrapKind::BadAbi,
        _ => TrapKind::Other,
    }
}
