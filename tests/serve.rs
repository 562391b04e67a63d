//! `wrun serve`: each request is a task, and what becomes of it is the client's answer. In
//! both modes.

use crate::support::command::{PATIENCE, Running, Wrun, scratch, write};
use crate::support::web::{Client, Site, get, path};
use crate::support::{MODES, eventually, repo, tool, within, wrun};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const HELLO: &str = "http-hello/http-hello.wasm";
const HOSTILE: &str = "http-hostile/http-hostile.wasm";
const EVENTS: &str = "http-events/http-events.wasm";
const DIGEST: &str = "http-digest/http-digest.wasm";

#[test]
fn a_request_is_answered_on_a_connection_that_stays() {
    for mode in MODES {
        let site = Site::of(mode, HELLO, &[]);
        let mut client = site.connect();
        for id in 0..3 {
            client.send(format!(
                "GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: {id}\r\n\r\n"
            ));
            let answer = client.answer(false).expect(mode);
            answer.expect(200, mode);
            assert_eq!(answer.text(), "hello\n", "{mode}");
            assert_eq!(
                answer.header("x-request-id"),
                Some(&*id.to_string()),
                "{mode}"
            );
            assert_eq!(answer.header("content-length"), Some("6"), "{mode}");
            assert!(
                answer.header("transfer-encoding").is_none(),
                "{mode}: {answer}"
            );
        }
        site.stop();
    }
}

#[test]
fn what_becomes_of_a_task_is_the_status() {
    for mode in MODES {
        let site = Site::of(mode, HOSTILE, &["--timeout", "5s", "--max-memory", "16MiB"]);
        for (path, status) in [
            ("/trap", 500),
            ("/panic", 500),
            ("/stack", 500),
            ("/memory", 500),
            ("/no-answer", 500),
            ("/error", 500),
            ("/nothing-here", 404),
        ] {
            let answer = site.get(path);
            answer.expect(status, &format!("{mode} {path}"));
            if status == 500 {
                assert_eq!(
                    answer.text(),
                    "500 Internal Server Error\n",
                    "{mode} {path}"
                );
            }
        }
        for path in [
            "/half",
            "/half-chunked",
            "/unfinished",
            "/unfinished-chunked",
        ] {
            // The beginning may not have left yet.
            if let Some(answer) = site.try_get(path) {
                answer.expect(200, &format!("{mode} {path}"));
                assert!(!answer.complete, "{mode} {path}: {answer}");
            }
        }
        // And it still works.
        site.get("/").expect(200, mode);
        site.stop();
        let site = Site::of(mode, HOSTILE, &["--timeout", "300ms"]);
        for path in ["/spin", "/sleep"] {
            site.get(path).expect(504, &format!("{mode} {path}"));
        }
        let stalled = site.try_get("/stall");
        assert!(stalled.is_none_or(|answer| !answer.complete), "{mode}");
        site.get("/").expect(200, mode);
        site.stop();
    }
}

#[test]
fn only_debugging_says_why() {
    for mode in MODES {
        let site = Site::of(mode, HOSTILE, &["--debug-errors"]);
        let answer = site.get("/trap");
        answer.expect(500, mode);
        assert!(answer.text().contains("unreachable"), "{mode}: {answer}");
        site.stop();
    }
}

