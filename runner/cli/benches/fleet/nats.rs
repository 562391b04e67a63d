//! What NATS itself costs: requests that a program answers, and what a fleet promises (each task is
//! on the disk until it has one result, which is there, too) without running anything.

use crate::cost::{Cost, Counted, cost};
use crate::server::Server;
use anyhow::{Context, ensure};
use async_nats::Client;
use async_nats::jetstream::{self, consumer, stream};
use bytes::Bytes;
use std::time::Duration;
use tokio::task::JoinSet;
use wrun_map::next;

/// Requests, or tasks, that are on their way: as many as `wrun map --on` has.
const AT_ONCE: usize = 1024;
/// Tasks that a worker takes at the same time.
const TAKEN: usize = 16;
/// Bytes of a message with a task, and of a result in thread mode.
const TASK: [u8; 250] = [b't'; 250];
const RESULT: [u8; 1024] = [b'r'; 1024];
const ENOUGH: Duration = Duration::from_secs(120);

pub(crate) fn request_reply(server: &Server, tasks: u32) -> anyhow::Result<Cost> {
    run(server, tasks, async |url| {
        let (asks, answers) = (connected(&url).await?, connected(&url).await?);
        let mut requests = answers.subscribe("bench.ask").await?;
        let answering = tokio::spawn(async move {
            while let Some(request) = next(&mut requests).await {
                let reply = request.reply.context("no reply subject")?;
                let result = Bytes::from_static(&RESULT);
                answers.publish(reply, result).await?;
            }
            anyhow::Ok(())
        });
        // The server knows of the subscription once a request is answered.
        let ask = Bytes::from_static(&TASK);
        while asks.request("bench.ask", ask.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut asked = JoinSet::new();
        for _ in 0..tasks {
            if asked.len() == AT_ONCE {
                asked.join_next().await.context("none")???;
            }
            let asks = asks.clone();
            asked.spawn(async move {
                let request = Bytes::from_static(&TASK);
                let reply = asks.request("bench.ask", request).await?;
                ensure!(reply.payload == RESULT[..]);
                Ok(())
            });
        }
        while let Some(one) = asked.join_next().await {
            one??;
        }
        answering.abort();
        Ok(())
    })
}

pub(crate) fn task_result(server: &Server, tasks: u32) -> anyhow::Result<Cost> {
    run(server, tasks, async |url| {
        let submitter = jetstream::new(connected(&url).await?);
        let tasks_stream = submitter
            .create_stream(stream::Config {
                name: "BENCH".into(),
                subjects: vec!["bench.task".into()],
                retention: stream::RetentionPolicy::WorkQueue,
                ..Default::default()
            })
            .await?;
        // A bucket, as a stream: the client does not understand how a server of 2.9 makes one.
        submitter
            .create_stream(stream::Config {
                name: "KV_bench".into(),
                subjects: vec!["$KV.bench.>".into()],
                max_messages_per_subject: 1,
                allow_rollup: true,
                deny_delete: true,
                allow_direct: true,
                discard: stream::DiscardPolicy::New,
                ..Default::default()
            })
            .await?;
        let results = submitter.get_key_value("bench").await?;
        let worker = tokio::spawn(work(connected(&url).await?));
        let mut watch = results.watch_all().await?;
        let submitting = tokio::spawn(submit(submitter.clone(), tasks));
        let all = async {
            for _ in 0..tasks {
                let result = next(&mut watch).await.context("the watch ended")??;
                ensure!(result.value == RESULT[..]);
            }
            Ok(())
        };
        tokio::time::timeout(ENOUGH, all).await??;
        submitting.await??;
        worker.abort();
        drop(tasks_stream);
        submitter.delete_stream("BENCH").await?;
        submitter.delete_stream("KV_bench").await?;
        Ok(())
    })
}

/// Publishes tasks, and waits for the acknowledgement of each.
async fn submit(jetstream: jetstream::Context, tasks: u32) -> anyhow::Result<()> {
    let mut published = JoinSet::new();
    for _ in 0..tasks {
        if published.len() == AT_ONCE {
            published.join_next().await.context("none")???;
        }
        let jetstream = jetstream.clone();
        published.spawn(async move {
            let task = Bytes::from_static(&TASK);
            jetstream.publish("bench.task", task).await?.await?;
            anyhow::Ok(())
        });
    }
    while let Some(one) = published.join_next().await {
        one??;
    }
    Ok(())
}

/// Takes tasks, creates the result of each, and has its acknowledgement confirmed.
async fn work(client: Client) -> anyhow::Result<()> {
    let jetstream = jetstream::new(client);
    let results = jetstream.get_key_value("bench").await?;
    let settings = consumer::pull::Config {
        durable_name: Some("bench".into()),
        ..Default::default()
    };
    let stream = jetstream.get_stream("BENCH").await?;
    let consumer = stream.create_consumer(settings).await?;
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(TAKEN)
        .messages()
        .await?;
    let mut taken = JoinSet::new();
    while let Some(message) = next(&mut messages).await {
        let message = message?;
        if taken.len() == TAKEN {
            taken.join_next().await.context("none")???;
        }
        let results = results.clone();
        taken.spawn(async move {
            let id = message.info().map(|info| info.stream_sequence);
            let id = id.map_err(|error| anyhow::anyhow!(error))?.to_string();
            let result = Bytes::from_static(&RESULT);
            results.create(id, result).await?;
            let acknowledged = message.double_ack().await;
            acknowledged.map_err(|error| anyhow::anyhow!(error))
        });
    }
    Ok(())
}

async fn connected(url: &str) -> anyhow::Result<Client> {
    Ok(async_nats::connect(url).await?)
}

fn run(
    server: &Server,
    tasks: u32,
    work: impl AsyncFnOnce(String) -> anyhow::Result<()>,
) -> anyhow::Result<Cost> {
    let runtime = tokio::runtime::Runtime::new()?;
    let counted = Counted {
        server: server.pid(),
        workers: Vec::new(),
    };
    cost(tasks, &counted, || runtime.block_on(work(server.url())))
}
