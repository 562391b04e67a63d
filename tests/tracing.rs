//! What wrun tells by `tracing`: spans and events to the host's subscriber, and the log of
//! the command. In both modes the same, each once, and nothing that a guest says.

use crate::retries::{Stage, await_attempt};
use crate::storms::crashing;
use crate::support::command::{Wrun, scratch, write};
use crate::support::{BOTH, MODES, alone, builder, guest, repo, wat};
use crate::terminal::terminal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Instrument, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use wrun::{Cache, ErrorKind, Jail, Layer as JailLayer, Limits, Mode, Start, Task};

// --- a subscriber ---------------------------------------------------------

type Fields = BTreeMap<String, String>;

struct Visitor<'a>(&'a mut Fields);

impl Visit for Visitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

#[derive(Clone, Debug)]
struct Span {
    id: u64,
    parent: Option<u64>,
    name: String,
    target: String,
    fields: Fields,
    closed: bool,
}

#[derive(Clone, Debug)]
struct Told {
    span: Option<u64>,
    level: Level,
    target: String,
    message: String,
    fields: Fields,
}

#[derive(Default)]
struct Records {
    spans: Vec<Span>,
    told: Vec<Told>,
}

/// Keeps what is told on all threads of this process.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Records>>);

impl Recorder {
    /// For the rest of this process.
    fn install() -> Self {
        let recorder = Recorder::default();
        let subscriber = tracing_subscriber::registry().with(recorder.clone());
        tracing::subscriber::set_global_default(subscriber).unwrap();
        recorder
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap()
    }

    /// What was told since the last time.
    fn take(&self) -> Records {
        std::mem::take(&mut *self.records())
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Visitor(&mut fields));
        let parent = context.span(id).and_then(|span| Some(span.parent()?.id()));
        let metadata = attributes.metadata();
        self.records().spans.push(Span {
            id: id.into_u64(),
            parent: parent.map(|id| id.into_u64()),
            name: metadata.name().to_owned(),
            target: metadata.target().to_owned(),
            fields,
            closed: false,
        });
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, _: Context<'_, S>) {
        let mut records = self.records();
        let mut spans = records.spans.iter_mut().rev();
        if let Some(span) = spans.find(|span| span.id == id.into_u64()) {
            record.record(&mut Visitor(&mut span.fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Visitor(&mut fields));
        let metadata = event.metadata();
        // What dependencies tell is theirs.
        if metadata.target().starts_with("wrun") {
            self.records().told.push(Told {
                span: context.event_span(event).map(|span| span.id().into_u64()),
                level: *metadata.level(),
                target: metadata.target().to_owned(),
                message: fields.remove("message").unwrap_or_default(),
                fields,
            });
        }
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        let mut records = self.records();
        let mut spans = records.spans.iter_mut().rev();
        if let Some(span) = spans.find(|span| span.id == id.into_u64()) {
            span.closed = true;
        }
    }
}

impl Records {
    /// The spans of tasks, in the order in which they began; all are closed.
    #[track_caller]
    fn tasks(&self) -> Vec<&Span> {
        let tasks = self.spans.iter().filter(|it| it.target == "wrun::task");
        let tasks: Vec<_> = tasks.collect();
        for task in &tasks {
            assert!(task.name == "task" && task.closed, "{task:?}");
        }
        tasks
    }

    /// What was told in a span.
    fn within(&self, span: &Span) -> Vec<&Told> {
        let told = self.told.iter();
        told.filter(|told| told.span == Some(span.id)).collect()
    }

    /// What was told with these words.
    fn said(&self, message: &str) -> Vec<&Told> {
        let told = self.told.iter();
        told.filter(|told| told.message == message).collect()
    }
}

impl Span {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |value| value)
    }
}

impl Told {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |value| value)
    }
}

fn words<'a>(told: &[&'a Told]) -> Vec<(Level, &'a str)> {
    let words = told.iter();
    words.map(|told| (told.level, &*told.message)).collect()
}

const STARTED: (Level, &str) = (Level::DEBUG, "started");
const ENDED: (Level, &str) = (Level::DEBUG, "ended");

// --- the library ----------------------------------------------------------

