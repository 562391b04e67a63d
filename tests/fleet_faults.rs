//! A fleet whose server is strict, full, read-only or out of reach, and what is said of it.

use crate::map::{PICKY, guest};
use crate::support::command::{PATIENCE, Running, Wrun, scratch, write};
use crate::support::nats::{Server, json_of};
use crate::support::web::{RUNNING, metric_of};
use crate::support::{MODES, eventually, repo};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

const NOWHERE: &str = "nats://127.0.0.1:1";

/// Commands that connect, with what comes behind the options of the connection.
const COMMANDS: [(&str, &[&str]); 2] = [("worker", &[]), ("fleet", &["status"])];

fn command_with((command, behind): (&str, &[&str]), url: &str, options: &[&str]) -> Wrun {
    let wrun = Wrun::new().args([command, "--nats", url]).args(options);
    wrun.args(behind)
}

#[test]
fn files_are_looked_at_before_anything_connects() {
    let folder = scratch();
    let none = folder.path().join("none").display().to_string();
    let empty = write(folder.path(), "empty", "").display().to_string();
    let echo = guest("echo/echo.wat").display().to_string();
    for command in COMMANDS {
        for option in ["--creds", "--nkey", "--tls-ca", "--context"] {
            for (file, words) in [(&none, "cannot read"), (&empty, "empty")] {
                let ran = command_with(command, NOWHERE, &[option, file]).run();
                ran.expect_code(2, option);
                let begin = format!("wrun: {option}: ");
                assert!(ran.stderr.starts_with(&begin), "{option}: {}", ran.stderr);
                assert!(ran.stderr.contains(words), "{option}: {}", ran.stderr);
            }
        }
        let options = ["--user", "u", "--password-file", &none];
        let ran = command_with(command, NOWHERE, &options).run();
        ran.expect_code(2, "--password-file");
        assert!(ran.stderr.contains("--password-file: cannot read"), "{ran}");
    }
    let submit = |args: &[&str]| {
        let ran = Wrun::new().args(["fleet", "--nats", NOWHERE, "submit"]);
        ran.args(args).run()
    };
    let ran = submit(&[&none]);
    ran.expect_code(127, "no task");
    assert!(ran.stderr.contains(&none), "{ran}");
    let ran = submit(&["--input", &none, &echo]);
    ran.expect_code(2, "no input");
    assert!(ran.stderr.contains("--input: cannot read"), "{ran}");
    submit(&["--input", "/", &echo]).expect_code(2, "a directory");
    submit(&[&echo]).expect_code(125, "no server");
}

#[test]
fn workers_of_one_name_are_both_there_and_it_is_said() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    let _one = server.worker("thread", "same", &[]);
    server.await_workers(1);
    let other = Wrun::new()
        .args(["worker", "--nats", &server.url(), "--mode", "thread"])
        .args(["--name", "same", "--quiet"])
        .start();
    server.await_workers(2);
    let workers = json_of(&server.fleet(&["--json", "workers"]));
    assert!((0..2).all(|at| workers[at]["name"] == "same"), "{workers}");
    assert_ne!(workers[0]["id"], workers[1]["id"]);
    other.signal(Signal::TERM);
    let ran = other.end();
    assert!(
        ran.stderr
            .contains("another worker is named same (process "),
        "{ran}"
    );
    // It took its own record away, not the other's.
    server.await_workers(1);
}

/// A server with this configuration, and the folder that has it.
fn configured(text: &str) -> Option<(Server, tempfile::TempDir)> {
    let folder = scratch();
    let file = write(folder.path(), "nats.conf", text);
    let server = Server::start(&["-js", "-c", file.to_str().unwrap()])?;
    Some((server, folder))
}

/// Runs a task with a worker and a submitter that both connect with these options.
#[track_caller]
fn expect_works(url: &str, options: &[&str]) {
    let worker = Wrun::new()
        .args(["worker", "--quiet", "--mode", "thread", "--nats", url])
        .args(options)
        .start();
    let ran = Wrun::new()
        .args(["fleet", "--nats", url])
        .args(options)
        .args(["submit", "--wait"])
        .arg(guest("echo/echo.wat"))
        .run();
    ran.expect_code(0, &options.join(" "));
    worker.signal(Signal::TERM);
    worker.end().expect_code(0, "drained");
}

