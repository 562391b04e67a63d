//! Runs WebAssembly tasks in separate processes or on threads, under one ABI.
//!
//! A *task* is other people's compute: a plug-in, customer code, a batch job, compiled to
//! WebAssembly from any language. A [`Runner`] runs tasks in one of two [`Mode`]s that
//! differ only in how strong the walls are and in what they cost: the same file gives the
//! same outcome and the same output in both.
//!
//! # Quick start
//!
//! ```
//! use wrun::{Mode, Runner, Task};
//!
//! # fn main() -> Result<(), wrun::Error> {
//! let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let greet = runner.blocking_load("../../guest-tasks/hello/hello.wat")?;
//! let report = runner.blocking_run(Task::new(&greet).input("wrun"))?;
//! assert_eq!(report.stdout, "hello, wrun");
//! # Ok(())
//! # }
//! ```
//!
//! Load once, run any number of times: an [`Artifact`] is compiled code, and each run of it
//! is a fresh sandbox, isolated from other runs.
//!
//! # Modes
//!
//! | | [`Mode::Process`], the default | [`Mode::Thread`] |
//! |---|---|---|
//! | a task runs | in an operating-system process of its own | on threads of this process |
//! | it is held by | wasmtime's sandbox, and around it a process that shares no memory with yours | wasmtime's sandbox |
//! | a crash of the runtime ends | that task ([`Outcome::Crashed`]) | this process |
//! | starting one costs | a fraction of a millisecond | microseconds |
//! | the guest's code computes | as fast as in bare wasmtime | 1.0 to 2.0 times the time, for checks that preempt it; without them with [`Preemption::Signal`] |
//! | at the same time, by default | 4 for each processor | 512 |
//!
//! In process mode the kernel confines each worker further: seccomp, Landlock, namespaces,
//! limits, an identity without rights. [`Jail`] says how much of that a system must
//! provide, [`Report::jail`] what it provided. Thread mode has no such walls, and does not
//! stop an attacker who has an exploit for wasmtime.
//!
//! Process mode starts a worker program, which is your own: its `main` calls
//! [`worker_hook`] first, which never returns in a worker and returns at once otherwise.
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
//! A program that cannot (a library of a larger one, a test) sets another with
//! [`ProcessOptions::worker`]; `wrun` itself is one. Without either, [`Builder::build`]
//! returns [`ErrorKind::NoWorker`].
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
//! let digest = runner.blocking_load("../../guest-tasks/digest/digest.wasm")?;
//! let report = runner.blocking_run(
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
//! // The same without the grant: the guest finds no such file, and the report has the
//! // refused request.
//! let report = runner.blocking_run(Task::new(&digest).args(["/in/sub/c.txt"]))?;
//! assert_eq!(report.outcome, wrun::Outcome::Exited(1));
//! assert_eq!(report.denied[0].access, wrun::Access::Directories);
//! # Ok(())
//! # }
//! ```
//!
//! [`Limits`] documents each limit and its default. A deadline counts from submission and
//! also ends a task that waits in a host call; memory is summed over all memories of a
//! task; fuel is a limit that does not depend on the machine.
//!
//! # Outcomes and errors
//!
//! What a guest does is a value, the [`Outcome`] in its [`Report`]; an [`Error`] is a
//! failure of the runner, or of the caller: a missing file, bytes that are not WebAssembly,
//! a full queue.
//!
//! ```
//! use wrun::{ErrorKind, Limit, Limits, Mode, Outcome, Runner, Task, TrapKind};
//!
//! # fn main() -> Result<(), wrun::Error> {
//! # let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let hostile = |name: &str| runner.blocking_load(format!("../../guest-tasks/hostile/{name}"));
//!
//! let endless = hostile("endless-loop.wat")?;
//! let report = runner.blocking_run(Task::new(&endless).limits(Limits::default().fuel(100_000)))?;
//! assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Fuel));
//!
//! let report = runner.blocking_run(Task::new(&hostile("div-by-zero.wat")?))?;
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
//! [`Error::is_retryable`] says whether the same call may succeed later. A report has the
//! costs of the run ([`Stats`]), its refused requests ([`Denial`]), and a JSON form
//! ([`Report::to_json`]).
//!
//! # Blocking and asynchronous
//!
//! A runner has its own threads and works with any executor or none. As in tokio, the
//! asynchronous call has the plain name, and the one for code that is not asynchronous
//! begins with `blocking_`. If that could block asynchronous code forever, it fails there
//! instead, with [`ErrorKind::BlockingInAsync`].
//!
//! | | waits for | asynchronous | blocking |
//! |---|---|---|---|
//! | load | compiling | [`Runner::load`] | [`Runner::blocking_load`] |
//! | load bytes | compiling | [`Runner::load_bytes`] | [`Runner::blocking_load_bytes`] |
//! | load what you compiled | reading | [`Runner::load_trusted`] | [`Runner::blocking_load_trusted`] |
//! | compile to a file | compiling | [`Runner::compile`] | [`Runner::blocking_compile`] |
//! | run to the end | the report | [`Runner::run`] | [`Runner::blocking_run`] |
//! | submit | room in the queue | [`Runner::submit`] | [`Runner::blocking_submit`] |
//! | many, and their reports | a report | [`Runner::batch`] | |
//! | submit if there is room | nothing | [`Runner::try_submit`], [`Runner::try_submit_here`] | [`Runner::try_submit`] |
//! | take the report | the end | [`TaskHandle::report`], or the handle itself | [`TaskHandle::blocking_report`] |
//! | take the report if there is one | nothing | [`TaskHandle::try_report`] | [`TaskHandle::try_report`] |
//! | read streamed output | output | [`OutputStream::next_chunk`] | [`OutputStream::blocking_next_chunk`] |
//! | acquire a named lock | earlier requests | [`Runner::lock`] | [`Runner::blocking_lock`] |
//! | acquire it if it is free | nothing | [`Runner::try_lock`] | [`Runner::try_lock`] |
//! | send a message | room in the channel | [`Port::send`] | [`Port::blocking_send`] |
//! | receive a message | a message | [`Port::receive`] | [`Port::blocking_receive`], [`Port::blocking_receive_timeout`] |
//! | wait at a word | a notification | [`Region::wait`] | [`Region::blocking_wait`] |
//! | end the runner | all tasks | [`Runner::shutdown`] | [`Runner::blocking_shutdown`] |
//! | end it in time | all tasks, for this long | [`Runner::shutdown_within`] | [`Runner::blocking_shutdown_within`] |
//!
//! ```
//! use wrun::{Mode, Runner, Task};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let count = runner.load("../../guest-tasks/wordcount/wordcount.wasm").await?;
//! let mut handles = Vec::new();
//! for text in ["one", "two words", "and three more"] {
//!     handles.push(runner.submit(Task::new(&count).input(text)).await?);
//! }
//! let mut words = 0;
//! for handle in handles {
//!     let report = handle.await?;
//!     let counts = String::from_utf8_lossy(&report.stdout).into_owned();
//!     words += counts.split(' ').nth(1).unwrap_or("0").parse::<u32>()?;
//! }
//! assert_eq!(words, 6);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! [`Builder::max_running`] tasks run, [`Builder::max_queued`] wait, and beyond that the
//! submitter waits: a producer that is faster than its tasks costs no memory. A
//! [`TaskHandle`] reports progress, requests its task to stop
//! ([`cancel`](TaskHandle::cancel)), or ends it ([`kill`](TaskHandle::kill)), as dropping
//! it does. Dropping the runner ends everything and waits until it is gone.
//!
//! # Streams
//!
//! Input may be any reader, and output can be taken as it is produced. A slow reader makes
//! the task wait; if the reader is dropped, the task's writes fail. With [`Stdio::Stdout`]
//! for stderr both come in one stream, in the order in which they were written.
//!
//! ```
//! use tokio::io::AsyncWriteExt;
//! use wrun::{Input, Mode, Runner, Stdio, Task};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! # let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let cat = runner.load("../../guest-tasks/cat/cat.wasm").await?;
//! let (mut stdin, reader) = tokio::io::duplex(1024);
//! let task = Task::new(&cat).input(Input::reader(reader)).stdout(Stdio::Stream);
//! let mut handle = runner.submit(task).await?;
//! let mut stdout = handle.take_stdout().expect("it is streamed");
//!
//! stdin.write_all(b"a question").await?;
//! assert_eq!(stdout.next_chunk().await.as_deref(), Some(&b"a question"[..]));
//! drop(stdin);
//! assert!(handle.report().await?.outcome.is_completed());
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # Channels
//!
//! A running task and its host, or two tasks, send each other messages over a channel
//! ([`Runner::channel`]): in thread mode a queue, in process mode a socket between the two
//! processes. Each end is a [`Port`]; messages can carry ports and regions.
//!
//! ```
//! use wrun::{Message, Mode, PortError, Runner, Task};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let echo = runner.blocking_load("../../guest-tasks/ports/ports.wasm")?;
//! let (theirs, port) = runner.channel(16)?;
//! let mut task = runner.blocking_submit(Task::new(&echo).input("echo").port(theirs))?;
//!
//! port.blocking_send("ping")?;
//! assert_eq!(port.blocking_receive()?.data, "ping");
//!
//! // Two tasks, connected directly.
//! let (one, other) = runner.channel(1)?;
//! port.blocking_send(Message::new("an end for you").port(one))?;
//! let back = port.blocking_receive()?;
//! assert_eq!(back.ports.len(), 1);
//! drop((back, other));
//!
//! port.close();
//! assert_eq!(port.blocking_receive().unwrap_err(), PortError::Closed);
//! assert_eq!(task.blocking_report()?.stdout, "2 echoed");
//! # Ok(())
//! # }
//! ```
//!
//! # Regions
//!
//! A [`Region`] is memory that is passed to tasks without a copy, however large it is: one
//! input for many tasks ([`Runner::frozen_region`]), a buffer that is passed on and comes
//! back, counters that all tasks read ([`Runner::region`]). It travels in messages.
//!
//! ```
//! use wrun::{Message, Mode, RegionKind, Runner, Task};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let sum = runner.blocking_load("../../guest-tasks/ports/ports.wasm")?;
//! let input = runner.frozen_region(&[1; 1 << 17])?;
//! for _ in 0..3 {
//!     let (theirs, port) = runner.channel(1)?;
//!     let mut task = runner.blocking_submit(Task::new(&sum).input("sum").port(theirs))?;
//!     port.blocking_send(Message::default().region(input.duplicate()?))?;
//!     assert_eq!(port.blocking_receive()?.data, "131072");
//!     port.close();
//!     assert!(task.blocking_report()?.outcome.is_completed());
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
//! A task starts tasks that it was granted by name ([`Task::task`], [`TaskGrant`]), in its
//! own mode, gives each an input and a port, and learns how it ended. They are granted the
//! same tasks and nothing else, have the limits of their grant or of their parent, and end
//! with it. [`Limits::max_tasks`], [`Limits::max_depth`], [`Limits::max_total_memory`] and
//! [`Builder::max_children`] bound them.
//!
//! ```
//! use wrun::{Mode, Runner, Task};
//!
//! # fn main() -> Result<(), wrun::Error> {
//! let runner = Runner::builder().mode(Mode::Thread).build()?;
//! let parent = runner.blocking_load("../../guest-tasks/family/family.wasm")?;
//! let echo = runner.blocking_load("../../guest-tasks/echo/echo.wat")?;
//! let task = Task::new(&parent).input("run echo hello").task("echo", &echo);
//! let report = runner.blocking_run(task)?;
//! assert_eq!(report.stdout, "completed hello");
//! assert_eq!(report.stats.children, 1);
//! # Ok(())
//! # }
//! ```
//!
//! For users of Node: `docs/counterparts.md` lists the options and events of
//! `child_process`, `worker_threads` and `cluster` with their counterparts here.
//!
//! # Caching
//!
//! Compiling takes from milliseconds to seconds, once for each [`Runner::load`].
//! [`Cache::User`] or [`Cache::Directory`] keeps the code between runs of a program;
//! [`Runner::compile`] makes a file of it, which [`Runner::load_trusted`] loads: it is
//! native code.
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
//! let compiled = runner.blocking_load("../../guest-tasks/markdown/markdown.wasm")?;
//! let cached = runner.blocking_load("../../guest-tasks/markdown/markdown.wasm")?;
//! assert_eq!(compiled.digest(), cached.digest());
//! # Ok(())
//! # }
//! ```
//!
//! # Tracing
//!
//! A runner emits spans and events of the crate
//! [`tracing`](https://docs.rs/tracing). They cost nothing that can be measured while
//! there is no subscriber. Events come from the threads of the runner as well as from the
//! caller's, so install the subscriber globally (`tracing::subscriber::set_global_default`,
//! or `init` of `tracing-subscriber`): one that is the default of a single thread receives
//! only what that thread does. Programs that the runner starts emit nothing; their runner
//! does. Call [`worker_hook`] before you install a subscriber.
//!
//! Each task has a span `task` (level INFO, target `wrun::task`), from its submission to
//! its report. Its parent is the span that is current when the task is submitted; the
//! parent of a child task's span is the span of the task that started it. Its fields:
//! `task_id` ([`TaskHandle::id`], [`Report::task_id`]), `task_name`, `artifact` (the first
//! 16 digits of [`Artifact::digest`]), `mode`, and from the second attempt on `attempt`.
//! An event that has a task is in its span.
//!
//! | target | level | event | fields |
//! |---|---|---|---|
//! | `wrun::task` | DEBUG | `queued`: it waits for a permit | |
//! | | DEBUG | `started`, for each attempt | `attempt`; in process mode `worker_pid`, `start_method`, `overhead_ns` |
//! | | INFO | `retrying`, `not retried`, after a crash | `attempt`, `pause_ns`; `why` |
//! | | DEBUG | `ended`: it has a report | `outcome` with `code`, `trap` or `limit`, `attempt`, `queue_ns`, `start_ns`, `run_ns`, `total_ns`, `children`; fewer for a child task |
//! | | DEBUG | `not run`: it has an [`Error`] | `error` |
//! | `wrun::load` | INFO, DEBUG | `loaded`: INFO if it was compiled, DEBUG if not | `name`, `artifact`, `from` (`compiler`, `cache` or `artifact`), `compile_ns`, `total_ns` |
//! | | DEBUG | `prepared`: a task needed other code, such as code that counts fuel | `artifact`, `metered`, `compile_ns` |
//! | | WARN | `compiled code is not cached` | `name`, `artifact`, `why` |
//! | | WARN | `the engine refused cached code: compiling again` | `why` |
//! | `wrun::worker` | WARN | `worker crashed` | `task_id`, `attempt`, `worker_pid`, `how`, `words_len` (bytes that it wrote to its stderr) |
//! | | WARN | `worker did not end at its deadline and was killed` | `task_id`, `attempt`, `worker_pid`, `grace_ns` |
//! | | DEBUG | `zygote started`, `zygote ended` | `zygote_pid` |
//! | | WARN | `zygote died` | `zygote_pid`, `how` |
//! | | WARN | `a worker died while it started` | `how`, `why` |
//! | | ERROR | `workers keep dying while they start: none is started for a while` | `failures`, `again_ns`, `how`, `why` |
//! | | WARN | `started by exec: forking failed` | `why` |
//! | `wrun::jail` | WARN | `a required layer of the jail is missing` ([`Jail::BestEffort`]) | `layer`, `state`, `why` |
//! | | INFO | `a layer of the jail is missing` | `layer`, `state`, `why` |
//! | | WARN | `a worker runs as root` | `layer`, `why` |
//!
//! Events of `wrun::jail` are emitted once for a runner, in no span. Times are in nanoseconds. What a
//! task does is DEBUG, also if it traps or exceeds a limit; WARN and ERROR are for what an
//! operator must know. No field has output of a task, its messages or names of its
//! functions. `task_name` and `name` are yours; a subscriber that writes them to a terminal
//! must quote them, as that of `tracing-subscriber` does. The names of events and fields
//! may change in any version.
//!
//! # Signals and limits of your program
//!
//! Building a runner gives SIGXFSZ, the signal of the limit on the size of files, a handler
//! that does nothing, unless your program has set a disposition: the write then fails and
//! does not end your program. Programs that yours starts have the default. wasmtime sets
//! handlers for the signals by which guests trap. No other disposition is changed; broken
//! pipes are errors on the runner's threads and in [`Runner::blocking_run`], even in a
//! program that dies of SIGPIPE.
//!
//! If the system provides no more (threads, memory, descriptors, room in a file), calls
//! fail with [`ErrorKind::System`], and the message names the limit of your program that
//! may have caused it (`ulimit`). A runner starts with fewer threads than configured if
//! necessary, but at least two.
//!
//! # Features
//!
//! All but `http` are on by default.
//!
//! | feature | without it |
//! |---|---|
//! | `http` | artifacts that export `wasi:http/incoming-handler` are not loaded; with it, a task may answer an HTTP request (`Task::request`) |
//! | `process` | there is thread mode alone, and no `worker_hook` |
//! | `compile` | only artifacts run ([`Runner::load_trusted`]), and the program has no compiler |
//! | `wat` | tasks are binaries; the text format is refused |
//!
//! `measure`, `test-hooks` and `fuzzing` are for this repository, without any guarantee.
//!
//! # What it costs
//!
//! - **Thread mode**: microseconds for a fresh sandbox, a slot of a memory pool
//!   (address space) and about five mappings for each task; a task that waits
//!   costs no thread. Ten thousand that wait took 275 MiB of resident memory in
//!   one process on Linux 6.18 (`tests/leaks.rs`).
//! - **Process mode**: a process for each task, milliseconds;
//!   [`ProcessOptions::spares`] are made ahead, so that a task does not wait for its own.
//! - **Fuel**: compiles a second time, up to two times slower code; only for tasks
//!   that have that limit.
//! - **Output and input** are bounded where they are kept, streamed where they are
//!   not.
//!
//! `docs/benchmarks.md` has the measurements, and the example `both_modes` makes those of
//! your own task on your own machine. The other examples: `limits_and_kill`,
//! `plugin_server`, `batch`, `talk`.

