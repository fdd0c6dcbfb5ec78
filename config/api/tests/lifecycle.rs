//! Objects from create to delete, over restarts: spec sections 3, 5, 13, 14, 15.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::needless_pass_by_value
)] // a test fails by panicking

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

    let first = fixture
        .address("ip1", net, json!({"virtual_machine_interface_refs": [{"uuid": port}]}))
        .await;
    assert_eq!(first.unwrap(), "10.20.0.252");

    let fixture = fixture.restart().await;
    let again = fixture.address("ip2", net, json!({})).await.unwrap();
    assert_eq!(again, "10.20.0.251", "the allocator remembers what is taken");
    let taken = fixture
        .address("ip3", net, json!({"instance_ip_address": "10.20.0.252"}))
        .await
        .unwrap_err();
    assert_eq!(taken.0, 409, "{}", taken.1);
    let target = fixture.client.list(Kind::ROUTE_TARGET, &ListOptions::default()).await.unwrap();
    assert!(target.iter().any(|t| t.name().starts_with("target:64512:80000")), "{target:?}");
}

/// What the original makes at its first start, by the names under which clients look for it.
#[tokio::test]
async fn the_first_start_makes_the_objects_that_every_client_expects() {
    let system = "default-global-system-config";
    let project = "default-domain:default-project";
    let expected = [
        (Kind::GLOBAL_SYSTEM_CONFIG, system.to_owned()),
        (Kind::GLOBAL_VROUTER_CONFIG, format!("{system}:default-global-vrouter-config")),
        (Kind::GLOBAL_QOS_CONFIG, format!("{system}:default-global-qos-config")),
        (Kind::FABRIC, format!("{system}:default-fabric")),
        (Kind::DOMAIN, "default-domain".to_owned()),
        (Kind::PROJECT, project.to_owned()),
        (Kind::POLICY_MANAGEMENT, "default-policy-management".to_owned()),
        (
            Kind::APPLICATION_POLICY_SET,
            "default-policy-management:default-application-policy-set".to_owned(),
        ),
        (Kind::DISCOVERY_SERVICE_ASSIGNMENT, "default-discovery-service-assignment".to_owned()),
        (Kind::NETWORK_IPAM, format!("{project}:default-network-ipam")),
        (Kind::NETWORK_IPAM, format!("{project}:service-chain-flat-ipam")),
        (Kind::SECURITY_GROUP, format!("{project}:__no_rule__")),
        (Kind::VIRTUAL_NETWORK, format!("{project}:default-virtual-network")),
        (Kind::VIRTUAL_NETWORK, format!("{project}:ip-fabric")),
        (Kind::VIRTUAL_NETWORK, format!("{project}:__link_local__")),
        (Kind::VIRTUAL_NETWORK, format!("{project}:dci-network")),
        (
            Kind::ROUTING_INSTANCE,
            format!("{project}:default-virtual-network:default-virtual-network"),
        ),
        (Kind::ROUTING_INSTANCE, format!("{project}:ip-fabric:ip-fabric")),
        (Kind::ROUTING_INSTANCE, format!("{project}:ip-fabric:__default__")),
        (Kind::ROUTING_INSTANCE, format!("{project}:__link_local__:__link_local__")),
        (Kind::ROUTING_INSTANCE, format!("{project}:dci-network:dci-network")),
        (Kind::ROUTING_INSTANCE, format!("{project}:dci-network:__default__")),
        (Kind::TAG_TYPE, "application".to_owned()),
        (Kind::TAG_TYPE, "tier".to_owned()),
        (Kind::TAG_TYPE, "deployment".to_owned()),
        (Kind::TAG_TYPE, "site".to_owned()),
    ];
    let fixture = Fixture::new().await;
    let mut found = Vec::new();
    for (kind, name) in &expected {
        let body = json!({"type": kind.name(), "fq_name": name.split(':').collect::<Vec<_>>()});
        let answer = fixture.post("/fqname-to-id", body).await;
        let answer = answer.unwrap_or_else(|error| panic!("{kind} {name}: {error:?}"));
        found.push(answer["uuid"].as_str().unwrap().parse().unwrap());
    }
    let read = async |at: usize| fixture.read(expected[at].0, found[at]).await;
    let config = read(0).await;
    assert_eq!(
        (&config["autonomous_system"], &config["config_version"]),
        (&json!(64512), &json!("1.0"))
    );
    let set = read(7).await;
    assert_eq!(set["all_applications"], true);
    assert_eq!(set["global_vrouter_config_refs"][0]["uuid"], json!(found[1]));
    let chains = read(10).await;
    assert_eq!(chains["ipam_subnet_method"], "flat-subnet");
    let subnets = chains["ipam_subnets"]["subnets"].as_array().unwrap();
    let prefixes: Vec<_> = subnets.iter().map(|one| &one["subnet"]).collect();
    assert_eq!(
        prefixes,
        [
            &json!({"ip_prefix": "0.0.0.0", "ip_prefix_len": 8}),
            &json!({"ip_prefix": "::ffff:0.0.0.0", "ip_prefix_len": 104}),
        ]
    );
    assert_eq!(
        read(11).await["security_group_entries"]["policy_rule"].as_array().map(Vec::len),
        Some(0)
    );
    assert_eq!(read(13).await["is_provider_network"], true);
    for (at, (kind, name)) in expected.iter().enumerate() {
        match *kind {
            Kind::TAG_TYPE => {
                assert_eq!(read(at).await["id_perms"]["user_visible"], false, "{name}");
            }
            Kind::ROUTING_INSTANCE => {
                let is_default = !name.ends_with(":__default__");
                let shown = read(at).await["routing_instance_is_default"].as_bool();
                assert_eq!(shown.unwrap_or_default(), is_default, "{name}");
            }
            _ => {}
        }
    }
    // A second start finds them and makes nothing.
    let revision = fixture.server.revision();
    let fixture = fixture.restart().await;
    assert_eq!(fixture.server.revision(), revision);
    for ((kind, _), uuid) in expected.iter().zip(found) {
        fixture.read(*kind, uuid).await;
    }
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
    let before =
        fixture.client.list(Kind::ROUTE_TARGET, &ListOptions::default()).await.unwrap().len();
    fixture.delete(Kind::VIRTUAL_NETWORK, net).await.unwrap();
    let after =
        fixture.client.list(Kind::ROUTE_TARGET, &ListOptions::default()).await.unwrap().len();
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
    let mut fields =
        json!({"fq_name": ["default-domain", "default-project", "pol"], "parent_type": "project"});
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
    fixture
        .update(Kind::VIRTUAL_NETWORK, net, json!({"mtu": null, "network_policy_refs": []}))
        .await
        .unwrap();
    let read = fixture.read(Kind::VIRTUAL_NETWORK, net).await;
    assert_eq!((&read["mtu"], &read["network_policy_refs"]), (&Value::Null, &Value::Null));
    assert!(!read["network_ipam_refs"].is_null(), "links that were not named stay");
}

