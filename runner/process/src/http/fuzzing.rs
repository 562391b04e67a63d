//! A worker that does what it likes, against the runner's side of an HTTP exchange, which is
//! compared with a model of what it may.

use super::{Requesting, Responding};
use crate::wire::{Fields, MAX_PART, OWN, Order, Part, ResponseHead, WINDOW, room_of};
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Waker};
use tokio::sync::oneshot;
use wrun_sandbox::http::{Body, BodyError, Exchange};
use wrun_sys::Unpoisoned;

const TASK: u64 = 7;
/// What the bodies consist of, over and over: a part that is lost or exchanged is seen.
const PERIOD: usize = 251;
/// Bytes that a source has ready at once, at most.
const MAX_READY: usize = 4;

static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let bytes = (0..2 * WINDOW).map(|at| (at % PERIOD) as u8);
    bytes.collect()
});

/// The pattern from a position on.
fn pattern(at: u64, len: usize) -> Bytes {
    let from = (at % PERIOD as u64) as usize;
    PATTERN.slice(from..from + len)
}

/// What a worker sends of an exchange, and what its client and the runner do meanwhile, as
/// steps of one byte with what belongs to them. The first byte has the settings.
///
/// # Panics
///
/// The runner believes what it must not: more than there was room for, parts out of order, the
/// end of a body that did not come to it; or it sends more than it may.
pub fn http(data: &[u8]) {
    let mut steps = Steps(data);
    let mut run = Run::new(steps.byte().unwrap_or(0));
    while let Some(step) = steps.byte() {
        if !run.step(step, &mut steps) {
            break;
        }
    }
    run.end();
}

/// Inputs of [`http`] that are exchanges, with names.
pub fn exchanges() -> Vec<(String, Vec<u8>)> {
    let named = |(name, bytes): (&str, &[u8])| (name.to_owned(), bytes.to_vec());
    let head = [0, 200, 0, 1, 1, b'x', 1, b'y'];
    let whole: &[u8] = &[&[0][..], &head, &[1, 5, 0, 7, 2, 7, 7]].concat();
    let trailers: &[u8] = &[&[0][..], &head, &[1, 5, 0, 3, 1, b'x', 1, b'y', 7, 7]].concat();
    let given = [10, 2, 0, 4, 10, 2, 5, 0, 9, 9, 10, 0, 9, 9, 9];
    let upload: &[u8] = &[&[0][..], &given, &head, &[5, 5, 0, 0, 2]].concat();
    let flood: Vec<u8> = [&[0][..], &head, &[1, 255, 127].repeat(20)].concat();
    let read: Vec<u8> = [&[0][..], &head, &[1, 255, 127, 7, 9].repeat(20), &[2, 7]].concat();
    let gone: &[u8] = &[&[1][..], &head, &[1, 5, 0, 8, 9, 9, 1, 5, 0, 2]].concat();
    let failed: &[u8] = &[&[2][..], &head, &[1, 5, 0, 4, 7, 7]].concat();
    let limited: &[u8] = &[&[4][..], &head, &[1, 255, 0, 1, 255, 255]].concat();
    let waits: &[u8] = &[1, 10, 2, 0, 4, 9, 5, 0, 4, 0, 9, 9, 6, 9];
    let cases: &[(&str, &[u8])] = &[
        ("whole", whole),
        ("trailers", trailers),
        ("upload", upload),
        ("flood", &flood),
        ("read", &read),
        ("client-gone", gone),
        ("failed", failed),
        ("limited", limited),
        ("waits", waits),
        ("two-heads", &[&[0][..], &head, &head].concat()),
        ("no-head", &[0, 1, 5, 0]),
    ];
    cases.iter().copied().map(named).collect()
}

