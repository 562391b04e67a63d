//! Streams of frames, as a worker or a runner that was taken over would send them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // An element that takes a byte of the frame is some eighty in memory, and the
    // target itself keeps copies.
    wrun_fuzz::within((8 << 20) + 512 * data.len(), || wrun::fuzzing::frame(data));
});
