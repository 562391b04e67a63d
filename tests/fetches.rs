//! HTTP requests that tasks send, in both modes: to what they are granted and nothing else, how
//! they fail, and bodies that flow through. The other side is a real server, or one that
//! misbehaves byte by byte.

use crate::http::{empty, full};
use crate::support::command::Wrun;
use crate::support::web::Site;
use crate::support::{BOTH, guest, repo, runner};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use wrun::http::Body;
use wrun::{
    Access, Artifact, ErrorKind, Limits, Mode, Outcome, ProcessOptions, Report, Runner, Task,
};

const FETCH: &str = "http-fetch/http-fetch.wasm";
/// What should take no time at all, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(future)
}

/// A request for `http-fetch` to send one to `url`.
fn fetch(url: &str) -> Request<Body> {
    let uri = format!("http://localhost/?url={}", url.replace('&', "%26"));
    Request::builder().uri(uri).body(empty()).unwrap()
}

fn task(runner: &Runner, grant: &str, request: Request<Body>) -> Task {
    task_of(&guest(runner, FETCH), grant, request)
}

fn task_of(artifact: &Artifact, grant: &str, request: Request<Body>) -> Task {
    Task::new(artifact)
        .limits(Limits::default().timeout(SOON))
        .allow_http(grant.parse().unwrap())
        .request(request)
}

/// The status, the body or why it is not whole, and the report.
async fn answer(runner: &Runner, task: Task) -> (u16, Result<Bytes, String>, Report) {
    let mut handle = runner.submit(task).await.unwrap();
    let Some(response) = handle.response().await else {
        panic!("no response: {:?}", handle.report().await);
    };
    let (parts, body) = response.into_parts();
    let body = body.collect().await;
    let body = body.map(|body| body.to_bytes());
    let report = handle.report().await.unwrap();
    let body = body.map_err(|error| error.to_string());
    (parts.status.as_u16(), body, report)
}

/// What `http-fetch` answers where its request has no response: the error of `wasi:http`.
#[track_caller]
fn refused(mode: Mode, runner: &Runner, grant: &str, url: &str) -> (String, Report) {
    let (status, body, report) = block_on(answer(runner, task(runner, grant, fetch(url))));
    assert_eq!(status, 502, "{mode} {url}: {body:?}");
    let text = String::from_utf8(body.unwrap().to_vec()).unwrap();
    let error = text.strip_prefix(url).and_then(|it| it.strip_prefix(": "));
    (error.unwrap().trim_end().to_owned(), report)
}

/// A server that reads a head and then answers with these bytes, on each connection.
pub(crate) struct Raw {
    address: SocketAddr,
    /// The heads that arrived.
    pub(crate) heads: Receiver<String>,
    /// Connections that the client closed.
    closed: Receiver<()>,
}

impl Raw {
    /// Where it `stays`, it does not close the connection itself.
    pub(crate) fn new(answer: impl Into<Vec<u8>>, stays: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = answer.into();
        let (arrived, heads) = channel();
        let (gone, closed) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, arrived, gone) = (answer.clone(), arrived.clone(), gone.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let head = head_of(&mut stream);
                    let _ = arrived.send(head);
                    let _ = stream.write_all(&answer);
                    if stays {
                        while stream.read(&mut [0; 1024]).is_ok_and(|len| len > 0) {}
                        let _ = gone.send(());
                    }
                });
            }
        });
        Raw {
            address,
            heads,
            closed,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn grant(&self) -> String {
        self.address.to_string()
    }
}

fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[test]
fn a_granted_host_is_reached_and_no_other() {
    let server = Raw::new(
        "HTTP/1.1 201 Created\r\ncontent-length: 5\r\netag: x\r\n\r\nthere",
        true,
    );
    for mode in BOTH {
        let runner = runner(mode);
        let grant = server.grant();
        let url = server.url("/a?b=c");
        let (status, body, report) = block_on(answer(&runner, task(&runner, &grant, fetch(&url))));
        assert_eq!(
            (status, body.as_deref()),
            (201, Ok(&b"there"[..])),
            "{mode}"
        );
        assert!(report.denied.is_empty(), "{mode}: {:?}", report.denied);
        let head = server.heads.recv_timeout(SOON).unwrap();
        assert!(
            head.starts_with("GET /a?b=c HTTP/1.1\r\n"),
            "{mode}: {head}"
        );
        let host = format!("\r\nhost: {grant}\r\n");
        assert_eq!(head.matches("host:").count(), 1, "{mode}: {head}");
        assert!(head.contains(&host), "{mode}: {head}");

        // Another port, another host, another name of the same, and a host that only looks so.
        let port = server.address.port();
        for (grant, url, target) in [
            (
                format!("127.0.0.1:{}", port ^ 1),
                url.clone(),
                grant.clone(),
            ),
            ("127.0.0.1".into(), url.clone(), grant.clone()),
            (
                "localhost".into(),
                "http://127.0.0.1/".into(),
                "127.0.0.1".into(),
            ),
            (
                grant.clone(),
                format!("http://localhost:{port}/"),
                format!("localhost:{port}"),
            ),
            (
                "*.example.org".into(),
                "https://example.org/".into(),
                "example.org".into(),
            ),
        ] {
            let (error, report) = refused(mode, &runner, &grant, &url);
            assert_eq!(error, "HttpRequestDenied", "{mode} {grant} {url}");
            let denied = &report.denied;
            assert_eq!(denied.len(), 1, "{mode}: {denied:?}");
            assert_eq!(denied[0].access, Access::HttpRequest, "{mode}");
            assert_eq!(denied[0].target, target, "{mode}");
        }
        assert!(
            server.heads.try_recv().is_err(),
            "{mode}: what is not granted was sent"
        );
    }
}

#[test]
fn each_failure_has_its_name() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(2_000));
    let servers = [
        (
            "not HTTP at all\r\n\r\n".to_owned(),
            false,
            "HttpProtocolError",
        ),
        (String::new(), false, "ConnectionTerminated"),
        (
            "HTTP/1.1 200 OK\r\nx".to_owned(),
            false,
            "ConnectionTerminated",
        ),
        (long, true, "HttpResponseHeaderSectionSize(None)"),
        (many, true, "HttpResponseHeaderSectionSize(None)"),
        (String::new(), true, "HttpResponseTimeout"),
    ];
    let servers = servers.map(|(answer, stays, error)| (Raw::new(answer, stays), error));
    for mode in BOTH {
        let runner = runner(mode);
        for (server, expected) in &servers {
            let url = server.url("/");
            let request = match expected.contains("Timeout") {
                true => {
                    let uri = format!("http://localhost/?timeout=300&url={url}");
                    Request::builder().uri(uri).body(empty()).unwrap()
                }
                false => fetch(&url),
            };
            let task = task(&runner, &server.grant(), request);
            let (status, body, _) = block_on(answer(&runner, task));
            let body = String::from_utf8_lossy(&body.unwrap()).into_owned();
            assert_eq!(status, 502, "{mode} {expected}: {body}");
            assert!(body.contains(expected), "{mode} {expected}: {body}");
        }
        let grant = closed.to_string();
        let (error, _) = refused(mode, &runner, &grant, &format!("http://{closed}/"));
        assert_eq!(error, "ConnectionRefused", "{mode}");
        let (error, _) = refused(mode, &runner, "nowhere.invalid", "http://nowhere.invalid/");
        assert!(error.starts_with("DnsError"), "{mode}: {error}");
        // Nothing that is not a URL of HTTP is granted or sent.
        let (error, _) = refused(mode, &runner, "a.org", "ftp://a.org/");
        assert_eq!(error, "HttpProtocolError", "{mode}");
        let (error, report) = refused(mode, &runner, "a.org", "http://a.org@b.org/");
        assert_eq!(error, "HttpRequestUriInvalid", "{mode}");
        assert!(report.denied.is_empty(), "{mode}");
    }
}

#[test]
fn half_a_body_is_not_a_whole_one() {
    let cut = Raw::new(
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this",
        false,
    );
    let slow = Raw::new(
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this",
        true,
    );
    for mode in BOTH {
        let runner = runner(mode);
        let cut_short = task(&runner, &cut.grant(), fetch(&cut.url("/")));
        let (_, body, _) = block_on(answer(&runner, cut_short));
        body.expect_err("it is cut");
        let uri = format!("http://localhost/?timeout=300&url={}", slow.url("/"));
        let request = Request::builder().uri(uri).body(empty()).unwrap();
        let stalled = task(&runner, &slow.grant(), request);
        let (_, body, _) = block_on(answer(&runner, stalled));
        body.expect_err("it stalls");
        // The request ends with its task.
        slow.closed.recv_timeout(SOON).expect("it is closed");
    }
}

