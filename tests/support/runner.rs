//! Runners of both modes, and guests loaded by them.

use super::paths::{repo, wrun};
use super::wait::within;
use std::time::Duration;

/// Both modes, in the order that messages name them.
pub(crate) const MODES: [&str; 2] = ["thread", "process"];

/// Both modes, for tests of the library.
pub(crate) const BOTH: [wrun::Mode; 2] = [wrun::Mode::Thread, wrun::Mode::Process];

/// Both modes, and in thread mode both ways to preempt a guest.
pub(crate) const WAYS: [(wrun::Mode, wrun::Preemption); 3] = [
    (wrun::Mode::Thread, wrun::Preemption::Epoch),
    (wrun::Mode::Thread, wrun::Preemption::Signal),
    (wrun::Mode::Process, wrun::Preemption::Epoch),
];

/// How guests are preempted where a test does not say: `WRUN_TEST_PREEMPT=signal` runs all
/// tests that way.
pub(crate) fn preemption() -> wrun::Preemption {
    match std::env::var("WRUN_TEST_PREEMPT") {
        Ok(name) => name.parse().expect("epoch or signal"),
        Err(_) => wrun::Preemption::default(),
    }
}

/// A runner's builder, with the worker that was built with these tests.
pub(crate) fn builder(mode: wrun::Mode) -> wrun::Builder {
    wrun::Runner::builder()
        .mode(mode)
        .preemption(preemption())
        .process(wrun::ProcessOptions::default().worker(wrun()))
}

/// A runner with the defaults.
pub(crate) fn runner(mode: wrun::Mode) -> wrun::Runner {
    builder(mode).build().expect("a runner with the defaults")
}

/// Loads a guest by its path under `guest-tasks/`.
pub(crate) fn guest(runner: &wrun::Runner, path: &str) -> wrun::Artifact {
    match runner.blocking_load(repo("guest-tasks").join(path)) {
        Ok(artifact) => artifact,
        Err(error) => panic!("guest-tasks/{path} cannot be loaded: {error}"),
    }
}

/// Loads a guest from WAT text.
pub(crate) fn wat(runner: &wrun::Runner, name: &str, text: &str) -> wrun::Artifact {
    match runner.blocking_load_bytes(name, text.as_bytes().to_vec()) {
        Ok(artifact) => artifact,
        Err(error) => panic!("{name} cannot be loaded: {error}"),
    }
}

/// What every test of a misdeed ends with: the runner runs a good task.
pub(crate) fn still_works(runner: &wrun::Runner) {
    let echo = guest(runner, "echo/echo.wat");
    let report = runner
        .blocking_run(wrun::Task::new(&echo).input("still here"))
        .expect("the runner runs a good task after a bad one");
    assert_eq!(
        report.outcome.output().map(|output| output.as_bytes()),
        Some(&b"still here"[..]),
        "a good task after a bad one in {} mode: {}",
        runner.mode(),
        report.outcome
    );
}

/// Input that neither delivers nor ends.
pub(crate) fn silent() -> wrun::Input {
    struct Silent;
    impl tokio::io::AsyncRead for Silent {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Pending
        }
    }
    wrun::Input::reader(Silent)
}

/// How long a task may take to begin, on a machine that is busy with other tests.
const BEGINS: Duration = Duration::from_secs(60);

/// Waits until a task has reported progress.
#[track_caller]
pub(crate) fn await_progress(handle: &wrun::TaskHandle) {
    let begun = within(BEGINS, || handle.progress().done > 0);
    assert!(begun, "no progress within {BEGINS:?}");
}

/// Submits a task that streams its stdout, and waits until it has printed something; gives
/// the stream too.
#[track_caller]
pub(crate) fn begun_printing(
    runner: &wrun::Runner,
    task: wrun::Task,
) -> (wrun::TaskHandle, wrun::OutputStream) {
    let task = task.stdout(wrun::Stdio::Stream);
    let mut handle = runner.blocking_submit(task).unwrap();
    let mut stdout = handle.take_stdout().expect("streamed");
    await_output(&mut stdout);
    (handle, stdout)
}

/// Waits for the first output of a stream, and returns it.
#[track_caller]
pub(crate) fn await_output(stream: &mut wrun::OutputStream) -> bytes::Bytes {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let chunk = tokio.block_on(async { tokio::time::timeout(BEGINS, stream.next_chunk()).await });
    chunk
        .expect("output in time")
        .expect("output, and not its end")
}
