//! Modules, large inputs and large outputs in the object stores of JetStream.

use super::{Layout, ObjectName};
use crate::error::{Error, ErrorKind};
use crate::protocol::{Digest, ObjectRef, TaskId};
use crate::worker::{ModuleSource, ObjectStore};
use async_nats::jetstream::object_store as store;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Cursor};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// How long the next part of an object may take.
const NEXT_PART: Duration = Duration::from_secs(30);
/// How long storing an object may take, and as long again for each 8 MiB.
const STORING: Duration = Duration::from_secs(60);
const PART: usize = 128 << 10;

/// The object stores of a fleet.
#[derive(Clone)]
pub struct NatsObjects(Layout);

impl std::fmt::Debug for NatsObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NatsObjects")
    }
}

impl NatsObjects {
    pub(crate) fn new(layout: Layout) -> Self {
        NatsObjects(layout)
    }

    /// Stores a module under its digest, if it is not there.
    pub(crate) async fn put_module(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let name = digest.to_string();
        if let Ok(info) = self.0.modules.info(&name).await
            && info.size == bytes.len()
            && !info.deleted
        {
            return Ok(digest);
        }
        put(
            &self.0.modules,
            &name,
            &mut Cursor::new(bytes),
            bytes.len() as u64,
        )
        .await?;
        Ok(digest)
    }

    /// Stores an object of this length and digest, unless it is there and young enough.
    pub(crate) async fn put(
        &self,
        object: &ObjectRef,
        from: &mut (impl AsyncRead + Unpin),
    ) -> Result<(), Error> {
        if let Ok(info) = self.0.objects.info(&object.name).await
            && info.size as u64 == object.bytes
            && !info.deleted
            && is_young(&info, self.0.objects_kept)
        {
            return Ok(());
        }
        put(&self.0.objects, &object.name, from, object.bytes).await
    }

    /// Reads an object as a whole, and checks its digest.
    pub(crate) async fn read(&self, object: &ObjectRef, most: u64) -> Result<Bytes, Error> {
        let bytes = read(&self.0.objects, &object.name, most).await?;
        let bytes = bytes.ok_or_else(|| gone(object))?;
        match Digest::of(&bytes) == object.blake3 {
            true => Ok(bytes),
            false => Err(differs(object, Digest::of(&bytes))),
        }
    }
}

/// Whether an object outlives a task that is submitted now: it has more than half of its time.
fn is_young(info: &store::ObjectInfo, kept: Duration) -> bool {
    let Some(modified) = info.modified else {
        return false;
    };
    let made = modified.unix_timestamp_nanos() / 1_000_000;
    let age = i128::from(crate::protocol::now_ms()) - made;
    kept.is_zero() || age < (kept.as_millis() / 2) as i128
}

fn gone(object: &ObjectRef) -> Error {
    let message = format!(
        "there is no object {}: it may have been kept long enough",
        object.name
    );
    Error::new(ErrorKind::NotFound, message)
}

fn differs(object: &ObjectRef, found: Digest) -> Error {
    let ObjectRef { name, blake3, .. } = object;
    Error::invalid(format!(
        "object {name} has the digest {found}, and the task says {blake3}"
    ))
}

async fn put(
    to: &store::ObjectStore,
    name: &str,
    from: &mut (impl AsyncRead + Unpin),
    len: u64,
) -> Result<(), Error> {
    let time = STORING * u32::try_from(1 + (len >> 23)).unwrap_or(u32::MAX);
    let stored = tokio::time::timeout(time, to.put(name, from)).await;
    let doing = format!("store the object {name}");
    match stored {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Error::server(&doing, words(&error))),
        Err(_) => Err(Error::server(&doing, "timed out")),
    }
}

/// An error with those that caused it.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let mut words = error.to_string();
    for cause in causes {
        let cause = cause.to_string();
        if !words.contains(&cause) {
            words += ": ";
            words += &cause;
        }
    }
    words
}

async fn open(from: &store::ObjectStore, name: &str) -> Result<Option<store::Object>, Error> {
    match from.get(name).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind() == store::GetErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::server(
            &format!("get the object {name}"),
            words(&error),
        )),
    }
}

async fn next_part(object: &mut store::Object, part: &mut [u8]) -> Result<usize, Error> {
    let name = object.info().name.clone();
    let doing = || format!("get the object {name}");
    match tokio::time::timeout(NEXT_PART, object.read(part)).await {
        Ok(Ok(read)) => Ok(read),
        // The client checks a digest of its own.
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Err(Error::invalid(
            format!("the object {name} is damaged: {error}"),
        )),
        Ok(Err(error)) => Err(Error::new(
            ErrorKind::Unavailable,
            format!("cannot {}: {error}", doing()),
        )),
        Err(_) => Err(Error::server(&doing(), "timed out")),
    }
}

async fn read(from: &store::ObjectStore, name: &str, most: u64) -> Result<Option<Bytes>, Error> {
    let Some(mut object) = open(from, name).await? else {
        return Ok(None);
    };
    let too_long = |len: u64| {
        Error::invalid(format!(
            "the object {name} has {len} bytes: at most {most} are allowed"
        ))
    };
    let claimed = object.info().size as u64;
    if claimed > most {
        return Err(too_long(claimed));
    }
    // What it claims is not trusted: memory is taken as bytes come.
    let (mut bytes, mut part) = (Vec::new(), vec![0; PART]);
    loop {
        match next_part(&mut object, &mut part).await? {
            0 => return Ok(Some(bytes.into())),
            read => bytes.extend_from_slice(&part[..read]),
        }
        if bytes.len() as u64 > most {
            return Err(too_long(bytes.len() as u64));
        }
    }
}

impl ModuleSource for NatsObjects {
    async fn fetch(&self, digest: Digest, most: u64) -> Result<Option<Bytes>, Error> {
        read(&self.0.modules, &digest.to_string(), most).await
    }
}

impl ObjectStore for NatsObjects {
    async fn download(&self, object: &ObjectRef, into: File) -> Result<File, Error> {
        let Some(mut from) = open(&self.0.objects, &object.name).await? else {
            return Err(gone(object));
        };
        let io = |error: io::Error| {
            let hint = wrun::limit_hint(&error);
            Error::new(
                ErrorKind::Io,
                format!("cannot write an input to the disk: {error}{hint}"),
            )
        };
        let mut into = tokio::fs::File::from_std(into);
        let (mut hasher, mut part, mut len) = (blake3::Hasher::new(), vec![0; PART], 0);
        loop {
            let read = next_part(&mut from, &mut part).await?;
            if read == 0 {
                break;
            }
            len += read as u64;
            if len > object.bytes {
                break;
            }
            hasher.update(&part[..read]);
            into.write_all(&part[..read]).await.map_err(io)?;
        }
        if len != object.bytes {
            let ObjectRef { name, bytes, .. } = object;
            return Err(Error::invalid(format!(
                "object {name} has another length than the task says: {bytes}"
            )));
        }
        let found = Digest::from_hasher(&hasher);
        if found != object.blake3 {
            return Err(differs(object, found));
        }
        into.flush().await.map_err(io)?;
        into.rewind().await.map_err(io)?;
        Ok(into.into_std().await)
    }

    async fn upload(&self, id: &TaskId, bytes: Bytes) -> Result<ObjectRef, Error> {
        let blake3 = Digest::of(&bytes);
        let object = ObjectRef {
            name: ObjectName::output(id, blake3),
            bytes: bytes.len() as u64,
            blake3,
        };
        self.put(&object, &mut Cursor::new(bytes)).await?;
        Ok(object)
    }
}