/// The elements of a list one at a time: their positions are places from 0, and those of one request are the ones read before it.
#[tokio::test]
async fn elements_of_a_list_are_added_changed_deleted_and_read_by_position() {
    let fixture = Fixture::new().await;
    let net = fixture.network("front", "10.20.0.0/24").await;
    let port = fixture.port("p1", net).await;
    let field = "virtual_machine_interface_fat_flow_protocols";
    let one = |n: u16| json!({"protocol": "tcp", "port": n});
    let write = async |updates: Value| {
        let body = json!({"uuid": port, "updates": updates});
        fixture.post("/prop-collection-update", body).await
    };
    let update = |operation: &str, value: Value, position: Value| json!({"field": field, "operation": operation, "value": value, "position": position});
    let read = async |more: &str| {
        let path = format!("/prop-collection-get?uuid={port}&fields={field}{more}");
        fixture.get(&path).await.unwrap()[field].clone()
    };
    let ports = async || -> Vec<u64> {
        let read = fixture.read(Kind::VIRTUAL_MACHINE_INTERFACE, port).await;
        let list = read[field]["fat_flow_protocol"].as_array().cloned().unwrap_or_default();
        list.iter().map(|one| one["port"].as_u64().unwrap()).collect()
    };

    assert_eq!(read("").await, json!([]));
    write(json!([update("add", one(80), Value::Null)])).await.unwrap();
    let more = [81, 82, 83].map(|n| update("add", one(n), Value::Null));
    write(json!(more)).await.unwrap();
    assert_eq!(ports().await, [80, 81, 82, 83]);
    let all = read("").await;
    assert_eq!(all.as_array().unwrap().len(), 4);
    assert_eq!((&all[2][0]["port"], &all[2][1]), (&json!(82), &json!("2")));
    let third = read("&position=2").await;
    assert_eq!((third.as_array().unwrap().len(), &third[0]), (1, &all[2]));
    assert_eq!(read("&position=9").await, json!([]));

    write(json!([update("modify", one(8080), json!("1"))])).await.unwrap();
    assert_eq!(ports().await, [80, 8080, 82, 83]);
    // Two positions as they were read; what is added comes last.
    write(json!([
        update("delete", Value::Null, json!("0")),
        update("add", one(90), Value::Null),
        update("delete", Value::Null, json!(2)),
    ]))
    .await
    .unwrap();
    assert_eq!(ports().await, [8080, 83, 90]);
    assert_eq!(read("&position=2").await[0][0]["port"], 90);

    // What cannot be done names the field, and nothing of its request is done.
    let refused = [
        (update("modify", one(1), json!("3")), "position 3"),
        (update("modify", one(1), Value::Null), "position must be given"),
        (update("delete", Value::Null, json!("0")), "position 0"),
        (update("add", Value::Null, Value::Null), "value must be given"),
        (update("add", json!({"protocol": "tcp", "port": "many"}), Value::Null), "port"),
        (update("add", json!({"protocol": "tcp", "colour": 1}), Value::Null), "colour"),
        (update("set", one(1), Value::Null), "a list takes add, modify and delete"),
    ];
    let before = fixture.server.revision();
    for (wrong, names) in refused {
        let updates = json!([update("delete", Value::Null, json!("0")), wrong]);
        let (status, text) = write(updates).await.unwrap_err();
        assert_eq!(status, 400, "{wrong}");
        assert!(text.contains(field) && text.contains(names), "{wrong}: {text}");
    }
    assert_eq!(fixture.server.revision(), before);
    assert_eq!(ports().await, [8080, 83, 90]);

    let rest = ["0", "1", "2"].map(|at| update("delete", Value::Null, json!(at)));
    write(json!(rest)).await.unwrap();
    assert_eq!(read("").await, json!([]));
    let other = fixture.get(&format!("/prop-collection-get?uuid={port}&fields=display_name")).await;
    assert_eq!(other.unwrap_err().0, 400);
}

