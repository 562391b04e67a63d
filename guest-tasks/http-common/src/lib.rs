//! What the HTTP guests share: the target of a request, answers, and bodies that wait for their reader.
//!
//! They use no `std`, which imports files, arguments and environment even if a guest does not use them:
//! [`bare!`] defines what is missing then.

#![no_std]

extern crate alloc;

// `memcmp` and its like, which come with `std` otherwise.
#[link(name = "c")]
unsafe extern "C" {}

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingRequest,
    OutgoingResponse, ResponseOutparam, Scheme, Trailers,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

/// How many bytes are read or written at once.
pub const BLOCK: usize = 64 << 10;

/// What a request asks for.
pub struct Target {
    /// The method in capital letters.
    pub method: String,
    /// From the first `/` to the `?`, as it was sent.
    pub path: String,
    query: String,
}

impl Target {
    /// Of this request.
    pub fn of(request: &IncomingRequest) -> Self {
        let whole = request.path_with_query().unwrap_or_default();
        let (path, query) = whole.split_once('?').unwrap_or((&whole, ""));
        let method = request.method();
        let method = match &method {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Connect => "CONNECT",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Patch => "PATCH",
            Method::Other(other) => other,
        };
        Target {
            method: method.into(),
            path: if path.is_empty() { "/" } else { path }.into(),
            query: query.into(),
        }
    }

    /// The decoded value of `name=value` in the query.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then(|| decoded(value))
        })
    }

    /// The number `name=value` in the query; `otherwise` if there is none.
    pub fn number(&self, name: &str, otherwise: u64) -> u64 {
        self.parameter(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(otherwise)
    }
}

/// Without percent encoding; what is not encoded correctly stays as it is.
pub fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = match bytes[at] {
            b'%' => text.get(at + 1..at + 3),
            _ => None,
        };
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Sends a whole answer.
pub fn answer(out: ResponseOutparam, status: u16, headers: &[(&str, &str)], content: &[u8]) {
    let length = content.len().to_string();
    let mut headers = headers.to_vec();
    headers.push(("content-length", &length));
    let mut body = begin(out, status, &headers);
    if body.write(content).is_ok() {
        body.end(None);
    }
}

/// Sends a whole answer of text.
pub fn text(out: ResponseOutparam, status: u16, content: &str) {
    answer(out, status, &[PLAIN], content.as_bytes());
}

/// The header of text.
pub const PLAIN: (&str, &str) = ("content-type", "text/plain; charset=utf-8");

/// Fields with these names and values, without those that the server refuses.
pub fn fields(list: &[(&str, &str)]) -> Fields {
    let fields = Fields::new();
    for (name, value) in list {
        let _ = fields.append(name, value.as_bytes());
    }
    fields
}

/// Sends the head of an answer; its body follows.
pub fn begin(out: ResponseOutparam, status: u16, headers: &[(&str, &str)]) -> Body {
    let response = OutgoingResponse::new(fields(headers));
    let known = response.set_status_code(status);
    let body = response.body();
    ResponseOutparam::set(out, Ok(response));
    known.expect("a status code");
    Body::of(body.expect("the only body"))
}

/// The client is gone, or the server does not want more.
pub struct Gone;

impl From<StreamError> for Gone {
    fn from(_: StreamError) -> Self {
        Gone
    }
}

/// A body that is sent. If it is dropped before its end, the client learns that it is incomplete.
pub struct Body {
    // Before the body: it must be dropped first.
    stream: OutputStream,
    body: OutgoingBody,
}

impl Body {
    /// The body of a response of one's own.
    pub fn of(body: OutgoingBody) -> Self {
        let stream = body.write().expect("the only stream");
        Body { stream, body }
    }

