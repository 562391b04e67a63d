//! One output stream of a worker, on its way to its task's sink.
//!
//! Invariant: delivery ends. The reader sets the pace, but a worker that sends nothing
//! while there is room is not waited for.

use bytes::BytesMut;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use wrun_sandbox::turn::Turn;
use wrun_sandbox::{CHUNK, Sink};

/// How long output that a worker counted may take to arrive.
const DRAIN: Duration = Duration::from_secs(5);

pub(super) struct Stream {
    pump: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The pipe ended, or the sink accepts no more.
    over: bool,
    moved: Arc<Moved>,
}

#[derive(Default)]
struct Moved {
    bytes: AtomicU64,
    /// The sink is full, so everything waits for its reader.
    waits: AtomicBool,
    /// The sink accepts no more.
    refused: AtomicBool,
    changed: Notify,
}

impl Stream {
    /// Output that comes by a pipe, if there is one. It can belong to `also`, too, if that
    /// one joins `sink`.
    pub(super) fn new(pipe: Option<pipe::Receiver>, sink: &Sink, also: Option<&Sink>) -> Self {
        let moved = Arc::new(Moved::default());
        let over = pipe.is_none();
        let (sink, also) = (sink.clone(), also.cloned());
        let told = moved.clone();
        Stream {
            pump: Box::pin(async move {
                if let Some(pipe) = pipe {
                    pump(pipe, sink, also, told).await;
                }
            }),
            over,
            moved,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Moves bytes until there are no more.
    pub(super) async fn run(&mut self) {
        if !self.over {
            self.pump.as_mut().await;
            self.over = true;
        }
    }

    /// Moves bytes until this many have arrived, or no more will. Returns whether all
    /// arrived that were promised, as far as they were needed.
    pub(super) async fn deliver(&mut self, promised: u64) -> bool {
        let moved = self.moved.clone();
        let arrived = || moved.bytes.load(Ordering::Acquire);
        while !self.over && arrived() < promised {
            let before = arrived();
            tokio::select! {
                biased;
                () = self.run() => {}
                () = moved.changed.notified() => {}
                () = tokio::time::sleep(DRAIN) => {
                    if arrived() == before && !moved.waits.load(Ordering::Acquire) {
                        break;
                    }
                }
            }
        }
        arrived() >= promised || moved.refused.load(Ordering::Acquire)
    }
}

/// Moves a worker's output to its sink until it ends, or the sink accepts no more.
async fn pump(mut pipe: pipe::Receiver, sink: Sink, also: Option<Sink>, moved: Arc<Moved>) {
    let mut buffer = BytesMut::new();
    let mut turn = Turn::new();
    loop {
        turn.give_way().await;
        buffer.reserve(CHUNK);
        match pipe.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(len) => {
                turn.spend(len);
                moved.waits.store(true, Ordering::Release);
                let chunk = buffer.split().freeze();
                let taken = sink.put_joined(also.as_ref(), chunk).await;
                moved.waits.store(false, Ordering::Release);
                moved.refused.store(!taken, Ordering::Release);
                moved.bytes.fetch_add(len as u64, Ordering::AcqRel);
                moved.changed.notify_one();
                if !taken {
                    break;
                }
            }
        }
    }
}
