//! Names of the objects that the manager makes: the original's, so that its scripts find them.

use crate::settings::Settings;
use skein_model::FqName;
use std::fmt::Write as _;
use uuid::Uuid;

/// Parent of everything about policies.
pub const POLICY_MANAGEMENT: &str = "default-policy-management";

/// Names the space of uuids that the manager makes up.
const SPACE: Uuid = Uuid::from_u128(0x6d1f_8a3e_0c52_5b7d_9e44_71aa_c3f0_2b96);

/// Tag types that mean something by themselves; labels of these names get a prefix.
const RESERVED: [&str; 9] = [
    "label",
    "application",
    "tier",
    "deployment",
    "site",
    "neutron_fwaas",
    "neutron_tag",
    "namespace",
    "ingress",
];
const LABEL_PREFIX: &str = "k8s-";

/// Makes names.
#[derive(Clone, Debug)]
pub struct Names {
    cluster: String,
    domain: String,
    shared: Option<FqName>,
    pod_network: Option<String>,
    service_network: Option<String>,
    aps: String,
    nodes: Option<FqName>,
    nested: bool,
}

impl Names {
    /// The names of a cluster.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            cluster: settings.cluster_name.clone(),
            domain: settings.domain.clone(),
            shared: settings.shared_project(),
            pod_network: settings.cluster_pod_network.clone(),
            service_network: settings.cluster_service_network.clone(),
            nodes: settings.nodes_network(),
            nested: settings.nested_mode,
            aps: settings.aps_name.clone().unwrap_or_else(|| settings.cluster_name.clone()),
        }
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The domain of its projects.
    #[must_use]
    pub fn domain(&self) -> FqName {
        FqName::single(&self.domain)
    }

    /// Whether all namespaces share a project.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// The project of a namespace.
    #[must_use]
    pub fn project(&self, namespace: &str) -> FqName {
        self.shared.clone().unwrap_or_else(|| self.domain().child(&self.of(namespace)))
    }

    /// The project of what belongs to the whole cluster.
    #[must_use]
    pub fn cluster_project(&self) -> FqName {
        self.project("default")
    }

    /// `C-<name>`.
    #[must_use]
    pub fn of(&self, name: &str) -> String {
        format!("{}-{name}", self.cluster)
    }

    /// An object of the cluster's project, `C-<name>`.
    #[must_use]
    pub fn shared_object(&self, name: &str) -> FqName {
        self.cluster_project().child(&self.of(name))
    }

    /// An object of a namespace's project, `C-<namespace>-<name>`.
    #[must_use]
    pub fn namespaced(&self, namespace: &str, name: &str) -> FqName {
        self.project(namespace).child(&self.of(&format!("{namespace}-{name}")))
    }

    /// The default pod network.
    #[must_use]
    pub fn pod_network(&self) -> FqName {
        let name = self.pod_network.clone().unwrap_or_else(|| self.of("default-pod-network"));
        self.cluster_project().child(&name)
    }

    /// The default service network.
    #[must_use]
    pub fn service_network(&self) -> FqName {
        let own = self.service_network.clone();
        self.cluster_project().child(&own.unwrap_or_else(|| self.of("default-service-network")))
    }

    /// The network of the nodes, when they are machines of an outer fabric.
    #[must_use]
    pub fn nodes_network(&self) -> Option<FqName> {
        let usual = || self.cluster_project().child("cluster-network");
        self.nested.then(|| self.nodes.clone().unwrap_or_else(usual))
    }

    /// The policy that joins the cluster's networks to that of the nodes.
    #[must_use]
    pub fn nested_policy(&self) -> Option<FqName> {
        self.nested.then(|| self.shared_object("nested-underlay-np"))
    }

    /// The underlay.
    #[must_use]
    pub fn ip_fabric(&self) -> FqName {
        FqName::parse("default-domain:default-project:ip-fabric")
    }

    /// An object about policies.
    #[must_use]
    pub fn policy_object(&self, name: &str) -> FqName {
        FqName::single(POLICY_MANAGEMENT).child(name)
    }

    /// The application-policy-set.
    #[must_use]
    pub fn aps(&self) -> FqName {
        self.policy_object(&self.aps)
    }

    /// The tag by which the application-policy-set finds its ports.
    #[must_use]
    pub fn application_tag(&self) -> String {
        format!("application={}", self.aps)
    }

    /// The zone of the cluster's names.
    #[must_use]
    pub fn cluster_dns(&self) -> FqName {
        self.domain().child(&self.of("cluster-dns"))
    }

    /// A uuid that is always the same for the same thing of this cluster.
    #[must_use]
    pub fn uuid(&self, parts: &[&str]) -> Uuid {
        let mut text = self.cluster.clone();
        for part in parts {
            text.push('\0');
            text.push_str(part);
        }
        Uuid::new_v5(&SPACE, text.as_bytes())
    }
}

