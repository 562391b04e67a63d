//! `wrun worker`, `wrun fleet` and `wrun map --on`, with the real server of NATS: each task has one
//! right result, whatever is killed, stopped or sent.

use crate::compiling::large_bomb;
use crate::map::{PICKY, guest};
use crate::support::command::{PATIENCE, Running, Wrun, scratch, write};
use crate::support::nats::{Server, json_of};
use crate::support::{Dice, MODES, Schema, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// How often something is killed or stopped; 200 in thorough runs.
const BLOWS: &str = "WRUN_FLEET_BLOWS";

fn blows() -> usize {
    std::env::var(BLOWS).map_or(8, |blows| blows.parse().unwrap())
}

fn lines(folder: &Path, count: usize) -> PathBuf {
    let line = |at: usize| match at % 50 {
        17 => format!("t{at}\n"),
        at if at % 7 == 0 => format!("s{at}\n"),
        _ => format!("a{at}\n"),
    };
    write(folder, "lines", (0..count).map(line).collect::<String>())
}

/// What a batch prints on this machine.
fn here(lines: &Path, task: &Path) -> Vec<u8> {
    let ran = Wrun::new().args([
        "map",
        "--no-progress",
        "--quiet",
        "--mode",
        "thread",
        "--no-stats",
    ]);
    let ran = ran.arg("--lines").arg(lines).arg(task).run();
    ran.expect_code(1, "here");
    ran.stdout
}

#[test]
fn a_batch_on_a_fleet_prints_what_it_prints_here() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    let folder = scratch();
    let (lines, task) = (
        lines(folder.path(), 400),
        write(folder.path(), "picky.wat", PICKY),
    );
    let _workers = [
        server.worker("process", "w1", &[]),
        server.worker("thread", "w2", &[]),
    ];
    server.await_workers(2);
    let ran = server
        .map()
        .args(["--quiet", "--no-stats", "--lines"])
        .arg(&lines)
        .arg(&task)
        .run();
    ran.expect_code(1, "fleet");
    assert_eq!(ran.stdout, here(&lines, &task));
    // Both had a part of it.
    let workers = json_of(&server.fleet(&["--json", "status"]));
    assert_eq!(workers["queued"], 0, "{workers}");
    assert_eq!(workers["results"], 400, "{workers}");
}

#[test]
fn a_batch_goes_on_from_here_to_a_fleet_and_back() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    let folder = scratch();
    let (lines, task) = (
        lines(folder.path(), 600),
        write(folder.path(), "picky.wat", PICKY),
    );
    let _worker = server.worker("thread", "w", &[]);
    server.await_workers(1);
    let (journal, out) = (folder.path().join("journal"), folder.path().join("out"));
    let options = |wrun: Wrun| {
        let wrun = wrun
            .args(["--quiet", "--no-stats", "--resume", "--journal"])
            .arg(&journal);
        wrun.arg("--output")
            .arg(&out)
            .arg("--lines")
            .arg(&lines)
            .arg(&task)
    };
    let local = || Wrun::new().args(["map", "--no-progress", "--mode", "thread", "--jobs", "1"]);
    let mut dice = Dice(11);
    for turn in 0..6 {
        let wrun = if turn % 2 == 0 { server.map() } else { local() };
        let running = options(wrun).start();
        dice.pause(300);
        running.signal(Signal::KILL);
    }
    options(server.map()).run().expect_code(1, "the rest");
    assert_eq!(fs::read(&out).unwrap(), here(&lines, &task));
}

