//! Virtual DNS servers and their records.

use super::Build;
use serde_json::{Value, json};
use skein_model::{Change, FqName, Kind};

/// A server of a domain.
pub(crate) fn server(name: &str, data: Value) -> Change {
    let mut build = Build::new(Kind::VIRTUAL_DNS, name).with("virtual_DNS_data", data);
    build.0.fq_name = FqName::parse(&format!("default-domain:{name}"));
    build.0.parent = None;
    build.put()
}

/// A record of a server.
pub(crate) fn record(server: &str, name: &str, kind: &str, value: &str) -> Change {
    Build::new(Kind::VIRTUAL_DNS_RECORD, &format!("{server}:{name}:{kind}"))
        .under(Kind::VIRTUAL_DNS, server)
        .with(
            "virtual_DNS_record_data",
            json!({"record_name": name, "record_type": kind, "record_class": "IN", "record_data": value}),
        )
        .put()
}

/// The IPAM of all networks, which asks a server; an empty name: none.
pub(crate) fn ipam(server: &str) -> Change {
    let how = if server.is_empty() {
        json!({"ipam_dns_method": "default-dns-server"})
    } else {
        json!({
            "ipam_dns_method": "virtual-dns-server",
            "ipam_dns_server": {"virtual_dns_server_name": format!("default-domain:{server}")},
        })
    };
    Build::new(Kind::NETWORK_IPAM, "ipam").with("network_ipam_mgmt", how).put()
}

/// A machine of a port.
pub(crate) fn machine(name: &str) -> Change {
    Build::new(Kind::VIRTUAL_MACHINE, name).put()
}
