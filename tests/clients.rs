//! Clients of `wrun serve` that are slow, lie, or mean harm: each costs its connection and
//! nothing else.

use crate::support::command::PATIENCE;
use crate::support::frames::{CONTINUATION, HEADERS, PREFACE, REQUEST, RESET, SETTINGS, frame};
use crate::support::web::{Site, get};
use crate::support::{MODES, eventually};
use std::io::Write;
use std::time::Duration;

const HELLO: &str = "http-hello/http-hello.wasm";
const DIGEST: &str = "http-digest/http-digest.wasm";
const HOSTILE: &str = "http-hostile/http-hostile.wasm";

/// Others are answered.
#[track_caller]
fn still_answers(site: &Site) {
    site.get("/").expect(200, "others");
    eventually("no task is left", PATIENCE, || {
        site.metric("wrun_http_requests_in_flight") == 0.0
    });
}

#[test]
fn a_header_that_never_ends_is_answered_with_408() {
    let site = Site::of("thread", HELLO, &["--header-timeout", "300ms"]);
    let mut slow = site.connect();
    slow.send("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    slow.answer(false)
        .expect("an answer")
        .expect(408, "a slow header");
    assert!(slow.is_closed_within(PATIENCE));
    // One that drips does not have longer.
    let mut drips = site.connect();
    let mut twin = drips.twin();
    let dripping = std::thread::spawn(move || {
        let _ = twin.write_all(b"GET / HTTP/1.1\r\n");
        while twin.write_all(b"X: y\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    drips
        .answer(false)
        .expect("an answer")
        .expect(408, "a header that drips");
    assert!(drips.is_closed_within(PATIENCE));
    drop(drips);
    dripping.join().unwrap();
    // One that says nothing is closed without a word.
    assert!(site.connect().answer(false).is_none());
    // The second request of a connection.
    let mut second = site.connect();
    second.send(get("/"));
    second
        .answer(false)
        .expect("an answer")
        .expect(200, "the first");
    second.send("GET");
    second
        .answer(false)
        .expect("an answer")
        .expect(408, "the second");
    still_answers(&site);
    let labels = r#"{cause="header-timeout"}"#;
    let name = format!("wrun_http_closed_connections_total{labels}");
    assert!(site.metric(&name) >= 3.0, "{}", site.ask_admin("/metrics"));
    site.stop();
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let site = Site::of("thread", HELLO, &["--keep-alive", "200ms"]);
    let mut client = site.connect();
    client.send(get("/"));
    client
        .answer(false)
        .expect("an answer")
        .expect(200, "hello");
    assert!(client.answer(false).is_none());
    site.stop();
}

#[test]
fn a_header_that_is_too_large_is_answered_with_431() {
    for mode in MODES {
        let site = Site::of(
            mode,
            HELLO,
            &["--max-header", "8KiB", "--max-headers", "20"],
        );
        for (what, header) in [
            ("one line", format!("X-Bomb: {}\r\n", "x".repeat(200_000))),
            (
                "a line of 10 KiB",
                format!("X-Bomb: {}\r\n", "x".repeat(10_000)),
            ),
            ("without an end", "X-Bomb: y\r\n".repeat(40_000)),
            ("21 fields", "X-Bomb: y\r\n".repeat(21)),
        ] {
            let mut client = site.connect();
            client.send(format!("GET / HTTP/1.1\r\nHost: x\r\n{header}\r\n"));
            client.answer(false).expect(what).expect(431, what);
            assert!(client.is_closed_within(PATIENCE), "{what}");
        }
        still_answers(&site);
        site.stop();
    }
}

#[test]
fn a_body_that_is_too_large_is_answered_with_413() {
    for mode in MODES {
        let site = Site::of(mode, DIGEST, &["--max-body", "10KiB"]);
        // Announced: before any of it is read.
        let mut client = site.connect();
        client.send("PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10241\r\n\r\n");
        client.answer(false).expect(mode).expect(413, mode);
        // The client goes on sending, and still learns why.
        let mut client = site.connect();
        client.send("PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n");
        client.send(vec![b'x'; 4_000_000]);
        client.answer(false).expect(mode).expect(413, mode);
        assert!(client.is_closed_within(PATIENCE), "{mode}");
        // Not announced.
        let mut client = site.connect();
        client.send("PUT /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..11 {
            client.send(format!("400\r\n{}\r\n", "x".repeat(1024)));
        }
        client.answer(false).expect(mode).expect(413, mode);
        site.ask("PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
            .expect(200, mode);
        site.stop();
    }
}

#[test]
fn a_body_that_does_not_come_is_answered_with_408() {
    for mode in MODES {
        let site = Site::of(mode, DIGEST, &["--body-timeout", "300ms"]);
        let mut client = site.connect();
        client.send("PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf");
        client.answer(false).expect(mode).expect(408, mode);
        assert!(client.is_closed_within(PATIENCE), "{mode}");
        eventually("its task is gone", PATIENCE, || {
            site.metric("wrun_http_requests_in_flight") == 0.0
        });
        site.stop();
    }
}

#[test]
fn messages_that_mean_two_things_are_not_taken_for_two_requests() {
    let site = Site::of("thread", HELLO, &[]);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for (what, head, expected) in [
        (
            "two lengths",
            "Content-Length: 0\r\nContent-Length: 36",
            400,
        ),
        ("an invalid length", "Content-Length: +0", 400),
        ("a length in a list", "Content-Length: 0, 0", 400),
        ("a length that is negative", "Content-Length: -1", 400),
        (
            "another last coding",
            "Transfer-Encoding: chunked, gzip",
            400,
        ),
        ("an unknown coding", "Transfer-Encoding: xchunked", 400),
        ("a space before the colon", "Content-Length : 0", 400),
        ("a line that goes on", "X: y\r\n Content-Length: 0", 400),
        ("a name with a space", "Content Length: 0", 400),
        ("a NUL", "X: \0", 400),
        ("two hosts", "Host: y", 400),
    ] {
        let mut client = site.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n{smuggled}"
        ));
        client.answer(false).expect(what).expect(expected, what);
        assert!(client.answer(false).is_none(), "{what}: a second answer");
    }
    // Both framings: chunks count, and nothing after them is a request.
    for head in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
    ] {
        let mut client = site.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n0\r\n\r\n{smuggled}"
        ));
        client.answer(false).expect(head);
        assert!(client.answer(false).is_none(), "{head}: a second answer");
    }
    for (what, request, expected) in [
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (
            "no path",
            "GET x HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            400,
        ),
        (
            "CONNECT",
            "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n".to_owned(),
            501,
        ),
        ("nothing", "\r\n\r\n\0\0\0".to_owned(), 400),
        (
            "TLS",
            "\x16\x03\x01\x02\0\x01\0\x01\u{7f}\x03\x03\r\n".to_owned(),
            400,
        ),
        (
            "HTTP/3.0",
            "GET / HTTP/3.0\r\nHost: x\r\n\r\n".to_owned(),
            400,
        ),
        (
            "chunks in 1.0",
            {
                "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                    .to_owned()
            },
            400,
        ),
    ] {
        let mut client = site.connect();
        client.send(&request);
        client.answer(false).expect(what).expect(expected, what);
        assert!(client.is_closed_within(PATIENCE), "{what}");
    }
    still_answers(&site);
    site.stop();
}