/// The promise: whatever is killed or stopped, each task has one right result.
#[test]
fn whatever_is_killed_or_stopped_each_task_has_one_right_result() {
    for mode in MODES {
        let Some(mut server) = Server::with_jetstream() else {
            return;
        };
        let folder = scratch();
        let count = 200 + 40 * blows();
        let (lines, task) = (
            lines(folder.path(), count),
            write(folder.path(), "picky.wat", PICKY),
        );
        let names = ["w1", "w2", "w3"];
        let start = |name: &str| server_worker(&server.url(), mode, name);
        let mut workers: Vec<_> = names.iter().map(|name| start(name)).collect();
        let (journal, out) = (folder.path().join("journal"), folder.path().join("out"));
        let url = server.url();
        let submitter = || {
            let wrun = Wrun::new().args(["map", "--no-progress", "--on", &url]);
            let wrun = wrun.args(["--quiet", "--no-stats", "--resume", "--journal"]);
            wrun.arg(&journal)
                .arg("--output")
                .arg(&out)
                .arg("--lines")
                .arg(&lines)
                .arg(&task)
                .start()
        };
        let mut submitting = submitter();
        let mut dice = Dice(blows() as u64 + 7);
        for _ in 0..blows() {
            dice.pause(700);
            match dice.below(5) {
                0 | 1 => {
                    let which = dice.below(3) as usize;
                    workers[which].signal(Signal::KILL);
                    workers[which] = server_worker(&url, mode, names[which]);
                }
                2 => {
                    // For longer than a lease lasts.
                    let which = dice.below(3) as usize;
                    workers[which].signal(Signal::STOP);
                    std::thread::sleep(Duration::from_millis(2500));
                    workers[which].signal(Signal::CONT);
                }
                3 => server.restart(),
                _ => {
                    submitting.signal(Signal::KILL);
                    let _ = submitting.end();
                    submitting = submitter();
                }
            }
        }
        let ended = submitting.end();
        ended.expect_code(1, mode);
        assert!(
            fs::read(&out).unwrap() == here(&lines, &task),
            "{mode}: another output"
        );
        eventually("the queue is empty", PATIENCE, || {
            let status = server.fleet(&["--json", "status"]);
            status.code() == 0 && json_of(&status)["queued"] == 0
        });
        let status = json_of(&server.fleet(&["--json", "status"]));
        assert_eq!(
            (&status["results"], &status["dead"]),
            (&json!(count), &json!(0)),
            "{mode}: {status}"
        );
    }
}

fn server_worker(url: &str, mode: &str, name: &str) -> Running {
    let mut worker = Wrun::new()
        .args([
            "worker", "--quiet", "--nats", url, "--mode", mode, "--name", name,
        ])
        .args(["--ack-wait", "2s", "--jobs", "2"]);
    worker.command.stdout(Stdio::null()).stderr(Stdio::null());
    worker.start()
}

#[test]
fn hostile_messages_end_as_answers_or_burials_and_no_worker_dies() {
    for mode in MODES {
        let Some(server) = Server::with_jetstream() else {
            return;
        };
        let mut worker = server.worker(mode, "w", &["--compile-timeout", "2s"]);
        server.await_workers(1);
        let echo = guest("echo/echo.wat");
        let bomb = write(server.folder.path(), "bomb.wasm", large_bomb());
        let submit = |task: &Path, id: &str, options: &[&str]| {
            let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "submit", "--id", id]);
            ran.args(options).arg(task).run().expect_code(0, id);
        };
        let subject = "wrun.task.normal.mallory";
        for body in [
            &b""[..],
            b"{",
            b"\xff\xfe",
            b"{\"v\":1}",
            b"[[[[[[[[[[[[[[[[",
        ] {
            server.publish(subject, body);
        }
        let message = |id: &str, field: &str, value: Value| {
            let mut message = json!({"v": 1, "id": id, "module": {"blake3": "0".repeat(64)}});
            message[field] = value;
            server.publish(subject, message.to_string().as_bytes());
        };
        message("dirs", "dirs", json!(["/"]));
        message("gone", "args", json!([]));
        message("path", "module", json!({"name": "../../etc/passwd"}));
        message(
            "reply",
            "reply_to",
            json!("$JS.API.STREAM.DELETE.WRUN_TASKS"),
        );
        message("huge", "args", json!(["x".repeat(400_000)]));
        let object = json!({"object": {"name": "no.such", "bytes": 5, "blake3": "0".repeat(64)}});
        let module = json!({"blake3": stored(&server, &echo)});
        let body = json!({"v": 1, "id": "object", "module": module, "input": object});
        server.publish(subject, body.to_string().as_bytes());
        submit(&echo, "grant", &["--grant", "root"]);
        submit(&echo, "memory", &["--max-memory", "100GiB"]);
        submit(&bomb, "bomb", &[]);
        submit(
            &write(server.folder.path(), "none.wasm", "no module"),
            "none",
            &[],
        );
        for (id, kind, words) in [
            ("dirs", "buried", "unknown field"),
            ("reply", "buried", "reply_to"),
            ("gone", "refused", "not in the store"),
            ("huge", "refused", "not in the store"),
            ("path", "refused", "no module"),
            ("object", "refused", "no object"),
            ("grant", "refused", "no grant \"root\""),
            ("memory", "refused", "operator"),
            ("bomb", "refused", "it may take"),
            ("none", "refused", "not WebAssembly"),
        ] {
            let result = server.result(id);
            assert_eq!(result["kind"], kind, "{mode}: {result}");
            let why = result["why"].as_str().unwrap();
            assert!(why.contains(words), "{mode} {id}: {why}");
        }
        eventually("all without an id are buried", PATIENCE, || {
            json_of(&server.fleet(&["--json", "bury"]))
                .as_array()
                .unwrap()
                .len()
                == 7
        });
        let dead = server.fleet(&["bury"]);
        assert!(dead.text().contains("(no id)"), "{}", dead.text());
        // It still works.
        submit(&echo, "echo", &[]);
        assert_eq!(
            server.result("echo")["report"]["outcome"]["kind"],
            "completed"
        );
        assert!(
            worker.child.try_wait().unwrap().is_none(),
            "{mode}: the worker has ended"
        );
    }
}

