//! The network configuration on standard input.

use crate::{Attachment, Code, Error};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where the agent listens unless the configuration says otherwise.
const AGENT: &str = "/run/skein/agent.sock";
/// The original's link-local service of a node's agent.
const VROUTER_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 10, 10, 2));
const VROUTER_PORT: u16 = 9091;
/// The smallest MTU IPv6 works with (RFC 8200, section 5), and the largest a veth takes.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 1280..=65_535;

/// Fields that belong to CNI and its runtimes, not to this plugin; they are accepted and unused.
const FOREIGN: [&str; 6] =
    ["capabilities", "disableCheck", "disableGC", "ipMasq", "ipam", "cniVersions"];

/// The configuration of one network.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfig {
    /// Version of the CNI specification the runtime speaks.
    pub cni_version: String,
    /// Name of this configuration; GC is scoped by it.
    #[serde(default)]
    pub name: String,
    /// Plugin type, `skein`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// The virtual network, fq_name joined by ':'; empty: what the orchestrator made for the pod (Kubernetes).
    #[serde(default)]
    pub network: String,
    /// Kubernetes: the cluster's name, the first part of its pods' machine names.
    #[serde(default = "default_cluster", alias = "cluster-name")]
    pub cluster_name: String,
    /// Inside a machine that is a workload itself: its interface to the node.
    #[serde(default, alias = "parent-interface")]
    pub parent_interface: Option<String>,
    /// What a pod's interface is: `veth` (default), or on a VLAN of the parent interface `macvlan` (default there) or `vlan`.
    #[serde(default, alias = "vif-type")]
    pub vif_type: Option<String>,
    /// Inside a machine: the link-local service by which the node's agent is reached.
    #[serde(default, alias = "vrouter-ip")]
    pub vrouter_ip: Option<IpAddr>,
    /// Its port.
    #[serde(default, alias = "vrouter-port")]
    pub vrouter_port: Option<u16>,
    /// The original's form: the same under a key of its own.
    #[serde(default)]
    contrail: Option<Original>,
    /// Unix socket of the agent.
    #[serde(default = "default_agent")]
    pub agent: PathBuf,
    /// Security groups of the port, fq_names joined by ':'.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// MTU of the workload's interface in bytes; absent: what the underlay allows.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Install default routes through the network's gateway.
    #[serde(default = "yes")]
    pub default_route: bool,
    /// Passed on in the result.
    #[serde(default)]
    pub dns: Option<Value>,
    /// What the runtime wants for this call.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// Conventional place for arguments from outside the runtime.
    #[serde(default)]
    pub args: Option<Args>,
    /// The result of ADD, given to CHECK and DEL.
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// GC: what is still in use.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What of the original's configuration has a meaning here; the rest of it has none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Original {
    cluster_name: Option<String>,
    parent_interface: Option<String>,
    vif_type: Option<String>,
    vrouter_ip: Option<IpAddr>,
    vrouter_port: Option<u16>,
    mtu: Option<u32>,
}

/// How pods of a machine are connected that is a workload itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NestedConfig {
    /// The machine's interface.
    pub(crate) parent: String,
    /// On top of the VLAN a macvlan, which goes into the pod; else the VLAN itself does.
    pub(crate) macvlan: bool,
    /// Where the node's agent is reached.
    pub(crate) vrouter: SocketAddr,
}

/// `runtimeConfig`: the capabilities `ips` and `mac`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RuntimeConfig {
    /// Wanted addresses, with or without a prefix length.
    #[serde(default)]
    pub ips: Vec<String>,
    /// Wanted MAC address.
    #[serde(default)]
    pub mac: Option<String>,
}

/// `args`: only `cni` is ours to read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Args {
    /// Arguments of the conventions document.
    #[serde(default)]
    pub cni: CniArgs,
}

/// `args.cni`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CniArgs {
    /// Wanted addresses.
    #[serde(default)]
    pub ips: Vec<String>,
}

/// One attachment GC must keep.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct ValidAttachment {
    /// Container id.
    #[serde(rename = "containerID")]
    pub container: String,
    /// Interface name inside it.
    #[serde(rename = "ifname")]
    pub interface: String,
}

fn default_cluster() -> String {
    "k8s".to_owned()
}

