//! What a task may reach of the outside world. Plain data with a syntax.

use crate::task_error::TaskError;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A directory that a task may use, with everything below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirGrant {
    // A path need not be UTF-8, which serde's form of a path requires: it travels as bytes.
    #[serde(serialize_with = "path_to_bytes", deserialize_with = "path_from_bytes")]
    #[doc(hidden)]
    pub host: PathBuf,
    #[doc(hidden)]
    pub guest: String,
    #[doc(hidden)]
    pub read_only: bool,
}

fn path_to_bytes<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) if serializer.is_human_readable() => text.serialize(serializer),
        _ => path.as_os_str().as_bytes().serialize(serializer),
    }
}

fn path_from_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Bytes(Vec<u8>),
    }
    let bytes = match deserializer.is_human_readable() {
        true => match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into_bytes(),
            Form::Bytes(bytes) => bytes,
        },
        false => Vec::deserialize(deserializer)?,
    };
    Ok(OsString::from_vec(bytes).into())
}

impl DirGrant {
    /// Grants `host` for reading and writing, under the same name.
    pub fn new(host: impl Into<PathBuf>) -> Self {
        let host = host.into();
        let guest = host.to_string_lossy().into_owned();
        DirGrant {
            host,
            guest,
            read_only: false,
        }
    }

    /// The name the guest sees.
    pub fn guest(mut self, path: impl Into<String>) -> Self {
        self.guest = path.into();
        self
    }

    /// The name of the directory for the guest. Libraries compare paths with it byte by
    /// byte: if it ended in a slash, the directory itself would not be found.
    #[doc(hidden)]
    pub fn guest_name(&self) -> &str {
        match self.guest.trim_end_matches('/') {
            "" if self.guest.starts_with('/') => "/",
            trimmed => trimmed,
        }
    }

    /// The directory `HOST::GUEST`, if there is one.
    pub(crate) fn undivided(&self) -> Option<PathBuf> {
        let mut name = self.host.clone().into_os_string();
        name.push("::");
        name.push(&self.guest);
        Some(PathBuf::from(name)).filter(|it| it.is_dir())
    }

    /// Forbids writing, creating, renaming and deleting.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

impl TryFrom<&OsStr> for DirGrant {
    type Error = TaskError;

    /// `HOST[::GUEST][:ro|:rw]`; the default is `:rw`. The last `::` divides, so a HOST
    /// that contains one must be written with its GUEST, and so must one that is not UTF-8,
    /// because names for guests are.
    fn try_from(text: &OsStr) -> Result<Self, TaskError> {
        let syntax = || TaskError::DirSyntax {
            text: text.to_string_lossy().into_owned(),
        };
        let bytes = text.as_bytes();
        let (bytes, read_only) = match bytes.strip_suffix(b":ro") {
            Some(rest) => (rest, true),
            None => (bytes.strip_suffix(b":rw").unwrap_or(bytes), false),
        };
        let divided = bytes.windows(2).rposition(|it| it == b"::");
        let (host, guest) = match divided {
            Some(at) => (&bytes[..at], &bytes[at + 2..]),
            None => (bytes, bytes),
        };
        if host.is_empty() || guest.is_empty() {
            return Err(syntax());
        }
        let guest = std::str::from_utf8(guest).map_err(|_| TaskError::DirName {
            text: text.to_string_lossy().into_owned(),
        })?;
        let grant = DirGrant::new(OsStr::from_bytes(host)).guest(guest);
        Ok(if read_only { grant.read_only() } else { grant })
    }
}

impl FromStr for DirGrant {
    type Err = TaskError;

    /// `HOST[::GUEST][:ro|:rw]`, as from an [`OsStr`].
    fn from_str(text: &str) -> Result<Self, TaskError> {
        DirGrant::try_from(OsStr::new(text))
    }
}

/// TCP connections to one port of one host that a task may open.
///
/// Available to components (WASI 0.2); WASI 0.1 has no way to connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpGrant {
    /// As given: a name or an address.
    #[doc(hidden)]
    pub host: String,
    /// Whether `host` is a name, which the guest may then resolve.
    #[doc(hidden)]
    pub is_name: bool,
    /// The addresses of `host` when the grant was made.
    #[doc(hidden)]
    pub addresses: Vec<SocketAddr>,
}

