//! What of a message's header goes on, and what belongs to one connection alone.
//!
//! Uses nothing of the server. Sources: RFC 9110, section 7.6.1 (connection-specific fields);
//! RFC 9112, section 3.2 (the target of a request) and section 6 (the length of messages).

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, request, response,
};

/// Fields that concern one connection, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Why a request is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It does not say for whom it is, or says it twice.
    Host,
    /// Its target is not that of an origin's request.
    Target,
    /// `CONNECT`: this is not a proxy.
    Connect,
    /// Its length is announced in two ways.
    Length,
    /// Its body has a transfer coding that is not understood.
    Coding,
}

impl Wrong {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Wrong::Host | Wrong::Target | Wrong::Length => StatusCode::BAD_REQUEST,
            // RFC 9112, section 6.1.
            Wrong::Connect | Wrong::Coding => StatusCode::NOT_IMPLEMENTED,
        }
    }

    pub(crate) fn why(self) -> &'static str {
        match self {
            Wrong::Host => "expected exactly one host",
            Wrong::Target => "expected a path",
            Wrong::Connect => "CONNECT is not supported",
            Wrong::Length => "expected either Content-Length or Transfer-Encoding",
            Wrong::Coding => "expected no Transfer-Encoding, or chunked",
        }
    }
}

/// Makes a client's request the app's: its target has scheme, authority and path, and its
/// header nothing of the connection. `TE: trailers` stays: it tells the app what the client
/// takes.
pub(crate) fn request(head: &mut request::Parts, scheme: &Scheme) -> Result<(), Wrong> {
    if head.method == Method::CONNECT {
        return Err(Wrong::Connect);
    }
    let lengths = head.headers.get_all(CONTENT_LENGTH).iter().count();
    if lengths > 1 || (lengths == 1 && head.headers.contains_key(TRANSFER_ENCODING)) {
        return Err(Wrong::Length);
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Wrong::Coding);
    }
    let authority = authority(head, scheme)?;
    let path = match (head.uri.path_and_query(), head.uri.scheme()) {
        (Some(path), _) => path.clone(),
        (None, Some(_)) => PathAndQuery::from_static("/"),
        // `GET x.org`: the form of CONNECT.
        (None, None) => return Err(Wrong::Target),
    };
    let is_of_all = path == "*" && head.method == Method::OPTIONS;
    if !is_of_all && !path.as_str().starts_with('/') {
        return Err(Wrong::Target);
    }
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    head.uri = Uri::from_parts(parts).map_err(|_| Wrong::Target)?;
    let takes_trailers = head.headers.get_all(TE).iter().any(|value| {
        let codings = value.to_str().unwrap_or_default().split(',');
        codings
            .map(str::trim)
            .any(|it| it.eq_ignore_ascii_case("trailers"))
    });
    remove_hop_by_hop(&mut head.headers);
    if takes_trailers {
        head.headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    head.headers.remove(HOST);
    Ok(())
}

/// For whom a request is. The target's authority counts before `Host`; in HTTP/1.1 there must
/// be a `Host`, whatever the target is, and in HTTP/2 it must not be another (RFC 9113, section
/// 8.3.1).
fn authority(head: &request::Parts, scheme: &Scheme) -> Result<Authority, Wrong> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() || (host.is_none() && head.version == Version::HTTP_11) {
        return Err(Wrong::Host);
    }
    let named = match host {
        Some(host) if host.is_empty() => None,
        Some(host) => {
            let host = host.as_bytes();
            Some(Authority::try_from(host).map_err(|_| Wrong::Host)?)
        }
        None => None,
    };
    let authority = match (head.uri.authority(), named) {
        (Some(authority), Some(named))
            if head.version == Version::HTTP_2 && !is_same(authority, &named, scheme) =>
        {
            return Err(Wrong::Host);
        }
        (Some(authority), _) => Some(authority.clone()),
        (None, named) => named,
    };
    match authority {
        // Who authenticates does it in a field of the header.
        Some(authority) if authority.as_str().contains('@') => Err(Wrong::Host),
        Some(authority) => Ok(authority),
        // HTTP/1.0 does without.
        None => Ok(Authority::from_static("localhost")),
    }
}

/// True if both name the same host and port.
fn is_same(one: &Authority, other: &Authority, scheme: &Scheme) -> bool {
    let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

/// What an app may not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadResponse {
    /// An informational status, which is not a response.
    Status,
    /// `Content-Length` is not a number, or is there twice with different values.
    Length,
}

impl BadResponse {
    pub(crate) fn why(self) -> &'static str {
        match self {
            BadResponse::Status => "the app answered with an informational status",
            BadResponse::Length => "the app answered with an invalid Content-Length",
        }
    }
}

/// Makes an app's response the client's; the length of its body, where the app announced it.
pub(crate) fn response(
    head: &mut response::Parts,
    method: &Method,
) -> Result<Option<u64>, BadResponse> {
    if head.status.is_informational() {
        return Err(BadResponse::Status);
    }
    remove_hop_by_hop(&mut head.headers);
    let mut length: Option<u64> = None;
    for value in head.headers.get_all(CONTENT_LENGTH) {
        let digits = value
            .to_str()
            .ok()
            .filter(|it| it.bytes().all(|b| b.is_ascii_digit()));
        let value = digits.and_then(|digits| digits.parse().ok());
        let value = value.ok_or(BadResponse::Length)?;
        if length.is_some_and(|length| length != value) {
            return Err(BadResponse::Length);
        }
        length = Some(value);
    }
    if head.status == StatusCode::NO_CONTENT {
        head.headers.remove(CONTENT_LENGTH);
    } else if let Some(length) = length {
        head.headers.insert(CONTENT_LENGTH, length.into());
    }
    if is_bodiless(method, head.status) {
        return Ok(None);
    }
    Ok(length)
}

