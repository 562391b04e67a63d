//! Clients of `wrun serve` that mean harm, as tables: what they send, and what becomes of it, in
//! HTTP/1.1; `serve_frames` has HTTP/2.
//! Whatever it is, the app never sees a request that was smuggled in, and others are answered.

use crate::support::command::PATIENCE;
use crate::support::frames::{HEADERS, PREFACE, REQUEST, SETTINGS, frame};
use crate::support::web::{Client, Site, path};
use crate::support::{MODES, eventually, repo};
use serde_json::Value;

const HELLO: &str = "http-hello/http-hello.wasm";
const DIGEST: &str = "http-digest/http-digest.wasm";
const HOSTILE: &str = "http-hostile/http-hostile.wasm";
/// A request that is hidden in another.
pub(crate) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

/// The apps by their hosts, with a log of all that is taken for a request.
pub(crate) fn site(mode: &str, options: &[&str]) -> Site {
    let routes = [("hello", HELLO), ("digest", DIGEST), ("hostile", HOSTILE)];
    let routes = routes.map(|(host, guest)| {
        let file = repo("guest-tasks").join(guest);
        format!("{host}/={}", file.display())
    });
    // A connection that may be used again does not keep a test waiting.
    let mut all = vec!["--access-log", "json", "--keep-alive", "500ms"];
    for route in &routes {
        all.extend(["--route", route]);
    }
    all.extend(options);
    Site::start(mode, &all)
}

#[track_caller]
pub(crate) fn hello(site: &Site, what: &str) {
    let answer = site.ask("GET / HTTP/1.1\r\nHost: hello\r\n\r\n");
    answer.expect(200, what);
    assert_eq!(answer.text(), "hello\n", "{what}");
}

/// Nothing of all that is left, and nothing that was hidden in it came to light.
#[track_caller]
pub(crate) fn assert_unharmed(site: Site) {
    hello(&site, "the last request");
    eventually("no task is left", PATIENCE, || {
        site.metric("wrun_http_requests_in_flight") == 0.0
    });
    let ran = site.stop();
    let log = ran.text();
    assert!(
        log.contains(r#""target":"/""#),
        "the last request is logged"
    );
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let target = line["target"].as_str().expect("a target");
        assert!(!target.contains("smuggled"), "the app has seen {line}");
    }
}

fn post(fields: &str, rest: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: digest\r\n{fields}\r\n\r\n{rest}")
}

/// The statuses of all answers until the server closes the connection.
fn statuses(client: &mut Client) -> Vec<u16> {
    let answers = std::iter::from_fn(|| client.answer(false));
    answers.map(|answer| answer.status).collect()
}

