//! What a table of objects shows of each type.

use crate::api::{Body, fq_name};
use crate::rules;
use serde_json::Value;
use skein_model::Kind;
use skein_model::meta::{Collection, ValueType};

/// A column of an object table.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) title: String,
    source: Source,
    /// Shown only by `-o wide`.
    pub(crate) wide: bool,
}

#[derive(Clone, Debug)]
enum Source {
    /// JSON pointer to a value.
    Value(&'static str),
    /// Property of that name.
    Property(&'static str),
    /// Last name elements of references.
    References(&'static str),
    /// Anything else.
    Computed(fn(&Body) -> String),
}

impl Column {
    /// The text for an object.
    pub(crate) fn text(&self, body: &Body) -> String {
        match self.source {
            Source::Value(pointer) => {
                let mut steps = pointer.split('/');
                let first = steps.next().and_then(|field| body.get(field));
                plain(steps.try_fold(first, |at, step| at.map(|v| v.get(step))).flatten())
            }
            Source::Property(name) => plain(body.get(name)),
            Source::References(field) => references(body, field),
            Source::Computed(function) => function(body),
        }
    }
}

/// The columns of a type, after its name.
pub(crate) fn of(kind: Kind) -> Vec<Column> {
    let column = |title: &str, source| Column { title: title.to_owned(), source, wide: false };
    let wide = |title: &str, source| Column { title: title.to_owned(), source, wide: true };
    match kind {
        Kind::VIRTUAL_NETWORK => vec![
            column("SUBNETS", Source::Computed(subnets)),
            column("POLICIES", Source::References("network_policy_refs")),
            column("ID", Source::Value("virtual_network_network_id")),
            wide("FORWARDING", Source::Value("virtual_network_properties/forwarding_mode")),
            wide("ROUTE-TARGETS", Source::Value("route_target_list/route_target")),
        ],
        Kind::VIRTUAL_MACHINE_INTERFACE => vec![
            column("NETWORK", Source::References("virtual_network_refs")),
            column("MAC", Source::Value("virtual_machine_interface_mac_addresses/mac_address")),
            column("GROUPS", Source::References("security_group_refs")),
            column("MACHINE", Source::References("virtual_machine_refs")),
            wide("OWNER", Source::Value("virtual_machine_interface_device_owner")),
        ],
        Kind::INSTANCE_IP => vec![
            column("ADDRESS", Source::Value("instance_ip_address")),
            column("NETWORK", Source::References("virtual_network_refs")),
            column("PORT", Source::References("virtual_machine_interface_refs")),
            wide("MODE", Source::Value("instance_ip_mode")),
        ],
        Kind::NETWORK_POLICY => vec![
            column("RULES", Source::Computed(|b| count(b, "network_policy_entries"))),
            wide("TEXT", Source::Computed(|b| rule_words(b, "network_policy_entries"))),
        ],
        Kind::SECURITY_GROUP => vec![
            column("ID", Source::Value("security_group_id")),
            column("RULES", Source::Computed(|b| count(b, "security_group_entries"))),
            wide("TEXT", Source::Computed(|b| rule_words(b, "security_group_entries"))),
        ],
        Kind::NETWORK_IPAM => vec![
            column("METHOD", Source::Value("ipam_subnet_method")),
            column("DNS", Source::Value("network_ipam_mgmt/ipam_dns_method")),
        ],
        Kind::VIRTUAL_ROUTER => vec![
            column("ADDRESS", Source::Value("virtual_router_ip_address")),
            column("TYPE", Source::Value("virtual_router_type")),
            column("MACHINES", Source::Computed(|b| number_of(b, "virtual_machine_refs"))),
        ],
        Kind::VIRTUAL_MACHINE => vec![
            column("DISPLAY-NAME", Source::Value("display_name")),
            column("TYPE", Source::Value("server_type")),
        ],
        Kind::PROJECT | Kind::DOMAIN => vec![column("DISPLAY-NAME", Source::Value("display_name"))],
        Kind::BGP_ROUTER => vec![
            column("ADDRESS", Source::Value("bgp_router_parameters/address")),
            column("ASN", Source::Value("bgp_router_parameters/autonomous_system")),
            column("TYPE", Source::Value("bgp_router_parameters/router_type")),
            wide("VENDOR", Source::Value("bgp_router_parameters/vendor")),
        ],
        Kind::FLOATING_IP => vec![
            column("ADDRESS", Source::Value("floating_ip_address")),
            column("FIXED", Source::Value("floating_ip_fixed_ip_address")),
            column("PORT", Source::References("virtual_machine_interface_refs")),
        ],
        Kind::ROUTING_INSTANCE => vec![
            column("DEFAULT", Source::Value("routing_instance_is_default")),
            column("ROUTE-TARGETS", Source::References("route_target_refs")),
        ],
        Kind::TAG => vec![
            column("TYPE", Source::Value("tag_type_name")),
            column("VALUE", Source::Value("tag_value")),
            column("ID", Source::Value("tag_id")),
        ],
        _ => from_schema(kind),
    }
}

/// For the other types: the first simple properties and references that the schema lists.
fn from_schema(kind: Kind) -> Vec<Column> {
    let meta = kind.meta();
    let simple = meta
        .properties
        .iter()
        .filter(|p| p.collection == Collection::None && !matches!(p.value, ValueType::Struct(_)));
    let own = format!("{}_", meta.snake);
    let properties = simple.take(3).map(|p| Column {
        title: title(p.name.strip_prefix(&own).unwrap_or(p.name)),
        source: Source::Property(p.name),
        wide: false,
    });
    let references = meta.references.iter().filter(|r| !r.derived).take(2).map(|r| Column {
        title: title(r.target.snake()),
        source: Source::References(r.field),
        wide: true,
    });
    properties.chain(references).collect()
}

fn title(name: &str) -> String {
    name.to_ascii_uppercase().replace('_', "-")
}

/// A value on one line.
pub(crate) fn plain(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            items.iter().map(|i| plain(Some(i))).collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}

fn references(body: &Body, field: &str) -> String {
    let list = body.get(field).and_then(Value::as_array);
    let names = list.into_iter().flatten().filter_map(|r| fq_name(r.get("to")?));
    names.map(|name| name.name().to_owned()).collect::<Vec<_>>().join(",")
}

fn number_of(body: &Body, field: &str) -> String {
    body.get(field).and_then(Value::as_array).map_or(0, Vec::len).to_string()
}

/// Subnets of a network, of every IPAM it uses.
fn subnets(body: &Body) -> String {
    let ipams = body.get("network_ipam_refs").and_then(Value::as_array);
    let all = ipams
        .into_iter()
        .flatten()
        .filter_map(|r| r.pointer("/attr/ipam_subnets").and_then(Value::as_array));
    let texts = all.flatten().filter_map(|s| {
        let subnet = s.get("subnet")?;
        Some(format!("{}/{}", subnet.get("ip_prefix")?.as_str()?, subnet.get("ip_prefix_len")?))
    });
    texts.collect::<Vec<_>>().join(",")
}

fn rule_list<'a>(body: &'a Body, field: &str) -> &'a [Value] {
    let list = body.get(field).and_then(|e| e.get("policy_rule")).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

fn count(body: &Body, field: &str) -> String {
    rule_list(body, field).len().to_string()
}

fn rule_words(body: &Body, field: &str) -> String {
    rule_list(body, field).iter().map(rules::in_words).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_type_has_columns_that_its_schema_knows() {
        for kind in Kind::all() {
            for column in of(kind) {
                let field = match column.source {
                    Source::Value(pointer) => pointer.split('/').next().unwrap(),
                    Source::Property(name) => name,
                    Source::References(field) => {
                        assert!(kind.meta().references.iter().any(|r| r.field == field), "{field}");
                        continue;
                    }
                    Source::Computed(_) => continue,
                };
                assert!(kind.meta().property(field).is_some(), "{kind} {field}");
            }
        }
    }

    #[test]
    fn a_network_shows_its_subnets_and_policies() {
        let body = json!({
            "network_ipam_refs": [{"to": ["d", "p", "i"], "attr": {"ipam_subnets": [
                {"subnet": {"ip_prefix": "10.1.1.0", "ip_prefix_len": 24}},
                {"subnet": {"ip_prefix": "fd00::", "ip_prefix_len": 64}}]}}],
            "network_policy_refs": [{"to": ["d", "p", "web"]}, {"to": ["d", "p", "db"]}],
            "virtual_network_network_id": 7,
            "virtual_network_properties": {"forwarding_mode": "l3"},
        });
        let texts: Vec<String> =
            of(Kind::VIRTUAL_NETWORK).iter().map(|c| c.text(body.as_object().unwrap())).collect();
        assert_eq!(texts, ["10.1.1.0/24,fd00::/64", "web,db", "7", "l3", ""]);
    }
}
