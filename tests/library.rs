//! The library as embedders use it, in both modes: submitting, waiting,
//! killing, streams, backpressure, the end of a runner, and each error.

use crate::support::guests::{PRINTS_AND_LOOPS, PRINTS_AND_SLEEPS};
use crate::support::{
    BOTH, alone, await_output, await_progress, builder, children, eventually, guest, repo, runner,
    settled, silent, still_works, wat, wrun,
};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wrun::{
    Artifact, DirGrant, Error, ErrorKind, Input, Limit, Limits, Mode, Outcome, ProcessOptions,
    Runner, Shape, Stdio, Task,
};

/// What should take no time at all, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(20);

fn echo(runner: &Runner) -> Artifact {
    guest(runner, "echo/echo.wat")
}

/// Waits until it is cancelled.
fn patient(runner: &Runner) -> Artifact {
    guest(runner, "patient/patient.wasm")
}

fn timeout(millis: u64) -> Limits {
    Limits::default().timeout(Duration::from_millis(millis))
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} takes more than {SOON:?}"),
    }
}

#[track_caller]
fn assert_error<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind, contains: &str) {
    let error = result.expect_err("an error");
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(error.to_string().contains(contains), "{error}");
    let retryable = matches!(kind, ErrorKind::Overloaded | ErrorKind::System);
    assert_eq!(error.is_retryable(), retryable, "{error:?}");
}

// --- submitting -----------------------------------------------------------

#[test]
fn every_way_to_run_a_task_gives_the_same() {
    for mode in BOTH {
        let runner = runner(mode);
        let echo = echo(&runner);
        let task = || Task::new(&echo).name("mine").input("words");
        let reports = [
            runner.blocking_run(task()).unwrap(),
            runner
                .blocking_submit(task())
                .unwrap()
                .blocking_report()
                .unwrap(),
            runner
                .try_submit(task())
                .unwrap()
                .blocking_report()
                .unwrap(),
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let mut handle = runner.submit(task()).await.unwrap();
                handle.report().await.unwrap()
            }),
        ];
        for (index, report) in reports.iter().enumerate() {
            assert_eq!(report.outcome.output().unwrap().as_bytes(), b"words");
            assert_eq!(report.stdout, "words");
            assert_eq!((report.task_id, report.attempt), (index as u64 + 1, 1));
            assert_eq!((report.name.as_str(), report.mode), ("mine", mode));
            assert_eq!(report.stats.worker_pid.is_some(), mode == Mode::Process);
            let stats = &report.stats;
            assert!(
                stats.total >= stats.queue + stats.run && stats.cpu.is_some(),
                "{stats:?}"
            );
            let json = report.to_json();
            assert_eq!(json["outcome"]["kind"], "completed");
            assert_eq!(json["mode"], mode.name());
        }
    }
}

#[test]
fn each_task_has_a_process_of_its_own() {
    let runner = runner(Mode::Process);
    let echo = echo(&runner);
    let pids: std::collections::HashSet<u32> = (0..20)
        .filter_map(|_| {
            runner
                .blocking_run(Task::new(&echo))
                .unwrap()
                .stats
                .worker_pid
        })
        .collect();
    assert_eq!(pids.len(), 20, "20 tasks ran in {} processes", pids.len());
    assert!(!pids.contains(&std::process::id()));
}

#[test]
fn a_full_queue_pushes_back() {
    for mode in BOTH {
        let runner = builder(mode).max_running(1).max_queued(1).build().unwrap();
        let patient = patient(&runner);
        let echo = echo(&runner);
        let running = runner.try_submit(Task::new(&patient)).unwrap();
        let queued = runner.try_submit(Task::new(&patient)).unwrap();
        assert_error(
            runner.try_submit(Task::new(&echo)),
            ErrorKind::Overloaded,
            "queue is full",
        );
        let tokio = tokio::runtime::Runtime::new().unwrap();
        tokio.block_on(async {
            let mut submit = Box::pin(runner.submit(Task::new(&echo)));
            let early = tokio::time::timeout(Duration::from_millis(200), &mut submit).await;
            assert!(early.is_err(), "a full queue let a task in ({mode} mode)");
            running.kill();
            let mut handle = soon("submitting", submit).await.unwrap();
            queued.kill();
            let report = soon("the task", handle.report()).await.unwrap();
            assert!(report.outcome.is_completed(), "{}", report.outcome);
        });
        // Waiting that was given up takes no place.
        let filled: Vec<_> = (0..2)
            .map(|_| runner.blocking_submit(Task::new(&patient)).unwrap())
            .collect();
        tokio.block_on(async {
            let submit = runner.submit(Task::new(&echo));
            let _ = tokio::time::timeout(Duration::from_millis(50), submit).await;
        });
        drop(filled);
        still_works(&runner);
    }
}

