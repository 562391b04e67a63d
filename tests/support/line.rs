//! A client that keeps its connection, of either version of HTTP, and tells apart all that can
//! become of a request. For many at once: it is asynchronous.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;

/// What a client learns about its connections, beside their answers.
#[derive(Clone, Debug, Default)]
pub struct Surprises(Arc<Mutex<Vec<String>>>);

impl Surprises {
    /// Whatever came that no request had asked for.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Follows a connection to its end, which may be bad: then its requests say so.
    fn of(&self, error: &hyper::Error) {
        let text = error.to_string();
        if text.contains("unexpected message") {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// One connection, or a share of one in HTTP/2.
pub struct Line {
    address: SocketAddr,
    sender: Sender,
    surprises: Surprises,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// What became of a request.
#[derive(Debug)]
pub enum Got {
    Whole(StatusCode, HeaderMap, Bytes),
    /// An answer of which a part is missing.
    Cut(StatusCode),
    /// HTTP/2: the stream was reset, which may take the head of an answer along.
    Reset,
    /// No answer, and why.
    Nothing(String),
}

impl Line {
    /// HTTP/1.1.
    pub async fn one(address: SocketAddr, surprises: &Surprises) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let told = surprises.clone();
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                told.of(&error);
            }
        });
        Line {
            address,
            sender: Sender::One(sender),
            surprises: surprises.clone(),
        }
    }

    /// HTTP/2 by prior knowledge: this many shares of one connection.
    pub async fn two(address: SocketAddr, surprises: &Surprises, shares: usize) -> Vec<Self> {
        let stream = TcpStream::connect(address).await.unwrap();
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, driver) = handshake.await.unwrap();
        let told = surprises.clone();
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                told.of(&error);
            }
        });
        let share = || Line {
            address,
            sender: Sender::Two(sender.clone()),
            surprises: surprises.clone(),
        };
        (0..shares).map(|_| share()).collect()
    }

    /// Sends a request and waits for what becomes of it. It is sent once. A connection of
    /// HTTP/1.1 that was closed after an answer is made anew before.
    pub async fn ask(&mut self, mut request: Request<Full<Bytes>>) -> Got {
        let answer = match &mut self.sender {
            Sender::One(sender) => {
                if sender.ready().await.is_err() {
                    *self = Line::one(self.address, &self.surprises).await;
                }
                let Sender::One(sender) = &mut self.sender else {
                    unreachable!("it is of the same version");
                };
                let uri = request.uri();
                let host = uri.authority().unwrap().as_str().parse().unwrap();
                let path = uri.path_and_query().unwrap().as_str().parse().unwrap();
                request.headers_mut().insert("host", host);
                *request.uri_mut() = path;
                sender.send_request(request).await
            }
            Sender::Two(sender) => sender.send_request(request).await,
        };
        let got = match answer {
            Ok(answer) => whole(answer).await,
            Err(error) => match described(&error) {
                why if why.contains("stream error received") => Got::Reset,
                why => Got::Nothing(why),
            },
        };
        if let (Got::Cut(..) | Got::Nothing(_), Sender::One(_)) = (&got, &self.sender) {
            *self = Line::one(self.address, &self.surprises).await;
        }
        got
    }
}

async fn whole(answer: Response<Incoming>) -> Got {
    let (head, body) = answer.into_parts();
    match body.collect().await {
        Ok(body) => Got::Whole(head.status, head.headers, body.to_bytes()),
        Err(_) => Got::Cut(head.status),
    }
}

fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
