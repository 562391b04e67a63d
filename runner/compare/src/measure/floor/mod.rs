//! The least that processes cost: a program of one thread that does what it is ordered to and
//! nothing else. No jail, no supervision; only for a task that was seen to end, and that is
//! trusted as much as thread mode trusts it.
//!
//! Orders and answers (`orders.rs`) go over the program's stdin and stdout, which also carry the
//! bytes of [`Floor::echo`] and [`Floor::sink`]. Invariant: a [`Floor`] that is dropped leaves
//! no process behind, its children included.

mod orders;
mod program;

use bytes::Bytes;
pub use orders::Work;
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

/// The program that floors are measured with: one that calls [`worker_hook`](crate::worker_hook)
/// first.
pub struct FloorProgram {
    path: PathBuf,
    image: Option<Image>,
}

impl FloorProgram {
    /// With its code on large pages where [`Floor::load`] is told so.
    pub fn new(path: PathBuf) -> Self {
        let image = Image::of(&path).ok();
        FloorProgram { path, image }
    }

    /// With its code on small pages, as the kernel maps it.
    pub fn on_small_pages(path: PathBuf) -> Self {
        FloorProgram { path, image: None }
    }
}

/// Where this process's descriptor can be opened by another.
fn path_of(descriptor: impl AsFd) -> PathBuf {
    let (pid, descriptor) = (std::process::id(), descriptor.as_fd().as_raw_fd());
    format!("/proc/{pid}/fd/{descriptor}").into()
}

/// The program while it runs.
pub struct Floor {
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
    pub fn start(program: &FloorProgram) -> io::Result<Self> {
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
    pub fn load(
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

    /// The time of one of this many forked children, `at_once` of them at the same time.
    ///
    /// # Errors
    ///
    /// A child failed.
    pub fn tasks(&mut self, work: Work, count: u32, at_once: u32) -> io::Result<Duration> {
        let order = FloorOrder::Tasks {
            work,
            count,
            at_once,
        };
        match self.ask(&order)? {
            FloorSays::Took { nanos } => Ok(Duration::from_nanos(nanos) / count.max(1)),
            says => Err(unexpected(says)),
        }
    }

    /// Runs the task once in the program itself, `ahead` in an instance that it made before the
    /// order: its output.
    ///
    /// # Errors
    ///
    /// The task failed.
    pub fn call(&mut self, ahead: bool) -> io::Result<Bytes> {
        match self.ask(&FloorOrder::Call { ahead })? {
            FloorSays::Output(output) => Ok(output.into()),
            says => Err(unexpected(says)),
        }
    }

    /// The time of one of this many round trips of this many bytes.
    ///
    /// # Errors
    ///
    /// The program ended.
    pub fn echo(&mut self, size: usize, count: u32) -> io::Result<Duration> {
        let mut echoes = self.echoes(size, count)?;
        let began = Instant::now();
        for _ in 0..count {
            echoes.round_trip()?;
        }
        Ok(began.elapsed() / count.max(1))
    }

    /// Round trips of this many bytes, one by one. The caller has to make `count` of them
    /// before the next order.
    ///
    /// # Errors
    ///
    /// The program ended.
    pub fn echoes(&mut self, size: usize, count: u32) -> io::Result<Echoes<'_>> {
        let order = FloorOrder::Echo {
            size: size as u64,
            count,
        };
        write_frame(&mut self.to, &order)?;
        self.answer(Deadline::after(PATIENCE)).and_then(done)?;
        Ok(Echoes {
            floor: self,
            message: vec![b'w'; size],
            back: vec![0; size],
        })
    }

    /// The time that this many bytes take, written this many at a time.
    ///
    /// # Errors
    ///
    /// The program ended.
    pub fn sink(&mut self, bytes: u64, chunk: usize) -> io::Result<Duration> {
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

    /// Forks children that wait until this is dropped.
    ///
    /// # Errors
    ///
    /// It cannot fork.
    pub fn hold(&mut self, count: u32) -> io::Result<Vec<u32>> {
        match self.ask(&FloorOrder::Hold { count })? {
            FloorSays::Held(pids) => Ok(pids),
            says => Err(unexpected(says)),
        }
    }

    /// What it and its children that ended have used so far.
    ///
    /// # Errors
    ///
    /// The program ended.
    pub fn usage(&mut self) -> io::Result<Usage> {
        match self.ask(&FloorOrder::Usage)? {
            FloorSays::Used(usage) => Ok(usage),
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

/// Round trips that the program expects.
pub struct Echoes<'a> {
    floor: &'a mut Floor,
    message: Vec<u8>,
    back: Vec<u8>,
}

impl Echoes<'_> {
    /// The bytes there and back: one write and one read on each side, if they fit a pipe.
    ///
    /// # Errors
    ///
    /// The program ended.
    pub fn round_trip(&mut self) -> io::Result<()> {
        self.floor.to.write_all(&self.message)?;
        self.floor.from.read_exact(&mut self.back)
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
        _ => io::Error::other("the answer is not of this order"),
    }
}