    /// Sends bytes, as fast as they are taken.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let room = self.stream.check_write()?;
            if room == 0 {
                self.stream.subscribe().block();
                continue;
            }
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.stream.write(now)?;
            bytes = later;
        }
        Ok(())
    }

    /// Waits until everything that was written is on its way.
    pub fn flush(&mut self) -> Result<(), Gone> {
        Ok(self.stream.blocking_flush()?)
    }

    /// Lets the server copy what comes from `input`, until its end.
    pub fn splice(&mut self, input: &InputStream) -> Result<(), StreamError> {
        loop {
            match self.stream.blocking_splice(input, BLOCK as u64) {
                Ok(_) => {}
                Err(StreamError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The end of the body, and what follows it.
    pub fn end(self, trailers: Option<Trailers>) {
        let Body { stream, body } = self;
        drop(stream);
        // An error is that the content is longer or shorter than it was said to be.
        let _ = OutgoingBody::finish(body, trailers);
    }
}

/// Reads a body, piece by piece, as it comes: to its end, or until `piece` returns an error.
/// What went wrong with the body itself is a text.
pub fn read<E>(
    body: IncomingBody,
    mut piece: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<Result<(), E>, String> {
    let stream = body.stream().map_err(|()| "it was read before")?;
    loop {
        match stream.blocking_read(BLOCK as u64) {
            Ok(bytes) => {
                if let Err(error) = piece(&bytes) {
                    return Ok(Err(error));
                }
            }
            Err(StreamError::Closed) => return Ok(Ok(())),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(match wasip2::http::types::http_error_code(&error) {
                    Some(code) => name_of(&code),
                    // Some servers add where they were in their own code.
                    None => error
                        .to_debug_string()
                        .lines()
                        .next()
                        .unwrap_or("")
                        .to_owned(),
                });
            }
        }
    }
}

/// The request for a URL; none if it is not one.
pub fn request(method: &Method, url: &str, headers: Fields) -> Option<OutgoingRequest> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.into()),
    };
    let rest = rest.split('#').next()?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let path: String = match path.starts_with('/') {
        true => path.into(),
        false => format!("/{path}"),
    };
    let request = OutgoingRequest::new(headers);
    request.set_method(method).ok()?;
    request.set_scheme(Some(&scheme)).ok()?;
    request.set_authority(Some(authority)).ok()?;
    request.set_path_with_query(Some(&path)).ok()?;
    Some(request)
}

/// The name of an error, with its details if it has some.
pub fn name_of(code: &ErrorCode) -> String {
    let text = format!("{code:?}");
    text.strip_prefix("ErrorCode::").unwrap_or(&text).to_owned()
}

#[doc(hidden)]
pub use dlmalloc::GlobalDlmalloc;

/// A panic's message goes to stderr; then the guest traps.
#[doc(hidden)]
pub fn panicked(info: &core::panic::PanicInfo) -> ! {
    let line = format!("{info}\n");
    let stderr = wasip2::cli::stderr::get_stderr();
    for piece in line.as_bytes().chunks(4096) {
        let _ = stderr.blocking_write_and_flush(piece);
    }
    core::arch::wasm32::unreachable()
}

/// What the host's strings and lists are written to.
///
/// # Safety
///
/// As the canonical ABI says: `old` has `old_size` bytes, and was allocated here.
#[doc(hidden)]
pub unsafe fn realloc(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    use alloc::alloc::{Layout, alloc, realloc};
    if size == 0 {
        return core::ptr::without_provenance_mut(align);
    }
    // SAFETY: the caller's promise.
    let new = unsafe {
        match old_size {
            0 => alloc(Layout::from_size_align_unchecked(size, align)),
            _ => realloc(
                old,
                Layout::from_size_align_unchecked(old_size, align),
                size,
            ),
        }
    };
    if new.is_null() {
        core::arch::wasm32::unreachable()
    }
    new
}

/// Defines what `std` defines otherwise: allocator, panic handler, and the function that the host
/// allocates with.
#[macro_export]
macro_rules! bare {
    () => {
        #[global_allocator]
        static ALLOCATOR: $crate::GlobalDlmalloc = $crate::GlobalDlmalloc;

        #[panic_handler]
        fn panicked(info: &core::panic::PanicInfo) -> ! {
            $crate::panicked(info)
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn cabi_realloc(
            old: *mut u8,
            old_size: usize,
            align: usize,
            size: usize,
        ) -> *mut u8 {
            // SAFETY: the caller's promise.
            unsafe { $crate::realloc(old, old_size, align, size) }
        }
    };
}
