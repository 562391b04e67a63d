//! Starting a program: without code of this program between the fork and the new program,
//! and without a copy of this process's page tables.
//!
//! Not by the standard library, whose programs begin with no signal blocked: a process that
//! is about to execute a program is in the process group of this process for a moment.
//! Ctrl-Z would stop it there, before it is the program, and `SIGCONT` to that group would
//! not reach it in the group that it founds next; the starting thread would wait forever.

use super::JOB_SIGNALS;
use std::ffi::{CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// The program to start.
pub struct Program<'a> {
    pub path: &'a Path,
    /// Its name and arguments.
    pub args: &'a [&'a str],
    /// Its whole environment.
    pub env: &'a [&'a str],
    pub stdin: BorrowedFd<'a>,
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
}

/// Starts a program in `/` as the leader of a new process group, with the signals blocked
/// that stop a job; returns its number.
///
/// # Errors
///
/// The system's error; also if the program cannot be executed.
#[expect(
    unsafe_code,
    reason = "a spawn that the standard library has no options for"
)]
pub fn start(program: &Program<'_>) -> io::Result<i32> {
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::other);
    let texts = |texts: &[&str]| -> io::Result<Vec<CString>> {
        texts.iter().map(|it| text(OsStr::new(it))).collect()
    };
    let pointers = |texts: &[CString]| -> Vec<*mut libc::c_char> {
        let pointers = texts.iter().map(|text| text.as_ptr().cast_mut());
        pointers.chain([ptr::null_mut()]).collect()
    };
    let path = text(program.path.as_os_str())?;
    let (args, env) = (texts(program.args)?, texts(program.env)?);
    let (argv, envp) = (pointers(&args), pointers(&env));
    let mut options = Options::new()?;
    for (stream, number) in [(program.stdin, 0), (program.stdout, 1), (program.stderr, 2)] {
        options.stream(stream, number)?;
    }
    let mut pid = 0;
    // SAFETY: all pointers are to values that outlive the call: strings that end in zero,
    // lists of them that end in null, and options that were initialised. Only `pid` is
    // written to.
    done(unsafe {
        libc::posix_spawnp(
            &raw mut pid,
            path.as_ptr(),
            &raw const options.actions,
            &raw const options.attributes,
            argv.as_ptr(),
            envp.as_ptr(),
        )
    })?;
    Ok(pid)
}

struct Options {
    attributes: libc::posix_spawnattr_t,
    actions: libc::posix_spawn_file_actions_t,
}

impl Options {
    #[expect(unsafe_code, reason = "libc's options for a spawn")]
    fn new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        let mut actions = MaybeUninit::uninit();
        let flags = libc::POSIX_SPAWN_SETPGROUP
            | libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETSIGDEF;
        // SAFETY: both are initialised by their own function, which is checked, before other
        // code uses them; from then on `Options` destroys them. glibc and musl keep no pointers
        // into them, so they may be moved. The sets are filled, and only read; the path is a
        // literal.
        unsafe {
            done(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            done(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            let mut options = Options {
                attributes: attributes.assume_init(),
                actions: actions.assume_init(),
            };
            let attributes = &raw mut options.attributes;
            let blocked = super::signal::set_of(&JOB_SIGNALS);
            // Rust ignores it, but programs do not expect that.
            let default = super::signal::set_of(&[libc::SIGPIPE]);
            done(libc::posix_spawnattr_setpgroup(attributes, 0))?;
            done(libc::posix_spawnattr_setsigmask(
                attributes,
                &raw const blocked,
            ))?;
            done(libc::posix_spawnattr_setsigdefault(
                attributes,
                &raw const default,
            ))?;
            let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
            done(libc::posix_spawnattr_setflags(attributes, flags))?;
            let actions = &raw mut options.actions;
            done(libc::posix_spawn_file_actions_addchdir_np(
                actions,
                c"/".as_ptr(),
            ))?;
            Ok(options)
        }
    }

    #[expect(unsafe_code, reason = "libc's options for a spawn")]
    fn stream(&mut self, stream: BorrowedFd<'_>, number: libc::c_int) -> io::Result<()> {
        // SAFETY: the options were initialised, and a number is not a pointer.
        done(unsafe {
            libc::posix_spawn_file_actions_adddup2(
                &raw mut self.actions,
                stream.as_raw_fd(),
                number,
            )
        })
    }
}

impl Drop for Options {
    #[expect(unsafe_code, reason = "libc's options for a spawn")]
    fn drop(&mut self) {
        // SAFETY: both were initialised, and are not used any more.
        unsafe {
            libc::posix_spawn_file_actions_destroy(&raw mut self.actions);
            libc::posix_spawnattr_destroy(&raw mut self.attributes);
        }
    }
}

fn done(errno: libc::c_int) -> io::Result<()> {
    match errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{End, Whom};
    use std::io::Read;
    use std::os::fd::AsFd;

    #[expect(clippy::disallowed_methods, reason = "it is what is tested")]
    fn run(path: &str, args: &[&str]) -> io::Result<(End, String)> {
        let (mut reader, writer) = io::pipe()?;
        let null = crate::null()?;
        let pid = start(&Program {
            path: Path::new(path),
            args,
            env: &["WHAT=it was given"],
            stdin: null.as_fd(),
            stdout: writer.as_fd(),
            stderr: null.as_fd(),
        })?;
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said)?;
        let ended = crate::wait(Whom::Pid(pid), true)?;
        Ok((ended.expect("it ended").1.end, said))
    }

    #[test]
    fn a_program_has_what_it_is_given() {
        let script = "read line; echo $WHAT; pwd; ps -o pgid= -p $$ | grep -cx \" *$$\"; exit 3";
        let (end, said) = run("sh", &["sh", "-c", script]).expect("starts");
        assert_eq!(end, End::Status(3), "{said}");
        assert_eq!(said, "it was given\n/\n1\n");
        let blocked = run("grep", &["grep", "SigBlk", "/proc/self/status"]).expect("starts");
        // SIGTSTP, SIGTTIN and SIGTTOU are 20, 21 and 22.
        assert_eq!(blocked.1, "SigBlk:\t0000000000380000\n");
    }

    #[test]
    fn what_cannot_be_executed_is_an_error() {
        let missing = run("/nowhere/program", &["program"]).expect_err("there is none");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(run("sh", &["s\0h"]).is_err());
    }
}
