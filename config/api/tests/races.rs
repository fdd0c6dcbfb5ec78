//! Many clients at once for one thing: exactly one gets it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a test fails by panicking

mod support;

use std::{collections::BTreeSet, future::Future, sync::Arc};

use serde_json::json;
use skein_model::Kind;
use support::{Fixture, network};

const CLIENTS: usize = 32;

async fn all<F, T>(make: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let tasks: Vec<_> = (0..CLIENTS).map(|n| tokio::spawn(make(n))).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

fn statuses<T>(results: &[Result<T, (u16, String)>]) -> (usize, usize) {
    let refused = |status: u16| results.iter().filter(|r| matches!(r, Err((s, _)) if *s == status)).count();
    (results.iter().filter(|r| r.is_ok()).count(), refused(409))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_has_one_winner() {
    let fixture = Arc::new(Fixture::new().await);
    let results = all(|_| {
        let fixture = Arc::clone(&fixture);
        async move { fixture.create(Kind::VIRTUAL_NETWORK, network("same", &["10.0.0.0/24"])).await }
    })
    .await;
    assert_eq!(statuses(&results), (1, CLIENTS - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_uuid_has_one_winner() {
    let fixture = Arc::new(Fixture::new().await);
    let uuid = uuid::Uuid::new_v4();
    let results = all(|n| {
        let fixture = Arc::clone(&fixture);
        async move {
            let mut fields = network(&format!("net-{n}"), &["10.0.0.0/24"]);
            fields["uuid"] = json!(uuid);
            fixture.create(Kind::VIRTUAL_NETWORK, fields).await
        }
    })
    .await;
    assert_eq!(statuses(&results), (1, CLIENTS - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_one_winner() {
    let fixture = Arc::new(Fixture::new().await);
    let net = fixture.network("front", "10.0.0.0/24").await;
    let results = all(|n| {
        let fixture = Arc::clone(&fixture);
        async move { fixture.address(&format!("ip-{n}"), net, json!({"instance_ip_address": "10.0.0.7"})).await }
    })
    .await;
    assert_eq!(statuses(&results), (1, CLIENTS - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_addresses_of_a_pool_go_to_distinct_clients() {
    let fixture = Arc::new(Fixture::new().await);
    // Sixteen addresses, four of which are never handed out.
    let net = fixture.network("front", "10.0.0.0/28").await;
    let results = all(|n| {
        let fixture = Arc::clone(&fixture);
        async move { fixture.address(&format!("ip-{n}"), net, json!({})).await }
    })
    .await;
    let given: BTreeSet<&String> = results.iter().filter_map(|r| r.as_ref().ok()).collect();
    assert_eq!(given.len(), 12);
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 12);
    assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|(status, _)| *status == 400));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_exact() {
    let fixture = Arc::new(Fixture::new().await);
    let fields = json!({"fq_name": ["default-domain", "small"], "quota": {"virtual_network": 3}});
    fixture.create(Kind::PROJECT, fields).await.unwrap();
    let results = all(|n| {
        let fixture = Arc::clone(&fixture);
        async move {
            let fields = json!({"fq_name": ["default-domain", "small", format!("net-{n}")], "parent_type": "project"});
            fixture.create(Kind::VIRTUAL_NETWORK, fields).await
        }
    })
    .await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 3);
    assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|(status, _)| *status == 412));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_editors_of_one_object_do_not_lose_each_others_references() {
    let fixture = Arc::new(Fixture::new().await);
    let net = fixture.network("front", "10.0.0.0/24").await;
    let results = all(|n| {
        let fixture = Arc::clone(&fixture);
        async move {
            let fields = json!({"fq_name": ["default-domain", "default-project", format!("p{n}")], "parent_type": "project"});
            let policy = fixture.create(Kind::NETWORK_POLICY, fields).await?;
            let body = json!({
                "type": "virtual-network", "uuid": net, "ref-type": "network_policy", "ref-uuid": policy,
                "operation": "add", "attr": {"sequence": {"major": n, "minor": 0}},
            });
            fixture.post("/ref-update", body).await
        }
    })
    .await;
    assert_eq!(statuses(&results), (CLIENTS, 0));
    let read = fixture.read(Kind::VIRTUAL_NETWORK, net).await;
    assert_eq!(read["network_policy_refs"].as_array().unwrap().len(), CLIENTS);
}

/// A client that was answered reads what it wrote, on any connection.
#[tokio::test(flavor = "multi_thread")]
async fn an_answered_write_is_visible_everywhere() {
    let fixture = Arc::new(Fixture::new().await);
    let results = all(|n| {
        let fixture = Arc::clone(&fixture);
        async move {
            for round in 0..10 {
                let name = format!("net-{n}-{round}");
                let uuid = fixture.create(Kind::VIRTUAL_NETWORK, network(&name, &["10.0.0.0/24"])).await?;
                let other = skein_client::Client::new(fixture.client.base()).unwrap();
                support::refused(other.get(Kind::VIRTUAL_NETWORK, uuid).await)?;
            }
            Ok::<(), (u16, String)>(())
        }
    })
    .await;
    assert_eq!(statuses(&results), (CLIENTS, 0));
}
