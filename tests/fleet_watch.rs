//! `wrun worker` for its operator: health and metrics, and traces from the submitter to the guest.

use crate::map::{PICKY, guest};
use crate::support::MODES;
use crate::support::collector::{Collector, attribute, hex};
use crate::support::command::{PATIENCE, Running, Wrun, scratch, write};
use crate::support::eventually;
use crate::support::nats::{Server, json_of};
use crate::support::web::{RUNNING, ask_operator, metric_of};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A worker and where it answers its operator.
struct Watched {
    worker: Running,
    port: u16,
}

impl Watched {
    fn start(server: &Server, mode: &str, options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let options = [&["--admin", &address], options].concat();
        let worker = server.worker(mode, "w", &options);
        eventually("it answers its operator", PATIENCE, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Watched { worker, port }
    }

    fn ask(&self, path: &str) -> (u16, String) {
        let answer = ask_operator(("127.0.0.1", self.port), path);
        (answer.status, answer.text())
    }

    fn metric(&self, series: &str) -> f64 {
        metric_of(("127.0.0.1", self.port), series)
    }
}

#[test]
fn a_worker_says_how_it_is() {
    for mode in MODES {
        let Some(mut server) = Server::with_jetstream() else {
            return;
        };
        let worker = Watched::start(&server, mode, &["--grace", "100ms"]);
        assert_eq!(worker.ask("/healthz"), (200, "ok\n".into()));
        assert_eq!(worker.ask("/readyz"), (200, "ok\n".into()));
        assert_eq!(worker.ask("/none").0, 404);
        let folder = scratch();
        let echo = guest("echo/echo.wat");
        let picky = write(folder.path(), "picky.wat", PICKY);
        let submit = |id: &str, options: &[&str], input: &str| {
            let input = write(folder.path(), "input", input);
            let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "submit", "--id", id]);
            let ran = ran.args(options).arg("--input").arg(input);
            let task = if id.starts_with("picky") {
                &picky
            } else {
                &echo
            };
            ran.arg(task).run().expect_code(0, id);
            server.result(id);
        };
        for number in 0..3 {
            submit(&format!("echo{number}"), &["--class", "high"], "hello");
        }
        submit("picky", &[], "t");
        submit("refused", &["--grant", "root"], "");
        // What others name a class makes no series.
        for number in 0..20 {
            submit(
                &format!("class{number}"),
                &["--class", &format!("c{number}")],
                "",
            );
        }
        server.publish("wrun.task.normal.mallory", b"{");
        eventually("it is buried", PATIENCE, || {
            worker.metric("wrun_fleet_buried_total") == 1.0
        });
        for (series, value) in [
            (
                r#"wrun_fleet_tasks_total{class="high",outcome="completed"}"#,
                3.0,
            ),
            (
                r#"wrun_fleet_tasks_total{class="normal",outcome="trapped"}"#,
                1.0,
            ),
            (
                r#"wrun_fleet_tasks_total{class="normal",outcome="refused"}"#,
                1.0,
            ),
            (
                r#"wrun_fleet_tasks_total{class="normal",outcome="buried"}"#,
                1.0,
            ),
            (
                r#"wrun_fleet_tasks_total{class="other",outcome="completed"}"#,
                20.0,
            ),
            (r#"wrun_fleet_task_wait_seconds_count{class="high"}"#, 3.0),
            (r#"wrun_fleet_task_run_seconds_count{class="high"}"#, 3.0),
            (
                r#"wrun_fleet_task_overhead_seconds_count{class="other"}"#,
                20.0,
            ),
            (r#"wrun_fleet_module_uses_total{from="memory"}"#, 23.0),
            ("wrun_fleet_connected", 1.0),
            ("wrun_fleet_connects_total", 1.0),
            ("wrun_fleet_room", 2.0),
            ("wrun_fleet_tasks_in_hand", 0.0),
            ("wrun_fleet_modules_kept", 2.0),
        ] {
            assert_eq!(worker.metric(series), value, "{mode}: {series}");
        }
        let (status, text) = worker.ask("/metrics");
        assert_eq!((status, text.ends_with("\n# EOF\n")), (200, true), "{text}");
        assert_eq!(text.matches("# EOF").count(), 1, "{text}");
        assert!(!text.contains("mallory") && !text.contains("c7"), "{text}");
        let made = |from: &str| {
            let series = format!("wrun_fleet_module_uses_total{{from=\"{from}\"}}");
            worker.metric(&series)
        };
        assert_eq!(made("compiler") + made("cache"), 2.0, "{mode}: {text}");
        assert!(
            worker.metric(r#"wrun_fleet_fetched_bytes_total{of="module"}"#) > 0.0,
            "{text}"
        );
        assert_eq!(text.contains("wrun_workers "), mode == "process", "{text}");
        server.restart();
        eventually("it is connected again", PATIENCE, || {
            worker.metric("wrun_fleet_connects_total") >= 2.0
                && worker.metric("wrun_fleet_connected") == 1.0
        });
        server.stop();
        eventually("it is not ready", PATIENCE, || {
            worker.ask("/readyz") == (503, "there is no connection to NATS\n".into())
        });
        assert_eq!(worker.ask("/healthz").0, 200);
        worker.worker.signal(Signal::KILL);
    }
}

#[test]
fn what_others_ran_first_and_what_was_given_back_is_counted() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    let folder = scratch();
    let picky = write(folder.path(), "picky.wat", PICKY);
    let slow = write(folder.path(), "slow", "l");
    let worker = Watched::start(&server, "process", &["--grace", "100ms"]);
    let submit = |id: &str| {
        let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "submit", "--id", id]);
        let ran = ran.args(["--timeout", "4s", "--input"]).arg(&slow);
        ran.arg(&picky).run().expect_code(0, id);
    };
    let runs = || {
        eventually("it runs", PATIENCE, || worker.metric(RUNNING) == 1.0);
    };
    submit("late");
    runs();
    worker.worker.signal(Signal::STOP);
    let other = server.worker("thread", "other", &[]);
    assert_eq!(server.result("late")["worker"], "other");
    other.signal(Signal::KILL);
    worker.worker.signal(Signal::CONT);
    eventually("its answer is late", PATIENCE, || {
        worker.metric("wrun_fleet_late_total") == 1.0
    });
    // A message of a version to come goes back to the queue.
    server.publish("wrun.task.normal.a", br#"{"v": 3, "id": "newer"}"#);
    let newer = r#"wrun_fleet_given_back_total{reason="newer"}"#;
    eventually("it is given back twice", PATIENCE, || {
        worker.metric(newer) >= 2.0
    });
    assert!(worker.metric("wrun_fleet_redelivered_total") >= 1.0);
    submit("long");
    runs();
    eventually("its lease is extended", PATIENCE, || {
        worker.metric("wrun_fleet_extended_total") >= 1.0
    });
    assert_eq!(worker.metric("wrun_fleet_room"), 1.0);
}

#[test]
fn where_a_worker_cannot_listen_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let worker = |address: &str| {
        let ran = Wrun::new().args(["worker", "--nats", "nats://127.0.0.1:1"]);
        ran.args(["--metrics", address]).run()
    };
    let ran = worker(&address);
    ran.expect_code(125, "taken");
    assert!(ran.stderr.contains("--admin chooses another"), "{ran}");
    worker("8080").expect_code(2, "no host");
}

