//! Channels and what goes through them.

use crate::bindings::wasi::io::poll::Pollable;
use crate::bindings::wrun::task::broadcast;
use crate::bindings::wrun::task::ports::{self, Port as Handle};
use crate::bindings::wrun::task::regions::Region as RegionHandle;
use crate::region::{Exclusive, Frozen, Region, RegionError, Shared};
use std::fmt;
use std::mem::MaybeUninit;

pub use crate::bindings::wrun::task::broadcast::BroadcastError;
pub use crate::bindings::wrun::task::ports::PortError;

/// One end of a channel. Dropping it closes the channel; the other end still gets what
/// was sent.
#[derive(Debug)]
pub struct Port(pub(crate) Handle);

/// Bytes, and what moves along with them: at most 256 KiB, 8 regions, 8 ports. More
/// data travels in a region.
///
/// ```no_run
/// # fn main() -> Result<(), String> {
/// use wrun_guest::{Exclusive, Message, channel};
///
/// let (ours, theirs) = channel(4)?;
/// ours.send(Message::new("three bytes").region(Exclusive::from_bytes(b"abc")?))?;
/// let region = theirs.receive()?.exclusive()?;
/// assert_eq!(region.read(0, 3)?, b"abc");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Message {
    /// Bytes, copied.
    pub data: Vec<u8>,
    /// Regions, moved.
    pub regions: Vec<Region>,
    /// Ports, moved.
    pub ports: Vec<Port>,
}

/// A message that was not sent, whole.
#[derive(Debug)]
pub struct Unsent {
    /// Why not.
    pub error: PortError,
    /// What was to be sent.
    pub message: Message,
}

/// Two connected ends; up to `capacity` messages, 1 to 64, wait in each direction.
///
/// # Errors
///
/// [`PortError::Limit`] for another capacity, or where this task may have no more
/// ports.
pub fn channel(capacity: u32) -> Result<(Port, Port), PortError> {
    let (one, other) = ports::channel(capacity)?;
    Ok((Port(one), Port(other)))
}

/// The channel to whoever started this task, if there is one. The first call gets it,
/// later ones none.
#[must_use]
pub fn parent() -> Option<Port> {
    ports::parent().map(Port)
}

/// Joins the channel of this name, which all tasks of one runner share: what is sent
/// through the port, all other members receive, in one order for all. Only bytes: ports
/// in a message are closed. A member that has no room for the next of 64 messages is
/// closed.
///
/// # Errors
///
/// [`BroadcastError::BadName`] for no bytes or more than 256, [`BroadcastError::Limit`].
pub fn broadcast(name: &str) -> Result<Port, BroadcastError> {
    broadcast::open(name).map(Port)
}

impl Port {
    /// Sends a message, or bytes; waits while the channel is full.
    ///
    /// # Errors
    ///
    /// [`PortError::Closed`], [`PortError::TooLarge`], [`PortError::Busy`] for a port
    /// with a pollable in the message, [`PortError::Cancelled`] where the host asked
    /// the task to stop meanwhile; the message comes back.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), Unsent> {
        push(&self.0, message.into(), true)
    }

    /// As [`Port::send`], without waiting.
    ///
    /// # Errors
    ///
    /// As for [`Port::send`]; and [`PortError::WouldBlock`] where the channel is full.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), Unsent> {
        push(&self.0, message.into(), false)
    }

    /// The next message, in the order sent; waits for one.
    ///
    /// # Errors
    ///
    /// [`PortError::Closed`] once nothing more can come, [`PortError::Limit`] where
    /// there is no room for what comes, [`PortError::Cancelled`].
    pub fn receive(&self) -> Result<Message, PortError> {
        self.0.receive().map(Message::from)
    }

    /// As [`Port::receive`], without waiting.
    ///
    /// # Errors
    ///
    /// As for [`Port::receive`]; and [`PortError::WouldBlock`] where nothing is there.
    pub fn try_receive(&self) -> Result<Message, PortError> {
        self.0.try_receive().map(Message::from)
    }

    /// Ready when [`Port::try_receive`] would not answer [`PortError::WouldBlock`]; for
    /// [`poll`](crate::poll), to wait for several ends at once.
    #[must_use]
    pub fn subscribe(&self) -> Pollable {
        self.0.subscribe()
    }

    /// Nothing more can be sent from either end; what was sent is still received.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Message {
    /// Bytes.
    pub fn new(data: impl Into<Vec<u8>>) -> Self {
        Message {
            data: data.into(),
            ..Message::default()
        }
    }

    /// Appends a region.
    #[must_use]
    pub fn region(mut self, region: impl Into<Region>) -> Self {
        self.regions.push(region.into());
        self
    }

    /// Appends a port.
    #[must_use]
    pub fn port(mut self, port: Port) -> Self {
        self.ports.push(port);
        self
    }

    /// The first region, which is exclusive.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfBounds`] where there is no region, [`RegionError::WrongKind`]
    /// where it is another; the rest of the message is lost.
    pub fn exclusive(self) -> Result<Exclusive, RegionError> {
        self.first()?.try_into()
    }

    /// The first region, which is frozen.
    ///
    /// # Errors
    ///
    /// As for [`Message::exclusive`].
    pub fn frozen(self) -> Result<Frozen, RegionError> {
        self.first()?.try_into()
    }

    /// The first region, which is shared.
    ///
    /// # Errors
    ///
    /// As for [`Message::exclusive`].
    pub fn shared(self) -> Result<Shared, RegionError> {
        self.first()?.try_into()
    }

    fn first(self) -> Result<Region, RegionError> {
        let mut regions = self.regions.into_iter();
        regions.next().ok_or(RegionError::OutOfBounds)
    }
}

