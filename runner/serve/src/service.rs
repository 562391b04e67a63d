//! A request and its answer: checked, given to the app that it is for, and whatever becomes of
//! that as a status.

use crate::answer::{Attended, Outgoing};
use crate::app::{Body, NotStarted};
use crate::clock::{Answering, Clock};
use crate::hygiene;
use crate::printed;
use crate::record::{Ended, Record};
use crate::reply::{self, Reply};
use crate::shared::Shared;
use crate::trace;
use crate::upload::{Fault, Upload};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode, Version, request};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wrun::TaskHandle;

/// What answers the requests of one connection.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) remote: Option<IpAddr>,
    pub(crate) scheme: Scheme,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Outgoing>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answering = self.clock.begin();
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request, answering).await) })
    }
}

impl Service {
    async fn answer(self, request: Request<Incoming>, answering: Answering) -> Response<Outgoing> {
        let (mut head, body) = request.into_parts();
        let books = &self.shared.books;
        let began = answering.began;
        let mut record = Record::new(books, &head, self.remote, &self.scheme, began);
        let of = (head.version, head.method.clone());
        let prepared = self.prepare(&mut head, &body, &mut record);
        trace::connect(&mut record, &mut head, self.shared.connect.as_ref());
        let reply = match prepared {
            Ok(app) => {
                let max_body = app.max_body(self.shared.limits.max_body);
                let (upload, mut fault) = self.upload(body, max_body, &record);
                // A client that leaves meanwhile drops all of this.
                let waiting = Unstarted(Some(record), self.shared.clone());
                let upload = tokio::select! {
                    biased;
                    upload = self.shared.small_bodies.read(&head.headers, upload) => {
                        upload.map_err(|_| fault.as_mut().and_then(|fault| fault.try_recv().ok()))
                    }
                    () = passed(began, app.timeout()) => Err(Some(Fault::Late)),
                };
                let upload = match upload {
                    Ok(upload) => upload,
                    Err(fault) => return self.without_body(fault, &of, answering, waiting),
                };
                record = waiting.started();
                let request = Request::from_parts(head, upload);
                let elapsed = answering.began.elapsed();
                let prints = self.shared.printed.is_some();
                let start = || app.start(&self.shared.runner, request, elapsed, prints);
                match record.span.in_scope(start) {
                    Ok(mut handle) => {
                        self.take_output(&mut handle, &record);
                        let attended = Attended::new(handle, record, self.shared.clone());
                        return self.attend(attended, fault, of, answering).await;
                    }
                    Err(not_started) => refusal(&not_started),
                }
            }
            Err(reply) => {
                if !body.is_end_stream() {
                    self.clock.left_unread();
                }
                reply
            }
        };
        self.refused(&reply, &of, answering, record)
    }

    /// What becomes of a request whose body is not whole.
    fn without_body(
        &self,
        fault: Option<Fault>,
        of: &(Version, Method),
        answering: Answering,
        waiting: Unstarted,
    ) -> Response<Outgoing> {
        match fault {
            Some(fault) => {
                let reply = Reply::new(fault.status(), fault.why()).closing();
                self.refused(&reply, of, answering, waiting.started())
            }
            // The client is gone: nobody gets this.
            None => {
                let reply = Reply::new(StatusCode::BAD_REQUEST, "the body broke off");
                self.reply(&reply.closing(), of, answering)
            }
        }
    }

    /// Answers a request that has no task.
    fn refused(
        &self,
        reply: &Reply,
        of: &(Version, Method),
        answering: Answering,
        mut record: Record,
    ) -> Response<Outgoing> {
        let response = self.reply(reply, of, answering);
        record.answered(reply, &response);
        self.shared.books.close(&record, Ended::Refused);
        response
    }

    /// Checks a request and finds the app that it is for.
    fn prepare(
        &self,
        head: &mut request::Parts,
        body: &Incoming,
        record: &mut Record,
    ) -> Result<Arc<crate::app::Loaded>, Reply> {
        let limits = &self.shared.limits;
        if head.headers.len() > limits.max_headers {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Err(Reply::new(status, "too many header fields").closing());
        }
        let wrong = |wrong: hygiene::Wrong| Reply::new(wrong.status(), wrong.why()).closing();
        hygiene::request(head, &self.scheme).map_err(wrong)?;
        let site = self.shared.site();
        record.version = site.version;
        let host = head.uri.authority().map_or("", |it| it.as_str());
        let Some(found) = site.find(host, head.uri.path()) else {
            return Err(Reply::new(StatusCode::NOT_FOUND, "no app is served here"));
        };
        record.route = Some(found.name.clone());
        let announced = head.headers.get(CONTENT_LENGTH);
        let announced = announced.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
        let lower = announced.unwrap_or(0).max(body.size_hint().lower());
        let max_body = found.app.max_body(limits.max_body);
        if max_body.is_some_and(|most| lower > most) {
            let fault = Fault::TooLarge;
            return Err(Reply::new(fault.status(), fault.why()).closing());
        }
        Ok(found.app.clone())
    }

