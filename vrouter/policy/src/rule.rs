//! What a policy says, before anything is compiled.

use ipnet::IpNet;
use std::ops::RangeInclusive;
use uuid::Uuid;

/// Which end opens the connection, seen from the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The workload opens it.
    Egress,
    /// The remote end opens it.
    Ingress,
}

/// Everything that decides about one interface's connections. Every layer must pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Layers in order of evaluation (spec/vrouter.md section 4.1).
    pub layers: Vec<Layer>,
    /// What `layers` would be if policies that are only staged were in force; empty when none is. Never enforced:
    /// [`crate::evaluate_staged`] tells what it would change.
    pub staged: Vec<Layer>,
}

/// One kind of policy: network policy, security groups, firewall.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Name shown to people: `network-policy`, `security-group`, `firewall`.
    pub name: String,
    /// Rules for connections the workload opens, tiers ascending; the first match that passes or denies decides.
    pub egress: Vec<Rule>,
    /// Rules for connections the remote end opens, likewise.
    pub ingress: Vec<Rule>,
    /// Verdict when no rule matches.
    pub default_pass: bool,
}

/// What a rule does on a match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleAction {
    /// The layer denies.
    #[default]
    Deny,
    /// The layer passes.
    Pass,
    /// No verdict: the remaining rules of the same [`Rule::tier`] are left out.
    Skip,
}

impl From<bool> for RuleAction {
    /// A plain verdict.
    fn from(pass: bool) -> Self {
        if pass { Self::Pass } else { Self::Deny }
    }
}

/// One rule. All conditions must hold. The default one denies everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The rule a person wrote, for explanations.
    pub id: Uuid,
    /// What happens on a match.
    pub action: RuleAction,
    /// How far [`RuleAction::Skip`] reaches. Never falls along a list of rules.
    pub tier: u32,
    /// The remote end is one of these; empty means anyone.
    pub remotes: Vec<Peer>,
    /// The remote end also carries all of these tags.
    pub remote_tags: Vec<u32>,
    /// The workload's own address is in one of these; empty means any.
    pub local_prefixes: Vec<IpNet>,
    /// Address family, 4 or 6; `None` means both.
    pub family: Option<u8>,
    /// IP protocol number; `None` means any.
    pub protocol: Option<u8>,
    /// Source port of the opening packet; empty means any.
    pub source_ports: Vec<RangeInclusive<u16>>,
    /// Destination port of the opening packet; empty means any. ICMP and ICMPv6: `type << 8 | code`.
    pub destination_ports: Vec<RangeInclusive<u16>>,
}

/// A condition on the remote end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Its route originates in this virtual network (`virtual_network_network_id`).
    Network(u32),
    /// It is a member of this security group.
    SecurityGroup(u32),
    /// Its address is in this prefix.
    Prefix(IpNet),
    /// Its address is in this prefix and in none of the others.
    PrefixExcept(IpNet, Vec<IpNet>),
    /// It carries all of these tags.
    Tags(Vec<u32>),
}

/// What is known of a remote end besides its address: it travels with its route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attributes {
    /// Origin virtual network, 0 for none.
    pub network: u32,
    /// Security group ids, sorted.
    pub security_groups: Vec<u32>,
    /// Tag ids, sorted.
    pub tags: Vec<u32>,
}