#[test]
fn many_threads_submit_at_once() {
    const THREADS: usize = 8;
    for mode in BOTH {
        let each = if mode == Mode::Thread { 200 } else { 25 };
        let runner = builder(mode).max_running(3).max_queued(4).build().unwrap();
        let echo = echo(&runner);
        let overloaded = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (runner, echo, overloaded) = (&runner, &echo, &overloaded);
                scope.spawn(move || {
                    for n in 0..each {
                        let input = format!("{thread}/{n}");
                        let task = Task::new(echo).input(input.as_str());
                        let report = match n % 3 {
                            0 => runner.blocking_run(task).unwrap(),
                            1 => runner
                                .blocking_submit(task)
                                .unwrap()
                                .blocking_report()
                                .unwrap(),
                            _ => match runner.try_submit(task) {
                                Ok(mut handle) => handle.blocking_report().unwrap(),
                                Err(error) => {
                                    assert_eq!(error.kind(), ErrorKind::Overloaded);
                                    overloaded.fetch_add(1, Ordering::Relaxed);
                                    continue;
                                }
                            },
                        };
                        assert_eq!(report.stdout, input, "in {mode} mode");
                    }
                });
            }
        });
        println!("{mode}: {overloaded:?} of {} overloaded", THREADS * each);
    }
}

// --- killing, cancelling, dropping ----------------------------------------

#[test]
fn killing_ends_a_task_wherever_it_is() {
    for mode in BOTH {
        let runner = runner(mode);
        for path in [
            "hostile/endless-loop.wat",
            "hostile/endless-loop-run.wat",
            "hostile/endless-sleep.wat",
            "hostile/start-loops.wat",
            "hostile/deaf-to-cancel.wat",
            "hostile/stdin-forever.wat",
            "echo/echo.wat",
        ] {
            let artifact = guest(&runner, path);
            for pause in [0, 1, 30] {
                let task = Task::new(&artifact).input(silent());
                let mut handle = runner.blocking_submit(task).unwrap();
                std::thread::sleep(Duration::from_millis(pause));
                let killer = handle.killer();
                std::thread::spawn(move || killer.kill());
                let report = handle.blocking_report().unwrap();
                assert_eq!(report.outcome, Outcome::Cancelled, "{path}, {mode}");
                assert!(report.stats.total < SOON, "{path}, {mode}");
            }
        }
        still_works(&runner);
    }
}

