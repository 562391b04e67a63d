//! The smallest HTTP handler: its cost is the cost of the server. It answers `hello` and returns the
//! request's `x-request-id`.
//!
//! For a handler to start from, see `docs/tasks/http.md`. This one does without `std` and without an
//! allocator, to be as small and quick as possible.

#![no_std]

use core::sync::atomic::{AtomicUsize, Ordering};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Hello;

const ANSWER: &[u8] = b"hello\n";

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        // An instance that is used again has nothing left of the last request.
        USED.store(0, Ordering::Relaxed);
        let headers = Fields::new();
        let _ = headers.append("content-type", b"text/plain; charset=utf-8");
        // With a length, the server does not need chunks.
        let _ = headers.append("content-length", b"6");
        for id in request.headers().get("x-request-id") {
            let _ = headers.append("x-request-id", &id);
        }
        let response = OutgoingResponse::new(headers);
        let body = response.body();
        ResponseOutparam::set(out, Ok(response));
        let Ok(body) = body else { return };
        let Ok(stream) = body.write() else { return };
        // An empty stream has room for six bytes: nothing waits here.
        if stream.check_write().is_ok_and(|room| room >= 6) {
            let _ = stream.write(ANSWER);
        }
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

wasip2::http::proxy::export!(Hello);

/// Where the values of `x-request-id` are written to: larger than any server's limit on headers.
static mut MEMORY: [u8; 256 << 10] = [0; 256 << 10];
static USED: AtomicUsize = AtomicUsize::new(0);

/// Hands out `MEMORY` from its beginning to its end, and takes nothing back.
struct Once;

#[global_allocator]
static ALLOCATOR: Once = Once;

// SAFETY: what is handed out lies in `MEMORY`, is aligned, and does not overlap anything else that was
// handed out for the same request. There is only one thread.
unsafe impl core::alloc::GlobalAlloc for Once {
    unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
        let memory = &raw mut MEMORY;
        let begin = memory.addr();
        let at = (begin + USED.load(Ordering::Relaxed)).next_multiple_of(layout.align()) - begin;
        let Some(end) = at
            .checked_add(layout.size())
            .filter(|end| *end <= 256 << 10)
        else {
            return core::ptr::null_mut();
        };
        USED.store(end, Ordering::Relaxed);
        // SAFETY: it ends within `MEMORY`.
        unsafe { memory.cast::<u8>().add(at) }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: core::alloc::Layout) {}
}

/// What the host allocates with. It never makes anything larger.
#[unsafe(no_mangle)]
unsafe extern "C" fn cabi_realloc(_: *mut u8, _: usize, align: usize, size: usize) -> *mut u8 {
    let layout = core::alloc::Layout::from_size_align(size, align);
    // SAFETY: the allocator takes any size.
    let at = layout.map_or(core::ptr::null_mut(), |layout| unsafe {
        core::alloc::GlobalAlloc::alloc(&ALLOCATOR, layout)
    });
    if at.is_null() {
        core::arch::wasm32::unreachable();
    }
    at
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}