fn default_agent() -> PathBuf {
    PathBuf::from(AGENT)
}

fn yes() -> bool {
    true
}

impl NetworkConfig {
    pub(crate) fn parse(input: &[u8]) -> Result<Self, Error> {
        let mut config: Self = serde_json::from_slice(input).map_err(|error| {
            Error::new(
                Code::Decode,
                format!("the network configuration is not readable: {error}"),
                "correct the file in /etc/cni/net.d",
            )
        })?;
        config.take_original();
        config.nested()?;
        for (key, value) in &config.rest {
            if !FOREIGN.contains(&key.as_str()) && !key.starts_with("cni.dev/") {
                return Err(Error::new(
                    Code::UnsupportedField,
                    format!("unknown field `{key}` with value {value}"),
                    "remove it, or correct its spelling",
                ));
            }
        }
        if let Some(mtu) = config.mtu.filter(|mtu| !MTU_RANGE.contains(mtu)) {
            return Err(config.invalid("mtu", &format!("{mtu} is not between 1280 and 65535")));
        }
        config.wanted_addresses()?;
        config.wanted_mac()?;
        Ok(config)
    }

    fn take_original(&mut self) {
        let Some(original) = self.contrail.take() else { return };
        if let Some(name) = original.cluster_name {
            self.cluster_name = name;
        }
        self.parent_interface = self.parent_interface.take().or(original.parent_interface);
        self.vif_type = self.vif_type.take().or(original.vif_type);
        self.vrouter_ip = self.vrouter_ip.or(original.vrouter_ip);
        self.vrouter_port = self.vrouter_port.or(original.vrouter_port);
        self.mtu = self.mtu.or(original.mtu);
    }

    /// How pods are connected, inside a machine that is a workload itself.
    pub(crate) fn nested(&self) -> Result<Option<NestedConfig>, Error> {
        let macvlan = match self.vif_type.as_deref() {
            Some("veth") => return Ok(None),
            None if self.parent_interface.is_none() => return Ok(None),
            None | Some("macvlan") => true,
            Some("vlan") => false,
            Some(other) => {
                let reason = format!("`{other}` is none of veth, macvlan and vlan");
                return Err(self.invalid("vifType", &reason));
            }
        };
        if !self.network.is_empty() {
            return Err(self.invalid(
                "network",
                "inside a machine the orchestrator says which networks a pod has",
            ));
        }
        let address = self.vrouter_ip.unwrap_or(VROUTER_ADDRESS);
        Ok(Some(NestedConfig {
            parent: self.parent_interface.clone().unwrap_or_else(|| "eth0".into()),
            macvlan,
            vrouter: SocketAddr::from((address, self.vrouter_port.unwrap_or(VROUTER_PORT))),
        }))
    }

    /// Whether an orchestrator says which interfaces a pod has, and in which networks.
    #[must_use]
    pub fn is_kubernetes(&self) -> bool {
        self.network.is_empty()
    }

    /// Checks what ADD needs beyond the common fields.
    pub(crate) fn check_for_add(&self, attachment: &Attachment) -> Result<(), Error> {
        if self.name.is_empty() {
            return Err(self.invalid("name", "it is missing"));
        }
        if self.is_kubernetes() {
            if attachment.arguments.pod_namespace.is_none()
                || attachment.arguments.pod_name.is_none()
            {
                return Err(self.invalid(
                    "network",
                    "it is missing, and CNI_ARGS names no pod: give the virtual network as \
                     `domain:project:network`, or let Kubernetes call",
                ));
            }
        } else if self.network.split(':').count() < 3 || self.network.split(':').any(str::is_empty)
        {
            return Err(self.invalid(
                "network",
                "give the virtual network as `domain:project:network`, \
                 `default-domain:shop:front` for example",
            ));
        }
        if self.prev_result.is_some() {
            return Err(self.invalid("prevResult", "skein makes the interface: list it first"));
        }
        Ok(())
    }