#[test]
fn a_task_killed_in_the_queue_never_runs() {
    for mode in BOTH {
        let runner = builder(mode).max_running(1).build().unwrap();
        let patient = patient(&runner);
        let mut running = runner.blocking_submit(Task::new(&patient)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let files = guest(&runner, "files/files.wasm");
        let mut queued = runner
            .blocking_submit(
                Task::new(&files)
                    .args(["write", "/d/ran", "x"])
                    .dir(DirGrant::new(directory.path()).guest("/d")),
            )
            .unwrap();
        queued.kill();
        let report = queued.blocking_report().unwrap();
        assert_eq!(report.outcome, Outcome::Cancelled, "in {mode} mode");
        assert_eq!(report.stats.worker_pid, None, "in {mode} mode");
        assert_eq!(report.stats.run, Duration::ZERO, "in {mode} mode");
        running.kill();
        running.blocking_report().unwrap();
        still_works(&runner);
        assert!(!directory.path().join("ran").exists(), "it ran ({mode})");
    }
}

#[test]
fn killing_a_task_that_ended_changes_nothing() {
    for mode in BOTH {
        let runner = runner(mode);
        let echo = echo(&runner);
        let mut handle = runner
            .blocking_submit(Task::new(&echo).input("x").stdout(Stdio::Stream))
            .unwrap();
        let killer = handle.killer();
        let mut stdout = handle.take_stdout().unwrap();
        assert!(
            handle.take_stdout().is_none(),
            "a stream is handed out once"
        );
        assert_eq!(stdout.blocking_next_chunk().unwrap(), "x");
        assert_eq!(stdout.blocking_next_chunk(), None);
        let report = handle.blocking_report().unwrap();
        killer.kill();
        assert!(report.outcome.is_completed(), "{}", report.outcome);
        assert!(report.stdout.is_empty(), "what is streamed is not kept");
    }
}

#[tokio::test]
async fn a_task_that_listens_ends_when_it_is_cancelled() {
    for mode in BOTH {
        let runner = runner(mode);
        let commons = guest(&runner, "commons/commons.wasm");
        let holds = Task::new(&commons).input("hold l");
        let mut handle = runner.submit(holds).await.unwrap();
        soon("its progress", handle.progress_changed()).await;
        handle.cancel();
        handle.cancel();
        let report = soon("its end", handle.report()).await.unwrap();
        assert_eq!(report.stdout, "held", "in {mode} mode");

        // Cancelled before it starts, it sees that when it does.
        let patient = patient(&runner);
        let mut handle = runner.submit(Task::new(&patient)).await.unwrap();
        handle.cancel();
        let report = soon("its end", handle.report()).await.unwrap();
        assert_eq!(report.stdout, "cancelled in time\n", "in {mode} mode");

        // One that does not listen goes on, until it is killed.
        let deaf = guest(&runner, "hostile/deaf-to-cancel.wat");
        let mut handle = runner.submit(Task::new(&deaf)).await.unwrap();
        soon("its progress", handle.progress_changed()).await;
        handle.cancel();
        let killer = handle.killer();
        let mut outcome = Box::pin(handle.report());
        let early = tokio::time::timeout(Duration::from_millis(200), &mut outcome).await;
        assert!(early.is_err(), "{early:?}");
        killer.kill();
        let report = soon("its end", outcome).await.unwrap();
        assert_eq!(report.outcome, Outcome::Cancelled, "in {mode} mode");
    }
}

#[test]
fn a_dropped_handle_kills_its_task() {
    for mode in BOTH {
        // There is one place: a task that is not killed keeps it.
        let runner = builder(mode).max_running(1).build().unwrap();
        let endless = guest(&runner, "hostile/endless-loop.wat");
        drop(runner.blocking_submit(Task::new(&endless)).unwrap());
        still_works(&runner);
        // And so does a caller that gives up waiting.
        let tokio = tokio::runtime::Runtime::new().unwrap();
        tokio.block_on(async {
            let handle = runner.submit(Task::new(&endless)).await.unwrap();
            let given_up = tokio::time::timeout(Duration::from_millis(50), handle).await;
            assert!(given_up.is_err());
            let run = runner.run(Task::new(&endless));
            let given_up = tokio::time::timeout(Duration::from_millis(50), run).await;
            assert!(given_up.is_err());
        });
        still_works(&runner);
    }
}

#[test]
fn a_detached_task_goes_on_and_shutdown_waits_for_it() {
    for mode in BOTH {
        let directory = tempfile::tempdir().unwrap();
        let runner = builder(mode).max_running(1).build().unwrap();
        let (patient, files) = (patient(&runner), guest(&runner, "files/files.wasm"));
        let first = Task::new(&patient).input("200");
        runner.blocking_submit(first).unwrap().detach();
        let write = Task::new(&files)
            .args(["write", "/d/done", "x"])
            .dir(DirGrant::new(directory.path()).guest("/d"));
        runner.blocking_submit(write).unwrap().detach();
        runner.blocking_shutdown().unwrap();
        assert!(
            directory.path().join("done").exists(),
            "shutdown did not wait for a detached task ({mode} mode)"
        );
    }
}

// --- progress and streams -------------------------------------------------

#[tokio::test]
async fn progress_arrives_and_its_last_word_is_kept() {
    for mode in BOTH {
        let runner = runner(mode);
        let context = guest(&runner, "context/context.wasm");
        let len = 5_000_000u64;
        let task = Task::new(&context).input(vec![1; len as usize]);
        let mut handle = runner.submit(task).await.unwrap();
        let mut seen = 0;
        while let Some(progress) = soon("progress", handle.progress_changed()).await {
            assert!(progress.done >= seen, "progress went back ({mode} mode)");
            assert_eq!(progress.total, Some(len), "in {mode} mode");
            seen = progress.done;
        }
        assert_eq!((seen, handle.progress().done), (len, len), "{mode} mode");
        let report = handle.report().await.unwrap();
        assert!(report.outcome.is_completed(), "{}", report.outcome);

        // A million calls are merged, not queued.
        let flood = guest(&runner, "hostile/progress-flood.wat");
        let mut handle = runner.submit(Task::new(&flood)).await.unwrap();
        let report = soon("a flood", handle.report()).await.unwrap();
        assert!(report.outcome.is_completed(), "{}", report.outcome);
    }
}

#[tokio::test]
async fn a_conversation_over_streams() {
    for mode in BOTH {
        let runner = runner(mode);
        let cat = guest(&runner, "cat/cat.wasm");
        let (mut ours, theirs) = tokio::io::duplex(64);
        let task = Task::new(&cat)
            .input(Input::reader(theirs))
            .stdout(Stdio::Stream);
        let mut handle = runner.submit(task).await.unwrap();
        let mut stdout = handle.take_stdout().expect("streamed");
        assert!(handle.take_stderr().is_none(), "stderr is captured");
        // Each word comes back before the next is sent.
        for word in ["one\n", "two\n", "three\n"] {
            ours.write_all(word.as_bytes()).await.unwrap();
            let mut answer = vec![0; word.len()];
            soon("an answer", stdout.read_exact(&mut answer))
                .await
                .unwrap();
            assert_eq!(answer, word.as_bytes(), "in {mode} mode");
        }
        ours.write_all(b"bye").await.unwrap();
        drop(ours);
        // Part by AsyncRead, the rest by chunks: nothing is lost between them.
        let mut first = [0; 1];
        stdout.read_exact(&mut first).await.unwrap();
        let mut rest = first.to_vec();
        while let Some(chunk) = soon("a chunk", stdout.next_chunk()).await {
            rest.extend_from_slice(&chunk);
        }
        assert_eq!(rest, b"bye", "in {mode} mode");
        let report = soon("its end", handle.report()).await.unwrap();
        assert!(report.outcome.is_completed(), "{}", report.outcome);
    }
}

#[tokio::test]
async fn large_streams_arrive_whole() {
    let data: Vec<u8> = (0..5_000_000u32).flat_map(u32::to_le_bytes).collect();
    for mode in BOTH {
        let runner = runner(mode);
        // A command as it goes, and a task that returns it all at once.
        for path in ["cat/cat.wasm", "echo/echo.wat"] {
            let artifact = guest(&runner, path);
            let task = Task::new(&artifact)
                .input(Input::reader(std::io::Cursor::new(data.clone())))
                .stdout(Stdio::Stream);
            let mut handle = runner.submit(task).await.unwrap();
            let mut stdout = handle.take_stdout().expect("streamed");
            let reading = tokio::spawn(async move {
                let mut all = Vec::new();
                stdout.read_to_end(&mut all).await.unwrap();
                all
            });
            let report = soon("its end", handle.report()).await.unwrap();
            assert!(report.outcome.is_completed(), "{}", report.outcome);
            let all = soon("its output", reading).await.unwrap();
            assert!(all == data, "{path} in {mode} mode: {} bytes", all.len());
        }
    }
}

#[tokio::test]
async fn shutdown_waits_for_a_slow_reader_too() {
    const LEN: usize = 5 << 20;
    for mode in BOTH {
        for path in ["cat/cat.wasm", "echo/echo.wat"] {
            let runner = runner(mode);
            let artifact = guest(&runner, path);
            let task = Task::new(&artifact)
                .input(vec![5; LEN])
                .stdout(Stdio::Stream);
            let mut handle = runner.submit(task).await.unwrap();
            let mut stdout = handle.take_stdout().expect("streamed");
            let reading = tokio::spawn(async move {
                let mut len = 0;
                while let Some(chunk) = stdout.next_chunk().await {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    len += chunk.len();
                }
                len
            });
            let outcome = tokio::spawn(handle.into_future());
            soon("shutdown", runner.shutdown()).await;
            let report = outcome.await.unwrap().unwrap();
            assert!(report.outcome.is_completed(), "{}", report.outcome);
            let len = reading.await.unwrap();
            assert_eq!(len, LEN, "{path} in {mode} mode: output was cut off");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_waits_while_its_output_is_not_read_and_sees_a_reader_leave() {
    for mode in BOTH {
        let runner = runner(mode);
        let cat = guest(&runner, "cat/cat.wasm");
        let read = std::sync::Arc::new(AtomicUsize::new(0));
        let counted = Counted(tokio::io::repeat(0).take(64 << 20), read.clone());
        let task = Task::new(&cat)
            .input(Input::reader(counted))
            .stdout(Stdio::Stream);
        let mut handle = runner.submit(task).await.unwrap();
        let stdout = handle.take_stdout().expect("streamed");
        let so_far = tokio::task::block_in_place(|| {
            // Until it reads no more; the task has begun once it has read something.
            eventually("some input is read", SOON, || {
                read.load(Ordering::Relaxed) > 0
            });
            settled("what is read", SOON, || read.load(Ordering::Relaxed))
        });
        assert!(
            so_far < 16 << 20,
            "{so_far} bytes were read while the output was not ({mode} mode)"
        );
        // A reader that leaves is an error to the guest, not an end without one.
        drop(stdout);
        let report = soon("its end", handle.report()).await.unwrap();
        // As it says where it cannot write.
        assert_eq!(report.outcome, Outcome::Exited(2), "in {mode} mode");
    }
}

struct Counted<R>(R, std::sync::Arc<AtomicUsize>);

impl<R: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for Counted<R> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = std::pin::Pin::new(&mut self.0).poll_read(cx, buf);
        self.1
            .fetch_add(buf.filled().len() - before, Ordering::Relaxed);
        polled
    }
}

#[test]
fn streams_need_a_reader() {
    for mode in BOTH {
        let runner = runner(mode);
        let echo = echo(&runner);
        for task in [
            Task::new(&echo).stdout(Stdio::Stream),
            Task::new(&echo).stderr(Stdio::Stream),
        ] {
            assert_error(
                runner.blocking_run(task),
                ErrorKind::InvalidTask,
                "use submit",
            );
        }
    }
}

// --- the end of a runner --------------------------------------------------

#[tokio::test]
async fn shutdown_waits_for_all_tasks() {
    for mode in BOTH {
        let runner = builder(mode).max_running(2).build().unwrap();
        let patient = patient(&runner);
        let mut handles = Vec::new();
        for _ in 0..6 {
            let task = Task::new(&patient).input("100");
            handles.push(runner.submit(task).await.unwrap());
        }
        soon("shutdown", runner.shutdown()).await;
        for mut handle in handles {
            // Whatever is left to do is to take the reports.
            let report = soon("a report", handle.report()).await.unwrap();
            assert_eq!(report.stdout, "nobody cancelled\n", "in {mode} mode");
        }
    }
}

#[test]
fn dropping_a_runner_kills_all() {
    for mode in BOTH {
        for in_async in [false, true] {
            let runner = builder(mode).max_running(4).build().unwrap();
            let guests = [
                wat(&runner, "loops", PRINTS_AND_LOOPS),
                wat(&runner, "sleeps", PRINTS_AND_SLEEPS),
                guest(&runner, "commons/commons.wasm"),
            ];
            let submit = |artifact| {
                let task = Task::new(artifact).input("shared l").stdout(Stdio::Stream);
                runner.blocking_submit(task).unwrap()
            };
            let mut handles: Vec<_> = guests.iter().cycle().take(9).map(submit).collect();
            // Four run; the others are in the queue.
            let mut streams = Vec::new();
            for (index, handle) in handles.iter_mut().take(4).enumerate() {
                match index {
                    2 => await_progress(handle),
                    _ => {
                        let mut stdout = handle.take_stdout().unwrap();
                        await_output(&mut stdout);
                        streams.push(stdout);
                    }
                }
            }
            let began = Instant::now();
            if in_async {
                let tokio = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                tokio.block_on(async { drop(runner) });
            } else {
                drop(runner);
            }
            assert!(
                began.elapsed() < SOON,
                "dropping took {:?}",
                began.elapsed()
            );
            for mut handle in handles {
                let report = handle.blocking_report().unwrap();
                assert_eq!(report.outcome, Outcome::Cancelled, "in {mode} mode");
            }
        }
    }
}

#[test]
fn dropping_a_runner_leaves_no_worker_also_while_artifacts_live() {
    alone(
        "library::dropping_a_runner_leaves_no_worker_also_while_artifacts_live",
        || {
            let runner = runner(Mode::Process);
            let artifacts = [echo(&runner), patient(&runner)];
            for artifact in &artifacts {
                runner
                    .blocking_run(Task::new(artifact).input("0"))
                    .expect("a task runs");
            }
            // Workers started ahead of demand, which wait with their artifacts.
            eventually("an idle worker of each artifact waits", SOON, || {
                children().len() == artifacts.len()
            });
            drop(runner);
            assert_eq!(children(), [0i32; 0], "these workers are left");
            drop(artifacts);
        },
    );
}

#[test]
fn a_runner_can_be_dropped_at_once() {
    for mode in BOTH {
        drop(runner(mode));
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            drop(runner(mode));
            runner(mode).shutdown().await;
        });
        runner(mode).blocking_shutdown().unwrap();
    }
}

