//! A Chromium without a window, spoken to over a pair of pipes, for what only a
//! browser can say about a page.
//!
//! Invariant: every wait for it has an end, and it is gone with its owner.

use super::within;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// How long it may take to answer, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// Most bytes of one message of it: a page on paper is some of them.
const MOST_BYTES: usize = 256 << 20;

/// A browser with one page open.
pub struct Browser {
    child: Child,
    messages: Receiver<Value>,
    session: RefCell<Option<String>>,
    last: Cell<u64>,
    complaints: RefCell<Vec<Value>>,
    _profile: tempfile::TempDir,
}

/// The browser of this machine: `WRUN_CHROMIUM`, or the first that is found.
pub fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("WRUN_CHROMIUM") {
        return Some(named.into());
    }
    super::tool::find(&[
        "chromium",
        "chromium-browser",
        "google-chrome",
        "headless-shell",
    ])
}

impl Browser {
    /// Starts one with an empty profile.
    pub fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // Its messages go over descriptors 3 and 4, which a shell can hand over.
        let mut child = Command::new("sh")
            .args([
                "-c",
                r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#,
                "sh",
            ])
            .arg(program)
            .args([
                "--headless",
                "--hide-scrollbars",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--no-first-run",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-extensions",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-breakpad",
                "--disable-crash-reporter",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let (send, messages) = sync_channel(64);
        std::thread::spawn(move || {
            let (mut kept, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            while let Ok(1..=MOST_BYTES) = output.read(&mut buffer).inspect(|&read| {
                kept.extend_from_slice(&buffer[..read]);
            }) {
                while let Some(end) = kept.iter().position(|&byte| byte == 0) {
                    let message: Vec<u8> = kept.drain(..=end).collect();
                    let Ok(message) = serde_json::from_slice(&message[..end]) else {
                        return;
                    };
                    if send.send(message).is_err() {
                        return;
                    }
                }
                if kept.len() > MOST_BYTES {
                    return;
                }
            }
        });
        let browser = Browser {
            child,
            messages,
            session: RefCell::default(),
            last: Cell::default(),
            complaints: RefCell::default(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", target);
        browser
            .session
            .replace(session["sessionId"].as_str().map(str::to_owned));
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Calls a method of the DevTools protocol.
    pub fn call(&self, method: &str, params: Value) -> Value {
        let id = self.last.get() + 1;
        self.last.set(id);
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &*self.session.borrow() {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message).unwrap();
        bytes.push(0);
        let mut input = self.child.stdin.as_ref().unwrap();
        input.write_all(&bytes).unwrap();
        input.flush().unwrap();
        let answer = self.until(|message| message["id"] == id);
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    /// Waits for a message; what it complains about meanwhile is kept.
    fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self
                .messages
                .recv_timeout(PATIENCE)
                .expect("the browser answers");
            let complaint = matches!(
                message["method"].as_str(),
                Some("Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded")
            );
            if complaint {
                self.complaints.borrow_mut().push(message["params"].clone());
            }
            // All that a page requests, except for itself.
            if message["method"] == "Network.requestWillBeSent"
                && message["params"]["type"] != "Document"
            {
                self.complaints.borrow_mut().push(message["params"].clone());
            }
            if wanted(&message) {
                return message;
            }
        }
    }

    /// Opens a file and waits until it is loaded.
    pub fn open(&self, page: &Path) {
        self.visit(&format!("file://{}", page.display()));
    }

    /// Opens an address and waits until what is there is loaded.
    pub fn visit(&self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
        self.until(|message| message["method"] == "Page.loadEventFired");
    }

    /// Makes the window so wide, with light or dark colours, as a screen or paper.
    pub fn look(&self, width: u32, scheme: &str, medium: &str) {
        let size = json!({
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let media = json!({
            "media": medium,
            "features": [{"name": "prefers-color-scheme", "value": scheme}],
        });
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// What an expression is in the page.
    pub fn evaluate(&self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(
            result["exceptionDetails"].is_null(),
            "the page throws: {result:#}"
        );
        result["result"]["value"].clone()
    }

    /// What it complained about, and what it requested from the network.
    pub fn complaints(&self) -> Vec<Value> {
        self.complaints.borrow().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends when its pipe does; what does not is killed with all it started.
        drop(self.child.stdin.take());
        within(Duration::from_secs(5), || {
            !matches!(self.child.try_wait(), Ok(None))
        });
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}