#[test]
fn framings_that_lie_are_refused() {
    const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";
    let cases = [
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            400,
        ),
        (
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            501,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            501,
        ),
        ("Transfer-Encoding: chunked, chunked", 501),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: chunked;q=1", 400),
        ("Transfer-Encoding: \"chunked\"", 400),
        ("Transfer-Encoding: chunked\x0b", 400),
        ("Transfer-Encoding: \x0bchunked", 400),
        ("Transfer-Encoding: chun\tked", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding:", 400),
        ("Transfer-Encoding\t: chunked", 400),
        ("Transfer-Encoding\0: chunked", 400),
        ("Transfer-Encoding\r\n : chunked", 400),
        (" Transfer-Encoding: chunked", 400),
        ("X: y\rTransfer-Encoding: chunked", 400),
        ("Content-Length: 5\r\ncontent-length: 6", 400),
        ("Content-Length: 5, 5", 400),
        ("Content-Length: 5 5", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: 5;", 400),
        ("Content-Length: 5\x0b", 400),
        ("Content-Length: \u{ff15}", 400),
        ("Content-Length: 1e1", 400),
        ("Content-Length: -0", 400),
        ("Content-Length:", 400),
        ("Content-Length: 18446744073709551616", 400),
        // More than can be counted with what hyper reserves.
        ("Content-Length: 18446744073709551615", 431),
        ("Content-Length", 400),
        (": 5", 400),
    ];
    for mode in MODES {
        let site = site(mode, &[]);
        for (head, status) in cases {
            for rest in [CHUNKS, "hello"] {
                let mut client = site.connect();
                client.send(post(head, &format!("{rest}{SMUGGLED}")));
                assert_eq!(statuses(&mut client), [status], "{mode} {head:?} {rest:?}");
            }
        }
        assert_unharmed(site);
    }
}

#[test]
fn what_is_not_a_request_line_is_refused() {
    let site = site("thread", &[]);
    let host = "\r\nHost: digest\r\n\r\n";
    for (line, status) in [
        ("GET  /x HTTP/1.1", 400),
        ("GET\t/x HTTP/1.1", 400),
        ("GET /x  HTTP/1.1", 400),
        ("GET /x HTTP/1.1 ", 400),
        ("GET /x HTTP/1.1 HTTP/1.1", 400),
        ("GET /x HTTP/1.2", 400),
        ("GET /x HTTP/0.9", 400),
        ("GET /x HTTP/2.0", 400),
        ("GET /x http/1.1", 400),
        ("GET /x", 400),
        (" GET /x HTTP/1.1", 400),
        ("GET", 400),
        ("G\0T /x HTTP/1.1", 400),
        ("G(T /x HTTP/1.1", 400),
        ("GET /\0 HTTP/1.1", 400),
        ("GET /x\rHost: y HTTP/1.1", 400),
        ("GET http:///x HTTP/1.1", 400),
        ("GET http://me@digest/x HTTP/1.1", 400),
        ("GET digest/x HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("PRI * HTTP/2.0", 400),
        // What the target says counts, and not the host.
        ("GET http://hello/ HTTP/1.1", 200),
        ("GET http://nowhere/ HTTP/1.1", 404),
        // These are for the app.
        ("get /x HTTP/1.1", 405),
        ("OPTIONS * HTTP/1.1", 405),
    ] {
        let mut client = site.connect();
        client.send(format!("{line}{host}"));
        assert_eq!(statuses(&mut client), [status], "{line:?}");
    }
    for host in [
        "",
        "Host:",
        "Host: a b",
        "Host: a,b",
        "Host: x/y",
        "Host: x:y:z",
        "Host: x\u{e4}",
    ] {
        let mut client = site.connect();
        client.send(format!("GET /x HTTP/1.1\r\n{host}\r\n\r\n{SMUGGLED}"));
        let found = statuses(&mut client);
        // These are hosts that no route is for.
        let is_host = ["Host:", "Host: a,b"].contains(&host);
        let expected = if is_host { 404 } else { 400 };
        assert_eq!(found.first(), Some(&expected), "{host:?}: {found:?}");
    }
    site.stop();
}

#[test]
fn a_body_is_what_its_framing_says() {
    for mode in MODES {
        let site = site(mode, &[]);
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1_000));
        let chunked = "Transfer-Encoding: chunked";
        for (head, body, len) in [
            (chunked, "5\r\nhello\r\n0\r\n\r\n", 5),
            ("Transfer-Encoding: CHUNKED", "5\r\nhello\r\n0\r\n\r\n", 5),
            (
                "transfer-encoding:\tchunked \t",
                "5\r\nhello\r\n0\r\n\r\n",
                5,
            ),
            // A recipient may take a line feed for the end of a line (RFC 9112, section 2.2).
            (
                "X: y\nTransfer-Encoding: chunked",
                "5\r\nhello\r\n0\r\n\r\n",
                5,
            ),
            (chunked, "0\r\n\r\n", 0),
            (chunked, "A\r\n0123456789\r\n0\r\n\r\n", 10),
            (chunked, "a\r\n0123456789\r\n00\r\n\r\n", 10),
            (chunked, "005\r\nhello\r\n0\r\n\r\n", 5),
            (chunked, "5;name=value\r\nhello\r\n0;last\r\n\r\n", 5),
            (chunked, "5;name=\"a;b\"\r\nhello\r\n0\r\n\r\n", 5),
            (chunked, &long, 5),
            (
                chunked,
                "5\r\nhello\r\n0\r\nX-Trailer: y\r\nContent-Length: 9\r\n\r\n",
                5,
            ),
            ("Content-Length: 5", "hello", 5),
            ("Content-Length: 005", "hello", 5),
            // The same length twice is one (RFC 9110, section 8.6).
            ("Content-Length: 5\r\nContent-Length: 5", "hello", 5),
            ("Content-Length: 0", "", 0),
            ("X: y", "", 0),
        ] {
            let mut client = site.connect();
            let next = "PUT /next HTTP/1.1\r\nHost: digest\r\nContent-Length: 3\r\n\r\nabc";
            client.send(post(head, &format!("{body}{next}")));
            for expected in [len, 3] {
                let answer = client
                    .answer(false)
                    .unwrap_or_else(|| panic!("{mode} {head:?}"));
                answer.expect(200, head);
                let text = answer.text();
                assert!(
                    text.ends_with(&format!(" {expected}\n")),
                    "{mode} {head:?} {body:?}: {text}"
                );
            }
        }
        assert_unharmed(site);
    }
}