#[tokio::test]
async fn route_target_lists_show_on_the_default_routing_instance() {
    let fixture = Fixture::new().await;
    let mut fields = network("front", &["10.0.0.0/24"]);
    fields["route_target_list"] = json!({"route_target": ["target:1:1"]});
    fields["import_route_target_list"] = json!({"route_target": ["target:2:2"]});
    let net = fixture.create(Kind::VIRTUAL_NETWORK, fields).await.unwrap();
    let instance =
        fixture.read(Kind::VIRTUAL_NETWORK, net).await["routing_instances"][0]["uuid"].clone();
    let instance: uuid::Uuid = instance.as_str().unwrap().parse().unwrap();
    let targets = |read: Value| -> Vec<(String, Value)> {
        let list = read["route_target_refs"].as_array().unwrap().clone();
        list.into_iter()
            .map(|r| (r["to"][0].as_str().unwrap().to_owned(), r["attr"].clone()))
            .collect()
    };
    let seen = targets(fixture.read(Kind::ROUTING_INSTANCE, instance).await);
    assert_eq!(seen.len(), 3);
    assert!(seen[0].0.starts_with("target:64512:8000") && seen[0].1.is_null());
    assert_eq!(seen[1], ("target:1:1".into(), Value::Null));
    assert_eq!(seen[2], ("target:2:2".into(), json!({"import_export": "import"})));
    fixture
        .update(Kind::VIRTUAL_NETWORK, net, json!({"import_route_target_list": null}))
        .await
        .unwrap();
    let seen = targets(fixture.read(Kind::ROUTING_INSTANCE, instance).await);
    assert_eq!(seen.len(), 2);
    let gone = fixture.client.name_to_id(Kind::ROUTE_TARGET, &FqName::single("target:2:2")).await;
    assert!(gone.unwrap_err().is_not_found(), "nobody refers to it any more");
    let (status, _) = fixture.delete(Kind::ROUTING_INSTANCE, instance).await.unwrap_err();
    assert_eq!(status, 409);
}