#[test]
fn a_length_that_lies_is_not_filled_up_with_another_request() {
    for mode in MODES {
        let site = Site::of(mode, DIGEST, &["--body-timeout", "500ms"]);
        // Too long: the client ends before.
        let mut client = site.connect();
        client.send("PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nshort");
        client.finish();
        if let Some(answer) = client.answer(false) {
            assert!(answer.status >= 400, "{mode}: {answer}");
        }
        // Too short: the rest is not a request.
        let mut client = site.connect();
        client.send("PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nxx<rest>\r\n\r\n");
        client.answer(false).expect(mode).expect(200, mode);
        if let Some(answer) = client.answer(false) {
            answer.expect(400, mode);
        }
        assert!(client.is_closed_within(PATIENCE), "{mode}");
        // Invalid chunks.
        let mut client = site.connect();
        client.send(
            "PUT /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n0\r\n\r\n",
        );
        if let Some(answer) = client.answer(false) {
            assert!(answer.status >= 400, "{mode}: {answer}");
        }
        assert!(client.is_closed_within(PATIENCE), "{mode}");
        eventually("no task is left", PATIENCE, || {
            site.metric("wrun_http_requests_in_flight") == 0.0
        });
        site.stop();
    }
}

#[test]
fn requests_that_come_at_once_are_answered_in_turn() {
    for mode in MODES {
        let site = Site::of(mode, HELLO, &[]);
        let mut client = site.connect();
        let requests =
            (0..20).map(|id| format!("GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: {id}\r\n\r\n"));
        client.send(requests.collect::<String>());
        for id in 0..20 {
            let answer = client.answer(false).expect(mode);
            assert_eq!(
                answer.header("x-request-id"),
                Some(&*id.to_string()),
                "{mode}"
            );
        }
        site.stop();
    }
}

