//! File streams of WASI 0.2 that need no separate thread, and the stream calls that wait
//! for them.
//!
//! wasmtime-wasi passes the work of a non-blocking call on a file to a thread. A worker has
//! one thread and may not start another. Here a file is always ready: such a call reads or
//! writes before it returns, in both modes, so a task cannot distinguish them by when data
//! is available.
//!
//! Invariant: if the thread may not block, no stream accesses its file on it. A call
//! records the work, and the linker's function waits for it elsewhere.

use super::wasi_0_2::WASI;
use crate::host::{FileCalls, Host};
use bytes::{Bytes, BytesMut};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p2::bindings::io::streams::{
    Host as StreamsHost, HostInputStream, HostOutputStream, StreamError as GuestStreamError,
};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};

/// Maximum that one call reads, and that a stream reports as writable: as in wasmtime-wasi.
const PIECE: usize = 64 << 10;

/// Reads a file from a position on.
struct FileInput {
    file: Arc<File>,
    position: u64,
    calls: FileCalls,
    state: Reading,
}

enum Reading {
    Idle,
    /// This many bytes are to be read.
    Wanted(usize),
    /// These bytes were read and not taken yet.
    Has(Bytes),
    Failed(io::Error),
    Closed,
}

impl FileInput {
    fn new(file: Arc<File>, position: u64, calls: FileCalls) -> Self {
        FileInput {
            file,
            position,
            calls,
            state: Reading::Idle,
        }
    }

    async fn fetch(&mut self, size: usize) {
        let position = self.position;
        let read = self
            .calls
            .run(&self.file, move |file| read_at(file, position, size))
            .await;
        self.state = Reading::of(read);
    }
}

impl Reading {
    fn of(read: io::Result<Bytes>) -> Self {
        match read {
            Ok(bytes) if bytes.is_empty() => Reading::Closed,
            Ok(bytes) => Reading::Has(bytes),
            Err(error) => Reading::Failed(error),
        }
    }
}

fn read_at(file: &File, position: u64, size: usize) -> io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(size.min(PIECE));
    loop {
        match file.read_at(&mut buffer, position) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer.freeze());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[async_trait::async_trait]
impl InputStream for FileInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if let Reading::Idle | Reading::Wanted(_) = self.state
            && size > 0
        {
            if self.calls.blocking {
                self.state = Reading::of(read_at(&self.file, self.position, size));
            } else {
                self.state = Reading::Wanted(size);
                self.calls.want();
            }
        }
        match std::mem::replace(&mut self.state, Reading::Closed) {
            Reading::Has(mut bytes) => {
                let taken = bytes.split_to(size.min(bytes.len()));
                self.position = self.position.saturating_add(taken.len() as u64);
                self.state = match bytes.is_empty() {
                    true => Reading::Idle,
                    false => Reading::Has(bytes),
                };
                Ok(taken)
            }
            Reading::Failed(error) => Err(StreamError::LastOperationFailed(error.into())),
            Reading::Closed => Err(StreamError::Closed),
            unread => {
                self.state = unread;
                Ok(Bytes::new())
            }
        }
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        if let Reading::Idle | Reading::Wanted(_) = self.state
            && size > 0
        {
            self.fetch(size).await;
        }
        self.read(size)
    }
}

#[async_trait::async_trait]
impl Pollable for FileInput {
    async fn ready(&mut self) {
        if let Reading::Wanted(size) = self.state {
            self.fetch(size).await;
        }
    }
}

#[derive(Clone, Copy)]
enum Offset {
    At(u64),
    End,
}

/// Writes to a file, from a position on or at its end.
struct FileOutput {
    file: Arc<File>,
    offset: Offset,
    calls: FileCalls,
    state: Writing,
}

enum Writing {
    Ready,
    /// These bytes are to be written.
    Wanted(Bytes),
    Failed(io::Error),
    Closed,
}

impl FileOutput {
    fn new(file: Arc<File>, offset: Offset, calls: FileCalls) -> Self {
        FileOutput {
            file,
            offset,
            calls,
            state: Writing::Ready,
        }
    }

    async fn put(&mut self, bytes: Bytes) {
        let offset = self.offset;
        let written = self
            .calls
            .run(&self.file, move |file| write_at(file, offset, &bytes))
            .await;
        self.wrote(written);
    }

