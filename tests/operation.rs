//! `wrun serve` for its operator: settings in a file, and what it tells of itself. In both modes.

use crate::fetches::Raw;
use crate::support::collector::{Collector, attribute, hex};
use crate::support::command::{PATIENCE, Wrun, scratch, write};
use crate::support::processes::descendants;
use crate::support::web::{Site, get, path};
use crate::support::{BOTH, MODES, builder, eventually, guest, repo, within};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use wrun::{Mode, Task};

const HELLO: &str = "http-hello/http-hello.wasm";
const HOSTILE: &str = "http-hostile/http-hostile.wasm";
const DIGEST: &str = "http-digest/http-digest.wasm";

/// Copies guests next to the settings, whose paths are relative to their file.
fn site_folder() -> tempfile::TempDir {
    let folder = scratch();
    for (name, guest) in [
        ("hello.wasm", HELLO),
        ("hostile.wasm", HOSTILE),
        ("digest.wasm", DIGEST),
        ("api.wasm", "http-api/http-api.wasm"),
    ] {
        fs::copy(repo("guest-tasks").join(guest), folder.path().join(name)).unwrap();
    }
    fs::create_dir(folder.path().join("data")).unwrap();
    folder
}

fn settings(folder: &Path, text: &str) -> String {
    let file = write(folder, "new.toml", text);
    fs::rename(file, folder.join("wrun.toml")).unwrap();
    path(&folder.join("wrun.toml")).to_owned()
}

