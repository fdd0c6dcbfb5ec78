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

/// An interface that ADD made.
pub(crate) struct Made<'a> {
    /// The agent's word about it.
    pub(crate) port: &'a Port,
    /// MAC address of the host end.
    pub(crate) host_mac: String,
    /// MTU of the container's end in bytes.
    pub(crate) mtu: u32,
    /// Gateways of the default routes through it.
    pub(crate) gateways: Vec<IpAddr>,
}

/// The answer to ADD: for every interface its host end and its container end.
pub(crate) fn add(config: &NetworkConfig, all: &[Made<'_>], netns: &Path) -> Value {
    let with_version = config.cni_version.starts_with("0.");
    let (mut interfaces, mut ips, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    for Made { port, host_mac, mtu, gateways } in all {
        let mut host = json!({"name": port.host_interface, "mac": host_mac});
        let mut container = json!({"name": port.key.interface, "mac": port.mac, "sandbox": netns});
        if config.cni_version == "1.1.0" {
            host["mtu"] = json!(mtu);
            container["mtu"] = json!(mtu);
        }
        interfaces.extend([host, container]);
        let index = interfaces.len() - 1;
        for address in &port.addresses {
            let mut ip = Map::new();
            if with_version {
                let version = if address.prefix.addr().is_ipv4() { "4" } else { "6" };
                ip.insert("version".into(), json!(version));
            }
            ip.insert("interface".into(), json!(index));
            ip.insert("address".into(), json!(address.prefix));
            if let Some(gateway) = address.gateway {
                ip.insert("gateway".into(), json!(gateway));
            }
            ips.push(Value::Object(ip));
        }
        routes.extend(gateways.iter().map(|gateway| {
            let destination = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            json!({"dst": destination, "gw": gateway})
        }));
    }
    json!({
        "cniVersion": config.cni_version,
        "interfaces": interfaces,
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