#[track_caller]
fn expect_refused(url: &str, options: &[&str], words: &str) {
    for command in COMMANDS {
        let ran = command_with(command, url, options).run();
        ran.expect_code(125, words);
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
}

#[test]
fn an_nkey_or_a_password_lets_in_and_another_does_not() {
    let (key, other) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user());
    let text = format!(
        "authorization {{ users = [ {{ nkey: {} }}, {{ user: \"u\", password: \"secret\" }} ] }}\n",
        key.public_key()
    );
    let Some((server, folder)) = configured(&text) else {
        return;
    };
    let file = |name: &str, text: String| {
        let path = write(folder.path(), name, text);
        path.to_str().unwrap().to_owned()
    };
    let seed = file("seed", key.seed().unwrap() + "\n");
    let wrong = file("wrong", other.seed().unwrap());
    let password = file("password", "secret\n".into());
    expect_works(&server.url(), &["--nkey", &seed]);
    expect_works(
        &server.url(),
        &["--user", "u", "--password-file", &password],
    );
    expect_refused(&server.url(), &["--nkey", &wrong], "authorization");
    expect_refused(&server.url(), &[], "authorization");
    let bad = file("bad", "not the password".into());
    let options = ["--user", "u", "--password-file", &bad];
    expect_refused(&server.url(), &options, "authorization");
}

#[test]
fn tls_is_required_and_its_certificate_checked() {
    let file = |name: &str| repo("tests/data/tls").join(name).display().to_string();
    let text = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}\n",
        file("cert.pem"),
        file("key.pem")
    );
    let Some((server, _folder)) = configured(&text) else {
        return;
    };
    let ca = file("ca.pem");
    let secure = server.url().replace("nats:", "tls:");
    // A server that requires it gets it anyway.
    expect_works(&secure, &["--tls-ca", &ca]);
    expect_works(&server.url(), &["--tls-ca", &ca]);
    expect_refused(&secure, &[], "certificate");
    // A server that has none is not spoken to in the clear.
    let Some(plain) = Server::with_jetstream() else {
        return;
    };
    let secure = plain.url().replace("nats:", "tls:");
    expect_refused(&secure, &["--tls-ca", &ca], "TLS");
}

/// Makes a stream as an operator would before the first worker starts.
fn make_stream(server: &Server, verb: &str, name: &str, settings: &Value) {
    let mut config = json!({
        "name": name, "storage": "file", "max_age": 0, "max_consumers": -1, "max_msg_size": -1,
        "max_msgs": -1, "max_msgs_per_subject": -1, "max_bytes": -1, "num_replicas": 1,
        "discard": "new", "retention": "limits", "duplicate_window": 120_000_000_000_u64,
    });
    for (key, value) in settings.as_object().unwrap() {
        config[key] = value.clone();
    }
    let subject = format!("$JS.API.STREAM.{verb}.{name}");
    server.publish(&subject, config.to_string().as_bytes());
}

fn tasks(more: &Value) -> Value {
    let mut settings = json!({"subjects": ["wrun.task.*.*"], "retention": "workqueue"});
    for (key, value) in more.as_object().unwrap() {
        settings[key] = value.clone();
    }
    settings
}

fn results(max_bytes: i64) -> Value {
    json!({
        "subjects": ["$KV.wrun_results.>"], "max_msgs_per_subject": 1, "allow_rollup_hdrs": true,
        "deny_delete": true, "allow_direct": true, "max_bytes": max_bytes,
    })
}

fn count_lines(folder: &Path, count: usize) -> std::path::PathBuf {
    let lines: String = (0..count).map(|at| format!("a{at}\n")).collect();
    write(folder, "lines", lines)
}

/// Its limit is one of messages: a server of 2.9.10 with a store on the disk loses messages that it has
/// acknowledged if `max_bytes` is so small that its files are.
#[test]
fn a_full_queue_holds_the_submitter_back_and_loses_nothing() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    make_stream(
        &server,
        "CREATE",
        "WRUN_TASKS",
        &tasks(&json!({"max_msgs": 50})),
    );
    let folder = scratch();
    let lines = count_lines(folder.path(), 500);
    let picky = write(folder.path(), "picky.wat", PICKY);
    let submitter = server
        .map()
        .args(["--no-stats", "--lines"])
        .arg(&lines)
        .arg(&picky);
    let mut submitter = submitter.start();
    // Without a worker the queue becomes full, and stays within its limit.
    eventually("the queue is full", PATIENCE, || {
        server.status().is_some_and(|status| status["queued"] == 50)
    });
    std::thread::sleep(Duration::from_millis(500));
    let status = json_of(&server.fleet(&["--json", "status"]));
    assert_eq!(status["queued"], 50, "{status}");
    assert!(submitter.child.try_wait().unwrap().is_none(), "it waits");
    let _worker = server.worker("thread", "w", &[]);
    let ran = submitter.end();
    ran.expect_code(0, "all results");
    assert_eq!(ran.stdout.split(|byte| *byte == b'\n').count(), 501);
    assert!(
        ran.stderr.contains("maximum messages exceeded") && ran.stderr.contains("trying again"),
        "{}",
        ran.stderr
    );
    let status = json_of(&server.fleet(&["--json", "status"]));
    assert_eq!(
        (&status["results"], &status["queued"]),
        (&json!(500), &json!(0)),
        "{status}"
    );
}