/// Bytes that are read as steps.
struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> usize {
        let low = self.byte().unwrap_or(0);
        usize::from(low) | usize::from(self.byte().unwrap_or(0)) << 8
    }

    fn bytes(&mut self) -> Bytes {
        let len = usize::from(self.byte().unwrap_or(0) % 16).min(self.0.len());
        let (some, rest) = self.0.split_at(len);
        self.0 = rest;
        Bytes::copy_from_slice(some)
    }

    fn fields(&mut self) -> Fields {
        let name = String::from_utf8_lossy(&self.bytes()).into_owned();
        vec![(name, self.bytes())]
    }
}

/// True if the fields may be those of a message.
fn are_fields(fields: &Fields) -> bool {
    let mut fields = fields.iter();
    fields.all(|(name, value)| {
        HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_bytes(value).is_ok()
    })
}

/// The body of the client's request.
#[derive(Default)]
struct Source {
    /// Lengths that are there, or that it fails.
    ready: VecDeque<Result<usize, ()>>,
    ended: bool,
    given: u64,
    failed: bool,
}

struct SourceBody(Arc<Mutex<Source>>);

impl http_body::Body for SourceBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut source = self.0.lock().unpoisoned();
        match source.ready.pop_front() {
            Some(Ok(len)) => {
                let data = pattern(source.given, len);
                source.given += len as u64;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(())) => {
                source.failed = true;
                Poll::Ready(Some(Err(BodyError::new("it fails"))))
            }
            None if source.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// How a response's body ended, as far as the worker said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Not,
    Well,
    WithTrailers,
    Badly,
}

/// What the client has.
enum Client {
    Waits(oneshot::Receiver<Response<Body>>),
    Reads(Body),
    Gone,
}

/// Both sides of the runner, and what is known of them.
struct Run {
    requesting: Requesting,
    responding: Responding,
    client: Client,
    source: Arc<Mutex<Source>>,
    /// Bytes of the request's body that were sent, and of which the worker did not say that it
    /// took them; all of the window while it is not to be sent.
    outstanding: usize,
    sent: u64,
    /// The end of the request's body was sent.
    request_over: bool,
    /// The worker wants no more of it.
    unwanted: bool,
    sending: bool,
    has_head: bool,
    ended: Ended,
    /// Bytes of the response's body: from the worker, and to the client.
    arrived: u64,
    read: u64,
    /// What those that arrived count for in the window, and what the client read; and what the
    /// worker was told of that.
    arrived_room: u64,
    read_room: u64,
    told: u64,
    told_closed: bool,
    /// The client has read the end.
    finished: bool,
    max_output: u64,
}

impl Run {
    fn new(settings: u8) -> Self {
        let source = Arc::new(Mutex::new(Source::default()));
        let mut request = Request::new(SourceBody(source.clone()).boxed_unsync());
        let waits = settings & 1 != 0;
        if waits {
            let value = HeaderValue::from_static("100-continue");
            request.headers_mut().insert("expect", value);
        }
        let max_output = match settings >> 1 & 3 {
            0 => None,
            1 => Some(WINDOW as u64 + 1),
            2 => Some(1_000),
            _ => Some(0),
        };
        let (exchange, response) = Exchange::new(request);
        let (head, requesting, responding) = Requesting::new(exchange, TASK, max_output);
        assert_eq!((head.has_body, head.waits), (true, waits));
        Run {
            requesting,
            responding,
            client: Client::Waits(response),
            source,
            outstanding: if waits { WINDOW } else { 0 },
            sent: 0,
            request_over: false,
            unwanted: false,
            sending: false,
            has_head: false,
            ended: Ended::Not,
            arrived: 0,
            read: 0,
            arrived_room: 0,
            read_room: 0,
            told: 0,
            told_closed: false,
            finished: false,
            max_output: max_output.unwrap_or(u64::MAX),
        }
    }

