//! Clients of `wrun serve` that mean harm, in HTTP/2: as tables of what they send, frame by
//! frame, and floods. `serve_hostile` has HTTP/1.1.

use crate::serve_hostile::{SMUGGLED, assert_unharmed, hello, site};
use crate::support::command::PATIENCE;
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, GOAWAY, HEADERS, PADDED, PING, PRIORITY,
    PUSH_PROMISE, REQUEST, RESET, SETTINGS, WINDOW_UPDATE, Wire, fields, frame,
};
use crate::support::processes::peak_memory;
use crate::support::web::{Site, get};
use crate::support::{MODES, eventually};
use std::io::Write;
use std::time::Duration;

type Fields<'a> = &'a [(&'a str, &'a str)];

const METHOD: (&str, &str) = (":method", "POST");
const SCHEME: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/x");
const TO: (&str, &str) = (":authority", "digest");

/// The fields of a request to the app that misbehaves.
fn to_hostile(path: &str) -> Vec<u8> {
    fields(&[METHOD, SCHEME, (":path", path), (":authority", "hostile")])
}

/// What becomes of a request with these fields and this body.
fn sent(site: &Site, list: Fields<'_>, body: &[u8]) -> Fate {
    let mut wire = Wire::connect(site, &[]);
    wire.send(&frame(HEADERS, END_HEADERS, 1, &fields(list)));
    wire.send(&frame(DATA, END_STREAM, 1, body));
    wire.fate(1)
}

#[test]
fn requests_that_are_malformed_are_refused() {
    let line = "HTTP/1.1\r\nHost: hello\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: hello\r\n\r\n";
    let split = format!("/ {line}");
    let method = format!("GET / {line}");
    let value = format!("y\r\n\r\n{SMUGGLED}");
    let name = format!("x: y\r\n\r\n{SMUGGLED}");
    let with = |name, value| vec![METHOD, SCHEME, PATH, TO, (name, value)];
    let cases: &[Vec<(&str, &str)>] = &[
        with("Upper", "x"),
        with("connection", "close"),
        with("connection", "keep-alive"),
        with("keep-alive", "timeout=5"),
        with("proxy-connection", "x"),
        with("transfer-encoding", "chunked"),
        with("upgrade", "h2c"),
        with("te", "gzip"),
        with("", "x"),
        with("x y", "z"),
        with("x:", "z"),
        with("x\0", "z"),
        with("x", "y\0z"),
        with("x", "y\rz"),
        with("x", "y\nz"),
        with("x", &value),
        with(&name, "y"),
        with("content-length", &value),
        with("content-length", "5, 5"),
        with("content-length", "+5"),
        with("content-length", ""),
        with("content-length", "18446744073709551616"),
        with("content-length", "4"),
        with("content-length", "6"),
        with("content-length", "0"),
        [&with("content-length", "5")[..], &[("content-length", "5")]].concat(),
        // For whom it is, is said twice.
        with("host", "hello"),
        with("host", "digest:81"),
        [&with("host", "digest")[..], &[("host", "digest")]].concat(),
        // Pseudo-fields.
        with(":status", "200"),
        with(":x", "y"),
        with(":path", "/y"),
        with(":authority", "hello"),
        vec![METHOD, SCHEME, ("x", "y"), PATH, TO],
        vec![METHOD, SCHEME, TO],
        vec![METHOD, PATH, TO],
        vec![SCHEME, PATH, TO],
        vec![METHOD, SCHEME, (":path", ""), TO],
        vec![METHOD, SCHEME, (":path", "x"), TO],
        vec![METHOD, SCHEME, (":path", "*"), TO],
        vec![METHOD, SCHEME, (":path", &split), TO],
        vec![(":method", &method), SCHEME, PATH, TO],
        vec![(":method", "G T"), SCHEME, PATH, TO],
        vec![(":method", ""), SCHEME, PATH, TO],
        vec![METHOD, SCHEME, PATH, (":authority", "me@digest")],
        vec![METHOD, SCHEME, PATH, (":authority", "digest/y")],
        vec![METHOD, SCHEME, PATH, (":authority", "digest\r\nx: y")],
        vec![METHOD, SCHEME, PATH, (":authority", "digest hello")],
        vec![(":method", "CONNECT"), (":authority", "digest:80")],
    ];
    for mode in MODES {
        let site = site(mode, &[]);
        for list in cases {
            let fate = sent(&site, list, b"hello");
            let is_refused = fate.status.is_none_or(|status| status >= 400);
            assert!(
                is_refused && fate != Fate::default(),
                "{mode} {list:?}: {fate:?}"
            );
        }
        for list in [
            with("x", "y"),
            with("te", "trailers"),
            with("content-length", "5"),
            // The same as the target says is not a second one.
            with("host", "digest"),
            with("host", "Digest:80"),
            vec![METHOD, SCHEME, PATH, ("host", "digest")],
        ] {
            let fate = sent(&site, &list, b"hello");
            assert_eq!(fate.status, Some(200), "{mode} {list:?}: {fate:?}");
            assert!(
                fate.complete && fate.body.ends_with(b" 5\n"),
                "{mode} {list:?}: {fate:?}"
            );
        }
        assert_unharmed(site);
    }
}