fn post(target: &str, host: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[test]
fn routes_of_a_file_have_limits_and_grants_of_their_own() {
    let folder = site_folder();
    for mode in MODES {
        let file = settings(
            folder.path(),
            r#"
            # For all routes.
            timeout = "100s"
            max-body = 1_000
            access-log = "json"

            [[route]]
            route = "/"
            app = "hello.wasm"

            [[route]]
            route = "/spin"
            app = "hostile.wasm"
            timeout = 0.3

            [[route]]
            route = "/count"
            app = "hostile.wasm"
            fuel = 1000

            [[route]]
            route = "/notes"
            app = "api.wasm"
            dir = ["data::/data"]

            [[route]]
            route = "b.example/notes"
            app = "api.wasm"

            [[route]]
            route = "/echo"
            app = "digest.wasm"
            max-body = "5"

            # It answers once it has all of a body.
            [[route]]
            route = "/digest"
            app = "digest.wasm"
            max-body = "5"
            "#,
        );
        let site = Site::start(mode, &["--config", &file]);
        assert_eq!(site.get("/").text(), "hello\n", "{mode}");
        site.get("/spin").expect(504, mode);
        // It has no fuel for an answer.
        site.get("/count").expect(500, mode);
        let put = |host: &str| {
            let body = post(&format!("/notes/{mode}"), host, "true").replace("POST", "PUT");
            site.ask(&body)
        };
        put("a.example").expect(201, mode);
        assert!(folder.path().join(format!("data/{mode}.json")).exists());
        // The same app, without the grant.
        put("b.example").expect(500, mode);
        let echoed = site.ask(&post("/echo", "x", "12345"));
        assert_eq!(echoed.text(), "12345", "{mode}: {echoed}");
        site.ask(&post("/echo", "x", "123456")).expect(413, mode);
        let chunked = "POST /digest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                       6\r\n123456\r\n0\r\n\r\n";
        site.ask(chunked).expect(413, mode);
        site.ask(&post("/", "x", &"x".repeat(1001)))
            .expect(413, mode);
        site.ask(&post("/", "x", &"x".repeat(1000)))
            .expect(200, mode);
        let lines = site.await_lines(10);
        let line: Value = serde_json::from_str(&lines[2]).expect("JSON");
        assert_eq!(line["outcome"], json!("limit-exceeded"), "{mode}: {line}");
        site.stop();
    }
}

#[test]
fn the_command_line_replaces_what_the_file_says() {
    let folder = site_folder();
    for mode in MODES {
        let text = "max-body = 3\n[[route]]\nroute = '/echo'\napp = 'digest.wasm'\nmax-body = 4";
        let file = settings(folder.path(), text);
        for (options, length, status) in [
            (&[][..], 5, 413),
            (&["--max-body", "5"], 5, 200),
            (&["--max-body", "5"], 6, 413),
        ] {
            let site = Site::start(mode, &[&["--config", &file], options].concat());
            let answer = site.ask(&post("/echo", "x", &"x".repeat(length)));
            answer.expect(status, &format!("{mode} {options:?} {length}"));
            site.stop();
        }
        // An app that is named replaces those of the file.
        let app = folder.path().join("hello.wasm");
        let site = Site::start(mode, &["--config", &file, path(&app)]);
        assert_eq!(site.get("/echo").text(), "hello\n", "{mode}");
        site.stop();
    }
}

#[test]
fn a_reload_reads_the_routes_again() {
    let folder = site_folder();
    let route = |rest: &str| format!("[[route]]\nroute = '/echo'\napp = 'digest.wasm'\n{rest}");
    let echo = post("/echo", "x", "12345");
    for mode in MODES {
        let file = settings(folder.path(), &route("max-body = 4"));
        let site = Site::start(mode, &["--config", &file]);
        site.ask(&echo).expect(413, mode);

        site.signal(Signal::HUP);
        site.await_said("nothing has changed: version 1 goes on");

        let text = format!("{}\n[[route]]\nroute = '/'\napp = 'hello.wasm'", route(""));
        settings(folder.path(), &text);
        site.get("/").expect(404, mode);
        site.signal(Signal::HUP);
        site.await_said("version 2 answers all requests from now on");
        site.ask(&echo).expect(200, mode);
        assert_eq!(site.get("/").text(), "hello\n", "{mode}");

        settings(folder.path(), &route("max-bode = 4"));
        site.signal(Signal::HUP);
        site.await_said("wrun.toml:4: unknown key \"max-bode\"");
        assert_eq!(site.get("/").text(), "hello\n", "{mode}");

        settings(folder.path(), "[[route]]\nroute = '/'\napp = 'none.wasm'");
        site.signal(Signal::HUP);
        site.await_said("none.wasm");
        assert_eq!(site.get("/").text(), "hello\n", "{mode}");

        settings(folder.path(), &format!("max-queued = 5\n{}", route("")));
        site.signal(Signal::HUP);
        site.await_said("wrun.toml: \"max-queued\" is taken at the next start");
        site.await_said("version 3 answers");
        site.get("/").expect(404, mode);
        site.ask(&echo).expect(200, mode);
        site.stop();
    }
}

#[test]
fn a_watched_file_of_settings_brings_its_apps_along() {
    let folder = site_folder();
    for mode in MODES {
        let route = |app: &str| format!("watch = true\n[[route]]\nroute = '/'\napp = '{app}'");
        let file = settings(folder.path(), &route("hello.wasm"));
        let site = Site::start(mode, &["--config", &file]);
        assert_eq!(site.get("/").text(), "hello\n", "{mode}");
        let late = folder.path().join("late.wasm");
        settings(folder.path(), &route("late.wasm"));
        site.await_said("the reload is refused, version 1 goes on");
        // What was missing is watched, too.
        fs::copy(repo("guest-tasks").join(HOSTILE), &late).unwrap();
        site.await_said("version 2 answers");
        site.get("/status?code=418").expect(418, mode);
        fs::copy(repo("guest-tasks").join(HELLO), &late).unwrap();
        site.await_said("version 3 answers");
        assert_eq!(site.get("/").text(), "hello\n", "{mode}");
        site.stop();
        fs::remove_file(late).unwrap();
    }
}

#[test]
fn settings_that_are_wrong_are_said_at_the_start() {
    let folder = site_folder();
    let route = "[[route]]\nroute = '/'\napp = 'hello.wasm'\n";
    let twice = format!("{route}{route}");
    let without_key = format!("tls-cert = 'x'\n{route}");
    for (text, code, why) in [
        (
            "\ntimeuot = '5s'",
            2,
            "wrun.toml:2: unknown key \"timeuot\"",
        ),
        (
            "timeout = 'soon'",
            2,
            "wrun.toml:1: timeout: expected a time",
        ),
        ("timeout = ", 2, "wrun.toml:1: "),
        (
            "[[route]]\nroute = '/'",
            2,
            "wrun.toml:1: a route needs the key \"app\"",
        ),
        (&without_key, 2, "--tls-key"),
        (&twice, 2, "the route \"/\" is given twice"),
        ("", 2, "no app was named"),
        (
            "[[route]]\nroute = '/'\napp = 'none.wasm'",
            127,
            "none.wasm",
        ),
        (
            "[[route]]\nroute = '/'\napp = 'hello.wasm'\ndir = ['none']",
            2,
            "none",
        ),
    ] {
        let file = settings(folder.path(), text);
        let ran = Wrun::new().args(["serve", "--config", &file]).run();
        ran.expect_code(code, text);
        assert!(ran.stderr.contains(why), "{text}: {ran}");
    }
    let none = folder.path().join("none.toml");
    let ran = Wrun::new().args(["serve", "--config", path(&none)]).run();
    ran.expect_code(2, "no such file");
    assert!(
        ran.stderr.contains("none.toml: cannot read the settings"),
        "{ran}"
    );
}

#[test]
fn the_queue_and_the_workers_are_in_the_metrics() {
    for mode in MODES {
        let options = [
            "--max-running",
            "1",
            "--max-queued",
            "2",
            "--timeout",
            "none",
        ];
        let site = Site::of(mode, HOSTILE, &options);
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = site.connect();
            client.send(get("/sleep"));
            clients.push(client);
        }
        eventually("one runs and two wait", PATIENCE, || {
            let (running, queued) = ("wrun_tasks_running", "wrun_tasks_queued");
            (site.metric(running), site.metric(queued)) == (1.0, 2.0)
        });
        let text = site.ask_admin("/metrics").text();
        assert!(
            site.metric("process_resident_memory_bytes") > f64::from(1 << 20),
            "{text}"
        );
        let has_workers = mode == "process";
        assert_eq!(text.contains("wrun_workers"), has_workers, "{mode}: {text}");
        if has_workers {
            eventually("a worker runs", PATIENCE, || {
                site.metric("wrun_workers") >= 1.0 && site.metric("wrun_zygotes") == 1.0
            });
            assert!(site.metric("wrun_workers_started_total") >= 1.0, "{text}");
            assert_eq!(site.metric("wrun_workers_restarted_total"), 0.0, "{text}");
            let memory = site.metric("wrun_workers_resident_memory_bytes");
            assert!(memory > f64::from(1 << 20), "{text}");
        }
        drop(clients);
        eventually("none is left", PATIENCE, || {
            let (running, queued) = ("wrun_tasks_running", "wrun_tasks_queued");
            (site.metric(running), site.metric(queued)) == (0.0, 0.0)
        });
        site.stop();
    }
}

