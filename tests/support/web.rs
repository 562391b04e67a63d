//! `wrun serve` as clients see it: started, spoken to byte by byte, and ended.

use super::command::{PATIENCE, Ran, Running, Wrun};
use super::within;
use rustix::process::Signal;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A server that runs.
pub struct Site {
    running: Option<Running>,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    stderr: Arc<Mutex<String>>,
    stdout: Arc<Mutex<String>>,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// It has the length that it says, or its last chunk.
    pub complete: bool,
}

/// The metric of how many guests a runner runs, with all that they need.
pub const RUNNING: &str = "wrun_tasks_running";

/// What an operator's port says.
#[track_caller]
pub fn ask_operator(address: impl ToSocketAddrs, path: &str) -> Answer {
    let mut client = Client::new(TcpStream::connect(address).unwrap());
    client.send(get(path));
    client.answer(false).unwrap()
}

/// The value of a metric there, by its name with its labels; 0 where it is not there.
#[track_caller]
pub fn metric_of(address: impl ToSocketAddrs, name: &str) -> f64 {
    let text = ask_operator(address, "/metrics").text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

impl Site {
    /// `wrun serve`, on ports that the system chooses, with `options`.
    #[track_caller]
    pub fn start(mode: &str, options: &[&str]) -> Self {
        Site::start_as(Wrun::new(), mode, options)
    }

    /// The same, with what the command has of its environment.
    #[track_caller]
    pub fn start_as(wrun: Wrun, mode: &str, options: &[&str]) -> Self {
        let wrun = wrun.args(["serve", "--mode", mode]);
        let wrun = wrun.args(["--addr", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let mut running = wrun.args(options).start();
        drop(running.child.stdin.take());
        let stderr = kept(running.child.stderr.take());
        let stdout = kept(running.child.stdout.take());
        let find = |before: &str| {
            let stderr = stderr.lock().unwrap();
            let (_, rest) = stderr.split_once(before)?;
            let (address, _) = rest.split_once('\n')?;
            address.parse::<SocketAddr>().ok()
        };
        let found = || {
            let address = find("listening on http://").or_else(|| find("listening on https://"))?;
            Some((address, find("metrics on http://")?))
        };
        within(PATIENCE, || {
            found().is_some() || running.child.try_wait().unwrap().is_some()
        });
        let Some((address, admin)) = found() else {
            panic!("{mode} {options:?}: {}", stderr.lock().unwrap());
        };
        Site {
            running: Some(running),
            address,
            admin,
            stderr,
            stdout,
        }
    }

    /// Starts it with an app of `guest-tasks`.
    #[track_caller]
    pub fn of(mode: &str, guest: &str, options: &[&str]) -> Self {
        let file = super::repo("guest-tasks").join(guest);
        let mut all = options.to_vec();
        all.push(path(&file));
        Site::start(mode, &all)
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub fn pid(&self) -> i32 {
        self.running().pid()
    }

    pub fn signal(&self, signal: Signal) {
        self.running().signal(signal);
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Its access log so far.
    pub fn logged(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    /// Waits until it has said something.
    #[track_caller]
    pub fn await_said(&self, words: &str) {
        let said = within(PATIENCE, || self.said().contains(words));
        assert!(said, "it never said {words:?}: {}", self.said());
    }

    /// Waits until its access log has this many lines.
    #[track_caller]
    pub fn await_lines(&self, lines: usize) -> Vec<String> {
        let came = within(PATIENCE, || self.logged().matches('\n').count() >= lines);
        assert!(came, "fewer lines than {lines}: {}", self.logged());
        self.logged().lines().map(str::to_owned).collect()
    }

    pub fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn ask(&self, raw: &str) -> Answer {
        let mut client = self.connect();
        client.send(raw);
        let is_head = raw.starts_with("HEAD");
        let answer = client.answer(is_head);
        answer.unwrap_or_else(|| panic!("no answer to {raw:?}: {}", self.said()))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.ask(&get(path))
    }

    /// The same, for an answer that may be cut before its beginning.
    pub fn try_get(&self, path: &str) -> Option<Answer> {
        let mut client = self.connect();
        client.send(get(path));
        client.answer(false)
    }

    /// What the operator's port says.
    #[track_caller]
    pub fn ask_admin(&self, path: &str) -> Answer {
        ask_operator(self.admin, path)
    }

    /// The value of a metric, by its name with its labels; 0 where it is not there.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        metric_of(self.admin, name)
    }

    /// The requests that are over, by what was answered (`code="500"`); of all, where that is
    /// empty.
    #[track_caller]
    pub fn requests_over(&self, label: &str) -> u64 {
        let text = self.ask_admin("/metrics").text();
        let lines = text.lines().filter_map(|line| {
            let (labels, value) = line
                .strip_prefix("wrun_http_requests_total{")?
                .rsplit_once("} ")?;
            labels
                .contains(label)
                .then(|| value.parse::<u64>().unwrap())
        });
        lines.sum()
    }

    /// The descriptors that the server has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ran {
        let mut ran = self.running.take().unwrap().end();
        // Not what apps print: their panics are not wrun's.
        let said = self.said();
        let own = said.lines().filter(|line| !line.contains(" task="));
        ran.stderr = own.flat_map(|line| [line, "\n"]).collect();
        ran.stdout = self.logged().into_bytes();
        ran
    }

    /// Ends it and expects that nothing was wrong.
    #[track_caller]
    pub fn stop(self) -> Ran {
        self.signal(Signal::TERM);
        let ran = self.end();
        ran.expect_code(0, "serve");
        ran
    }
}

fn kept(source: Option<impl Read + Send + 'static>) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let kept = text.clone();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(source.unwrap());
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
            kept.lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    text
}

/// A file of the tests as an argument.
pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A request without a body.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// A client that keeps its connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client {
            stream: BufReader::new(stream),
        }
    }

    /// Sends bytes. A server that is gone is seen when it is to answer.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.get_mut().write_all(bytes.as_ref());
    }

    /// The same connection, to send on another thread.
    pub fn twin(&self) -> TcpStream {
        self.stream.get_ref().try_clone().unwrap()
    }

    /// Says that no more is sent.
    pub fn finish(&mut self) {
        let _ = self.stream.get_ref().shutdown(std::net::Shutdown::Write);
    }

    /// The next answer; none where the connection is closed instead.
    pub fn answer(&mut self, is_head: bool) -> Option<Answer> {
        let mut answer = self.head()?;
        let has_none = is_head || [204, 304].contains(&answer.status) || answer.status < 200;
        if has_none {
            answer.complete = true;
        } else if answer.header("transfer-encoding").is_some() {
            answer.complete = self.chunks(&mut answer.body);
        } else if let Some(length) = answer.header("content-length") {
            let length: u64 = length.parse().unwrap();
            let mut body = (&mut self.stream).take(length);
            let _ = body.read_to_end(&mut answer.body);
            answer.complete = answer.body.len() as u64 == length;
        } else {
            answer.complete = self.stream.read_to_end(&mut answer.body).is_ok();
        }
        Some(answer)
    }

    /// The beginning of the next answer.
    pub fn head(&mut self) -> Option<Answer> {
        let line = self.line()?;
        let rest = line.strip_prefix("HTTP/1.")?;
        let rest = rest.strip_prefix("1 ").or(rest.strip_prefix("0 "))?;
        let status = rest.get(..3)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':')?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Some(Answer {
            status,
            headers,
            body: Vec::new(),
            complete: false,
        })
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        let mut next = || {
            let len = usize::from_str_radix(&self.line()?, 16).ok()?;
            let mut chunk = vec![0; len];
            self.stream.read_exact(&mut chunk).ok()?;
            self.line().filter(String::is_empty)?;
            Some(chunk)
        };
        loop {
            match next() {
                Some(chunk) if chunk.is_empty() => return true,
                Some(chunk) => body.extend(chunk),
                None => return false,
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).ok()?;
        Some(line.strip_suffix("\r\n")?.to_owned())
    }

    /// Some bytes of an answer; none at its end.
    pub fn some(&mut self) -> Vec<u8> {
        let mut bytes = [0; 4096];
        let len = self.stream.read(&mut bytes).unwrap_or(0);
        bytes[..len].to_vec()
    }

    /// Whether the server closes the connection within the time, whatever it sends before.
    pub fn is_closed_within(&mut self, time: Duration) -> bool {
        self.stream.get_ref().set_read_timeout(Some(time)).unwrap();
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts the status; shows all there is when it is another.
    #[track_caller]
    pub fn expect(&self, status: u16, what: &str) -> &Self {
        assert_eq!(self.status, status, "{what}: {self}");
        self
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body: String = self.text().chars().take(400).collect();
        write!(f, "{} {:?} {body:?}", self.status, self.headers)
    }
}