#[test]
fn a_full_bucket_of_results_holds_workers_back_and_loses_nothing() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    make_stream(&server, "CREATE", "KV_wrun_results", &results(30_000));
    let folder = scratch();
    let lines = count_lines(folder.path(), 100);
    let picky = write(folder.path(), "picky.wat", PICKY);
    let _worker = server.worker("thread", "w", &[]);
    let submitter = server
        .map()
        .args(["--no-stats", "--quiet", "--lines"])
        .arg(&lines)
        .arg(&picky);
    let mut submitter = submitter.start();
    let results_now = || {
        server
            .status()
            .and_then(|status| status["results"].as_u64())
    };
    eventually("some results are there", PATIENCE, || {
        results_now() > Some(5)
    });
    // Longer than a lease.
    std::thread::sleep(Duration::from_secs(3));
    assert!(results_now() < Some(60));
    assert!(submitter.child.try_wait().unwrap().is_none(), "it waits");
    make_stream(&server, "UPDATE", "KV_wrun_results", &results(30_000_000));
    let ran = submitter.end();
    ran.expect_code(0, "all results");
    assert_eq!(ran.stdout.split(|byte| *byte == b'\n').count(), 101);
    let status = json_of(&server.fleet(&["--json", "status"]));
    assert_eq!(
        (&status["results"], &status["dead"]),
        (&json!(100), &json!(0)),
        "{status}"
    );
}

#[test]
fn a_read_only_queue_refuses_in_words() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    make_stream(&server, "CREATE", "WRUN_TASKS", &tasks(&json!({})));
    let sealed = tasks(&json!({"sealed": true, "deny_delete": true, "deny_purge": true}));
    make_stream(&server, "UPDATE", "WRUN_TASKS", &sealed);
    let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "submit"]);
    let ran = ran.arg(guest("echo/echo.wat")).run();
    ran.expect_code(125, "sealed");
    assert!(ran.stderr.contains("sealed"), "{ran}");
}

#[test]
fn a_user_who_may_not_submit_is_told_so() {
    let text = "authorization { users = [ { user: \"all\", password: \"p\" }, { user: \"reader\", \
                password: \"p\", permissions: { publish: { deny: [\"wrun.task.>\"] } } } ] }\n";
    let Some((server, _folder)) = configured(text) else {
        return;
    };
    let as_user = |user: &str, args: &[&str]| {
        let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "--user", user]);
        ran.env("WRUN_NATS_PASSWORD", "p").args(args).run()
    };
    let echo = guest("echo/echo.wat").display().to_string();
    as_user("all", &["submit", "--id", "one", &echo]).expect_code(0, "all");
    let ran = as_user("reader", &["submit", &echo]);
    ran.expect_code(125, "reader");
    assert!(
        ran.stderr
            .contains("does not let this user publish to wrun.task.normal.default"),
        "{ran}"
    );
    let status = as_user("reader", &["--json", "status"]);
    status.expect_code(0, "reading");
    assert_eq!(json_of(&status)["queued"], 1, "{status:?}");
}

/// A network of its own for a worker, which can be cut.
struct Host {
    name: String,
    link: String,
    address: String,
    /// Its address of its own, for the server `address`.
    inside: String,
}

/// Where a worker in a network of its own answers its operator.
const ADMIN: u16 = 9000;

impl Host {
    /// `None` where networks cannot be made, which is told.
    fn new(number: u32) -> Option<Self> {
        let own = std::process::id() % 10_000;
        let (name, link) = (format!("wrun-t{own}-{number}"), format!("wt{own}-{number}"));
        // Of the addresses for benchmarks of networks, four for each.
        let part = (own * 4 + number) % 8192;
        let (high, low) = (18 + part / 4096, part % 4096);
        let net = |last: u32| format!("198.{high}.{}.{}", low / 64, low % 64 * 4 + last);
        let (address, inside) = (net(1), net(2));
        let host = Host {
            name: name.clone(),
            link: link.clone(),
            address: address.clone(),
            inside: inside.clone(),
        };
        let peer = format!("{link}p");
        let made = [
            format!("netns add {name}"),
            format!("link add {link} type veth peer name {peer}"),
            format!("link set {peer} netns {name}"),
            format!("addr add {address}/30 dev {link}"),
            format!("link set {link} up"),
            format!("-n {name} addr add {inside}/30 dev {peer}"),
            format!("-n {name} link set {peer} up"),
            format!("-n {name} link set lo up"),
        ]
        .iter()
        .all(|args| ip(args));
        if !made {
            crate::support::tool::missing("netns", "network namespaces cannot be made");
            return None;
        }
        Some(host)
    }

