//! Which request goes where: hosts and paths, and who comes before whom.
//!
//! A host is compared without regard to case and without its port; a wildcard stands for exactly one label. Paths are
//! compared by their elements, as Kubernetes says: the prefix `/a` is for `/a` and `/a/b` and not for `/ab`. The more
//! exact host is asked first, then the longer path, then the exact one before the prefix. [`Routes::choose`] says what
//! the rendered configuration has to do; tests hold HAProxy to it.

use crate::quote::is_plain;
use uuid::Uuid;

/// Longest host name (RFC 1035 section 2.3.4).
const HOST_LIMIT: usize = 253;
/// Longest path: a line of the configuration must hold it.
const PATH_LIMIT: usize = 1024;

/// Requests for this host and path go to this pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// For which hosts.
    pub host: Host,
    /// For which paths.
    pub path: PathMatch,
    /// The pool.
    pub pool: Uuid,
}

/// A host as a route names it. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// This one.
    Exact(String),
    /// One label before this: `example.com` for `*.example.com`.
    Under(String),
    /// Every one.
    Any,
}

/// A path as a route names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// This one.
    Exact(String),
    /// These elements and whatever follows, without a slash at the end; empty: every path.
    Prefix(String),
}

impl Host {
    /// Reads a host; the error says what is wrong with it.
    ///
    /// # Errors
    /// It is no host name, or has a wildcard that is not its first label.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.trim_end_matches('.').to_ascii_lowercase();
        if lower.is_empty() {
            return Ok(Host::Any);
        }
        let (wild, name) = match lower.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, lower.as_str()),
        };
        let good = |label: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            !label.is_empty() && label.len() <= 63 && label.bytes().all(allowed)
        };
        if lower.len() > HOST_LIMIT || !name.split('.').all(good) {
            return Err(format!("host {text:?} is no host name; write name.example.com"));
        }
        Ok(if wild { Host::Under(name.to_owned()) } else { Host::Exact(lower) })
    }

    /// Whether a request's host, in lower case and without port, is meant.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Host::Exact(name) => name == host,
            Host::Under(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
            Host::Any => true,
        }
    }

    /// Less is asked first.
    fn rank(&self) -> (u8, std::cmp::Reverse<usize>, &str) {
        match self {
            Host::Exact(name) => (0, std::cmp::Reverse(0), name),
            Host::Under(name) => (1, std::cmp::Reverse(name.len()), name),
            Host::Any => (2, std::cmp::Reverse(0), ""),
        }
    }
}

impl PathMatch {
    /// Reads a path by its kind: `Exact`, `Prefix` or `ImplementationSpecific`, which here is a prefix, too.
    ///
    /// # Errors
    /// It does not begin with a slash, or holds what no path of a request can hold.
    pub fn parse(kind: &str, text: &str) -> Result<Self, String> {
        if !(text.is_empty() || text.starts_with('/')) {
            return Err(format!("path {text:?} does not begin with /"));
        }
        if text.len() > PATH_LIMIT || !is_plain(text) {
            return Err(format!(
                "path {text:?} has spaces or control characters, or more than {PATH_LIMIT} bytes; \
                 write them as %20"
            ));
        }
        if kind == "Exact" {
            return Ok(PathMatch::Exact(text.to_owned()));
        }
        Ok(PathMatch::Prefix(text.trim_end_matches('/').to_owned()))
    }

    /// Whether a request's path, without its query, is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathMatch::Exact(own) => own == path,
            PathMatch::Prefix(own) => {
                path.strip_prefix(own.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                    || own.is_empty()
            }
        }
    }

    /// Less is asked first.
    fn rank(&self) -> (std::cmp::Reverse<usize>, u8, &str) {
        match self {
            PathMatch::Exact(own) => (std::cmp::Reverse(own.trim_end_matches('/').len()), 0, own),
            PathMatch::Prefix(own) => (std::cmp::Reverse(own.len()), 1, own),
        }
    }
}

/// Puts routes in the order in which they are asked; of two for the same host and path the first stays.
pub fn sort(routes: &mut Vec<Route>) {
    routes.sort_by(|a, b| (a.host.rank(), a.path.rank()).cmp(&(b.host.rank(), b.path.rank())));
    routes.dedup_by(|later, first| later.host == first.host && later.path == first.path);
}

/// The pool of a request: of sorted routes the first that fits.
#[must_use]
pub fn choose(routes: &[Route], host: &str, path: &str) -> Option<Uuid> {
    let host = host.to_ascii_lowercase();
    let fits = |route: &&Route| route.host.matches(&host) && route.path.matches(path);
    routes.iter().find(fits).map(|route| route.pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_one_wildcard_label() {
        assert_eq!(Host::parse(""), Ok(Host::Any));
        assert_eq!(Host::parse("Shop.Example.COM"), Ok(Host::Exact("shop.example.com".into())));
        assert_eq!(Host::parse("*.example.com"), Ok(Host::Under("example.com".into())));
        for bad in ["*", "a.*.com", "*a.com", "a b.com", "a..b", "x\ny", "http://a"] {
            assert!(Host::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_are_compared_by_elements() {
        let path =
            |kind, text| PathMatch::parse(kind, text).unwrap_or(PathMatch::Exact("?".into()));
        for (kind, own, request, fits) in [
            ("Prefix", "/", "/", true),
            ("Prefix", "/", "/any/thing", true),
            ("Prefix", "/foo", "/foo", true),
            ("Prefix", "/foo", "/foo/", true),
            ("Prefix", "/foo", "/foo/bar", true),
            ("Prefix", "/foo", "/foobar", false),
            ("Prefix", "/foo/", "/foo", true),
            ("Prefix", "/foo/", "/foo/bar", true),
            ("Prefix", "/foo/bar", "/foo", false),
            ("Prefix", "/aaa/bbb", "/aaa/bbbxyz", false),
            ("Prefix", "/Foo", "/foo", false),
            ("Exact", "/foo", "/foo", true),
            ("Exact", "/foo", "/foo/", false),
            ("Exact", "/foo/", "/foo", false),
            ("ImplementationSpecific", "", "/foo", true),
            ("ImplementationSpecific", "/foo", "/foo/bar", true),
        ] {
            assert_eq!(path(kind, own).matches(request), fits, "{kind} {own} {request}");
        }
        assert!(PathMatch::parse("Prefix", "foo").is_err());
        assert!(PathMatch::parse("Prefix", "/a b").is_err());
        assert!(PathMatch::parse("Prefix", "/a\nuse_backend x").is_err());
    }
}
