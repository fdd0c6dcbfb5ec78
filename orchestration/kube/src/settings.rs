//! What the core must know about its cluster.

use ipnet::IpNet;
use serde::Deserialize;
use skein_model::FqName;

/// Settings of the core, with the original's meaning.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Name of the cluster; part of the names of its objects.
    pub cluster_name: String,
    /// Domain of its projects.
    pub domain: String,
    /// Value of the annotation `owner`.
    pub owner: String,
    /// Prefixes of pod addresses.
    pub pod_subnets: Vec<IpNet>,
    /// Prefixes of service addresses.
    pub service_subnets: Vec<IpNet>,
    /// Prefixes of pod addresses in the underlay.
    pub ip_fabric_subnets: Vec<IpNet>,
    /// One project for all namespaces: `domain:project`, or a dictionary.
    pub cluster_project: Option<String>,
    /// Name of the default pod network, instead of `C-default-pod-network`.
    pub cluster_pod_network: Option<String>,
    /// Name of the default service network, instead of `C-default-service-network`.
    pub cluster_service_network: Option<String>,
    /// The default pod network lives in the underlay.
    pub ip_fabric_forwarding: bool,
    /// Pods of the default pod network reach outside through their node's address.
    pub ip_fabric_snat: bool,
    /// Pool of external addresses: `domain:project:network:pool`, or a dictionary.
    pub public_fip_pool: Option<String>,
    /// The cluster's nodes are machines of an outer fabric: pods are VLAN sub-interfaces of their ports.
    pub nested_mode: bool,
    /// In nested mode: the network that the nodes are in, `domain:project:network`, or a dictionary. Without it the network
    /// `cluster-network` of the cluster's project.
    pub cluster_network: Option<String>,
    /// Name of the application-policy-set, instead of the cluster's.
    pub aps_name: Option<String>,
    /// The first rule that fits decides for both ends of a flow, as the original does; otherwise each end is
    /// judged by its own direction, as Kubernetes demands.
    pub cluster_wide_policy_action: bool,
    /// Pods of isolated namespaces reach pods of others, as the guide says; the original's code does not let them.
    pub isolated_reach_default: bool,
    /// `ips` of network-status as one text, as the original writes it.
    pub network_status_single_ip: bool,
    /// External addresses are written to `spec.externalIPs` as well, as the original does.
    pub write_external_ips: bool,
    /// Paths of type ImplementationSpecific are compared whole, as the original does, and not as prefixes.
    pub exact_ingress_paths: bool,
    /// Policies hold on secondary interfaces, too.
    pub policy_on_secondary: bool,
    /// Nodes reach pods in networks that operators and users made, as probes need, if the networks' prefixes lie in these. Nodes
    /// send what is for such a prefix to the pods, so nothing else of these prefixes should matter to them. Empty: in none.
    pub node_reach_subnets: Vec<IpNet>,
    /// Pods get the address they already have, if it is in their network: for taking over a running cluster.
    pub keep_pod_addresses: bool,
    /// Names of the cluster. A section of its own in the file: `[dns]`.
    #[serde(skip)]
    pub dns: Dns,
}

/// DNS that the nodes serve instead of pods.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Nodes answer for the cluster's names. Off: somebody else does, as CoreDNS.
    pub serve: bool,
    /// The cluster's domain: kubelets' `clusterDomain`.
    pub domain: String,
    /// The service whose address pods ask (kubelets' `clusterDNS`), as `namespace/name`: its port 53 leads to the client's node.
    pub service: String,
    /// What the agents call their DNS port (`dns.port` there).
    pub port: u16,
    /// Seconds for which answers, and that there are none, may be remembered.
    pub ttl: u32,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            serve: false,
            domain: "cluster.local".into(),
            service: "kube-system/kube-dns".into(),
            port: 8053,
            // As CoreDNS: longer, and clients would go on asking for endpoints that are gone.
            ttl: 5,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let net = |a, b, len| {
            IpNet::from(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(a, b, 0, 0), len))
        };
        Self {
            cluster_name: "k8s".into(),
            domain: "default-domain".into(),
            owner: "k8s".into(),
            pod_subnets: vec![net(10, 32, 12)],
            service_subnets: vec![net(10, 96, 12)],
            ip_fabric_subnets: vec![net(10, 64, 12)],
            cluster_project: None,
            cluster_pod_network: None,
            cluster_service_network: None,
            ip_fabric_forwarding: false,
            ip_fabric_snat: false,
            public_fip_pool: None,
            nested_mode: false,
            cluster_network: None,
            aps_name: None,
            cluster_wide_policy_action: false,
            isolated_reach_default: true,
            network_status_single_ip: false,
            write_external_ips: false,
            exact_ingress_paths: false,
            policy_on_secondary: false,
            node_reach_subnets: private(),
            keep_pod_addresses: true,
            dns: Dns::default(),
        }
    }
}