/// The digest of a module that is stored.
fn stored(server: &Server, task: &Path) -> String {
    let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "submit", "--id", "stored"]);
    ran.arg(task).run().expect_code(0, "stored");
    blake3(&fs::read(task).unwrap())
}

pub(crate) fn blake3(bytes: &[u8]) -> String {
    let mode = wrun::Runner::builder()
        .mode(wrun::Mode::Thread)
        .build()
        .unwrap();
    let artifact = mode.blocking_load_bytes("task", bytes.to_vec()).unwrap();
    artifact.digest()
}

#[test]
fn a_task_gets_what_its_name_stands_for_and_nothing_else() {
    for mode in MODES {
        let Some(server) = Server::with_jetstream() else {
            return;
        };
        let folder = scratch();
        let tree = guest("inputs/tree");
        let config = write(
            folder.path(),
            "worker.toml",
            format!(
                "[grants.tree]\ndirs = ['{}::/in:ro']\ntenants = ['friend']\n[modules]\ndigest = '{}'\n",
                tree.display(),
                guest("digest/digest.wasm").display()
            ),
        );
        let _worker = server.worker(mode, "w", &["--config", config.to_str().unwrap()]);
        let submit = |options: &[&str]| {
            let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "submit", "--wait"]);
            ran.args(options)
                .args(["--named", "digest", "--", "/in/sub/c.txt"])
                .run()
        };
        let ran = submit(&["--grant", "tree", "--tenant", "friend"]);
        ran.expect_code(0, mode);
        assert!(
            ran.text().ends_with("  /in/sub/c.txt\n"),
            "{mode}: {}",
            ran.text()
        );
        submit(&["--tenant", "friend"]).expect_code(1, mode);
        let ran = submit(&["--grant", "tree", "--tenant", "stranger"]);
        ran.expect_code(126, mode);
        assert!(ran.stderr.contains("no grant"), "{mode}: {}", ran.stderr);
    }
}