/// The spans that were sent up to now.
fn spans(collector: &Collector) -> Vec<Span> {
    let spans = collector.spans.lock().unwrap();
    spans.iter().map(|(_, span)| span.clone()).collect()
}

fn traced_worker(server: &Server, collector: &Collector, mode: &str) -> Running {
    let mut worker = collector
        .wrun()
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .args(["worker", "--quiet", "--nats", &server.url(), "--mode", mode])
        .args(["--name", "w", "--jobs", "2"]);
    worker.command.stdout(Stdio::null()).stderr(Stdio::null());
    worker.start()
}

#[test]
fn a_task_is_one_trace_from_its_submitter_to_its_guest() {
    for mode in MODES {
        let Some(server) = Server::with_jetstream() else {
            return;
        };
        let (here, there) = (Collector::start(), Collector::start());
        let mut worker = traced_worker(&server, &there, mode);
        let echo = guest("echo/echo.wat");
        let parent = format!("00-{TRACE}-{PARENT}-01");
        let ran = here.wrun().env("TRACEPARENT", &parent);
        let ran = ran.args(["fleet", "--nats", &server.url(), "submit", "--wait"]);
        ran.arg(&echo).run().expect_code(0, mode);
        let folder = scratch();
        let lines = write(folder.path(), "lines", "a\nb\n");
        let ran = here.wrun().env("TRACEPARENT", &parent);
        let ran = ran.args(["map", "--quiet", "--no-progress", "--on", &server.url()]);
        let ran = ran.arg("--lines").arg(&lines).arg(&echo).run();
        ran.expect_code(0, mode);
        // Without a collector the submitter's own parent goes along.
        let untraced = Wrun::new().env("TRACEPARENT", &parent);
        let untraced = untraced.args(["fleet", "--nats", &server.url(), "submit", "--wait"]);
        let untraced = untraced.args(["--id", "untraced"]).arg(&echo);
        untraced.run().expect_code(0, mode);
        // What is no traceparent begins a new trace.
        let digest = json_of(&server.fleet(&["--json", "result", "untraced"]));
        assert_eq!(digest["kind"], "report", "{digest}");
        let module = json!({"blake3": crate::fleet::blake3(&std::fs::read(&echo).unwrap())});
        for (id, said) in [
            ("odd", json!("\u{202e}not a traceparent")),
            ("unsampled", json!(parent.replace("-01", "-00"))),
        ] {
            let body: Value = json!({"v": 1, "id": id, "module": module, "traceparent": said});
            server.publish("wrun.task.normal.a", body.to_string().as_bytes());
            assert_eq!(server.result(id)["kind"], "report", "{mode}: {id}");
        }
        worker.signal(Signal::TERM);
        assert!(worker.ends_within(PATIENCE));
        let (sent, done) = (spans(&here), spans(&there));
        let submits: Vec<_> = sent
            .iter()
            .filter(|it| it.name == "send wrun.task")
            .collect();
        assert_eq!(submits.len(), 3, "{mode}: {sent:?}");
        let batch = sent.iter().find(|it| it.name == "map").expect("a batch");
        assert_eq!(hex(&batch.parent_span_id), PARENT, "{mode}");
        let direct = submits
            .iter()
            .filter(|it| hex(&it.parent_span_id) == PARENT);
        assert_eq!(direct.count(), 1, "{mode}: {sent:?}");
        let in_batch = submits
            .iter()
            .filter(|it| it.parent_span_id == batch.span_id);
        assert_eq!(in_batch.count(), 2, "{mode}: {sent:?}");
        for submit in &submits {
            assert_eq!(hex(&submit.trace_id), TRACE, "{mode}");
            assert_eq!(submit.kind, SpanKind::Producer as i32, "{mode}");
            let child = |of: &Span| {
                let found = done.iter().find(|it| it.parent_span_id == of.span_id);
                found.unwrap_or_else(|| panic!("{mode}: nothing below {of:?}: {done:?}"))
            };
            let process = child(submit);
            assert_eq!(
                (process.name.as_str(), hex(&process.trace_id)),
                ("process wrun.task", TRACE.into()),
                "{mode}"
            );
            assert_eq!(process.kind, SpanKind::Consumer as i32, "{mode}");
            let of = |key: &str| attribute(process, key);
            assert_eq!(of("wrun.outcome").as_deref(), Some("completed"), "{mode}");
            assert_eq!(
                of("messaging.message.id"),
                attribute(submit, "messaging.message.id"),
                "{mode}"
            );
            assert_eq!(of("error.type"), None, "{mode}");
            let task = child(process);
            assert_eq!(
                (task.name.as_str(), hex(&task.trace_id)),
                ("task", TRACE.into()),
                "{mode}"
            );
        }
        let of_id = |id: &str| {
            let mut all = done.iter();
            all.find(|it| attribute(it, "messaging.message.id").as_deref() == Some(id))
        };
        let untraced = of_id("untraced").expect("a span");
        assert_eq!(hex(&untraced.parent_span_id), PARENT, "{mode}");
        let odd = of_id("odd").expect("a span");
        assert!(odd.parent_span_id.is_empty(), "{mode}: {odd:?}");
        assert_ne!(hex(&odd.trace_id), TRACE, "{mode}");
        assert!(of_id("unsampled").is_none(), "{mode}: {done:?}");
    }
}

/// A worker whose collector does not answer runs tasks all the same.
#[test]
fn a_collector_that_is_not_there_delays_no_task() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut worker = Wrun::new()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"))
        .env("NO_PROXY", "*")
        .args([
            "worker",
            "--quiet",
            "--nats",
            &server.url(),
            "--mode",
            "thread",
        ]);
    worker.command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut worker = worker.start();
    let echo = guest("echo/echo.wat");
    let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "submit", "--wait"]);
    ran.arg(&echo).run().expect_code(0, "no collector");
    worker.signal(Signal::TERM);
    assert!(worker.ends_within(Duration::from_secs(30)));
}