    /// Takes a step; false once the runner is done with the worker.
    fn step(&mut self, step: u8, steps: &mut Steps<'_>) -> bool {
        let goes_on = match step % 11 {
            0 => {
                let status = steps.number();
                let has_body = steps.byte().unwrap_or(0) & 1 != 0;
                self.head(status as u16, has_body, steps.fields())
            }
            // Also more than one part may have.
            1 => self.data(steps.number() * 2),
            2 => self.end_of_body(None),
            3 => self.end_of_body(Some(steps.fields())),
            4 => self.failed(),
            5 => {
                let bytes = steps.number() << (steps.byte().unwrap_or(0) % 24);
                self.taken(bytes as u32)
            }
            6 => {
                let done = self.responding.part(Part::Closed);
                assert_eq!(done, Ok(true), "a worker may always want no more");
                self.unwanted = true;
                true
            }
            7 => {
                self.read();
                true
            }
            8 => {
                self.client = Client::Gone;
                true
            }
            9 => {
                self.send();
                true
            }
            _ => {
                self.supply(steps.byte().unwrap_or(0), steps);
                true
            }
        };
        let is_client_gone = matches!(self.client, Client::Gone);
        let is_whole = self.has_head && (self.ended != Ended::Not || is_client_gone);
        if goes_on {
            assert_eq!(self.responding.is_whole(), is_whole);
            let is_quiet = (self.request_over || self.unwanted) && !self.sending;
            assert_eq!(self.responding.is_quiet(), is_quiet);
        }
        goes_on
    }

    fn head(&mut self, status: u16, has_body: bool, fields: Fields) -> bool {
        let is_right = !self.has_head && (100..1_000).contains(&status) && are_fields(&fields);
        let head = ResponseHead {
            status,
            fields,
            has_body,
        };
        let taken = self.responding.head(head).is_ok();
        self.responding.deliver();
        assert_eq!(taken, is_right, "a head");
        if taken {
            self.has_head = true;
            if !has_body {
                self.ended = Ended::Well;
            }
        }
        taken
    }

    fn data(&mut self, len: usize) -> bool {
        let on_the_way = (self.arrived_room - self.told) as usize;
        let is_right = self.has_head
            && self.ended == Ended::Not
            && (1..=MAX_PART).contains(&len)
            && on_the_way + room_of(len) <= WINDOW;
        let data = pattern(self.arrived, len.min(WINDOW));
        match self.responding.part(Part::Data(data)) {
            Ok(fits) => {
                assert!(is_right, "{len} bytes, with {on_the_way} on the way");
                self.arrived += len as u64;
                self.arrived_room += room_of(len) as u64;
                assert_eq!(fits, self.arrived <= self.max_output);
                fits
            }
            Err(_) => {
                assert!(!is_right, "{len} bytes, with {on_the_way} on the way");
                false
            }
        }
    }

    fn end_of_body(&mut self, trailers: Option<Fields>) -> bool {
        let is_right =
            self.has_head && self.ended == Ended::Not && trailers.as_ref().is_none_or(are_fields);
        let ended = match trailers {
            None => Ended::Well,
            Some(_) => Ended::WithTrailers,
        };
        self.finish(Part::End(trailers), ended, is_right)
    }

    fn failed(&mut self) -> bool {
        let is_right = self.has_head && self.ended == Ended::Not;
        self.finish(Part::Failed("on purpose".into()), Ended::Badly, is_right)
    }

    fn finish(&mut self, part: Part, ended: Ended, is_right: bool) -> bool {
        let taken = self.responding.part(part);
        assert_eq!(taken.is_ok(), is_right, "{ended:?}");
        if taken == Ok(true) {
            self.ended = ended;
        }
        taken == Ok(true)
    }

    fn taken(&mut self, bytes: u32) -> bool {
        let is_right = bytes > 0 && bytes as usize <= self.outstanding;
        let taken = self.responding.part(Part::Taken(bytes)).is_ok();
        assert_eq!(taken, is_right, "{bytes} of {}", self.outstanding);
        if taken {
            self.outstanding -= bytes as usize;
        }
        taken
    }

    /// More of the request's body is there.
    fn supply(&mut self, what: u8, steps: &mut Steps<'_>) {
        let mut source = self.source.lock().unpoisoned();
        if source.ended || source.ready.len() >= MAX_READY {
            return;
        }
        match what % 8 {
            0 => source.ended = true,
            1 => {
                source.ready.push_back(Err(()));
                source.ended = true;
            }
            // Also pieces of nothing.
            _ => source.ready.push_back(Ok(steps.number())),
        }
    }