/// A body that ends before or after its length is not taken for a whole one.
#[test]
fn bodies_that_lie_are_not_whole() {
    let plain = [METHOD, SCHEME, PATH, TO];
    let length = |length| [METHOD, SCHEME, PATH, TO, ("content-length", length)];
    let part = frame(DATA, 0, 1, b"abc");
    let trailers = |flags, list: &[_]| frame(HEADERS, END_HEADERS | flags, 1, &fields(list));
    let cases: &[(&str, Fields<'_>, Vec<u8>)] = &[
        (
            "too short",
            &length("9"),
            frame(DATA, END_STREAM, 1, b"short"),
        ),
        (
            "too short, with trailers",
            &length("9"),
            [&part[..], &trailers(END_STREAM, &[("x", "y")])].concat(),
        ),
        (
            "too long",
            &length("3"),
            frame(DATA, END_STREAM, 1, b"long enough"),
        ),
        (
            "too long, in two",
            &length("3"),
            [&part[..], &frame(DATA, END_STREAM, 1, b"d")].concat(),
        ),
        ("nothing more", &plain, part.clone()),
        (
            "only empty frames",
            &plain,
            frame(DATA, 0, 1, b"").repeat(1_000),
        ),
        (
            "trailers that are not the end",
            &plain,
            trailers(0, &[("x", "y")]),
        ),
        (
            "more padding than there is",
            &plain,
            frame(DATA, PADDED | END_STREAM, 1, &[9, 1]),
        ),
    ];
    for mode in MODES {
        let site = site(mode, &["--body-timeout", "500ms"]);
        for (what, list, frames) in cases {
            let mut wire = Wire::connect(&site, &[]);
            wire.send(&frame(HEADERS, END_HEADERS, 1, &fields(list)));
            wire.send(frames);
            let fate = wire.fate(1);
            let is_refused = fate.status.is_none_or(|status| status >= 400);
            assert!(
                is_refused && fate != Fate::default(),
                "{mode} {what}: {fate:?}"
            );
        }
        // Nothing more is said of what the client itself gave up.
        let mut wire = Wire::connect(&site, &[]);
        wire.send(&frame(HEADERS, END_HEADERS, 1, &fields(&plain)));
        wire.send(&part);
        wire.send(&frame(RESET, 0, 1, &[0, 0, 0, 8]));
        eventually("its task is gone", PATIENCE, || {
            site.metric("wrun_http_requests_in_flight") == 0.0
        });
        // What is a target elsewhere, is none in trailers.
        let mut wire = Wire::connect(&site, &[]);
        wire.send(&frame(HEADERS, END_HEADERS, 1, &fields(&plain)));
        wire.send(&trailers(END_STREAM, &[(":path", "/smuggled")]));
        wire.fate(1);
        assert_unharmed(site);
    }
}

#[test]
fn frames_that_break_the_rules_end_the_connection() {
    let open = frame(HEADERS, END_HEADERS, 1, REQUEST);
    let large = vec![0; (16 << 10) + 1];
    let most = 0x7fff_ffff_u32.to_be_bytes();
    let header = |stream, block: &[u8]| frame(HEADERS, END_HEADERS, stream, block);
    let begun = frame(HEADERS, 0, 1, REQUEST);
    let site = site("thread", &[]);
    for (what, bytes) in [
        ("data of no stream", frame(DATA, 0, 0, b"x")),
        ("data of a stream that is not open", frame(DATA, 0, 1, b"x")),
        ("a header of no stream", header(0, REQUEST)),
        ("a stream of the server", header(2, REQUEST)),
        (
            "an older stream",
            [header(5, REQUEST), header(3, REQUEST)].concat(),
        ),
        (
            "another frame in a header",
            [&begun[..], &frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        (
            "the rest of another header",
            [&begun[..], &frame(CONTINUATION, END_HEADERS, 3, b"")].concat(),
        ),
        (
            "the rest of no header",
            frame(CONTINUATION, END_HEADERS, 1, REQUEST),
        ),
        ("bytes that are not fields", header(1, &[0xff; 20])),
        ("an index that is not there", header(1, &[0xfe])),
        (
            "a table larger than agreed",
            header(1, &[0x3f, 0xff, 0xff, 0x7f]),
        ),
        (
            "padding beyond the frame",
            frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 0x82]),
        ),
        (
            "a promise",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
        ("a setting of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[])),
        (
            "a window that is too large",
            frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
        ),
        (
            "an acknowledgement with settings",
            frame(SETTINGS, 1, 0, &[0; 6]),
        ),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("a ping of a stream", frame(PING, 0, 1, &[0; 8])),
        (
            "a window of three bytes",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
        ),
        ("no more window", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "more window than there may be",
            frame(WINDOW_UPDATE, 0, 0, &most).repeat(2),
        ),
        ("a reset of no stream", frame(RESET, 0, 0, &[0; 4])),
        (
            "a reset of a stream that never was",
            frame(RESET, 0, 7, &[0; 4]),
        ),
        (
            "a reset of three bytes",
            [&open[..], &frame(RESET, 0, 1, &[0; 3])].concat(),
        ),
        ("a goodbye of a stream", frame(GOAWAY, 0, 1, &[0; 8])),
        (
            "a frame that is too large",
            [&open[..], &frame(DATA, 0, 1, &large)].concat(),
        ),
        ("HTTP/1.1", get("/smuggled").into_bytes()),
    ] {
        let mut wire = Wire::connect(&site, &[]);
        wire.send(&bytes);
        assert!(wire.is_closed_within(PATIENCE), "{what}");
        hello(&site, what);
    }
    // What is not known is passed over (RFC 9113, section 4.1).
    let mut wire = Wire::connect(&site, &[]);
    wire.send(&frame(0xee, 0xff, 0, &[1; 100]));
    wire.send(&frame(SETTINGS, 0, 0, &[0xee, 0xee, 0, 0, 0, 1]));
    wire.send(&frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 9]));
    wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, REQUEST));
    // No route is for `x`.
    assert_eq!(wire.fate(1).status, Some(404));
    assert_unharmed(site);
}

