//! The discovery document: spec section 2.

use hyper::Response;
use serde_json::{Value, json};
use skein_model::Kind;

use super::{Body, json as respond_json};

/// Actions by URI, link name and method.
pub(super) const ACTIONS: [(&str, &str, &str); 18] = [
    ("fqname-to-id", "name-to-id", "POST"),
    ("id-to-fqname", "id-to-name", "POST"),
    ("ref-update", "ref-update", "POST"),
    ("ref-relax-for-delete", "ref-relax-for-delete", "POST"),
    ("prop-collection-get", "prop-collection-get", "GET"),
    ("prop-collection-update", "prop-collection-update", "POST"),
    ("list-bulk-collection", "list-bulk-collection", "POST"),
    ("useragent-kv", "useragent-keyvalue", "POST"),
    ("obj-perms", "obj-perms", "GET"),
    ("chown", "chown", "POST"),
    ("chmod", "chmod", "POST"),
    ("aaa-mode", "aaa-mode", "GET"),
    ("set-tag", "set-tag", "POST"),
    ("virtual-network/%s/ip-alloc", "virtual-network-ip-alloc", "POST"),
    ("virtual-network/%s/ip-free", "virtual-network-ip-free", "POST"),
    ("virtual-network/%s/subnet-ip-count", "virtual-network-subnet-ip-count", "POST"),
    ("watch", "watch", "GET"),
    ("multi-tenancy", "multi-tenancy", "GET"),
];

/// Every link of the API, built on the URL that the client used.
pub(super) fn document(base: &str) -> Response<Body> {
    let link = |rel: &str, uri: &str, name: &str, method: Value| json!({"link": {"rel": rel, "href": format!("{base}{uri}"), "name": name, "method": method}});
    let mut links = vec![
        link("documentation", "/documentation/index.html", "documentation", json!("GET")),
        link("root", "/config-root", "config-root", Value::Null),
    ];
    for kind in Kind::all().filter(|kind| *kind != Kind::CONFIG_ROOT) {
        let name = kind.name();
        links.push(link("collection", &format!("/{name}s"), name, Value::Null));
        links.push(link("resource-base", &format!("/{name}"), name, Value::Null));
    }
    for (uri, name, method) in ACTIONS {
        links.push(link("action", &format!("/{uri}"), name, json!(method)));
    }
    respond_json(&json!({"href": base, "links": links}))
}
