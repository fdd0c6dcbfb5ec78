//! The objects of a connectivity test.

use serde_json::{Value, json};

/// Where the server listens in its pod.
pub(super) const PORT: u16 = 8080;

/// What is the same in all of them.
pub(super) struct Plan<'a> {
    pub(super) namespace: &'a str,
    pub(super) image: &'a str,
}

const SERVE: &str = "mkdir -p /tmp/www && hostname > /tmp/www/index.html && \
                     exec httpd -f -p 8080 -h /tmp/www";
const SLEEP: &str = "exec sleep 1000000";

impl Plan<'_> {
    fn metadata(&self, name: &str) -> Value {
        json!({"name": name, "namespace": self.namespace, "labels": {"app": name}})
    }

    fn template(&self, name: &str, script: &str, host: bool) -> Value {
        let mut container = json!({
            "name": name, "image": self.image, "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", script],
            "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}},
        });
        if name == "server" {
            container["ports"] = json!([{"name": "http", "containerPort": PORT}]);
            container["readinessProbe"] =
                json!({"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1});
        }
        json!({
            "metadata": {"labels": {"app": name}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "hostNetwork": host,
                "containers": [container],
            },
        })
    }

    fn everywhere(&self, name: &str, script: &str, host: bool) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": self.metadata(name),
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": self.template(name, script, host),
            },
        })
    }

    fn service(&self, name: &str, kind: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": self.metadata(name),
            "spec": {
                "type": kind, "selector": {"app": "server"},
                "ports": [{"name": "http", "port": 80, "targetPort": PORT}],
            },
        })
    }

    /// The namespace, servers and clients on every node, one other pod, and services.
    pub(super) fn pods(&self) -> Value {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": self.namespace,
                // Pods in the host's network are part of the test.
                "labels": {"pod-security.kubernetes.io/enforce": "privileged"},
            },
        });
        let other = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": self.metadata("other"),
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": "other"}},
                "template": self.template("other", SLEEP, false),
            },
        });
        list(&[
            namespace,
            self.everywhere("server", SERVE, false),
            self.everywhere("client", SLEEP, false),
            self.everywhere("host", SLEEP, true),
            other,
            self.service("server", "ClusterIP"),
            self.service("server-node-port", "NodePort"),
        ])
    }

    fn policy(&self, name: &str, ingress: &Value) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": self.metadata(name),
            "spec": {
                "podSelector": {"matchLabels": {"app": "server"}},
                "policyTypes": ["Ingress"], "ingress": ingress,
            },
        })
    }

    /// Nobody may reach the servers.
    pub(super) fn closed(&self) -> Value {
        list(&[self.policy("closed", &json!([]))])
    }

    /// Clients may.
    pub(super) fn open_to_clients(&self) -> Value {
        let from = json!([{
            "from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
            "ports": [{"port": PORT, "protocol": "TCP"}],
        }]);
        list(&[self.policy("open-to-clients", &from)])
    }
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
