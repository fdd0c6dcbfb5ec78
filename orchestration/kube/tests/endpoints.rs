//! Endpoints of services in the form that the API server has: EndpointSlice of v1, of v1beta1, or Endpoints. One manager
//! runs all the while; the API server is restarted with other types, as by an upgrade.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "support/plane.rs"]
mod plane;

use plane::{ConfigApi, Plane, eventually};
use serde_json::{Value, json};
use skein_client::Client;
use skein_model::Kind;

/// The group as built in is off: Kubernetes 1.20 knows no later version than v1beta1, and hides any other of the group.
const NOT_BUILT_IN: &str = "--runtime-config=discovery.k8s.io/v1beta1=false";

/// What v1 of Kubernetes 1.21 and later is, as far as paths and names go.
const V1: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: endpointslices.discovery.k8s.io
  annotations: {api-approved.kubernetes.io: 'unapproved, stands for the built-in type'}
spec:
  group: discovery.k8s.io
  scope: Namespaced
  names: {plural: endpointslices, singular: endpointslice, kind: EndpointSlice, listKind: EndpointSliceList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

fn slice(version: &str, name: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/{version}\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints: {endpoints}"
    )
}

/// What members say of an endpoint, sorted by address: address, port, node, zone, ready, serving, terminating, zones to use it.
async fn members(client: &Client) -> Option<Vec<Value>> {
    let list = client.list(Kind::LOADBALANCER_MEMBER, &Default::default()).await.ok()?;
    let mut all: Vec<Value> = list
        .iter()
        .map(|member| {
            let p = &member.properties["loadbalancer_member_properties"];
            let yes = |name: &str, absent: bool| p[name].as_bool().unwrap_or(absent);
            json!([
                p["address"],
                p["protocol_port"],
                p["node"],
                p["zone"],
                yes("ready", true),
                yes("serving", true),
                yes("terminating", false),
                p["hint_zones"].as_array().cloned().unwrap_or_default(),
            ])
        })
        .collect();
    all.sort_by_key(Value::to_string);
    Some(all)
}

async fn become_members(client: &Client, wanted: &Value) {
    let mut last = Vec::new();
    let what = format!("members like {wanted}");
    eventually(&what, async || {
        let now = members(client).await?;
        if now != last {
            eprintln!("members: {now:?}");
            last.clone_from(&now);
        }
        (Value::from(now) == *wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_form_of_endpoints_is_served_is_followed_through_upgrades() {
    let _ = tracing_subscriber::fmt().with_env_filter("warn,skein_kube=info").try_init();
    let mut plane = Plane::start(&[NOT_BUILT_IN]);
    plane.apply(include_str!("../../../deploy/kubernetes/rbac.yaml"));
    plane.apply(V1);
    eventually("v1 to be served", async || {
        plane
            .kubectl(&["get", "--raw", "/apis/discovery.k8s.io/v1/endpointslices"], "")
            .0
            .then_some(())
    })
    .await;
    let api = ConfigApi::start().await;
    let client = api.client.clone();
    let mut config = api.manager(&plane);
    config.election.enabled = false;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let manager = tokio::spawn(skein_kube::run(config, || {}, async {
        let _ = stopped.await;
    }));
    plane.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}");
    plane.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}");

    // v1: the node and zone have fields of their own, and what is left of the topology means nothing.
    plane.apply(&slice("v1", "web-1", "[{addresses: [10.47.0.1], conditions: {ready: true, serving: true, terminating: false}, nodeName: node-1, zone: east, hints: {forZones: [{name: west}]}}, {addresses: [10.47.0.2], conditions: {ready: false, serving: true, terminating: true}, nodeName: node-2, deprecatedTopology: {kubernetes.io/hostname: node-9, topology.kubernetes.io/zone: north}}, {addresses: [10.47.0.3], conditions: {ready: false}}, {addresses: [10.47.0.4], conditions: {ready: null}}]"));
    let none = || json!([]);
    become_members(
        &client,
        &json!([
            ["10.47.0.1", 8080, "node-1", "east", true, true, false, ["west"]],
            ["10.47.0.2", 8080, "node-2", null, false, true, true, none()],
            ["10.47.0.3", 8080, null, null, false, false, false, none()],
            // What nothing is known of is ready.
            ["10.47.0.4", 8080, null, null, true, true, false, none()],
        ]),
    )
    .await;

    // The API server comes back without v1: what it has instead is followed, and what was in v1 is gone.
    plane.kill_server();
    plane.start_server(&[]);
    plane.apply(&slice("v1beta1", "web-2", "[{addresses: [10.47.0.5], topology: {kubernetes.io/hostname: node-5, topology.kubernetes.io/zone: east}}, {addresses: [10.47.0.6], conditions: {ready: false}}]"));
    become_members(
        &client,
        &json!([
            ["10.47.0.5", 8080, "node-5", "east", true, true, false, none()],
            ["10.47.0.6", 8080, null, null, false, false, false, none()],
        ]),
    )
    .await;

    // And without any: Endpoints. A port's name may stand for another number in each subset.
    plane.kill_server();
    plane.start_server(&[NOT_BUILT_IN]);
    let (good, text) = plane.kubectl(&["delete", "crd", "endpointslices.discovery.k8s.io"], "");
    assert!(good, "{text}");
    plane.apply("apiVersion: v1\nkind: Endpoints\nmetadata: {name: web, namespace: shop}\nsubsets:\n- addresses: [{ip: 10.47.0.7, nodeName: node-7}]\n  notReadyAddresses: [{ip: 10.47.0.8}]\n  ports: [{name: http, port: 8080}]\n- addresses: [{ip: 10.47.0.9}]\n  ports: [{name: http, port: 9090}]");
    become_members(
        &client,
        &json!([
            ["10.47.0.7", 8080, "node-7", null, true, true, false, none()],
            ["10.47.0.8", 8080, null, null, false, false, false, none()],
            ["10.47.0.9", 9090, null, null, true, true, false, none()],
        ]),
    )
    .await;
    let _ = stop.send(());
    manager.await.unwrap().unwrap();
    api.stop().await;
}
