//! Task files, up to where they would be compiled.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// Makes once what is made once: the world, an engine.
fn init() {
    let task = include_bytes!("../../guest-tasks/echo/echo.wat");
    assert!(wrun::fuzzing::component(task).is_some(), "echo is a task");
}

fuzz_target!(init: init(), |data: &[u8]| {
    // Text takes some eighty times its size, and WASI's adapter has a size.
    wrun_fuzz::within((32 << 20) + 512 * data.len(), || {
        wrun::fuzzing::loader(data);
    });
});

#[cfg(feature = "smith")]
mod smith;