// --- errors ---------------------------------------------------------------

#[tokio::test]
async fn blocking_calls_in_asynchronous_code_are_refused() {
    const WORDS: &str = "a blocking call in asynchronous code";
    for mode in BOTH {
        let runner = runner(mode);
        let path = repo("guest-tasks/echo/echo.wat");
        let echo = runner.load(path).await.unwrap();
        let task = || Task::new(&echo);
        assert_error(
            runner.blocking_run(task()),
            ErrorKind::BlockingInAsync,
            WORDS,
        );
        assert_error(
            runner.blocking_submit(task()),
            ErrorKind::BlockingInAsync,
            WORDS,
        );
        // The task goes on, and the handle has its report.
        let task = task().input("still here").stdout(Stdio::Capture);
        let mut handle = runner.submit(task).await.unwrap();
        assert_error(handle.blocking_report(), ErrorKind::BlockingInAsync, WORDS);
        let report = soon("its report", handle.report()).await.unwrap();
        assert_eq!(report.stdout, "still here", "in {mode} mode");
        assert_error(
            runner.blocking_shutdown(),
            ErrorKind::BlockingInAsync,
            WORDS,
        );
    }
}

#[test]
fn a_report_is_taken_once_and_giving_up_waiting_loses_nothing() {
    const WORDS: &str = "already taken";
    let tokio = tokio::runtime::Runtime::new().unwrap();
    for mode in BOTH {
        let runner = runner(mode);
        let patient = patient(&runner);
        let mut handle = tokio.block_on(async {
            let mut handle = runner.submit(Task::new(&patient)).await.unwrap();
            for _ in 0..3 {
                let moment = Duration::from_millis(20);
                let given_up = tokio::time::timeout(moment, handle.report()).await;
                assert!(given_up.is_err(), "in {mode} mode: {given_up:?}");
            }
            handle
        });
        handle.cancel();
        let report = handle.blocking_report().unwrap();
        assert_eq!(report.stdout, "cancelled in time\n", "in {mode} mode");
        assert_error(handle.blocking_report(), ErrorKind::ReportTaken, WORDS);
        let again = tokio.block_on(handle.report());
        assert_error(again, ErrorKind::ReportTaken, WORDS);
        assert_error(
            tokio.block_on(handle.into_future()),
            ErrorKind::ReportTaken,
            WORDS,
        );
        // Output that was not taken before the wait is thrown away; the task does not wait
        // for a reader.
        let cat = guest(&runner, "cat/cat.wasm");
        let task = Task::new(&cat).input(vec![7; 5 << 20]);
        let mut handle = runner.blocking_submit(task.stdout(Stdio::Stream)).unwrap();
        let report = handle.blocking_report().unwrap();
        assert!(report.outcome.is_completed(), "{}", report.outcome);
        assert!(handle.take_stdout().is_none());
    }
}

