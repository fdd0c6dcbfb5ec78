//! Success results in the shapes of the supported versions.

use crate::config::NetworkConfig;
use crate::port_api::Port;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::path::Path;

/// Versions of the CNI specification the plugin speaks.
pub const SUPPORTED_VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

/// The answer to VERSION.
pub(crate) fn version(config: &NetworkConfig) -> Value {
    json!({"cniVersion": config.cni_version, "supportedVersions": SUPPORTED_VERSIONS})
}

/// The answer to ADD.
pub(crate) fn add(
    config: &NetworkConfig,
    port: &Port,
    host_mac: &str,
    interface: &str,
    netns: &Path,
    mtu: u32,
) -> Value {
    let with_version = config.cni_version.starts_with("0.");
    let mut host = json!({"name": port.host_interface, "mac": host_mac});
    let mut container = json!({"name": interface, "mac": port.mac, "sandbox": netns});
    if config.cni_version == "1.1.0" {
        host["mtu"] = json!(mtu);
        container["mtu"] = json!(mtu);
    }
    let ips: Vec<Value> = port
        .addresses
        .iter()
        .map(|address| {
            let mut ip = Map::new();
            if with_version {
                let version = if address.prefix.addr().is_ipv4() { "4" } else { "6" };
                ip.insert("version".into(), json!(version));
            }
            ip.insert("interface".into(), json!(1));
            ip.insert("address".into(), json!(address.prefix));
            if let Some(gateway) = address.gateway {
                ip.insert("gateway".into(), json!(gateway));
            }
            Value::Object(ip)
        })
        .collect();
    let routes: Vec<Value> = default_routes(config, port)
        .into_iter()
        .map(|gateway| {
            let destination = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            json!({"dst": destination, "gw": gateway})
        })
        .collect();
    json!({
        "cniVersion": config.cni_version,
        "interfaces": [host, container],
        "ips": ips,
        "routes": routes,
        "dns": config.dns.clone().unwrap_or_else(|| json!({})),
    })
}

/// Gateways of the default routes to install: the first of each family.
pub(crate) fn default_routes(config: &NetworkConfig, port: &Port) -> Vec<IpAddr> {
    if !config.default_route {
        return Vec::new();
    }
    let gateways = || port.addresses.iter().filter_map(|address| address.gateway);
    let first = |v4: bool| gateways().find(|gateway| gateway.is_ipv4() == v4);
    [first(true), first(false)].into_iter().flatten().collect()
}
