//! Who is asked: configured servers, or those of the node's own resolver.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const PORT: u16 = 53;
/// Where the servers are when the usual file only names the local stub.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// The servers in the text of a `resolv.conf`.
#[must_use]
pub fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let mut out = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A zone after a link-local address: `fe80::1%eth0`. Such a server is left out, as nobody routes to it.
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        let server = address.map(|address| SocketAddr::new(address, PORT));
        out.extend(server.filter(|server| !out.contains(server)));
    }
    out
}

/// The servers to ask, kept up to date with the file they come from.
#[derive(Debug)]
pub struct Upstreams {
    fixed: bool,
    path: PathBuf,
    read: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Upstreams {
    /// These servers; none: those of `resolv_conf`.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>, resolv_conf: &Path) -> Upstreams {
        let fixed = !servers.is_empty();
        let mut all = Upstreams { fixed, path: resolv_conf.to_owned(), read: None, servers };
        all.refresh();
        all
    }

    /// Reads the file again if it is another one now.
    pub fn refresh(&mut self) {
        if self.fixed {
            return;
        }
        let changed = std::fs::metadata(&self.path).and_then(|m| m.modified()).ok();
        if changed.is_none() || (changed == self.read && !self.servers.is_empty()) {
            return;
        }
        self.read = changed;
        let read = |path: &Path| std::fs::read_to_string(path).map(|text| parse_resolv_conf(&text));
        let mut servers = read(&self.path).unwrap_or_default();
        if !servers.is_empty() && servers.iter().all(|server| server.ip().is_loopback()) {
            let behind = read(Path::new(BEHIND_STUB)).unwrap_or_default();
            if !behind.is_empty() {
                servers = behind;
            }
        }
        if servers != self.servers {
            tracing::info!(?servers, file = %self.path.display(), "upstream DNS servers");
        }
        self.servers = servers;
    }

    /// The servers now, without those that are this node's own server under another name.
    #[must_use]
    pub fn servers(&self, own: &[IpAddr]) -> Vec<SocketAddr> {
        self.servers.iter().filter(|server| !own.contains(&server.ip())).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_resolvers_read_them() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 192.0.2.1\n nameserver fd00::53 \n\
                    nameserver fe80::1%eth0\nnameserver 192.0.2.1\noptions ndots:5\n";
        let expected: Vec<SocketAddr> =
            ["192.0.2.1:53", "[fd00::53]:53"].map(|text| text.parse().unwrap()).into();
        assert_eq!(parse_resolv_conf(text), expected);
    }

    #[test]
    fn the_servers_own_address_is_not_asked() {
        let folder = std::env::temp_dir().join(format!("skein-dns-{}", std::process::id()));
        std::fs::write(&folder, "nameserver 10.96.0.10\nnameserver 192.0.2.1\n").unwrap();
        let upstreams = Upstreams::new(Vec::new(), &folder);
        std::fs::remove_file(&folder).unwrap();
        let own = ["10.96.0.10".parse().unwrap()];
        assert_eq!(upstreams.servers(&own), ["192.0.2.1:53".parse().unwrap()]);
    }
}
