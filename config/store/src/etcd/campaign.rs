//! Who writes: a key of etcd that goes with its holder's lease.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tonic::Status;
use tracing::debug;

use super::{
    client::{Etcd, absent, kv, led, put, read, told},
    layout::LEADER,
    rpc::{self, lease_client::LeaseClient},
};
use crate::StoreError;

/// Bounds of one attempt at one endpoint, which otherwise is a fifth of the lease: another member must be asked before it ends.
const ATTEMPT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// Time kept back from a lease: clocks run apart, and a message is on its way for a while.
const MARGIN: Duration = Duration::from_millis(300);

/// The replica that writes, as its key tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// What it is called.
    pub name: String,
    /// Where the others reach its API.
    pub url: String,
    /// The etcd revision that began its leadership; no two have the same.
    #[serde(skip)]
    pub term: i64,
}

/// The right to write while it lasts; shared by who campaigns for it and the store that uses it.
#[derive(Debug, Clone, Default)]
pub struct Tenure(Arc<Mutex<Option<Term>>>);

#[derive(Debug, Clone, Copy)]
struct Term {
    began: i64,
    until: Instant,
}

impl Tenure {
    /// The etcd revision that began the leadership, if it is held and its lease is good for a while.
    #[must_use]
    pub fn term(&self) -> Option<i64> {
        self.0.lock().filter(|term| Instant::now() < term.until).map(|term| term.began)
    }

    /// Gives it up: nothing is written any more. The key stays until its lease ends or is revoked.
    pub fn end(&self) {
        *self.0.lock() = None;
    }

    fn begin(&self, began: i64, until: Instant) {
        *self.0.lock() = Some(Term { began, until });
    }

    fn extend(&self, to: Instant) {
        if let Some(term) = self.0.lock().as_mut() {
            term.until = term.until.max(to);
        }
    }
}

/// One replica's way to leadership and out of it.
#[derive(Debug)]
pub struct Campaign {
    etcd: Etcd,
    tenure: Tenure,
    leader: Leader,
    lease: Option<i64>,
}

impl Campaign {
    /// A candidate: what it is called, and the URL at which others reach its API.
    #[must_use]
    pub fn new(etcd: Etcd, name: &str, url: &str) -> Self {
        let leader = Leader { name: name.to_owned(), url: url.to_owned(), term: 0 };
        Self { etcd, tenure: Tenure::default(), leader, lease: None }
    }

    /// The right to write, as it is at any time.
    #[must_use]
    pub fn tenure(&self) -> Tenure {
        self.tenure.clone()
    }

    /// Between two signs of life.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.etcd.options().lease / 4
    }

    fn attempt(&self) -> Duration {
        (self.etcd.options().lease / 5).clamp(ATTEMPT.0, ATTEMPT.1)
    }

    /// Of a call over all endpoints; the next one is due soon.
    fn limit(&self) -> Duration {
        self.attempt() * 3 + ATTEMPT.0 / 2
    }

    fn good_for(&self) -> Duration {
        self.etcd.options().lease.saturating_sub(MARGIN)
    }

    /// Takes the leader's key if nobody has it. Whether it is ours now.
    ///
    /// # Errors
    /// etcd does not answer or refuses; a key that was taken after all goes with its lease.
    pub async fn stand(&mut self) -> Result<bool, StoreError> {
        let asked = Instant::now();
        let lease = self.grant().await?;
        self.lease = Some(lease);
        let value = serde_json::to_vec(&self.leader).unwrap_or_default();
        let key = self.etcd.key(LEADER);
        let request = rpc::TxnRequest {
            compare: vec![absent(key.clone())],
            success: vec![put(key.clone(), value, lease)],
            failure: vec![read(key)],
        };
        let answer = self
            .etcd
            .call(self.attempt(), self.limit(), |channel| {
                let request = request.clone();
                async move { Ok(kv(channel).txn(led(request)).await?.into_inner()) }
            })
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.resign().await;
                return Err(error);
            }
        };
        let revision = answer.header.map_or(0, |header| header.revision);
        // An attempt whose answer was lost may have taken it: leases tell whose a key is.
        let began = if answer.succeeded { Some(revision) } else { self.own_key().await? };
        let Some(began) = began else {
            self.resign().await;
            return Ok(false);
        };
        self.leader.term = began;
        self.tenure.begin(began, asked + self.good_for());
        Ok(true)
    }

    /// The revision that made the leader's key, if it carries our name and address and came after our lease.
    async fn own_key(&self) -> Result<Option<i64>, StoreError> {
        let request = rpc::RangeRequest { key: self.etcd.key(LEADER).into(), ..Default::default() };
        let found = self.etcd.range(request).await?.kvs.pop();
        Ok(found.filter(|kv| Some(kv.lease) == self.lease).map(|kv| kv.create_revision))
    }

    async fn grant(&self) -> Result<i64, StoreError> {
        let seconds = self.etcd.options().lease.as_secs().max(1);
        let request = rpc::LeaseGrantRequest { ttl: i64::try_from(seconds).unwrap_or(3), id: 0 };
        let answer = self
            .etcd
            .call(self.attempt(), self.limit(), |channel| async move {
                Ok(LeaseClient::new(channel).lease_grant(led(request)).await?.into_inner())
            })
            .await?;
        if answer.error.is_empty() {
            return Ok(answer.id);
        }
        Err(StoreError::EtcdRefused { endpoint: self.etcd.endpoints(), reason: answer.error })
    }

    /// Tells etcd that we live; the right to write lasts for another while. False: it is lost.
    ///
    /// # Errors
    /// etcd does not answer. The right stays for what is left of it; ask again soon.
    pub async fn keep(&self) -> Result<bool, StoreError> {
        let Some(id) = self.lease else { return Ok(false) };
        let asked = Instant::now();
        let answer = self
            .etcd
            .call(self.attempt(), self.limit(), |channel| async move {
                let requests = futures_util::stream::iter([rpc::LeaseKeepAliveRequest { id }]);
                let answers = LeaseClient::new(channel).lease_keep_alive(led(requests)).await?;
                let first = answers.into_inner().message().await?;
                first.ok_or_else(|| Status::unavailable("the stream ended without an answer"))
            })
            .await?;
        if answer.ttl <= 0 {
            self.tenure.end();
            return Ok(false);
        }
        self.tenure.extend(asked + self.good_for());
        Ok(true)
    }

    /// Stops writing and gives the lease back, so that another takes over at once.
    pub async fn resign(&mut self) {
        self.tenure.end();
        let Some(id) = self.lease.take() else { return };
        let revoked = self
            .etcd
            .call(self.attempt(), self.limit(), |channel| async move {
                let request = led(rpc::LeaseRevokeRequest { id });
                match LeaseClient::new(channel).lease_revoke(request).await {
                    // It went by itself.
                    Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
                    Err(status) => {
                        debug!(reason = told(&status), "a lease was not given back");
                        Err(status)
                    }
                    Ok(_) => Ok(()),
                }
            })
            .await;
        if let Err(error) = revoked {
            debug!(%error, "the lease ends by itself");
        }
    }
}
