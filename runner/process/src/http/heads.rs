//! Heads of requests and responses: as the crate `http` has them, and on the wire.

use super::Wrong;
use crate::wire::{Fields, RequestHead, ResponseHead};
use bytes::Bytes;
use http::header::{EXPECT, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri, request, response};
use wrun_sandbox::http::MAX_FIELDS;

pub(super) fn fields_of(map: &HeaderMap) -> Fields {
    let field = |(name, value): (&HeaderName, &HeaderValue)| {
        (
            name.as_str().to_owned(),
            Bytes::copy_from_slice(value.as_bytes()),
        )
    };
    map.iter().map(field).collect()
}

pub(super) fn map_of(fields: Fields) -> Result<HeaderMap, Wrong> {
    if fields.len() > MAX_FIELDS {
        return Err("it sent too many HTTP fields");
    }
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_maybe_shared(value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err("it sent an HTTP field that cannot be");
        };
        map.append(name, value);
    }
    Ok(map)
}

impl RequestHead {
    pub(super) fn of(parts: &request::Parts, has_body: bool) -> Self {
        RequestHead {
            method: parts.method.as_str().to_owned(),
            uri: parts.uri.to_string(),
            fields: fields_of(&parts.headers),
            has_body,
            waits: has_body && parts.headers.contains_key(EXPECT),
        }
    }

    pub(super) fn into_parts(self) -> Result<request::Parts, Wrong> {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        let method = Method::from_bytes(self.method.as_bytes());
        let uri = Uri::from_maybe_shared(self.uri.into_bytes());
        let (Ok(method), Ok(uri)) = (method, uri) else {
            return Err("a request that cannot be");
        };
        parts.method = method;
        parts.uri = uri;
        parts.headers = map_of(self.fields)?;
        Ok(parts)
    }
}

impl ResponseHead {
    pub(super) fn of(parts: &response::Parts, has_body: bool) -> Self {
        ResponseHead {
            status: parts.status.as_u16(),
            fields: fields_of(&parts.headers),
            has_body,
        }
    }

    pub(super) fn into_parts(self) -> Result<response::Parts, Wrong> {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        let status = StatusCode::from_u16(self.status);
        parts.status = status.map_err(|_| "it sent an HTTP status that cannot be")?;
        parts.headers = map_of(self.fields)?;
        Ok(parts)
    }
}