#![forbid(unsafe_code)]

mod admission;
mod batch;
mod builder;
mod children;
mod core;
mod driving;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
#[cfg(feature = "process")]
mod hook;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http")]
mod http_client;
mod in_place;
mod launch;
#[cfg(feature = "measure")]
#[doc(hidden)]
pub mod measure;
mod mode;
mod process_options;
mod provider;
mod retry;
mod runner;
mod stats;
mod task;
mod task_grant;
mod thread;
mod trace;

/// For wrun's own tests: makes this process a host that dies of broken pipes.
#[cfg(feature = "test-hooks")]
#[doc(hidden)]
pub fn die_of_broken_pipes() {
    wrun_sys::die_of_broken_pipes();
}

pub use batch::Batch;
pub use builder::Builder;
pub use handle::{Canceller, Killer, OutputStream, ProgressWatch, TaskHandle};
#[cfg(feature = "process")]
pub use hook::worker_hook;
pub use process_options::ProcessOptions;
pub use runner::Runner;
pub use stats::RunnerStats;
pub use task::{Input, Stdio, Task};
pub use task_grant::TaskGrant;
#[cfg(feature = "process")]
#[doc(inline)]
pub use wrun_process::{EarlyWorker, early_worker};
#[cfg(feature = "process")]
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
pub use wrun_sandbox::{Artifact, Compiled, Grant, Inspection, Progress, Shape, inspect};
#[doc(inline)]
pub use wrun_sys::shortage::hint as limit_hint;
#[doc(inline)]
pub use wrun_types::config::{Cache, Jail, Mode, Preemption, Start, UnknownName};
#[doc(inline)]
pub use wrun_types::error::{Error, ErrorKind};
#[doc(inline)]
#[cfg(feature = "http")]
pub use wrun_types::grant::HttpGrant;
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
#[doc(inline)]
pub use wrun_types::worker_stats::WorkerStats;

/// The README's example is compiled, too.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