#[test]
fn an_artifact_belongs_to_its_runner() {
    for mode in BOTH {
        for other in BOTH {
            let (one, two) = (runner(mode), runner(other));
            let echo = echo(&one);
            assert_error(
                two.blocking_run(Task::new(&echo)),
                ErrorKind::OtherRunner,
                "another runner",
            );
            drop(one);
            assert_error(
                two.blocking_run(Task::new(&echo)),
                ErrorKind::OtherRunner,
                "another runner",
            );
            still_works(&two);
        }
    }
}

/// As reports of errors print them, such as `{:#}` of anyhow: each with what is behind it.
#[test]
fn an_error_and_what_is_behind_it_say_nothing_twice() {
    fn check(error: &(dyn std::error::Error + 'static), words: &str) {
        let chain = std::iter::successors(Some(error), |error| error.source());
        let texts: Vec<String> = chain.map(|error| error.to_string()).collect();
        assert_eq!(texts.join("\n").matches(words).count(), 1, "{texts:?}");
        for (number, text) in texts.iter().enumerate() {
            let before = texts[..number].iter().find(|it| it.contains(text));
            assert_eq!(before, None, "{texts:?}");
        }
    }
    let none = "No such file or directory (os error 2)";
    for mode in BOTH {
        let runner = runner(mode);
        let load = |path: &str| runner.blocking_load(repo(path)).unwrap_err();
        let missing = load("no/such/file");
        check(&missing, none);
        assert_eq!(missing.io_error().and_then(|it| it.raw_os_error()), Some(2));
        check(&load("tests"), "is a directory");
        check(
            &load("guest-tasks/hostile/not-wasm.wasm"),
            "not WebAssembly",
        );
        check(
            &load("guest-tasks/hostile/imports-unknown.wat"),
            "which nothing provides",
        );
        let echo = echo(&runner);
        let task = Task::new(&echo).dir(DirGrant::new("/no/such/directory"));
        let refused = runner.blocking_run(task).unwrap_err();
        check(&refused, none);
        assert_eq!(refused.io_error().and_then(|it| it.raw_os_error()), Some(2));
        let task = Task::new(&echo).name("a\0b");
        let refused = runner.blocking_run(task).unwrap_err();
        check(&refused, "NUL");
        assert!(refused.io_error().is_none());
        let (one, _other) = runner.channel(1).unwrap();
        let large = vec![0; wrun::Message::MAX_DATA + 1];
        check(&one.try_send(large).unwrap_err(), "too large");
        let region = runner.region(1, wrun::RegionKind::Exclusive).unwrap();
        check(&region.write(1, &[1]).unwrap_err(), "beyond the end");
    }
    let unresolved = "no.such.host.invalid:80".parse::<wrun::TcpGrant>();
    check(&unresolved.unwrap_err(), "cannot resolve");
    let missing = builder(Mode::Process)
        .process(ProcessOptions::default().worker("/no/such/worker"))
        .build();
    let missing =
        missing.and_then(|runner| runner.blocking_load(repo("guest-tasks/echo/echo.wat")));
    let missing = missing.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NoWorker, "{missing}");
    check(&missing, none);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    for mode in BOTH {
        let runner = runner(mode);
        let echo = echo(&runner);
        let task = || Task::new(&echo);
        for (task, words) in [
            (task().args(["a\0b"]), "NUL"),
            (task().name("a\0b"), "NUL"),
            (task().env("A", "a\0b"), "NUL"),
            (task().env("", "x"), "invalid name"),
            (task().env("A=B", "x"), "invalid name"),
            (task().args(["x".repeat(2 << 20)]), "1 MiB"),
            (task().env("A", "x".repeat(2 << 20)), "1 MiB"),
        ] {
            assert_error(runner.blocking_run(task), ErrorKind::InvalidTask, words);
        }
        still_works(&runner);
    }
}

