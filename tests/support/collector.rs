//! What takes traces over OTLP.

use super::command::Wrun;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What takes traces: the spans that it was sent, with the name of their service.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    pub(crate) spans: Arc<Mutex<Vec<(String, Span)>>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let spans: Arc<Mutex<Vec<_>>> = Arc::default();
        let taken = spans.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let taken = taken.clone();
                std::thread::spawn(move || take_spans(stream.unwrap(), &taken));
            }
        });
        Collector { address, spans }
    }

    pub(crate) fn wrun(&self) -> Wrun {
        self.told_by(Wrun::new())
    }

    /// Has this command send its spans here.
    pub(crate) fn told_by(&self, wrun: Wrun) -> Wrun {
        wrun.env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", self.address),
        )
        .env("OTEL_SERVICE_NAME", "shop")
        .env("NO_PROXY", "*")
    }
}

/// One connection, for all requests that come on it.
fn take_spans(stream: TcpStream, spans: &Mutex<Vec<(String, Span)>>) {
    let mut lines = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if lines.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        let head = head.to_ascii_lowercase();
        assert!(
            head.contains("content-type: application/x-protobuf"),
            "{head}"
        );
        let (_, length) = head.split_once("content-length: ").expect("a length");
        let length = length.lines().next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        lines.read_exact(&mut body).unwrap();
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("OTLP");
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.unwrap();
            let name = resource
                .attributes
                .iter()
                .find(|it| it.key == "service.name");
            let name = text_of(name.unwrap().value.clone().unwrap().value);
            let all = of_resource.scope_spans.into_iter();
            let all = all.flat_map(|it| it.spans).map(|span| (name.clone(), span));
            spans.lock().unwrap().extend(all);
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        lines.get_mut().write_all(answer).unwrap();
    }
}

fn text_of(value: Option<Any>) -> String {
    match value {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|it| it.key == key)?;
    Some(text_of(found.value.clone()?.value))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
