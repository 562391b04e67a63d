//! The arguments and the environment where the kernel put them, read without a copy, and
//! erased.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The list of arguments; null where libc does not pass it to functions that run before `main`.
static ARGUMENTS: AtomicPtr<*const c_char> = AtomicPtr::new(std::ptr::null_mut());
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// The list of variables, which ends in null.
static VARIABLES: AtomicPtr<*const c_char> = AtomicPtr::new(std::ptr::null_mut());

/// glibc calls what is listed here with the arguments of `main`, before `main`. Other C
/// libraries call it without.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a function that runs before main")]
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = {
    extern "C" fn note(
        count: c_int,
        arguments: *const *const c_char,
        variables: *const *const c_char,
    ) {
        COUNT.store(usize::try_from(count).unwrap_or(0), Ordering::Relaxed);
        ARGUMENTS.store(arguments.cast_mut(), Ordering::Relaxed);
        VARIABLES.store(variables.cast_mut(), Ordering::Relaxed);
    }
    note
};

/// Whether one of this program's arguments, with its index, passes a test; `None` if they cannot
/// be read here. Unlike the standard library this leaves no copies in the heap.
pub fn any_argument(mut test: impl FnMut(usize, &[u8]) -> bool) -> Option<bool> {
    let (arguments, _) = lists()?;
    Some(
        arguments
            .iter()
            .enumerate()
            .any(|(index, argument)| test(index, bytes(*argument))),
    )
}

/// Whether one of the variables that this program was started with, `NAME=value`, passes a test.
pub fn any_variable(mut test: impl FnMut(&[u8]) -> bool) -> Option<bool> {
    let (_, variables) = lists()?;
    Some(variables.iter().any(|variable| test(bytes(*variable))))
}

/// Erases the arguments and the environment of this process, from memory as well, and puts a title
/// where the arguments were, for those who list processes: its words are separated by zeros if
/// there is room for that, or else by spaces. Does nothing where they cannot be read.
///
/// Only for a fork that becomes another kind of process, before other code has looked at them.
#[expect(unsafe_code, reason = "writing where the kernel put the arguments")]
pub fn rename_process(title: &[&str]) {
    let Some((arguments, variables)) = lists() else {
        return;
    };
    let of_arguments: usize = arguments.iter().map(|it| bytes(*it).len() + 1).sum();
    let strings = || arguments.iter().chain(variables);
    let Some(start) = strings().next().copied() else {
        return;
    };
    let mut room = 0;
    for string in strings() {
        // The kernel puts one behind the other; what a constructor has replaced is elsewhere.
        if string.addr() != start.addr() + room {
            break;
        }
        room += bytes(*string).len() + 1;
    }
    for string in strings() {
        let len = bytes(*string).len();
        // SAFETY: the string lies in writable memory of this process: the kernel's copy on the
        // stack, or what a constructor gave to libc, whose interface for that is mutable. Its
        // length was just measured, so only its own bytes are written. No other thread exists and
        // no code of this crate has a reference to it.
        unsafe { std::ptr::write_bytes(string.cast_mut(), 0, len) };
    }
    // SAFETY: there is one thread, and libc forgets its list of variables.
    unsafe { libc::clearenv() };
    let mut words = title.join("\0");
    if words.len() >= of_arguments {
        words = title.join(" ");
    }
    let len = words.len().min(room.saturating_sub(1));
    // SAFETY: `room` bytes from `start` on belong to the strings that were erased, one behind the
    // other. The last one stays zero, so that every string there still ends.
    unsafe { std::ptr::copy_nonoverlapping(words.as_ptr(), start.cast_mut().cast(), len) };
}

type Lists = (&'static [*const c_char], &'static [*const c_char]);

#[expect(unsafe_code, reason = "lists in C")]
fn lists() -> Option<Lists> {
    let arguments = ARGUMENTS.load(Ordering::Relaxed);
    let variables = VARIABLES.load(Ordering::Relaxed);
    if arguments.is_null() || variables.is_null() {
        return None;
    }
    let count = COUNT.load(Ordering::Relaxed);
    let mut given = 0;
    // SAFETY: the kernel made both lists for this program, on its stack, where they stay: `count`
    // pointers, and pointers up to one that is null. libc copies the second before it changes
    // anything in it.
    unsafe {
        while !(*variables.add(given)).is_null() {
            given += 1;
        }
        Some((
            std::slice::from_raw_parts(arguments, count),
            std::slice::from_raw_parts(variables, given),
        ))
    }
}

#[expect(unsafe_code, reason = "strings in C")]
fn bytes<'a>(string: *const c_char) -> &'a [u8] {
    // SAFETY: each pointer in the lists is to a string that ends in zero and stays. Callers keep the
    // reference no longer than a call.
    unsafe { CStr::from_ptr(string) }.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn arguments_and_variables_are_those_of_the_program() {
        let mut seen = Vec::new();
        let found = any_argument(|index, argument| {
            assert_eq!(index, seen.len());
            seen.push(argument.to_vec());
            false
        });
        if cfg!(not(target_env = "gnu")) {
            return;
        }
        assert_eq!(found, Some(false));
        let known: Vec<_> = std::env::args_os()
            .map(|it| it.as_bytes().to_vec())
            .collect();
        assert_eq!(seen, known);
        let path = std::env::var_os("PATH").expect("a path");
        let line = [b"PATH=", path.as_bytes()].concat();
        assert_eq!(any_variable(|variable| variable == line), Some(true));
        assert_eq!(any_variable(|_| false), Some(false));
    }

    #[test]
    fn a_renamed_process_has_neither() {
        if cfg!(not(target_env = "gnu")) {
            return;
        }
        match attempt::fork().expect("a fork") {
            None => {
                rename_process(&["a", "b"]);
                let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
                let environ = std::fs::read("/proc/self/environ").unwrap_or(vec![1]);
                let is_renamed = line.starts_with(b"a\0b\0")
                    && line[4..].iter().chain(&environ).all(|byte| *byte == 0)
                    && std::env::vars_os().next().is_none();
                crate::exit_now(i32::from(!is_renamed));
            }
            Some(child) => {
                let ended =
                    rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
                let (_, status) = ended.expect("waited for").expect("ended");
                assert_eq!(status.exit_status(), Some(0));
            }
        }
    }
}
