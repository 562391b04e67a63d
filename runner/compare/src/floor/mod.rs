//! The least that processes cost: a program of one thread that does barely what is
//! asked of it, to compare with. No jail, no supervision; only for a task that was
//! seen to end, and that is trusted as much as thread mode trusts it.
//!
//! Orders and answers (`orders.rs`) go over the program's stdin and stdout, which also carry the bytes of
//! [`Floor::echo`] and [`Floor::sink`]. Invariant: a [`Floor`] that is dropped leaves
//! no process behind, its children included.

mod orders;
mod program;

use bytes::Bytes;
use orders::{FloorOrder, FloorSays, read_frame, write_frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wrun::{
    Usage,
    measure::{
        Code, Spec,
        deadline::Deadline,
        process::{Image, Reaped, WORKER_ARG, WorkerRole, start},
        sys::Program,
    },
};

/// What makes a worker program measure floors.
pub(crate) const ROLE: WorkerRole = WorkerRole {
    name: "floor",
    work: program::work,
};

/// How long an answer may take beyond what it is to measure.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program, and its code on large pages.
pub(crate) struct FloorProgram {
    path: PathBuf,
    image: Option<Image>,
}

impl FloorProgram {
    /// Of a worker program.
    pub(crate) fn new(path: PathBuf) -> Self {
        let image = Image::of(&path).ok();
        FloorProgram { path, image }
    }
}

/// Where this process's descriptor can be opened by another.
fn path_of(descriptor: impl AsFd) -> PathBuf {
    let (pid, descriptor) = (std::process::id(), descriptor.as_fd().as_raw_fd());
    format!("/proc/{pid}/fd/{descriptor}").into()
}

/// A running one.
pub(crate) struct Floor {
    to: PipeWriter,
    from: PipeReader,
    _child: Reaped,
}

impl Floor {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub(crate) fn start(program: &FloorProgram) -> io::Result<Self> {
        let (its_stdin, to) = io::pipe()?;
        let (from, its_stdout) = io::pipe()?;
        let null = wrun::measure::sys::null()?;
        let pid = std::process::id().to_string();
        let member = start(&Program {
            path: &program.path,
            args: &["wrun-floor", WORKER_ARG, &pid, ROLE.name],
            env: &[],
            stdin: its_stdin.as_fd(),
            stdout: its_stdout.as_fd(),
            stderr: null.as_fd(),
        })?;
        Ok(Floor {
            to,
            from,
            _child: Reaped::new(member),
        })
    }

    /// Gives it a task; returns the output of a first run. With `program`, its code
    /// lies on large pages, as what a zygote forks has it.
    ///
    /// # Errors
    ///
    /// The task needs more than WASI, or fails.
    pub(crate) fn load(
        &mut self,
        code: &Code,
        spec: &Spec,
        input: &Bytes,
        program: Option<&FloorProgram>,
    ) -> io::Result<Bytes> {
        let image = program.and_then(|program| program.image.as_ref());
        let order = FloorOrder::Load {
            code: path_of(code.file()),
            spec: Box::new(spec.clone()),
            input: input.to_vec(),
            image: image.map(|image| (path_of(image.file()), image.of)),
        };
        match self.ask(&order)? {
            FloorSays::Output(output) => Ok(output.into()),
            says => Err(unexpected(says)),
        }
    }

    /// The time of one of this many forked children that run the task.
    pub(crate) fn tasks(&mut self, count: u32, at_once: u32) -> io::Result<Duration> {
        let took = self.took(&FloorOrder::Tasks { count, at_once })?;
        Ok(took / count.max(1))
    }

    /// The task once, in the program itself: its output.
    pub(crate) fn call(&mut self, ahead: bool) -> io::Result<Bytes> {
        match self.ask(&FloorOrder::Call { ahead })? {
            FloorSays::Output(output) => Ok(output.into()),
            says => Err(unexpected(says)),
        }
    }

    /// The time of one of this many round trips of this many bytes.
    pub(crate) fn echo(&mut self, size: usize, count: u32) -> io::Result<Duration> {
        let order = FloorOrder::Echo {
            size: size as u64,
            count,
        };
        write_frame(&mut self.to, &order)?;
        self.answer(Deadline::after(PATIENCE)).and_then(done)?;
        let (message, mut back) = (vec![b'w'; size], vec![0; size]);
        let began = Instant::now();
        for _ in 0..count {
            self.to.write_all(&message)?;
            self.from.read_exact(&mut back)?;
        }
        Ok(began.elapsed() / count.max(1))
    }

    /// The time that this many bytes take, written this many at a time.
    pub(crate) fn sink(&mut self, bytes: u64, chunk: usize) -> io::Result<Duration> {
        write_frame(&mut self.to, &FloorOrder::Sink { bytes })?;
        self.answer(Deadline::after(PATIENCE)).and_then(done)?;
        let chunk = vec![b'w'; chunk.max(1)];
        let began = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let len = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            self.to.write_all(&chunk[..len])?;
            left -= len as u64;
        }
        self.answer(Deadline::after(PATIENCE)).and_then(done)?;
        Ok(began.elapsed())
    }

    /// Children that wait until this is dropped.
    pub(crate) fn hold(&mut self, count: u32) -> io::Result<Vec<u32>> {
        match self.ask(&FloorOrder::Hold { count })? {
            FloorSays::Held(pids) => Ok(pids),
            says => Err(unexpected(says)),
        }
    }

    /// What it and its children that ended have used so far.
    pub(crate) fn usage(&mut self) -> io::Result<Usage> {
        match self.ask(&FloorOrder::Usage)? {
            FloorSays::Used(usage) => Ok(usage),
            says => Err(unexpected(says)),
        }
    }

    fn took(&mut self, order: &FloorOrder) -> io::Result<Duration> {
        match self.ask(order)? {
            FloorSays::Took { nanos } => Ok(Duration::from_nanos(nanos)),
            says => Err(unexpected(says)),
        }
    }

    fn ask(&mut self, order: &FloorOrder) -> io::Result<FloorSays> {
        write_frame(&mut self.to, order)?;
        self.answer(Deadline::after(PATIENCE))
    }

    fn answer(&mut self, until: Option<Deadline>) -> io::Result<FloorSays> {
        loop {
            let left = until.map_or(Duration::ZERO, Deadline::left);
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut watched = [PollFd::from_borrowed_fd(self.from.as_fd(), PollFlags::IN)];
            match poll(&mut watched, Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(0) if until.is_none_or(Deadline::has_passed) => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(0) => {}
                Ok(_) => return read_frame(&mut self.from),
            }
        }
    }
}

fn done(says: FloorSays) -> io::Result<()> {
    match says {
        FloorSays::Done => Ok(()),
        says => Err(unexpected(says)),
    }
}

fn unexpected(says: FloorSays) -> io::Error {
    match says {
        FloorSays::Failed(why) => io::Error::other(why),
        _ => io::Error::other("another answer than to what was asked"),
    }
}
