//! Clients of `wrun serve` that others have written: what is not installed is skipped, and says
//! so.

use crate::support::browser::{self, Browser};
use crate::support::command::{PATIENCE, scratch, write};
use crate::support::web::{Site, path};
use crate::support::{MODES, eventually, tool};
use serde_json::json;
use std::process::{Command, Stdio};

const HELLO: &str = "http-hello/http-hello.wasm";
const DIGEST: &str = "http-digest/http-digest.wasm";
const EVENTS: &str = "http-events/http-events.wasm";

/// What a program prints. It ends well, and in time.
#[track_caller]
fn printed(program: &str, args: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command
        .arg(PATIENCE.as_secs().to_string())
        .arg(program)
        .args(args);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}{said}");
    text
}

#[test]
fn curl_uploads_a_file() {
    if !tool::available("curl") {
        return;
    }
    let folder = scratch();
    let body: Vec<u8> = (0..3_000_000).map(|at| (at % 251) as u8).collect();
    let file = write(folder.path(), "body", &body);
    let back = folder.path().join("back");
    for mode in MODES {
        let site = Site::of(mode, DIGEST, &[]);
        // `Expect: 100-continue`, which curl sends by itself for this length in HTTP/1.1.
        for version in ["--http1.1", "--http1.0", "--http2-prior-knowledge"] {
            for chunked in [false, true] {
                if chunked && version != "--http1.1" {
                    continue;
                }
                let url = format!("http://{}/echo", site.address);
                let mut args = vec!["-sS", version, "-T", path(&file), "-o", path(&back), &url];
                if chunked {
                    args.extend(["-H", "Transfer-Encoding: chunked"]);
                }
                printed("curl", &args);
                let same = std::fs::read(&back).unwrap() == body;
                assert!(same, "{mode} {version}, chunked: {chunked}");
            }
        }
        site.stop();
    }
}

#[test]
fn pythons_requests_speak_to_it() {
    let tried = Command::new("python3")
        .args(["-c", "import requests"])
        .output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        return tool::missing("requests", "there is no python3 with requests");
    }
    const CODE: &str = "\
import requests, sys
url = sys.argv[1]
with requests.Session() as session:
    for at in range(20):
        body = str(at) * 1000 * at
        assert session.put(url + '/echo', data=body).text == body
    pieces = (b'piece %d,' % at for at in range(1000))
    answer = session.post(url + '/x', data=pieces)
    print(answer.status_code, answer.text.split()[1])
    with session.post(url + '/echo', data=b'y' * 5_000_000, stream=True) as answer:
        print(sum(len(some) for some in answer.iter_content(10_000)))
    print(session.get(url).status_code)
";
    for mode in MODES {
        let site = Site::of(mode, DIGEST, &[]);
        let url = format!("http://{}", site.address);
        let text = printed("python3", &["-c", CODE, &url]);
        let pieces: usize = (0..1000).map(|at| format!("piece {at},").len()).sum();
        assert_eq!(text, format!("200 {pieces}\n5000000\n405\n"), "{mode}");
        site.stop();
    }
}

#[test]
fn load_generators_count_no_failure() {
    let site = |mode| Site::of(mode, HELLO, &["--max-queued", "2000"]);
    if tool::available("h2load") {
        for mode in MODES {
            let site = site(mode);
            let url = format!("http://{}/", site.address);
            for more in [&["-m", "20"][..], &["--h1"]] {
                let args = [&["-n", "1000", "-c", "8"], more, &[&*url]].concat();
                let text = printed("h2load", &args);
                let all = "1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed";
                assert!(text.contains(all), "{mode} {more:?}: {text}");
            }
            site.stop();
        }
    }
    if tool::available("ab") {
        for mode in MODES {
            let site = site(mode);
            let url = format!("http://{}/", site.address);
            for more in [&["-k"][..], &[]] {
                let args = [&["-q", "-n", "500", "-c", "8"], more, &[&*url]].concat();
                let text = printed("ab", &args);
                let found = |line: &str| text.lines().any(|it| it.starts_with(line));
                assert!(found("Complete requests:      500"), "{mode}: {text}");
                assert!(found("Failed requests:        0"), "{mode}: {text}");
                assert!(!found("Non-2xx responses"), "{mode}: {text}");
            }
            site.stop();
        }
    }
}

#[test]
fn a_browser_shows_events_as_they_come() {
    let Some(program) = browser::find() else {
        let why = "there is no Chromium: WRUN_CHROMIUM names one; Debian's package is chromium";
        return tool::missing("chromium", why);
    };
    let browser = Browser::start(&program);
    for mode in MODES {
        let site = Site::of(mode, EVENTS, &[]);
        browser.visit(&format!("http://{}/?n=5&every=50", site.address));
        eventually("all events are there", PATIENCE, || {
            browser.evaluate("document.title") == json!("all 5 events")
        });
        let list = "[...document.querySelectorAll('li')].map(it => it.textContent)";
        let expected: Vec<_> = (1..=5).map(|number| format!("event {number}")).collect();
        assert_eq!(browser.evaluate(list), json!(expected), "{mode}");
        site.stop();
    }
}