#[test]
fn streams_beyond_the_limit_are_refused_and_the_others_answered() {
    const REFUSED: u32 = 7;
    for mode in MODES {
        let site = site(mode, &["--max-streams", "20"]);
        let mut wire = Wire::connect(&site, &[]);
        let id = |number: u32| 2 * number + 1;
        for number in 0..50 {
            let block = fields(&[METHOD, SCHEME, PATH, TO]);
            wire.send(&frame(HEADERS, END_HEADERS, id(number), &block));
        }
        for number in 0..20 {
            wire.send(&frame(DATA, END_STREAM, id(number), b"hello"));
        }
        for number in 0..50 {
            let fate = wire.fate(id(number));
            match number {
                0..20 => assert_eq!((fate.status, fate.complete), (Some(200), true), "{mode}"),
                _ => assert_eq!(fate.reset, Some(REFUSED), "{mode} {number}: {fate:?}"),
            }
        }
        assert_unharmed(site);
    }
}

// --- floods ---------------------------------------------------------------

/// What floods may cost the server, at most.
const ROOM: u64 = 64 << 20;

/// Sends parts until the server takes no more of them, or as many as there are.
fn flood(wire: &mut Wire, part: impl Fn(u32) -> Vec<u8>, parts: u32) {
    let patience = Some(Duration::from_secs(1));
    wire.stream.set_write_timeout(patience).unwrap();
    for number in 0..parts {
        if wire.stream.write_all(&part(number)).is_err() {
            return;
        }
    }
}