    fn wrote(&mut self, written: io::Result<usize>) {
        self.state = match written {
            Ok(len) => {
                if let Offset::At(position) = &mut self.offset {
                    *position = position.saturating_add(len as u64);
                }
                Writing::Ready
            }
            Err(error) => Writing::Failed(error),
        };
    }

    /// The failure of an earlier write, reported once.
    fn failure(&mut self) -> StreamResult<()> {
        match &self.state {
            Writing::Ready | Writing::Wanted(_) => Ok(()),
            Writing::Failed(_) | Writing::Closed => {
                match std::mem::replace(&mut self.state, Writing::Closed) {
                    Writing::Failed(error) => Err(StreamError::LastOperationFailed(error.into())),
                    _ => Err(StreamError::Closed),
                }
            }
        }
    }
}

/// Writes all of `bytes`; an empty write is a write as well, and can fail.
fn write_at(file: &File, mut offset: Offset, mut bytes: &[u8]) -> io::Result<usize> {
    let mut total = 0;
    loop {
        let written = match offset {
            Offset::At(position) => file.write_at(bytes, position),
            Offset::End => append(file, bytes),
        };
        let written = match written {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        total += written;
        bytes = bytes.get(written..).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(total);
        }
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if let Offset::At(position) = &mut offset {
            *position = position.saturating_add(written as u64);
        }
    }
}

fn append(file: &File, bytes: &[u8]) -> io::Result<usize> {
    match rustix::io::pwritev2(file, &[IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND) {
        Err(Errno::NOSYS | Errno::NOTSUP) => {}
        otherwise => return Ok(otherwise?),
    }
    // A file system without support for it: the description is the guest's own, so no other
    // code writes meanwhile.
    let flags = fcntl_getfl(file)?;
    fcntl_setfl(file, flags | OFlags::APPEND)?;
    let written = rustix::io::write(file, bytes);
    fcntl_setfl(file, flags)?;
    Ok(written?)
}

#[async_trait::async_trait]
impl OutputStream for FileOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        match self.state {
            Writing::Ready => {}
            Writing::Closed => return Err(StreamError::Closed),
            Writing::Wanted(_) | Writing::Failed(_) => {
                return Err(StreamError::trap(
                    "write not permitted: check_write not called first",
                ));
            }
        }
        if self.calls.blocking {
            let written = write_at(&self.file, self.offset, &bytes);
            self.wrote(written);
        } else {
            self.state = Writing::Wanted(bytes);
            self.calls.want();
        }
        Ok(())
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.ready().await;
        self.failure()?;
        self.put(bytes).await;
        self.failure()
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.failure()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.failure()?;
        Ok(match self.state {
            Writing::Wanted(_) => 0,
            _ => PIECE,
        })
    }

    async fn cancel(&mut self) {
        self.ready().await;
    }
}

#[async_trait::async_trait]
impl Pollable for FileOutput {
    async fn ready(&mut self) {
        if let Writing::Wanted(bytes) = &self.state {
            let bytes = bytes.clone();
            self.put(bytes).await;
        }
    }
}

type Store<'a> = StoreContextMut<'a, Host>;
type Input = Resource<DynInputStream>;
type Output = Resource<DynOutputStream>;

fn table(host: &mut Host) -> &mut ResourceTable {
    host.wasi.table()
}

/// Converts the result of a stream call for the guest.
fn answer<T>(
    host: &mut Host,
    result: StreamResult<T>,
) -> wasmtime::Result<(Result<T, GuestStreamError>,)> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(table(host).convert_stream_error(error)?),
    },))
}

/// Another handle of the same stream, for one more call.
fn again<T: 'static>(stream: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(stream.rep())
}

