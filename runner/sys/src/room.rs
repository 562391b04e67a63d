//! Whether there is room in memory.

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::{io, ptr};

/// Whether this process may allocate this many more bytes. Nothing is reserved: it is for
/// callers that are about to allocate them in a way that cannot fail.
///
/// # Errors
///
/// It may not; or no address space is left.
#[expect(unsafe_code, reason = "pages are mapped, and given back")]
pub fn room_for(bytes: usize) -> io::Result<()> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: the kernel chooses an address that is not in use.
    let at = unsafe { mmap_anonymous(ptr::null_mut(), bytes, prot, flags) }?;
    // SAFETY: the pages are those from above, and no other code has their address.
    unsafe { munmap(at, bytes) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::room_for;

    #[test]
    fn there_is_room_for_some_and_not_for_all() {
        room_for(1 << 20).expect("a MiB");
        let error = room_for(usize::MAX >> 1).expect_err("all there is");
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    }
}