#[test]
fn each_task_has_a_span_in_the_span_of_its_submitter() {
    alone(
        "tracing::each_task_has_a_span_in_the_span_of_its_submitter",
        || {
            let recorder = Recorder::install();
            for mode in BOTH {
                let runner = builder(mode).build().unwrap();
                let echo = guest(&runner, "echo/echo.wat");
                let trap = guest(&runner, "hostile/div-by-zero.wat");
                let fail = guest(&runner, "hostile/fail.wat");
                let request = tracing::info_span!("request");
                let id = |span: &tracing::Span| span.id().unwrap().into_u64();
                let submitter = id(&request);
                recorder.take();

                let report = request.in_scope(|| {
                    let report = runner
                        .blocking_run(Task::new(&echo).input("a secret"))
                        .unwrap();
                    runner.blocking_run(Task::new(&trap)).unwrap();
                    report
                });
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                let submitting = async {
                    let task = Task::new(&fail).name("one that\x1b[31m fails");
                    let mut handle = runner.submit(task).await.unwrap();
                    handle.report().await.unwrap()
                };
                runtime.block_on(submitting.instrument(request));
                runner.blocking_run(Task::new(&echo)).unwrap();

                let records = recorder.take();
                let tasks = records.tasks();
                assert_eq!(tasks.len(), 4, "{mode}: {tasks:?}");
                let parents = tasks.iter().map(|task| task.parent);
                let inside = Some(submitter);
                assert!(
                    parents.eq([inside, inside, inside, None]),
                    "{mode}: {submitter} {tasks:?}"
                );
                let [first, second, third, _] = tasks[..] else {
                    panic!("{mode}: {tasks:?}");
                };
                assert_eq!(first.field("task_id"), report.task_id.to_string());
                assert_eq!(first.field("task_name"), "echo.wat");
                assert_eq!(first.field("artifact"), &echo.digest()[..16]);
                assert_eq!(first.field("mode"), mode.name());
                assert_eq!(first.field("attempt"), "", "only from the second one on");
                assert_eq!(third.field("task_name"), "one that\x1b[31m fails");
                for task in &tasks {
                    let told = records.within(task);
                    assert_eq!(words(&told), [STARTED, ENDED], "{mode}: {told:?}");
                    assert!(told.iter().all(|it| it.target == "wrun::task"));
                    let method = told[0].field("start_method");
                    assert_eq!(method == "fork", mode == Mode::Process, "{told:?}");
                }
                let ended = records.within(first)[1];
                assert_eq!(ended.field("outcome"), "completed");
                let ns = |name: &str| ended.field(name).parse::<u128>().unwrap();
                assert_eq!(ns("total_ns"), report.stats.total.as_nanos());
                assert_eq!(ns("run_ns"), report.stats.run.as_nanos());
                let worker = records.within(first)[0].field("worker_pid");
                let pid = report.stats.worker_pid;
                assert_eq!(worker, pid.map_or(String::new(), |pid| pid.to_string()));
                let ended = records.within(second)[1];
                assert_eq!(ended.field("outcome"), "trapped");
                assert_eq!(ended.field("trap"), "arithmetic");
                assert_eq!(records.within(third)[1].field("outcome"), "failed");

                // Nothing that a guest said.
                for told in &records.told {
                    let text = format!("{told:?}");
                    assert!(
                        !text.contains("secret") && !text.contains("my liking"),
                        "{mode}: {text}"
                    );
                    assert!(told.level >= Level::INFO, "{mode}: {text}");
                }
            }
        },
    );
}

#[test]
fn a_child_task_has_a_span_in_its_parents() {
    alone("tracing::a_child_task_has_a_span_in_its_parents", || {
        let recorder = Recorder::install();
        for mode in BOTH {
            let runner = builder(mode).build().unwrap();
            let family = guest(&runner, "family/family.wasm");
            let echo = guest(&runner, "echo/echo.wat");
            recorder.take();
            let task = Task::new(&family)
                .input("run self run echo hello")
                .task("self", &family)
                .task("echo", &echo);
            let report = runner.blocking_run(task).unwrap();
            assert!(report.outcome.is_completed(), "{}", report.outcome);
            let records = recorder.take();
            let tasks = records.tasks();
            let names: Vec<_> = tasks.iter().map(|it| it.field("task_name")).collect();
            assert_eq!(names, ["family.wasm", "self", "echo"], "{mode}");
            assert_eq!(tasks[0].parent, None);
            assert_eq!(tasks[1].parent, Some(tasks[0].id), "{mode}: {tasks:?}");
            assert_eq!(tasks[2].parent, Some(tasks[1].id), "{mode}: {tasks:?}");
            for task in &tasks {
                let told = records.within(task);
                assert_eq!(words(&told), [STARTED, ENDED], "{mode}: {told:?}");
                assert_eq!(told[1].field("outcome"), "completed", "{mode}");
            }
        }
    });
}

