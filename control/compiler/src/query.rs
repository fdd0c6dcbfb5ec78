//! The questions the compiler asks, and their answers.

use crate::dns::{DnsRecordSet, DnsZone};
use crate::firewall::{Firewall, FirewallPolicy, FirewallRule, RuleSet};
use crate::intent::{Global, Interface, Vrf};
use crate::network::{NetworkFacts, RouteTargets};
use crate::network_policy::Mentions;
use crate::node::NodeFacts;
use crate::rule::Rules;
use crate::service::{Frontend, ServiceSet};
use skein_model::{FqName, Kind};
use skein_policy::Layer;
use std::fmt::Debug;
use std::sync::Arc;
use uuid::Uuid;

/// A question about the object graph.
///
/// Variants are in order of depth: a query reads only queries that come before it. The engine
/// relies on that to ask each dirty query once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Query {
    /// What a virtual network is: [`NetworkFacts`].
    Network(Uuid),
    /// What a node is: [`NodeFacts`].
    Node(Uuid),
    /// All nodes.
    Nodes,
    /// Networks that a network's policies pass traffic to: [`Mentions`].
    Mentions(Uuid),
    /// Ids of the tags that one object carries itself.
    Tags(Uuid),
    /// The number of a security group.
    GroupId(Uuid),
    /// Rules of a security group: [`Rules`].
    GroupRules(Uuid),
    /// A firewall rule with its names resolved: [`FirewallRule`].
    FirewallRule(Uuid),
    /// A firewall policy: [`FirewallPolicy`].
    FirewallPolicy(Uuid),
    /// All rules of an application policy set: [`RuleSet`].
    RuleSet(Uuid),
    /// The application policy sets that a tag, a project or the global vRouter configuration selects.
    Sets(Uuid),
    /// The [`Firewall`] of the ports that are one [`crate::firewall::Subject`], by its id.
    Firewall(Uuid),
    /// The network policy layer of a network's ports.
    NetworkLayer(Uuid),
    /// A network's own route targets: [`RouteTargets`].
    RouteTargets(Uuid),
    /// Networks joined to this one by policies at both ends.
    Peers(Uuid),
    /// Where a load balancer's listener answers: [`Frontend`].
    Frontend(Uuid),
    /// The virtual-DNS of a network.
    NetworkDns(Uuid),
    /// Output: a virtual-DNS as a [`DnsZone`].
    DnsZone(Uuid),
    /// Output: the [`DnsRecordSet`] of a virtual-DNS-record, a port or a floating IP.
    DnsRecords(Uuid),
    /// Output: a listener's [`ServiceSet`].
    Services(Uuid),
    /// Output: a network's [`Vrf`].
    Vrf(Uuid),
    /// Output: a port's [`Interface`].
    Interface(Uuid),
    /// Output: cluster-wide settings, [`Global`].
    Global,
}

impl Query {
    /// Outputs are asked for their own sake, the others only while something reads them.
    pub(crate) fn is_output(self) -> bool {
        matches!(
            self,
            Query::Services(_)
                | Query::Vrf(_)
                | Query::Interface(_)
                | Query::Global
                | Query::DnsZone(_)
                | Query::DnsRecords(_)
        )
    }

    /// The object that an output stands for.
    pub(crate) fn object(self) -> Option<Uuid> {
        match self {
            Query::Services(uuid)
            | Query::Vrf(uuid)
            | Query::Interface(uuid)
            | Query::DnsZone(uuid)
            | Query::DnsRecords(uuid) => Some(uuid),
            _ => None,
        }
    }
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// The object does not exist or is not usable.
    Nothing,
    Network(Arc<NetworkFacts>),
    Node(Arc<NodeFacts>),
    Nodes(Arc<Vec<Arc<NodeFacts>>>),
    Mentions(Arc<Mentions>),
    GroupId(u32),
    Rules(Arc<Stamped<Rules>>),
    Layer(Arc<Stamped<Layer>>),
    Firewall(Arc<Stamped<Firewall>>),
    FirewallRule(Arc<FirewallRule>),
    FirewallPolicy(Arc<FirewallPolicy>),
    RuleSet(Arc<RuleSet>),
    Sets(Arc<Vec<Uuid>>),
    /// Ids with the tags that have them.
    Tags(Arc<Vec<(u32, Uuid)>>),
    RouteTargets(Arc<RouteTargets>),
    Peers(Arc<Vec<Uuid>>),
    Frontend(Arc<Frontend>),
    DnsServer(Uuid),
    DnsZone(Arc<DnsZone>),
    DnsRecords(Arc<DnsRecordSet>),
    Services(Arc<ServiceSet>),
    Vrf(Arc<Vrf>),
    Interface(Arc<Interface>),
    Global(Arc<Global>),
}

/// Something that a query read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Read {
    /// An object's content, or its absence.
    Object(Uuid),
    /// Which object has a name.
    Name(Kind, FqName),
    /// Which children of a kind an object has.
    Children(Uuid, Kind),
    /// Which objects of a kind refer to an object.
    BackReferences(Uuid, Kind),
    /// Which objects of a kind exist.
    Kind(Kind),
    /// Whether a network has services.
    ServicesIn(Uuid),
    /// Which listeners a port serves.
    Memberships(Uuid),
    /// Another query's answer.
    Query(Query),
}

/// A value with an id made from its content, so that comparing and naming it stays cheap.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stamped<T> {
    /// Equal content has equal ids.
    pub(crate) id: Uuid,
    pub(crate) value: T,
}

/// Names the space of content ids.
const CONTENT_SPACE: Uuid = Uuid::from_u128(0x6d1b_3f0e_94f4_5a61_8f0c_6f7c_51a7_9d20);

impl<T: Debug> Stamped<T> {
    pub(crate) fn new(value: T) -> Stamped<T> {
        Stamped { id: content_id(format!("{value:?}").as_bytes()), value }
    }
}

/// The id of some content.
pub(crate) fn content_id(content: &[u8]) -> Uuid {
    Uuid::new_v5(&CONTENT_SPACE, content)
}
