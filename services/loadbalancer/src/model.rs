//! What a load balancer is, once its objects are read.

use crate::routes::Route;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use uuid::Uuid;

/// A load balancer, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    /// The `loadbalancer` object.
    pub uuid: Uuid,
    /// Its name, for people.
    pub name: String,
    /// Where it is reached.
    pub address: IpAddr,
    /// Name of the network of the address, its parts joined by ':'.
    pub network: String,
    /// The port that stands for it.
    pub vip: Vip,
    /// By port, in order.
    pub frontends: Vec<Frontend>,
    /// By pool.
    pub backends: BTreeMap<Uuid, Backend>,
    /// What could not be understood, for people.
    pub problems: Vec<String>,
}

impl Balancer {
    /// Names of the certificates it wants.
    #[must_use]
    pub fn certificates(&self) -> BTreeSet<String> {
        let tls = self.frontends.iter().filter_map(|frontend| match &frontend.kind {
            FrontendKind::Https { default, by_name } => Some(default.iter().chain(by_name)),
            FrontendKind::Http | FrontendKind::Tcp => None,
        });
        tls.flatten().cloned().collect()
    }
}

/// The virtual-machine-interface that stands for a load balancer, and what goes with it. A node's own port takes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The virtual-machine-interface.
    pub interface: Uuid,
    /// The instance-ip of the address, which the nodes' ports share.
    pub instance_ip: Uuid,
    /// Floating IPs that stand for the address.
    pub floating_ips: BTreeSet<Uuid>,
    /// Tags.
    pub tags: BTreeSet<Uuid>,
    /// Security groups.
    pub security_groups: BTreeSet<Uuid>,
}

/// Where connections come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// TCP port.
    pub port: u16,
    /// What is spoken there.
    pub kind: FrontendKind,
    /// Most connections at a time.
    pub connection_limit: Option<u32>,
    /// Where requests go, first match first. Empty for [`FrontendKind::Tcp`].
    pub routes: Vec<Route>,
    /// Where everything else goes: a pool.
    pub default: Option<Uuid>,
}

/// What is spoken with clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrontendKind {
    /// HTTP.
    Http,
    /// HTTP over TLS that ends here.
    Https {
        /// The certificate for clients that name no host, or one that no other is for.
        default: Option<String>,
        /// Certificates that are chosen by the names in them.
        by_name: Vec<String>,
    },
    /// Bytes: TCP, or TLS that ends at the members.
    Tcp,
}

/// Who serves, and how one is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Requests, not bytes.
    pub http: bool,
    /// `balance` of HAProxy.
    pub method: Method,
    /// How clients stay with a member.
    pub persistence: Option<Persistence>,
    /// How members are watched.
    pub monitor: Option<Monitor>,
    /// In a fixed order.
    pub members: Vec<Member>,
}

/// How a member is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// The one with the fewest connections.
    LeastConnections,
    /// By the client's address.
    Source,
}

/// How clients stay with a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// By their address.
    Source,
    /// By a cookie that the load balancer sets.
    Cookie,
    /// By a cookie of this name that the members set.
    ApplicationCookie(String),
}

/// How members are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// A request; `None`: a connection that opens is enough.
    pub http: Option<HttpProbe>,
    /// Over TLS, whose certificate is not looked at.
    pub tls: bool,
    /// Milliseconds between two probes.
    pub interval: u32,
    /// Milliseconds for an answer.
    pub timeout: u32,
    /// Failures in a row that take a member out.
    pub retries: u32,
}

/// A request that asks how a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Method.
    pub method: String,
    /// Path.
    pub path: String,
    /// Codes that mean well, `200`, `200,202` or `200-204`.
    pub codes: String,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The `loadbalancer-member`.
    pub uuid: Uuid,
    /// Where it is.
    pub address: IpAddr,
    /// Where it listens.
    pub port: u16,
    /// Share, 0 to 256; 0 takes nothing new.
    pub weight: u16,
}