#[test]
fn floods_cost_a_connection() {
    let one = 1u32.to_be_bytes();
    // A field that is kept, and then named again and again: one byte is 4,000.
    let mut bomb = REQUEST.to_vec();
    bomb.extend([0x40, 0x01, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'y'; 4_000]);
    bomb.extend([0xbe; 12_000]);
    let id = |number: u32| 2 * number + 3;
    let header = |number, block: &[u8]| {
        let flags = END_STREAM | END_HEADERS;
        frame(HEADERS, flags, id(number), block)
    };
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(100);
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(100);
    let windows = frame(WINDOW_UPDATE, 0, 1, &one).repeat(100);
    let nothing = frame(DATA, 0, 1, &[]).repeat(100);
    let padding = frame(DATA, PADDED, 1, &[[255; 1].as_slice(), &[0; 255]].concat()).repeat(10);
    let unknown = frame(0xbb, 0, 0, &[0; 1_000]);
    let rest = frame(CONTINUATION, 0, 3, &[]).repeat(100);
    type Part<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    let kinds: &[(&str, Part<'_>, u32)] = &[
        ("settings", &|_| settings.clone(), 3_000),
        ("pings", &|_| pings.clone(), 3_000),
        (
            "priorities",
            &|it| frame(PRIORITY, 0, id(it), &[0, 0, 0, 0, 1]).repeat(100),
            3_000,
        ),
        ("windows", &|_| windows.clone(), 3_000),
        ("empty data", &|_| nothing.clone(), 3_000),
        ("padding", &|_| padding.clone(), 3_000),
        ("unknown", &|_| unknown.clone(), 20_000),
        ("no fields", &|it| header(it, &[]), 50_000),
        ("bombs", &|it| header(it, &bomb), 500),
        (
            // The server has to reset them (CVE-2025-8671).
            "streams with errors",
            &|it| {
                let open = frame(HEADERS, END_HEADERS, id(it), &to_hostile("/sleep"));
                [open, frame(WINDOW_UPDATE, 0, id(it), &[0; 4])].concat()
            },
            50_000,
        ),
        (
            "the rest of a header",
            &|it| match it {
                0 => frame(HEADERS, 0, 3, REQUEST),
                _ => rest.clone(),
            },
            3_000,
        ),
    ];
    for mode in MODES {
        let site = site(mode, &[]);
        hello(&site, "the first");
        let before = peak_memory(site.pid()).expect("it runs");
        for (what, part, parts) in kinds {
            let mut wire = Wire::connect(&site, &[]);
            // A stream that stays open.
            wire.send(&frame(HEADERS, END_HEADERS, 1, &to_hostile("/sleep")));
            flood(&mut wire, part, *parts);
            // While it is there.
            hello(&site, what);
            drop(wire);
            eventually(what, PATIENCE, || {
                site.metric("wrun_http_requests_in_flight") == 0.0
                    && site.metric("wrun_http_connections") == 0.0
            });
            let now = peak_memory(site.pid()).expect("it runs");
            assert!(
                now < before + ROOM,
                "{mode} {what}: {before} bytes of memory became {now}"
            );
        }
        assert_unharmed(site);
    }
}

/// A client of HTTP/2 has its own way to take nothing of an answer: the socket is not full.
#[test]
fn a_client_that_opens_no_window_is_given_up() {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let get = |path| {
        let list = [
            (":method", "GET"),
            SCHEME,
            (":path", path),
            (":authority", "hostile"),
        ];
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(&list))
    };
    for mode in MODES {
        let site = site(mode, &["--timeout", "none", "--send-timeout", "500ms"]);
        // From the beginning, or later.
        for room in [0, 1_000] {
            let mut wire = Wire::connect(&site, &[(INITIAL_WINDOW_SIZE, room)]);
            wire.send(&get("/spam"));
            assert_eq!(wire.begun(1).status, Some(200), "{mode}");
            assert!(wire.is_closed_within(PATIENCE), "{mode} {room}");
            eventually("its task is gone", PATIENCE, || {
                site.metric("wrun_http_requests_in_flight") == 0.0
            });
        }
        // One that waits for its app is not late.
        let mut wire = Wire::connect(&site, &[(INITIAL_WINDOW_SIZE, 0)]);
        wire.send(&get("/sleep"));
        assert!(!wire.is_closed_within(Duration::from_secs(2)), "{mode}");
        drop(wire);
        assert_unharmed(site);
    }
}