#[test]
fn bodies_go_both_ways() {
    const LEN: usize = 3 << 20;
    for mode in MODES {
        let site = Site::of(mode, DIGEST, &[]);
        let body: Vec<u8> = (0..LEN).map(|at| (at % 251) as u8).collect();
        let mut client = site.connect();
        client.send(format!(
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {LEN}\r\n\r\n"
        ));
        std::thread::scope(|scope| {
            let mut other = client.twin();
            scope.spawn(move || {
                for part in body.chunks(100_000) {
                    other.write_all(part).unwrap();
                }
            });
            let answer = client.answer(false).expect(mode);
            answer.expect(200, mode);
            assert!(answer.complete, "{mode}");
            let right = answer.body.iter().enumerate();
            assert!(
                right.clone().all(|(at, byte)| *byte == (at % 251) as u8),
                "{mode}"
            );
            assert_eq!(right.count(), LEN, "{mode}");
        });
        // In chunks, with a trailer.
        client.send(
            "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: y\r\n\r\n",
        );
        let answer = client.answer(false).expect(mode);
        assert_eq!(answer.text(), "hello!", "{mode}: {answer}");
        site.stop();
        let site = Site::of(mode, EVENTS, &[]);
        for (path, chunked) in [
            ("/big?bytes=1000000", false),
            ("/chunked?bytes=1000000", true),
        ] {
            let answer = site.get(path);
            assert!(answer.complete, "{mode} {path}");
            assert_eq!(answer.body.len(), 1_000_000, "{mode} {path}");
            assert_eq!(
                answer.header("transfer-encoding").is_some(),
                chunked,
                "{mode} {path}"
            );
        }
        site.stop();
    }
}

#[test]
fn what_has_no_body_has_none() {
    for mode in MODES {
        let site = Site::of(mode, HELLO, &[]);
        let mut client = site.connect();
        client.send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = client.answer(true).expect(mode);
        answer.expect(200, mode);
        assert_eq!(answer.header("content-length"), Some("6"), "{mode}");
        // What follows is the next answer, and no body.
        client.send(get("/"));
        assert_eq!(
            client.answer(false).expect(mode).text(),
            "hello\n",
            "{mode}"
        );
        site.stop();
        let site = Site::of(mode, HOSTILE, &[]);
        let mut client = site.connect();
        for code in [204, 304] {
            for bytes in [0, 10] {
                client.send(get(&format!("/status?code={code}&bytes={bytes}")));
                client.answer(false).expect(mode).expect(code, mode);
            }
        }
        client.send(get("/status?code=418"));
        client.answer(false).expect(mode).expect(418, mode);
        site.stop();
    }
}

#[test]
fn routes_by_host_and_prefix() {
    let guest = |name: &str| repo("guest-tasks").join(name).display().to_string();
    let everything = format!("/={}", guest(HELLO));
    let hostile = format!("/hostile={}", guest(HOSTILE));
    let of_host = format!("b.example/={}", guest(EVENTS));
    for mode in MODES {
        let options = [
            "--route",
            &everything,
            "--route",
            &hostile,
            "--route",
            &of_host,
        ];
        let site = Site::start(mode, &options);
        let ask = |host: &str, path: &str| {
            site.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
        };
        assert_eq!(ask("a.example", "/").text(), "hello\n", "{mode}");
        assert_eq!(ask("a.example", "/hostiles").text(), "hello\n", "{mode}");
        ask("a.example", "/hostile/x").expect(404, mode);
        assert_eq!(ask("B.example:80", "/big?bytes=7").body.len(), 7, "{mode}");
        site.stop();
        let site = Site::start(mode, &options[2..]);
        ask_nothing(&site);
        site.stop();
    }
}

fn ask_nothing(site: &Site) {
    let answer = site.get("/elsewhere");
    answer.expect(404, "no route");
    assert_eq!(answer.text(), "404 Not Found\n");
}

#[test]
fn a_full_queue_is_answered_at_once() {
    for mode in MODES {
        let options = [
            "--max-running",
            "1",
            "--max-queued",
            "0",
            "--timeout",
            "none",
        ];
        let site = Site::of(mode, HOSTILE, &options);
        let mut first = site.connect();
        first.send(get("/sleep"));
        eventually("the task runs", PATIENCE, || {
            site.metric("wrun_http_requests_in_flight") == 1.0
        });
        let busy = within(PATIENCE, || {
            let answer = site.get("/");
            answer.status == 503 && answer.header("retry-after") == Some("1")
        });
        assert!(busy, "{mode}");
        drop(first);
        // Its client is gone, and with it the task.
        let free = within(PATIENCE, || site.get("/").status == 200);
        assert!(free, "{mode}: the task of a client that is gone still runs");
        site.stop();
    }
}