#[test]
fn workers_that_die_are_counted_and_replaced() {
    let site = Site::of("process", HELLO, &["--spares", "1"]);
    site.get("/").expect(200, "the first");
    eventually("a spare waits", PATIENCE, || {
        site.metric("wrun_workers_spare") == 1.0
    });
    let started = site.metric("wrun_workers_started_total");
    // The spare and its zygote: all that the server has.
    for (pid, _) in descendants(site.pid()) {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
    eventually("others take their place", PATIENCE, || {
        site.get("/").status == 200 && site.metric("wrun_workers_restarted_total") >= 1.0
    });
    assert!(site.metric("wrun_workers_started_total") > started);
    site.stop();
}

#[test]
fn a_runner_says_what_it_is_doing() {
    for mode in BOTH {
        let runner = builder(mode).max_running(1).build().unwrap();
        let patient = guest(&runner, "patient/patient.wasm");
        let first = runner.blocking_submit(Task::new(&patient)).unwrap();
        let second = runner.blocking_submit(Task::new(&patient)).unwrap();
        eventually("it runs", PATIENCE, || {
            let workers = runner.stats().workers;
            workers.is_none_or(|workers| workers.alive >= 1)
        });
        let stats = runner.stats();
        assert_eq!((stats.running, stats.queued), (1, 1), "{stats:?}");
        assert_eq!(stats.workers.is_some(), mode == Mode::Process);
        if let Some(workers) = stats.workers {
            assert!(workers.alive >= 1 && workers.started >= 1, "{workers:?}");
            assert!(workers.memory_bytes > 1 << 20, "{workers:?}");
        }
        drop(second);
        first.kill();
        drop(first);
        eventually("nothing runs", PATIENCE, || {
            let stats = runner.stats();
            (stats.running, stats.queued) == (0, 0)
        });
        // No worker is left under a task; spares may be there.
        let idle = within(PATIENCE, || {
            let workers = runner.stats().workers;
            workers.is_none_or(|it| it.alive == it.spares + it.reusable)
        });
        assert!(idle, "{mode}: {:?}", runner.stats());
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traced(target: &str) -> String {
    get(target).replacen(
        "\r\n",
        &format!("\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n"),
        1,
    )
}

#[test]
fn requests_are_spans_of_their_clients_traces() {
    for mode in MODES {
        let collector = Collector::start();
        let app = repo("guest-tasks").join(HOSTILE);
        let options = ["--access-log", "json", path(&app)];
        let site = Site::start_as(collector.wrun(), mode, &options);
        site.ask(&traced("/count?secret")).expect(200, mode);
        site.ask(&traced("/trap")).expect(500, mode);
        site.get("/").expect(200, mode);
        let unsampled = traced("/nowhere").replace("-01\r", "-00\r");
        site.ask(&unsampled).expect(404, mode);
        let lines = site.await_lines(4);
        // What is left is sent at the end.
        site.stop();
        let spans = collector.spans.lock().unwrap().clone();
        assert!(
            spans.iter().all(|(service, _)| service == "shop"),
            "{spans:?}"
        );
        let of_path = |path: &str| {
            let mut all = spans.iter().map(|(_, span)| span);
            let found = all.find(|span| attribute(span, "url.path").as_deref() == Some(path));
            found.unwrap_or_else(|| panic!("{mode}: no span of {path}: {spans:?}"))
        };
        let line_of = |target: &str| -> Value {
            let lines = lines.iter().map(|line| serde_json::from_str(line).unwrap());
            let mut lines = lines.filter(|line: &Value| line["target"] == json!(target));
            lines.next().expect("a line")
        };

        let good = of_path("/count");
        assert_eq!(hex(&good.trace_id), TRACE, "{mode}");
        assert_eq!(hex(&good.parent_span_id), PARENT, "{mode}");
        assert_eq!(good.name, "GET /", "{mode}");
        assert_eq!(good.kind, SpanKind::Server as i32, "{mode}");
        for (key, value) in [
            ("http.request.method", "GET"),
            ("http.route", "/"),
            ("http.response.status_code", "200"),
            ("url.scheme", "http"),
            ("wrun.outcome", "completed"),
        ] {
            assert_eq!(attribute(good, key).as_deref(), Some(value), "{mode} {key}");
        }
        assert_eq!(attribute(good, "error.type"), None, "{mode}");
        let line = line_of("/count?secret");
        assert_eq!(line["trace_id"], json!(TRACE), "{mode}: {line}");
        assert_eq!(line["span_id"], json!(hex(&good.span_id)), "{mode}: {line}");
        let task = spans
            .iter()
            .find(|(_, span)| span.parent_span_id == good.span_id);
        let (_, task) = task.unwrap_or_else(|| panic!("{mode}: no task: {spans:?}"));
        assert_eq!(
            (task.name.as_str(), hex(&task.trace_id)),
            ("task", TRACE.into()),
            "{mode}"
        );

        let bad = of_path("/trap");
        assert_eq!(
            attribute(bad, "error.type").as_deref(),
            Some("trapped"),
            "{mode}"
        );
        let status = bad.status.clone().expect("a status");
        assert_eq!(status.code, StatusCode::Error as i32, "{mode}");

        let own = of_path("/");
        assert!(own.parent_span_id.is_empty(), "{mode}: {own:?}");
        assert_eq!(
            line_of("/")["trace_id"],
            json!(hex(&own.trace_id)),
            "{mode}"
        );

        let paths = spans
            .iter()
            .filter_map(|(_, span)| attribute(span, "url.path"));
        let mut paths: Vec<_> = paths.collect();
        paths.sort();
        // Not the one that its client does not record.
        assert_eq!(paths, ["/", "/count", "/trap"], "{mode}: {spans:?}");
    }
}

/// What the app sends on belongs to the trace of its client, below the server's span, or below
/// that of the client where the server records none.
#[test]
fn an_app_can_pass_the_trace_on() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for mode in MODES {
        let upstream = Raw::new(answer, true);
        let grant = upstream.grant();
        let app = repo("guest-tasks/http-fetch/http-fetch.wasm");
        let options = ["--allow-http", &grant, path(&app)];
        let parent_of = |wrun: Wrun| {
            let site = Site::start_as(wrun, mode, &options);
            let target = format!("/?url={}", upstream.url("/"));
            site.ask(&traced(&target)).expect(200, mode);
            let head = upstream.heads.recv_timeout(PATIENCE).unwrap();
            site.stop();
            let (_, parent) = head.split_once("\r\ntraceparent: ").expect("a parent");
            let parent = parent.lines().next().unwrap().to_owned();
            assert!(
                parent.starts_with(&format!("00-{TRACE}-")),
                "{mode}: {parent}"
            );
            parent
        };
        let untouched = format!("00-{TRACE}-{PARENT}-01");
        assert_eq!(parent_of(Wrun::new()), untouched, "{mode}");
        let collector = Collector::start();
        let parent = parent_of(collector.wrun());
        let spans = collector.spans.lock().unwrap();
        let server = spans
            .iter()
            .find(|(_, span)| span.kind == SpanKind::Server as i32);
        let (_, server) = server.unwrap_or_else(|| panic!("{mode}: {spans:?}"));
        let expected = format!("00-{TRACE}-{}-01", hex(&server.span_id));
        assert_eq!(parent, expected, "{mode}");
    }
}

#[test]
fn without_a_collector_the_log_has_the_clients_trace() {
    for mode in MODES {
        let site = Site::of(mode, HELLO, &["--access-log", "json"]);
        site.ask(&traced("/")).expect(200, mode);
        site.await_lines(1);
        site.get("/none").expect(200, mode);
        let lines = site.await_lines(2);
        let lines: Vec<Value> = lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["trace_id"], json!(TRACE), "{mode}");
        assert_eq!(lines[0]["span_id"], json!(PARENT), "{mode}");
        assert_eq!(lines[1].get("trace_id"), None, "{mode}");
        site.stop();
    }
}

#[test]
fn a_collector_that_is_not_there_costs_a_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let app = repo("guest-tasks").join(HELLO);
    for mode in MODES {
        let nowhere = Wrun::new()
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"))
            .env("OTEL_BSP_SCHEDULE_DELAY", "10")
            .env("NO_PROXY", "*");
        let site = Site::start_as(nowhere, mode, &[path(&app)]);
        site.get("/").expect(200, mode);
        let told = format!("traces cannot be sent to {address}, and some are lost");
        site.await_said(&told);
        site.get("/").expect(200, mode);
        let ran = site.stop();
        assert_eq!(ran.stderr.matches(&told).count(), 1, "{mode}: {ran}");
        let unknown = Wrun::new().env("OTEL_TRACES_EXPORTER", "zipkin");
        let site = Site::start_as(unknown, mode, &[path(&app)]);
        site.await_said("traces are not sent: unknown OTEL_TRACES_EXPORTER \"zipkin\"");
        assert_eq!(site.get("/").text(), "hello\n", "{mode}");
        site.stop();
    }
}
