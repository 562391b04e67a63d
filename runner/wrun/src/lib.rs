//! Runs WebAssembly tasks in separate processes or on threads, under one ABI.
//!
//! A *task* is other people's compute: a plug-in, customer code, a batch job,
//! compiled to WebAssembly from any language. A [`Runner`] runs tasks in one of
//! two [`Mode`]s that differ in how strong the walls are and in what they cost,
//! and in nothing else: the same file gives the same outcome and the same output
//! in both.
//!
//! # Quick start
//!
//! ```
//! use wrun::{Mode, Runner, Task};
//!
//! # fn main() -> Result<(), wrun::Error> {
//! let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let greet = runner.load("../../guest-tasks/hello/hello.wat")?;
//! let report = runner.run(Task::new(&greet).input("wrun"))?;
//! assert_eq!(report.stdout, "hello, wrun");
//! # Ok(())
//! # }
//! ```
//!
//! Load once, run any number of times: an [`Artifact`] is compiled code, and each
//! run of it is a fresh sandbox that nothing of another run reaches.
//!
//! # Modes
//!
//! | | [`Mode::Process`], the default | [`Mode::Thread`] |
//! |---|---|---|
//! | a task runs | in an operating-system process of its own | on threads of this process |
//! | it is held by | wasmtime's sandbox, and around it a process that shares no memory with yours | wasmtime's sandbox |
//! | a crash of the runtime ends | that task ([`Outcome::Crashed`]) | this process |
//! | starting one costs | a fraction of a millisecond | microseconds |
//! | at the same time, by default | 4 for each processor | 512 |
//!
//! In process mode the kernel confines each worker further: seccomp, Landlock,
//! namespaces, limits, an identity without rights. [`Jail`] says how much of that
//! a system must have, [`Report::jail`] what it had. Thread mode has nothing of the
//! kind, and does not hold an attacker who has an exploit for wasmtime.
//!
//! Process mode starts a worker program, which is your own: its `main` calls
//! [`worker_hook`] first, which in a worker never returns and anywhere else
//! returns at once.
//!
//! ```no_run
//! fn main() -> Result<(), wrun::Error> {
//!     wrun::worker_hook();
//!     let runner = wrun::Runner::builder().build()?;
//!     // ...
//! #   drop(runner);
//!     Ok(())
//! }
//! ```
//!
//! `#[tokio::main]` starts threads before that: write a `main` that calls the hook, and
//! then a function with that attribute.
//!
//! A program that cannot (a library of a larger one, a test) names another with
//! [`Builder::worker`]; `wrun` itself is one. Without either, [`Builder::build`]
//! says [`ErrorKind::NoWorker`].
//!
//! # Tasks
//!
//! [`Runner::load`] takes a component that exports the world's `run`, a command
//! (WASI 0.1 or 0.2), or a core module or WAT text with the world's functions;
//! [`Shape`] has the details. A task that exports `run` is called with its input
//! and returns its output; a command reads stdin and writes stdout.
//!
//! A [`Task`] is one run: arguments, input, grants, limits. **Nothing is granted
//! by default**, no directory, no variable, no address, and everything is
//! limited:
//!
//! ```
//! use std::time::Duration;
//! use wrun::{DirGrant, Limits, Mode, Runner, Task};
//!
//! # fn main() -> Result<(), wrun::Error> {
//! # let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let digest = runner.load("../../guest-tasks/digest/digest.wasm")?;
//! let report = runner.run(
//!     Task::new(&digest)
//!         .args(["/in/sub/c.txt"])
//!         .dir(DirGrant::new("../../guest-tasks/inputs/tree").guest("/in").read_only())
//!         .limits(
//!             Limits::default()
//!                 .timeout(Duration::from_secs(10))
//!                 .max_memory(16 << 20),
//!         ),
//! )?;
//! assert!(report.outcome.is_completed());
//! assert!(report.stdout.ends_with(b"  /in/sub/c.txt\n"));
//!
//! // The same without the grant: the guest is told that there is no such file,
//! // and the report tells you what it asked for.
//! let report = runner.run(Task::new(&digest).args(["/in/sub/c.txt"]))?;
//! assert_eq!(report.outcome, wrun::Outcome::Exited(1));
//! assert_eq!(report.denied[0].access, wrun::Access::Directories);
//! # Ok(())
//! # }
//! ```
//!
//! [`Limits`] says what each limit means and what it is by default. A deadline
//! counts from submission and also ends a task that waits in a host call; memory
//! is summed over all memories of a task; fuel is a limit that does not depend on
//! the machine.
//!
//! # Outcomes and errors
//!
//! What a guest does is a value, the [`Outcome`] in its [`Report`]; an [`Error`]
//! is the runner's own failure, or yours: no such file, not WebAssembly, a queue
//! that is full.
//!
//! ```
//! use wrun::{ErrorKind, Limit, Limits, Mode, Outcome, Runner, Task, TrapKind};
//!
//! # fn main() -> Result<(), wrun::Error> {
//! # let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let hostile = |name: &str| runner.load(format!("../../guest-tasks/hostile/{name}"));
//!
//! let endless = hostile("endless-loop.wat")?;
//! let report = runner.run(Task::new(&endless).limits(Limits::default().fuel(100_000)))?;
//! assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Fuel));
//!
//! let report = runner.run(Task::new(&hostile("div-by-zero.wat")?))?;
//! match report.outcome {
//!     Outcome::Trapped(trap) => assert_eq!(trap.kind, TrapKind::Arithmetic),
//!     other => panic!("{other}"),
//! }
//!
//! let error = hostile("not-wasm.wasm").expect_err("it is none");
//! assert_eq!(error.kind(), ErrorKind::NotLoadable);
//! # Ok(())
//! # }
//! ```
//!
//! [`Error::is_retryable`] tells whether the same call may succeed later. A
//! report has what the run cost ([`Stats`]), what was refused ([`Denial`]), and a
//! JSON form ([`Report::to_json`]).
//!
//! # Blocking and asynchronous
//!
//! A runner has threads of its own and works with any executor or with none.
//! Every way to submit has both forms, and a blocking one in asynchronous code is
//! an error rather than a deadlock.
//!
//! | | waits for | blocking | asynchronous |
//! |---|---|---|---|
//! | load | compiling | [`Runner::load`] | [`Runner::load_async`] |
//! | run to the end | the report | [`Runner::run`] | `submit`, then `outcome` |
//! | submit | room in the queue | [`Runner::submit_blocking`] | [`Runner::submit`] |
//! | submit if there is room | nothing | [`Runner::try_submit`] | [`Runner::try_submit`] |
//! | have a named lock | whoever asked before | [`Runner::lock_blocking`] | [`Runner::lock`] |
//! | have it if it is free | nothing | [`Runner::try_lock`] | [`Runner::try_lock`] |
//! | take the report | the end | [`TaskHandle::wait`] | [`TaskHandle::outcome`] |
//! | end the runner | all tasks | [`Runner::shutdown_blocking`] | [`Runner::shutdown`] |
//! | end it in time | all tasks, so long | [`Runner::shutdown_within_blocking`] | [`Runner::shutdown_within`] |
//!
//! ```
//! use wrun::{Mode, Runner, Task};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let count = runner.load_async("../../guest-tasks/wordcount/wordcount.wasm").await?;
//! let mut handles = Vec::new();
//! for text in ["one", "two words", "and three more"] {
//!     handles.push(runner.submit(Task::new(&count).input(text)).await?);
//! }
//! let mut words = 0;
//! for handle in handles {
//!     let report = handle.outcome().await?;
//!     let counts = String::from_utf8_lossy(&report.stdout).into_owned();
//!     words += counts.split(' ').nth(1).unwrap_or("0").parse::<u32>()?;
//! }
//! assert_eq!(words, 6);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! [`Builder::max_running`] tasks run, [`Builder::max_queued`] wait, and beyond
//! that the submitter waits: a producer that is faster than its tasks costs no
//! memory. A [`TaskHandle`] tells progress, asks its task to stop
//! ([`cancel`](TaskHandle::cancel)), or ends it ([`kill`](TaskHandle::kill)), as
//! dropping it does. Dropping the runner ends everything and waits until it is
//! gone.
//!
//! # Streams
//!
//! Input may be any reader, and output can be taken as it is produced. Who reads
//! slowly makes the task wait; who stops reading makes its writes fail. With
//! [`Stdio::Stdout`] for stderr both come in one stream, in the order in which they
//! were written.
//!
//! ```
//! use tokio::io::AsyncWriteExt;
//! use wrun::{Input, Mode, Runner, Stdio, Task};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let cat = runner.load_async("../../guest-tasks/cat/cat.wasm").await?;
//! let (mut stdin, reader) = tokio::io::duplex(1024);
//! let task = Task::new(&cat).input(Input::reader(reader)).stdout(Stdio::Stream);
//! let mut handle = runner.submit(task).await?;
//! let mut stdout = handle.stdout().expect("it is streamed");
//!
//! stdin.write_all(b"a question").await?;
//! assert_eq!(stdout.next_chunk().await.as_deref(), Some(&b"a question"[..]));
//! drop(stdin);
//! assert!(handle.outcome().await?.outcome.is_completed());
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # Channels
//!
//! A running task and its host, or two tasks, send each other messages over a
//! channel ([`Runner::channel`]): in thread mode a queue, in process mode a socket
//! between the two processes. Each of its ends is a [`Port`]; ports and regions
//! move along in messages.
//!
//! ```
//! use wrun::{Message, Mode, PortError, Runner, Task};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let echo = runner.load("../../guest-tasks/ports/ports.wasm")?;
//! let (theirs, port) = runner.channel(16)?;
//! let task = runner.submit_blocking(Task::new(&echo).input("echo").port(theirs))?;
//!
//! port.send_blocking("ping")?;
//! assert_eq!(port.receive_blocking()?.data, "ping");
//!
//! // Two tasks, with nobody in between.
//! let (one, other) = runner.channel(1)?;
//! port.send_blocking(Message::new("an end for you").port(one))?;
//! let back = port.receive_blocking()?;
//! assert_eq!(back.ports.len(), 1);
//! drop((back, other));
//!
//! port.close();
//! assert_eq!(port.receive_blocking().unwrap_err(), PortError::Closed);
//! assert_eq!(task.wait()?.stdout, "2 echoed");
//! # Ok(())
//! # }
//! ```
//!
//! # Regions
//!
//! A [`Region`] is memory that goes to tasks without a copy, however large it is: one
//! input for many tasks ([`Runner::frozen_region`]), a buffer that is passed on and
//! comes back, counters that all look at ([`Runner::region`]). It travels in messages.
//!
//! ```
//! use wrun::{Message, Mode, RegionKind, Runner, Task};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let sum = runner.load("../../guest-tasks/ports/ports.wasm")?;
//! let input = runner.frozen_region(&[1; 1 << 17])?;
//! for _ in 0..3 {
//!     let (theirs, port) = runner.channel(1)?;
//!     let task = runner.submit_blocking(Task::new(&sum).input("sum").port(theirs))?;
//!     port.send_blocking(Message::default().region(input.duplicate()?))?;
//!     assert_eq!(port.receive_blocking()?.data, "131072");
//!     port.close();
//!     assert!(task.wait()?.outcome.is_completed());
//! }
//! let counter = runner.region(8, RegionKind::Shared)?;
//! counter.add_u64(0, 5)?;
//! assert_eq!(counter.load_u64(0)?, 5);
//! # Ok(())
//! # }
//! ```
//!
//! # Child tasks
//!
//! A task starts tasks that it was granted by name ([`Task::task`], [`TaskGrant`]), in
//! the mode that it runs in itself, gives each an input and a port, and learns how it
//! ended. They are granted the same tasks and nothing else, have the limits of their
//! grant or of their parent, and end with it. [`Limits::max_tasks`],
//! [`Limits::max_depth`], [`Limits::max_total_memory`] and [`Builder::max_children`] bound
//! them.
//!
//! ```
//! use wrun::{Mode, Runner, Task};
//!
//! # fn main() -> Result<(), wrun::Error> {
//! let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let parent = runner.load("../../guest-tasks/family/family.wasm")?;
//! let echo = runner.load("../../guest-tasks/echo/echo.wat")?;
//! let task = Task::new(&parent).input("run echo hello").task("echo", &echo);
//! let report = runner.run(task)?;
//! assert_eq!(report.stdout, "completed hello");
//! assert_eq!(report.stats.children, 1);
//! # Ok(())
//! # }
//! ```
//!
//! Whoever knows Node's `child_process`, `worker_threads` and `cluster` finds each of
//! their options and events, and what to use here, in `docs/counterparts.md`.
//!
//! # Caching
//!
//! Compiling takes from milliseconds to seconds, once for each [`Runner::load`].
//! [`Cache::User`] or [`Cache::Directory`] keeps the code between runs of a
//! program; [`Runner::compile`] makes a file of it, which
//! [`Runner::load_trusted`] loads: it is native code.
//!
//! ```
//! use wrun::{Cache, Mode, Runner};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("cache");
//! let runner = Runner::builder()
//!     .mode(Mode::Thread)
//!     .cache(Cache::Directory(path))
//!     .build()?;
//! let compiled = runner.load("../../guest-tasks/markdown/markdown.wasm")?;
//! let cached = runner.load("../../guest-tasks/markdown/markdown.wasm")?;
//! assert_eq!(compiled.digest(), cached.digest());
//! # Ok(())
//! # }
//! ```
//!
//! # Signals and limits of your program
//!
//! Building a runner gives SIGXFSZ, the signal of the limit on the size of files, a handler
//! that does nothing, unless your program has decided what it does: the write is then an
//! error and not the end of your program. Programs that yours starts have the default.
//! wasmtime sets handlers for the signals by which guests trap. No other disposition is
//! touched; broken pipes are errors on the runner's threads and in [`Runner::run`], also
//! in a program that dies of SIGPIPE.
//!
//! Where the system gives no more (threads, memory, descriptors, room in a file), calls fail
//! with [`ErrorKind::System`], and the message names the limit of your program that may
//! be behind it (`ulimit`). A runner starts with fewer threads than it wants, but two.
//!
//! # What it costs
//!
//! - **Thread mode**: microseconds for a fresh sandbox, a slot of a memory pool
//!   (address space) and about five mappings for each task; a task that waits
//!   costs no thread. Ten thousand that wait took 275 MiB of resident memory in
//!   one process on Linux 6.18 (`tests/leaks.rs`).
//! - **Process mode**: a process for each task, milliseconds;
//!   [`Builder::spares`] are made ahead, so that a task does not wait for its own.
//! - **Fuel**: compiles a second time, up to two times slower code; only for tasks
//!   that have that limit.
//! - **Output and input** are bounded where they are kept, streamed where they are
//!   not.
//!
//! `docs/benchmarks.md` has the measurements, and the example `both_modes` those
//! of your own task on your own machine. The other examples: `limits_and_kill`,
//! `plugin_server`, `batch`, `talk`.

