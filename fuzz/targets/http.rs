//! Answers HTTP requests, as a hijacked worker could.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The bodies are slices of one block, which is made once.
    wrun_fuzz::within((8 << 20) + 512 * data.len(), || wrun::fuzzing::http(data));
});