#[test]
fn chunks_that_lie_end_the_connection() {
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(100_000));
    let extensions = "1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\ny\r\n".repeat(2_000);
    let trailer = format!("0\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(5_000));
    for mode in MODES {
        let site = site(mode, &["--body-timeout", "500ms"]);
        for body in [
            "0x5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "-5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "\r\n5\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\rhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhelloXX0\r\n\r\n",
            "3\r\nhello\r\n0\r\n\r\n",
            "6\r\nhello\r\n0\r\n\r\n",
            "5;\nhello\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "5;a\rb\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\n\r\n",
            "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
            "5\r\nhello\r\n0\r\nX\0: y\r\n\r\n",
            "5\r\nhello\r\n0\r\nX: y\rZ: z\r\n\r\n",
            "10000000000000000\r\nhello\r\n0\r\n\r\n",
            "FFFFFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
            // It is not there.
            "FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
            "7FFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
            &extension,
            &extensions,
            &trailer,
            &trailers,
        ] {
            let shown: String = body.chars().take(60).collect();
            let mut client = site.connect();
            client.send(post(
                "Transfer-Encoding: chunked",
                &format!("{body}{SMUGGLED}"),
            ));
            let found = statuses(&mut client);
            let is_refused = found.iter().all(|status| (400..500).contains(status));
            assert!(
                is_refused && found.len() <= 1,
                "{mode} {shown:?}: {found:?}"
            );
            assert!(client.is_closed_within(PATIENCE), "{mode} {shown:?}");
        }
        assert_unharmed(site);
    }
}

/// A body that no app reads is not the next request.
#[test]
fn a_body_that_is_not_read_is_not_a_request() {
    let len = SMUGGLED.len();
    for mode in MODES {
        let site = site(mode, &["--max-body", "2KiB"]);
        let waits = format!("Content-Length: {len}\r\nExpect: 100-continue");
        let sized = format!("Content-Length: {len}");
        let close = format!("Content-Length: {len}\r\nConnection: close");
        let upgrade = format!(
            "Content-Length: {len}\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAAQAAP__"
        );
        let named = format!("Content-Length: {len}\r\nConnection: content-length, host");
        let mut clients = Vec::new();
        for head in [&sized, &waits, &close, &upgrade, &named] {
            for (host, path, status) in [
                ("hello", "/", 200),
                ("hostile", "/", 200),
                ("hostile", "/trap", 500),
                ("hostile", "/status?code=204", 204),
                ("hostile", "/status?code=304", 304),
                ("nowhere", "/", 404),
            ] {
                for method in ["POST", "GET", "DELETE"] {
                    let line = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{head}");
                    let mut client = site.connect();
                    client.send(format!("{line}\r\n\r\n{SMUGGLED}"));
                    clients.push((line, status, client));
                }
            }
        }
        for (line, status, mut client) in clients {
            assert_eq!(statuses(&mut client), [status], "{mode} {line:?}");
        }
        // In chunks, and one that is too large.
        for (head, body) in [
            (
                "Transfer-Encoding: chunked",
                format!("{len:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"),
            ),
            ("Content-Length: 3500", SMUGGLED.repeat(3500 / len)),
        ] {
            let mut client = site.connect();
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: hello\r\n{head}\r\n\r\n{body}"
            ));
            let found = statuses(&mut client);
            assert_eq!(found.len(), 1, "{mode} {head:?}: {found:?}");
        }
        // What follows the last request of a connection.
        for first in [
            "GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: hello\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "HEAD / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n",
        ] {
            let mut client = site.connect();
            client.send(format!("{first}{SMUGGLED}"));
            let is_head = first.starts_with("HEAD");
            assert!(client.answer(is_head).is_some(), "{mode} {first:?}");
            assert!(
                client.answer(false).is_none(),
                "{mode} {first:?}: a second answer"
            );
        }
        assert_unharmed(site);
    }
}

// --- many that are slow ---------------------------------------------------