#![forbid(unsafe_code)]

mod builder;
mod children;
mod core;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod hook;
mod launch;
#[cfg(feature = "measure")]
#[doc(hidden)]
pub mod measure;
mod provider;
mod retry;
mod runner;
mod task;
mod task_grant;
mod thread;

/// For wrun's own tests: this process is to be a host that dies of broken pipes.
#[cfg(feature = "test-hooks")]
#[doc(hidden)]
pub fn die_of_broken_pipes() {
    wrun_sys::die_of_broken_pipes();
}

pub use builder::Builder;
pub use handle::{Canceller, Killer, OutputStream, ProgressWatch, TaskHandle};
pub use hook::worker_hook;
pub use runner::Runner;
pub use task::{Input, Stdio, Task};
pub use task_grant::TaskGrant;
#[doc(inline)]
pub use wrun_process::{StopSignal, job_control, job_control_around, suspend};
#[doc(inline)]
pub use wrun_sandbox::deadline::time_suspended;
#[doc(inline)]
pub use wrun_sandbox::lock_table::LockMode;
#[doc(inline)]
pub use wrun_sandbox::locks::LockGuard;
#[doc(inline)]
pub use wrun_sandbox::port::{Message, Port, PortError, Unsent};
#[doc(inline)]
pub use wrun_sandbox::region::{Kind as RegionKind, Region, RegionError, Waited};
#[doc(inline)]
pub use wrun_sandbox::{Artifact, Compiled, Inspection, Progress, Shape, inspect};
#[doc(inline)]
pub use wrun_sys::shortage::hint as limit_hint;
#[doc(inline)]
pub use wrun_types::config::{Cache, Jail, Mode, Start};
#[doc(inline)]
pub use wrun_types::error::{Error, ErrorKind};
#[doc(inline)]
pub use wrun_types::grant::{DirGrant, TcpGrant};
#[doc(inline)]
pub use wrun_types::jail_report::{JailReport, Layer, LayerReport, LayerState};
#[doc(inline)]
pub use wrun_types::limits::{Limit, Limits};
#[doc(inline)]
pub use wrun_types::outcome::{Crash, Outcome, Output, Trap, TrapKind};
#[doc(inline)]
pub use wrun_types::report::{Access, Denial, Report, Stats, Usage};
#[doc(inline)]
pub use wrun_types::spec::Terminals;
#[doc(inline)]
pub use wrun_types::task_error::TaskError;

/// The README's example is compiled, too.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