#[test]
fn what_waits_is_told() {
    alone("tracing::what_waits_is_told", || {
        let recorder = Recorder::install();
        for mode in BOTH {
            let runner = builder(mode).max_running(1).build().unwrap();
            let spin = guest(&runner, "hostile/endless-loop.wat");
            let echo = guest(&runner, "echo/echo.wat");
            recorder.take();
            let limits = Limits::default().timeout(Duration::from_millis(300));
            let first = Task::new(&spin).limits(limits);
            let mut first = runner.blocking_submit(first).unwrap();
            let mut second = runner.blocking_submit(Task::new(&echo)).unwrap();
            first.blocking_report().unwrap();
            second.blocking_report().unwrap();
            let mut killed = runner.blocking_submit(Task::new(&spin)).unwrap();
            killed.kill();
            killed.blocking_report().unwrap();
            let records = recorder.take();
            let tasks = records.tasks();
            let [first, second, killed] = tasks[..] else {
                panic!("{mode}: {tasks:?}");
            };
            let told = records.within(first);
            assert_eq!(words(&told), [STARTED, ENDED], "{mode}: {told:?}");
            assert_eq!(told[1].field("outcome"), "limit-exceeded");
            assert_eq!(told[1].field("limit"), "deadline");
            let told = records.within(second);
            let queued = (Level::DEBUG, "queued");
            assert_eq!(words(&told), [queued, STARTED, ENDED], "{mode}: {told:?}");
            let told = records.within(killed);
            let last = told.last().unwrap();
            assert_eq!(last.field("outcome"), "cancelled", "{mode}: {told:?}");
        }
    });
}

#[test]
fn a_crash_and_the_attempt_after_it_are_told() {
    alone("tracing::a_crash_and_the_attempt_after_it_are_told", || {
        let recorder = Recorder::install();
        let stage = Stage::new();
        let task = stage.persistent(2);
        recorder.take();
        let mut handle = stage.submit(Task::new(&task).retries(1));
        await_attempt(&handle, 1);
        assert_eq!(stage.kill(), 1);
        let report = handle.blocking_report().unwrap();
        assert!(report.outcome.is_completed(), "{}", report.outcome);
        let mut handle = stage.submit(Task::new(&task));
        await_attempt(&handle, 1);
        assert_eq!(stage.kill(), 1);
        let crashed = handle.blocking_report().unwrap();

        let records = recorder.take();
        let tasks = records.tasks();
        let [again, once] = tasks[..] else {
            panic!("{tasks:?}");
        };
        const CRASHED: (Level, &str) = (Level::WARN, "worker crashed");
        let told = records.within(again);
        let retrying = (Level::INFO, "retrying");
        let expected = [STARTED, CRASHED, retrying, STARTED, ENDED];
        assert_eq!(words(&told), expected, "{told:?}");
        let attempts = told.iter().map(|told| told.field("attempt"));
        assert!(attempts.eq(["1", "1", "2", "2", "2"]), "{told:?}");
        assert_eq!(again.field("attempt"), "2");
        assert_eq!(told[1].target, "wrun::worker");
        assert_eq!(told[1].field("how"), "the worker died of signal 9");
        assert_eq!(told[1].field("task_id"), report.task_id.to_string());
        assert_eq!(told[1].field("worker_pid"), told[0].field("worker_pid"));
        assert_eq!(told[4].field("outcome"), "completed");
        let told = records.within(once);
        assert_eq!(words(&told), [STARTED, CRASHED, ENDED], "{told:?}");
        assert_eq!(told[2].field("outcome"), "crashed");
        let pid = crashed.stats.worker_pid.unwrap().to_string();
        assert_eq!(told[1].field("worker_pid"), pid);
    });
}