/// A task that ends, however it does, takes its requests along.
#[test]
fn a_request_ends_with_its_task() {
    let server = Raw::new("", true);
    for mode in BOTH {
        let runner = runner(mode);
        let url = server.url("/");
        let mut killed = runner
            .blocking_submit(task(&runner, &server.grant(), fetch(&url)))
            .unwrap();
        server.heads.recv_timeout(SOON).expect("it is sent");
        killed.kill();
        let report = killed.blocking_report().unwrap();
        assert_eq!(report.outcome, Outcome::Cancelled, "{mode}");
        let closed = server.closed.recv_timeout(SOON);
        closed.unwrap_or_else(|_| panic!("{mode}: it is not closed"));

        let late = task(&runner, &server.grant(), fetch(&url))
            .limits(Limits::default().timeout(Duration::from_millis(300)));
        let report = runner.blocking_run(late).unwrap();
        server.heads.recv_timeout(SOON).expect("it was sent");
        assert!(
            matches!(report.outcome, Outcome::LimitExceeded(_)),
            "{mode}: {report:?}"
        );
        let closed = server.closed.recv_timeout(SOON);
        closed.unwrap_or_else(|_| panic!("{mode}: it is not closed"));
    }
}

#[test]
fn bodies_flow_both_ways() {
    // 8 MiB up, so that no buffer holds it, and 32 MiB down.
    let sent: Bytes = (0..8 << 20).map(|at: u32| (at % 251) as u8).collect();
    let digest = Site::of("thread", "http-digest/http-digest.wasm", &[]);
    let events = Site::of("thread", "http-events/http-events.wasm", &[]);
    for mode in BOTH {
        let runner = runner(mode);
        let up = |url: String, body: Body| {
            let uri = format!("http://localhost/?url={url}");
            let request = Request::builder().method("PUT").uri(uri);
            request.body(body).unwrap()
        };
        let url = format!("http://{}/sha256", digest.address);
        let request = up(url.clone(), full(sent.clone()));
        let through = task(&runner, &digest.address.to_string(), request);
        let (status, body, _) = block_on(answer(&runner, through));
        let direct = ureq(&url, &sent);
        assert_eq!((status, body.unwrap()), (200, direct), "{mode}");

        let url = format!("http://{}/big?bytes={}", events.address, 32 << 20);
        let down = task(&runner, &events.address.to_string(), fetch(&url));
        let (status, body, report) = block_on(answer(&runner, down));
        assert_eq!((status, body.unwrap().len()), (200, 32 << 20), "{mode}");
        let peak = report.stats.peak_memory_bytes.unwrap();
        assert!(peak < 8 << 20, "{mode}: {peak} bytes");
    }
}