/// The tag of a namespace.
#[must_use]
pub fn namespace_tag(namespace: &str) -> String {
    format!("namespace={namespace}")
}

/// The tag of a label; none if tags cannot say it: their types know no capitals, their values are never empty, and some
/// types are the manager's own.
#[must_use]
pub fn label_tag(key: &str, value: &str) -> Option<String> {
    let own = ["selector-", "port-"].iter().any(|prefix| key.starts_with(prefix));
    if key.chars().any(char::is_uppercase) || value.is_empty() || own || key.contains("__slash__") {
        return None;
    }
    let prefix =
        if RESERVED.contains(&key) || key.starts_with(LABEL_PREFIX) { LABEL_PREFIX } else { "" };
    let plain = |text: &str| text.replace('/', "__slash__");
    Some(format!("{prefix}{}={}", plain(key), plain(value)))
}

/// A short name for a long text, the same every time.
#[must_use]
pub fn digest(text: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hash.as_ref().iter().take(6).fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Reads a name in any of the forms that users write: a dictionary as Python or JSON writes it, a list as JSON
/// writes it, `a:b:c` or `a,b,c`. `keys` are the dictionary's keys, root first.
///
/// # Errors
/// What is wrong, and what to write.
pub fn parse_fq_name(text: &str, keys: &[&str]) -> Result<FqName, String> {
    let text = text.trim();
    let wanted = || {
        let colons = keys.join(":");
        let pairs: Vec<_> = keys.iter().map(|key| format!("\"{key}\": \"...\"")).collect();
        format!("write {colons} or {{{}}}", pairs.join(", "))
    };
    let wrong = |reason: String| format!("{text:?} is not a name: {reason}; {}", wanted());
    let parts: Vec<String> = if text.starts_with(['{', '[']) {
        // A Python literal of strings differs from JSON in its quotes only.
        let json: serde_json::Value = serde_json::from_str(text)
            .or_else(|_| serde_json::from_str(&text.replace('\'', "\"").replace("u\"", "\"")))
            .map_err(|error| wrong(error.to_string()))?;
        match json {
            serde_json::Value::Array(list) => {
                list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
            }
            serde_json::Value::Object(map) => {
                if let Some(unknown) = map.keys().find(|key| !keys.contains(&key.as_str())) {
                    return Err(wrong(format!("the key {unknown:?} is not known")));
                }
                let part = |key: &&str| {
                    let value = map.get(*key).and_then(|v| v.as_str()).map(str::to_owned);
                    value.ok_or_else(|| wrong(format!("{key:?} is missing")))
                };
                keys.iter().map(part).collect::<Result<_, _>>()?
            }
            _ => return Err(wrong("it has the wrong form".into())),
        }
    } else {
        let separator = if text.contains(':') { ':' } else { ',' };
        text.split(separator).map(|part| part.trim().to_owned()).collect()
    };
    if parts.len() != keys.len() || parts.iter().any(String::is_empty) {
        return Err(wrong(format!("it has {} of {} parts", parts.len(), keys.len())));
    }
    FqName::new(&parts).ok_or_else(|| wrong("it is empty".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_may_be_named_in_every_accepted_form() {
        let keys = ["domain", "project", "name"];
        for text in [
            "{'domain':'default-domain','project':'shop','name':'blue'}",
            "{u'domain': u'default-domain', u'project': u'shop', u'name': u'blue'}",
            r#"{"domain": "default-domain", "project": "shop", "name": "blue"}"#,
            r#"["default-domain", "shop", "blue"]"#,
            "default-domain:shop:blue",
            " default-domain, shop, blue ",
        ] {
            let name = parse_fq_name(text, &keys).unwrap();
            assert_eq!(name.to_string(), "default-domain:shop:blue", "{text}");
        }
        for text in
            ["blue", "a:b", "{'domain':'d'}", "{'domain':'d','project':'p','nam':'n'}", "{", ""]
        {
            let reason = parse_fq_name(text, &keys).unwrap_err();
            assert!(reason.contains("domain:project:name"), "{reason}");
        }
    }

    #[test]
    fn labels_keep_out_of_the_way_of_tags_that_mean_something() {
        assert_eq!(label_tag("role", "db").as_deref(), Some("role=db"));
        assert_eq!(label_tag("app.io/part", "a").as_deref(), Some("app.io__slash__part=a"));
        assert_eq!(label_tag("application", "x").as_deref(), Some("k8s-application=x"));
        assert_eq!(label_tag("namespace", "x").as_deref(), Some("k8s-namespace=x"));
        assert_eq!(label_tag("k8s-namespace", "x").as_deref(), Some("k8s-k8s-namespace=x"));
        // Tag types are in small letters, so App and app would be one.
        assert_eq!(label_tag("App", "x"), None);
    }
}