/// Tasks on a fleet start those that were submitted with them, within the operator's limits.
#[test]
fn child_tasks_run_where_their_task_runs() {
    let family = guest("family/family.wasm");
    let hello = guest("hello-command/hello-command.wat");
    let folder = scratch();
    let config = write(folder.path(), "config", "[limits]\nmax-tasks = 3\n");
    let config = config.to_str().unwrap();
    for mode in MODES {
        let Some(server) = Server::with_jetstream() else {
            return;
        };
        let _worker = server.worker(mode, "w", &["--config", config]);
        server.await_workers(1);
        let submit = |input: &str, options: &[&str], tasks: &[(&str, &Path)]| {
            let input = write(folder.path(), "input", input);
            let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "submit", "--wait"]);
            let mut ran = ran.args(options).args(["--max-memory", "64MiB"]);
            for (name, file) in tasks {
                ran = ran.arg("--task").arg(format!("{name}={}", file.display()));
            }
            ran.arg("--input").arg(&input).arg(&family).run()
        };
        let ran = submit("run hello", &[], &[("hello", &hello)]);
        ran.expect_code(0, mode);
        assert_eq!(ran.stdout, b"completed hello, command", "{mode}");
        let ran = submit("run hello", &[], &[]);
        ran.expect_code(1, mode);
        assert!(ran.stderr.contains("not-granted"), "{mode}: {ran}");
        let own = [("self", family.as_path())];
        let ran = submit("many", &[], &own);
        assert_eq!(ran.stdout, b"3 limit limit completed again", "{mode}");
        let ran = submit("deep", &["--max-depth", "2"], &own);
        assert_eq!(ran.stdout, b"2", "{mode}");
        let ran = submit("many", &["--max-tasks", "4"], &own);
        assert!(ran.stderr.contains("max_tasks of 4"), "{mode}: {ran}");
        // What cannot be read or is no batch task.
        let none = folder.path().join("none");
        let ran = submit("run x", &[], &[("x", &none)]);
        ran.expect_code(127, mode);
        let http = guest("http-hello/http-hello.wasm");
        let ran = submit("run x", &[], &[("x", &http)]);
        assert!(
            ran.stderr.contains("child task \"x\"") && ran.stderr.contains("HTTP"),
            "{mode}: {ran}"
        );
        // A batch has the same, here and there.
        let lines = write(folder.path(), "lines", "run hello\nrun hello\nrun none\n");
        let map = |on: &[&str]| {
            let ran = Wrun::new()
                .args(["map", "--mode", mode, "--quiet"])
                .args(on);
            let ran = ran.arg("--task").arg(format!("hello={}", hello.display()));
            let ran = ran.args(["--format", "bytes", "--lines"]).arg(&lines);
            let ran = ran.arg(&family).run();
            ran.expect_code(1, mode);
            ran.stdout
        };
        let (here, there) = (map(&[]), map(&["--on", &server.url()]));
        assert_eq!(
            here, b"completed hello, commandcompleted hello, command",
            "{mode}"
        );
        assert_eq!(here, there, "{mode}");
    }
}

#[test]
fn operators_cancel_bury_and_queue_again() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    let folder = scratch();
    let task = write(folder.path(), "picky.wat", PICKY);
    let forever = write(folder.path(), "l", "l");
    let submit = |id: &str, options: &[&str]| {
        let ran = Wrun::new().args([
            "fleet",
            "--nats",
            &server.url(),
            "submit",
            "--id",
            id,
            "--input",
        ]);
        ran.arg(&forever)
            .args(options)
            .arg(&task)
            .run()
            .expect_code(0, id);
    };
    submit("queued", &[]);
    server
        .fleet(&["cancel", "queued"])
        .expect_code(0, "cancelled");
    assert_eq!(server.result("queued")["kind"], "cancelled");
    submit("expired", &["--deadline", "10ms"]);
    std::thread::sleep(Duration::from_millis(20));
    let _worker = server.worker("process", "w", &[]);
    assert_eq!(server.result("expired")["kind"], "expired");
    submit("runs", &[]);
    eventually("it runs", PATIENCE, || {
        json_of(&server.fleet(&["--json", "status"]))["in_flight"] == 1
    });
    server
        .fleet(&["result", "runs"])
        .expect_code(1, "no result yet");
    server
        .fleet(&["cancel", "runs"])
        .expect_code(0, "cancelled");
    server
        .fleet(&["result", "--wait", "runs"])
        .expect_code(130, "cancelled");
    server
        .fleet(&["cancel", "runs"])
        .expect_code(1, "it has a result");
    eventually("it is gone", PATIENCE, || {
        json_of(&server.fleet(&["--json", "status"]))["queued"] == 0
    });
    submit("bad", &[]);
    server
        .fleet(&["bury", "bad", "--why", "too slow"])
        .expect_code(0, "marked");
    assert_eq!(server.result("bad")["why"], "too slow");
    server
        .fleet(&["requeue", "bad"])
        .expect_code(0, "queued again");
    eventually("it runs again", PATIENCE, || {
        json_of(&server.fleet(&["--json", "status"]))["in_flight"] == 1
    });
    server
        .fleet(&["requeue", "bad"])
        .expect_code(127, "it is not buried");
    server.fleet(&["cancel", "bad"]).expect_code(0, "cancelled");
    server.fleet(&["purge", "results"]).expect_code(0, "purged");
    assert_eq!(json_of(&server.fleet(&["--json", "status"]))["results"], 0);
}

