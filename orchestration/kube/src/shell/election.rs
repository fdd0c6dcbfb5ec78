//! Election of the one manager that writes, by a Lease.

use crate::config::Election;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{info, warn};

/// How often one who stands by looks whether the lease was given back.
const LOOK: Duration = Duration::from_secs(1);
/// How long giving it back may take: others get it anyway, later.
const FAREWELL: Duration = Duration::from_secs(5);

/// Takes part in the election until `stop` completes, then gives the lease back, so that another one need not wait for its
/// end. The channel says who won.
pub(super) async fn take_part(
    client: Client,
    settings: Election,
    name: String,
    leading: watch::Sender<bool>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    let api: Api<Lease> = Api::namespaced(client, &settings.namespace);
    let holds = Duration::from_secs(u64::from(settings.duration.max(3)));
    let period = holds / 3;
    let mut renewed = Instant::now();
    // Others' clocks may be wrong: what counts is how long their lease has not changed by our own.
    let mut rival: Option<(String, Instant)> = None;
    loop {
        let begun = Instant::now();
        let attempt = attempt(&api, &settings, &name, &mut rival, holds);
        let tried = tokio::select! {
            tried = tokio::time::timeout(period, attempt) => tried,
            () = &mut stop => break,
        };
        match tried {
            Ok(Ok(true)) => {
                renewed = begun;
                if !*leading.borrow() {
                    info!(lease = name, identity = settings.identity, "this manager leads");
                    let _ = leading.send(true);
                }
            }
            Ok(Ok(false)) => step_down(&leading, "another manager leads"),
            Ok(Err(error)) => {
                warn!(%error, lease = name, "the lease cannot be renewed; trying again");
            }
            Err(_) => warn!(lease = name, "the lease cannot be renewed in time; trying again"),
        }
        // A little before others may take it.
        if renewed.elapsed() + period > holds {
            step_down(&leading, "the lease could not be renewed");
        }
        let pause = if *leading.borrow() { period } else { period.min(LOOK) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = &mut stop => break,
        }
    }
    if *leading.borrow() {
        step_down(&leading, "it is told to stop");
        match tokio::time::timeout(FAREWELL, give_back(&api, &settings, &name)).await {
            Ok(Ok(())) => info!(lease = name, "the lease is given back"),
            Ok(Err(error)) => warn!(%error, lease = name, "the lease cannot be given back"),
            Err(_) => warn!(lease = name, "the lease cannot be given back in time"),
        }
    }
}

/// Leaves the lease without a holder, as others' electors do. A renewal that was under way when the end came may still arrive
/// between: then once more.
async fn give_back(api: &Api<Lease>, settings: &Election, name: &str) -> Result<(), kube::Error> {
    loop {
        let Some(mut lease) = api.get_opt(name).await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&settings.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        spec.lease_duration_seconds = Some(1);
        if won(api.replace(name, &PostParams::default(), &lease).await)? {
            return Ok(());
        }
    }
}

fn step_down(leading: &watch::Sender<bool>, why: &str) {
    if *leading.borrow() {
        info!(why, "this manager no longer leads");
        let _ = leading.send(false);
    }
}

/// One try to take or keep the lease.
async fn attempt(
    api: &Api<Lease>,
    settings: &Election,
    name: &str,
    rival: &mut Option<(String, Instant)>,
    holds: Duration,
) -> Result<bool, kube::Error> {
    let now = MicroTime(Timestamp::now());
    let seconds = i32::try_from(settings.duration).unwrap_or(15);
    let Some(mut lease) = api.get_opt(name).await? else {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(settings.identity.clone()),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_duration_seconds: Some(seconds),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        return won(api.create(&PostParams::default(), &lease).await);
    };
    let version = lease.metadata.resource_version.clone().unwrap_or_default();
    let spec = lease.spec.get_or_insert_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    if holder != settings.identity {
        if rival.as_ref().is_none_or(|(seen, _)| *seen != version) {
            *rival = Some((version, Instant::now()));
        }
        let quiet = rival.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        if !holder.is_empty() && quiet < holds {
            return Ok(false);
        }
        spec.holder_identity = Some(settings.identity.clone());
        spec.acquire_time = Some(now.clone());
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
    }
    spec.renew_time = Some(now);
    spec.lease_duration_seconds = Some(seconds);
    won(api.replace(name, &PostParams::default(), &lease).await)
}

/// A conflict: another one was faster.
fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
