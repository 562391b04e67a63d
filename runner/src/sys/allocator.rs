//! The allocator of the `wrun` program: the system's, which remembers that memory ran
//! out.
//!
//! Rust ends a program whose small allocations fail by SIGABRT, which a shell would show
//! as the code of a task that trapped. For a command it is the runner's own failure.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

static RAN_OUT: AtomicBool = AtomicBool::new(false);

/// The exit code of a command that itself failed.
const RUNNER: libc::c_int = 125;

/// The system's allocator.
#[derive(Debug)]
pub struct Allocator;

fn noted(block: *mut u8) -> *mut u8 {
    if block.is_null() {
        RAN_OUT.store(true, Ordering::Relaxed);
    }
    block
}

// SAFETY: every call is the system allocator's, with the same arguments, whose contract
// is the caller's; what it returns is returned.
#[expect(unsafe_code, reason = "an allocator is unsafe by its nature")]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        noted(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        noted(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        noted(unsafe { System.realloc(block, layout, len) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Has a program that gives up for want of memory end with the code of a runner that
/// failed; Rust has said why by then. Only for a command: it is the whole process that
/// ends.
#[expect(unsafe_code, reason = "signal dispositions are set through libc")]
pub(crate) fn end_as_failed_without_memory() {
    extern "C" fn aborted(_: libc::c_int) {
        if RAN_OUT.load(Ordering::Relaxed) {
            // SAFETY: it ends the process, and may be called in a handler.
            unsafe { libc::_exit(RUNNER) }
        }
        // Otherwise `abort` goes on to end the process, with the default.
    }
    // SAFETY: all zeroes is a `sigaction`: an empty mask, no flags, the default.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = aborted as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
    // SAFETY: the handler loads an atomic and ends the process, both of which are allowed
    // in one; `action` outlives the call.
    unsafe { libc::sigaction(libc::SIGABRT, &raw const action, std::ptr::null_mut()) };
}
