//! Objects from create to delete, over restarts: spec sections 3, 5, 13, 14, 15.

mod support;

use serde_json::{Value, json};
use skein_client::{Event, ListOptions};
use skein_model::{FqName, Kind};
use support::{Fixture, network};

#[tokio::test]
async fn a_port_with_its_address_survives_a_restart() {
    let fixture = Fixture::new().await;
    let net = fixture.network("front", "10.20.0.0/24").await;
    let read = fixture.read(Kind::VIRTUAL_NETWORK, net).await;
    let subnet = &read["network_ipam_refs"][0]["attr"]["ipam_subnets"][0];
    assert_eq!(subnet["default_gateway"], "10.20.0.254");
    assert_eq!(subnet["dns_server_address"], "10.20.0.253");
    assert!(read["virtual_network_network_id"].as_u64().unwrap() >= 1);
    assert_eq!(read["routing_instances"][0]["to"][3], "front");

    let port = fixture.port("p1", net).await;
    let read = fixture.read(Kind::VIRTUAL_MACHINE_INTERFACE, port).await;
    let mac = read["virtual_machine_interface_mac_addresses"]["mac_address"][0].as_str().unwrap();
    let hex: String = port.simple().to_string()[..10].to_owned();
    assert_eq!(mac.replace(':', ""), format!("02{hex}"));
    assert_eq!(read["routing_instance_refs"][0]["attr"]["direction"], "both");

    let first = fixture.address("ip1", net, json!({"virtual_machine_interface_refs": [{"uuid": port}]})).await;
    assert_eq!(first.unwrap(), "10.20.0.252");

    let fixture = fixture.restart().await;
    let again = fixture.address("ip2", net, json!({})).await.unwrap();
    assert_eq!(again, "10.20.0.251", "the allocator remembers what is taken");
    let taken = fixture.address("ip3", net, json!({"instance_ip_address": "10.20.0.252"})).await.unwrap_err();
    assert_eq!(taken.0, 409, "{}", taken.1);
    let target = fixture.client.list(Kind::ROUTE_TARGET, &ListOptions::default()).await.unwrap();
    assert!(target.iter().any(|t| t.name().starts_with("target:64512:80000")), "{target:?}");
}

