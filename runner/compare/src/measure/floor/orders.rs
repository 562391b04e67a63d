//! What the program that floors are measured with is told, and what it says: frames of a
//! length, 4 bytes, little-endian, and postcard.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use wrun::{
    Usage,
    measure::{Spec, sys::FileId},
};

/// Largest frame: a task's input or output, and some.
const MAX_FRAME: usize = 160 << 20;

/// What a forked child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// It ends.
    Exit,
    /// It instantiates the task and calls it; its output goes through a pipe.
    Task,
    /// The same in an instance that was made before the fork.
    Ready,
}

/// What the program is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FloorOrder {
    /// Load a task, run it, say what it put out.
    Load {
        /// Where the sealed code can be opened.
        code: PathBuf,
        spec: Box<Spec>,
        input: Vec<u8>,
        /// The program's own code on large pages, as a zygote has it.
        image: Option<(PathBuf, FileId)>,
    },
    /// This many children, this many at a time.
    Tasks {
        work: Work,
        count: u32,
        at_once: u32,
    },
    /// The task in this process; `ahead`, its instance is made before it is ordered.
    Call { ahead: bool },
    /// This many messages of a size come, and go back.
    Echo { size: u64, count: u32 },
    /// This many bytes come.
    Sink { bytes: u64 },
    /// This many children that wait until the program ends.
    Hold { count: u32 },
    /// What it and its children that ended have used.
    Usage,
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FloorSays {
    Done,
    Output(Vec<u8>),
    Took { nanos: u64 },
    Held(Vec<u32>),
    Used(Usage),
    Failed(String),
}

/// Writes a frame.
pub(super) fn write_frame(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
    let len = frame.len() - 4;
    if len > MAX_FRAME {
        return Err(io::Error::other("the order is longer than 160 MiB"));
    }
    let header = u32::try_from(len).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&header.to_le_bytes());
    to.write_all(&frame)
}

/// Reads a frame.
pub(super) fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut header = [0; 4];
    from.read_exact(&mut header)?;
    let len = u32::from_le_bytes(header) as usize;
    if len > MAX_FRAME {
        return Err(io::Error::other("the frame is longer than 160 MiB"));
    }
    let mut frame = vec![0; len];
    from.read_exact(&mut frame)?;
    postcard::from_bytes(&frame).map_err(io::Error::other)
}