#[test]
fn a_file_that_is_not_a_task_is_refused() {
    for mode in BOTH {
        let runner = builder(mode).max_module_size(1 << 20).build().unwrap();
        let load = |path: &str| runner.blocking_load(repo(path));
        assert_error(load("no/such/file"), ErrorKind::NotFound, "no/such/file");
        assert_error(load("tests"), ErrorKind::NotLoadable, "directory");
        assert_error(
            load("guest-tasks/csv-stats/csv-stats.wasm"),
            ErrorKind::NotLoadable,
            "1048576",
        );
        for (name, words) in [
            ("empty.wasm", "empty"),
            ("not-wasm.wasm", "not WebAssembly"),
            ("random-bytes.wasm", ""),
            ("truncated.wasm", ""),
            ("no-entry.wat", "no entry point"),
            ("imports-unknown.wat", "mystery"),
            ("missing-memory.wat", "memory"),
            ("missing-realloc.wat", "cabi_realloc"),
            ("deep-parentheses.wat", ""),
        ] {
            assert_error(
                load(&format!("guest-tasks/hostile/{name}")),
                ErrorKind::NotLoadable,
                words,
            );
        }
        assert_error(
            runner.blocking_load_bytes("x", vec![0; 2 << 20]),
            ErrorKind::NotLoadable,
            "1048576",
        );
        let tokio = tokio::runtime::Runtime::new().unwrap();
        assert_error(
            tokio.block_on(runner.load("/no/such/file")),
            ErrorKind::NotFound,
            "/no/such/file",
        );
        still_works(&runner);
    }
}