#[tokio::test]
async fn deletes_are_refused_while_something_depends_on_the_object() {
    let fixture = Fixture::new().await;
    let net = fixture.network("front", "10.20.0.0/24").await;
    let port = fixture.port("p1", net).await;
    let (status, text) = fixture.delete(Kind::VIRTUAL_NETWORK, net).await.unwrap_err();
    assert_eq!(status, 409);
    assert!(text.starts_with("Back-References from /virtual-machine-interface/"), "{text}");
    fixture.delete(Kind::VIRTUAL_MACHINE_INTERFACE, port).await.unwrap();
    let before = fixture.client.list(Kind::ROUTE_TARGET, &ListOptions::default()).await.unwrap().len();
    fixture.delete(Kind::VIRTUAL_NETWORK, net).await.unwrap();
    let after = fixture.client.list(Kind::ROUTE_TARGET, &ListOptions::default()).await.unwrap().len();
    assert_eq!(after, before - 1, "the network's route target goes with it");
    let id = |n| {
        let name = FqName::new(&["default-domain", "default-project", "front", n]).unwrap();
        let fixture = &fixture;
        async move { fixture.client.name_to_id(Kind::ROUTING_INSTANCE, &name).await }
    };
    assert!(id("front").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_watcher_sees_the_snapshot_then_every_change_and_resumes() {
    let fixture = Fixture::new().await;
    let mut watcher = fixture.client.watch(&[Kind::VIRTUAL_NETWORK, Kind::INSTANCE_IP]);
    let Event::Snapshot(objects, revision) = watcher.next().await else { panic!("no snapshot") };
    assert!(objects.iter().any(|o| o.name() == "ip-fabric"));
    assert_eq!(revision, fixture.server.revision());

    let net = fixture.network("front", "10.20.0.0/24").await;
    let Event::Put(object, at) = watcher.next().await else { panic!("no put") };
    assert_eq!((object.uuid, object.fq_name.name()), (net, "front"));
    assert!(at > revision);
    assert!(!object.references.is_empty());
    let fields = json!({"display_name": "Front"});
    fixture.update(Kind::VIRTUAL_NETWORK, net, fields).await.unwrap();
    let Event::Put(object, _) = watcher.next().await else { panic!("no put") };
    assert_eq!(object.properties["display_name"], "Front");
    fixture.delete(Kind::VIRTUAL_NETWORK, net).await.unwrap();
    let Event::Delete { uuid, .. } = watcher.next().await else { panic!("no delete") };
    assert_eq!(uuid, net);
}

#[tokio::test]
async fn an_update_merges_fields_and_replaces_reference_lists() {
    let fixture = Fixture::new().await;
    let net = fixture.network("front", "10.20.0.0/24").await;
    let mut fields = json!({"fq_name": ["default-domain", "default-project", "pol"], "parent_type": "project"});
    let policy = fixture.create(Kind::NETWORK_POLICY, fields.clone()).await.unwrap();
    fields["fq_name"][2] = json!("pol2");
    let other = fixture.create(Kind::NETWORK_POLICY, fields).await.unwrap();
    let sequence = |n: u32| json!({"sequence": {"major": n, "minor": 0}});
    let refs = |uuid, n| json!({"network_policy_refs": [{"uuid": uuid, "attr": sequence(n)}]});
    fixture.update(Kind::VIRTUAL_NETWORK, net, refs(policy, 1)).await.unwrap();
    fixture.update(Kind::VIRTUAL_NETWORK, net, json!({"mtu": "1400"})).await.unwrap();
    fixture.update(Kind::VIRTUAL_NETWORK, net, refs(other, 2)).await.unwrap();
    let read = fixture.read(Kind::VIRTUAL_NETWORK, net).await;
    assert_eq!(read["mtu"], 1400);
    assert_eq!(read["network_policy_refs"].as_array().unwrap().len(), 1);
    assert_eq!(read["network_policy_refs"][0]["to"][2], "pol2");
    assert_eq!(read["network_policy_refs"][0]["attr"]["sequence"]["major"], 2);
    fixture.update(Kind::VIRTUAL_NETWORK, net, json!({"mtu": null, "network_policy_refs": []})).await.unwrap();
    let read = fixture.read(Kind::VIRTUAL_NETWORK, net).await;
    assert_eq!((&read["mtu"], &read["network_policy_refs"]), (&Value::Null, &Value::Null));
    assert!(!read["network_ipam_refs"].is_null(), "links that were not named stay");
}

#[tokio::test]
async fn route_target_lists_show_on_the_default_routing_instance() {
    let fixture = Fixture::new().await;
    let mut fields = network("front", &["10.0.0.0/24"]);
    fields["route_target_list"] = json!({"route_target": ["target:1:1"]});
    fields["import_route_target_list"] = json!({"route_target": ["target:2:2"]});
    let net = fixture.create(Kind::VIRTUAL_NETWORK, fields).await.unwrap();
    let instance = fixture.read(Kind::VIRTUAL_NETWORK, net).await["routing_instances"][0]["uuid"].clone();
    let instance: uuid::Uuid = instance.as_str().unwrap().parse().unwrap();
    let targets = |read: Value| -> Vec<(String, Value)> {
        let list = read["route_target_refs"].as_array().unwrap().clone();
        list.into_iter().map(|r| (r["to"][0].as_str().unwrap().to_owned(), r["attr"].clone())).collect()
    };
    let seen = targets(fixture.read(Kind::ROUTING_INSTANCE, instance).await);
    assert_eq!(seen.len(), 3);
    assert!(seen[0].0.starts_with("target:64512:8000") && seen[0].1.is_null());
    assert_eq!(seen[1], ("target:1:1".into(), Value::Null));
    assert_eq!(seen[2], ("target:2:2".into(), json!({"import_export": "import"})));
    fixture.update(Kind::VIRTUAL_NETWORK, net, json!({"import_route_target_list": null})).await.unwrap();
    let seen = targets(fixture.read(Kind::ROUTING_INSTANCE, instance).await);
    assert_eq!(seen.len(), 2);
    let gone = fixture.client.name_to_id(Kind::ROUTE_TARGET, &FqName::single("target:2:2")).await;
    assert!(gone.unwrap_err().is_not_found(), "nobody refers to it any more");
    let (status, _) = fixture.delete(Kind::ROUTING_INSTANCE, instance).await.unwrap_err();
    assert_eq!(status, 409);
}
