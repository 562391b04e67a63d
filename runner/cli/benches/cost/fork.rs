//! The least that a process of its own can cost a task: a program that has the
//! task loaded, forks, runs it in the child and reads its output from a pipe. No
//! limits, no grants, no jail, no supervision.

use crate::SMALL;
use crate::bare::{Bare, Memory};
use anyhow::{Context, ensure};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// The argument that makes this program the one that forks.
pub(crate) const FORK_ARG: &str = "__bare-fork";

/// What the forked processes do.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// End.
    Nothing,
    /// A sandbox, a call, a write.
    Task,
}

/// The program that forks.
pub(crate) struct Forks {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    _code: tempfile::TempPath,
}

impl Forks {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut code = tempfile::NamedTempFile::new()?;
        code.write_all(&Bare::compile("echo/echo.wat", Memory::OnDemand, true)?)?;
        let code = code.into_temp_path();
        let mut child = Command::new(std::env::current_exe()?)
            .arg(FORK_ARG)
            .arg(&*code)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().context("no stdin")?;
        let from = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Forks {
            child,
            to,
            from,
            _code: code,
        })
    }

    /// The time of one of `count` processes, this many of them at the same time.
    pub(crate) fn run(
        &mut self,
        work: Work,
        count: u32,
        in_flight: usize,
    ) -> anyhow::Result<Duration> {
        let work = match work {
            Work::Nothing => "nothing",
            Work::Task => "task",
        };
        writeln!(self.to, "{work} {count} {in_flight}")?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(Duration::from_nanos(line.trim().parse()?) / count)
    }
}

impl Drop for Forks {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program that forks, until its stdin ends.
pub(crate) fn serve(code: &Path) -> anyhow::Result<()> {
    let bare = Bare::load(code, Memory::OnDemand, true)?;
    // As a good program would: what the first run touches is not for every child
    // to touch first.
    ensure!(now(bare.run(&SMALL))??.len() == SMALL.len());
    for line in std::io::stdin().lines() {
        let line = line?;
        let mut words = line.split(' ');
        let task = words.next() == Some("task");
        let count: u32 = words.next().context("a count")?.parse()?;
        let in_flight: usize = words.next().context("a number")?.parse()?;
        let began = Instant::now();
        let mut running = VecDeque::new();
        for _ in 0..count {
            if running.len() == in_flight {
                finish(running.pop_front(), task)?;
            }
            running.push_back(start(&bare, task)?);
        }
        while !running.is_empty() {
            finish(running.pop_front(), task)?;
        }
        println!("{}", began.elapsed().as_nanos());
    }
    Ok(())
}

type Running = (i32, std::io::PipeReader);

#[expect(unsafe_code, reason = "the floor is fork itself")]
fn start(bare: &Bare, task: bool) -> anyhow::Result<Running> {
    let (reader, writer) = std::io::pipe()?;
    // SAFETY: this program has one thread, so the child's copy of everything is
    // whole; the child ends by `_exit`.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(std::io::Error::last_os_error().into()),
        0 => {
            let done = !task || {
                let output = now(bare.run(&SMALL));
                matches!(output, Ok(Ok(output)) if (&writer).write_all(&output).is_ok())
            };
            // SAFETY: no requirements.
            unsafe { libc::_exit(i32::from(!done)) }
        }
        pid => Ok((pid, reader)),
    }
}

#[expect(unsafe_code, reason = "the floor waits as it forked")]
fn finish(running: Option<Running>, task: bool) -> anyhow::Result<()> {
    let (pid, mut reader) = running.context("nothing runs")?;
    let mut output = Vec::new();
    reader.read_to_end(&mut output)?;
    ensure!(output.len() == if task { SMALL.len() } else { 0 });
    let mut status = 0;
    // SAFETY: the pointer is to a variable of ours.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    ensure!(waited == pid && status == 0, "a child failed");
    Ok(())
}

/// The output of a future that has nothing to wait for.
fn now<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    let mut future = std::pin::pin!(future);
    let mut cx = std::task::Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Ok(output);
        }
    }
    anyhow::bail!("the floor had to wait")
}
