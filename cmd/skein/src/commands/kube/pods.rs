//! From what a user of Kubernetes names to what Skein calls it.

use super::Cluster;
use super::kubectl::Kubectl;
use crate::error::Error;
use serde_json::Value;

/// What a user names: `NAME`, `NAMESPACE/NAME`, and with `svc/` before the name a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) namespace: Option<String>,
    pub(super) is_service: bool,
    pub(super) name: String,
}

impl Named {
    pub(super) fn parse(text: &str) -> Result<Named, Error> {
        let service = |word: &str| matches!(word, "svc" | "service" | "services");
        let pod = |word: &str| matches!(word, "pod" | "pods" | "po");
        let parts: Vec<&str> = text.split('/').collect();
        let (namespace, is_service, name) = match parts.as_slice() {
            [name] => (None, false, name),
            [kind, name] if service(kind) => (None, true, name),
            [kind, name] if pod(kind) => (None, false, name),
            [namespace, name] => (Some(namespace), false, name),
            [namespace, kind, name] if service(kind) => (Some(namespace), true, name),
            [namespace, kind, name] if pod(kind) => (Some(namespace), false, name),
            _ => (None, false, &""),
        };
        if name.is_empty() || namespace.is_some_and(|namespace| namespace.is_empty()) {
            return Err(Error::usage(
                format!("{text:?} names no pod or service"),
                "write POD, NAMESPACE/POD, svc/NAME or NAMESPACE/svc/NAME",
            ));
        }
        let namespace = namespace.map(|namespace| (*namespace).to_owned());
        Ok(Named { namespace, is_service, name: (*name).to_owned() })
    }

    /// The object.
    pub(super) async fn get(&self, cluster: &Cluster, kubectl: &Kubectl) -> Result<Value, Error> {
        let kind = if self.is_service { "service" } else { "pod" };
        let mut arguments = vec!["get", kind, &self.name];
        let namespace = self.namespace.as_deref().or(cluster.namespace.as_deref());
        if let Some(namespace) = namespace {
            arguments.extend(["-n", namespace]);
        }
        kubectl.find(&arguments).await?.ok_or_else(|| {
            Error::NotFound(
                format!("no {kind} {} in {}", self.name, namespace.unwrap_or("the namespace")),
                format!("`kubectl get {kind}s --all-namespaces` lists them; write NAMESPACE/NAME"),
            )
        })
    }
}

/// `NAMESPACE/NAME` of an object.
pub(super) fn title(object: &Value) -> String {
    let meta = &object["metadata"];
    let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

/// What the controller calls a pod: its uid is the machine's; one in the host's network is the node's own port.
pub(super) fn machine(pod: &Value) -> Result<String, Error> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if pod["spec"]["hostNetwork"] == Value::Bool(true) {
        let node = text(&pod["spec"]["nodeName"]);
        if node.is_empty() {
            return Err(Error::NotFound(
                format!("pod {} is on no node yet", title(pod)),
                String::new(),
            ));
        }
        return Ok(format!("default-global-system-config:{node}:vhost0"));
    }
    Ok(text(&pod["metadata"]["uid"]))
}

/// The number of a pod's or service's port that is a number or a name.
pub(super) fn port_number(object: &Value, port: &str, protocol: &str) -> Result<String, Error> {
    if port.parse::<u16>().is_ok() {
        return Ok(port.to_owned());
    }
    let empty = Vec::new();
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let containers = object["spec"]["containers"].as_array().unwrap_or(&empty);
    let of_pod = containers.iter().flat_map(|container| list(&container["ports"]));
    let of_service = list(&object["spec"]["ports"]);
    let fits = |entry: &Value| {
        let its = entry["protocol"].as_str().unwrap_or("TCP");
        entry["name"].as_str() == Some(port) && its.eq_ignore_ascii_case(protocol)
    };
    let found = of_pod.chain(of_service).find(fits);
    let number = found.and_then(|entry| {
        let number = entry.get("containerPort").or_else(|| entry.get("port"))?;
        number.as_u64().map(|number| number.to_string())
    });
    number.ok_or_else(|| {
        Error::NotFound(
            format!("{} has no {protocol} port called {port}", title(object)),
            "give the number of the port".into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_and_services_are_named_as_kubectl_names_them() {
        let named = |namespace: Option<&str>, is_service, name: &str| Named {
            namespace: namespace.map(str::to_owned),
            is_service,
            name: name.into(),
        };
        for (text, expected) in [
            ("web", named(None, false, "web")),
            ("shop/web", named(Some("shop"), false, "web")),
            ("pod/web", named(None, false, "web")),
            ("svc/web", named(None, true, "web")),
            ("shop/svc/web", named(Some("shop"), true, "web")),
        ] {
            assert_eq!(Named::parse(text).unwrap(), expected, "{text}");
        }
        for text in ["", "/web", "shop/", "a/b/c", "a/svc/b/c"] {
            assert!(Named::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_may_be_named() {
        let pod = json!({"metadata": {"namespace": "n", "name": "p"}, "spec": {"containers": [
            {"ports": [{"name": "http", "containerPort": 8080}]}]}});
        assert_eq!(port_number(&pod, "http", "tcp").unwrap(), "8080");
        assert_eq!(port_number(&pod, "99", "tcp").unwrap(), "99");
        assert!(port_number(&pod, "http", "udp").is_err());
        let service = json!({"metadata": {"namespace": "n", "name": "s"}, "spec": {"ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"}]}});
        assert_eq!(port_number(&service, "dns", "udp").unwrap(), "53");
    }
}
