//! What tests of the jail try from the inside: they only observe whether it fails, or how.

use rustix::process::Pid;
use std::io;

/// Forks; `None` in the child. For a test that has its process to itself.
#[expect(unsafe_code, reason = "tests of processes make processes")]
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: a child of a process with more threads may only do what a signal
    // handler may. The test that calls this runs alone, while libtest's main
    // thread waits for it and holds no lock that the child takes.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(pid))
}

/// Ends this process at once: no code of libtest must run in a child.
#[expect(unsafe_code, reason = "std's exit runs what is the parent's")]
pub fn exit(code: i32) -> ! {
    // SAFETY: it takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// Any system call. Tests pass small numbers, which are not addresses.
#[expect(unsafe_code, reason = "calls that no library would make")]
pub fn call(number: libc::c_long, args: [usize; 6]) -> io::Result<libc::c_long> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: without an address of this process, the kernel can neither read nor write its
    // memory; a call that changes the process (`fork`) is the purpose of the test.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Maps a page with these rights, and unmaps it.
#[expect(unsafe_code, reason = "memory is mapped")]
pub fn map(protection: libc::c_int) -> io::Result<()> {
    // SAFETY: a new mapping at an address that the kernel chooses, which is not used before
    // it is unmapped.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            4096,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        libc::munmap(page, 4096);
    }
    Ok(())
}

/// Maps a page and makes it executable.
#[expect(unsafe_code, reason = "memory is mapped")]
pub fn make_code() -> io::Result<()> {
    // SAFETY: as in `map`.
    let result = unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