/// Streams over files, and the non-blocking calls, which wait for a file if the thread may
/// not block.
pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    add_files(linker)?;
    let mut streams = linker.instance(&format!("wasi:io/streams@{WASI}"))?;
    streams.func_wrap_async(
        "[method]input-stream.read",
        |mut store: Store<'_>, (stream, len): (Input, u64)| {
            Box::new(async move {
                let host = store.data_mut();
                let mut result = HostInputStream::read(table(host), again(&stream), len);
                if host.file_calls.take_wanted() {
                    table(host).get_mut(&stream)?.ready().await;
                    result = HostInputStream::read(table(host), stream, len);
                }
                answer(host, result)
            })
        },
    )?;
    streams.func_wrap_async(
        "[method]input-stream.skip",
        |mut store: Store<'_>, (stream, len): (Input, u64)| {
            Box::new(async move {
                let host = store.data_mut();
                let mut result = HostInputStream::skip(table(host), again(&stream), len);
                if host.file_calls.take_wanted() {
                    table(host).get_mut(&stream)?.ready().await;
                    result = HostInputStream::skip(table(host), stream, len);
                }
                answer(host, result)
            })
        },
    )?;
    streams.func_wrap_async(
        "[method]output-stream.write",
        |mut store: Store<'_>, (stream, bytes): (Output, Vec<u8>)| {
            Box::new(async move {
                let host = store.data_mut();
                let result = HostOutputStream::write(table(host), again(&stream), bytes);
                if host.file_calls.take_wanted() {
                    table(host).get_mut(&stream)?.ready().await;
                }
                answer(host, result)
            })
        },
    )?;
    streams.func_wrap_async(
        "[method]output-stream.write-zeroes",
        |mut store: Store<'_>, (stream, len): (Output, u64)| {
            Box::new(async move {
                let host = store.data_mut();
                let result = HostOutputStream::write_zeroes(table(host), again(&stream), len);
                if host.file_calls.take_wanted() {
                    table(host).get_mut(&stream)?.ready().await;
                }
                answer(host, result)
            })
        },
    )?;
    streams.func_wrap_async(
        "[method]output-stream.splice",
        |mut store: Store<'_>, (output, input, len): (Output, Input, u64)| {
            Box::new(async move {
                let host = store.data_mut();
                let splice = |host: &mut Host| {
                    HostOutputStream::splice(table(host), again(&output), again(&input), len)
                };
                let mut result = splice(host);
                // Its input is a file, and none of it was written yet.
                if matches!(result, Ok(0)) && host.file_calls.take_wanted() {
                    table(host).get_mut(&input)?.ready().await;
                    result = splice(host);
                }
                if host.file_calls.take_wanted() {
                    table(host).get_mut(&output)?.ready().await;
                }
                answer(host, result)
            })
        },
    )
}

fn add_files(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    type Opened<T> = wasmtime::Result<(Result<Resource<T>, ErrorCode>,)>;

    fn output(
        host: &mut Host,
        file: &Resource<Descriptor>,
        offset: Offset,
    ) -> Opened<DynOutputStream> {
        let calls = host.file_calls.of_a_stream();
        let view = host.filesystem();
        let file = match view.table.get(file)? {
            Descriptor::Dir(_) => return Ok((Err(ErrorCode::BadDescriptor),)),
            Descriptor::File(file) if file.perms.write_not_permitted() => {
                return Ok((Err(ErrorCode::NotPermitted),));
            }
            Descriptor::File(file) => file.file.clone(),
        };
        let stream: DynOutputStream = Box::new(FileOutput::new(file, offset, calls));
        Ok((host.push(stream).ok_or(ErrorCode::InsufficientMemory),))
    }

    let mut types = linker.instance(&format!("wasi:filesystem/types@{WASI}"))?;
    types.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store: Store<'_>, (file, offset): (Resource<Descriptor>, u64)| -> Opened<_> {
            let host = store.data_mut();
            let calls = host.file_calls.of_a_stream();
            let view = host.filesystem();
            let file = match view.table.get(&file)? {
                Descriptor::Dir(_) => return Ok((Err(ErrorCode::IsDirectory),)),
                Descriptor::File(file) => file.file.clone(),
            };
            let stream: DynInputStream = Box::new(FileInput::new(file, offset, calls));
            Ok((host.push(stream).ok_or(ErrorCode::InsufficientMemory),))
        },
    )?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: Store<'_>, (file, offset): (Resource<Descriptor>, u64)| {
            output(store.data_mut(), &file, Offset::At(offset))
        },
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: Store<'_>, (file,): (Resource<Descriptor>,)| {
            output(store.data_mut(), &file, Offset::End)
        },
    )
}
