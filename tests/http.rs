//! HTTP requests as tasks, in both modes: what a handler answers, what becomes of one that
//! misbehaves, and bodies that flow both ways.

use crate::support::{BOTH, guest, runner};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wrun::http::{Body, BodyError};
use wrun::{ErrorKind, Limit, Limits, Mode, Outcome, Report, Runner, Task, TrapKind};

/// What should take no time at all, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    let body = Full::new(bytes.into());
    body.map_err(|never| match never {}).boxed_unsync()
}

fn get(path: &str) -> Request<Body> {
    let uri = format!("http://localhost{path}");
    Request::builder().uri(uri).body(empty()).unwrap()
}

fn put(path: &str, body: Body) -> Request<Body> {
    let uri = format!("http://localhost{path}");
    Request::builder()
        .method("PUT")
        .uri(uri)
        .body(body)
        .unwrap()
}

/// How a request was answered.
#[derive(Debug)]
struct Answer {
    status: Option<StatusCode>,
    headers: HeaderMap,
    /// The body, or why it is not whole.
    body: Result<Bytes, String>,
    trailers: Option<HeaderMap>,
    report: Report,
}

async fn answer(runner: &Runner, task: Task) -> Answer {
    let mut handle = runner.submit(task).await.unwrap();
    let Some(response) = handle.response().await else {
        return Answer {
            status: None,
            headers: HeaderMap::new(),
            body: Ok(Bytes::new()),
            trailers: None,
            report: handle.report().await.unwrap(),
        };
    };
    assert!(handle.response().await.is_none(), "there is one response");
    let (parts, body) = response.into_parts();
    let collected = body.collect().await;
    let (body, trailers) = match collected {
        Ok(collected) => {
            let trailers = collected.trailers().cloned();
            (Ok(collected.to_bytes()), trailers)
        }
        Err(error) => (Err(error.to_string()), None),
    };
    Answer {
        status: Some(parts.status),
        headers: parts.headers,
        body,
        trailers,
        report: handle.report().await.unwrap(),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(SOON, future)
            .await
            .expect("it is soon")
    })
}

fn limits() -> Limits {
    Limits::default().timeout(Duration::from_secs(30))
}

#[test]
fn a_handler_answers() {
    for mode in BOTH {
        let runner = runner(mode);
        let hello = guest(&runner, "http-hello/http-hello.wasm");
        assert!(hello.shape().is_http());
        block_on(async {
            for id in 1..=5 {
                let mut request = get("/");
                let value = id.to_string().parse().unwrap();
                request.headers_mut().insert("x-request-id", value);
                let task = Task::new(&hello).request(request).limits(limits());
                let answer = answer(&runner, task).await;
                assert_eq!(answer.status, Some(StatusCode::OK), "{mode}: {answer:?}");
                assert_eq!(answer.body.as_deref(), Ok(&b"hello\n"[..]));
                assert_eq!(answer.headers["x-request-id"], id.to_string());
                assert_eq!(answer.headers["content-length"], "6");
                assert!(answer.report.outcome.is_completed(), "{:?}", answer.report);
                assert_eq!(answer.report.task_id, id);
            }
        });
    }
}

/// After its response a task goes on by itself, whether or not somebody waits for its report.
#[test]
fn a_handler_that_is_driven_in_place_goes_on_after_its_response() {
    for mode in BOTH {
        let runner = Arc::new(runner(mode));
        let hello = guest(&runner, "http-hello/http-hello.wasm");
        let hostile = guest(&runner, "http-hostile/http-hostile.wasm");
        let there = runner.clone();
        let answers = runner.runtime().spawn(async move {
            for (app, path) in [(&hello, "/"), (&hostile, "/half"), (&hostile, "/trap")] {
                let task = Task::new(app).request(get(path)).limits(limits());
                let mut handle = there.try_submit_here(task).unwrap();
                let response = handle.response().await;
                let body = match response {
                    Some(response) => response.into_body().collect().await.ok(),
                    None => None,
                };
                let body = body.map(|body| body.to_bytes());
                let report = handle.report().await.unwrap();
                match path {
                    "/" => {
                        assert_eq!(body.as_deref(), Some(&b"hello\n"[..]), "{mode}");
                        assert!(report.outcome.is_completed(), "{mode}: {report:?}");
                    }
                    _ => {
                        assert_eq!(body, None, "{mode} {path}");
                        let is_trap = matches!(report.outcome, Outcome::Trapped(_));
                        assert!(is_trap, "{mode} {path}: {report:?}");
                    }
                }
            }
        });
        block_on(answers).unwrap();
    }
}

