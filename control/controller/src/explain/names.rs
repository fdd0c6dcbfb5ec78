//! Names for the numbers in compiled policies, and the authors of rules.

use serde::Serialize;
use serde_json::Value;
use skein_compiler::{OTHER_NETWORKS, OWN_NETWORK};
use skein_model::values::KeyValuePairs;
use skein_model::{Graph, Kind, Object};
use skein_policy::Peer;
use std::collections::HashMap;
use uuid::Uuid;

/// Names of tags, networks and security groups by their numbers.
pub(crate) struct Names<'a> {
    graph: &'a Graph,
    tags: HashMap<u32, String>,
    networks: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

/// Who wrote a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Author {
    /// The rule in the configuration.
    pub(crate) rule: String,
    /// The policy or group that the rule is in.
    pub(crate) policy: Option<String>,
    /// What an orchestrator made it from.
    pub(crate) owner: Option<Owner>,
}

/// An orchestrator's object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Owner {
    pub(crate) kind: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

impl<'a> Names<'a> {
    pub(crate) fn new(graph: &'a Graph) -> Names<'a> {
        let numbers = |kind: Kind, number: fn(&Object) -> Option<u32>| -> HashMap<u32, String> {
            graph
                .of_kind(kind)
                .filter_map(|object| Some((number(object)?, object.fq_name.to_string())))
                .collect()
        };
        Names {
            graph,
            tags: numbers(Kind::TAG, |tag| {
                let text: String = tag.property("tag_id")?;
                u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
            }),
            networks: numbers(Kind::VIRTUAL_NETWORK, |network| {
                network.property("virtual_network_network_id")
            }),
            groups: numbers(Kind::SECURITY_GROUP, |group| group.property("security_group_id")),
        }
    }

    /// A condition on the remote end in words.
    pub(crate) fn peer(&self, peer: &Peer) -> String {
        match peer {
            Peer::Network(id) => format!("network {}", known(&self.networks, *id)),
            Peer::SecurityGroup(id) => format!("security group {}", known(&self.groups, *id)),
            Peer::Prefix(net) => net.to_string(),
            Peer::PrefixExcept(net, except) => {
                let except: Vec<_> = except.iter().map(ToString::to_string).collect();
                format!("{net} except {}", except.join(", "))
            }
            Peer::Tags(tags) => self.tags(tags),
        }
    }

    /// Tags in words.
    pub(crate) fn tags(&self, tags: &[u32]) -> String {
        tags.iter().map(|tag| known(&self.tags, *tag)).collect::<Vec<_>>().join(" and ")
    }

    /// Who wrote the rule with this id.
    pub(crate) fn author(&self, id: Uuid) -> Author {
        match id {
            OWN_NETWORK => {
                return Author { rule: "within the network".into(), ..Author::default() };
            }
            OTHER_NETWORKS => {
                return Author {
                    rule: "behind the network's policies".into(),
                    ..Author::default()
                };
            }
            _ => {}
        }
        if let Some(rule) = self.graph.get_kind(Kind::FIREWALL_RULE, id) {
            let mut policies = self.graph.back_references_from(id, Kind::FIREWALL_POLICY);
            return Author {
                rule: rule.fq_name.to_string(),
                policy: policies.next().map(|policy| policy.fq_name.to_string()),
                owner: owner(rule),
            };
        }
        let holds = |object: &&std::sync::Arc<Object>, field: &str| {
            let rules = object.properties.get(field).and_then(|entries| entries.get("policy_rule"));
            let mut rules = rules.and_then(Value::as_array).into_iter().flatten();
            let text = id.to_string();
            rules.any(|rule| rule.get("rule_uuid").and_then(Value::as_str) == Some(&text))
        };
        let network_policies = self.graph.of_kind(Kind::NETWORK_POLICY);
        let groups = self.graph.of_kind(Kind::SECURITY_GROUP);
        let holder = network_policies
            .filter(|object| holds(object, "network_policy_entries"))
            .chain(groups.filter(|object| holds(object, "security_group_entries")))
            .next();
        Author {
            rule: id.to_string(),
            policy: holder.map(|holder| holder.fq_name.to_string()),
            owner: holder.and_then(|holder| owner(holder)),
        }
    }
}

fn known(names: &HashMap<u32, String>, id: u32) -> String {
    names.get(&id).cloned().unwrap_or_else(|| format!("{id:#x}"))
}

/// What an orchestrator noted on its objects: `kind`, `namespace`, `name` and `owner`.
pub(crate) fn owner(object: &Object) -> Option<Owner> {
    let pairs: KeyValuePairs = object.property("annotations")?;
    let get = |key: &str| {
        let pair = pairs.key_value_pair.iter().find(|pair| pair.key.as_deref() == Some(key))?;
        pair.value.clone()
    };
    get("owner")?;
    Some(Owner { kind: get("kind")?, namespace: get("namespace"), name: get("name")? })
}
