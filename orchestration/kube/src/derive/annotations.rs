//! What users write into annotations.

use super::requests;
use crate::objects::Meta;
use serde_json::Value;
use std::net::IpAddr;

/// `true` or `false`, in any case.
///
/// # Errors
/// It is something else.
pub(super) fn boolean(meta: &Meta, key: &str) -> Result<Option<bool>, String> {
    let Some(text) = meta.annotation(key) else { return Ok(None) };
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        _ => Err(format!("annotation {key}: {text:?} is neither \"true\" nor \"false\"")),
    }
}

/// What may be asked of a network as JSON.
const UNDERSTOOD: [&str; 6] = ["name", "namespace", "interface", "ips", "mac", "default-route"];

/// One network that a pod asks for besides the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkChoice {
    /// Namespace of its definition; the pod's own if it is not said.
    pub namespace: Option<String>,
    /// Name of its definition.
    pub name: String,
    /// Name of the interface in the pod.
    pub interface: Option<String>,
    /// Addresses that are asked for.
    pub addresses: Vec<IpAddr>,
    /// MAC that is asked for.
    pub mac: Option<String>,
    /// The way out of the pod goes through these.
    pub default_route: Vec<IpAddr>,
    /// Keys that mean nothing here.
    pub ignored: Vec<String>,
}

/// Reads `k8s.v1.cni.cncf.io/networks`: a list as JSON, or `net`, `namespace/net`, `net@interface`, with commas.
///
/// # Errors
/// What is wrong with it.
pub fn network_choices(text: &str) -> Result<Vec<NetworkChoice>, String> {
    let text = text.trim();
    if text.starts_with('[') {
        let json: Vec<Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let all = json.iter().map(choice).collect::<Result<Vec<_>, _>>()?;
        let mut ways = all.iter().filter(|one| !one.default_route.is_empty());
        if let (Some(first), Some(second)) = (ways.next(), ways.next()) {
            let (first, second) = (&first.name, &second.name);
            return Err(format!("{first} and {second} both have default-route; one may"));
        }
        return Ok(all);
    }
    let plain = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    plain
        .map(|part| {
            let (rest, interface) = match part.split_once('@') {
                Some((rest, interface)) => (rest, Some(interface.to_owned())),
                None => (part, None),
            };
            let (namespace, name) = match rest.split_once('/') {
                Some((namespace, name)) => (Some(namespace.to_owned()), name),
                None => (None, rest),
            };
            check_name(name)?;
            namespace.as_deref().map_or(Ok(()), check_name)?;
            interface.as_deref().map_or(Ok(()), requests::interface)?;
            Ok(NetworkChoice { namespace, name: name.to_owned(), interface, ..Default::default() })
        })
        .collect()
}

fn check_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if !name.is_empty() && name.chars().all(good) {
        Ok(())
    } else {
        Err(format!("{name:?} is no name of a network; write NAME, NAMESPACE/NAME or a JSON list"))
    }
}

fn choice(json: &Value) -> Result<NetworkChoice, String> {
    let text = |key: &str| match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("{key}: {other} is not a text")),
    };
    let addresses = |key: &str| -> Result<Vec<IpAddr>, String> {
        let list = match json.get(key) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(Value::as_str).collect(),
            Some(one) => vec![one.as_str()],
        };
        list.into_iter()
            .map(|text| {
                let text = text.unwrap_or_default();
                let bare = text.split('/').next().unwrap_or_default();
                bare.parse().map_err(|_| format!("{key}: {text:?} is not an address"))
            })
            .collect()
    };
    // What is empty is not said.
    let said = |key: &str| text(key).map(|text| text.filter(|text| !text.is_empty()));
    let name = text("name")?.ok_or("a network has no name")?;
    check_name(&name)?;
    let namespace = said("namespace")?;
    namespace.as_deref().map_or(Ok(()), check_name)?;
    let interface = said("interface")?;
    interface.as_deref().map_or(Ok(()), requests::interface)?;
    let keys = json.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    Ok(NetworkChoice {
        namespace,
        name,
        interface,
        addresses: addresses("ips")?,
        mac: said("mac")?.as_deref().map(requests::mac).transpose()?,
        default_route: addresses("default-route")?,
        ignored: keys
            .map(|(key, _)| key.clone())
            .filter(|key| !UNDERSTOOD.contains(&key.as_str()))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_may_be_listed_plainly_or_as_json() {
        let all = network_choices("blue, shop/red@eth7,blue").unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all[1].namespace.as_deref(), Some("shop"));
        assert_eq!(all[1].interface.as_deref(), Some("eth7"));
        let json = r#"[{"name":"blue","ips":["10.1.1.5/24"],"mac":"02:00:00:00:00:09"},
                       {"name":"red","namespace":"shop","interface":"net1","default-route":["10.2.0.1"]}]"#;
        let all = network_choices(json).unwrap();
        assert_eq!(all[0].addresses, ["10.1.1.5".parse::<IpAddr>().unwrap()]);
        assert_eq!(all[1].default_route.len(), 1);
        for bad in [
            "a/b/c",
            "/a",
            "a@",
            "a@far-too-long-name1",
            "a@b/c",
            "[{}]",
            "[{\"name\":3}]",
            "{",
            "bl ue",
            r#"[{"name":"a","ips":["x"]}]"#,
            r#"[{"name":"a","mac":"02:00"}]"#,
            r#"[{"name":"a","interface":"a/b"}]"#,
            r#"[{"name":"a","default-route":["10.1.1.1"]},{"name":"b","default-route":["10.2.2.1"]}]"#,
        ] {
            assert!(network_choices(bad).is_err(), "{bad}");
        }
        let odd = r#"[{"name":"a","cni-args":{"x":1},"bandwidth":null,"mac":""}]"#;
        assert_eq!(network_choices(odd).unwrap()[0].ignored, ["cni-args"]);
    }
}