/// Addresses that nobody has for the whole world: RFC 1918, RFC 6598, RFC 4193.
fn private() -> Vec<IpNet> {
    let v4 = |a, b, len| {
        IpNet::from(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(a, b, 0, 0), len))
    };
    let local = std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0);
    vec![
        v4(10, 0, 8),
        v4(172, 16, 12),
        v4(192, 168, 16),
        v4(100, 64, 10),
        IpNet::from(ipnet::Ipv6Net::new_assert(local, 7)),
    ]
}

/// Settings that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct BadSetting {
    /// Which.
    pub name: &'static str,
    /// Why, and what to write.
    pub reason: String,
}

impl Settings {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(&self) -> Result<(), BadSetting> {
        let bad = |name, reason: &str| Err(BadSetting { name, reason: reason.to_owned() });
        if self.cluster_name.is_empty() || self.cluster_name.contains([':', '=', '/']) {
            return bad("cluster_name", "must not be empty or contain \":\", \"=\" or \"/\"");
        }
        if self.pod_subnets.is_empty() || self.service_subnets.is_empty() {
            return bad("pod_subnets", "pod_subnets and service_subnets must be given");
        }
        if self.dns.serve && self.dns.front().is_none() {
            return bad("dns.service", "write NAMESPACE/NAME, as kube-system/kube-dns");
        }
        if let Some(project) = self.cluster_project.as_deref().filter(|text| !is_blank(text)) {
            crate::names::parse_fq_name(project, &["domain", "project"])
                .map_err(|reason| BadSetting { name: "cluster_project", reason })?;
        }
        if let Some(network) = self.cluster_network.as_deref().filter(|text| !is_blank(text)) {
            crate::names::parse_fq_name(network, &["domain", "project", "name"])
                .map_err(|reason| BadSetting { name: "cluster_network", reason })?;
        }
        if let Some(pool) = self.public_fip_pool.as_deref().filter(|text| !is_blank(text)) {
            crate::names::parse_fq_name(pool, &["domain", "project", "network", "name"])
                .map_err(|reason| BadSetting { name: "public_fip_pool", reason })?;
        }
        Ok(())
    }

    /// The project that all namespaces share, if they do.
    #[must_use]
    pub fn shared_project(&self) -> Option<FqName> {
        let text = self.cluster_project.as_deref().filter(|text| !is_blank(text))?;
        crate::names::parse_fq_name(text, &["domain", "project"]).ok()
    }

    /// The network of the nodes, when they are machines of an outer fabric and it has a name of its own.
    #[must_use]
    pub fn nodes_network(&self) -> Option<FqName> {
        let text = self.cluster_network.as_deref().filter(|text| !is_blank(text))?;
        crate::names::parse_fq_name(text, &["domain", "project", "name"]).ok()
    }

    /// The pool of external addresses that holds where no annotation says otherwise.
    #[must_use]
    pub fn public_pool(&self) -> Option<FqName> {
        let text = self.public_fip_pool.as_deref().filter(|text| !is_blank(text))?;
        crate::names::parse_fq_name(text, &["domain", "project", "network", "name"]).ok()
    }
}

/// The original's way to say "not set".
fn is_blank(text: &str) -> bool {
    matches!(text.trim(), "" | "{}" | "None")
}