    fn upload(
        &self,
        body: Incoming,
        max_body: Option<u64>,
        record: &Record,
    ) -> (Body, Option<oneshot::Receiver<Fault>>) {
        if body.is_end_stream() {
            let empty = Empty::new().map_err(|never: Infallible| match never {});
            return (empty.boxed_unsync(), None);
        }
        let limits = &self.shared.limits;
        let received = record.received.clone();
        let (upload, fault) = Upload::new(
            body,
            max_body,
            limits.body_timeout,
            received,
            self.clock.clone(),
        );
        (upload.boxed_unsync(), Some(fault))
    }

    /// Has what a task prints passed on.
    fn take_output(&self, handle: &mut TaskHandle, record: &Record) {
        let shared = &self.shared;
        let (Some(take), Some(output)) = (&shared.printed, handle.take_stdout()) else {
            return;
        };
        let route = record.route.clone().unwrap_or_default();
        let passing = printed::pass_on(output, route, handle.id(), take.clone());
        shared.closing.spawn_on(passing, &shared.runtime);
    }

    /// Waits for what the task answers. Dropped with a client that is gone.
    async fn attend(
        self,
        mut attended: Attended,
        mut fault: Option<oneshot::Receiver<Fault>>,
        of: (Version, Method),
        answering: Answering,
    ) -> Response<Outgoing> {
        let answered = tokio::select! {
            biased;
            fault = told(&mut fault) => Err(fault),
            response = attended.response() => Ok(response),
        };
        // What a task answers to a body that broke off, it may answer at once.
        let answered = match fault.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Ok(fault)) => Err(fault),
            _ => answered,
        };
        let reply = match answered {
            Ok(Some(response)) => return self.pass_on(response, attended, &of, answering),
            Err(fault) => Reply::new(fault.status(), fault.why()).closing(),
            Ok(None) => {
                let report = attended.report().await;
                let reply = reply::of_report(&report);
                let response = self.reply(&reply, &of, answering);
                attended.answered(&reply, &response);
                attended.close(&report);
                return response;
            }
        };
        let response = self.reply(&reply, &of, answering);
        attended.answered(&reply, &response);
        response
    }

    /// Makes what the app answers the client's answer.
    fn pass_on(
        &self,
        response: Response<Body>,
        mut attended: Attended,
        of: &(Version, Method),
        answering: Answering,
    ) -> Response<Outgoing> {
        let method = &of.1;
        let (mut head, body) = response.into_parts();
        let length = match hygiene::response(&mut head, method) {
            Ok(length) => length,
            Err(bad) => {
                let reply = Reply::new(StatusCode::INTERNAL_SERVER_ERROR, bad.why());
                let response = self.reply(&reply, of, answering);
                attended.answered(&reply, &response);
                return response;
            }
        };
        if let Some(record) = attended.record() {
            record.status = Some(head.status);
        }
        if hygiene::is_bodiless(method, head.status) {
            if method == Method::HEAD
                && !head.headers.contains_key(CONTENT_LENGTH)
                && let Some(length) = body.size_hint().exact()
            {
                head.headers.insert(CONTENT_LENGTH, length.into());
            }
            attended.finish(Some(body), true);
            let nothing = Outgoing::whole(Bytes::new(), Some(answering));
            return Response::from_parts(head, nothing);
        }
        let body = Outgoing::guest(body, attended, length, answering);
        Response::from_parts(head, body)
    }

    fn reply(
        &self,
        reply: &Reply,
        (version, method): &(Version, Method),
        answering: Answering,
    ) -> Response<Outgoing> {
        let response = reply.response(self.shared.debug_errors, *version, method);
        response.map(|bytes| Outgoing::whole(bytes, Some(answering)))
    }
}

/// A request whose task has not started. Dropped, it is one that its client has left.
struct Unstarted(Option<Record>, Arc<Shared>);

impl Unstarted {
    /// The record of a request that goes on.
    fn started(mut self) -> Record {
        match self.0.take() {
            Some(record) => record,
            None => unreachable!("it is there until this is called or dropped"),
        }
    }
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            self.1.books.close(&record, Ended::Refused);
        }
    }
}

/// Waits until a request that began then has had its time, if that is limited.
async fn passed(began: Instant, timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout.saturating_sub(began.elapsed())).await,
        None => std::future::pending().await,
    }
}

/// Waits until something is wrong with the body of the request.
async fn told(fault: &mut Option<oneshot::Receiver<Fault>>) -> Fault {
    if let Some(fault) = fault
        && let Ok(fault) = fault.await
    {
        return fault;
    }
    std::future::pending().await
}

fn refusal(not_started: &NotStarted) -> Reply {
    match not_started {
        NotStarted::Busy(error) => Reply::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        NotStarted::Failed(error) => {
            Reply::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
        }
        NotStarted::TooLate => {
            let why = "the time for the request was over before its header was complete";
            Reply::new(StatusCode::REQUEST_TIMEOUT, why).closing()
        }
    }
}