#[tokio::test]
async fn what_is_read_can_be_written_back_whole() {
    let fixture = Fixture::new().await;
    let net = fixture.network("front", "10.20.0.0/24").await;
    let port = fixture.port("p1", net).await;
    let extra = json!({"virtual_machine_interface_refs": [{"uuid": port}]});
    fixture.address("ip1", net, extra).await.unwrap();
    let parent = fixture.read(Kind::VIRTUAL_NETWORK, net).await["parent_uuid"].clone();
    let project = parent.as_str().unwrap().parse().unwrap();
    let all = [
        (Kind::VIRTUAL_NETWORK, net, "routing_instances"),
        (Kind::VIRTUAL_MACHINE_INTERFACE, port, "instance_ip_back_refs"),
        (Kind::PROJECT, project, "virtual_networks"),
    ];
    for (kind, uuid, has) in all {
        let mut read = fixture.read(kind, uuid).await;
        assert!(read[has].is_array() && read["href"].is_string(), "{read}");
        let path = format!("/{kind}/{uuid}");
        fixture.put(&path, json!({kind.name(): read.clone()})).await.unwrap();
        let mut after = fixture.read(kind, uuid).await;
        for object in [&mut read, &mut after] {
            object["id_perms"]["last_modified"] = Value::Null;
        }
        assert_eq!(read, after);
    }
}

