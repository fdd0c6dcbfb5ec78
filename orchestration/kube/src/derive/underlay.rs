//! Networks whose addresses are the underlay's (ip-fabric forwarding), and the way outside from the nodes' addresses.
//!
//! Addresses decide: a network cannot leave the underlay while it exists, for its pods' addresses are there, nor join it while
//! pods have addresses that nobody there knows. Forwarding wins over translation.

use super::Context;
use super::networks::Wishes;
use crate::desired::{Derived, Desired};
use skein_model::{FqName, Kind};

/// What becomes of a wish about the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Underlay {
    /// As it was wished.
    Granted(bool),
    /// It is there and cannot leave.
    Stays,
    /// It would be there if its pods' addresses were.
    Waits,
}

impl Underlay {
    /// Whether the network is, or shall be, in the underlay.
    pub(super) fn is_in(self) -> bool {
        matches!(self, Underlay::Granted(true) | Underlay::Stays)
    }
}

impl Context<'_> {
    /// What becomes of the wish for a network. `renumbers`: joining would give its pods other addresses.
    pub(super) fn underlay(&self, network: &FqName, wanted: bool, renumbers: bool) -> Underlay {
        let Some(there) = self.graph.by_name(Kind::VIRTUAL_NETWORK, network) else {
            return Underlay::Granted(wanted);
        };
        let fabric = self.graph.by_name(Kind::VIRTUAL_NETWORK, &self.names.ip_fabric());
        let joined = fabric.is_some_and(|fabric| {
            there.references_to(Kind::VIRTUAL_NETWORK).any(|r| r.uuid == fabric.uuid)
        });
        let used = || {
            let mut addresses = self.graph.back_references_from(there.uuid, Kind::INSTANCE_IP);
            addresses.next().is_some()
        };
        match (joined, wanted) {
            (true, false) => Underlay::Stays,
            (false, true) if renumbers && used() => Underlay::Waits,
            _ => Underlay::Granted(wanted),
        }
    }

    /// A network's reference to the underlay, or its way outside.
    pub(super) fn reaches_outside(
        &self,
        network: Desired,
        forwarding: bool,
        snat: bool,
    ) -> Desired {
        let network = network.set("fabric_snat", snat && !forwarding);
        if forwarding {
            network.refer(Kind::VIRTUAL_NETWORK, [self.names.ip_fabric()])
        } else {
            network
        }
    }

    /// Tells a namespace what became of its wishes.
    pub(super) fn tell_about_underlay(&self, namespace: &str, wishes: &Wishes, out: &mut Derived) {
        let own = self.isolated(namespace);
        let of_cluster = self.wishes("default");
        let forwarding = of_cluster.forwarding.unwrap_or(self.settings.ip_fabric_forwarding);
        let snat = of_cluster.snat.unwrap_or(self.settings.ip_fabric_snat);
        if !own && namespace != "default" {
            let differs = |wish: Option<bool>, is: bool| wish.is_some_and(|wish| wish != is);
            if differs(wishes.forwarding, forwarding) || differs(wishes.snat, snat && !forwarding) {
                out.problem(
                    "NoNetworkOfItsOwn",
                    "ip_fabric_forwarding and ip_fabric_snat are of networks, and this namespace's pods are in \
                     the cluster's: isolate it, or annotate the namespace default"
                        .into(),
                );
            }
            return;
        }
        let wanted = if own { wishes.forwarding.unwrap_or(false) } else { forwarding };
        let state = self.underlay(&self.pod_network_of(namespace), wanted, true);
        self.tell(state, out);
        if state.is_in() && self.settings.ip_fabric_subnets.is_empty() {
            let text = "ip_fabric_subnets is empty: its pods get no addresses; set it in the manager's configuration";
            out.problem("NoFabricSubnets", text.into());
        }
    }

    /// The same for one network.
    pub(super) fn tell(&self, state: Underlay, out: &mut Derived) {
        match state {
            Underlay::Granted(_) => {}
            Underlay::Stays => out.problem(
                "ForwardingStays",
                "ip_fabric_forwarding cannot be switched off: the network's addresses are the underlay's; delete it \
                 and make it anew"
                    .into(),
            ),
            Underlay::Waits => out.problem(
                "ForwardingWaits",
                "ip_fabric_forwarding needs other addresses than the pods have: delete the pods; it is switched on \
                 by the next comparison that finds none"
                    .into(),
            ),
        }
    }
}
