//! Answers HTTP requests with tasks, in both modes: each request is a task of its own, with
//! its own limits, and its report says what it cost.
//!
//! ```sh
//! cargo run --release --features http --example http_handler -- [COMPONENT [METHOD [PATH [BODY]]]]
//! ```
//!
//! Without arguments it sends a request to the component that greets.

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use std::path::PathBuf;
use std::time::Duration;
use wrun::{Limits, Mode, Runner, Task};

fn main() -> anyhow::Result<()> {
    // In process mode this program is its own worker; this must be the first call in main,
    // before there is a runtime.
    wrun::worker_hook();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(send())
}

async fn send() -> anyhow::Result<()> {
    let guests = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks"));
    let mut args = std::env::args().skip(1);
    let component = args.next().map(PathBuf::from);
    let component = component.unwrap_or_else(|| guests.join("http-hello/http-hello.wasm"));
    let method = args.next().unwrap_or_else(|| "GET".to_owned());
    let path = args.next().unwrap_or_else(|| "/".to_owned());
    let body = args.next().unwrap_or_default();

    for mode in [Mode::Thread, Mode::Process] {
        let runner = Runner::builder().mode(mode).build()?;
        let artifact = runner.load(&component).await?;
        let request = http::Request::builder()
            .method(method.as_str())
            .uri(format!("http://localhost{path}"))
            .header("x-request-id", "1")
            .body(
                Full::new(Bytes::from(body.clone()))
                    .map_err(|never| match never {})
                    .boxed_unsync(),
            )
            .context("not a request")?;
        let limits = Limits::default().timeout(Duration::from_secs(10));
        let task = Task::new(&artifact).request(request).limits(limits);
        let mut handle = runner.submit(task).await?;
        match handle.response().await {
            Some(response) => {
                println!("{mode}: {}", response.status());
                for (name, value) in response.headers() {
                    println!(
                        "{mode}: {name}: {}",
                        String::from_utf8_lossy(value.as_bytes())
                    );
                }
                match response.into_body().collect().await {
                    Ok(body) => {
                        let trailers = body.trailers().cloned();
                        let body = body.to_bytes();
                        let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
                        println!("{mode}: {} bytes: {text:?}", body.len());
                        if let Some(trailers) = trailers {
                            println!("{mode}: {trailers:?}");
                        }
                    }
                    Err(error) => println!("{mode}: the body is incomplete: {error}"),
                }
            }
            None => println!("{mode}: no response"),
        }
        let report = handle.report().await?;
        println!("{mode}: {} in {:?}", report.outcome, report.stats.total);
    }
    Ok(())
}
