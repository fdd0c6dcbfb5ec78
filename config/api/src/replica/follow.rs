//! Keeps the view as etcd has it.

use std::{sync::Arc, time::Duration};

use skein_store::{Change, Changes, Etcd, Loaded, StoreError};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use super::Replica;

/// How often etcd is asked for its newest revision: a stream that is silent may be broken.
const PROBE: Duration = Duration::from_secs(1);
/// Probes in a row that may find the view behind before the stream counts as broken.
const BEHIND: u32 = 2;
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// Between attempts to read everything, which is work for etcd.
const REREAD: Duration = Duration::from_secs(2);
/// Between complaints at start.
const COMPLAIN: Duration = Duration::from_secs(10);

/// Reads everything, waiting for etcd as long as it takes.
///
/// # Errors
/// What waiting does not cure: certificates, rights, a format of another version.
pub(crate) async fn first_load(etcd: &Etcd) -> Result<Loaded, StoreError> {
    let mut complained: Option<Instant> = None;
    loop {
        match etcd.load().await {
            Err(error @ (StoreError::Unreachable { .. } | StoreError::EtcdFull { .. })) => {
                if complained.is_none_or(|at| at.elapsed() > COMPLAIN) {
                    warn!(%error, "waiting for etcd");
                    complained = Some(Instant::now());
                }
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Follows etcd for ever, from where a load left off.
pub(crate) async fn follow(replica: Arc<Replica>, mut at: i64) {
    loop {
        let error = match replica.etcd.follow(at).await {
            Ok(mut changes) => {
                debug!(at, "the watch of etcd is open");
                let error = run(&replica, &mut changes).await;
                at = changes.at();
                error
            }
            Err(error) => error,
        };
        if matches!(error, StoreError::Unreachable { .. }) {
            debug!(%error, "the watch of etcd is interrupted");
        } else {
            info!(%error, "reading the configuration anew");
            match reload(&replica).await {
                Ok(now) => {
                    at = now;
                    continue;
                }
                Err(error) => {
                    replica.trouble(&error);
                    tokio::time::sleep(REREAD).await;
                }
            }
        }
        // Another member may be there at once.
        if let Err(error @ StoreError::Unreachable { .. }) = probe(&replica).await {
            replica.trouble(&error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn reload(replica: &Replica) -> Result<i64, StoreError> {
    let before = replica.published.revision();
    let loaded = replica.etcd.load().await?;
    if loaded.state.revision < before {
        warn!(
            known = before,
            found = loaded.state.revision,
            "etcd has less than it had; was it restored from a backup?"
        );
    }
    replica.published.adopt(&loaded.state, before);
    replica.saw(loaded.leader);
    Ok(loaded.at)
}

/// How many revisions etcd is ahead. An error that is not about reaching it if it is behind.
async fn probe(replica: &Replica) -> Result<u64, StoreError> {
    let known = replica.published.revision();
    let newest = replica.etcd.newest().await?;
    if newest < known {
        return Err(StoreError::Compacted);
    }
    let lag = newest.saturating_sub(replica.published.revision());
    replica.metrics.lag(lag);
    Ok(lag)
}

/// Takes in changes until the stream breaks.
async fn run(replica: &Replica, changes: &mut Changes) -> StoreError {
    let mut ticks = tokio::time::interval(PROBE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut behind = 0;
    loop {
        tokio::select! {
            biased;
            next = changes.next() => {
                let list = match next {
                    Ok(list) => list,
                    Err(error) => return error,
                };
                for change in list {
                    if let Err(error) = take_in(replica, change).await {
                        return error;
                    }
                }
                behind = 0;
            }
            _ = ticks.tick() => match probe(replica).await {
                Ok(lag) => {
                    replica.is_following(true);
                    behind = if lag == 0 { 0 } else { behind + 1 };
                    let silent = "its watch is silent although there are commits";
                    let moved = "the member that is watched did not answer something else";
                    let reason = match (behind > BEHIND, changes.is_elsewhere()) {
                        (true, _) => silent,
                        (_, true) => moved,
                        _ => continue,
                    };
                    let endpoints = replica.cluster.etcd.endpoints.join(",");
                    return StoreError::Unreachable { endpoints, reason: reason.to_owned() };
                }
                Err(error @ StoreError::Unreachable { .. }) => replica.trouble(&error),
                Err(error) => return error,
            },
        }
    }
}

async fn take_in(replica: &Replica, change: Change) -> Result<(), StoreError> {
    match change {
        Change::Leader(leader) => replica.saw(leader),
        Change::Commit(commit) => {
            let known = replica.published.revision();
            // Our own commits are shown before they come back.
            if commit.revision() > known {
                let transactions = replica.etcd.transactions(commit, known).await?;
                replica.published.publish(&transactions);
            }
        }
    }
    Ok(())
}
