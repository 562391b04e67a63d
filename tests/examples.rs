//! The examples do what they say. `cargo test` builds them; they lie beside this
//! test.

use crate::support::repo;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/release/deps/integration-… and target/release/examples/NAME
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built: `cargo test --release` without --test does that, and `cargo build \
         --release --examples`",
        path.display()
    );
    path
}

#[track_caller]
fn run(name: &str, args: &[&str]) -> String {
    let output = Command::new(example(name)).args(args).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{name} {args:?}: {}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Every file in `examples/` has a test here.
#[test]
fn every_example_in_rust_is_run() {
    // `fleet` has files for other programs.
    let mut names: Vec<String> = std::fs::read_dir(repo("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".rs"))
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "batch.rs",
            "both_modes.rs",
            "cluster.rs",
            "http_handler.rs",
            "limits_and_kill.rs",
            "plugin_server.rs",
            "talk.rs"
        ]
    );
}

#[test]
fn a_handler_answers_in_both_modes() {
    let stdout = run("http_handler", &[]);
    for mode in ["thread", "process"] {
        for line in [
            "200 OK",
            "x-request-id: 1",
            "6 bytes: \"hello\\n\"",
            "completed in ",
        ] {
            let line = format!("{mode}: {line}");
            assert!(stdout.contains(&line), "{line}: {stdout}");
        }
    }
    let events = repo("guest-tasks/http-events/http-events.wasm");
    let args = [events.to_str().unwrap(), "GET", "/trailers?bytes=3"];
    let stdout = run("http_handler", &args);
    assert_eq!(stdout.matches("\"x-bytes\": \"3\"").count(), 2, "{stdout}");
}

#[test]
fn what_cluster_does_is_done() {
    for mode in ["thread", "process"] {
        let stdout = run("cluster", &[mode]);
        for words in [
            "listening: 127.0.0.1:",
            "first: HTTP/1.1 200 OK: hello",
            "trapped: HTTP/1.1 500 Internal Server Error: 500",
            "beside it: HTTP/1.1 200 OK: hello",
            "refused: true, version 1",
            "version 2 answers",
            "now: HTTP/1.1 200 OK: ",
            "disconnect: 0 cut",
            "dead: true",
        ] {
            assert!(stdout.contains(words), "{mode}: no {words:?} in\n{stdout}");
        }
        let exit = stdout.lines().find_map(|line| line.strip_prefix("exit: "));
        let exit: serde_json::Value = serde_json::from_str(exit.expect(mode)).expect("JSON");
        assert_eq!(exit["outcome"], "trapped", "{mode}: {exit}");
        assert_eq!(exit["status"], 500, "{mode}: {exit}");
        assert_eq!(exit["worker_pid"].is_u64(), mode == "process", "{exit}");
    }
}

#[test]
fn both_modes_agree() {
    let stdout = run("both_modes", &[]);
    assert!(stdout.contains("both: completed"), "{stdout}");
    let trap = repo("guest-tasks/hostile/div-by-zero.wat");
    let stdout = run("both_modes", &[trap.to_str().unwrap(), "/dev/null"]);
    assert!(stdout.contains("both: trapped"), "{stdout}");
}

#[test]
fn limits_and_kills_end_everything() {
    for mode in ["thread", "process"] {
        let stdout = run("limits_and_kill", &[mode]);
        for words in [
            "limit exceeded: deadline",
            "limit exceeded: fuel",
            "limit exceeded: memory",
            "limit exceeded: output",
            "cancelled in time",
            "killed                       cancelled",
        ] {
            assert!(stdout.contains(words), "no {words:?} in\n{stdout}");
        }
    }
}

#[test]
fn tasks_and_their_host_talk() {
    for mode in ["thread", "process"] {
        let stdout = run("talk", &[mode]);
        for words in [
            "a task said b\"ping\"",
            "it ended with b\"1 echoed\"",
            "to send b\"more\" more: the channel is closed",
            "one says b\"100 round trips\"",
            "one says b\"100 echoed\"",
            "killed, it is",
        ] {
            assert!(stdout.contains(words), "no {words:?} in\n{stdout}");
        }
    }
}

#[test]
fn a_batch_sums_its_results() {
    let [thread, process] = [("3000", "thread"), ("300", "process")].map(|(count, mode)| {
        let stdout = run("batch", &[count, mode]);
        assert!(
            stdout.starts_with(&format!("{count} inputs in {mode} mode: ")),
            "{stdout}"
        );
        stdout
    });
    print!("{thread}{process}");
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(example("plugin_server"))
            .arg("127.0.0.1:0")
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line
            .strip_prefix("listening on http://")
            .and_then(|rest| rest.split('/').next())
            .unwrap_or_else(|| panic!("it says {line:?}"))
            .to_owned();
        // Whatever it says later is read.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Server { child, address }
    }

    /// Sends bytes, returns the status line and everything.
    fn send(&self, request: &[u8]) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream.write_all(request).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.lines().next().unwrap_or_default().to_owned();
        (status, answer)
    }

    fn post(&self, body: &[u8]) -> (String, String) {
        let head = format!(
            "POST /render HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(&[head.as_bytes(), body].concat())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_plugin_server_renders_markdown() {
    for mode in ["thread", "process"] {
        let server = Server::start(&[mode]);
        let (status, answer) = server.post("# Hello, *world*".as_bytes());
        assert_eq!(status, "HTTP/1.1 200 OK", "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "<h1>Hello, <em>world</em></h1>\n");
        assert!(head.contains("Content-Security-Policy: default-src 'none'; sandbox"));

        let article = std::fs::read(repo("guest-tasks/inputs/article.md")).unwrap();
        let expected = std::fs::read_to_string(repo("guest-tasks/expected/article.html")).unwrap();
        let (_, answer) = server.post(&article);
        assert!(answer.ends_with(&expected), "{answer}");

        // Many at once.
        std::thread::scope(|scope| {
            for client in 0..8 {
                let server = &server;
                scope.spawn(move || {
                    for n in 0..5 {
                        let (status, answer) = server.post(format!("{client}-{n}").as_bytes());
                        let busy = status.starts_with("HTTP/1.1 503");
                        let right = answer.ends_with(&format!("<p>{client}-{n}</p>\n"));
                        assert!(busy || right, "{answer}");
                    }
                });
            }
        });

        let huge = vec![b'x'; 2 << 20];
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(64 << 10));
        for (request, status) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "404 Not Found"),
            (b"GET /render HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            (b"POST /render HTTP/1.1\r\n\r\n", "411 Length Required"),
            (b"hello\r\n\r\n", "400 Bad Request"),
            (
                b"POST /render HTTP/1.1\r\nnothing\r\n\r\n",
                "400 Bad Request",
            ),
            (
                b"POST /render HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
                "400 Bad Request",
            ),
            (
                b"POST /render HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
                "400 Bad Request",
            ),
            (
                b"POST /render HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "501 Not Implemented",
            ),
            (long.as_bytes(), "431 Request Header Fields Too Large"),
        ] {
            let (line, answer) = server.send(request);
            assert_eq!(line, format!("HTTP/1.1 {status}"), "{answer}");
        }
        let (line, _) = server.post(&huge[..(1 << 20) + 1]);
        assert_eq!(line, "HTTP/1.1 413 Content Too Large");
        let (line, _) = server.post(b"\xff\xfe");
        assert_eq!(line, "HTTP/1.1 422 Unprocessable Content");
        // A client that leaves in the middle of its request.
        let (line, _) = server.send(b"POST /render HTTP/1.1\r\nContent-Length: 100\r\n\r\nx");
        assert_eq!(line, "");
        // And it serves on.
        let (line, _) = server.post(b"x");
        assert_eq!(line, "HTTP/1.1 200 OK");
    }
}

#[test]
fn the_plugin_server_outlives_its_plugin() {
    for mode in ["thread", "process"] {
        for (plugin, status) in [
            ("hostile/endless-loop-run.wat", "504 Gateway Timeout"),
            ("hostile/unreachable-run.wat", "502 Bad Gateway"),
            ("hostile/memory-bomb.wat", "422 Unprocessable Content"),
            ("hostile/huge-output.wat", "422 Unprocessable Content"),
            ("hostile/fail.wat", "422 Unprocessable Content"),
        ] {
            let plugin = repo("guest-tasks").join(plugin);
            let server = Server::start(&[mode, plugin.to_str().unwrap()]);
            for _ in 0..2 {
                let (line, answer) = server.post(b"x");
                assert_eq!(line, format!("HTTP/1.1 {status}"), "{answer}");
            }
        }
    }
}

#[test]
fn the_plugin_server_stops_when_it_is_interrupted() {
    let mut server = Server::start(&[]);
    let pid = rustix::process::Pid::from_child(&server.child);
    server.post(b"x");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(server.child.wait().unwrap().success());
}