    fn cut(&self) {
        assert!(ip(&format!("link set {} down", self.link)));
    }

    fn heal(&self) {
        assert!(ip(&format!("link set {} up", self.link)));
    }

    fn worker(&self, server: &Server, mode: &str, name: &str) -> Running {
        let url = format!("nats://{}:{}", self.address, server.port);
        let wrun = Wrun::program(Path::new("ip")).args(["netns", "exec", &self.name]);
        let mut wrun = wrun.arg(crate::support::wrun()).args([
            "worker",
            "--quiet",
            "--nats",
            &url,
            "--mode",
            mode,
            "--name",
            name,
            "--ack-wait",
            "2s",
            "--jobs",
            "2",
            "--admin",
            &format!("{}:{ADMIN}", self.inside),
        ]);
        wrun.command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        wrun.start()
    }

    /// How many guests of its worker run, 0 before that answers.
    fn running(&self) -> f64 {
        let address = (self.inside.as_str(), ADMIN);
        match TcpStream::connect(address) {
            Ok(_) => metric_of(address, RUNNING),
            Err(_) => 0.0,
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.link));
        ip(&format!("netns del {}", self.name));
    }
}

fn ip(args: &str) -> bool {
    let mut command = std::process::Command::new("ip");
    let output = command.args(args.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

/// A worker is cut off from the server for longer than its lease lasts, and its task runs
/// elsewhere, too. Whichever ends first has the result, once.
#[test]
fn the_result_of_a_worker_that_was_cut_off_wins_or_loses_once() {
    for (mode, wins) in [("thread", true), ("process", false), ("thread", false)] {
        let Some(server) = Server::start(&["-js", "-a", "0.0.0.0"]) else {
            return;
        };
        let Some(host) = Host::new(u32::from(wins)) else {
            return;
        };
        let _cut_off = host.worker(&server, mode, "cut-off");
        server.await_workers(1);
        let folder = scratch();
        let picky = write(folder.path(), "picky.wat", PICKY);
        let forever = write(folder.path(), "l", "l");
        let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "submit", "--id", "t"]);
        let ran = ran.args(["--timeout", "6s", "--input"]).arg(&forever);
        ran.arg(&picky).run().expect_code(0, mode);
        // With all that it needs: it will be late, and not give the task back.
        eventually("it runs", PATIENCE, || host.running() == 1.0);
        host.cut();
        let _near = server.worker(mode, "near", &[]);
        eventually("it runs elsewhere, too", PATIENCE, || {
            server
                .status()
                .is_some_and(|status| status["redelivered"] == 1)
        });
        if wins {
            host.heal();
        }
        let result = server.result("t");
        let winner = if wins { "cut-off" } else { "near" };
        assert_eq!(result["worker"], winner, "{mode}: {result}");
        host.heal();
        // The other one's answer is late and changes nothing.
        let loser = if wins { "near" } else { "cut-off" };
        eventually(
            &format!("the answer of {loser} is late, {mode}"),
            PATIENCE,
            || {
                let workers = json_of(&server.fleet(&["--json", "workers"]));
                let workers = workers.as_array().unwrap();
                workers
                    .iter()
                    .any(|it| it["name"] == loser && it["late"] == 1)
            },
        );
        assert_eq!(server.result("t"), result, "{mode}");
        let status = json_of(&server.fleet(&["--json", "status"]));
        assert_eq!(
            (&status["results"], &status["queued"], &status["dead"]),
            (&json!(1), &json!(0), &json!(0)),
            "{mode}: {status}"
        );
    }
}

/// A message of a version to come stays in the queue for a worker that knows it, while others run.
#[test]
fn a_later_version_is_left_for_others_and_delays_nobody() {
    for mode in MODES {
        let Some(server) = Server::with_jetstream() else {
            return;
        };
        let _worker = server.worker(mode, "w", &[]);
        server.await_workers(1);
        let echo = guest("echo/echo.wat");
        let digest = crate::fleet::blake3(&fs::read(&echo).unwrap());
        let later = json!({"v": 3, "id": "later", "module": {"blake3": digest}, "colour": "red"});
        server.publish("wrun.task.normal.a", later.to_string().as_bytes());
        let ran = Wrun::new().args(["fleet", "--nats", &server.url(), "submit", "--wait"]);
        ran.args(["--tenant", "a"])
            .arg(&echo)
            .run()
            .expect_code(0, mode);
        eventually("it was given back", PATIENCE, || {
            let status = server.status().unwrap_or_default();
            status["workers"][0]["given_back"].as_u64() >= Some(1)
        });
        server
            .fleet(&["result", "later"])
            .expect_code(1, "no result yet");
        let status = json_of(&server.fleet(&["--json", "status"]));
        assert_eq!((&status["queued"], &status["dead"]), (&json!(1), &json!(0)));
    }
}