/// True where the client expects no body, whatever the header says.
pub(crate) fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Removes what belongs to one connection.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        let names = value.to_str().unwrap_or_default().split(',');
        named.extend(names.filter_map(|name| name.trim().parse::<HeaderName>().ok()));
    }
    for name in named {
        // What a message must have, a client cannot take from it.
        if name != HOST && name != CONTENT_LENGTH {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};

    fn parts(request: request::Builder) -> request::Parts {
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn the_target_has_scheme_and_authority() {
        for (uri, host, expected) in [
            ("/a?b=c", Some("x.org:81"), "http://x.org:81/a?b=c"),
            ("http://y.org/a", Some("x.org"), "http://y.org/a"),
            ("/", Some("x.org"), "http://x.org/"),
            ("http://y.org", Some("y.org"), "http://y.org/"),
        ] {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let mut head = parts(request);
            super::request(&mut head, &Scheme::HTTP).expect(uri);
            assert_eq!(head.uri.to_string(), expected);
            assert!(!head.headers.contains_key(HOST));
        }
    }

    #[test]
    fn requests_that_mean_two_things_are_refused() {
        let get = || Request::builder().uri("/");
        let with_host = || get().header("host", "x.org");
        for (request, expected) in [
            (get(), Wrong::Host),
            (with_host().header("host", "y.org"), Wrong::Host),
            (get().header("host", "x.org/y"), Wrong::Host),
            (get().header("host", "me@x.org"), Wrong::Host),
            (
                with_host()
                    .header("content-length", "3")
                    .header("transfer-encoding", "chunked"),
                Wrong::Length,
            ),
            (
                with_host()
                    .header("content-length", "3")
                    .header("content-length", "3"),
                Wrong::Length,
            ),
            (
                with_host().header("transfer-encoding", "gzip, chunked"),
                Wrong::Coding,
            ),
            (
                with_host()
                    .header("transfer-encoding", "chunked")
                    .header("transfer-encoding", "chunked"),
                Wrong::Coding,
            ),
            (
                with_host().uri("http://y.org/").version(Version::HTTP_2),
                Wrong::Host,
            ),
            (
                with_host().uri("http://x.org:81/").version(Version::HTTP_2),
                Wrong::Host,
            ),
            (with_host().method("CONNECT"), Wrong::Connect),
            (with_host().uri("*"), Wrong::Target),
            (with_host().uri("x.org"), Wrong::Target),
        ] {
            let mut head = parts(request);
            let refused = super::request(&mut head, &Scheme::HTTP);
            assert_eq!(refused, Err(expected), "{head:?}");
        }
        let same = Request::builder().header("host", "X.org");
        let same = same.uri("http://x.org:80/").version(Version::HTTP_2);
        assert_eq!(super::request(&mut parts(same), &Scheme::HTTP), Ok(()));
        let mut head = parts(get().version(Version::HTTP_10));
        assert_eq!(super::request(&mut head, &Scheme::HTTP), Ok(()));
        assert_eq!(head.uri.host(), Some("localhost"));
        let mut head = parts(with_host().uri("*").method("OPTIONS"));
        assert_eq!(super::request(&mut head, &Scheme::HTTP), Ok(()));
    }

    #[test]
    fn fields_of_the_connection_stay_here() {
        let request = Request::builder()
            .uri("/")
            .header("host", "x.org")
            .header("connection", "keep-alive, X-Mine , content-length, host")
            .header("keep-alive", "timeout=5")
            .header("te", "gzip, trailers")
            .header("x-mine", "1")
            .header("x-other", "2")
            .header("content-length", "3")
            .header("upgrade", "websocket")
            .header("proxy-authorization", "secret")
            .header("authorization", "kept");
        let mut head = parts(request);
        super::request(&mut head, &Scheme::HTTPS).expect("a request");
        let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "content-length", "te", "x-other"]);
        assert_eq!(head.headers[TE], "trailers");
    }

    #[test]
    fn responses() {
        let head = |response: response::Builder| response.body(()).expect("one").into_parts().0;
        let sized = |status: u16, length: &str| {
            let response = Response::builder().status(status);
            head(response.header("content-length", length))
        };
        let get = &Method::GET;
        assert_eq!(response(&mut sized(200, "5"), get), Ok(Some(5)));
        assert_eq!(response(&mut sized(200, "5"), &Method::HEAD), Ok(None));
        assert_eq!(response(&mut sized(304, "5"), get), Ok(None));
        assert_eq!(
            response(&mut sized(200, "+5"), get),
            Err(BadResponse::Length)
        );
        assert_eq!(
            response(&mut sized(103, "5"), get),
            Err(BadResponse::Status)
        );
        let mut none = sized(204, "0");
        assert_eq!(response(&mut none, get), Ok(None));
        assert!(!none.headers.contains_key(CONTENT_LENGTH));
        let mut hop = head(
            Response::builder()
                .header("transfer-encoding", "chunked")
                .header("connection", "close"),
        );
        assert_eq!(response(&mut hop, get), Ok(None));
        assert!(hop.headers.is_empty());
        let mut twice = head(
            Response::builder()
                .header("content-length", "5")
                .header("content-length", "6"),
        );
        assert_eq!(response(&mut twice, get), Err(BadResponse::Length));
    }
}
