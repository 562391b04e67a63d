//! The program that floors are measured with; see [`Floor`](super::Floor).

use super::orders::{FloorOrder, FloorSays, Work, read_frame, write_frame};
use bytes::Bytes;
use rustix::process::Signal;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio::runtime::Runtime;
use wrun::measure::{
    Bare, Code, Held, Spec,
    process::{check_alone, settle},
    sys::{Alone, Forked, Whom},
};

/// The task, and its output when it first ran.
struct Loaded {
    /// An instance for the one that runs it next.
    ahead: Option<Held>,
    bare: Bare,
    /// Made once: a child that made one would pay for it. Without I/O: a task here has no
    /// sockets.
    runtime: Runtime,
    spec: Spec,
    input: Bytes,
    output: Bytes,
}

/// Serves its stdin until that ends.
pub(super) fn work(parent: i32) -> io::Result<()> {
    settle(parent)?;
    check_alone()?;
    let alone = Alone::look().ok_or_else(|| io::Error::other("there are threads"))?;
    // Not std's locked and buffered streams: nothing but the calls.
    let mut from = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    let mut to = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?);
    let mut loaded: Option<Loaded> = None;
    loop {
        let order = match read_frame(&mut from) {
            Ok(order) => order,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let says = match order {
            FloorOrder::Load {
                code,
                spec,
                input,
                image,
            } => {
                if let Some((image, of)) = image {
                    // Without it the same code is there, on small pages.
                    let image = File::open(image);
                    let _ = image
                        .and_then(|image| wrun::measure::sys::map_own_code(&alone, &image, of));
                }
                load(&code, *spec, input).map(|it| {
                    let output = it.output.to_vec();
                    loaded = Some(it);
                    FloorSays::Output(output)
                })
            }
            FloorOrder::Tasks {
                work,
                count,
                at_once,
            } => match &mut loaded {
                Some(loaded) => forks(&alone, loaded, work, count, at_once),
                None => Err(io::Error::other("no task")),
            },
            FloorOrder::Call { ahead } => match &mut loaded {
                Some(loaded) => {
                    if !ahead {
                        loaded.ahead = None;
                    }
                    let output = loaded.run();
                    let says = output.map(|output| FloorSays::Output(output.into()));
                    write_frame(&mut to, &says.unwrap_or_else(failed))?;
                    if ahead {
                        loaded.prepare();
                    }
                    continue;
                }
                None => Err(io::Error::other("no task")),
            },
            FloorOrder::Echo { size, count } => {
                write_frame(&mut to, &FloorSays::Done)?;
                let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
                for _ in 0..count {
                    from.read_exact(&mut bytes)?;
                    to.write_all(&bytes)?;
                }
                continue;
            }
            FloorOrder::Sink { bytes } => {
                write_frame(&mut to, &FloorSays::Done)?;
                let mut buffer = vec![0; 1 << 20];
                let mut left = bytes;
                while left > 0 {
                    let most = usize::try_from(left).map_or(buffer.len(), |it| it.min(1 << 20));
                    let len = from.read(&mut buffer[..most])?;
                    if len == 0 {
                        return Ok(());
                    }
                    left -= len as u64;
                }
                Ok(FloorSays::Done)
            }
            FloorOrder::Hold { count } => hold(&alone, count),
            FloorOrder::Usage => Ok(FloorSays::Used(
                wrun::measure::sys::own_usage().and(wrun::measure::sys::children_usage()),
            )),
        };
        let says = says.unwrap_or_else(failed);
        write_frame(&mut to, &says)?;
    }
}

fn failed(error: io::Error) -> FloorSays {
    FloorSays::Failed(error.to_string())
}