#[test]
fn each_request_is_in_the_log_and_in_the_metrics() {
    for mode in MODES {
        let site = Site::of(mode, HOSTILE, &["--access-log", "json"]);
        site.get("/");
        site.get("/trap?a='b");
        site.try_get("/half");
        let mut gone = site.connect();
        gone.send(get("/sleep"));
        eventually("the task runs", PATIENCE, || {
            site.metric("wrun_http_requests_in_flight") == 1.0
        });
        drop(gone);
        let lines = site.await_lines(4);
        let lines: Vec<Value> = lines
            .iter()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        for (target, status, outcome, complete) in [
            ("/", 200, "completed", true),
            ("/trap?a='b", 500, "trapped", true),
            ("/half", 200, "trapped", false),
            ("/sleep", 499, "cancelled", false),
        ] {
            let line = lines.iter().find(|line| line["target"] == json!(target));
            let line = line.unwrap_or_else(|| panic!("{mode}: no {target} in {lines:?}"));
            assert_eq!(line["status"], json!(status), "{mode}: {line}");
            assert_eq!(line["outcome"], json!(outcome), "{mode}: {line}");
            assert_eq!(line["complete"], json!(complete), "{mode}: {line}");
            assert!(
                line["task"].as_u64().is_some_and(|id| id > 0),
                "{mode}: {line}"
            );
            // A client may leave before its task has a worker.
            let has_worker =
                mode == "process" && (outcome != "cancelled" || line["worker_pid"].is_u64());
            assert_eq!(line["worker_pid"].is_u64(), has_worker, "{mode}: {line}");
        }
        let labels = r#"{route="/",code="500",outcome="trapped"}"#;
        let name = format!("wrun_http_requests_total{labels}");
        assert_eq!(
            site.metric(&name),
            1.0,
            "{mode}: {}",
            site.ask_admin("/metrics")
        );
        site.ask_admin("/healthz").expect(200, mode);
        site.ask_admin("/readyz").expect(200, mode);
        site.ask_admin("/else").expect(404, mode);
        site.stop();
        let site = Site::of(mode, HELLO, &["--access-log", "combined"]);
        site.get("/x?y");
        let [line] = &site.await_lines(1)[..] else {
            panic!("{mode}: {}", site.logged());
        };
        let request = r#""GET /x?y HTTP/1.1" 200 6 "-" "-" task="#;
        assert!(line.contains(request), "{mode}: {line}");
        assert!(line.contains(" outcome=completed time="), "{mode}: {line}");
        site.stop();
    }
}

#[test]
fn sigterm_lets_requests_finish_and_takes_no_more() {
    for mode in MODES {
        let site = Site::of(mode, EVENTS, &[]);
        let mut client = site.connect();
        client.send(get("/events?n=20&every=100"));
        let head = client.head().expect(mode);
        head.expect(200, mode);
        let mut idle = site.connect();
        idle.send(get("/big?bytes=1"));
        idle.answer(false).expect(mode).expect(200, mode);
        site.signal(Signal::TERM);
        // As `timeout` does, whose signal comes twice.
        std::thread::sleep(Duration::from_millis(1));
        site.signal(Signal::TERM);
        site.await_said("no more connections are accepted");
        assert!(
            idle.is_closed_within(PATIENCE),
            "{mode}: a connection without a request stays"
        );
        assert!(
            std::net::TcpStream::connect(site.address).is_err(),
            "{mode}"
        );
        site.ask_admin("/readyz").expect(503, mode);
        let mut text = String::new();
        loop {
            let some = client.some();
            if some.is_empty() {
                break;
            }
            text.push_str(&String::from_utf8_lossy(&some));
        }
        assert!(text.contains("event: end"), "{mode}: {text}");
        site.end().expect_code(0, mode);
    }
}

