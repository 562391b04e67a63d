//! What the server was told to keep, for how long and how often, and how that is changed.

use super::Fleet;
use crate::error::{Error, ErrorKind};
use crate::nats::{Layout, error_words, streams};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// New settings of streams and buckets; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// As [`QueueLimits::max_queued`](crate::QueueLimits::max_queued).
    pub max_queued: Option<u64>,
    /// As [`QueueLimits::keep`](crate::QueueLimits::keep).
    pub keep: Option<Duration>,
    /// As [`QueueLimits::replicas`](crate::QueueLimits::replicas).
    pub replicas: Option<usize>,
}

/// A stream of a fleet, or the one behind a bucket.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StreamSettings {
    /// Its name on the server.
    pub stream: String,
    /// Messages that it has.
    pub messages: u64,
    /// Bytes that it has.
    pub bytes: u64,
    /// Maximum of messages of a subject, and so of the queued tasks of a class and tenant; `None`
    /// is no limit.
    pub max_of_subject: Option<u64>,
    /// How long messages are kept, in seconds; `None` is for ever.
    pub keep_seconds: Option<u64>,
    /// How many servers have each message.
    pub replicas: u64,
}

impl Fleet {
    /// Changes the settings of all streams and buckets that they are for, and returns those that
    /// all have then. Nothing that is kept is lost, unless it is older than the new
    /// [`Changes::keep`]. Programs that are connected go by the old one until they connect again.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, or refuses: it has fewer servers than replicas, for example.
    /// Streams that were changed before stay so.
    pub async fn set_up(&self, changes: Changes) -> Result<Vec<StreamSettings>, Error> {
        let mut all = Vec::new();
        for (stream, keeps_for_a_time) in streams() {
            let mut info = self.call("INFO", &stream, &json!({})).await?;
            let mut config = info["config"].clone();
            let before = config.clone();
            if let Some(most) = changes.max_queued
                && Layout::has_tasks(&stream)
            {
                config["max_msgs_per_subject"] = most.into();
            }
            if let Some(keep) = changes.keep
                && keeps_for_a_time
            {
                config["max_age"] = u64::try_from(keep.as_nanos()).unwrap_or(u64::MAX).into();
            }
            if let Some(replicas) = changes.replicas {
                // A server of 2.9 says yes to any number, and keeps one.
                if replicas > 1 && info.pointer("/cluster/name").is_none() {
                    let message = format!(
                        "cannot keep {replicas} replicas of {stream}: the server is not part of a \
                         cluster"
                    );
                    return Err(Error::new(ErrorKind::Denied, message));
                }
                config["num_replicas"] = replicas.into();
            }
            if config != before {
                // The server refuses a window that is longer than what it is about.
                if let Some(age @ 1..) = config["max_age"].as_u64()
                    && config["duplicate_window"].as_u64() > Some(age)
                {
                    config["duplicate_window"] = age.into();
                }
                info = self.call("UPDATE", &stream, &config).await?;
            }
            all.push(settings(stream, &info));
        }
        Ok(all)
    }

    /// As it was said, and not as a type of the client: a newer server has more settings, which
    /// stay as they are.
    async fn call(&self, verb: &str, stream: &str, body: &Value) -> Result<Value, Error> {
        let what = format!("set up the stream {stream}");
        let subject = format!("STREAM.{verb}.{stream}");
        let answer = self.layout.jetstream.request(subject, body).await;
        let answer: Value = answer.map_err(|error| Error::server(&what, error_words(&error)))?;
        match answer.pointer("/error/description") {
            Some(why) => {
                let why = why.as_str().unwrap_or("it does not say why");
                let message = format!("cannot {what}: {why}");
                Err(Error::new(ErrorKind::Denied, message))
            }
            None => Ok(answer),
        }
    }
}

fn settings(stream: String, info: &Value) -> StreamSettings {
    let some = |path: &str| info.pointer(path).and_then(Value::as_u64);
    StreamSettings {
        stream,
        messages: some("/state/messages").unwrap_or(0),
        bytes: some("/state/bytes").unwrap_or(0),
        // -1 is none.
        max_of_subject: some("/config/max_msgs_per_subject").filter(|most| *most > 0),
        keep_seconds: some("/config/max_age")
            .filter(|age| *age > 0)
            .map(|age| age / 1_000_000_000),
        replicas: some("/config/num_replicas").unwrap_or(1),
    }
}