#[test]
fn a_compiled_artifact_is_loaded_where_it_is_allowed() {
    for mode in BOTH {
        let maker = runner(mode);
        let compiled = maker.blocking_compile(&echo(&maker)).unwrap();
        assert_error(
            maker.blocking_load_bytes("echo", compiled.clone()),
            ErrorKind::Precompiled,
            "verified",
        );
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("echo");
        std::fs::write(&file, &compiled).unwrap();
        let trusting = builder(mode).build().unwrap();
        let artifact = trusting.blocking_load_trusted(&file).unwrap();
        assert_eq!(artifact.shape(), Shape::CoreModule);
        assert_eq!(artifact.digest(), echo(&maker).digest());
        let report = trusting
            .blocking_run(Task::new(&artifact).input("x"))
            .unwrap();
        assert_eq!(report.stdout, "x", "in {mode} mode");
        // Its code does not count fuel, and there is no source to compile anew.
        let metered = Task::new(&artifact).limits(Limits::default().fuel(1_000));
        assert_error(
            trusting.blocking_run(metered),
            ErrorKind::FuelMismatch,
            "fuel",
        );
        let mut damaged = compiled;
        damaged[1_000] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        assert_error(
            trusting.blocking_load_trusted(&file),
            ErrorKind::NotLoadable,
            "damaged",
        );
    }
}

#[test]
fn a_failing_reader_does_not_crash_the_runner() {
    struct Fails;
    impl tokio::io::AsyncRead for Fails {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::Error::other("the disk is gone")))
        }
    }
    let outcomes = BOTH.map(|mode| {
        let runner = runner(mode);
        let echo = echo(&runner);
        let task = Task::new(&echo)
            .input(Input::reader(Fails))
            .limits(timeout(10_000));
        let result = runner.blocking_run(task);
        still_works(&runner);
        match result {
            Ok(report) => format!("{}", report.outcome),
            Err(error) => format!("{:?}", error.kind()),
        }
    });
    assert_eq!(outcomes[0], outcomes[1], "thread and process mode");
}

// --- no worker ------------------------------------------------------------

#[test]
fn process_mode_needs_a_worker_program() {
    // This test binary calls no hook.
    assert_error(
        Runner::builder().mode(Mode::Process).build(),
        ErrorKind::NoWorker,
        "worker_hook",
    );
    let runner = Runner::builder().mode(Mode::Thread).build().unwrap();
    still_works(&runner);
}

fn script(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_program_that_is_not_a_worker_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let garbage = script(
        directory.path(),
        "garbage",
        "#!/bin/sh\nhead -c 100000 /dev/zero >&4\n",
    );
    let words = script(
        directory.path(),
        "words",
        "#!/bin/sh\necho what is this >&2\nexit 3\n",
    );
    let compiled = directory.path().join("echo.wrun");
    let maker = runner(Mode::Thread);
    std::fs::write(&compiled, maker.blocking_compile(&echo(&maker)).unwrap()).unwrap();
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "just text").unwrap();
    for (program, message) in [
        (PathBuf::from("/bin/true"), "/bin/true"),
        (PathBuf::from("/bin/false"), "/bin/false"),
        (PathBuf::from("/no/such/program"), "/no/such/program"),
        (garbage, "garbage"),
        (words, "what is this"),
        (plain, "plain"),
        (directory.path().to_owned(), "cannot start"),
    ] {
        let runner = Runner::builder()
            .mode(Mode::Process)
            .process(ProcessOptions::default().worker(&program))
            .build()
            .unwrap();
        // It can neither compile nor run code that another program compiled.
        assert_error(
            runner.blocking_load(repo("guest-tasks/echo/echo.wat")),
            ErrorKind::NoWorker,
            message,
        );
        let echo = runner.blocking_load_trusted(&compiled).unwrap();
        assert_error(
            runner.blocking_run(Task::new(&echo).limits(timeout(20_000))),
            ErrorKind::NoWorker,
            message,
        );
    }
}

#[test]
fn a_worker_that_never_answers_does_not_outlast_a_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let silent = script(
        directory.path(),
        "silent",
        &format!(
            "#!/bin/sh\n[ \"$3\" = compile ] && exec env -i {} \"$@\"\n\
             echo $$ >> {}\nexec sleep 1000\n",
            wrun().display(),
            pid.display()
        ),
    );
    let runner = Runner::builder()
        .mode(Mode::Process)
        .process(ProcessOptions::default().worker(silent))
        .build()
        .unwrap();
    let echo = echo(&runner);
    let report = runner
        .blocking_run(Task::new(&echo).limits(timeout(300)))
        .expect("a deadline is an outcome");
    assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Deadline));
    let is_alive = |pid: &str| Path::new(&format!("/proc/{pid}")).exists();
    let pids = || std::fs::read_to_string(&pid).unwrap_or_default();
    let mut handle = runner.blocking_submit(Task::new(&echo)).unwrap();
    eventually("a worker is waited for", SOON, || {
        pids().lines().any(is_alive)
    });
    handle.kill();
    assert_eq!(
        handle.blocking_report().unwrap().outcome,
        Outcome::Cancelled
    );
    eventually("its processes end", SOON, || !pids().lines().any(is_alive));
}

// --- fairness -------------------------------------------------------------

