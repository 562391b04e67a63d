//! Reads greetings, as any program could send them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    wrun_fuzz::within(1 << 10, || wrun::fuzzing::handshake(data));
});