#[test]
fn a_client_that_goes_away_takes_its_task_along() {
    for mode in MODES {
        let site = Site::of(mode, HOSTILE, &["--timeout", "none"]);
        // Before there is an answer, in the middle of one, and of one without an end.
        for path in ["/spin", "/sleep", "/stall", "/spam"] {
            let mut client = site.connect();
            client.send(get(path));
            if path == "/stall" || path == "/spam" {
                client.head().expect(path).expect(200, path);
            }
            eventually("the task runs", PATIENCE, || {
                site.metric("wrun_http_requests_in_flight") == 1.0
            });
            drop(client);
            eventually("the task is gone", PATIENCE, || {
                site.metric("wrun_http_requests_in_flight") == 0.0
            });
        }
        still_answers(&site);
        site.stop();
    }
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    for mode in MODES {
        let site = Site::of(
            mode,
            HOSTILE,
            &["--timeout", "none", "--send-timeout", "500ms"],
        );
        let mut client = site.connect();
        client.send(get("/spam"));
        client.head().expect(mode).expect(200, mode);
        eventually("the task is gone", PATIENCE, || {
            site.metric("wrun_http_requests_in_flight") == 0.0
        });
        still_answers(&site);
        site.stop();
    }
}

#[test]
fn connections_beyond_the_limit_wait() {
    let options = [
        "--max-connections",
        "2",
        "--keep-alive",
        "1h",
        "--header-timeout",
        "1h",
    ];
    let site = Site::of("thread", HELLO, &options);
    let mut first = site.connect();
    first.send(get("/"));
    first
        .answer(false)
        .expect("an answer")
        .expect(200, "the first");
    let second = site.connect();
    eventually("both are there", PATIENCE, || {
        site.metric("wrun_http_connections") == 2.0
    });
    let mut third = site.connect();
    third.send(get("/"));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(site.metric("wrun_http_accepted_connections_total"), 2.0);
    drop(second);
    third
        .answer(false)
        .expect("an answer")
        .expect(200, "the third");
    site.stop();
}

#[test]
fn streams_that_are_opened_and_reset_end_the_connection() {
    for mode in MODES {
        let site = Site::of(mode, HOSTILE, &[]);
        let mut client = site.connect();
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        for stream in (1..4000).step_by(2) {
            bytes.extend(frame(HEADERS, 0x5, stream, REQUEST));
            bytes.extend(frame(RESET, 0, stream, &8u32.to_be_bytes()));
        }
        client.send(&bytes);
        assert!(
            client.is_closed_within(PATIENCE),
            "{mode}: it resets without end"
        );
        eventually("no task is left", PATIENCE, || {
            site.metric("wrun_http_requests_in_flight") == 0.0
        });
        still_answers(&site);
        site.stop();
    }
}

#[test]
fn a_header_in_parts_without_end_ends_the_connection() {
    let site = Site::of("thread", HELLO, &[]);
    let mut client = site.connect();
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, 0x1, 1, REQUEST));
    // A literal field that is not kept: `x: yyy...`.
    let mut field = vec![0x00, 0x01, b'x', 0x7f, 0x81, 0x3e];
    field.extend([b'y'; 8064]);
    for _ in 0..200 {
        bytes.extend(frame(CONTINUATION, 0, 1, &field));
    }
    client.send(&bytes);
    assert!(client.is_closed_within(PATIENCE), "it goes on without end");
    still_answers(&site);
    site.stop();
}
