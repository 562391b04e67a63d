//! Which app answers: by host and by the beginning of the path.
//!
//! Invariant: a prefix matches whole segments of the path, of the request as it was sent: dots
//! and percent signs in it are not interpreted here, and reach the app as they are.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

/// The requests that an app answers: those for a host, or any, whose path begins with a
/// prefix. Written `[HOST]/PREFIX`.
///
/// Where several match, the one with a host comes before those without, and then the longest
/// prefix.
///
/// ```
/// use wrun_serve::Pattern;
///
/// let pattern: Pattern = "example.org/api".parse()?;
/// assert!(pattern.matches("Example.org:8080", "/api/users"));
/// assert!(!pattern.matches("example.org", "/apis"));
/// # Ok::<(), wrun_serve::PatternError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// In lower case and without a port.
    host: Option<String>,
    /// Without a slash at its end; empty for all paths.
    prefix: String,
}

/// Why a text is not a [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a route: {why}")]
pub struct PatternError {
    text: String,
    why: &'static str,
}

impl Pattern {
    /// Matches all requests.
    pub fn any() -> Self {
        Pattern {
            host: None,
            prefix: String::new(),
        }
    }

    /// True for a request for this host, with or without a port, and this path.
    pub fn matches(&self, host: &str, path: &str) -> bool {
        let for_host = match &self.host {
            Some(expected) => without_port(host).eq_ignore_ascii_case(expected),
            None => true,
        };
        let rest = path.strip_prefix(self.prefix.as_str());
        for_host && rest.is_some_and(|rest| self.prefix.is_empty() || is_boundary(rest))
    }

    /// The order in which patterns are tried.
    fn rank(&self) -> (bool, Reverse<usize>) {
        (self.host.is_none(), Reverse(self.prefix.len()))
    }
}

fn is_boundary(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

/// A host without its port; of an address of IPv6, the brackets stay.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = |why| {
            Err(PatternError {
                text: text.to_owned(),
                why,
            })
        };
        let Some(at) = text.find('/') else {
            return wrong("expected [HOST]/PREFIX, with a slash");
        };
        let (host, prefix) = text.split_at(at);
        if without_port(host) != host {
            return wrong("the host is written without a port");
        }
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        if !host.chars().all(is_host) {
            return wrong("the host may have letters, digits, dots and hyphens");
        }
        if !prefix.chars().all(|c| c.is_ascii_graphic()) || prefix.contains(['?', '#']) {
            return wrong("the prefix is a path as it is sent: without spaces, `?` and `#`");
        }
        Ok(Pattern {
            host: (!host.is_empty()).then(|| host.to_ascii_lowercase()),
            prefix: prefix.trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or_default();
        let prefix = match self.prefix.as_str() {
            "" => "/",
            prefix => prefix,
        };
        write!(f, "{host}{prefix}")
    }
}

/// What is found by a request's host and path.
#[derive(Debug)]
pub(crate) struct Table<T>(Vec<(Pattern, T)>);

impl<T> Table<T> {
    pub(crate) fn new(mut routes: Vec<(Pattern, T)>) -> Self {
        routes.sort_by_key(|(pattern, _)| pattern.rank());
        Table(routes)
    }

    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&T> {
        let mut routes = self.0.iter();
        let found = routes.find(|(pattern, _)| pattern.matches(host, path));
        found.map(|(_, found)| found)
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &(Pattern, T)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect(text)
    }

    #[test]
    fn prefixes_end_at_segments() {
        let api = pattern("/api");
        for path in ["/api", "/api/", "/api/x"] {
            assert!(api.matches("any", path), "{path}");
        }
        for path in ["/", "/apis", "/x/api", "*", ""] {
            assert!(!api.matches("any", path), "{path}");
        }
        assert_eq!(pattern("/api/"), api);
        assert!(pattern("/").matches("", "*"));
        assert_eq!(pattern("/"), Pattern::any());
    }

    #[test]
    fn hosts_are_compared_without_port_and_case() {
        let here = pattern("Example.org/");
        assert!(here.matches("example.ORG:443", "/x"));
        assert!(!here.matches("www.example.org", "/x"));
        let six = pattern("[::1]/");
        assert!(six.matches("[::1]:8080", "/"));
        assert!(six.matches("[::1]", "/"));
    }

    #[test]
    fn the_most_specific_comes_first() {
        let table = Table::new(vec![
            (pattern("/"), 0),
            (pattern("/api"), 1),
            (pattern("/api/v2"), 2),
            (pattern("a.org/"), 3),
            (pattern("a.org/api"), 4),
        ]);
        for (host, path, expected) in [
            ("b.org", "/", 0),
            ("b.org", "/api", 1),
            ("b.org", "/api/v2/x", 2),
            ("a.org", "/api/v2", 4),
            ("a.org:80", "/other", 3),
        ] {
            assert_eq!(table.find(host, path), Some(&expected), "{host} {path}");
        }
        let table = Table::new(vec![(pattern("a.org/x"), ())]);
        assert!(table.find("a.org", "/y").is_none());
    }

    #[test]
    fn what_is_not_a_pattern() {
        for bad in ["", "api", "a.org:80/", "a b/", "/a b", "/a?b", "/ä"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
        assert_eq!(pattern("A.org/b/").to_string(), "a.org/b");
        assert_eq!(pattern("/").to_string(), "/");
    }
}