#[test]
fn grace_and_a_second_signal_cut() {
    for mode in MODES {
        for (options, signals, code, said) in [
            (&["--grace", "200ms"][..], 1, 143, "1 connection was cut"),
            (&["--grace", "1h"], 2, 143, ""),
        ] {
            let mut options = options.to_vec();
            options.extend(["--timeout", "none"]);
            let site = Site::of(mode, HOSTILE, &options);
            let mut client = site.connect();
            client.send(get("/sleep"));
            eventually("the task runs", PATIENCE, || {
                site.metric("wrun_http_requests_in_flight") == 1.0
            });
            for _ in 0..signals {
                site.signal(Signal::TERM);
                site.await_said("no more connections are accepted");
                // One that follows at once is the same request.
                std::thread::sleep(Duration::from_millis(200));
            }
            assert!(client.answer(false).is_none(), "{mode}");
            let ran = site.end();
            ran.expect_code(code, mode);
            assert!(ran.stderr.contains(said), "{mode}: {ran}");
        }
    }
}

#[test]
fn a_new_version_is_tried_before_it_answers() {
    let folder = scratch();
    let copy = |name: &str| {
        let bytes = fs::read(repo("guest-tasks").join(name)).unwrap();
        let new = write(folder.path(), "new", bytes);
        fs::rename(new, folder.path().join("app.wasm")).unwrap();
    };
    for mode in MODES {
        copy(HELLO);
        let app = folder.path().join("app.wasm");
        let site = Site::start(mode, &[path(&app)]);
        let mut client = site.connect();
        client.send(get("/"));
        assert_eq!(client.answer(false).expect(mode).text(), "hello\n");

        site.signal(Signal::HUP);
        site.await_said("nothing has changed: version 1 goes on");

        write(folder.path(), "app.wasm", "not wasm");
        site.signal(Signal::HUP);
        site.await_said("the reload is refused, version 1 goes on");
        assert_eq!(site.get("/").text(), "hello\n", "{mode}");

        // A request that is there goes on with what it had; its connection gets the new one.
        copy(EVENTS);
        site.signal(Signal::HUP);
        site.await_said("version 2 answers all requests from now on");
        client.send(get("/events?n=15&every=100"));
        client.head().expect(mode).expect(200, mode);
        copy(HOSTILE);
        site.signal(Signal::HUP);
        site.await_said("version 3 answers");
        site.get("/status?code=418").expect(418, mode);
        let mut text = String::new();
        while !text.contains("event: end") {
            let some = client.some();
            assert!(!some.is_empty(), "{mode}: {text}");
            text.push_str(&String::from_utf8_lossy(&some));
        }
        assert_eq!(site.metric("wrun_served_version"), 3.0, "{mode}");
        site.stop();
    }
}

#[test]
fn watched_files_are_reloaded_and_a_trial_refuses() {
    let folder = scratch();
    for mode in MODES {
        let app = folder.path().join("app.wasm");
        fs::copy(repo("guest-tasks").join(HELLO), &app).unwrap();
        let site = Site::start(mode, &["--watch", "--try", "/trap", path(&app)]);
        // It traps.
        fs::copy(repo("guest-tasks").join(HOSTILE), &app).unwrap();
        site.await_said("the reload is refused, version 1 goes on");
        assert_eq!(site.get("/").text(), "hello\n", "{mode}");
        fs::copy(repo("guest-tasks").join(EVENTS), &app).unwrap();
        site.await_said("version 2 answers");
        assert_eq!(site.get("/big?bytes=3").body.len(), 3, "{mode}");
        site.stop();
    }
    let ran = Wrun::new()
        .args(["serve", "--addr", "127.0.0.1:0", "--try", "/trap"])
        .arg(repo("guest-tasks").join(HOSTILE))
        .run();
    ran.expect_code(1, "a trial at the start");
    assert!(
        ran.stderr.contains("the trial request \"/trap\" failed"),
        "{ran}"
    );
}

#[test]
fn grants_reach_the_app() {
    let folder = scratch();
    let grant = format!("{}::/data", folder.path().display());
    for mode in MODES {
        let site = Site::of(mode, "http-api/http-api.wasm", &["--dir", &grant]);
        let put = format!("PUT /notes/{mode} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\ntrue");
        site.ask(&put).expect(201, mode);
        let answer = site.get(&format!("/notes/{mode}"));
        let note: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(note["note"], json!(true), "{mode}");
        site.stop();
    }
}

