//! Several replicas of the API on one etcd: one writes, all serve.
//!
//! [`follow`] keeps this replica's view as etcd has it, [`elect`] has it write when nobody else does, and
//! [`forward`] hands writes that come here to who writes.

mod elect;
mod follow;
mod forward;
mod metrics;

use std::{path::PathBuf, sync::Arc, time::Duration};

use skein_store::{Etcd, EtcdOptions, Leader, StoreError};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use crate::{published::Published, server::ServerError};
pub(crate) use elect::elect;
pub(crate) use follow::{first_load, follow};
pub(crate) use forward::{FORWARDED, Route, SCHEME};
pub(crate) use metrics::ReplicaMetrics;

/// Carries a revision: on an answer the one at which it holds, on a request the least that the answer may be of.
pub(crate) const REVISION: &str = "x-skein-revision";
/// How long a request waits for a revision that it demands.
pub(crate) const REVISION_WAIT: Duration = Duration::from_secs(5);

/// How a replica takes part.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Where the configuration is.
    pub etcd: EtcdOptions,
    /// What this replica is called in logs.
    pub name: String,
    /// Where the others reach this replica's API: `https://HOST:PORT`; `http` only on the loopback. Empty: its
    /// listener's address.
    pub advertise: String,
    /// Who this replica is to the others, and whom it trusts; none if they speak plain HTTP.
    pub peers: Option<PeerFiles>,
}

/// How replicas know each other, all PEM.
#[derive(Debug, Clone)]
pub struct PeerFiles {
    /// Certificates of the authority that vouches for the replicas.
    pub ca: PathBuf,
    /// Certificate that the replicas' listeners take.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Name that their certificates carry, if not the host in their addresses.
    pub server_name: Option<String>,
}

/// What is known of who writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    /// The view is kept as etcd has it.
    pub(crate) following: bool,
    /// The leader's key as it was last seen.
    pub(crate) seen: Option<Leader>,
    /// This replica writes.
    pub(crate) serving: bool,
    /// Since when it was asked to stop.
    pub(crate) leaving: Option<Instant>,
}

/// Where a write goes.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Here,
    There(Leader),
    Nowhere,
}

/// This replica among the others.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) cluster: Cluster,
    pub(crate) etcd: Etcd,
    pub(crate) published: Arc<Published>,
    pub(crate) metrics: Arc<ReplicaMetrics>,
    standing: watch::Sender<Standing>,
    forwarder: forward::Forwarder,
    /// How many connections other replicas have to this one.
    peers: watch::Sender<usize>,
}

/// A connection of another replica; lasts as long.
pub(crate) struct Peer(Arc<Replica>);

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.peers.send_modify(|peers| *peers -= 1);
    }
}

impl Replica {
    pub(crate) fn new(
        cluster: Cluster,
        etcd: Etcd,
        published: Arc<Published>,
        metrics: Arc<ReplicaMetrics>,
    ) -> Result<Self, ServerError> {
        let forwarder = forward::Forwarder::new(cluster.peers.as_ref())?;
        let standing = watch::Sender::new(Standing::default());
        let peers = watch::Sender::new(0);
        Ok(Self { cluster, etcd, published, metrics, standing, forwarder, peers })
    }

    /// Another replica hands writes on by a connection.
    pub(crate) fn joined(self: &Arc<Self>) -> Peer {
        self.peers.send_modify(|peers| *peers += 1);
        Peer(Arc::clone(self))
    }

    /// Waits until the others have closed their connections, as they do when they see that it leads no more. One that
    /// does not see it has until `limit`.
    pub(crate) async fn parted(&self, limit: Duration) {
        let mut peers = self.peers.subscribe();
        if tokio::time::timeout(limit, peers.wait_for(|peers| *peers == 0)).await.is_err() {
            info!("another replica has not seen yet that this one leads no more");
        }
    }

    /// It was asked to stop: writes are not kept waiting for long.
    pub(crate) fn leave(&self) {
        self.learn(|standing| standing.leaving = Some(Instant::now()));
    }

    fn leaving(&self) -> Option<Instant> {
        self.standing.borrow().leaving
    }

    fn place(&self) -> Place {
        let standing = self.standing.borrow();
        match &standing.seen {
            _ if standing.serving => Place::Here,
            // Of ours: just won and not read yet, or about to be lost.
            Some(leader) if leader.url != self.cluster.advertise => Place::There(leader.clone()),
            _ => Place::Nowhere,
        }
    }

    /// What the first load found.
    pub(crate) fn start_from(&self, leader: Option<Leader>) {
        self.saw(leader);
    }

    /// Changes what is known, and tells who waits for it.
    fn learn(&self, change: impl FnOnce(&mut Standing)) {
        self.standing.send_modify(change);
    }

    /// The leader's key is this now.
    fn saw(&self, leader: Option<Leader>) {
        let old = self.standing.borrow().seen.clone();
        if old == leader {
            return;
        }
        match &leader {
            Some(leader) => {
                info!(leader = leader.name, url = leader.url, "the configuration API is led");
                self.metrics.leader_changes.inc();
            }
            None => info!("the configuration API has no leader"),
        }
        self.learn(|standing| standing.seen = leader);
        // After it is known, so that no new one is made to who led.
        self.forwarder.forget();
    }

    fn is_following(&self, following: bool) {
        if self.standing.borrow().following == following {
            return;
        }
        if following {
            info!(etcd = self.etcd.name(), "following etcd");
        }
        self.learn(|standing| standing.following = following);
    }

    fn trouble(&self, error: &StoreError) {
        // Once for each time that it stops.
        if self.standing.borrow().following {
            warn!(%error, "etcd is not followed; reads are answered from what is known");
        }
        self.is_following(false);
    }

    /// Why requests should go elsewhere, if they should.
    pub(crate) fn unready(&self) -> Option<String> {
        let standing = self.standing.borrow();
        if standing.leaving.is_some() {
            return Some("stopping".into());
        }
        if !standing.following {
            return Some("etcd is not followed; what is read here may be old".into());
        }
        if standing.serving || standing.seen.is_some() {
            return None;
        }
        Some("no replica leads; writes wait".into())
    }
}