impl<T: Into<Vec<u8>>> From<T> for Message {
    fn from(data: T) -> Self {
        Message::new(data)
    }
}

impl From<ports::Message> for Message {
    fn from(came: ports::Message) -> Self {
        Message {
            data: came.data,
            regions: came.regions.into_iter().map(Region::new).collect(),
            ports: came.ports.into_iter().map(Port).collect(),
        }
    }
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Unsent {}

/// `result<_, unsent>`, as the canonical ABI lays it out.
#[repr(C)]
struct Answer {
    is_err: u8,
    unsent: AbiUnsent,
}

/// Aligned as the addresses in it are.
#[repr(C)]
struct AbiUnsent {
    error: u8,
    regions: *mut u32,
    regions_len: usize,
    ports: *mut u32,
    ports_len: usize,
}

#[cfg(target_arch = "wasm32")]
const _: () = assert!(size_of::<Answer>() == 24);

macro_rules! import {
    ($($name:ident = $link:literal),*) => {
        #[cfg(target_arch = "wasm32")]
        #[link(wasm_import_module = "wrun:task/ports@0.1.0")]
        unsafe extern "C" {$(
            #[link_name = $link]
            fn $name(
                port: u32,
                data: *const u8,
                data_len: usize,
                regions: *const u32,
                regions_len: usize,
                ports: *const u32,
                ports_len: usize,
                answer: *mut Answer,
            );
        )*}

        $(
            #[cfg(not(target_arch = "wasm32"))]
            #[expect(clippy::too_many_arguments, reason = "the import's")]
            unsafe fn $name(
                _: u32,
                _: *const u8,
                _: usize,
                _: *const u32,
                _: usize,
                _: *const u32,
                _: usize,
                _: *mut Answer,
            ) {
                unreachable!("only a task has ports")
            }
        )*
    };
}
import!(
    port_send = "[method]port.send",
    port_try_send = "[method]port.try-send"
);

/// Sends, with or without waiting for room.
// Not by the bindings, which drop the data of what was not sent.
fn push(port: &Handle, message: Message, waits: bool) -> Result<(), Unsent> {
    let Message {
        data,
        regions,
        ports,
    } = message;
    // The handles are the host's from here on; it gives others for what comes back.
    let regions: Vec<u32> = regions
        .iter()
        .map(|region| region.handle().take_handle())
        .collect();
    let ports: Vec<u32> = ports.iter().map(|port| port.0.take_handle()).collect();
    let mut answer = MaybeUninit::<Answer>::zeroed();
    let call = if waits { port_send } else { port_try_send };
    // SAFETY: the imports have this signature in the canonical ABI, and the lists and the
    // answer live for as long as the call.
    unsafe {
        call(
            port.handle(),
            data.as_ptr(),
            data.len(),
            regions.as_ptr(),
            regions.len(),
            ports.as_ptr(),
            ports.len(),
            answer.as_mut_ptr(),
        );
    }
    // SAFETY: zeros are an answer, and the host writes one.
    let Answer { is_err, unsent } = unsafe { answer.assume_init() };
    if is_err == 0 {
        return Ok(());
    }
    // SAFETY: the host had `cabi_realloc` make the lists, and they hold handles that it
    // has just given to this task, each once.
    let (regions, ports) = unsafe {
        let regions = list(unsent.regions, unsent.regions_len).into_iter();
        let ports = list(unsent.ports, unsent.ports_len).into_iter();
        (
            regions
                .map(|handle| Region::new(RegionHandle::from_handle(handle)))
                .collect(),
            ports
                .map(|handle| Port(Handle::from_handle(handle)))
                .collect(),
        )
    };
    Err(Unsent {
        error: match unsent.error {
            0 => PortError::Closed,
            1 => PortError::WouldBlock,
            2 => PortError::TooLarge,
            3 => PortError::Busy,
            4 => PortError::Limit,
            _ => PortError::Cancelled,
        },
        message: Message {
            data,
            regions,
            ports,
        },
    })
}

/// A list that the host gave.
///
/// # Safety
///
/// It came from `cabi_realloc`, for `len` words, and is nobody else's.
unsafe fn list(at: *mut u32, len: usize) -> Vec<u32> {
    match len {
        0 => Vec::new(),
        // SAFETY: `cabi_realloc` is the global allocator, asked for these very words.
        len => unsafe { Vec::from_raw_parts(at, len, len) },
    }
}