#[test]
fn a_task_has_a_request_if_and_only_if_it_is_a_handler() {
    for mode in BOTH {
        let runner = runner(mode);
        let hello = guest(&runner, "http-hello/http-hello.wasm");
        let error = runner.blocking_run(Task::new(&hello)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTask);
        assert_eq!(
            error.to_string(),
            "the artifact answers HTTP requests, and the task has none"
        );
        let echo = guest(&runner, "echo/echo.wat");
        assert!(!echo.shape().is_http());
        let task = Task::new(&echo).request(get("/"));
        let error = runner.blocking_run(task).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTask);
        assert_eq!(
            error.to_string(),
            "the task has an HTTP request, and its artifact does not answer any"
        );
    }
}

/// What becomes of a body.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    /// There is no response.
    Nothing,
    /// It is whole.
    Whole(&'static str),
    /// It is not.
    Broken,
}

#[test]
fn what_a_handler_does_wrong_is_its_outcome_and_never_a_whole_body() {
    use Ends::{Broken, Nothing, Whole};
    let trap = |kind: TrapKind| move |it: &Outcome| matches!(it, Outcome::Trapped(trap) if trap.kind == kind);
    let unreachable = trap(TrapKind::Unreachable);
    let overflow = trap(TrapKind::StackOverflow);
    let limit = |limit: Limit| move |it: &Outcome| *it == Outcome::LimitExceeded(limit);
    let deadline = limit(Limit::Deadline);
    let memory = limit(Limit::Memory);
    let failed = |with: &'static str| move |it: &Outcome| matches!(it, Outcome::Failed(why) if why.contains(with));
    let no_answer = failed("returned without a response");
    let error = failed("answered with an error");
    let completed = |it: &Outcome| it.is_completed();
    let exited = |it: &Outcome| *it == Outcome::Exited(1);
    type Case<'a> = (&'a str, Ends, &'a dyn Fn(&Outcome) -> bool);
    let cases: &[Case<'_>] = &[
        ("/trap", Nothing, &unreachable),
        ("/panic", Nothing, &unreachable),
        ("/exit", Nothing, &exited),
        ("/stack", Nothing, &overflow),
        ("/spin", Nothing, &deadline),
        ("/sleep", Nothing, &deadline),
        ("/memory", Nothing, &memory),
        ("/no-answer", Nothing, &no_answer),
        ("/error", Nothing, &error),
        ("/half", Broken, &unreachable),
        ("/half-chunked", Broken, &unreachable),
        ("/stall", Broken, &deadline),
        ("/unfinished", Broken, &completed),
        ("/unfinished-chunked", Broken, &completed),
        ("/too-short", Broken, &completed),
        ("/after-trap", Whole("complete\n"), &unreachable),
        ("/after-spin", Whole("complete\n"), &deadline),
        ("/count", Whole("1\n"), &completed),
    ];
    for mode in BOTH {
        let runner = runner(mode);
        let hostile = guest(&runner, "http-hostile/http-hostile.wasm");
        for (path, ends, is_expected) in cases {
            let limits = Limits::default().timeout(Duration::from_millis(1_500));
            let task = Task::new(&hostile).request(get(path)).limits(limits);
            let answer = block_on(answer(&runner, task));
            assert!(
                is_expected(&answer.report.outcome),
                "{mode} {path}: {answer:?}"
            );
            match ends {
                Nothing => assert_eq!(answer.status, None, "{mode} {path}: {answer:?}"),
                Whole(text) => {
                    let body = answer.body.as_deref();
                    assert_eq!(body, Ok(text.as_bytes()), "{mode} {path}");
                }
                Broken => assert!(answer.body.is_err(), "{mode} {path}: {answer:?}"),
            }
        }
    }
}

/// A body of this many pieces, which says how many of them were taken.
fn pieces(count: u64, taken: &Arc<AtomicU64>) -> Body {
    let taken = taken.clone();
    let piece = Bytes::from(vec![b'p'; 64 << 10]);
    let stream = futures_of(count, move |_| {
        taken.fetch_add(1, Ordering::Relaxed);
        Ok(Frame::data(piece.clone()))
    });
    StreamBody::new(stream).boxed_unsync()
}

/// A stream of as many items.
fn futures_of(
    count: u64,
    item: impl FnMut(u64) -> Result<Frame<Bytes>, BodyError> + Send + Unpin + 'static,
) -> impl futures_core::Stream<Item = Result<Frame<Bytes>, BodyError>> + Send {
    struct Items<F>(std::ops::Range<u64>, F);
    impl<F: FnMut(u64) -> Result<Frame<Bytes>, BodyError> + Unpin> futures_core::Stream for Items<F> {
        type Item = Result<Frame<Bytes>, BodyError>;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            let next = self.0.next();
            std::task::Poll::Ready(next.map(|at| (self.1)(at)))
        }
    }
    Items(0..count, item)
}