#[test]
fn a_worker_that_drains_finishes_or_gives_back() {
    for mode in MODES {
        let Some(server) = Server::with_jetstream() else {
            return;
        };
        let folder = scratch();
        let task = write(folder.path(), "picky.wat", PICKY);
        let forever = write(folder.path(), "l", "l");
        let mut worker = server.worker(mode, "w1", &["--grace", "300ms"]);
        let submit = Wrun::new().args([
            "fleet",
            "--nats",
            &server.url(),
            "submit",
            "--id",
            "long",
            "--input",
        ]);
        let submit = submit.arg(&forever).args(["--timeout", "4s"]).arg(&task);
        submit.run().expect_code(0, mode);
        eventually("it runs", PATIENCE, || {
            json_of(&server.fleet(&["--json", "status"]))["in_flight"] == 1
        });
        worker.signal(Signal::TERM);
        assert!(worker.ends_within(PATIENCE));
        assert_eq!(worker.child.wait().unwrap().code(), Some(143), "{mode}");
        assert_eq!(
            json_of(&server.fleet(&["--json", "workers"])),
            json!([]),
            "{mode}"
        );
        let mut worker = server.worker(mode, "w2", &[]);
        let result = server.result("long");
        assert_eq!(
            result["report"]["outcome"]["kind"], "limit-exceeded",
            "{mode}: {result}"
        );
        assert_eq!(result["worker"], "w2", "{mode}: {result}");
        worker.signal(Signal::TERM);
        assert!(worker.ends_within(PATIENCE));
        assert_eq!(worker.child.wait().unwrap().code(), Some(0), "{mode}");
    }
}

#[test]
fn large_inputs_and_outputs_are_objects() {
    for mode in MODES {
        let Some(server) = Server::with_jetstream() else {
            return;
        };
        let folder = scratch();
        let _worker = server.worker(mode, "w", &[]);
        let large: Vec<u8> = (0..6_000_000_u32)
            .map(|at| (at ^ (at >> 9)) as u8)
            .collect();
        let input = write(folder.path(), "large", &large);
        let ran = Wrun::new().args([
            "fleet",
            "--nats",
            &server.url(),
            "submit",
            "--wait",
            "--input",
        ]);
        let ran = ran.arg(&input).arg(guest("cat/cat.wasm")).run();
        ran.expect_code(0, mode);
        assert!(ran.stdout == large, "{mode}: another output");
        let ran = server
            .map()
            .args(["--quiet", "--format", "bytes"])
            .arg(guest("cat/cat.wasm"))
            .arg(&input)
            .run();
        ran.expect_code(0, mode);
        assert!(ran.stdout == large, "{mode}: another output of map");
    }
}

#[test]
fn what_a_task_was_refused_is_said_with_who_grants_it() {
    for mode in MODES {
        let Some(server) = Server::with_jetstream() else {
            return;
        };
        let _worker = server.worker(mode, "w", &[]);
        let connects = guest("tcp-client/tcp-client.wasm");
        let ran = Wrun::new()
            .args(["fleet", "--nats", &server.url(), "submit", "--wait"])
            .arg(&connects)
            .args(["--", "127.0.0.1:9"])
            .run();
        for words in [
            "it was refused: connecting to 127.0.0.1:9 (--allow-tcp 127.0.0.1:9)",
            "on a fleet the operator of the workers grants that, under a name that --grant asks for",
        ] {
            assert!(ran.stderr.contains(words), "{mode}: {ran}");
        }
    }
}