    /// Wanted addresses without their lengths.
    pub(crate) fn wanted_addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let from_args = self.args.iter().flat_map(|args| &args.cni.ips);
        let wanted = if self.runtime_config.ips.is_empty() {
            from_args.collect::<Vec<_>>()
        } else {
            self.runtime_config.ips.iter().collect()
        };
        wanted
            .into_iter()
            .map(|text| {
                text.parse::<IpAddr>()
                    .or_else(|_| text.parse::<IpNet>().map(|net| net.addr()))
                    .map_err(|_| self.invalid("ips", &format!("`{text}` is no address")))
            })
            .collect()
    }

    /// Wanted MAC address in lower case, or none.
    pub(crate) fn wanted_mac(&self) -> Result<Option<String>, Error> {
        let Some(text) = &self.runtime_config.mac else { return Ok(None) };
        match crate::link::parse_mac(text) {
            Some(mac) if mac[0] & 1 == 0 && mac != [0; 6] => Ok(Some(text.to_lowercase())),
            _ => Err(self.invalid("mac", &format!("`{text}` is no unicast MAC address"))),
        }
    }

    fn invalid(&self, field: &str, reason: &str) -> Error {
        Error::new(
            Code::InvalidConfig,
            format!("network configuration `{}`, field `{field}`: {reason}", self.name),
            "correct the file in /etc/cni/net.d",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetworkConfig, Error> {
        NetworkConfig::parse(text.as_bytes())
    }

    #[test]
    fn unknown_fields_are_named() {
        let error = parse(r#"{"cniVersion":"1.0.0","name":"n","netwrok":"a:b:c"}"#).unwrap_err();
        assert_eq!(error.code, Code::UnsupportedField);
        assert!(error.message.contains("netwrok") && error.message.contains("a:b:c"));
    }

    #[test]
    fn wanted_addresses_come_with_or_without_length() {
        let config = parse(
            r#"{"cniVersion":"1.0.0","runtimeConfig":{"ips":["10.0.0.9/24","fd00::9"],
                "mac":"02:AA:00:00:00:01"}}"#,
        )
        .unwrap();
        let wanted: Vec<String> =
            config.wanted_addresses().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(wanted, ["10.0.0.9", "fd00::9"]);
        assert_eq!(config.wanted_mac().unwrap().unwrap(), "02:aa:00:00:00:01");
    }

    #[test]
    fn the_originals_keys_mean_the_same() {
        let nested = |text: &str| parse(text).unwrap().nested().unwrap();
        let plain = r#"{"cniVersion":"1.0.0","parentInterface":"ens3","vifType":"vlan",
            "vrouterIp":"10.10.10.9","vrouterPort":91}"#;
        let original = r#"{"cniVersion":"1.0.0","contrail":{"parent-interface":"ens3","vif-type":"vlan",
            "vrouter-ip":"10.10.10.9","vrouter-port":91,"mode":"k8s","log-level":"4"}}"#;
        let wanted = NestedConfig {
            parent: "ens3".into(),
            macvlan: false,
            vrouter: "10.10.10.9:91".parse().unwrap(),
        };
        assert_eq!(nested(plain), Some(wanted.clone()));
        assert_eq!(nested(original), Some(wanted));
        let short = nested(r#"{"cniVersion":"1.0.0","vif-type":"macvlan"}"#).unwrap();
        assert_eq!((short.parent.as_str(), short.macvlan), ("eth0", true));
        assert_eq!(short.vrouter, "10.10.10.2:9091".parse().unwrap());
        assert_eq!(nested(r#"{"cniVersion":"1.0.0"}"#), None);
    }

    #[test]
    fn bad_values_are_refused() {
        for (field, text) in [
            ("mtu", r#"{"cniVersion":"1.0.0","mtu":600}"#),
            ("vifType", r#"{"cniVersion":"1.0.0","vifType":"tap"}"#),
            ("network", r#"{"cniVersion":"1.0.0","network":"a:b:c","vifType":"vlan"}"#),
            ("ips", r#"{"cniVersion":"1.0.0","runtimeConfig":{"ips":["x"]}}"#),
            ("mac", r#"{"cniVersion":"1.0.0","runtimeConfig":{"mac":"01:00:00:00:00:00"}}"#),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig);
            assert!(error.message.contains(field), "{}", error.message);
        }
        assert_eq!(parse("{").unwrap_err().code, Code::Decode);
        assert_eq!(parse("[]").unwrap_err().code, Code::Decode);
    }
}