#[test]
fn bodies_of_any_length_flow_both_ways() {
    const PIECES: u64 = 512;
    for mode in BOTH {
        let runner = runner(mode);
        let digest = guest(&runner, "http-digest/http-digest.wasm");
        let events = guest(&runner, "http-events/http-events.wasm");
        block_on(async {
            let taken = Arc::default();
            let request = put("/sha", pieces(PIECES, &taken));
            let task = Task::new(&digest).request(request).limits(limits());
            let sent = answer(&runner, task).await;
            let body = String::from_utf8(sent.body.unwrap().to_vec()).unwrap();
            let expected = "c3cd3492b888833e74e39ad185b391497c91d1f1ebaa97dc3c7652944329f38f";
            let (sum, len) = body.trim().split_once(' ').unwrap();
            assert_eq!(len, (PIECES * (64 << 10)).to_string(), "{mode}");
            assert_eq!(sum, expected, "{mode}");

            let task = Task::new(&events).request(get("/big?bytes=20000000"));
            let got = answer(&runner, task).await;
            assert_eq!(got.headers["content-length"], "20000000");
            let body = got.body.unwrap();
            assert_eq!(body.len(), 20_000_000, "{mode}");
            assert!(
                body.iter()
                    .enumerate()
                    .all(|(at, byte)| at % 251 == usize::from(*byte))
            );

            let echoed = Bytes::from(vec![7; 3_000_000]);
            let task = Task::new(&digest).request(put("/echo", full(echoed.clone())));
            let got = answer(&runner, task).await;
            assert_eq!(got.body.unwrap(), echoed, "{mode}");

            let task = Task::new(&events).request(get("/trailers?bytes=10"));
            let got = answer(&runner, task).await;
            assert_eq!(got.body.unwrap().len(), 10);
            assert_eq!(got.trailers.expect("there are trailers")["x-bytes"], "10");
        });
    }
}

#[test]
fn a_body_that_nobody_reads_makes_its_sender_wait() {
    for mode in BOTH {
        let runner = runner(mode);
        let digest = guest(&runner, "http-digest/http-digest.wasm");
        block_on(async {
            // More than fits anywhere on the way.
            let taken = Arc::default();
            let request = put("/echo", pieces(10_000, &taken));
            let task = Task::new(&digest).request(request);
            let mut handle = runner.submit(task).await.unwrap();
            let response = handle.response().await.unwrap();
            let mut before = 0;
            loop {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let now = taken.load(Ordering::Relaxed);
                if now == before {
                    break;
                }
                before = now;
            }
            // 64 KiB each.
            assert!(before < 100, "{mode}: {before} pieces are on the way");
            drop(response);
            drop(handle);
        });
    }
}

#[test]
fn a_client_that_is_gone_ends_its_task() {
    for mode in BOTH {
        let runner = runner(mode);
        let hostile = guest(&runner, "http-hostile/http-hostile.wasm");
        block_on(async {
            // A body that is dropped is closed to the guest, which then returns.
            let task = Task::new(&hostile).request(get("/spam"));
            let mut handle = runner.submit(task).await.unwrap();
            let response = handle.response().await.unwrap();
            drop(response);
            let report = handle.report().await.unwrap();
            assert!(report.outcome.is_completed(), "{mode}: {report:?}");

            // A handle that is dropped kills the task, and the body says so.
            let task = Task::new(&hostile).request(get("/stall"));
            let mut handle = runner.submit(task).await.unwrap();
            let response = handle.response().await.unwrap();
            drop(handle);
            let rest = response.into_body().collect().await;
            assert!(
                rest.is_err(),
                "{mode}: a body of a killed task is not whole"
            );
        });
    }
}

#[test]
fn a_request_that_breaks_off_is_told_to_the_guest() {
    for mode in BOTH {
        let runner = runner(mode);
        let digest = guest(&runner, "http-digest/http-digest.wasm");
        let breaks = |at: u64| match at {
            3 => Err(BodyError::new("the client is gone")),
            _ => Ok(Frame::data(Bytes::from_static(b"some"))),
        };
        let body = StreamBody::new(futures_of(10, breaks)).boxed_unsync();
        let task = Task::new(&digest).request(put("/sha", body));
        let answer = block_on(answer(&runner, task));
        assert_eq!(answer.status, Some(StatusCode::BAD_REQUEST), "{mode}");
        let body = answer.body.unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(
            text.starts_with("the body ends after 12: "),
            "{mode}: {text}"
        );
    }
}

