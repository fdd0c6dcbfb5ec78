//! What pods ask of their interfaces and cannot have: an Event and a condition in their status, both in words that help, and all of it
//! ends with its cause.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use skein_kube::objects::KubeObject;
use skein_model::Kind;
use support::{Bench, namespace, note, object};

const BLUE: &str = "kind: NetworkAttachmentDefinition\nmetadata: {name: blue, namespace: shop, annotations: {opencontrail.org/cidr: '10.12.0.0/24'}}\n\
                    spec: {config: '{\"cniVersion\": \"0.3.1\", \"type\": \"skein\"}'}";

/// A pod that asks for networks, with the conditions that its status has.
fn pod(name: &str, networks: &str, conditions: &Value) -> KubeObject {
    let annotations = json!({"k8s.v1.cni.cncf.io/networks": networks});
    object(&format!(
        "kind: Pod\nmetadata: {{name: {name}, namespace: shop, annotations: {annotations}}}\n\
         spec: {{nodeName: node-1, containers: [{{name: a}}]}}\nstatus: {{phase: Pending, conditions: {conditions}}}"
    ))
}

async fn bench() -> Bench {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    bench.yaml(BLUE);
    bench.settle().await;
    bench
}

/// What the status of a pod should say by the last patch of it.
fn condition<'a>(bench: &'a Bench, name: &str) -> &'a Value {
    let mut own = bench.patches.iter().rev().filter(|one| one.status && &*one.key.name == name);
    &own.next().unwrap_or_else(|| panic!("no status of {name}: {:?}", bench.patches)).body["status"]
        ["conditions"][0]
}

