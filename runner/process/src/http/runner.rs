//! The runner's side: a request on its way to a worker, and the response from there.

use super::Wrong;
use super::inflow::{Inflow, Reading};
use super::outflow::{Credit, Outflow};
use crate::wire::{OWN, Order, Part, RequestHead, ResponseHead, WINDOW};
use http::Response;
use http_body::Body as _;
use http_body_util::{BodyExt, Empty};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;
use wrun_sandbox::http::{Body, Exchange};

/// What goes to the worker after its order: the request's body, and how far the response is
/// read.
pub(crate) struct Requesting {
    task_id: u64,
    request: Outflow,
    reading: Arc<Reading>,
    sending: Arc<AtomicBool>,
}

/// What comes from the worker.
pub(crate) struct Responding {
    /// The client's end and the body, until the head is there.
    head: Option<(oneshot::Sender<Response<Body>>, Body)>,
    /// The response, until it is delivered.
    ready: Option<(oneshot::Sender<Response<Body>>, Response<Body>)>,
    response: Inflow,
    credit: Arc<Credit>,
    /// Bytes that the response may still have.
    left: u64,
    /// A message to the worker is on its way.
    sending: Arc<AtomicBool>,
}

impl Requesting {
    /// The head of the request of `exchange`, for the order of a task, and the two sides of what
    /// follows. `max_output` is what the response's body may have.
    pub(crate) fn new(
        exchange: Exchange,
        task_id: u64,
        max_output: Option<u64>,
    ) -> (RequestHead, Self, Responding) {
        let Exchange { request, respond } = exchange;
        let (parts, body) = request.into_parts();
        let head = RequestHead::of(&parts, !body.is_end_stream());
        let request = Outflow::new(body, if head.waits { 0 } else { WINDOW });
        let (response, body) = Inflow::new(false);
        let sending = Arc::new(AtomicBool::new(false));
        let responding = Responding {
            credit: request.credit().clone(),
            head: Some((respond, body)),
            ready: None,
            left: max_output.unwrap_or(u64::MAX),
            sending: sending.clone(),
            response,
        };
        let requesting = Requesting {
            task_id,
            request,
            reading: responding.response.reading().clone(),
            sending,
        };
        (head, requesting, responding)
    }

    /// The next to be sent; [`Requesting::sent`] says that it was. Cancel safe.
    pub(crate) async fn next(&mut self) -> Order {
        let part = tokio::select! {
            part = self.request.next() => part,
            part = self.reading.next() => part,
        };
        self.sending.store(true, Ordering::Release);
        Order::Http {
            task_id: self.task_id,
            exchange: OWN,
            part,
        }
    }

    pub(crate) fn sent(&self) {
        self.sending.store(false, Ordering::Release);
    }
}

impl Responding {
    /// The worker sent the head of the response.
    pub(crate) fn head(&mut self, head: ResponseHead) -> Result<(), Wrong> {
        let Some((respond, body)) = self.head.take() else {
            return Err("it sent a second HTTP response");
        };
        let has_body = head.has_body;
        let parts = head.into_parts()?;
        let body = match has_body {
            true => {
                self.response.reading().is_long(&parts.headers);
                body
            }
            false => {
                self.response.put(Part::End(None))?;
                Empty::new().map_err(|never| match never {}).boxed_unsync()
            }
        };
        self.ready = Some((respond, Response::from_parts(parts, body)));
        Ok(())
    }

    /// Gives the response to the client, with what has arrived of its body by now: a small one
    /// is whole then, and is sent at once.
    pub(crate) fn deliver(&mut self) {
        if let Some((respond, response)) = self.ready.take() {
            // A client that is gone drops the body, which tells the worker.
            let _ = respond.send(response);
        }
    }

    /// The worker sent a part; whether the response is not too long.
    pub(crate) fn part(&mut self, part: Part) -> Result<bool, Wrong> {
        match part {
            Part::Taken(bytes) => self.credit.taken(bytes)?,
            Part::Closed => self.credit.close(),
            part if self.head.is_none() => {
                let len = self.response.put(part)? as u64;
                let left = self.left.checked_sub(len);
                self.left = left.unwrap_or(0);
                return Ok(left.is_some());
            }
            _ => return Err("it sent an HTTP body without a head"),
        }
        Ok(true)
    }

    /// Whether the response was sent to its end, as far as somebody wanted it.
    pub(crate) fn is_whole(&self) -> bool {
        self.head.is_none() && self.response.is_done()
    }