#[test]
fn endless_loops_do_not_starve_other_tasks() {
    let runner = builder(Mode::Thread).worker_threads(2).build().unwrap();
    let endless = guest(&runner, "hostile/endless-loop.wat");
    let (echo, patient) = (echo(&runner), patient(&runner));
    let deadline = Duration::from_secs(8);
    let loops: Vec<_> = (0..8)
        .map(|_| {
            let task = Task::new(&endless).limits(Limits::default().timeout(deadline));
            runner.blocking_submit(task).unwrap()
        })
        .collect();
    let began = Instant::now();
    for (artifact, input, output) in [
        (&echo, "short", "short"),
        (&patient, "50", "nobody cancelled\n"),
    ] {
        let mut handle = runner
            .blocking_submit(Task::new(artifact).input(input))
            .unwrap();
        assert_eq!(handle.blocking_report().unwrap().stdout, output);
    }
    let short = began.elapsed();
    let reports: Vec<_> = loops
        .into_iter()
        .map(|mut l| l.blocking_report().unwrap())
        .collect();
    for report in &reports {
        assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Deadline));
        assert!(
            short < report.stats.total,
            "short tasks took {short:?}, as long as endless loops"
        );
        let cpu = report.stats.cpu.expect("measured");
        assert!(!cpu.is_zero(), "an endless loop was never run");
    }
}

/// Work for a compiler: `count` functions of some length.
fn many_functions(count: usize) -> String {
    use std::fmt::Write;
    let mut text = String::from("(module (memory (export \"memory\") 1)\n");
    for n in 0..count {
        let _ = write!(text, "(func $f{n} (param i32) (result i32) (local.get 0)");
        for step in 0..40 {
            let _ = write!(text, "(i32.const {step})(i32.mul)(local.tee 0)(i32.load)");
        }
        text.push_str(")\n");
    }
    text.push_str("(func (export \"_start\")))");
    text
}

#[test]
fn compiling_holds_up_nobody_else() {
    for mode in BOTH {
        let runner = builder(mode).worker_threads(2).build().unwrap();
        let echo = echo(&runner);
        let large = wat(&runner, "large.wat", &many_functions(4_000));
        // Without fuel it is compiled; the first task with fuel compiles anew.
        let began = Instant::now();
        let large: Vec<_> = (0..8)
            .map(|_| {
                let task = Task::new(&large).limits(timeout(60_000).fuel(1 << 30));
                runner.blocking_submit(task).unwrap()
            })
            .collect();
        let killed = &large[7];
        killed.kill();
        let report = runner
            .blocking_submit(Task::new(&echo).input("x"))
            .unwrap()
            .blocking_report()
            .unwrap();
        let short = began.elapsed();
        assert_eq!(report.stdout, "x");
        let mut large = large.into_iter();
        let mut compiled = Duration::MAX;
        for mut handle in large.by_ref().take(7) {
            let report = handle.blocking_report().unwrap();
            assert!(report.outcome.is_completed(), "{}", report.outcome);
            assert!(
                short < report.stats.total,
                "in {mode} mode a short task took {short:?}, as long as compiling ({:?})",
                report.stats.total
            );
            compiled = compiled.min(report.stats.total);
        }
        // Nor does it hold up a kill.
        let report = large.next().unwrap().blocking_report().unwrap();
        assert_eq!(report.outcome, Outcome::Cancelled, "in {mode} mode");
        assert!(
            report.stats.total < compiled,
            "in {mode} mode a kill took {:?}, as long as compiling ({compiled:?})",
            report.stats.total
        );
    }
}

#[test]
fn a_stream_that_was_not_taken_delays_no_task() {
    for mode in BOTH {
        let runner = runner(mode);
        let echo = echo(&runner);
        let task = Task::new(&echo)
            .input(vec![7; 3 << 20])
            .stdout(Stdio::Stream)
            .limits(timeout(60_000));
        let report = runner
            .blocking_submit(task)
            .unwrap()
            .blocking_report()
            .unwrap();
        assert!(
            report.outcome.is_completed(),
            "{mode} mode: {}",
            report.outcome
        );
        still_works(&runner);
    }
}

#[test]
fn a_task_keeps_its_place_until_its_output_is_read() {
    for mode in BOTH {
        let runner = builder(mode).max_running(1).build().unwrap();
        let echo = echo(&runner);
        let len = 5 << 20;
        let large = Task::new(&echo)
            .input(vec![7; len])
            .stdout(Stdio::Stream)
            .limits(Limits::default().max_output(len as u64));
        let mut unread = runner.blocking_submit(large).unwrap();
        let mut stream = unread.take_stdout().unwrap();
        let first = stream.blocking_next_chunk().unwrap().len();
        // The only place is taken by output that is not read.
        let next = Task::new(&echo).input("x").limits(timeout(300));
        let report = runner
            .blocking_submit(next)
            .unwrap()
            .blocking_report()
            .unwrap();
        assert_eq!(
            report.outcome,
            Outcome::LimitExceeded(wrun::Limit::Deadline),
            "in {mode} mode"
        );
        let mut read = first;
        while let Some(chunk) = stream.blocking_next_chunk() {
            read += chunk.len();
        }
        assert_eq!(read, len, "in {mode} mode");
        let report = unread.blocking_report().unwrap();
        assert!(
            report.outcome.is_completed(),
            "{mode} mode: {}",
            report.outcome
        );
        still_works(&runner);
    }
}