#[tokio::test]
async fn a_watcher_resumes_over_a_restart_of_the_server() {
    let fixture = Fixture::new().await;
    let mut watcher = fixture.client.watch(&[]);
    let Event::Snapshot(objects, _) = watcher.next().await else { panic!("no snapshot") };
    assert!(objects.len() > 20);
    let net = fixture.network("front", "10.20.0.0/24").await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match watcher.next().await {
            Event::Put(object, _) => seen.push(object.kind),
            other => panic!("{other:?}"),
        }
    }
    seen.sort();
    let mut expected = [Kind::VIRTUAL_NETWORK, Kind::ROUTING_INSTANCE, Kind::ROUTE_TARGET];
    expected.sort();
    assert_eq!(seen, expected, "one write, one revision, three objects");
    let since = fixture.server.revision();
    fixture.update(Kind::VIRTUAL_NETWORK, net, json!({"display_name": "one"})).await.unwrap();
    fixture.update(Kind::VIRTUAL_NETWORK, net, json!({"display_name": "two"})).await.unwrap();
    let fixture = fixture.restart().await;
    // The log on disk tells a watcher that was away what it missed.
    let mut stream = tokio::net::TcpStream::connect(fixture.server.local_addr()).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let request = format!(
        "GET /watch?resource_type=virtual_network HTTP/1.1\r\nhost: x\r\nlast-event-id: {since}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("\n\n") {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "{text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    assert!(
        text.contains("event: update") && text.contains(&format!("id: {}", since + 2)),
        "{text}"
    );
    assert!(!text.contains("event: init") && text.contains("two"), "{text}");
}

#[tokio::test]
async fn health_readiness_and_metrics_answer() {
    let fixture = Fixture::new().await;
    fixture.network("front", "10.20.0.0/24").await;
    for path in ["/healthz", "/readyz"] {
        assert!(
            support::http_get(fixture.server.local_addr(), path).await.starts_with("HTTP/1.1 200 ")
        );
    }
    let metrics = support::http_get(fixture.server.local_addr(), "/metrics").await;
    for line in [
        "skein_api_requests_total{method=\"POST\",resource=\"virtual-network\",code=\"200\"} 1",
        "skein_api_objects{resource=\"virtual-network\"} 5",
        "skein_api_revision 2",
        "skein_api_watchers 0",
        "skein_api_commit_group_count 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn the_listener_speaks_tls_when_told_to() {
    use std::{net::SocketAddr, sync::Arc};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let files =
        skein_api::TlsFiles { certificate: dir.path().join("cert"), key: dir.path().join("key") };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = skein_api::Config::new(listen, dir.path().join("config.redb"));
    config.tls = Some(files);
    let server = skein_api::Server::start(config).await.unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: cfg:8082\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    assert!(text.contains("\"href\":\"https://cfg:8082/virtual-networks\""), "{}", &text[..300]);
    server.shutdown().await;
}

/// What the network's link, a vRouter's link or a relaxed reference led to comes back when its owner goes.
#[tokio::test]
async fn an_address_of_a_flat_ipam_does_not_outlive_its_owner() {
    let fixture = Fixture::new().await;
    let project = |name: &str| json!(["default-domain", "default-project", name]);
    let ipam = fixture
        .create(
            Kind::NETWORK_IPAM,
            json!({
                "fq_name": project("flat"), "parent_type": "project",
                "ipam_subnet_method": "flat-subnet",
                "ipam_subnets": {"subnets": [{
                    "subnet": {"ip_prefix": "10.5.0.0", "ip_prefix_len": 24},
                    "allocation_pools": [
                        {"start": "10.5.0.32", "end": "10.5.0.32", "vrouter_specific_pool": true},
                        {"start": "10.5.0.64", "end": "10.5.0.64"},
                    ],
                }]},
            }),
        )
        .await
        .unwrap();
    let net = fixture
        .create(
            Kind::VIRTUAL_NETWORK,
            json!({
                "fq_name": project("front"), "parent_type": "project",
                "virtual_network_properties": {"forwarding_mode": "l3"},
                "network_ipam_refs": [{"uuid": ipam}],
            }),
        )
        .await
        .unwrap();
    let ip = |name: &str, field: &str, target| {
        let fields = json!({"fq_name": [name], field: [{"uuid": target}]});
        fixture.create(Kind::INSTANCE_IP, fields)
    };
    let first = ip("first", "virtual_network_refs", net).await.unwrap();

    // The link is the way back.
    let unlink = json!({"network_ipam_refs": []});
    let (status, text) =
        fixture.update(Kind::VIRTUAL_NETWORK, net, unlink.clone()).await.unwrap_err();
    assert_eq!((status, text.contains("first")), (409, true), "{text}");
    let no_more = ip("second", "virtual_network_refs", net).await.unwrap_err();
    assert_eq!(no_more.0, 400, "{}", no_more.1);

    // A relaxed reference lets the network go first.
    fixture.post("/ref-relax-for-delete", json!({"uuid": first, "ref-uuid": net})).await.unwrap();
    fixture.delete(Kind::VIRTUAL_NETWORK, net).await.unwrap();
    fixture.delete(Kind::INSTANCE_IP, first).await.unwrap();
    let again = ip("again", "network_ipam_refs", ipam).await.unwrap();
    fixture.delete(Kind::INSTANCE_IP, again).await.unwrap();

    // So does a vRouter that loses its pools.
    let router = fixture
        .create(
            Kind::VIRTUAL_ROUTER,
            json!({
                "fq_name": ["default-global-system-config", "r"],
                "parent_type": "global-system-config",
                "network_ipam_refs": [{"uuid": ipam, "attr": {"allocation_pools": [
                    {"start": "10.5.0.32", "end": "10.5.0.32", "vrouter_specific_pool": true},
                ]}}],
            }),
        )
        .await
        .unwrap();
    let links = fixture.read(Kind::VIRTUAL_ROUTER, router).await["network_ipam_refs"].clone();
    let bound = ip("bound", "virtual_router_refs", router).await.unwrap();
    fixture.update(Kind::VIRTUAL_ROUTER, router, unlink).await.unwrap();
    fixture.delete(Kind::INSTANCE_IP, bound).await.unwrap();
    let relink = json!({"network_ipam_refs": [{"uuid": ipam, "attr": links[0]["attr"]}]});
    fixture.update(Kind::VIRTUAL_ROUTER, router, relink).await.unwrap();
    ip("bound", "virtual_router_refs", router).await.unwrap();
}
