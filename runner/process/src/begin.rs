//! The first steps of every wrun program: it resets the inherited state of its process, and
//! enters the jail.

use crate::jail::{JailError, Raise, Split, Walls, reserve_descriptors};
use rustix::process::{Signal, getpid};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use wrun_sys::{self, Alone};

/// Takes over a process that was started as a worker: it will end with its parent, and its
/// inherited state is reset.
pub fn settle(parent: i32) -> io::Result<()> {
    wrun_sys::close_inherited();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before that took effect.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Err(io::Error::other("the runner is gone"));
    }
    // The calls that identify processes are not available in a jail.
    let _ = wrun_sys::Process::current();
    Ok(())
}

/// Takes over a fork of a program, to be a worker as if it had been started as one: with these
/// streams, and nothing else of its parent. `forget` erases what came with the program. It will end
/// with its parent; if that is dead already, its stdin has ended.
pub(super) fn settle_fork(streams: [OwnedFd; 3], forget: impl FnOnce()) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let [stdin, stdout, stderr] = &streams;
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    drop(streams);
    wrun_sys::start_afresh();
    wrun_sys::close_inherited();
    rustix::process::chdir("/")?;
    forget();
    // A program that is started has the limit that its runner has raised by then.
    reserve_descriptors(Raise::Soft);
    let _ = wrun_sys::Process::current();
    Ok(())
}

/// Whether the program has started no threads or runtimes of its own.
///
/// # Errors
///
/// It has; for the author of the program.
pub fn check_alone() -> io::Result<()> {
    let too_late = |what: String| {
        io::Error::other(format!(
            "call wrun::worker_hook() first thing in main, before any thread or runtime \
             (#[tokio::main] starts one): {what}"
        ))
    };
    if tokio::runtime::Handle::try_current().is_ok() {
        return Err(too_late("it was called by asynchronous code".into()));
    }
    match Alone::look() {
        Some(_) => Ok(()),
        None => Err(too_late(format!("there is {}", threads()))),
    }
}

/// The names of this process's other threads, for people.
fn threads() -> String {
    let own = std::fs::read_link("/proc/self").unwrap_or_default();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let names: Vec<String> = tasks
        .flatten()
        .filter(|task| task.file_name() != own.as_os_str())
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .take(3)
        .collect();
    format!("the thread {}", names.join(", "))
}

/// Sets up the first half of the jail, which may continue as another process: the one that
/// is left behind reports its number, and ends.
pub(super) fn go_inside(
    begun: Result<Walls, JailError>,
    say_moved: &dyn Fn(i32) -> io::Result<()>,
) -> io::Result<Result<Walls, JailError>> {
    // Tells the new process that the runner knows its number.
    let (mut told, telling) = io::pipe()?;
    let before = getpid();
    match begun.and_then(Walls::split) {
        Ok(Split::Outside { pid }) => {
            say_moved(pid)?;
            (&telling).write_all(&[1])?;
            wrun_sys::exit_now(0)
        }
        Ok(Split::Inside(walls)) => {
            drop(telling);
            if getpid() != before && told.read(&mut [0])? == 0 {
                return Err(io::Error::other("the parent died"));
            }
            Ok(Ok(walls))
        }
        Err(error) => Ok(Err(error)),
    }
}
