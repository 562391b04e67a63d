//! How a fleet is doing, as data.

use super::Fleet;
use crate::error::Error;
use crate::nats::error_words;
use crate::protocol::{Presence, now_ms};
use async_nats::jetstream::stream::Info;
use serde::Serialize;
use std::str::FromStr;
use wrun_map::next;

/// A fleet at one time.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Tasks that have no result yet, those in flight included.
    pub queued: u64,
    /// Tasks that workers have now.
    pub in_flight: u64,
    /// Tasks that were delivered more than once and have no result yet.
    pub redelivered: u64,
    /// Bytes of queued messages.
    pub queued_bytes: u64,
    /// Results that are kept.
    pub results: u64,
    /// Tasks that were buried.
    pub dead: u64,
    /// Messages on subjects that are no class and tenant: no worker takes them.
    pub strays: u64,
    /// Each class and tenant that has tasks.
    pub lanes: Vec<LaneStatus>,
    /// The workers.
    pub workers: Vec<Presence>,
    /// The version of the server.
    pub server: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// The tasks of a class and tenant.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LaneStatus {
    /// The class.
    pub class: String,
    /// The tenant.
    pub tenant: String,
    /// Tasks without a result, those in flight included.
    pub queued: u64,
    /// Tasks that workers have.
    pub in_flight: u64,
}

/// How loaded a worker is, for people: `3/8`.
#[derive(Debug)]
pub struct Busy<'a>(pub &'a Presence);

impl std::fmt::Display for Busy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.running, self.0.jobs)
    }
}

/// What [`Fleet::purge`] takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waste {
    /// Queued tasks, which get no result.
    Queue,
    /// Buried tasks.
    Dead,
    /// Results, inputs and outputs.
    Results,
    /// Modules.
    Modules,
}

impl FromStr for Waste {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "queue" => Waste::Queue,
            "dead" => Waste::Dead,
            "results" => Waste::Results,
            "modules" => Waste::Modules,
            _ => {
                let message = "expected queue, dead, results or modules";
                return Err(Error::invalid(message));
            }
        })
    }
}

/// How much was taken away.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Purged {
    /// Messages: tasks, results, parts of objects.
    pub messages: u64,
}

impl Fleet {
    /// How the fleet is doing.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub async fn status(&self) -> Result<Status, Error> {
        let failed =
            |error: &dyn std::error::Error| Error::server("look at the fleet", error_words(error));
        let tasks = self
            .layout
            .tasks
            .get_info()
            .await
            .map_err(|error| failed(&error))?;
        let dead = self
            .layout
            .dead
            .get_info()
            .await
            .map_err(|error| failed(&error))?;
        let results = self
            .layout
            .results
            .status()
            .await
            .map_err(|error| failed(&error))?;
        let queued = self.layout.queued().await?;
        let mut in_flight = std::collections::HashMap::new();
        let mut redelivered = 0;
        let mut consumers = self.layout.tasks.consumers();
        while let Some(consumer) = next(&mut consumers).await {
            let consumer = consumer.map_err(|error| failed(&error))?;
            redelivered += consumer.num_redelivered as u64;
            let subject = consumer.config.filter_subject;
            in_flight.insert(subject, consumer.num_ack_pending as u64);
        }
        let lanes = queued
            .into_iter()
            .map(|((class, tenant), queued)| LaneStatus {
                in_flight: in_flight
                    .get(&crate::nats::task_subject(&class, &tenant))
                    .copied()
                    .unwrap_or(0),
                class: class.to_string(),
                tenant: tenant.to_string(),
                queued,
            });
        let lanes: Vec<_> = lanes.collect();
        let known: u64 = lanes.iter().map(|lane| lane.queued).sum();
        Ok(Status {
            queued: tasks.state.messages,
            in_flight: in_flight.values().sum(),
            redelivered,
            queued_bytes: tasks.state.bytes,
            results: results.values(),
            dead: dead.state.messages,
            strays: tasks.state.messages.saturating_sub(known),
            lanes,
            workers: self.workers().await?,
            server: self.layout.client.server_info().version,
            at_ms: now_ms(),
        })
    }

    /// The workers that were there within the last half minute.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub async fn workers(&self) -> Result<Vec<Presence>, Error> {
        let failed =
            |error: &dyn std::error::Error| Error::server("list the workers", error_words(error));
        let mut keys = self
            .layout
            .workers
            .keys()
            .await
            .map_err(|error| failed(&error))?;
        let mut workers = Vec::new();
        while let Some(key) = next(&mut keys).await {
            let key = key.map_err(|error| failed(&error))?;
            let value = self
                .layout
                .workers
                .get(key)
                .await
                .map_err(|error| failed(&error))?;
            let presence = value.and_then(|value| serde_json::from_slice::<Presence>(&value).ok());
            workers.extend(presence);
        }
        workers.sort_by(|one, other| (&one.host, one.pid).cmp(&(&other.host, other.pid)));
        Ok(workers)
    }

    /// Takes away what was collected, for good.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub async fn purge(&self, waste: Waste) -> Result<Purged, Error> {
        let streams: &[&str] = match waste {
            Waste::Queue => &["WRUN_TASKS"],
            Waste::Dead => &["WRUN_DEAD"],
            Waste::Results => &[
                "KV_wrun_results",
                "KV_wrun_marks",
                "KV_wrun_returns",
                "OBJ_wrun_objects",
            ],
            Waste::Modules => &["OBJ_wrun_modules"],
        };
        let mut purged = Purged::default();
        for name in streams {
            let doing = format!("purge {name}");
            let failed = |error: &dyn std::error::Error| Error::server(&doing, error_words(error));
            let stream = self
                .layout
                .jetstream
                .get_stream(name)
                .await
                .map_err(|error| failed(&error))?;
            let stream: &async_nats::jetstream::stream::Stream<Info> = &stream;
            purged.messages += stream.purge().await.map_err(|error| failed(&error))?.purged;
        }
        Ok(purged)
    }
}
