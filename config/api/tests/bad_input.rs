//! Requests that must be refused: each with its status and the field it names, and nothing changed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::needless_pass_by_value
)] // a test fails by panicking

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use skein_model::Kind;
use support::{Fixture, network};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sends bytes as they are and returns the status and the text.
async fn raw(
    fixture: &Fixture,
    method: &str,
    path: &str,
    kind: &str,
    body: &[u8],
) -> (u16, String) {
    let mut stream = TcpStream::connect(fixture.server.local_addr()).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned())
}

fn net(extra: Value) -> Value {
    let mut fields = network("new", &["10.5.0.0/24"]);
    fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"virtual-network": fields})
}

fn subnet(extra: Value) -> Value {
    let mut body = net(json!({}));
    let target = &mut body["virtual-network"]["network_ipam_refs"][0]["attr"]["ipam_subnets"][0];
    target.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn policy(rule: Value) -> Value {
    let mut full = json!({
        "direction": "<>", "protocol": "tcp", "action_list": {"simple_action": "pass"},
        "src_addresses": [{"virtual_network": "any"}], "dst_addresses": [{"virtual_network": "any"}],
        "src_ports": [{"start_port": -1, "end_port": -1}], "dst_ports": [{"start_port": 1, "end_port": 2}],
    });
    full.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
    json!({"network-policy": {
        "fq_name": ["default-domain", "default-project", "p"], "parent_type": "project",
        "network_policy_entries": {"policy_rule": [full]},
    }})
}

#[tokio::test]
async fn every_wrong_request_names_its_field_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let front = fixture.network("front", "10.1.0.0/29").await;
    let port = fixture.port("port", front).await;
    for n in 0..4 {
        fixture.address(&format!("ip{n}"), front, json!({})).await.ok();
    }
    let iip = |extra: Value| {
        let mut fields = json!({"fq_name": ["new"], "virtual_network_refs": [{"uuid": front}]});
        fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"instance-ip": fields})
    };
    let vmi = |extra: Value| {
        let mut fields = json!({
            "fq_name": ["default-domain", "default-project", "new"], "parent_type": "project",
            "virtual_network_refs": [{"uuid": front}],
        });
        fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"virtual-machine-interface": fields})
    };
    let vns = "/virtual-networks";
    let ghost = "00000000-0000-4000-8000-00000000dead";
    let port_as_net = format!("/virtual-network/{port}");
    let of_ghost = format!("/virtual-network/{ghost}");
    let alloc = format!("/virtual-network/{front}/ip-alloc");
    let of_front = format!("/virtual-network/{front}");
    let of_port = format!("/virtual-machine-interface/{port}");
    let vrouters = ["default-global-system-config", "default-global-vrouter-config"];
    let vrouters = json!({"type": "global-vrouter-config", "fq_name": vrouters});
    let vrouters = fixture.post("/fqname-to-id", vrouters).await.unwrap();
    let of_vrouters = format!("/global-vrouter-config/{}", vrouters["uuid"].as_str().unwrap());
    let pools = |pools: Value| {
        let pools = json!({"port_translation_pool": pools});
        json!({"global-vrouter-config": {"port_translation_pools": pools}})
    };
    let age = |entry: Value| {
        let ages = json!({"flow_aging_timeout": [entry]});
        json!({"global-vrouter-config": {"flow_aging_timeout_list": ages}})
    };
    let range = |start: i64, end: i64| json!({"start_port": start, "end_port": end});
    let narrow = |n: i64| json!({"protocol": "tcp", "port_range": range(n * 10, n * 10 + 1)});
    let five: Vec<Value> = (1..=5).map(narrow).collect();
    let cases: Vec<(&str, &str, Value, u16, &str)> = vec![
        // Shape of the request
        ("POST", vns, json!([]), 400, "JSON object"),
        ("POST", vns, json!({"network": {}}), 400, "virtual-network"),
        ("POST", vns, json!({"virtual-network": 7}), 400, "virtual-network"),
        ("POST", "/virtual-nets", json!({}), 404, "virtual-nets"),
        ("PATCH", vns, json!({}), 405, "PATCH"),
        ("DELETE", vns, json!({}), 405, "DELETE"),
        ("GET", "/virtual-network/not-a-uuid", json!({}), 404, "not-a-uuid"),
        ("GET", &port_as_net, json!({}), 404, "virtual-network"),
        ("PUT", &of_ghost, net(json!({})), 404, ghost),
        ("DELETE", &of_ghost, json!({}), 404, ghost),
        // Fields that the type does not have
        ("POST", vns, net(json!({"colour": "red"})), 400, "colour: unknown field"),
        ("PUT", &of_front, json!({"virtual-network": {"colour": null}}), 400, "colour: unknown"),
        ("PUT", &of_front, json!({"virtual-network": {"Mtu": 1400}}), 400, "Mtu: unknown field"),
        (
            "PUT",
            &of_front,
            json!({"virtual-network": {"mtu": 1400, "instance_ip_refs": []}}),
            400,
            "instance_ip_refs: unknown field",
        ),
        (
            "PUT",
            &of_front,
            json!({"virtual-network": {"mtu": 1400}, "display_name": "x"}),
            400,
            "display_name: unknown field beside",
        ),
        (
            "POST",
            vns,
            net(json!({"network_policy_refs": [{"to": ["a", "b", "c"], "atr": null}]})),
            400,
            "network_policy_refs[0].atr: unknown field",
        ),
        // Names and parents
        ("POST", vns, net(json!({"fq_name": null})), 400, "fq_name"),
        ("POST", vns, net(json!({"fq_name": "a:b"})), 400, "fq_name"),
        ("POST", vns, net(json!({"fq_name": ["default-domain", 7, "x"]})), 400, "fq_name"),
        (
            "POST",
            vns,
            net(json!({"fq_name": ["default-domain", "default-project", "a:b"]})),
            400,
            "fq_name",
        ),
        (
            "POST",
            vns,
            net(json!({"fq_name": ["default-domain", "default-project", "a\u{1}b"]})),
            400,
            "fq_name",
        ),
        (
            "POST",
            vns,
            net(json!({"fq_name": ["default-domain", "default-project", ""]})),
            400,
            "fq_name",
        ),
        (
            "POST",
            vns,
            net(json!({"fq_name": ["default-domain", "default-project", "front"]})),
            409,
            "fq_name",
        ),
        ("POST", vns, net(json!({"fq_name": ["default-domain", "nowhere", "x"]})), 404, "parent"),
        ("POST", vns, net(json!({"parent_type": "domain"})), 400, "parent_type"),
        ("POST", vns, net(json!({"uuid": "xyz"})), 400, "uuid"),
        ("POST", vns, net(json!({"uuid": port})), 409, "uuid"),
        // Values against the schema
        ("POST", vns, net(json!({"mtu": "many"})), 400, "mtu"),
        ("POST", vns, net(json!({"mtu": 99_999})), 400, "mtu"),
        ("POST", vns, net(json!({"is_shared": "yes"})), 400, "is_shared"),
        ("POST", vns, net(json!({"display_name": 5})), 400, "display_name"),
        (
            "POST",
            vns,
            net(json!({"address_allocation_mode": "best"})),
            400,
            "address_allocation_mode",
        ),
        (
            "POST",
            vns,
            net(json!({"virtual_network_properties": {"colour": "red"}})),
            400,
            "virtual_network_properties.colour",
        ),
        (
            "POST",
            vns,
            net(json!({"virtual_network_properties": [1]})),
            400,
            "virtual_network_properties",
        ),
        (
            "POST",
            vns,
            net(json!({"virtual_network_network_id": 9})),
            403,
            "virtual_network_network_id",
        ),
        (
            "POST",
            vns,
            net(json!({"route_target_list": {"route_target": ["target:64512:8000001"]}})),
            400,
            "route_target_list",
        ),
        (
            "POST",
            vns,
            net(json!({"route_target_list": {"route_target": ["64512:1"]}})),
            400,
            "route_target_list",
        ),
        // References
        ("POST", vns, net(json!({"network_ipam_refs": {}})), 400, "network_ipam_refs"),
        ("POST", vns, net(json!({"network_ipam_refs": [{}]})), 400, "network_ipam_refs[0]"),
        (
            "POST",
            vns,
            net(json!({"network_ipam_refs": [{"to": ["a", "b", "c"]}]})),
            400,
            "network_ipam_refs",
        ),
        (
            "POST",
            vns,
            net(json!({"network_policy_refs": [{"uuid": ghost}]})),
            400,
            "network_policy_refs",
        ),
        (
            "POST",
            vns,
            net(json!({"network_policy_refs": [{"uuid": front}]})),
            400,
            "network_policy_refs",
        ),
        // Subnets
        (
            "POST",
            vns,
            subnet(json!({"subnet": {"ip_prefix": "10.0.0", "ip_prefix_len": 24}})),
            400,
            "ip_prefix",
        ),
        (
            "POST",
            vns,
            subnet(json!({"subnet": {"ip_prefix": "10.0.0.0", "ip_prefix_len": 40}})),
            400,
            "ip_prefix_len",
        ),
        ("POST", vns, subnet(json!({"subnet": null})), 400, "subnet"),
        ("POST", vns, subnet(json!({"default_gateway": "10.6.0.1"})), 400, "default_gateway"),
        ("POST", vns, subnet(json!({"default_gateway": "10.5.0.255"})), 400, "default_gateway"),
        ("POST", vns, subnet(json!({"dns_server_address": "none"})), 409, "dns_server_address"),
        ("POST", vns, subnet(json!({"alloc_unit": 3})), 400, "alloc_unit"),
        (
            "POST",
            vns,
            subnet(json!({"allocation_pools": [{"start": "10.6.0.1", "end": "10.6.0.9"}]})),
            400,
            "allocation_pools[0].start",
        ),
        (
            "POST",
            vns,
            subnet(json!({"allocation_pools": [{"start": "10.5.0.9", "end": "10.5.0.1"}]})),
            400,
            "allocation_pools[0]",
        ),
        (
            "POST",
            vns,
            json!({"virtual-network": network("new", &["10.5.0.0/24", "10.5.0.128/25"])}),
            400,
            "overlap",
        ),
        // Addresses
        ("POST", "/instance-ips", iip(json!({})), 400, "exhausted"),
        ("POST", "/instance-ips", iip(json!({"instance_ip_address": "10.1.0.4"})), 409, "10.1.0.4"),
        ("POST", "/instance-ips", iip(json!({"instance_ip_address": "10.2.0.4"})), 400, "10.2.0.4"),
        ("POST", "/instance-ips", iip(json!({"instance_ip_address": "10.1.0.7"})), 400, "10.1.0.7"),
        (
            "POST",
            "/instance-ips",
            iip(json!({"instance_ip_address": "ten"})),
            400,
            "instance_ip_address",
        ),
        ("POST", "/instance-ips", iip(json!({"instance_ip_family": "v6"})), 400, "IPv6"),
        (
            "POST",
            "/instance-ips",
            iip(json!({"instance_ip_family": "v5"})),
            400,
            "instance_ip_family",
        ),
        ("POST", "/instance-ips", iip(json!({"subnet_uuid": ghost})), 400, "subnet_uuid"),
        (
            "POST",
            "/instance-ips",
            iip(json!({"virtual_network_refs": []})),
            400,
            "virtual_network_refs",
        ),
        // Ports
        (
            "POST",
            "/virtual-machine-interfaces",
            vmi(json!({"virtual_network_refs": null})),
            400,
            "virtual_network_refs",
        ),
        (
            "POST",
            "/virtual-machine-interfaces",
            vmi(json!({"virtual_machine_interface_mac_addresses": {"mac_address": ["02:zz"]}})),
            400,
            "mac_address[0]",
        ),
        (
            "POST",
            "/virtual-machine-interfaces",
            vmi(json!({"virtual_machine_interface_properties": {"sub_interface_vlan_tag": 5000}})),
            400,
            "sub_interface_vlan_tag",
        ),
        (
            "POST",
            "/virtual-machine-interfaces",
            vmi(json!({"parent_type": null})),
            400,
            "parent_type",
        ),
        // Policies
        (
            "POST",
            "/network-policys",
            policy(json!({"protocol": "ipx"})),
            400,
            "policy_rule[0].protocol",
        ),
        (
            "POST",
            "/network-policys",
            policy(json!({"direction": "up"})),
            400,
            "policy_rule[0].direction",
        ),
        (
            "POST",
            "/network-policys",
            policy(json!({"action_list": null})),
            400,
            "policy_rule[0].action_list",
        ),
        (
            "POST",
            "/network-policys",
            policy(json!({"dst_ports": [{"start_port": 70_000}]})),
            400,
            "start_port",
        ),
        (
            "POST",
            "/network-policys",
            policy(json!({"dst_ports": [{"start_port": 9, "end_port": 3}]})),
            400,
            "dst_ports[0]",
        ),
        (
            "POST",
            "/network-policys",
            policy(json!({"src_addresses": [{"security_group": "local"}]})),
            400,
            "security_group",
        ),
        (
            "POST",
            "/network-policys",
            policy(
                json!({"src_addresses": [{"subnet": {"ip_prefix": "1.2.3.4", "ip_prefix_len": 33}}]}),
            ),
            400,
            "subnet",
        ),
        (
            "POST",
            "/network-policys",
            policy(json!({"surprise": 1})),
            400,
            "policy_rule[0].surprise",
        ),
        // Actions
        ("POST", "/fqname-to-id", json!({"type": "nothing", "fq_name": ["a"]}), 404, "type"),
        ("POST", "/fqname-to-id", json!({"type": "domain", "fq_name": ["a"]}), 404, "domain"),
        ("POST", "/fqname-to-id", json!({"type": "domain"}), 400, "fq_name"),
        ("POST", "/id-to-fqname", json!({"uuid": 7}), 400, "uuid"),
        (
            "POST",
            "/ref-update",
            json!({"type": "virtual-network", "uuid": front, "ref-type": "network-policy", "ref-uuid": ghost, "operation": "ADD"}),
            404,
            "network_policy_refs",
        ),
        (
            "POST",
            "/ref-update",
            json!({"type": "virtual-network", "uuid": front, "ref-type": "network-policy", "ref-uuid": ghost, "operation": "SET"}),
            400,
            "operation",
        ),
        (
            "POST",
            "/ref-update",
            json!({"type": "virtual-network", "uuid": front, "ref-type": "instance-ip", "ref-uuid": ghost, "operation": "ADD"}),
            404,
            "ref-type",
        ),
        ("POST", "/useragent-kv", json!({"operation": "RETRIEVE", "key": "none"}), 404, "none"),
        ("POST", "/useragent-kv", json!({"operation": "JUMP", "key": "none"}), 404, "JUMP"),
        ("POST", "/useragent-kv", json!({"key": "none"}), 400, "operation"),
        (
            "POST",
            "/prop-collection-update",
            json!({"uuid": front, "updates": [{"field": "mtu", "operation": "add"}]}),
            400,
            "mtu",
        ),
        (
            "POST",
            "/prop-collection-update",
            json!({"uuid": front, "updates": [{"field": "annotations", "operation": "set", "value": {"key": "k", "colour": 1}}]}),
            400,
            "colour",
        ),
        ("POST", &alloc, json!({"count": 10}), 409, "exhausted"),
        ("POST", &alloc, json!({"subnet": ghost}), 404, "subnet"),
        ("POST", "/chmod", json!({"uuid": front, "global_access": 9}), 400, "global_access"),
        ("GET", "/virtual-networks?filters=nonsense", json!({}), 400, "filters"),
        ("GET", "/virtual-networks?page_limit=0", json!({}), 400, "page_limit"),
        ("GET", "/watch", json!({}), 400, "resource_type"),
        ("GET", "/watch?resource_type=nothing", json!({}), 404, "nothing"),
        ("GET", "/watch?resource_type=*&since=99999999", json!({}), 410, "since"),
        // Changes of what is there
        ("PUT", &of_front, net(json!({"fq_name": ["a", "b", "c"]})), 400, "fq_name"),
        (
            "PUT",
            &of_front,
            json!({"virtual-network": {"virtual_network_network_id": 500}}),
            403,
            "virtual_network_network_id",
        ),
        (
            "PUT",
            &of_front,
            json!({"virtual-network": {"perms2": {"global_access": 7}}}),
            400,
            "perms2.owner",
        ),
        ("PUT", &of_front, json!({"virtual-network": {"network_ipam_refs": []}}), 409, "in use"),
        (
            "PUT",
            &of_port,
            json!({"virtual-machine-interface": {"virtual_network_refs": []}}),
            400,
            "virtual_network_refs",
        ),
        (
            "POST",
            "/global-system-configs",
            json!({"global-system-config": {"fq_name": ["second"]}}),
            400,
            "global-system-config",
        ),
        // Ports that nodes lend
        (
            "PUT",
            &of_vrouters,
            pools(json!([{"protocol": "icmp", "port_count": "7"}])),
            400,
            "[0].protocol",
        ),
        (
            "PUT",
            &of_vrouters,
            pools(json!([{"protocol": "tcp", "port_range": range(9, 8)}])),
            400,
            "[0].port_range",
        ),
        (
            "PUT",
            &of_vrouters,
            pools(json!([{"protocol": "tcp", "port_range": range(0, 8)}])),
            400,
            "[0].port_range",
        ),
        (
            "PUT",
            &of_vrouters,
            pools(json!([{"protocol": "udp", "port_count": "none"}])),
            400,
            "[0].port_count",
        ),
        ("PUT", &of_vrouters, pools(json!([{"protocol": "udp"}])), 400, "[0].port_range"),
        ("PUT", &of_vrouters, pools(json!(five)), 400, "5 pools of tcp"),
        (
            "PUT",
            &of_vrouters,
            age(json!({"protocol": "any", "port": 0, "timeout_in_seconds": 9})),
            400,
            "flow_aging_timeout_list[0].protocol",
        ),
        (
            "PUT",
            &of_vrouters,
            age(json!({"protocol": "tcp", "port": 65_536, "timeout_in_seconds": 9})),
            400,
            "[0].port",
        ),
        (
            "PUT",
            &of_vrouters,
            age(json!({"protocol": "tcp", "port": 80, "timeout_in_seconds": -1})),
            400,
            "[0].timeout_in_seconds",
        ),
        ("PUT", &of_vrouters, age(json!({"protocol": "17"})), 400, "[0].timeout_in_seconds"),
    ];
    let before = fixture.server.revision();
    let mut wrong = Vec::new();
    for (method, path, body, status, names) in cases {
        let text = body.to_string();
        let (got, said) = raw(&fixture, method, path, "application/json", text.as_bytes()).await;
        if got != status || !said.contains(names) {
            wrong.push(format!(
                "{method} {path} {text}\n   wanted {status} with {names:?}, got {got}: {said}"
            ));
        }
        if fixture.server.revision() != before {
            wrong.push(format!("{method} {path} {text}\n   changed something"));
            break;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn malformed_bodies_are_refused() {
    let fixture = Fixture::new().await;
    let before = fixture.server.revision();
    let good = net(json!({})).to_string();
    let deep = format!("{{\"virtual-network\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
    let cases: Vec<(&str, &[u8])> = vec![
        ("application/json", b"{"),
        ("application/json", b"{\"virtual-network\": {\"fq_name\": [\"a\""),
        ("application/json", b"\xff\xfe\x00"),
        ("application/json", b"null"),
        ("application/json", b""),
        ("application/json", b"{\"virtual-network\": {}} trailing"),
        ("application/json", deep.as_bytes()),
        ("text/plain", good.as_bytes()),
        ("application/json", &good.as_bytes()[..good.len() / 2]),
    ];
    for (kind, body) in cases {
        let (status, text) = raw(&fixture, "POST", "/virtual-networks", kind, body).await;
        assert_eq!(status, 400, "{}: {text}", String::from_utf8_lossy(&body[..body.len().min(60)]));
    }
    assert_eq!(fixture.server.revision(), before);
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// 100 MB, announced or chunked, get 413 and are not kept in memory.
#[tokio::test]
async fn an_enormous_body_is_refused_without_being_kept() {
    const SIZE: usize = 100 << 20;
    let fixture = Fixture::new().await;
    let block = vec![b'x'; 64 << 10];
    for chunked in [false, true] {
        let mut stream = TcpStream::connect(fixture.server.local_addr()).await.unwrap();
        let length = if chunked {
            "transfer-encoding: chunked".to_owned()
        } else {
            format!("content-length: {SIZE}")
        };
        let head = format!(
            "POST /virtual-networks HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let before = resident();
        let mut most = 0;
        for _ in 0..SIZE / block.len() {
            if chunked {
                stream.write_all(format!("{:x}\r\n", block.len()).as_bytes()).await.unwrap();
            }
            stream.write_all(&block).await.unwrap();
            if chunked {
                stream.write_all(b"\r\n").await.unwrap();
            }
            most = most.max(resident().saturating_sub(before));
        }
        if chunked {
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
        let mut answer = vec![0; 512];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(most < 16 << 20, "{most} bytes more in memory");
    }
    // The server goes on.
    fixture.network("after", "10.0.0.0/24").await;
    assert!(fixture.delete(Kind::DOMAIN, uuid::Uuid::new_v4()).await.is_err());
}