fn told<'a>(bench: &'a Bench, name: &str) -> Vec<(&'static str, &'a str)> {
    let own = bench.notices.iter().filter(|one| &*one.key.name == name);
    own.map(|one| (one.problem.reason, one.problem.message.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_told_with_what_can() {
    let mut bench = bench().await;
    let asked = [
        (r#"[{"name": "blue", "ips": ["10.13.0.5"]}]"#, "it has 10.12.0.0/24"),
        (r#"[{"name": "blue", "ips": ["fd00::5"]}]"#, "it has 10.12.0.0/24"),
        (r#"[{"name": "blue", "ips": ["10.12.0.5", "10.12.0.6"]}]"#, "one of each IP version"),
        (r#"[{"name": "blue", "mac": "02:00:00"}]"#, "is no MAC address"),
        (r#"[{"name": "blue", "mac": "01:00:5e:00:00:01"}]"#, "is a group's"),
        (r#"[{"name": "blue", "default-route": ["10.12.0.1"]}]"#, "write 10.12.0.254"),
        ("blue@far-too-long-name1", "1 to 15 letters"),
        (r#"[{"name": "blue", "interface": "a/b"}]"#, "\"a/b\" cannot be"),
        ("blue@net1,blue@net1", "two interfaces are called net1"),
        ("blue@eth0", "two interfaces are called eth0"),
    ];
    for (at, (text, _)) in asked.iter().enumerate() {
        bench.put(pod(&format!("bad-{at}"), text, &json!([])));
    }
    bench.settle().await;
    for (at, (text, said)) in asked.iter().enumerate() {
        let name = format!("bad-{at}");
        let told = told(&bench, &name);
        assert!(told.len() == 1 && told[0].0 == "BadAnnotation", "{text}: {told:?}");
        assert!(told[0].1.contains(said), "{text}: {told:?}");
        let condition = condition(&bench, &name);
        assert_eq!(condition["type"], "skein.io/NetworkReady");
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["reason"], "BadAnnotation");
        assert_eq!(condition["message"], told[0].1);
        assert!(condition.as_object().unwrap()["lastTransitionTime"].is_null());
    }
    assert_eq!(bench.names(Kind::VIRTUAL_MACHINE_INTERFACE), Vec::<String>::new());
    assert_eq!(bench.log, Vec::<String>::new(), "nothing impossible is asked of the API");

    // What can be had is had: the network's own gateway, an address in capitals, a name of 15 letters.
    let good = r#"[{"name": "blue", "interface": "exactly-fifteen", "ips": ["10.12.0.5/24"], "mac": "02-00-00-00-0A-01", "default-route": ["10.12.0.254"]}]"#;
    bench.put(pod("good", good, &json!([])));
    bench.settle().await;
    assert_eq!(bench.names(Kind::VIRTUAL_MACHINE_INTERFACE).len(), 2);
    let before = bench.writes;
    bench.core.mark_all();
    bench.settle().await;
    assert_eq!(bench.writes, before, "it is as it was asked for");
    assert_eq!(told(&bench, "good"), []);
    assert!(
        bench.patches.iter().all(|one| !one.status || &*one.key.name != "good"),
        "it has no condition"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_says_what_is_wrong_now_and_that_it_is_mended() {
    let mut bench = bench().await;
    bench.put(pod("web", "missing", &json!([])));
    bench.settle().await;
    let said = condition(&bench, "web").clone();
    assert_eq!(said["reason"], "UnknownNetwork");
    // As Kubernetes shows it: nothing is written again, also by a manager that has just started.
    let has = |condition: &Value| json!([{"type": "Ready", "status": "False"}, condition]);
    bench.patches.clear();
    bench.put(pod("web", "missing", &has(&said)));
    bench.settle().await;
    bench.core.mark_all();
    bench.settle().await;
    assert_eq!(bench.patches, []);
    // Another mistake: as false as before, so its time stays.
    bench.put(pod("web", "blue@a/b", &has(&said)));
    bench.settle().await;
    let said = condition(&bench, "web").clone();
    assert_eq!(said["reason"], "BadAnnotation");
    assert!(!said.as_object().unwrap().contains_key("lastTransitionTime"), "{said}");
    bench.patches.clear();
    bench.put(pod("web", "blue@net1", &has(&said)));
    bench.settle().await;
    assert_eq!(bench.names(Kind::VIRTUAL_MACHINE_INTERFACE).len(), 2);
    let said = condition(&bench, "web").clone();
    assert_eq!((&said["status"], &said["reason"]), (&json!("True"), &json!("Made")));
    assert!(said.as_object().unwrap()["lastTransitionTime"].is_null());
    let status = bench.patches.iter().find(|one| one.status).unwrap();
    assert!(status.body["metadata"]["uid"].is_string(), "another pod of that name is not meant");
    bench.patches.clear();
    bench.put(pod("web", "blue@net1", &has(&said)));
    bench.settle().await;
    assert!(bench.patches.iter().all(|one| !one.status), "{:?}", bench.patches);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_anothers_address_is_told_and_gets_it_afterwards() {
    let mut bench = bench().await;
    let asks = r#"[{"name": "blue", "ips": ["10.12.0.5"]}]"#;
    bench.put(pod("first", asks, &json!([])));
    bench.settle().await;
    let second = pod("second", asks, &json!([]));
    bench.put(second);
    let mut seconds = 0;
    while told(&bench, "second").is_empty()
        || !bench.patches.iter().any(|one| one.status && &*one.key.name == "second")
    {
        seconds += 1;
        assert!(seconds < 200, "nothing is told: {:?}", bench.log);
        bench.step(std::time::Duration::from_secs(1000 + seconds)).await;
    }
    assert_eq!(told(&bench, "second")[0].0, "AddressTaken");
    let said = condition(&bench, "second").clone();
    assert_eq!((&said["status"], &said["reason"]), (&json!("False"), &json!("AddressTaken")));
    assert!(said["message"].as_str().unwrap().contains("10.12.0.5"), "{said}");
    bench.put(pod("second", asks, &json!([said])));
    bench.core.kube_delete(&pod("first", asks, &json!([])));
    while !bench.patches.iter().any(|one| one.body["status"]["conditions"][0]["status"] == "True") {
        seconds += 1;
        assert!(seconds < 400, "it gets none: {:?}", bench.log);
        bench.step(std::time::Duration::from_secs(1000 + seconds)).await;
    }
    assert_eq!(bench.names(Kind::VIRTUAL_MACHINE_INTERFACE).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_without_subnets_holds_pods_until_it_has_one() {
    let mut bench = bench().await;
    let bare = json!({
        "fq_name": ["default-domain", "default-project", "bare"], "parent_type": "project",
    });
    let bare = bench.client.create(Kind::VIRTUAL_NETWORK, bare).await.unwrap();
    bench.yaml(
        "kind: Pod\nmetadata: {name: web, namespace: shop, annotations: {opencontrail.org/network: 'default-domain:default-project:bare'}}\n\
         spec: {nodeName: node-1, containers: [{name: a}]}",
    );
    bench.settle().await;
    assert_eq!(condition(&bench, "web")["reason"], "NoSubnet");
    let link = json!({"network_ipam_refs": [{
        "to": ["default-domain", "default-project", "default-network-ipam"],
        "attr": {"ipam_subnets": [{"subnet": {"ip_prefix": "192.168.7.0", "ip_prefix_len": 24}}]},
    }]});
    bench.client.update(Kind::VIRTUAL_NETWORK, bare, link).await.unwrap();
    bench.settle().await;
    assert_eq!(bench.names(Kind::VIRTUAL_MACHINE_INTERFACE).len(), 1, "without a full comparison");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_beside_it_is_told_and_the_pod_runs() {
    let mut bench = bench().await;
    let asks = r#"[{"name": "blue", "cni-args": {"labels": []}, "bandwidth": {}}]"#;
    bench.put(pod("web", asks, &json!([])));
    bench.settle().await;
    let told = told(&bench, "web");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|(reason, _)| *reason == "Ignored"), "{told:?}");
    assert!(told.iter().any(|(_, message)| message.contains("cni-args of blue")), "{told:?}");
    let ports = bench.names(Kind::VIRTUAL_MACHINE_INTERFACE);
    assert_eq!(ports.len(), 2);
    let port = bench.must(Kind::VIRTUAL_MACHINE_INTERFACE, &ports[0]).await;
    assert!(note(&port, "index").is_some());
    assert!(bench.patches.iter().all(|one| !one.status), "nothing hinders it");
}
