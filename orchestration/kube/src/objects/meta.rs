//! Metadata.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Annotations that mean something here; the others are not kept.
const ANNOTATIONS: [&str; 12] = [
    "skein.io/staged",
    "k8s.v1.cni.cncf.io/policy-for",
    "k8s.v1.cni.cncf.io/service-network",
    "opencontrail.org/isolation",
    "opencontrail.org/isolation.service",
    "opencontrail.org/network",
    "opencontrail.org/fip-pool",
    "opencontrail.org/ip_fabric_forwarding",
    "opencontrail.org/ip_fabric_snat",
    "opencontrail.org/cidr",
    "opencontrail.kubernetes.isolated",
    "externalIP",
];
const PREFIXES: [&str; 2] = ["k8s.v1.cni.cncf.io/network", "kubernetes.io/ingress.class"];
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// Metadata of an object.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// Namespace; empty for objects that have none.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Identity.
    pub uid: Uuid,
    /// Labels.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// The annotations that mean something here.
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    /// When it was made, in seconds of Unix time.
    pub created: i64,
}

impl Meta {
    pub(crate) fn new(raw: ObjectMeta) -> Self {
        let keep = |key: &str| {
            ANNOTATIONS.contains(&key)
                || key == DEFAULT_CLASS
                || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
        };
        let uid = raw.uid.unwrap_or_default();
        Self {
            namespace: raw.namespace.unwrap_or_default().into(),
            name: raw.name.unwrap_or_default().into(),
            // Old static pods have a hash for a uid.
            uid: Uuid::try_parse(&uid)
                .unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, uid.as_bytes())),
            labels: boxed(raw.labels.unwrap_or_default(), |_| true),
            annotations: boxed(raw.annotations.unwrap_or_default(), keep),
            created: raw.creation_timestamp.map_or(0, |time| time.0.as_second()),
        }
    }

    /// An annotation, without blanks around it; empty ones count as absent.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    /// `namespace/name`, or the name.
    #[must_use]
    pub fn display(&self) -> String {
        if self.namespace.is_empty() {
            self.name.to_string()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }
}

fn boxed(
    from: BTreeMap<String, String>,
    keep: impl Fn(&str) -> bool,
) -> BTreeMap<Box<str>, Box<str>> {
    from.into_iter()
        .filter(|(key, _)| keep(key))
        .map(|(key, value)| (key.into_boxed_str(), value.into_boxed_str()))
        .collect()
}