    /// Whether nothing is on its way to the worker, or would be.
    pub(crate) fn is_quiet(&self) -> bool {
        self.credit.is_over() && !self.sending.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{MAX_PART, MIN_ROOM};
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Full;

    fn ends(
        max_output: Option<u64>,
    ) -> (Requesting, Responding, oneshot::Receiver<Response<Body>>) {
        let body = Full::new(Bytes::from(vec![1; 2 * WINDOW]));
        let body = body.map_err(|never| match never {}).boxed_unsync();
        let (exchange, response) = Exchange::new(Request::new(body));
        let (head, requesting, responding) = Requesting::new(exchange, 7, max_output);
        assert!(head.has_body && !head.waits);
        (requesting, responding, response)
    }

    fn head() -> ResponseHead {
        ResponseHead {
            status: 200,
            fields: vec![("x-name".to_owned(), Bytes::from_static(b"value"))],
            has_body: true,
        }
    }

    fn data(len: usize) -> Part {
        Part::Data(Bytes::from(vec![2; len]))
    }

    async fn sent(requesting: &mut Requesting) -> Option<Part> {
        let next = requesting.next();
        let part = tokio::time::timeout(std::time::Duration::from_millis(20), next).await;
        match part.ok()? {
            Order::Http {
                task_id: 7,
                exchange: OWN,
                part,
            } => Some(part),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn no_more_is_sent_than_was_taken() {
        let (mut requesting, mut responding, _response) = ends(None);
        let mut len = 0;
        while let Some(part) = sent(&mut requesting).await {
            match part {
                Part::Data(data) if data.len() <= MAX_PART => len += data.len(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(len, WINDOW);
        responding
            .part(Part::Taken(MIN_ROOM as u32 - 1))
            .expect("it is by the rules");
        assert!(sent(&mut requesting).await.is_none(), "it is too little");
        responding
            .part(Part::Taken(11))
            .expect("it is by the rules");
        match sent(&mut requesting).await {
            Some(Part::Data(data)) => assert_eq!(data.len(), MIN_ROOM + 10),
            other => panic!("{other:?}"),
        }
        assert!(!responding.is_quiet(), "more of the body would be sent");
        // As much as is on the way, and not a byte more.
        responding
            .part(Part::Taken(WINDOW as u32))
            .expect("it is by the rules");
        assert!(responding.part(Part::Taken(1)).is_err());
        responding.part(Part::Closed).expect("it is by the rules");
        assert!(sent(&mut requesting).await.is_none(), "nothing is wanted");
        requesting.sent();
        assert!(responding.is_quiet());
    }

    #[tokio::test]
    async fn a_worker_that_breaks_the_rules_is_noticed() {
        let wrong = |parts: Vec<Part>| {
            let (_requesting, mut responding, _response) = ends(None);
            responding.head(head()).expect("it is by the rules");
            responding.deliver();
            let last = parts.into_iter().map(|part| responding.part(part)).last();
            last.expect("there are parts")
                .expect_err("it breaks a rule")
        };
        assert!(wrong(vec![data(0)]).contains("room"));
        assert!(wrong(vec![data(MAX_PART + 1)]).contains("room"));
        let window = WINDOW / MAX_PART;
        let parts = (0..=window).map(|_| data(MAX_PART)).collect();
        assert!(wrong(parts).contains("room"));
        // Small parts are few: a thousand times as many would take a hundred times the window.
        let parts = (0..=WINDOW / MIN_ROOM).map(|_| data(1)).collect();
        assert!(wrong(parts).contains("room"));
        assert!(wrong(vec![Part::End(None), data(1)]).contains("ended"));
        assert!(wrong(vec![Part::Failed("so".into()), Part::End(None)]).contains("ended"));
        assert!(wrong(vec![Part::Taken(0)]).contains("more"));
        let bad = ("a b".to_owned(), Bytes::new());
        assert!(wrong(vec![Part::End(Some(vec![bad]))]).contains("cannot be"));

        let (_requesting, mut responding, _response) = ends(None);
        assert!(responding.part(data(1)).is_err(), "there is no head");
        responding.head(head()).expect("it is by the rules");
        responding.deliver();
        assert!(responding.head(head()).is_err(), "there is one head");
        for (status, name) in [(99, "x"), (200, "a\nb"), (200, "")] {
            let (_requesting, mut responding, _response) = ends(None);
            let fields = vec![(name.to_owned(), Bytes::new())];
            let head = ResponseHead {
                status,
                fields,
                has_body: false,
            };
            assert!(responding.head(head).is_err(), "{status} {name:?}");
        }
    }

    #[tokio::test]
    async fn a_response_arrives_and_ends_as_it_was_sent() {
        let (mut requesting, mut responding, response) = ends(Some(5));
        responding.head(head()).expect("it is by the rules");
        responding.deliver();
        let (parts, body) = response.await.expect("it arrives").into_parts();
        assert_eq!(parts.headers["x-name"], "value");
        assert!(responding.part(data(5)).expect("it is by the rules"));
        assert!(!responding.is_whole());
        responding
            .part(Part::End(None))
            .expect("it is by the rules");
        assert!(responding.is_whole());
        assert_eq!(
            body.collect().await.expect("it arrives").to_bytes().len(),
            5
        );

        // The worker is gone in the middle.
        let (_, mut responding, response) = ends(Some(5));
        responding.head(head()).expect("it is by the rules");
        responding.deliver();
        responding.part(data(3)).expect("it is by the rules");
        drop(responding);
        let body = response.await.expect("it arrives").into_body();
        assert!(body.collect().await.is_err());

        // One that sends more than its task may is told from others by this.
        let (_, mut responding, _response) = ends(Some(5));
        responding.head(head()).expect("it is by the rules");
        responding.deliver();
        assert!(!responding.part(data(6)).expect("it is by the rules"));

        // The client is gone: the worker hears of it once.
        let (mut again, mut responding, response) = ends(None);
        responding.head(head()).expect("it is by the rules");
        responding.deliver();
        drop(response.await.expect("it arrives"));
        while let Some(part) = sent(&mut again).await {
            match part {
                Part::Data(_) => {}
                Part::Closed => return,
                other => panic!("{other:?}"),
            }
        }
        panic!("it was not told; {:?}", sent(&mut requesting).await);
    }
}
