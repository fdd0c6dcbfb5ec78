//! Tags and firewall objects: spec section 12.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::needless_pass_by_value
)] // a test fails by panicking

mod support;

use serde_json::{Value, json};
use skein_model::Kind;
use support::Fixture;
use uuid::Uuid;

const PROJECT: [&str; 2] = ["default-domain", "default-project"];

fn below(name: &str) -> Value {
    json!([PROJECT[0], PROJECT[1], name])
}

fn global(name: &str) -> Value {
    json!(["default-policy-management", name])
}

async fn tag(fixture: &Fixture, tag_type: &str, value: &str, global: bool) -> Uuid {
    let name = format!("{tag_type}={value}");
    let mut fields = json!({"tag_type_name": tag_type, "tag_value": value});
    if global {
        fields["fq_name"] = json!([name]);
    } else {
        fields["fq_name"] = below(&name);
        fields["parent_type"] = json!("project");
    }
    fixture.create(Kind::TAG, fields).await.unwrap()
}

/// Fields of a rule of the default project, with others in their place.
fn rule(name: &str, extra: Value) -> Value {
    let mut fields = json!({
        "fq_name": below(name), "parent_type": "project", "direction": ">",
        "action_list": {"simple_action": "pass"}, "service": {"protocol": "tcp"},
        "endpoint_1": {"any": true}, "endpoint_2": {"any": true},
    });
    fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    fields
}