#[test]
fn limits_hold_for_bodies() {
    for mode in BOTH {
        let runner = runner(mode);
        let digest = guest(&runner, "http-digest/http-digest.wasm");
        let hostile = guest(&runner, "http-hostile/http-hostile.wasm");
        block_on(async {
            let taken = Arc::default();
            let request = put("/sha", pieces(1_000, &taken));
            let limits = limits().max_input(1 << 20);
            let task = Task::new(&digest).request(request).limits(limits);
            let sent = answer(&runner, task).await;
            let expected = Outcome::LimitExceeded(Limit::Input);
            assert_eq!(sent.report.outcome, expected, "{mode}: {sent:?}");
            assert_eq!(sent.report.limit_value, Some(1 << 20));
            assert!(taken.load(Ordering::Relaxed) < 100, "{mode}");

            let limits = self::limits().max_output(1 << 20);
            let task = Task::new(&hostile).request(get("/spam")).limits(limits);
            let got = answer(&runner, task).await;
            let expected = Outcome::LimitExceeded(Limit::Output);
            assert_eq!(got.report.outcome, expected, "{mode}: {got:?}");
            assert!(
                got.body.is_err(),
                "{mode}: a body that is cut off is not whole"
            );
        });
    }
}

#[test]
fn a_worker_that_is_used_again_answers_many_requests() {
    let options = wrun::ProcessOptions::default()
        .worker(crate::support::wrun())
        .reuse(50);
    let runner = Runner::builder()
        .mode(Mode::Process)
        .process(options)
        .max_running(2)
        .build()
        .unwrap();
    let hostile = guest(&runner, "http-hostile/http-hostile.wasm");
    let digest = guest(&runner, "http-digest/http-digest.wasm");
    block_on(async {
        let mut workers = std::collections::BTreeSet::new();
        for at in 0..40 {
            let task = Task::new(&hostile).request(get("/count")).limits(limits());
            let got = answer(&runner, task).await;
            assert_eq!(
                got.body.as_deref(),
                Ok(&b"1\n"[..]),
                "each has an instance of its own"
            );
            workers.insert(got.report.stats.worker_pid);

            // What is left of a request that was not read does not reach the next one.
            let body = format!("number {at}").repeat(10_000);
            let request = put("/count", full(body.clone()));
            let task = Task::new(&hostile).request(request).limits(limits());
            let got = answer(&runner, task).await;
            assert_eq!(got.body.as_deref(), Ok(&b"1\n"[..]));
            let task = Task::new(&digest).request(put("/echo", full(body.clone())));
            let got = answer(&runner, task.limits(limits())).await;
            assert_eq!(got.body.unwrap(), body);
        }
        assert!(workers.len() < 40, "{} workers", workers.len());
    });
}

#[test]
fn a_handler_reaches_nothing_that_is_not_granted() {
    for mode in BOTH {
        let runner = runner(mode);
        let fetch = guest(&runner, "http-fetch/http-fetch.wasm");
        let request = get("/?url=http://127.0.0.1:9/somewhere");
        let task = Task::new(&fetch).request(request).limits(limits());
        let answer = block_on(answer(&runner, task));
        assert_eq!(
            answer.status,
            Some(StatusCode::BAD_GATEWAY),
            "{mode}: {answer:?}"
        );
        let body = answer.body.unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(text.to_lowercase().contains("denied"), "{mode}: {text}");
        let denied = answer.report.denied;
        assert_eq!(denied.len(), 1, "{mode}: {denied:?}");
        assert_eq!(denied[0].access, wrun::Access::HttpRequest);
        assert_eq!(denied[0].target, "127.0.0.1:9");
    }
}

#[test]
fn as_many_fields_as_a_guest_has_room_for_are_passed_on() {
    for mode in BOTH {
        let runner = runner(mode);
        let hello = guest(&runner, "http-hello/http-hello.wasm");
        let request = |fields: usize| {
            let mut request = get("/");
            for _ in 0..fields {
                request
                    .headers_mut()
                    .append("x", http::HeaderValue::from_static("y"));
            }
            request
        };
        let task = |fields| Task::new(&hello).request(request(fields)).limits(limits());
        let answered = block_on(answer(&runner, task(2_000)));
        assert_eq!(answered.status, Some(StatusCode::OK), "{mode}");
        let error = runner.blocking_run(task(2_049)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTask, "{mode}");
        assert_eq!(
            error.to_string(),
            "the request has 2049 header fields, and at most 2048 are allowed"
        );
    }
}

#[test]
fn a_task_cannot_start_a_handler() {
    for mode in BOTH {
        let runner = runner(mode);
        let hello = guest(&runner, "http-hello/http-hello.wasm");
        let family = guest(&runner, "family/family.wasm");
        let task = Task::new(&family).task("hello", &hello);
        let error = runner.blocking_run(task).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTask);
        assert_eq!(
            error.to_string(),
            "the granted task \"hello\" answers HTTP requests: a task cannot start it"
        );
    }
}
