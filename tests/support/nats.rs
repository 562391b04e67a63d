//! A real server of NATS, and what tests of fleets do with it.

use super::command::{PATIENCE, Ran, Running, Wrun, scratch};
use super::{eventually, tool};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server of NATS with a directory of its own.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    pub(crate) folder: tempfile::TempDir,
    options: Vec<String>,
}

impl Server {
    /// `None` where there is none installed, which is told.
    #[track_caller]
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        if !tool::available("nats-server") {
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = scratch();
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let child = spawn(port, folder.path(), &options);
        Some(Server {
            child,
            port,
            folder,
            options,
        })
    }

    pub(crate) fn with_jetstream() -> Option<Self> {
        Server::start(&["-js"])
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills it, and starts it again with what is on the disk.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.child = spawn(self.port, self.folder.path(), &self.options);
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn worker(&self, mode: &str, name: &str, options: &[&str]) -> Running {
        let worker = Wrun::new()
            .args([
                "worker",
                "--nats",
                &self.url(),
                "--mode",
                mode,
                "--name",
                name,
            ])
            .args(["--ack-wait", "2s", "--jobs", "2"])
            .args(options)
            .stdout_to(Stdio::null());
        let mut worker = worker;
        worker.command.stderr(Stdio::null());
        worker.start()
    }

    /// Waits until so many workers are there.
    #[track_caller]
    pub(crate) fn await_workers(&self, count: usize) {
        eventually("the workers are there", PATIENCE, || {
            let workers = self.fleet(&["--json", "workers"]);
            workers.code() == 0 && json_of(&workers).as_array().unwrap().len() == count
        });
    }

    pub(crate) fn fleet(&self, args: &[&str]) -> Ran {
        Wrun::new()
            .args(["fleet", "--nats", &self.url()])
            .args(args)
            .run()
    }

    /// How the fleet is doing; `None` while the server does not answer.
    pub(crate) fn status(&self) -> Option<Value> {
        let ran = self.fleet(&["--json", "status"]);
        (ran.code() == 0).then(|| json_of(&ran))
    }

    pub(crate) fn map(&self) -> Wrun {
        Wrun::new().args(["map", "--no-progress", "--on", &self.url()])
    }

    /// Publishes bytes as any client can.
    pub(crate) fn publish(&self, subject: &str, body: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut sent = b"CONNECT {\"verbose\":false}\r\n".to_vec();
        sent.extend(format!("PUB {subject} {}\r\n", body.len()).into_bytes());
        sent.extend(body);
        sent.extend(b"\r\nPING\r\n");
        stream.write_all(&sent).unwrap();
        let mut heard = Vec::new();
        while !heard.windows(4).any(|it| it == b"PONG") {
            let mut part = [0; 4096];
            let read = stream.read(&mut part).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&heard));
            heard.extend(&part[..read]);
        }
    }

    /// The result of a task, once it has one.
    #[track_caller]
    pub(crate) fn result(&self, id: &str) -> Value {
        let ran = self.fleet(&["--json", "result", "--wait", id]);
        assert!(!ran.gave_up, "no result of {id}: {}", ran.stderr);
        json_of(&ran)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(port: u16, folder: &Path, options: &[String]) -> Child {
    let child = Command::new("nats-server")
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
        .arg(folder)
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the server listens", PATIENCE, || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    child
}

#[track_caller]
pub(crate) fn json_of(ran: &Ran) -> Value {
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|why| panic!("{why}: {ran:?}"))
}
