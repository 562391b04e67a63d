//! Where things lie in JetStream: names of streams, buckets and subjects, and their settings.
//! What is missing is made; what is there is left as it is.

use super::REQUEST;
use super::objects::words;
use crate::error::{Error, ErrorKind};
use crate::protocol::{Digest, TaskId, Token};
use async_nats::Client;
use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::jetstream::{kv, object_store, stream};
use std::time::Duration;

const TASKS: &str = "WRUN_TASKS";
const DEAD: &str = "WRUN_DEAD";
const RESULTS: &str = "wrun_results";
const MARKS: &str = "wrun_marks";
const RETURNS: &str = "wrun_returns";
const WORKERS: &str = "wrun_workers";
const MODULES: &str = "wrun_modules";
const OBJECTS: &str = "wrun_objects";

/// How long a worker is listed after its last record.
const PRESENT: Duration = Duration::from_secs(30);
/// Attempts to open all streams and buckets, and the pause between two.
const OPENING: u32 = 5;
const OPENING_PAUSE: Duration = Duration::from_millis(300);
/// Acknowledgements of publishing that may be on their way.
const ACKS: usize = 1024;

/// Settings of streams and buckets, for those that are made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueLimits {
    /// Maximum of queued tasks of a class and tenant. Default: 1,000,000.
    pub max_queued: u64,
    /// How long results, inputs and outputs are kept. Default: 7 days.
    pub keep: Duration,
    /// How many servers of a cluster have each message. Default: 1.
    pub replicas: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        QueueLimits {
            max_queued: 1_000_000,
            keep: Duration::from_secs(7 * 24 * 3600),
            replicas: 1,
        }
    }
}

pub(crate) fn task_subject(class: &Token, tenant: &Token) -> String {
    format!("wrun.task.{class}.{tenant}")
}

pub(crate) fn dead_subject(class: &Token, tenant: &Token) -> String {
    format!("wrun.dead.{class}.{tenant}")
}

/// Names of objects.
#[derive(Debug)]
pub struct ObjectName;

impl ObjectName {
    /// An input, which several tasks may share.
    pub fn input(digest: Digest) -> String {
        format!("in.{digest}")
    }

    /// An output of a task. Two attempts with different outputs have two objects.
    pub fn output(id: &TaskId, digest: Digest) -> String {
        format!("out.{id}.{}", &digest.to_string()[..16])
    }
}

/// All streams and buckets of a fleet.
#[derive(Clone)]
pub(crate) struct Layout {
    pub(crate) client: Client,
    pub(crate) jetstream: Context,
    pub(crate) tasks: stream::Stream,
    pub(crate) dead: stream::Stream,
    pub(crate) results: kv::Store,
    pub(crate) marks: kv::Store,
    pub(crate) returns: kv::Store,
    pub(crate) workers: kv::Store,
    pub(crate) modules: object_store::ObjectStore,
    pub(crate) objects: object_store::ObjectStore,
    /// How long objects are kept; zero is forever.
    pub(crate) objects_kept: Duration,
    domain: Option<String>,
}

/// The streams of a fleet, those behind buckets too, and whether each keeps messages for the time of
/// [`QueueLimits::keep`].
pub(crate) fn streams() -> [(String, bool); 8] {
    [
        (TASKS.to_owned(), false),
        (DEAD.to_owned(), true),
        (format!("KV_{RESULTS}"), true),
        (format!("KV_{MARKS}"), true),
        (format!("KV_{RETURNS}"), true),
        (format!("KV_{WORKERS}"), false),
        (format!("OBJ_{MODULES}"), false),
        (format!("OBJ_{OBJECTS}"), true),
    ]
}

impl Layout {
    /// Whether that stream has the queued tasks.
    pub(crate) fn has_tasks(stream: &str) -> bool {
        stream == TASKS
    }