impl TcpGrant {
    /// Grants `host:port`. A name is resolved once, now: later changes of its addresses do
    /// not widen the grant.
    pub fn new(host: &str, port: u16) -> Result<Self, TaskError> {
        use std::net::{IpAddr, ToSocketAddrs};
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(TcpGrant {
                host: bare.to_owned(),
                is_name: false,
                addresses: vec![SocketAddr::new(ip, port)],
            });
        }
        let addresses: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .map_err(|error| TaskError::Resolve {
                host: host.to_owned(),
                error,
            })?
            .take(64)
            .collect();
        Ok(TcpGrant {
            host: host.to_owned(),
            is_name: true,
            addresses,
        })
    }
}

impl FromStr for TcpGrant {
    type Err = TaskError;

    /// `HOST:PORT`, with an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, TaskError> {
        let syntax = || TaskError::TcpSyntax {
            text: text.to_owned(),
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(syntax)?;
        let port: u16 = port.parse().map_err(|_| syntax())?;
        if host.is_empty() || port == 0 {
            return Err(syntax());
        }
        TcpGrant::new(host, port)
    }
}

/// HTTP requests to one host, or to those below a domain, that a task may send.
///
/// The runner sends them, in either mode: the task itself gets no socket. The host is compared
/// as the request names it, and its addresses are those that it has when the request is sent:
/// a name whose addresses change is granted at each of them.
///
/// Available to components that import `wasi:http/outgoing-handler@0.2`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpGrant {
    /// In lower case, without a dot at the end, of an IPv6 address without brackets.
    #[doc(hidden)]
    pub host: String,
    /// Whether it is a domain whose subdomains are granted, and not the domain itself.
    #[doc(hidden)]
    pub is_domain: bool,
    /// None for the usual one: 443 for `https`, 80 for `http`.
    #[doc(hidden)]
    pub port: Option<u16>,
}

impl HttpGrant {
    /// Whether it includes requests to this host and port, over TLS or not.
    #[doc(hidden)]
    pub fn includes(&self, host: &str, port: u16, tls: bool) -> bool {
        let host = normal(host);
        let is_host = match self.is_domain {
            true => {
                let above = host.strip_suffix(&self.host);
                above.is_some_and(|above| above.len() > 1 && above.ends_with('.'))
            }
            false => host == self.host,
        };
        is_host && port == self.port.unwrap_or(if tls { 443 } else { 80 })
    }
}

/// A host as it is compared: names in lower case and without the root's dot, addresses in
/// one form each.
fn normal(host: &str) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<std::net::IpAddr>() {
        Ok(ip) => ip.to_canonical().to_string(),
        Err(_) => bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase(),
    }
}

impl FromStr for HttpGrant {
    type Err = TaskError;

    /// `HOST[:PORT]`, with an IPv6 address in brackets. `*.` before a domain grants all hosts
    /// below it. Without a port, it is that of the scheme: 443 for `https`, 80 for `http`.
    fn from_str(text: &str) -> Result<Self, TaskError> {
        let syntax = || TaskError::HttpSyntax {
            text: text.to_owned(),
        };
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                let port = port.parse::<u16>().map_err(|_| syntax())?;
                (host, Some(port))
            }
            _ => (text, None),
        };
        let (host, is_domain) = match host.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (host, false),
        };
        let is_address = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
        let is_name = host
            .split('.')
            .all(|label| !label.is_empty() && label.len() <= 63 && label.chars().all(of_a_name));
        if port == Some(0) || host.len() > 253 || !(is_name || is_address && !is_domain) {
            return Err(syntax());
        }
        Ok(HttpGrant {
            host: normal(host),
            is_domain,
            port,
        })
    }
}

