//! Reads streams of frames, as a hijacked worker or runner could send them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // An element that takes one byte in the frame takes about eighty in memory, and the
    // target itself keeps copies.
    wrun_fuzz::within((8 << 20) + 512 * data.len(), || wrun::fuzzing::frame(data));
});
