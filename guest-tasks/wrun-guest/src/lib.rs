//! Write [wrun](../../../README.md) tasks in Rust.
//!
//! A task is a function from bytes to bytes, or to an error in words:
//!
//! ```
//! fn run(input: Vec<u8>) -> Result<Vec<u8>, String> {
//!     let text = String::from_utf8(input).map_err(|error| error.to_string())?;
//!     Ok(text.to_uppercase().into_bytes())
//! }
//!
//! wrun_guest::task!(run);
//! ```
//!
//! Tasks talk in these ways, each the same in both modes:
//!
//! | | what travels | cost |
//! |---|---|---|
//! | [`Port`], [`channel`], [`parent`] | messages: bytes, regions, ports | a copy of the bytes |
//! | [`Exclusive`], [`Frozen`] | a region's pages, [mapped](Exclusive::map) into memory | none for the bytes |
//! | [`broadcast`] | messages of bytes, to all members of a name | a copy for each |
//! | [`Shared`] | nothing: [words](SharedU32) that all holders see | a call for each access |
//!
//! [`spawn`] and [`start`] begin child tasks, which somebody granted this one by name.
//! With [`lock`], tasks of a runner take turns. [`context`] has what a task knows about
//! itself.
//!
//! One task splits its work among two children, which work in its memory:
//!
//! ```no_run
//! use wrun_guest::{Exclusive, Message, start};
//!
//! fn run(_: Vec<u8>) -> Result<Vec<u8>, String> {
//!     let (low, high) = Exclusive::new(1 << 20)?.split(1 << 19)?;
//!     let mut parts = Vec::new();
//!     for part in [low, high] {
//!         let (child, port) = start("worker", b"fill", 1)?;
//!         port.send(Message::default().region(part))?;
//!         parts.push((child, port));
//!     }
//!     let mut whole: Option<Exclusive> = None;
//!     for (_child, port) in &parts {
//!         let part = port.receive()?.exclusive()?;
//!         match &mut whole {
//!             None => whole = Some(part),
//!             Some(whole) => whole.join(part)?,
//!         }
//!     }
//!     let mut whole = whole.ok_or("no parts")?;
//!     Ok(whole.map()?[..16].to_vec())
//! }
//!
//! wrun_guest::task!(run);
//! ```
//!
//! A call that the host refuses gives back what it was given: regions and ports are
//! never lost to an error. Errors turn into `String` with `?`, so that a task can end
//! with them.

mod barrier;
mod child;
pub mod context;
mod lock;
mod mapping;
mod port;
mod region;
mod words;

/// What `wit-bindgen` makes of `wit/`; for [`task!`] and for what this crate leaves out.
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "wrun:task/task",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_task",
        default_bindings_module: "wrun_guest::bindings",
    });
}

pub use barrier::Barrier;
pub use bindings::wasi::io::poll::{Pollable, poll};
pub use child::{Child, Outcome, SpawnError, StartError, Unstarted, spawn, start};
pub use lock::{Lock, LockError, LockMode, lock, try_lock};
pub use mapping::{Mapping, PAGE, Plain};
pub use port::{BroadcastError, Message, Port, PortError, Unsent, broadcast, channel, parent};
pub use region::{Exclusive, Frozen, Refused, Region, RegionError, Shared};
pub use words::{SharedU32, SharedU64, Waited};

/// Makes a function the task: `fn(Vec<u8>) -> Result<T, E>`, where `T` becomes bytes
/// and `E` has words.
///
/// ```
/// fn count(input: Vec<u8>) -> Result<String, &'static str> {
///     match input.len() {
///         0 => Err("nothing to count"),
///         bytes => Ok(format!("{bytes} bytes")),
///     }
/// }
///
/// wrun_guest::task!(count);
/// ```
#[macro_export]
macro_rules! task {
    ($run:path) => {
        #[doc(hidden)]
        struct WrunTask;

        impl $crate::bindings::Guest for WrunTask {
            fn run(
                input: ::std::vec::Vec<u8>,
            ) -> ::std::result::Result<::std::vec::Vec<u8>, ::std::string::String> {
                $crate::answer($run(input))
            }
        }

        $crate::bindings::export_task!(WrunTask with_types_in $crate::bindings);
    };
}

/// What [`task!`] makes of a function's result.
#[doc(hidden)]
pub fn answer<T: Into<Vec<u8>>, E: std::fmt::Display>(
    result: Result<T, E>,
) -> Result<Vec<u8>, String> {
    result.map(Into::into).map_err(|error| error.to_string())
}

/// For tasks, which end with an error in words.
macro_rules! words_for {
    ($($error:ty),*) => {$(
        impl From<$error> for String {
            fn from(error: $error) -> String {
                error.to_string()
            }
        }
    )*};
}
words_for!(
    LockError,
    BroadcastError,
    RegionError,
    Refused,
    PortError,
    Unsent,
    Unstarted,
    StartError
);
