//! Where the kernel's network settings are.

use std::path::PathBuf;

/// Says where the host's `/proc/sys/net` is, if not there: a container sees its own copy read-only.
const VARIABLE: &str = "SKEIN_PROC_SYS_NET";

/// The file of a setting below `/proc/sys/net`, such as `ipv4/ip_local_reserved_ports`.
#[must_use]
pub fn sysctl(name: &str) -> PathBuf {
    let root = std::env::var_os(VARIABLE).filter(|root| !root.is_empty());
    root.map_or_else(|| PathBuf::from("/proc/sys/net"), PathBuf::from).join(name)
}