/// The same request without a task between.
fn ureq(url: &str, body: &[u8]) -> Bytes {
    let rest = url.strip_prefix("http://").unwrap();
    let (address, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "PUT /{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let at = all.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    Bytes::from(all.split_off(at + 4))
}

#[test]
fn https_is_checked_against_the_authorities() {
    let data = |name: &str| repo("tests/data/tls").join(name);
    let (cert, key) = (data("cert.pem"), data("key.pem"));
    let tls = [
        "--tls-cert",
        cert.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    let server = Site::of("thread", "http-hello/http-hello.wasm", &tls);
    let port = server.address.port();
    let authorities = std::fs::read(data("ca.pem")).unwrap();
    for mode in BOTH {
        let url = format!("https://localhost:{port}/");
        let grant = format!("localhost:{port}");
        let trusting = crate::support::builder(mode);
        let trusting = trusting.http_authorities(authorities.clone());
        let trusting = trusting.build().unwrap();
        let asked = task(&trusting, &grant, fetch(&url));
        let (status, body, _) = block_on(answer(&trusting, asked));
        assert_eq!(
            (status, body.as_deref()),
            (200, Ok(&b"hello\n"[..])),
            "{mode}"
        );
        let strict = runner(mode);
        let (error, _) = refused(mode, &strict, &grant, &url);
        assert_eq!(error, "TlsCertificateError", "{mode}");
        // Without TLS at that port.
        let grant = server.address.to_string();
        let (error, _) = refused(mode, &strict, &grant, &format!("http://{grant}/"));
        assert_eq!(error, "HttpProtocolError", "{mode}");

        let error = crate::support::builder(mode).http_authorities(&b"nothing"[..]);
        let error = error.build().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTask, "{mode}");
        let why = "expected certificates in PEM";
        assert!(error.to_string().contains(why), "{mode}: {error}");
    }
}

/// Requests of one task after another in one worker do not meet.
#[test]
fn a_worker_that_is_used_again_keeps_requests_apart() {
    let server = Site::of("thread", "http-digest/http-digest.wasm", &[]);
    let grant = server.address.to_string();
    let options = ProcessOptions::default().reuse(50);
    let runner = crate::support::builder(Mode::Process).process(options);
    let runner = runner.max_running(2).build().unwrap();
    let artifact = guest(&runner, FETCH);
    let mut workers = std::collections::HashSet::new();
    block_on(async {
        for at in 0..60 {
            let sent = format!("number {at} ").repeat(20_000);
            let url = format!("http://{grant}/echo");
            let uri = format!("http://localhost/?url={url}");
            let request = Request::builder().method("PUT").uri(uri);
            let request = request.body(full(sent.clone())).unwrap();
            if at % 3 == 0 {
                // Ended in the middle.
                let task = task_of(&artifact, &grant, request);
                let mut handle = runner.submit(task).await.unwrap();
                let response = handle.response().await.expect("a response");
                drop(response);
                handle.kill();
                let _ = handle.report().await.unwrap();
                continue;
            }
            let (status, body, report) = answer(&runner, task_of(&artifact, &grant, request)).await;
            assert_eq!(status, 200);
            assert!(body.unwrap() == sent, "{at}");
            workers.insert(report.stats.worker_pid);
        }
    });
    // Each that was ended in the middle cost its worker.
    assert!(workers.len() < 30, "{} workers", workers.len());
}

#[test]
fn a_command_sends_requests_too() {
    let server = Site::of("thread", "http-hello/http-hello.wasm", &[]);
    let url = format!("http://{}/", server.address);
    let grant = server.address.to_string();
    for mode in ["thread", "process"] {
        let run = |options: &[&str]| {
            let wrun = Wrun::new().args(["--mode", mode]).args(options);
            wrun.arg(repo("guest-tasks/http-get/http-get.wasm"))
                .args([&*url, &*url])
                .run()
        };
        let ran = run(&["--allow-http", &grant]);
        ran.expect_code(0, mode);
        assert_eq!(ran.stdout, b"hello\nhello\n", "{mode}: {ran}");
        let ran = run(&[]);
        ran.expect_code(1, mode);
        let hint = format!("sending an HTTP request to {grant} (--allow-http {grant})");
        assert!(ran.stderr.contains(&hint), "{mode}: {ran}");
        let ran = run(&["--allow-http", "http://a.org"]);
        ran.expect_code(2, mode);
        assert!(ran.stderr.contains("expected HOST[:PORT]"), "{mode}: {ran}");
        // Not a list of certificates.
        let no_list = repo("tests/data/tls/key.pem");
        let ran = run(&["--http-ca", no_list.to_str().unwrap()]);
        ran.expect_code(2, mode);
        let why = "key.pem: invalid certificate authorities for HTTP requests: expected";
        assert!(ran.stderr.contains(why), "{mode}: {ran}");
        let ran = run(&["--allow-http", &grant, "--http-ca", "no-such-file.pem"]);
        ran.expect_code(2, mode);
        assert!(
            ran.stderr
                .contains("--http-ca no-such-file.pem: No such file"),
            "{mode}: {ran}"
        );
    }
}

#[test]
fn an_app_that_is_served_sends_requests() {
    let server = Site::of("thread", "http-hello/http-hello.wasm", &[]);
    let grant = server.address.to_string();
    for mode in ["thread", "process"] {
        let site = Site::of(mode, FETCH, &["--allow-http", &grant]);
        let answer = site.get(&format!("/?url=http://{grant}/"));
        assert_eq!(
            (answer.status, answer.text()),
            (200, "hello\n".into()),
            "{mode}"
        );
        let answer = site.get("/?url=http://127.0.0.1:1/");
        assert_eq!(answer.status, 502, "{mode}");
        site.stop();
    }
}