#[test]
fn loading_is_told() {
    alone("tracing::loading_is_told", || {
        let recorder = Recorder::install();
        let folder = scratch();
        for mode in BOTH {
            let cache = folder.path().join(mode.name());
            let runner = builder(mode).cache(Cache::Directory(cache)).build();
            let runner = runner.unwrap();
            recorder.take();
            let request = tracing::info_span!("request");
            let path = repo("guest-tasks/echo/echo.wat");
            let echo = request.in_scope(|| runner.blocking_load(&path)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            let loading = runner.load(&path).instrument(request.clone());
            runtime.block_on(loading).unwrap();
            let file = folder.path().join("artifact");
            fs::write(&file, runner.blocking_compile(&echo).unwrap()).unwrap();
            runner.blocking_load_trusted(&file).unwrap();
            // Code that counts fuel is made when a task needs it.
            let metered = Task::new(&echo).limits(Limits::default().fuel(1 << 30));
            runner.blocking_run(metered).unwrap();

            let records = recorder.take();
            let told = records.said("loaded");
            let from: Vec<_> = told.iter().map(|it| (it.level, it.field("from"))).collect();
            assert_eq!(
                from,
                [
                    (Level::INFO, "compiler"),
                    (Level::DEBUG, "cache"),
                    (Level::DEBUG, "artifact")
                ],
                "{mode}"
            );
            let span = request.id().map(|id| id.into_u64());
            let spans = told.iter().map(|it| it.span);
            assert!(spans.eq([span, span, None]), "{mode}: {span:?} {told:?}");
            for told in &told {
                assert_eq!(told.target, "wrun::load");
                assert_eq!(told.field("artifact"), &echo.digest()[..16]);
                assert!(told.field("total_ns").parse::<u64>().unwrap() > 0);
            }
            let time = echo.compiled().unwrap().time.as_nanos();
            assert_eq!(told[0].field("compile_ns"), time.to_string());
            let prepared = records.said("prepared");
            let [prepared] = prepared[..] else {
                panic!("{mode}: {prepared:?}");
            };
            assert_eq!(prepared.field("metered"), "true");
            assert_eq!(prepared.span, Some(records.tasks()[0].id));

            let nowhere = Cache::Directory("/proc/wrun".into());
            let runner = builder(mode).cache(nowhere).build().unwrap();
            runner.blocking_load(&path).unwrap();
            let records = recorder.take();
            let told = records.said("compiled code is not cached");
            assert_eq!(words(&told), [(Level::WARN, "compiled code is not cached")]);
            assert!(told[0].field("why").contains("cannot make /proc/wrun/"));
        }
    });
}

#[test]
fn workers_and_jails_are_told() {
    alone("tracing::workers_and_jails_are_told", || {
        let recorder = Recorder::install();
        let runner = builder(Mode::Process)
            .process(
                wrun::ProcessOptions::default()
                    .jail(Jail::BestEffort)
                    .spares(0)
                    .start(Start::Fork),
            )
            .absent_layers(vec![JailLayer::Seccomp, JailLayer::PidNamespace])
            .build()
            .unwrap();
        for text in [
            "(module (func (export \"_start\")))",
            "(module (func (export \"_start\") nop))",
        ] {
            let task = wat(&runner, "task.wat", text);
            for _ in 0..2 {
                let report = runner.blocking_run(Task::new(&task)).unwrap();
                assert!(report.outcome.is_completed(), "{}", report.outcome);
            }
        }
        drop(runner);
        let records = recorder.take();
        let jail: Vec<_> = records
            .told
            .iter()
            .filter(|told| told.target == "wrun::jail")
            .collect();
        let of = |layer: JailLayer| {
            let told = jail.iter().filter(|it| it.field("layer") == layer.name());
            let told: Vec<_> = told.collect();
            assert_eq!(told.len(), 1, "{layer}: once for a runner: {jail:?}");
            assert!(!told[0].field("why").is_empty(), "{told:?}");
            told[0].level
        };
        assert_eq!(of(JailLayer::Seccomp), Level::WARN);
        assert_eq!(of(JailLayer::PidNamespace), Level::INFO);
        let started = records.said("zygote started");
        assert_eq!(started.len(), 2, "one for each artifact: {started:?}");
        assert!(started.iter().all(|it| it.span.is_none()), "{started:?}");
        assert!(records.said("zygote died").is_empty());

        // A program whose workers die while they start.
        let folder = tempfile::tempdir().unwrap();
        let program = crashing(&folder.path().canonicalize().unwrap());
        fs::write(folder.path().join("bad"), "").unwrap();
        fs::write(folder.path().join("starts"), "").unwrap();
        let runner = wrun::Runner::builder()
            .process(wrun::ProcessOptions::default().worker(program))
            .build()
            .unwrap();
        let echo = guest(&runner, "echo/echo.wat");
        recorder.take();
        for _ in 0..2 {
            let error = runner.blocking_run(Task::new(&echo)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::CrashLoop, "{error}");
        }
        let records = recorder.take();
        let died = records.said("a worker died while it started");
        assert_eq!(died.len(), 7, "{died:?}");
        assert!(died.iter().all(|it| it.level == Level::WARN));
        let open: Vec<_> = records
            .told
            .iter()
            .filter(|told| told.level == Level::ERROR)
            .collect();
        let [open] = open[..] else {
            panic!("once, when it opens: {open:?}");
        };
        assert_eq!(open.target, "wrun::worker");
        assert_eq!(open.field("failures"), "8");
        assert!(open.field("why").contains("signal 11"), "{open:?}");
        let tasks = records.tasks();
        for task in &tasks {
            let told = records.within(task);
            assert!(told.iter().any(|it| it.message == "not run"), "{told:?}");
        }
    });
}

// --- the command ----------------------------------------------------------

/// The lines of a log.
fn json(log: &str) -> Vec<Value> {
    let lines = log.lines();
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    lines.map(parse).collect()
}

fn messages(lines: &[Value]) -> Vec<&str> {
    let messages = lines.iter().map(|line| &line["fields"]["message"]);
    messages.map(|it| it.as_str().unwrap()).collect()
}

#[test]
fn the_command_logs_where_it_is_told_to() {
    let scratch = scratch();
    let name = "a\x1b[31m\u{9b}b.wat";
    let echo = fs::read(repo("guest-tasks/echo/echo.wat")).unwrap();
    let echo = write(scratch.path(), name, echo);
    for mode in MODES {
        let run = |options: &[&str]| {
            let wrun = Wrun::mode(mode).args(options).arg(&echo).stdin("text");
            let ran = wrun.env("WRUN_LOG", "").run();
            assert_eq!(ran.expect_code(0, mode).text(), "text", "{mode}");
            ran.stderr
        };
        assert_eq!(run(&[]), "", "{mode}: not wanted");
        assert_eq!(run(&["--log", "off"]), "", "{mode}");
        assert_eq!(run(&["--log", "warn"]), "", "{mode}");
        assert_eq!(run(&["--log", "wrun::worker=error"]), "", "{mode}");
        let log = run(&["--log", "debug"]);
        let named = format!("mode=\"{mode}\"}}: wrun::task: ended outcome=\"completed\"");
        assert!(log.contains(&named), "{mode}: {log}");
        assert_eq!(log.matches("wrun::task: ended").count(), 1, "{mode}: {log}");
        assert!(
            log.contains("task{task_id=1 task_name=\"a\\u{1b}[31m"),
            "{log}"
        );
        assert!(!log.contains(['\x1b', '\u{9b}']), "{mode}: {log:?}");
        let log = run(&["--log", "wrun::task=debug,off"]);
        assert_eq!(log.lines().count(), 2, "{mode}: {log}");

        let log = run(&["--log=wrun::task=debug", "--log-format", "json"]);
        assert!(!log.contains(['\x1b', '\u{9b}']), "{mode}: {log:?}");
        let lines = json(&log);
        assert_eq!(messages(&lines), ["started", "ended"], "{mode}: {log}");
        let ended = &lines[1];
        assert_eq!(ended["level"], "DEBUG");
        assert_eq!(ended["target"], "wrun::task");
        assert_eq!(ended["fields"]["outcome"], "completed");
        assert!(ended["fields"]["run_ns"].is_u64(), "{ended}");
        assert_eq!(ended["span"]["name"], "task");
        assert_eq!(ended["span"]["task_id"], 1);
        assert_eq!(ended["span"]["mode"], mode);
        assert_eq!(lines[0]["fields"]["worker_pid"].is_u64(), mode == "process");

        // The environment is the default.
        let from = |value: &str, options: &[&str]| {
            let wrun = Wrun::mode(mode).args(options).arg(&echo);
            wrun.env("WRUN_LOG", value).run()
        };
        let ran = from("wrun::task=debug", &[]);
        assert_eq!(ran.expect_code(0, mode).stderr.lines().count(), 2, "{ran}");
        assert_eq!(from("debug", &["--log", "off"]).stderr, "", "{mode}");
        assert_eq!(from("", &[]).stderr, "", "{mode}");
        for (ran, named) in [
            (from("loud", &[]), "wrun: WRUN_LOG: unknown level \"loud\""),
            (
                from("", &["--log", "loud"]),
                "'--log <LEVEL|FILTER>': unknown",
            ),
            (
                from("", &["--log", "a=b=c"]),
                "'--log <LEVEL|FILTER>': unknown",
            ),
            (
                from("", &["--log-format", "xml"]),
                "'--log-format <FORMAT>'",
            ),
        ] {
            ran.expect_code(2, mode);
            assert!(ran.stderr.contains(named), "{mode}: {ran}");
        }
    }
}

#[test]
fn compile_and_compare_log_too() {
    let scratch = scratch();
    let echo = repo("guest-tasks/echo/echo.wat");
    let options = ["--log", "info", "--log-format", "json"];
    let wrun = Wrun::new().arg("compile").args(options).arg("-o");
    let ran = wrun.arg(scratch.path().join("a")).arg(&echo).run();
    ran.expect_code(0, "compile");
    let told = json(&ran.stderr);
    let loaded = told.iter().find(|it| it["fields"]["message"] == "loaded");
    let loaded = loaded.unwrap_or_else(|| panic!("{ran}"));
    assert_eq!(loaded["fields"]["from"], "compiler", "{ran}");

    let wrun = Wrun::new()
        .args(["compare", "--only", "warm", "--runs", "1", "--json", "-"])
        .args(["--log", "debug", "--log-format", "json"]);
    let ran = wrun.arg(&echo).run();
    ran.expect_code(0, "compare");
    let told = json(&ran.stderr);
    for mode in MODES {
        let ended = told
            .iter()
            .any(|it| it["fields"]["message"] == "ended" && it["span"]["mode"] == mode);
        assert!(ended, "{mode}: {ran}");
    }
    // How it was logged is not how it was measured.
    let results: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(!results.to_string().contains("--log"), "{results}");
}

/// Starts its child, writes to stderr, and ends, all in the middle of a line.
#[test]
fn log_and_stderr_are_whole_lines() {
    let scratch = scratch();
    let says = |text: &str| {
        let data: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        let len = text.len();
        format!(
            r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 16) "{data}")
            (func (export "_start")
                (i32.store (i32.const 8) (i32.const 16))
                (i32.store (i32.const 12) (i32.const {len}))
                (drop (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 0)))))"#
        )
    };
    let open = write(scratch.path(), "open.wat", says("one\ntwo\nwithout an end"));
    let whole = write(scratch.path(), "whole.wat", says("one\ntwo\n"));
    for mode in MODES {
        for (task, last) in [(&open, "without an end"), (&whole, "two")] {
            let options = ["--log", "debug", "--log-format", "json"];
            let ran = Wrun::mode(mode).args(options).arg(task).run();
            ran.expect_code(0, mode);
            let (log, task): (Vec<_>, Vec<_>) =
                ran.stderr.lines().partition(|line| line.starts_with('{'));
            let said = if last == "two" {
                vec!["one", "two"]
            } else {
                vec!["one", "two", last]
            };
            assert_eq!(task, said, "{mode}: {ran}");
            let lines = json(&log.join("\n"));
            let told = messages(&lines);
            assert!(
                told.contains(&"started") && told.contains(&"ended"),
                "{ran}"
            );
            assert!(!ran.stderr.contains("\n\n"), "{mode}: {ran}");
        }
    }
}

#[test]
fn progress_and_log_do_not_tear_each_other() {
    let scratch = scratch();
    let input = write(scratch.path(), "input", vec![7; 32 << 20]);
    let input = input.display().to_string();
    let task = repo("guest-tasks/context/context.wasm");
    let task = task.display().to_string();
    for mode in MODES {
        let args = ["--log", "debug", "--mode", mode, "--input", &input, &task];
        let seen = terminal(&args, "> /dev/null");
        assert!(seen.contains("context.wasm ["), "{mode}: {seen:?}");
        let logged: Vec<_> = seen
            .lines()
            .filter(|line| line.contains(" wrun::"))
            .collect();
        assert!(logged.len() >= 3, "{mode}: {seen:?}");
        for line in logged {
            let (_, line) = line.rsplit_once("\u{1b}[J").unwrap_or(("", line));
            let line = line.trim_start_matches('\r');
            assert!(line.starts_with("20"), "{mode}: {line:?} in {seen:?}");
        }
    }
}
