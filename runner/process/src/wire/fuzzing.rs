//! The protocol's decoders as functions of any bytes, with their invariants.

use super::{ControlOrder, ControlSays, Decoder, FrameError, Hello, Order, WorkerSays, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Every type that a frame can contain; add a line for a new one.
const MESSAGES: &[Message] = &[
    message::<Order>("order"),
    message::<WorkerSays>("worker-says"),
    message::<ControlOrder>("control-order"),
    message::<ControlSays>("control-says"),
];

/// The test of one type.
struct Message {
    name: &'static str,
    check: fn(&[u8], u8),
    samples: fn() -> Vec<Vec<u8>>,
}

const fn message<T: Serialize + DeserializeOwned + Debug>(name: &'static str) -> Message {
    Message {
        name,
        check: check::<T>,
        samples: samples::<T>,
    }
}

/// A stream of frames. The first byte selects how the rest is cut into the pieces that a
/// pipe yields.
pub fn frame(data: &[u8]) {
    let Some((cuts, stream)) = data.split_first() else {
        return;
    };
    for message in MESSAGES {
        (message.check)(stream, *cuts);
    }
}

/// The start of a worker's messages.
pub fn handshake(data: &[u8]) {
    let Some(greeting) = data.first_chunk() else {
        return;
    };
    let ours = Hello::encode();
    match Hello::decode(greeting) {
        Ok(Hello) => assert_eq!(*greeting, ours, "only the greeting is one"),
        Err(FrameError::Version {
            theirs,
            ours: version,
        }) => {
            assert_ne!(theirs, version);
            assert_eq!(greeting[..8], ours[..8]);
            assert_eq!(greeting[8..], theirs.to_le_bytes());
            assert_eq!(ours[8..], version.to_le_bytes());
        }
        Err(FrameError::NotAPeer) => assert_ne!(greeting[..8], ours[..8]),
        Err(other) => panic!("a greeting is no frame: {other}"),
    }
}

/// This version's greeting, as a seed.
pub fn greeting() -> Vec<u8> {
    Hello::encode().to_vec()
}

/// Inputs of [`frame`] with frames of every variant of every type, with names.
pub fn frames() -> Vec<(String, Vec<u8>)> {
    let mut frames = Vec::new();
    for message in MESSAGES {
        let samples = (message.samples)();
        let all = samples.concat();
        for (at, sample) in samples.iter().chain([&all]).enumerate() {
            let cuts = u8::try_from(at).unwrap_or(u8::MAX);
            frames.push((
                format!("{}-{at:02}", message.name),
                [&[cuts], &**sample].concat(),
            ));
        }
    }
    frames
}

/// What a reader of the stream has decoded when it stops.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    /// Each message, encoded again.
    frames: Vec<Vec<u8>>,
    end: Option<FrameError>,
}

fn check<T: Serialize + DeserializeOwned + Debug>(stream: &[u8], cuts: u8) {
    let whole = read::<T>([stream]);
    assert_eq!(
        whole,
        read::<T>(Cuts::new(stream, cuts)),
        "however it comes"
    );

    // Few inputs have a length that fits; all have a body.
    let length = u32::try_from(stream.len()).expect("an input is small");
    let framed = [&length.to_le_bytes(), stream].concat();
    let framed = read::<T>([&*framed]);
    assert!(framed.frames.len() <= 1, "one length is one message");
    assert_ne!(framed.frames.is_empty(), framed.end.is_none());
}

fn read<'a, T: Serialize + DeserializeOwned + Debug>(
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Read {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for part in parts {
        decoder.push(part);
        loop {
            match decoder.next::<T>() {
                Ok(Some(message)) => frames.push(same(&message)),
                Ok(None) => break,
                Err(error) => {
                    let end = Some(error);
                    return Read { frames, end };
                }
            }
        }
    }
    Read { frames, end: None }
}

/// A decoded message can be encoded, and decodes to the same again.
fn same<T: Serialize + DeserializeOwned + Debug>(message: &T) -> Vec<u8> {
    let frame = encode(message).expect("what fitted a frame fits one");
    let mut decoder = Decoder::default();
    decoder.push(&frame);
    let again = decoder.next::<T>().expect("a frame").expect("a whole one");
    assert_eq!(format!("{message:?}"), format!("{again:?}"));
    assert_eq!(frame, encode(&again).expect("it did before"));
    let rest = decoder.next::<T>().expect("nothing is no error");
    assert!(rest.is_none(), "one frame is one message");
    frame
}

/// A stream in pieces of 0 to 31 bytes that follow from a seed.
struct Cuts<'a> {
    rest: &'a [u8],
    state: u32,
}

impl<'a> Cuts<'a> {
    fn new(rest: &'a [u8], seed: u8) -> Self {
        let state = u32::from(seed);
        Cuts { rest, state }
    }
}

impl<'a> Iterator for Cuts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        // The constants of "Numerical Recipes".
        self.state = self
            .state
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        let len = (self.state >> 27) as usize;
        let (part, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        Some(part)
    }
}

/// A frame of each variant, found by decoding it: any fields can be decoded from bytes that
/// are all the same.
fn samples<T: Serialize + DeserializeOwned>() -> Vec<Vec<u8>> {
    const VARIANTS: u8 = 32;
    let mut samples = Vec::new();
    for variant in 0..VARIANTS {
        for fill in 0..5 {
            let mut bytes = [fill; 512];
            bytes[0] = variant;
            if let Ok((message, _)) = postcard::take_from_bytes::<T>(&bytes) {
                let frame = encode(&message).expect("it is short");
                if !samples.contains(&frame) {
                    samples.push(frame);
                }
            }
        }
    }
    samples
}