fn load(code: &Path, spec: Spec, input: Vec<u8>) -> io::Result<Loaded> {
    let code = Code::from_sealed(File::open(code)?).map_err(io::Error::other)?;
    let engine = wrun::measure::single_threaded_runtime(
        code.meta.kind(),
        wrun::measure::Allocation::OnDemand,
    )
    .map_err(io::Error::other)?;
    let mut loaded = Loaded {
        ahead: None,
        bare: Bare::new(&engine, &code).map_err(io::Error::other)?,
        runtime: runtime()?,
        spec,
        input: input.into(),
        output: Bytes::new(),
    };
    // As a good program would: what the first run touches is not for every child to
    // touch first.
    loaded.output = loaded.run()?;
    Ok(loaded)
}

impl Loaded {
    /// Runs it, in the instance that was made ahead if there is one.
    fn run(&mut self) -> io::Result<Bytes> {
        let (ahead, bare) = (self.ahead.take(), &self.bare);
        let output = complete(&self.runtime, async {
            match ahead {
                Some(held) => bare.call(held, &self.input).await,
                None => bare.run(&self.spec, &self.input).await,
            }
        });
        output.map_err(|error| io::Error::other(error.root_cause().to_string()))
    }

    /// Makes an instance ahead, if that is possible.
    fn prepare(&mut self) {
        let held = self.bare.hold(&self.spec, &self.input, true);
        self.ahead = complete(&self.runtime, held).ok();
    }
}

/// The output of a future. One that never waits does not pay for the runtime, whose memory a
/// child would have to copy.
fn complete<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let entered = runtime.enter();
    let mut cx = Context::from_waker(Waker::noop());
    if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
        return output;
    }
    drop(entered);
    runtime.block_on(future)
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
}

/// A child, and where its output comes from.
struct Running {
    pid: i32,
    output: PipeReader,
}

fn forks(
    alone: &Alone,
    loaded: &mut Loaded,
    work: Work,
    count: u32,
    at_once: u32,
) -> io::Result<FloorSays> {
    let expected = match work {
        Work::Exit => 0,
        Work::Task | Work::Ready => loaded.output.len(),
    };
    loaded.ahead = None;
    if work == Work::Ready {
        // Each child has its copy.
        loaded.prepare();
    }
    let began = Instant::now();
    let mut running = VecDeque::new();
    for _ in 0..count {
        if running.len() >= at_once.max(1) as usize {
            finish(running.pop_front(), expected)?;
        }
        running.push_back(start(alone, loaded, work)?);
    }
    while !running.is_empty() {
        finish(running.pop_front(), expected)?;
    }
    let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(FloorSays::Took { nanos })
}

fn start(alone: &Alone, loaded: &mut Loaded, work: Work) -> io::Result<Running> {
    let (output, mut writer) = io::pipe()?;
    match alone.fork()? {
        Forked::Child => {
            let done = work == Work::Exit || {
                let output = loaded.run();
                output.is_ok_and(|output| writer.write_all(&output).is_ok())
            };
            wrun::measure::sys::exit_now(i32::from(!done))
        }
        Forked::Parent { pid, .. } => Ok(Running { pid, output }),
    }
}

fn finish(running: Option<Running>, expected: usize) -> io::Result<()> {
    let Some(Running { pid, mut output }) = running else {
        return Ok(());
    };
    let mut bytes = Vec::with_capacity(expected);
    output.read_to_end(&mut bytes)?;
    let exit = wrun::measure::sys::wait(Whom::Pid(pid), true)?;
    let good = exit.is_some_and(|(_, exit)| exit.end == wrun::measure::sys::End::Status(0));
    if !good || bytes.len() != expected {
        return Err(io::Error::other(
            "the output of a child is not that of the first run",
        ));
    }
    Ok(())
}

fn hold(alone: &Alone, count: u32) -> io::Result<FloorSays> {
    let mut pids = Vec::new();
    for _ in 0..count {
        match alone.fork()? {
            Forked::Child => {
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                loop {
                    let forever = rustix::event::Timespec {
                        tv_sec: 3600,
                        tv_nsec: 0,
                    };
                    let _ = rustix::thread::nanosleep(&forever);
                }
            }
            Forked::Parent { pid, .. } => pids.push(pid.cast_unsigned()),
        }
    }
    Ok(FloorSays::Held(pids))
}
