//! Policies as lines: what is derived from them and what is in the configuration, to be read and compared.

use super::{Bench, namespace, object};
use serde_json::Value;
use skein_kube::Settings;
use skein_kube::core::Core;
use skein_kube::key::{Key, Sort};
use skein_model::{Kind, Object};
use std::collections::BTreeMap;

/// A rule as a line: `action service source > target`, with where it is judged.
pub fn line(rule: &BTreeMap<String, Value>) -> String {
    let end = |name: &str| {
        let end = &rule[name];
        if end["any"] == true {
            "any".to_owned()
        } else if let Some(tags) = end["tags"].as_array().filter(|tags| !tags.is_empty()) {
            let mut tags: Vec<&str> = tags.iter().map(|t| t.as_str().unwrap()).collect();
            tags.sort_unstable();
            tags.join("&")
        } else {
            format!("AG {}", end["address_group"].as_str().unwrap().rsplit(':').next().unwrap())
        }
    };
    let service = &rule["service"];
    let ports = &service["dst_ports"];
    let ports = match (ports["start_port"].as_u64().unwrap(), ports["end_port"].as_u64().unwrap()) {
        (0, 65535) => String::new(),
        (first, last) if first == last => format!(":{first}"),
        (first, last) => format!(":{first}-{last}"),
    };
    let hole = if rule.get("is_exception") == Some(&Value::Bool(true)) { "hole " } else { "" };
    format!(
        "{hole}{} {}{ports} {} > {} @{}",
        rule["action_list"]["simple_action"].as_str().unwrap(),
        service["protocol"].as_str().unwrap(),
        end("endpoint_1"),
        end("endpoint_2"),
        rule["judged_at"].as_str().unwrap(),
    )
}

/// The rules of a firewall policy in their order: name and line.
pub fn rules(bench: &Bench, policy: &Object) -> Vec<(String, String)> {
    let mut all: Vec<(String, &Object)> = policy
        .references_to(Kind::FIREWALL_RULE)
        .map(|r| {
            let rule: &Object = bench.core.graph().get(r.uuid).unwrap();
            (r.attr["sequence"].as_str().unwrap().to_owned(), rule)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter()
        .map(|(_, rule)| {
            let fields = skein_kube::packed::properties(rule)
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            (rule.name().to_owned(), line(&fields))
        })
        .collect()
}

pub async fn policy_rules(bench: &Bench, name: &str) -> Vec<(String, String)> {
    let policy =
        bench.must(Kind::FIREWALL_POLICY, &format!("default-policy-management:{name}")).await;
    rules(bench, &policy)
}

/// What a policy wants, without any API: lines in order.
pub fn derived(core: &Core, name: &str) -> Vec<String> {
    core.derive(&Key::new(Sort::Policy, "shop", name))
        .objects
        .iter()
        .filter(|o| o.kind == Kind::FIREWALL_RULE)
        .map(|o| {
            let fields = o.properties.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            line(&fields)
        })
        .collect()
}

pub fn table(spec: &str) -> Vec<String> {
    let mut core = Core::new(Settings::default());
    core.kube_put(namespace("shop", "", ""));
    let ports = "spec: {nodeName: node-1, containers: [{name: a, ports: [{name: http, containerPort: PORT}]}]}";
    for (name, port) in [("a", "8080"), ("b", "9090")] {
        core.kube_put(object(&format!(
            "kind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n{}",
            ports.replace("PORT", port)
        )));
    }
    core.kube_put(object(&format!(
        "kind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}"
    )));
    derived(&core, "p")
}

/// What is told about a policy of the namespace `shop`.
pub fn told(core: &Core, key: &Key) -> Vec<String> {
    let problems = core.derive(key).problems;
    assert!(problems.iter().all(|one| one.reason == "BadPolicy"), "{problems:?}");
    problems.into_iter().map(|one| one.message).collect()
}