#[test]
fn settings_of_the_queue_are_made_and_changed() {
    for mode in MODES {
        let Some(server) = Server::with_jetstream() else {
            return;
        };
        let setup = |args: &[&str]| {
            let ran = server.fleet(&[&["--json", "setup"], args].concat());
            ran.expect_code(0, mode);
            json_of(&ran)
        };
        let of = |all: &Value, stream: &str, field: &str| {
            let mut all = all.as_array().unwrap().iter();
            all.find(|it| it["stream"] == stream).unwrap()[field].clone()
        };
        let made = setup(&["--max-queued", "3", "--keep", "2days"]);
        assert_eq!(made.as_array().unwrap().len(), 8, "{made}");
        assert_eq!(of(&made, "WRUN_TASKS", "max_of_subject"), 3);
        assert_eq!(of(&made, "WRUN_TASKS", "keep_seconds"), Value::Null);
        for kept in ["WRUN_DEAD", "KV_wrun_results", "OBJ_wrun_objects"] {
            assert_eq!(of(&made, kept, "keep_seconds"), 172_800, "{kept}");
        }
        assert_eq!(of(&made, "KV_wrun_workers", "keep_seconds"), 30);
        assert_eq!(setup(&[]), made);

        let echo = guest("echo/echo.wat");
        let submit = |id: &str| {
            let submit = Wrun::new().args(["fleet", "--nats", &server.url(), "submit"]);
            submit.args(["--id", id]).arg(&echo)
        };
        for id in ["a", "b", "c"] {
            submit(id).run().expect_code(0, id);
        }
        let mut waits = submit("d").start();
        assert!(!waits.ends_within(Duration::from_millis(500)), "{mode}");
        let wider = setup(&["--max-queued", "4", "--keep", "1h"]);
        assert_eq!(of(&wider, "WRUN_TASKS", "messages"), 3);
        assert_eq!(of(&wider, "KV_wrun_results", "keep_seconds"), 3600);
        assert!(waits.ends_within(PATIENCE), "{mode}");
        let _worker = server.worker(mode, "w", &[]);
        for id in ["a", "b", "c", "d"] {
            assert_eq!(server.result(id)["kind"], "report", "{mode}");
        }

        let ran = server.fleet(&["setup", "--replicas", "3"]);
        ran.expect_code(125, "one server has one replica");
        let words = "cannot keep 3 replicas of WRUN_TASKS: the server is not part of a cluster";
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
        assert_eq!(of(&setup(&[]), "WRUN_DEAD", "replicas"), 1);
        for wrong in [["--keep", "1s"], ["--max-queued", "0"], ["--replicas", "6"]] {
            let ran = server.fleet(&["setup", wrong[0], wrong[1]]);
            ran.expect_code(2, wrong[0]);
        }
    }
}

#[test]
fn what_is_wrong_with_the_server_is_said() {
    let told = |url: &str, options: &[&str], words: &str| {
        for command in [&["worker"][..], &["fleet", "status"]] {
            let ran = Wrun::new()
                .args(command)
                .args(["--nats", url])
                .args(options)
                .run();
            ran.expect_code(125, words);
            assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
        }
    };
    told(
        "nats://127.0.0.1:1",
        &[],
        "cannot connect to nats://127.0.0.1:1",
    );
    let Some(server) = Server::start(&[]) else {
        return;
    };
    told(&server.url(), &[], "JetStream is not enabled");
    drop(server);
    let Some(server) = Server::start(&["-js", "--user", "u", "--pass", "secret"]) else {
        return;
    };
    told(&server.url(), &[], "authorization");
    let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "--user", "u", "status"]);
    ran.env("WRUN_NATS_PASSWORD", "secret")
        .run()
        .expect_code(0, "a password");
    let context = write(
        server.folder.path(),
        "context.json",
        json!({"url": server.url(), "user": "u", "password": "secret"}).to_string(),
    );
    let ran = Wrun::new()
        .args(["fleet", "--context"])
        .arg(&context)
        .arg("workers")
        .run();
    assert_eq!(ran.expect_code(0, "a context").text(), "no workers\n");
    let ran = Wrun::new().args(["fleet", "status"]).run();
    ran.expect_code(2, "no address");
}

