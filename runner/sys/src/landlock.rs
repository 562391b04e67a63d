//! Something the `landlock` crate does not offer: the kernel's version of Landlock, before
//! anything is restricted.

use std::io;

/// `LANDLOCK_CREATE_RULESET_VERSION`
const VERSION: libc::c_uint = 1;

/// The kernel's version of Landlock's interface.
///
/// # Errors
///
/// `ENOSYS` if the kernel was built without it, `EOPNOTSUPP` if it is not enabled.
#[expect(unsafe_code, reason = "a system call without a wrapper")]
pub fn landlock_abi() -> io::Result<u32> {
    // SAFETY: with this flag, no attributes and their size 0, the kernel reads no
    // memory and makes nothing; it returns its version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            VERSION,
        )
    };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}