fn uuids(read: &Value, field: &str) -> Vec<Uuid> {
    let list = read[field].as_array().cloned().unwrap_or_default();
    list.iter().map(|r| r["uuid"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn a_rule_is_filled_in_from_its_endpoints() {
    let fixture = Fixture::new().await;
    let web = tag(&fixture, "tier", "web", false).await;
    let site = tag(&fixture, "site", "us", true).await;
    let group = json!({
        "fq_name": below("office"), "parent_type": "project",
        "address_group_prefix": {"subnet": [{"ip_prefix": "192.0.2.0", "ip_prefix_len": 24}]},
    });
    let group = fixture.create(Kind::ADDRESS_GROUP, group).await.unwrap();
    let fields = rule(
        "r",
        json!({
            "endpoint_1": {"tags": ["Tier=web", "global:site=us"]},
            "endpoint_2": {"address_group": "default-domain:default-project:office"},
            "match_tags": {"tag_list": ["Deployment", "site"]},
            "service": {"protocol": "UDP", "dst_ports": {"start_port": 53, "end_port": 53}},
        }),
    );
    let uuid = fixture.create(Kind::FIREWALL_RULE, fields).await.unwrap();
    let read = fixture.read(Kind::FIREWALL_RULE, uuid).await;
    assert_eq!(uuids(&read, "tag_refs"), [web, site]);
    assert_eq!(uuids(&read, "address_group_refs"), [group]);
    let ids = read["endpoint_1"]["tag_ids"].as_array().unwrap();
    assert_eq!(ids.iter().map(|id| id.as_u64().unwrap() >> 16).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(read["match_tag_types"], json!({"tag_type": [3, 4]}));
    assert_eq!(read["service"]["protocol_id"], 17);

    // What was read may be sent back; the tags of a rule cannot be deleted.
    fixture.update(Kind::FIREWALL_RULE, uuid, read.clone()).await.unwrap();
    assert_eq!(fixture.delete(Kind::TAG, web).await.unwrap_err().0, 409);

    // Other endpoints make other references.
    let fields = json!({"endpoint_1": {"any": true}, "match_tags": null});
    fixture.update(Kind::FIREWALL_RULE, uuid, fields).await.unwrap();
    let read = fixture.read(Kind::FIREWALL_RULE, uuid).await;
    assert!(read["tag_refs"].is_null() && read["endpoint_1"]["tag_ids"].is_null());
    assert_eq!(uuids(&read, "address_group_refs"), [group]);
    assert_eq!(read["match_tag_types"], json!({"tag_type": [1]}), "the default");
    fixture.delete(Kind::TAG, web).await.unwrap();
}

#[tokio::test]
async fn global_rules_name_global_tags_with_or_without_the_prefix() {
    let fixture = Fixture::new().await;
    let web = tag(&fixture, "tier", "web", true).await;
    for (name, written) in [("a", "tier=web"), ("b", "global:tier=web")] {
        let fields = rule(
            name,
            json!({
                "fq_name": global(name), "parent_type": "policy-management",
                "endpoint_1": {"tags": [written]},
            }),
        );
        let uuid = fixture.create(Kind::FIREWALL_RULE, fields).await.unwrap();
        assert_eq!(uuids(&fixture.read(Kind::FIREWALL_RULE, uuid).await, "tag_refs"), [web]);
    }
}

#[tokio::test]
async fn our_extensions_are_stored_and_checked() {
    let fixture = Fixture::new().await;
    let fields = rule(
        "hole",
        json!({
            "action_list": {"simple_action": "deny"}, "is_exception": true, "judged_at": "endpoint-2",
            "endpoint_1": {"subnet": {"ip_prefix": "10.0.0.0", "ip_prefix_len": 8}},
        }),
    );
    let hole = fixture.create(Kind::FIREWALL_RULE, fields).await.unwrap();
    let read = fixture.read(Kind::FIREWALL_RULE, hole).await;
    assert_eq!((&read["is_exception"], &read["judged_at"]), (&json!(true), &json!("endpoint-2")));
    let fields = rule("next", json!({"action_list": {"simple_action": "skip"}}));
    fixture.create(Kind::FIREWALL_RULE, fields).await.unwrap();
    let policy = json!({
        "fq_name": below("p"), "parent_type": "project", "policy_tier": "admin",
        "firewall_rule_refs": [{"uuid": hole, "attr": {"sequence": "00001.5"}}],
    });
    let policy = fixture.create(Kind::FIREWALL_POLICY, policy).await.unwrap();
    let read = fixture.read(Kind::FIREWALL_POLICY, policy).await;
    assert_eq!(read["policy_tier"], "admin");
    assert_eq!(read["firewall_rule_refs"][0]["attr"]["sequence"], "00001.5");
}

#[tokio::test]
async fn a_service_group_gets_protocol_numbers() {
    let fixture = Fixture::new().await;
    let list = json!([{"protocol": "tcp"}, {"protocol": "any"}, {"protocol": "47"}, {}]);
    let fields = json!({
        "fq_name": below("s"), "parent_type": "project",
        "service_group_firewall_service_list": {"firewall_service": list},
    });
    let uuid = fixture.create(Kind::SERVICE_GROUP, fields).await.unwrap();
    let read = fixture.read(Kind::SERVICE_GROUP, uuid).await;
    let list = read["service_group_firewall_service_list"]["firewall_service"].as_array().unwrap();
    let numbers: Vec<_> = list.iter().map(|s| s["protocol_id"].as_u64()).collect();
    assert_eq!(numbers, [Some(6), Some(0), Some(47), None]);
    // A rule moves between a service and a group in one request.
    let uuid = {
        let group = json!({"service": null, "service_group_refs": [{"uuid": uuid}]});
        let rule = fixture.create(Kind::FIREWALL_RULE, rule("r", json!({}))).await.unwrap();
        fixture.update(Kind::FIREWALL_RULE, rule, group).await.unwrap();
        rule
    };
    assert!(fixture.read(Kind::FIREWALL_RULE, uuid).await["service"].is_null());
}

#[tokio::test]
async fn set_tag_attaches_and_detaches() {
    let fixture = Fixture::new().await;
    let net = fixture.network("front", "10.1.0.0/24").await;
    let web = tag(&fixture, "tier", "web", false).await;
    let db = tag(&fixture, "tier", "db", true).await;
    let (x, y) =
        (tag(&fixture, "label", "x", false).await, tag(&fixture, "label", "y", false).await);
    let set = |wish: Value| {
        let mut body = json!({"obj_type": "virtual_network", "obj_uuid": net});
        body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
        fixture.post("/set-tag", body)
    };
    let tags = async || {
        let mut all = uuids(&fixture.read(Kind::VIRTUAL_NETWORK, net).await, "tag_refs");
        all.sort_unstable();
        all
    };
    let sorted = |mut all: Vec<Uuid>| {
        all.sort_unstable();
        all
    };
    set(json!({"tier": {"value": "web"}, "label": {"add_values": ["x", "y"]}})).await.unwrap();
    assert_eq!(tags().await, sorted(vec![web, x, y]));
    set(json!({"tier": {"value": "db", "is_global": true}})).await.unwrap();
    assert_eq!(tags().await, sorted(vec![db, x, y]), "one value takes the place of the other");
    set(json!({"label": {"delete_values": ["x"]}, "tier": null})).await.unwrap();
    assert_eq!(tags().await, [y]);
}

#[tokio::test]
async fn every_wrong_request_names_its_field_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let net = fixture.network("front", "10.1.0.0/24").await;
    let web = tag(&fixture, "tier", "web", false).await;
    tag(&fixture, "site", "us", true).await;
    tag(&fixture, "label", "x", false).await;
    let services = json!({
        "fq_name": below("services"), "parent_type": "project",
        "service_group_firewall_service_list": {"firewall_service": [{"protocol": "tcp"}]},
    });
    let services = fixture.create(Kind::SERVICE_GROUP, services).await.unwrap();
    let office = json!({"fq_name": below("office"), "parent_type": "project"});
    let office = fixture.create(Kind::ADDRESS_GROUP, office).await.unwrap();
    let existing = fixture.create(Kind::FIREWALL_RULE, rule("existing", json!({}))).await.unwrap();
    let of_existing = format!("/firewall-rule/{existing}");
    let default_set = fixture
        .client
        .name_to_id(
            Kind::APPLICATION_POLICY_SET,
            &skein_model::FqName::parse(
                "default-domain:default-project:default-application-policy-set",
            ),
        )
        .await
        .unwrap();
    let of_set = format!("/application-policy-set/{default_set}");
    let subnet = |ip: &str, len: u8| json!({"subnet": {"ip_prefix": ip, "ip_prefix_len": len}});
    let in_global = |extra: Value| {
        let mut fields = rule("new", extra);
        fields["fq_name"] = global("new");
        fields["parent_type"] = json!("policy-management");
        fields
    };
    let rules: Vec<(Value, u16, &str)> = vec![
        (rule("new", json!({"action_list": null})), 400, "action_list.simple_action"),
        (rule("new", json!({"action_list": {"simple_action": "drop"}})), 400, "simple_action"),
        (rule("new", json!({"direction": null})), 400, "direction"),
        (rule("new", json!({"direction": "=>"})), 400, "direction"),
        (rule("new", json!({"service": null})), 400, "service"),
        (rule("new", json!({"service_group_refs": [{"uuid": services}]})), 400, "service"),
        (rule("new", json!({"service": {"protocol": "ipx"}})), 400, "service.protocol"),
        (rule("new", json!({"service": {"protocol": "256"}})), 400, "service.protocol"),
        (
            rule("new", json!({"service": {"dst_ports": {"start_port": 9, "end_port": 3}}})),
            400,
            "service.dst_ports",
        ),
        (
            rule("new", json!({"endpoint_1": {"any": true, "tags": ["tier=web"]}})),
            400,
            "endpoint_1",
        ),
        (rule("new", json!({"endpoint_2": {"tags": ["web"]}})), 400, "endpoint_2.tags[0]"),
        (rule("new", json!({"endpoint_2": {"tags": ["tier=none"]}})), 404, "endpoint_2.tags[0]"),
        (rule("new", json!({"endpoint_2": {"tags": ["site=us"]}})), 404, "endpoint_2.tags[0]"),
        (
            rule("new", json!({"endpoint_2": {"address_group": "a:b"}})),
            404,
            "endpoint_2.address_group",
        ),
        (
            rule("new", json!({"endpoint_2": {"virtual_network": "a:b:c"}})),
            404,
            "endpoint_2.virtual_network",
        ),
        (rule("new", json!({"endpoint_1": subnet("10.0.0.0", 33)})), 400, "endpoint_1.subnet"),
        (rule("new", json!({"endpoint_1": {"subnet": {}}})), 400, "endpoint_1.subnet"),
        (rule("new", json!({"tag_refs": [{"uuid": web}]})), 400, "tag_refs"),
        (rule("new", json!({"address_group_refs": [{"uuid": office}]})), 400, "address_group_refs"),
        (
            rule("new", json!({"virtual_network_refs": [{"uuid": net}]})),
            400,
            "virtual_network_refs",
        ),
        (
            rule("new", json!({"match_tags": {"tag_list": ["label"]}})),
            400,
            "match_tags.tag_list[0]",
        ),
        (
            rule("new", json!({"match_tags": {"tag_list": ["colour"]}})),
            404,
            "match_tags.tag_list[0]",
        ),
        (rule("new", json!({"judged_at": "nowhere"})), 400, "judged_at"),
        (rule("new", json!({"is_exception": true})), 400, "is_exception"),
        (
            rule("new", json!({"is_exception": true, "action_list": {"simple_action": "deny"}})),
            400,
            "is_exception",
        ),
        (
            rule(
                "new",
                json!({"action_list": {"simple_action": "pass", "host_based_service": true}}),
            ),
            400,
            "host_based_service",
        ),
        (rule("new", json!({"draft_mode_state": "created"})), 400, "draft_mode_state"),
        (
            in_global(json!({"service": null, "service_group_refs": [{"uuid": services}]})),
            400,
            "service_group_refs",
        ),
        (
            in_global(
                json!({"endpoint_1": {"address_group": "default-domain:default-project:office"}}),
            ),
            400,
            "endpoint_1.address_group",
        ),
        (in_global(json!({"endpoint_1": {"tags": ["tier=web"]}})), 404, "endpoint_1.tags[0]"),
    ];
    let tagged = |fields: Value| json!({"tag": fields});
    let set_tag = |wish: Value| {
        let mut body = json!({"obj_type": "virtual_network", "obj_uuid": net});
        body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
        body
    };
    let of_project = |kind: &str, extra: Value| {
        let mut fields = json!({"fq_name": below("new"), "parent_type": "project"});
        fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({kind: fields})
    };
    let mut cases: Vec<(&str, &str, Value, u16, &str)> = rules
        .into_iter()
        .map(|(fields, status, word)| {
            ("POST", "/firewall-rules", json!({"firewall-rule": fields}), status, word)
        })
        .collect();
    cases.extend([
        ("PUT", &*of_existing, json!({"firewall-rule": {"tag_refs": [{"uuid": web}]}}), 400, "tag_refs"),
        ("PUT", &*of_existing, json!({"firewall-rule": {"service": null}}), 400, "service"),
        (
            "POST",
            "/set-tag",
            json!({"obj_type": "firewall_rule", "obj_uuid": existing, "tier": {"value": "web"}}),
            400,
            "tag_refs",
        ),
        (
            "POST",
            "/firewall-policys",
            of_project(
                "firewall-policy",
                json!({"firewall_rule_refs": [{"uuid": existing, "attr": {"sequence": "first"}}]}),
            ),
            400,
            "sequence",
        ),
        (
            "POST",
            "/firewall-policys",
            json!({"firewall-policy": {
                "fq_name": global("new"), "parent_type": "policy-management",
                "firewall_rule_refs": [{"uuid": existing, "attr": {"sequence": "1.0"}}],
            }}),
            400,
            "firewall_rule_refs",
        ),
        (
            "POST",
            "/application-policy-sets",
            of_project("application-policy-set", json!({"all_applications": true})),
            400,
            "all_applications",
        ),
        (
            "PUT",
            &*of_set,
            json!({"application-policy-set": {"all_applications": false}}),
            400,
            "all_applications",
        ),
        ("DELETE", &*of_set, json!({}), 400, "all_applications"),
        (
            "POST",
            "/address-groups",
            of_project("address-group", json!({"tag_refs": [{"uuid": web}]})),
            400,
            "tag_refs",
        ),
        (
            "POST",
            "/address-groups",
            of_project("address-group", json!({"address_group_prefix": {"subnet": [{"ip_prefix": "x", "ip_prefix_len": 3}]}})),
            400,
            "address_group_prefix.subnet[0]",
        ),
        (
            "POST",
            "/service-groups",
            of_project("service-group", json!({
                "service_group_firewall_service_list": {"firewall_service": [{"protocol": "ipx"}]},
            })),
            400,
            "firewall_service[0].protocol",
        ),
        ("POST", "/tags", tagged(json!({"tag_value": "a"})), 400, "tag_type_name"),
        ("POST", "/tags", tagged(json!({"tag_type_name": "a"})), 400, "tag_value"),
        ("POST", "/tags", tagged(json!({"tag_type_name": "a=b", "tag_value": "c"})), 400, "tag_type_name"),
        ("POST", "/tags", tagged(json!({"tag_type_name": "a", "tag_value": "b:c"})), 400, "tag_value"),
        ("POST", "/tags", tagged(json!({"tag_type_name": "site", "tag_value": "us"})), 409, "fq_name"),
        (
            "POST",
            "/tags",
            tagged(json!({"tag_type_name": "site", "tag_value": "eu", "tag_id": "0x00040001"})),
            400,
            "tag_id",
        ),
        ("POST", "/set-tag", set_tag(json!({"tier": {"value": "none"}})), 404, "tier"),
        ("POST", "/set-tag", set_tag(json!({"colour": {"value": "red"}})), 404, "colour"),
        ("POST", "/set-tag", set_tag(json!({"tier": {"add_values": ["web"]}})), 400, "tier"),
        ("POST", "/set-tag", set_tag(json!({"tier": "web"})), 400, "tier"),
        ("POST", "/set-tag", set_tag(json!({"label": {"add_values": [7]}})), 400, "label.add_values"),
        (
            "POST",
            "/set-tag",
            set_tag(json!({"tier": {"value": "web", "is_global": "yes"}})),
            400,
            "tier.is_global",
        ),
        (
            "POST",
            "/network-policys",
            of_project("network-policy", json!({"network_policy_entries": {"policy_rule": [{
                "direction": "<>", "protocol": "any", "action_list": {"simple_action": "skip"},
                "src_addresses": [{"virtual_network": "any"}],
                "dst_addresses": [{"virtual_network": "any"}],
            }]}})),
            400,
            "simple_action",
        ),
    ]);
    let before = fixture.server.revision();
    for (method, path, body, status, word) in cases {
        let method: hyper::Method = method.parse().unwrap();
        let told = format!("{method} {path} {body}");
        let answer = support::refused(fixture.client.request(method, path, Some(&body)).await);
        let (got, text) = answer.expect_err(&told);
        assert_eq!(got, status, "{told}: {text}");
        assert!(text.contains(word), "{told}: {text}");
        assert_eq!(fixture.server.revision(), before, "{told} changed something");
    }
}

#[tokio::test]
async fn a_project_comes_and_goes_with_its_set() {
    let fixture = Fixture::new().await;
    let project = json!({"fq_name": ["default-domain", "shop"], "parent_type": "domain"});
    let project = fixture.create(Kind::PROJECT, project).await.unwrap();
    let read = fixture.read(Kind::PROJECT, project).await;
    let set = uuids(&read, "application_policy_set_refs")[0];
    assert_eq!(fixture.read(Kind::APPLICATION_POLICY_SET, set).await["all_applications"], true);
    fixture.delete(Kind::PROJECT, project).await.unwrap();
    let gone = fixture.get(&format!("/application-policy-set/{set}")).await.unwrap_err();
    assert_eq!(gone.0, 404);
}
