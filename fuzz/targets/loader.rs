//! Loads task files, up to the point where they would be compiled.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// Makes the world and an engine, once.
fn init() {
    let task = include_bytes!("../../guest-tasks/echo/echo.wat");
    assert!(wrun::fuzzing::component(task).is_some(), "echo is a task");
}

fuzz_target!(init: init(), |data: &[u8]| {
    // Text takes about eighty times its size, and WASI's adapter has a fixed size.
    wrun_fuzz::within((32 << 20) + 512 * data.len(), || {
        wrun::fuzzing::loader(data);
    });
});

#[cfg(feature = "smith")]
mod smith;
