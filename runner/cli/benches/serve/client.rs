//! Clients, in a process of their own: requests on connections that are kept, a body that goes
//! up and comes down, and connections that only wait.

use anyhow::{Context, bail, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use wrun_compare::measure::Sorted;

/// The argument that makes this program one.
pub(crate) const ROLE: &str = "__client";

/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Of an answer that has only what is expected.
const MAX_ANSWER: usize = 4 << 10;

pub(crate) fn act(args: &[String]) -> anyhow::Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    match args[..] {
        ["load", address, connections, millis] => {
            let time = Duration::from_millis(millis.parse()?);
            let connections = connections.parse()?;
            runtime()?.block_on(load(address.parse()?, connections, time))
        }
        ["transfer", address, path, bytes] => transfer(address.parse()?, path, bytes.parse()?),
        ["idle", address, count] => runtime()?.block_on(idle(address.parse()?, count.parse()?)),
        _ => bail!("unknown: {args:?}"),
    }
}

/// A connection that has one request at a time.
struct Connection {
    stream: tokio::net::TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    /// From any address of this machine: there are not enough ports of one for connections that
    /// are opened again and again.
    async fn open(to: SocketAddr, from: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = tokio::time::timeout(PATIENCE, socket.connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            answer: Vec::new(),
        })
    }

    /// One request and its answer.
    async fn ask(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(REQUEST).await?;
        self.answer.clear();
        loop {
            let length = self.stream.read_buf(&mut self.answer).await?;
            ensure!(length > 0, "the connection was closed");
            if self.answer.ends_with(b"\r\n\r\nhello\n") {
                break;
            }
            ensure!(
                self.answer.len() < MAX_ANSWER,
                "the answer is {:?}",
                String::from_utf8_lossy(&self.answer)
            );
        }
        ensure!(self.answer.starts_with(b"HTTP/1.1 200 "), "not 200");
        Ok(())
    }
}

async fn load(address: SocketAddr, connections: usize, time: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut all = Vec::new();
    for _ in 0..connections {
        all.push(tokio::spawn(async move {
            let mut connection = Connection::open(address, Ipv4Addr::LOCALHOST).await?;
            let mut took = Vec::new();
            while began.elapsed() < time {
                let asked = Instant::now();
                connection.ask().await?;
                took.push(asked.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(took)
        }));
    }
    let mut took = Vec::new();
    for one in all {
        took.extend(one.await??);
    }
    let (requests, took) = (took.len(), Sorted::new(took));
    println!(
        "result {requests} {} {:.0} {:.0} 0",
        began.elapsed().as_micros(),
        took.median(),
        took.quantile(0.99)
    );
    Ok(())
}

/// Opens connections, has each answer once, says so, and keeps them until stdin ends.
async fn idle(address: SocketAddr, count: usize) -> anyhow::Result<()> {
    let mut held = Vec::new();
    let hosts = [2, 3, 4, 5].map(|last| Ipv4Addr::new(127, 0, 0, last));
    while held.len() < count {
        let some = (count - held.len()).min(64);
        let opening: Vec<_> = hosts
            .into_iter()
            .cycle()
            .take(some)
            .map(|from| {
                tokio::spawn(async move {
                    let mut connection = Connection::open(address, from).await?;
                    connection.ask().await?;
                    anyhow::Ok(connection)
                })
            })
            .collect();
        for one in opening {
            held.push(one.await??);
        }
    }
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await??;
    // Each must have been kept.
    for connection in &mut held {
        connection.ask().await?;
        // No state of them is left in the kernel.
        connection.stream.set_zero_linger()?;
    }
    println!("kept");
    Ok(())
}

/// A multiple of the period of the pattern, in which byte `i` is `i % 251`.
const BLOCK: usize = 251 * 1024;

/// Sends a body of this many bytes and compares what comes back.
fn transfer(address: SocketAddr, path: &str, bytes: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let pattern: Vec<u8> = (0..2 * BLOCK).map(|at| (at % 251) as u8).collect();
    let began = Instant::now();
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {bytes}\r\n\r\n"
    )?;
    let mut sending = stream.try_clone()?;
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| -> anyhow::Result<()> {
            let mut left = bytes;
            while left > 0 {
                let now = usize::try_from(left)?.min(BLOCK);
                sending.write_all(&pattern[..now])?;
                left -= now as u64;
            }
            Ok(())
        });
        let came = receive(stream, &pattern)?;
        ensure!(came == bytes, "{came} bytes came back instead of {bytes}");
        let sent = sent.join();
        sent.map_err(|_| anyhow::format_err!("the sender panicked"))?
    })?;
    println!("result {bytes} {}", began.elapsed().as_micros());
    Ok(())
}

/// Reads an answer in chunks whose content is the pattern.
fn receive(stream: TcpStream, pattern: &[u8]) -> anyhow::Result<u64> {
    let mut stream = BufReader::with_capacity(256 << 10, stream);
    let mut line = String::new();
    let mut next = |stream: &mut BufReader<TcpStream>| {
        line.clear();
        stream.read_line(&mut line)?;
        anyhow::Ok(line.trim_end().to_owned())
    };
    let status = next(&mut stream)?;
    ensure!(status.starts_with("HTTP/1.1 200 "), "{status}");
    let mut chunked = false;
    loop {
        let field = next(&mut stream)?.to_ascii_lowercase();
        chunked |= field == "transfer-encoding: chunked";
        if field.is_empty() {
            break;
        }
    }
    ensure!(chunked, "the answer is not in chunks");
    let mut came = 0;
    loop {
        let size = next(&mut stream)?;
        let size = u64::from_str_radix(&size, 16).with_context(|| size.clone())?;
        if size == 0 {
            return Ok(came);
        }
        let mut left = usize::try_from(size)?;
        while left > 0 {
            let some = stream.fill_buf()?;
            let some = &some[..some.len().min(left).min(BLOCK)];
            ensure!(!some.is_empty(), "the answer was cut after {came} bytes");
            let at = usize::try_from(came % 251)?;
            let expected = &pattern[at..at + some.len()];
            ensure!(some == expected, "wrong content after {came} bytes");
            let length = some.len();
            stream.consume(length);
            left -= length;
            came += length as u64;
        }
        ensure!(next(&mut stream)?.is_empty(), "no end of a chunk");
    }
}