#[test]
fn many_slow_clients_do_not_keep_others_waiting() {
    const MANY: usize = 200;
    for mode in MODES {
        let site = site(
            mode,
            &[
                "--max-running",
                "4",
                "--max-queued",
                "4",
                "--header-timeout",
                "2s",
            ],
        );
        let starts: [&[u8]; 4] = [
            b"GET /smuggled HTTP/1.1\r\nHost: hello\r\nX: ",
            b"GET /smugg",
            &PREFACE[..20],
            PREFACE,
        ];
        let mut slow = Vec::new();
        for at in 0..MANY {
            let mut client = site.connect();
            client.send(starts[at % starts.len()]);
            // A header of HTTP/2 without its end.
            if at % starts.len() == 3 {
                client.send(frame(SETTINGS, 0, 0, &[]));
                client.send(frame(HEADERS, 0, 1, REQUEST));
            }
            slow.push(client);
        }
        eventually("all are there", PATIENCE, || {
            site.metric("wrun_http_accepted_connections_total") >= MANY as f64
        });
        for _ in 0..20 {
            hello(&site, mode);
        }
        for client in &mut slow {
            assert!(client.is_closed_within(PATIENCE), "{mode}");
        }
        assert_unharmed(site);
    }
}

#[test]
fn a_handshake_that_never_ends_is_given_up() {
    let certificate = repo("tests/data/tls/cert.pem");
    let key = repo("tests/data/tls/key.pem");
    let options = [
        "--tls-cert",
        path(&certificate),
        "--tls-key",
        path(&key),
        "--header-timeout",
        "300ms",
    ];
    let site = Site::of("thread", HELLO, &options);
    // Nothing; the beginning of a record; a record that is not a handshake; a hello whose rest
    // does not come.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for start in [&[][..], &hello[..3], &[0x17, 3, 3, 0, 1, 0], &hello] {
        let mut client = site.connect();
        client.send(start);
        assert!(client.is_closed_within(PATIENCE), "{start:?}");
    }
    for cause in ["handshake-timeout", "tls"] {
        let name = format!("wrun_http_closed_connections_total{{cause=\"{cause}\"}}");
        assert!(site.metric(&name) >= 1.0, "{}", site.ask_admin("/metrics"));
    }
    site.stop();
}

/// Apps that mean harm: their fields are fields, and their bodies as long as they said.
#[test]
fn an_app_does_not_break_out_of_its_answer() {
    for mode in MODES {
        let site = site(mode, &[]);
        let ask = |path| site.ask(&format!("GET {path} HTTP/1.1\r\nHost: hostile\r\n\r\n"));
        let answer = ask("/bad-headers");
        answer.expect(200, mode);
        for line in [
            "x-line invalid",
            "x-nul invalid",
            ":status invalid",
            "te taken",
        ] {
            assert!(answer.text().contains(line), "{mode}: {answer}");
        }
        // It was taken, and is not for an answer.
        for name in ["set-cookie", "te", "connection", "upgrade", "host"] {
            assert!(answer.header(name).is_none(), "{mode} {name}: {answer}");
        }
        let mut client = site.connect();
        client.send("GET /too-long HTTP/1.1\r\nHost: hostile\r\n\r\n");
        let answer = client.answer(false).expect(mode);
        assert_eq!(answer.body, [b'x'; 500], "{mode}: {answer}");
        assert!(client.answer(false).is_none(), "{mode}: what follows it");
        ask("/many-headers?n=1000&bytes=1000").expect(500, mode);
        assert_unharmed(site);
    }
}

/// A body that is announced as small takes no place to run until it is there.
#[test]
fn a_small_body_that_comes_slowly_takes_no_place() {
    for mode in MODES {
        let options = ["--max-running", "1", "--max-queued", "0"];
        let site = Site::of(mode, "http-digest/http-digest.wasm", &options);
        let head = "PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n";
        let mut slow: Vec<_> = (0..20).map(|_| site.connect()).collect();
        for client in &mut slow {
            client.send(format!("{head}123"));
        }
        // All are read before others ask, as each has a place in the server's books.
        eventually("they are requests", PATIENCE, || {
            site.metric("wrun_http_requests_in_flight") == 20.0
        });
        let other = site.ask(&format!("{head}abcdef"));
        assert_eq!((other.status, &*other.text()), (200, "abcdef"), "{mode}");
        // One that leaves is in the books, too.
        drop(slow.pop());
        eventually("it is over", PATIENCE, || {
            site.requests_over("code=\"499\"") == 1
        });
        for client in &mut slow {
            client.send("456");
            let answer = client.answer(false).unwrap();
            let text = answer.text();
            // Without a queue, some may find the place taken.
            let expected = match answer.status {
                200 => "123456",
                503 => "503 Service Unavailable\n",
                other => panic!("{mode}: {other}"),
            };
            assert_eq!(text, expected, "{mode}");
        }
        site.stop();
    }
}