    /// The runner sends its next message, if it has one.
    fn send(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let next = pin!(self.requesting.next()).poll(&mut cx);
        let part = match next {
            Poll::Ready(Order::Http {
                task_id: TASK,
                exchange: OWN,
                part,
            }) => part,
            Poll::Ready(other) => panic!("{other:?}"),
            Poll::Pending => {
                self.requesting.sent();
                self.sending = false;
                return;
            }
        };
        self.sending = true;
        let source = self.source.lock().unpoisoned();
        let wants_more = !self.request_over && !self.unwanted;
        match part {
            Part::Data(data) => {
                assert!(wants_more, "nothing more of the request is wanted");
                assert!((1..=MAX_PART).contains(&data.len()));
                assert_eq!(data, pattern(self.sent, data.len()));
                self.sent += data.len() as u64;
                assert!(self.sent <= source.given);
                self.outstanding += room_of(data.len());
                assert!(
                    self.outstanding <= WINDOW,
                    "more than the worker has room for"
                );
            }
            Part::End(None) => {
                assert!(wants_more && source.ended && !source.failed);
                assert_eq!(self.sent, source.given);
                self.request_over = true;
            }
            Part::Failed(_) => {
                assert!(wants_more && source.failed);
                self.request_over = true;
            }
            Part::Taken(bytes) => {
                self.told += u64::from(bytes);
                assert!(
                    bytes > 0 && self.told <= self.read_room,
                    "the client did not take it"
                );
            }
            Part::Closed => {
                assert!(matches!(self.client, Client::Gone) && self.ended == Ended::Not);
                assert!(!std::mem::replace(&mut self.told_closed, true), "once");
            }
            other => panic!("{other:?}"),
        }
    }

    /// The client reads a frame, if there is one; whether there may be more.
    fn read(&mut self) -> bool {
        if let Client::Waits(response) = &mut self.client {
            match response.try_recv() {
                Ok(response) => {
                    assert!(self.has_head);
                    self.client = Client::Reads(response.into_body());
                }
                Err(oneshot::error::TryRecvError::Empty) => assert!(!self.has_head),
                Err(error) => panic!("{error}"),
            }
        }
        let Client::Reads(body) = &mut self.client else {
            return false;
        };
        let mut cx = Context::from_waker(Waker::noop());
        let frame = Pin::new(body).poll_frame(&mut cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            assert_eq!(*data, pattern(self.read, data.len()));
            self.read += data.len() as u64;
            self.read_room += room_of(data.len()) as u64;
            return true;
        }
        assert_eq!(self.read, self.arrived, "all that arrived comes first");
        let expected = match frame {
            Poll::Pending => Ended::Not,
            Poll::Ready(None) if self.finished => return false,
            Poll::Ready(None) => Ended::Well,
            Poll::Ready(Some(Ok(_))) => Ended::WithTrailers,
            Poll::Ready(Some(Err(_))) => Ended::Badly,
        };
        assert!(!self.finished, "there is one end");
        assert_eq!(self.ended, expected);
        self.finished = self.ended != Ended::Not;
        false
    }

    /// The worker is gone, or the runner has seen enough of it: what its client then has.
    fn end(mut self) {
        if self.has_head {
            while self.read() {}
        }
        drop((self.requesting, self.responding));
        let mut cx = Context::from_waker(Waker::noop());
        match &mut self.client {
            Client::Waits(response) => assert!(!self.has_head && response.try_recv().is_err()),
            Client::Reads(body) => match Pin::new(body).poll_frame(&mut cx) {
                Poll::Ready(None) => assert!(self.finished, "it did not end"),
                Poll::Ready(Some(Err(_))) => assert!(!self.finished),
                other => panic!("{other:?}"),
            },
            Client::Gone => {}
        }
    }
}