#[test]
fn a_tenant_with_many_tasks_does_not_delay_one_with_few() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    let folder = scratch();
    let many = write(folder.path(), "many", "s1\n".repeat(3000));
    let few = write(folder.path(), "few", "a\n".repeat(10));
    let task = write(folder.path(), "picky.wat", PICKY);
    let _worker = server.worker("process", "w", &[]);
    server.await_workers(1);
    let many = server
        .map()
        .args(["--quiet", "--tenant", "many", "--lines"])
        .arg(&many)
        .arg(&task)
        .stdout_to(Stdio::null())
        .start();
    eventually("many are queued", PATIENCE, || {
        json_of(&server.fleet(&["--json", "status"]))["queued"].as_u64() > Some(500)
    });
    let ran = server
        .map()
        .args(["--quiet", "--tenant", "few", "--lines"])
        .arg(&few)
        .arg(&task)
        .run();
    ran.expect_code(0, "few");
    let status = json_of(&server.fleet(&["--json", "status"]));
    assert!(status["queued"].as_u64() > Some(100), "{status}");
    many.signal(Signal::KILL);
}

/// What the page says to clients in other languages.
#[test]
fn messages_are_as_their_schemas_say() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    let schema = |name: &str| Schema::of(&format!("fleet/{name}.schema.json"));
    let checked = |name: &str, value: &Value| {
        let why = schema(name).check(value);
        assert_eq!(why, Ok(()), "{name}: {value}");
    };
    let _worker = server.worker("process", "w", &[]);
    server.await_workers(1);
    let workers = json_of(&server.fleet(&["--json", "workers"]));
    checked("worker", &workers[0]);
    let digest = stored(&server, &guest("echo/echo.wat"));
    let object = json!({"name": "no.such", "bytes": 1, "blake3": digest});
    let least = json!({"v": 1, "id": "least", "module": {"blake3": digest}});
    let all = json!({
        "v": 2, "id": "all.1", "module": {"blake3": digest}, "name": "echo", "args": ["a", "b"],
        "input": {"base64": "/w=="}, "grants": [], "deadline_ms": 4_000_000_000_000_u64,
        "limits": {
            "timeout_ms": 60_000, "fuel": 1_000_000, "max_memory": 1 << 24,
            "max_output": 1 << 20, "max_input": 1 << 20, "max_tasks": 2, "max_depth": 1,
        },
        "tasks": {"part": {"blake3": digest}},
        "retries": 1, "max_lost": 3, "reply_to": "wrun.reply.a", "resubmitted": true,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    });
    let refused =
        json!({"v": 1, "id": "refused", "module": {"name": "x"}, "input": {"object": object}});
    for task in [&least, &all, &refused] {
        checked("task", task);
        server.publish("wrun.task.normal.a", task.to_string().as_bytes());
        let result = server.result(task["id"].as_str().unwrap());
        checked("result", &result);
        let kind = if task == &refused {
            "refused"
        } else {
            "report"
        };
        assert_eq!(result["kind"], kind, "{result}");
        if kind == "report" {
            assert_eq!(Schema::load().check(&result["report"]), Ok(()), "{result}");
        }
    }
    // Neither a worker nor the schema takes these.
    for (id, field, value) in [
        ("bad1", "dirs", json!(["/"])),
        ("bad2", "input", json!({"text": "a", "base64": "YQ=="})),
        ("bad3", "reply_to", json!("$JS.API.INFO")),
        ("bad4", "module", json!({"name": "x", "blake3": digest})),
        ("bad5", "max_lost", json!(0)),
        ("bad6", "tasks", json!({"part": {}})),
    ] {
        let mut task = json!({"v": 1, "id": id, "module": {"blake3": digest}});
        task[field] = value;
        assert!(schema("task").check(&task).is_err(), "{task}");
        server.publish("wrun.task.normal.a", task.to_string().as_bytes());
        let result = server.result(id);
        checked("result", &result);
        assert_eq!(result["kind"], "buried", "{result}");
    }
    let dead = json_of(&server.fleet(&["--json", "bury"]));
    assert_eq!(dead.as_array().unwrap().len(), 6, "{dead}");
    dead.as_array()
        .unwrap()
        .iter()
        .for_each(|dead| checked("dead", dead));
}
