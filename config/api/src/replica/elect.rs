//! Has this replica write when nobody else does.

use std::{sync::Arc, time::Duration};

use skein_store::Campaign;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::Replica;
use crate::sequencer::Sequencer;

/// Between attempts that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// Between looks at a store that failed while the lease holds.
const MEND: Duration = Duration::from_secs(1);

/// Campaigns until `closing` turns true, then gives the lead back.
pub(crate) async fn elect(
    replica: Arc<Replica>,
    mut campaign: Campaign,
    sequencer: Sequencer,
    mut closing: watch::Receiver<bool>,
) {
    let mut standing = replica.standing.subscribe();
    loop {
        tokio::select! {
            vacant = standing.wait_for(|now| now.following && now.seen.is_none()) => {
                if vacant.is_err() {
                    break;
                }
            }
            _ = closing.wait_for(|closed| *closed) => break,
        }
        match campaign.stand().await {
            Ok(true) => {
                lead(&replica, &campaign, &sequencer, &mut closing).await;
                // At once, for whoever is next.
                campaign.resign().await;
                if *closing.borrow() {
                    break;
                }
            }
            Ok(false) => debug!("another replica was faster"),
            Err(error) => warn!(%error, "no attempt to lead; trying again"),
        }
        // The watch tells of our own key, too: until it has, the place looks free.
        let changed = standing.changed();
        let _ = tokio::time::timeout(PAUSE, changed).await;
    }
    campaign.resign().await;
}

/// Leads until the lease is lost or the replica stops.
async fn lead(
    replica: &Replica,
    campaign: &Campaign,
    sequencer: &Sequencer,
    closing: &mut watch::Receiver<bool>,
) {
    let mut lost = std::pin::pin!(keep(replica, campaign));
    let started = tokio::select! {
        () = &mut lost => return,
        started = sequencer.lead() => started,
    };
    if let Err(error) = started {
        warn!(%error, "this replica cannot lead");
        sequencer.rest().await;
        return;
    }
    replica.learn(|standing| standing.serving = true);
    replica.metrics.leads(true);
    info!(url = replica.cluster.advertise, "this replica leads the configuration API");
    let mut mend = tokio::time::interval(MEND);
    let orderly = loop {
        tokio::select! {
            () = &mut lost => break false,
            _ = closing.wait_for(|closed| *closed) => break true,
            _ = mend.tick() => sequencer.mend(),
        }
    };
    replica.learn(|standing| standing.serving = false);
    replica.metrics.leads(false);
    if orderly {
        info!("this replica leads no more: it stops");
    } else {
        warn!("this replica leads no more: its lease in etcd is lost");
    }
    sequencer.rest().await;
}

/// Keeps the lease alive; ends when it is lost.
async fn keep(replica: &Replica, campaign: &Campaign) {
    let tenure = campaign.tenure();
    let mut failed = false;
    while tenure.term().is_some() {
        // Short steps: the writing thread may find out first.
        let pause = if failed { campaign.interval() / 4 } else { campaign.interval() };
        let until = tokio::time::Instant::now() + pause;
        while tokio::time::Instant::now() < until && tenure.term().is_some() {
            tokio::time::sleep(Duration::from_millis(50).min(pause)).await;
        }
        let result = campaign.keep().await;
        failed = result.is_err();
        if let Err(error) = result {
            debug!(%error, "the lease was not renewed");
            let name = &replica.cluster.name;
            if tenure.term().is_some() {
                warn!(%error, replica = name, "the lease of the leader was not renewed; trying again");
            }
        }
    }
}
