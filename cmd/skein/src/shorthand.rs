//! Short forms that `create` and manifests take for the fields that are long to write.
//!
//! `subnets: [10.1.1.0/24]` on a network stands for a reference to the default IPAM with subnets,
//! `policies: [web]` for references with a sequence, `rules: [...]` for entries in words.

use crate::error::Error;
use crate::rules;
use crate::scope::Scope;
use serde_json::{Value, json};
use skein_model::{Kind, meta::TypeMeta};

/// Where addresses come from when nothing else is said.
const DEFAULT_IPAM: [&str; 3] = ["default-domain", "default-project", "default-network-ipam"];

/// Short fields of a type, with a line for people.
pub(crate) fn fields(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::VIRTUAL_NETWORK => &[
            ("subnets", "prefixes of the network, as in [10.1.1.0/24, fd00:1::/64]"),
            ("policies", "names of network policies, the first one first"),
        ],
        Kind::NETWORK_POLICY => &[("rules", rules::POLICY_RULE)],
        Kind::SECURITY_GROUP => &[("rules", rules::GROUP_RULE)],
        _ => &[],
    }
}

/// The field and value that a short field stands for; `None` when it is not a short field.
pub(crate) fn expand(
    kind: Kind,
    field: &str,
    value: &Value,
    scope: &Scope,
) -> Result<Option<(&'static str, Value)>, Error> {
    if !fields(kind).iter().any(|(name, _)| *name == field) {
        return Ok(None);
    }
    let words = words(kind.meta(), field, value)?;
    let long = match (kind, field) {
        (Kind::VIRTUAL_NETWORK, "subnets") => ("network_ipam_refs", subnets(&words)?),
        (Kind::VIRTUAL_NETWORK, _) => ("network_policy_refs", policies(&words, scope)?),
        (Kind::NETWORK_POLICY, _) => {
            let rules: Result<Vec<Value>, Error> =
                words.iter().map(|text| rules::policy(text, scope)).collect();
            ("network_policy_entries", json!({"policy_rule": rules?}))
        }
        _ => {
            let mut all = Vec::new();
            for text in &words {
                all.extend(rules::group(text, scope)?);
            }
            ("security_group_entries", json!({"policy_rule": all}))
        }
    };
    Ok(Some(long))
}

fn words<'a>(meta: &TypeMeta, field: &str, value: &'a Value) -> Result<Vec<&'a str>, Error> {
    let list = match value {
        Value::String(one) => Some(vec![one.as_str()]),
        Value::Array(many) => many.iter().map(Value::as_str).collect(),
        _ => None,
    };
    list.ok_or_else(|| {
        Error::usage(
            format!("{field} of {} is not a list of strings", meta.name),
            format!("`skein explain {}` shows how to write it", meta.name),
        )
    })
}

fn subnets(prefixes: &[&str]) -> Result<Value, Error> {
    let one = |text: &&str| -> Result<Value, Error> {
        let net: ipnet::IpNet = text.parse().map_err(|_| {
            Error::usage(
                format!("{text:?} is no subnet"),
                "write ADDRESS/LENGTH, as in 10.1.1.0/24 or fd00:1::/64",
            )
        })?;
        if net.trunc() != net {
            return Err(Error::usage(
                format!("{text} has bits set behind its length"),
                format!("did you mean {}?", net.trunc()),
            ));
        }
        Ok(json!({"subnet": {"ip_prefix": net.network(), "ip_prefix_len": net.prefix_len()}}))
    };
    let subnets: Result<Vec<Value>, Error> = prefixes.iter().map(one).collect();
    let subnets = subnets?;
    if subnets.is_empty() {
        return Ok(json!([]));
    }
    Ok(json!([{"to": DEFAULT_IPAM, "attr": {"ipam_subnets": subnets}}]))
}

fn policies(names: &[&str], scope: &Scope) -> Result<Value, Error> {
    let one = |(at, name): (usize, &&str)| -> Result<Value, Error> {
        let to = scope.complete(Kind::NETWORK_POLICY, name)?;
        Ok(json!({"to": to, "attr": {"sequence": {"major": at, "minor": 0}}}))
    };
    let all: Result<Vec<Value>, Error> = names.iter().enumerate().map(one).collect();
    Ok(Value::Array(all?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_become_a_reference_to_the_default_ipam() {
        let scope = Scope::new("default-domain", None);
        let (field, value) = expand(
            Kind::VIRTUAL_NETWORK,
            "subnets",
            &json!(["10.1.1.0/24", "fd00:1::/64"]),
            &scope,
        )
        .unwrap()
        .unwrap();
        assert_eq!(field, "network_ipam_refs");
        assert_eq!(
            value,
            json!([{"to": DEFAULT_IPAM, "attr": {"ipam_subnets": [
                {"subnet": {"ip_prefix": "10.1.1.0", "ip_prefix_len": 24}},
                {"subnet": {"ip_prefix": "fd00:1::", "ip_prefix_len": 64}},
            ]}}])
        );
        for (bad, hint) in [("10.1.1.1/24", "10.1.1.0/24"), ("10.1.1.0", "ADDRESS/LENGTH")] {
            let error =
                expand(Kind::VIRTUAL_NETWORK, "subnets", &json!([bad]), &scope).unwrap_err();
            assert!(error.next_step().unwrap().contains(hint), "{error}");
        }
    }

    #[test]
    fn other_fields_are_left_to_the_schema() {
        let scope = Scope::new("default-domain", None);
        assert!(expand(Kind::VIRTUAL_NETWORK, "mtu", &json!(1), &scope).unwrap().is_none());
        assert!(expand(Kind::PROJECT, "subnets", &json!([]), &scope).unwrap().is_none());
    }
}
