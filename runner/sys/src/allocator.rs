//! The allocator of the `wrun` program: the system's, which ends a command if memory runs
//! out.
//!
//! Rust ends a program whose allocations fail by SIGABRT, which a shell would show as the
//! code of a task that trapped. For a command it is the runner's own failure.

use rustix::process::{Resource, getrlimit};
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process is a command, which ends if memory runs out.
static COMMAND: AtomicBool = AtomicBool::new(false);

/// The exit code of a command that failed itself.
const RUNNER: libc::c_int = 125;

/// The system's allocator; in a command, one that does not fail.
#[derive(Debug)]
pub struct Allocator;

/// Marks this process as a command: if memory runs out, it prints a message and exits.
pub fn end_without_memory() {
    COMMAND.store(true, Ordering::Relaxed);
    let limited = |resource| getrlimit(resource).current.is_some();
    if limited(Resource::Data) || limited(Resource::As) {
        aborts_are_shortages();
    }
}

/// From now on the threads of this process share one heap. glibc makes one for each of the first
/// threads, which takes longer than a command with a few short threads gains by it.
#[expect(unsafe_code, reason = "the C library's allocator is set through libc")]
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes numbers, and sets one of the allocator's own.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// The C library prints a line and aborts if it has no memory for itself. The handler is
/// only set if memory is limited: any other abort keeps its meaning.
#[expect(unsafe_code, reason = "signal dispositions are set through libc")]
fn aborts_are_shortages() {
    extern "C" fn aborted(_: libc::c_int) {
        // SAFETY: it ends the process, which a handler may do.
        unsafe { libc::_exit(RUNNER) }
    }
    // SAFETY: all zeroes is a `sigaction`: an empty mask, no flags, the default.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = aborted as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler ends the process and does nothing else; `action` outlives the
    // call, and the former disposition is not requested.
    unsafe { libc::sigaction(libc::SIGABRT, &raw const action, std::ptr::null_mut()) };
}

fn checked(block: *mut u8, len: usize) -> *mut u8 {
    if block.is_null() && COMMAND.load(Ordering::Relaxed) {
        give_up(len)
    }
    block
}

/// Allocates nothing, and touches nothing that could be locked.
#[cold]
#[expect(unsafe_code, reason = "the process ends without what runs at exit")]
fn give_up(len: usize) -> ! {
    let mut line = [0; 256];
    let mut rest = &mut line[..];
    let _ = write!(rest, "wrun: there is no memory for {len} bytes");
    for (resource, name) in [
        (Resource::Data, "data (ulimit -d)"),
        (Resource::As, "address space (ulimit -v)"),
    ] {
        if let Some(limit) = getrlimit(resource).current {
            let _ = write!(
                rest,
                "; this process has a limit of {limit} bytes on {name}"
            );
        }
    }
    let _ = writeln!(rest);
    let left = rest.len();
    let said = &line[..line.len() - left];
    let _ = rustix::io::write(rustix::stdio::stderr(), said);
    // SAFETY: it ends the process, whatever its threads do.
    unsafe { libc::_exit(RUNNER) }
}

// SAFETY: every call is the system allocator's, with the same arguments, whose contract the
// caller keeps; its result is returned, if it returns.
#[expect(unsafe_code, reason = "an allocator is unsafe by its nature")]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        checked(unsafe { System.realloc(block, layout, len) }, len)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}