fn of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dir_grants_parse() {
        let grant: DirGrant = "a/b".parse().expect("plain");
        assert_eq!((grant.guest.as_str(), grant.read_only), ("a/b", false));
        let grant: DirGrant = "a::/in:ro".parse().expect("all three");
        assert_eq!(grant, DirGrant::new("a").guest("/in").read_only());
        let grant: DirGrant = "a::/in:rw".parse().expect("the default, said");
        assert_eq!(grant, DirGrant::new("a").guest("/in"));
        assert_eq!("a:rw".parse::<DirGrant>().ok(), Some(DirGrant::new("a")));
        // Any other text is part of the name.
        for (text, guest) in [("a::x:rx", "x:rx"), ("a::x:", "x:"), ("a:b", "a:b")] {
            let grant: DirGrant = text.parse().expect(text);
            assert_eq!((&*grant.guest, grant.read_only), (guest, false), "{text}");
        }
        assert!(":rw".parse::<DirGrant>().is_err());
        assert!("".parse::<DirGrant>().is_err());
        assert!("a::".parse::<DirGrant>().is_err());
        assert!("::b".parse::<DirGrant>().is_err());
        let grant: DirGrant = "a::b::/in".parse().expect("a name with colons");
        assert_eq!(grant, DirGrant::new("a::b").guest("/in"));
    }

    #[test]
    fn directories_need_not_be_utf_8_but_their_guests_do() {
        let named = |bytes: &[u8]| DirGrant::try_from(OsStr::from_bytes(bytes));
        let grant = named(b"\xff::/in").expect("a name for the guest");
        assert_eq!(
            grant,
            DirGrant::new(OsStr::from_bytes(b"\xff")).guest("/in")
        );
        let bytes = postcard::to_allocvec(&grant).expect("bytes");
        assert_eq!(postcard::from_bytes::<DirGrant>(&bytes), Ok(grant));
        for bad in [&b"\xff"[..], b"\xff:ro", b"a::\xff"] {
            assert!(matches!(named(bad), Err(TaskError::DirName { .. })));
        }
    }

    #[test]
    fn tcp_grants_parse() {
        let grant: TcpGrant = "127.0.0.1:80".parse().expect("v4");
        assert!(!grant.is_name);
        let grant: TcpGrant = "[::1]:80".parse().expect("v6");
        assert_eq!(grant.addresses, ["[::1]:80".parse().expect("addr")]);
        for bad in [
            "",
            "host",
            ":80",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:99999",
        ] {
            assert!(bad.parse::<TcpGrant>().is_err(), "{bad}");
        }
    }

    #[test]
    fn http_grants_parse_and_include_what_they_say() {
        let includes = |grant: &str, url: (&str, u16, bool)| {
            let grant: HttpGrant = grant.parse().expect(grant);
            grant.includes(url.0, url.1, url.2)
        };
        assert!(includes("Example.org", ("example.ORG.", 443, true)));
        assert!(includes("example.org", ("example.org", 80, false)));
        assert!(!includes("example.org", ("example.org", 80, true)));
        assert!(!includes("example.org", ("example.org", 8080, false)));
        assert!(!includes("example.org", ("a.example.org", 443, true)));
        assert!(!includes(
            "example.org",
            ("example.org.evil.com", 443, true)
        ));
        assert!(includes("example.org:8080", ("example.org", 8080, true)));
        assert!(includes("*.example.org", ("a.b.example.org", 443, true)));
        for host in ["example.org", ".example.org", "badexample.org", "org"] {
            assert!(!includes("*.example.org", (host, 443, true)), "{host}");
        }
        assert!(includes("127.0.0.1:9", ("127.0.0.1", 9, false)));
        assert!(includes("[::1]:9", ("[0:0::1]", 9, false)));
        assert!(includes("[::ffff:127.0.0.1]", ("127.0.0.1", 80, false)));
        for bad in [
            "",
            ":80",
            "*",
            "*.",
            "*.[::1]",
            "::1",
            "[::1",
            "[::1]x",
            "a b",
            "a:",
            "a:0",
            "a:x",
            "a:99999",
            "https://a",
            "a/b",
            "a..b",
            ".a",
            "u@a",
            "*.*.a",
            "a.*",
        ] {
            assert!(bad.parse::<HttpGrant>().is_err(), "{bad}");
        }
    }
}