/// What is on the way to a client of another protocol: curl as the other side.
fn curl(args: &[&str]) -> Option<(String, bool)> {
    if !tool::available("curl") {
        return None;
    }
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60"])
        .args(args);
    let output = curl.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some((text, output.status.success()))
}

#[test]
fn http2_by_prior_knowledge_and_by_tls() {
    let certificate = repo("tests/data/tls/cert.pem");
    let authority = repo("tests/data/tls/ca.pem");
    let key = repo("tests/data/tls/key.pem");
    for mode in MODES {
        let site = Site::of(mode, EVENTS, &[]);
        let url = format!("http://{}/trailers?bytes=100000", site.address);
        let version = "\n%{http_version} %{size_download}";
        let h2 = ["--http2-prior-knowledge", "-o", "/dev/null", "-w", version];
        let Some((said, _)) = curl(&[&h2[..], &[&url]].concat()) else {
            return;
        };
        assert_eq!(said, "\n2 100000", "{mode}");
        site.stop();
        let site = Site::of(mode, HOSTILE, &[]);
        let url = format!("http://{}/half-chunked", site.address);
        let (_, ended_well) = curl(&[&h2[..], &[&url]].concat()).expect("curl");
        assert!(
            !ended_well,
            "{mode}: half of a body was taken for the whole"
        );
        site.stop();
        let tls = ["--tls-cert", path(&certificate), "--tls-key", path(&key)];
        let site = Site::of(mode, HELLO, &tls);
        let url = format!("https://localhost:{}/", site.address.port());
        let trust = ["--cacert", path(&authority), "-w", "%{http_version}"];
        let resolve = format!("localhost:{}:127.0.0.1", site.address.port());
        for (option, expected) in [("--http2", "hello\n2"), ("--http1.1", "hello\n1.1")] {
            let args = [&trust[..], &["--resolve", &resolve, option, &url]].concat();
            let (said, _) = curl(&args).expect("curl");
            assert_eq!(said, expected, "{mode}");
        }
        // A client that does not speak TLS.
        let mut client = site.connect();
        client.send(get("/"));
        assert!(client.answer(false).is_none(), "{mode}");
        site.stop();
    }
}

