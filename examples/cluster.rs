//! What `cluster` gives a Node server, and what it leaves to the application: one port, several
//! requests at the same time, the end of each of them, a new version without a lost request, and
//! an end that cuts nobody off.
//!
//! ```sh
//! cargo run --release --example cluster -- [thread|process]
//! ```
//!
//! The names of `cluster` stand where its counterparts are.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wrun::{Mode, Runner};
use wrun_serve::{AccessFormat, Address, App, Event, Listener, Pattern, Server};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    // cluster.isWorker: in a worker process this call does not return.
    wrun::worker_hook();
    let mode = match std::env::args().nth(1) {
        Some(name) => name.parse()?,
        None => Mode::default(),
    };
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(primary(mode))
}

async fn primary(mode: Mode) -> Result<()> {
    let guests = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks"));
    let folder = tempfile::tempdir()?;
    let app = folder.path().join("app.wasm");
    std::fs::copy(guests.join("http-hello/http-hello.wasm"), &app)?;

    // cluster.setupPrimary: what each worker is and may do is said once. cluster.fork: not by
    // hand; there are as many as requests at the same time, here two.
    let runner = Runner::builder().mode(mode).max_running(2).build()?;
    let app = App::new(&app).timeout(Duration::from_secs(10));
    let hostile = App::new(guests.join("http-hostile/http-hostile.wasm"));
    let (log, ended) = channel();
    let server = Server::builder(runner)
        .route(Pattern::any(), app.clone())
        .route("hostile.example/".parse()?, hostile)
        .listen(Listener::tcp("127.0.0.1:0").await?)
        // cluster.on('exit'): how the task of each request ended.
        .access_log(AccessFormat::Json, Log(log))
        // cluster.on('listening').
        .on_event(|event| {
            if let Event::Listening { address, .. } = event {
                println!("listening: {address}");
            }
        })
        .start()
        .await?;
    let Some(Address::Tcp(address)) = server.addresses().first().cloned() else {
        return Err("no address".into());
    };
    let ask = async |host: &str, path: &str| -> Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        tokio::time::timeout(PATIENCE, reading).await??;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let status = head.lines().next().unwrap_or_default();
        Ok(format!("{status}: {}", body.trim_end()))
    };

    println!("in {mode} mode:");
    println!("first: {}", ask("localhost", "/").await?);
    // Respawning, which cluster leaves to the application: a task that traps costs its request,
    // and those beside it and after it are answered.
    let (trapped, beside) = tokio::join!(ask("hostile.example", "/trap"), ask("localhost", "/"));
    println!("trapped: {}", trapped?);
    println!("beside it: {}", beside?);
    println!("exit: {}", await_line(&ended, "\"trapped\"")?);

    // Rolling restarts, which cluster leaves to the application, too: a version that cannot be
    // loaded is refused, and another one answers all requests from then on.
    std::fs::write(app.file(), "not WebAssembly")?;
    let refused = server.reload().await.is_err();
    println!("refused: {refused}, version {}", server.version());
    std::fs::copy(guests.join("http-events/http-events.wasm"), app.file())?;
    println!("version {} answers", server.reload().await?);
    println!("now: {}", ask("localhost", "/big?bytes=6").await?);

    // cluster.disconnect, worker.isDead: requests that are there finish, and then nothing is left.
    let cut = server.drain(PATIENCE).await;
    println!("disconnect: {cut} cut");
    println!("dead: {}", TcpStream::connect(address).await.is_err());
    Ok(())
}

/// The next line of the log that contains `words`.
fn await_line(lines: &Receiver<String>, words: &str) -> Result<String> {
    loop {
        let line = lines.recv_timeout(PATIENCE)?;
        if line.contains(words) {
            return Ok(line);
        }
    }
}

/// Where the log goes.
struct Log(Sender<String>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in String::from_utf8_lossy(bytes).lines() {
            let _ = self.0.send(line.to_owned());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
