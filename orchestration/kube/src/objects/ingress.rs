//! Ingresses and their classes.

use super::Meta;
use super::service::RawLoadBalancer;
use serde::Deserialize;
use serde_json::Value;

/// An ingress.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ingress {
    /// Metadata.
    pub meta: Meta,
    /// `spec.ingressClassName`.
    pub class: Option<String>,
    /// Where everything else goes.
    pub default: Option<Backend>,
    /// Hosts and their paths.
    pub rules: Vec<IngressRule>,
    /// Certificates.
    pub tls: Vec<IngressTls>,
    /// `status.loadBalancer.ingress[].ip`.
    pub ingress: Vec<String>,
}

/// One host of an ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressRule {
    /// Host; empty means any.
    pub host: String,
    /// Paths in order.
    pub paths: Vec<IngressPath>,
}

/// One path of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressPath {
    /// The path; empty means all.
    pub path: String,
    /// How it is compared.
    pub kind: PathType,
    /// Where it goes.
    pub backend: Backend,
}

/// How paths are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)] // Kubernetes' own words
pub enum PathType {
    Exact,
    Prefix,
    #[default]
    ImplementationSpecific,
}

impl PathType {
    /// Kubernetes' word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "Exact",
            Self::Prefix => "Prefix",
            Self::ImplementationSpecific => "ImplementationSpecific",
        }
    }
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A service's port, by number.
    Number(String, u16),
    /// A service's port, by name.
    Named(String, String),
    /// Something that cannot be served.
    Unusable(String),
}

/// A certificate of an ingress.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressTls {
    /// Hosts it is for; none means every other.
    #[serde(default, deserialize_with = "super::nullable")]
    pub hosts: Vec<String>,
    /// Secret in the ingress's namespace.
    #[serde(default)]
    pub secret_name: Option<String>,
}

/// A class of ingresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressClass {
    /// Metadata.
    pub meta: Meta,
    /// Who serves it.
    pub controller: String,
    /// It is for ingresses that name no class.
    pub is_default: bool,
}

#[derive(Deserialize)]
pub(crate) struct RawClass {
    #[serde(default)]
    spec: RawClassSpec,
}

#[derive(Deserialize, Default)]
struct RawClassSpec {
    #[serde(default)]
    controller: String,
}

impl IngressClass {
    pub(crate) fn new(meta: Meta, raw: RawClass) -> Self {
        let is_default =
            meta.annotation("ingressclass.kubernetes.io/is-default-class") == Some("true");
        Self { meta, controller: raw.spec.controller, is_default }
    }
}

#[derive(Deserialize)]
pub(crate) struct Raw {
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    load_balancer: RawLoadBalancer,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    ingress_class_name: Option<String>,
    #[serde(alias = "backend")]
    default_backend: Option<Value>,
    #[serde(deserialize_with = "super::nullable")]
    rules: Vec<RawRule>,
    #[serde(deserialize_with = "super::nullable")]
    tls: Vec<IngressTls>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawRule {
    host: Option<String>,
    http: Option<RawHttp>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawHttp {
    #[serde(deserialize_with = "super::nullable")]
    paths: Vec<RawPath>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPath {
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    path_type: Option<PathType>,
    backend: Value,
}

/// `service.name` with `service.port.number` or `.name`; the older `serviceName` and `servicePort`.
fn backend(raw: &Value) -> Backend {
    let (service, number, name) = if let Some(service) = raw.get("service") {
        let port = service.get("port");
        let part = |key: &str| port.and_then(|port| port.get(key));
        (service.get("name"), part("number"), part("name"))
    } else {
        let port = raw.get("servicePort");
        let number = port.filter(|port| port.is_number());
        (raw.get("serviceName"), number, port.filter(|port| port.is_string()))
    };
    let Some(service) = service.and_then(Value::as_str) else {
        let what = if raw.get("resource").is_some() { "a resource" } else { "no service" };
        return Backend::Unusable(format!("a backend names {what}; only services can be served"));
    };
    let number = number.and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok());
    match (number.filter(|n| *n != 0), name.and_then(Value::as_str)) {
        (Some(number), _) => Backend::Number(service.to_owned(), number),
        (None, Some(name)) => Backend::Named(service.to_owned(), name.to_owned()),
        (None, None) => Backend::Unusable(format!("the backend {service} names no port")),
    }
}

impl Ingress {
    pub(crate) fn new(meta: Meta, raw: Raw) -> Self {
        let rules = raw.spec.rules.into_iter().map(|rule| IngressRule {
            host: rule.host.unwrap_or_default(),
            paths: rule
                .http
                .unwrap_or_default()
                .paths
                .into_iter()
                .map(|path| IngressPath {
                    path: path.path.unwrap_or_default(),
                    kind: path.path_type.unwrap_or_default(),
                    backend: backend(&path.backend),
                })
                .collect(),
        });
        Self {
            meta,
            class: raw.spec.ingress_class_name,
            default: raw.spec.default_backend.filter(|b| !b.is_null()).as_ref().map(backend),
            rules: rules.collect(),
            tls: raw.spec.tls,
            ingress: raw.status.load_balancer.addresses(),
        }
    }
}