    /// Finds all of them, and makes what is missing. Other programs may do the same now, and one
    /// of two that make the same stream can fail: so it is tried again.
    pub(crate) async fn open(
        client: Client,
        domain: Option<&str>,
        limits: &QueueLimits,
    ) -> Result<Self, Error> {
        let mut attempts = 1;
        loop {
            match Self::open_once(client.clone(), domain, limits).await {
                Err(error)
                    if attempts < OPENING
                        && !matches!(error.kind(), ErrorKind::NoJetStream | ErrorKind::Denied) =>
                {
                    attempts += 1;
                    tokio::time::sleep(OPENING_PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    async fn open_once(
        client: Client,
        domain: Option<&str>,
        limits: &QueueLimits,
    ) -> Result<Self, Error> {
        let builder = ContextBuilder::new().timeout(REQUEST).ack_timeout(REQUEST);
        let builder = builder
            .max_ack_inflight(ACKS)
            .backpressure_on_inflight(true);
        let jetstream = match domain {
            None => builder.build(client.clone()),
            Some(domain) => ContextBuilder::new().domain(domain).build(client.clone()),
        };
        has_jetstream(&jetstream).await?;
        let many = i64::try_from(limits.max_queued).unwrap_or(i64::MAX);
        let tasks = stream::Config {
            name: TASKS.into(),
            description: Some("Tasks of wrun, until they are answered".into()),
            subjects: vec!["wrun.task.*.*".into()],
            retention: stream::RetentionPolicy::WorkQueue,
            discard: stream::DiscardPolicy::New,
            discard_new_per_subject: true,
            max_messages_per_subject: many,
            max_message_size: i32::try_from(crate::protocol::MAX_MESSAGE + 1024)
                .unwrap_or(i32::MAX),
            duplicate_window: Duration::from_secs(120),
            num_replicas: limits.replicas,
            ..stream::Config::default()
        };
        let dead = stream::Config {
            name: DEAD.into(),
            description: Some("Tasks of wrun that were buried".into()),
            subjects: vec!["wrun.dead.*.*".into()],
            max_age: limits.keep,
            num_replicas: limits.replicas,
            ..stream::Config::default()
        };
        // As clients make a bucket; ours asks the server first for what one of 2.9 says otherwise.
        let bucket = |name: &str, max_age| stream::Config {
            name: format!("KV_{name}"),
            subjects: vec![format!("$KV.{name}.>")],
            max_messages_per_subject: 1,
            max_age,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            discard: stream::DiscardPolicy::New,
            num_replicas: limits.replicas,
            ..stream::Config::default()
        };
        let objects = |name: &str, max_age| object_store::Config {
            bucket: name.into(),
            max_age,
            num_replicas: limits.replicas,
            ..object_store::Config::default()
        };
        let stored = open_objects(&jetstream, objects(OBJECTS, limits.keep)).await?;
        let kept = jetstream.get_stream(format!("OBJ_{OBJECTS}")).await;
        let kept = kept.map_err(|error| Error::server("look at the object store", error))?;
        Ok(Layout {
            tasks: open_stream(&jetstream, tasks).await?,
            dead: open_stream(&jetstream, dead).await?,
            results: open_bucket(&jetstream, RESULTS, bucket(RESULTS, limits.keep)).await?,
            marks: open_bucket(&jetstream, MARKS, bucket(MARKS, limits.keep)).await?,
            returns: open_bucket(&jetstream, RETURNS, bucket(RETURNS, limits.keep)).await?,
            workers: open_bucket(&jetstream, WORKERS, bucket(WORKERS, PRESENT)).await?,
            modules: open_objects(&jetstream, objects(MODULES, Duration::ZERO)).await?,
            objects: stored,
            objects_kept: kept.cached_info().config.max_age,
            domain: domain.map(str::to_owned),
            client,
            jetstream,
        })
    }
}

impl Layout {
    /// A subject of JetStream's interface, in its domain.
    pub(super) fn api(&self, subject: &str) -> String {
        match &self.domain {
            None => subject.to_owned(),
            Some(domain) => subject.replacen("$JS.API", &format!("$JS.{domain}.API"), 1),
        }
    }
}

/// The client's own type for this does not fit what a server of 2.9 says.
async fn has_jetstream(jetstream: &Context) -> Result<(), Error> {
    let info = jetstream
        .request::<_, _, serde_json::Value>("INFO", &())
        .await;
    let none = || {
        Error::new(
            ErrorKind::NoJetStream,
            "JetStream is not enabled on this server, or not for this account: start nats-server \
             with -js, or enable it in the account",
        )
    };
    match info {
        Err(error) if words(&error).contains("resource does not exist") => Err(none()),
        Err(error) => Err(Error::server("use JetStream", words(&error))),
        Ok(info) => match info
            .pointer("/error/description")
            .and_then(|it| it.as_str())
        {
            None => Ok(()),
            Some(why) if why.contains("not enabled") => Err(none()),
            Some(why) => Err(Error::server("use JetStream", why)),
        },
    }
}

async fn open_stream(jetstream: &Context, config: stream::Config) -> Result<stream::Stream, Error> {
    let name = config.name.clone();
    if let Ok(found) = jetstream.get_stream(&name).await {
        return Ok(found);
    }
    let made = jetstream.get_or_create_stream(config).await;
    made.map_err(|error| Error::server(&format!("make the stream {name}"), error))
}

async fn open_bucket(
    jetstream: &Context,
    name: &str,
    config: stream::Config,
) -> Result<kv::Store, Error> {
    open_stream(jetstream, config).await?;
    let found = jetstream.get_key_value(name).await;
    found.map_err(|error| Error::server(&format!("open the bucket {name}"), words(&error)))
}

async fn open_objects(
    jetstream: &Context,
    config: object_store::Config,
) -> Result<object_store::ObjectStore, Error> {
    let name = config.bucket.clone();
    if let Ok(found) = jetstream.get_object_store(&name).await {
        return Ok(found);
    }
    let made = jetstream.create_object_store(config).await;
    made.map_err(|error| Error::server(&format!("make the object store {name}"), error))
}