#[test]
fn a_unix_socket_is_served_and_removed() {
    let folder = scratch();
    for mode in MODES {
        let socket = folder.path().join("socket");
        let site = Site::of(mode, HELLO, &["--unix", path(&socket)]);
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = get("/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("hello\n"), "{mode}: {text}");
        site.stop();
        assert!(!socket.exists(), "{mode}: the socket is left");
    }
}

/// As a service manager starts it: the first socket is descriptor 3, and `LISTEN_PID` the process
/// that it is for.
fn activated(mode: &str, socket: std::os::fd::OwnedFd) -> Running {
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0 0</dev/null"#;
    Wrun::program(Path::new("/bin/sh"))
        .args(["-c", script, "sh"])
        .arg(wrun())
        .args(["serve", "--mode", mode])
        .arg(repo("guest-tasks").join(HELLO))
        .stdin_from(socket)
        .start()
}

#[test]
fn a_socket_of_a_service_manager_is_served() {
    let folder = scratch();
    for mode in MODES {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        // It came before the server, and waits for it.
        let mut client = Client::new(std::net::TcpStream::connect(address).unwrap());
        client.send(get("/"));
        let running = activated(mode, tcp.into());
        assert_eq!(client.answer(false).unwrap().text(), "hello\n", "{mode}");
        running.signal(Signal::TERM);
        let ran = running.end();
        ran.expect_code(0, mode);
        let words = format!("listening on http://{address}\n");
        assert!(ran.stderr.contains(&words), "{mode}: {ran}");
        // Nor does it listen anywhere else.
        assert_eq!(ran.stderr.matches("listening on").count(), 1, "{ran}");

        let socket = folder.path().join(mode);
        let unix = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = get("/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let running = activated(mode, unix.into());
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("hello\n"), "{mode}: {text}");
        running.signal(Signal::TERM);
        running.end().expect_code(0, mode);
        assert!(socket.exists(), "{mode}: it belongs to the service manager");
    }
}

#[test]
fn what_cannot_be_served_is_said_at_the_start() {
    let hello = repo("guest-tasks").join(HELLO);
    let route = format!("/={}", hello.display());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let echo = repo("guest-tasks/echo/echo.wat");
    let task = format!("part={}", hello.display());
    let none = scratch();
    let none = none.path().join("none.pem");
    for (args, code, why) in [
        (vec![path(&echo)], 126, "not an HTTP component"),
        (vec!["no-such-file.wasm"], 127, "no-such-file.wasm"),
        (vec!["--addr", &taken, path(&hello)], 125, "--addr"),
        (vec!["--route", &route, path(&hello)], 2, "given twice"),
        (vec!["--route", "x", path(&hello)], 2, "PREFIX=FILE"),
        (
            vec!["--jail", "strict", "--mode", "thread", path(&hello)],
            2,
            "--jail",
        ),
        (
            vec![
                "--tls-cert",
                path(&none),
                "--tls-key",
                path(&none),
                path(&hello),
            ],
            2,
            "none.pem: cannot read the certificate",
        ),
        // Each request would be refused for these.
        (
            vec![
                "--max-memory",
                "2MiB",
                "--max-total-memory",
                "1MiB",
                path(&hello),
            ],
            2,
            "--max-total-memory (1.0 MiB) must not be less than --max-memory (2.0 MiB)",
        ),
        (
            vec!["--dir", "/no/such/directory", path(&hello)],
            2,
            "cannot grant the directory /no/such/directory",
        ),
        (
            vec!["--task", &task, path(&hello)],
            2,
            "answers HTTP requests: a task cannot start it",
        ),
        (vec![], 2, "APP"),
    ] {
        let ran = Wrun::new().args(["serve"]).args(&args).run();
        ran.expect_code(code, &format!("{args:?}"));
        assert!(ran.stderr.contains(why), "{args:?}: {ran}");
    }
}

/// A worker that dies costs the request that it had.
#[test]
fn a_crash_is_one_502() {
    let site = Site::of("process", HOSTILE, &["--timeout", "none"]);
    let mut client = site.connect();
    client.send(get("/spin"));
    eventually("the task runs", PATIENCE, || {
        site.metric("wrun_http_requests_in_flight") == 1.0
    });
    let spinning = || {
        let workers = crate::support::processes::descendants(site.pid());
        let workers = workers.into_iter().map(|(pid, _)| pid);
        workers.max_by_key(|pid| cpu_ticks(*pid))
    };
    eventually("a worker computes", PATIENCE, || {
        spinning().is_some_and(|pid| cpu_ticks(pid) > 20)
    });
    let pid = rustix::process::Pid::from_raw(spinning().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    client
        .answer(false)
        .expect("an answer")
        .expect(502, "killed");
    site.get("/").expect(200, "another worker");
    eventually("it is counted", PATIENCE, || {
        site.metric("wrun_worker_crashes_total") == 1.0
    });
    site.stop();
}

fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest
        .split_whitespace()
        .nth(11)
        .and_then(|it| it.parse().ok());
    ticks.unwrap_or(0)
}

/// The time that a request may take begins with its first byte, not with its task.
#[test]
fn the_deadline_counts_from_the_first_byte() {
    let site = Site::of("thread", HOSTILE, &["--timeout", "400ms"]);
    let mut client = site.connect();
    client.send("GET /count HTTP/1.1\r\nHost: x\r\n");
    std::thread::sleep(Duration::from_millis(800));
    client.send("\r\n");
    client
        .answer(false)
        .expect("an answer")
        .expect(408, "too late");
    site.stop();
}

/// The output of an app goes to the operator of the server, with the task that printed it.
#[test]
fn what_an_app_prints_is_on_stderr() {
    for mode in MODES {
        let site = Site::of(mode, HOSTILE, &[]);
        let mut client = site.connect();
        client.send(get("/panic"));
        client.answer(false).expect("an answer").expect(500, mode);
        eventually("the message is printed", PATIENCE, || {
            let said = site.said();
            said.lines()
                .any(|line| line == "wrun: / task=1: on purpose")
        });
    }
}
