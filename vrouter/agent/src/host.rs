//! The host's own stack as a workload: keeps its pair of interfaces and its port.

use crate::AgentError;
use crate::node::Node;
use crate::state::{InterfaceSpec, LocalPort};
use ipnet::IpNet;
use skein_cni::links::Links;
use skein_cni::{HOST_LINK, HostLink, UplinkRoutes};
use std::collections::BTreeSet;
use std::net::IpAddr;
use uuid::Uuid;

/// The port of the host's stack as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) uuid: Uuid,
    pub(crate) ifindex: u32,
    link: HostLink,
    routes: UplinkRoutes,
}

impl Node {
    /// Brings the host's pair in line with what the controller says of it. Cheap when nothing changed.
    pub(crate) fn keep_host(&mut self) {
        let Some(spec) = self.core.host_port() else {
            // Unknown is not gone: only a controller that has said everything takes it away.
            if self.core.is_fresh()
                && let Some(old) = self.host.take()
            {
                self.core.forget(old.uuid);
                let none = UplinkRoutes { prefixes: BTreeSet::new(), ..old.routes };
                let removed = Links::open().map(|mut links| {
                    none.ensure(&mut links).and_then(|()| links.delete(HOST_LINK))
                });
                tracing::info!(ok = matches!(removed, Ok(Ok(()))), "the host left the fabric");
            }
            return;
        };
        let Some((link, routes)) = self.host_link(&spec) else { return };
        if self.host.as_ref().is_some_and(|host| {
            host.uuid == spec.uuid && host.link == link && host.routes == routes
        }) {
            return;
        }
        match self.join_host(&spec, link, routes) {
            Ok(()) => self.host_failure = None,
            Err(error) => {
                let error = error.to_string();
                if self.host_failure.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "the host is not joined to the fabric; tried again every second"
                    );
                }
                self.host_failure = Some(error);
            }
        }
    }

    fn host_link(&self, spec: &InterfaceSpec) -> Option<(HostLink, UplinkRoutes)> {
        let (address, _) = spec.addresses.first()?;
        let address = address.addr();
        // The underlay's workloads: those here by the pair, all others by the uplink.
        let here = self.core.underlay_hosts().into_iter().map(IpNet::from);
        let there = spec.underlay_prefixes.iter().copied();
        let link = HostLink {
            mac: spec.mac,
            mtu: self.underlay.workload_mtu(),
            address,
            prefixes: spec
                .host_prefixes
                .iter()
                .copied()
                .chain(self.core.host_addresses())
                .chain(self.core.metadata_prefixes())
                .chain(here)
                .collect(),
        };
        let routes = UplinkRoutes {
            uplink: self.underlay.exit(),
            address,
            // The kernel has routes to what the uplink is in already.
            prefixes: there.filter(|prefix| !self.underlay.is_on_link(prefix)).collect(),
        };
        Some((link, routes))
    }

    fn join_host(
        &mut self,
        spec: &InterfaceSpec,
        link: HostLink,
        routes: UplinkRoutes,
    ) -> Result<(), AgentError> {
        let failed = |reason: String| AgentError::Interface { interface: HOST_LINK.into(), reason };
        let mut links = Links::open().map_err(|error| failed(error.to_string()))?;
        let ifindex = link.ensure(&mut links).map_err(|error| failed(error.to_string()))?;
        routes.ensure(&mut links).map_err(|error| failed(error.to_string()))?;
        self.kernel.attach(ifindex)?;
        let all = links.all().map_err(|error| failed(error.to_string()))?;
        if let Some(lo) = all.iter().find(|link| link.name == "lo") {
            self.kernel.attach_loopback(lo.index)?;
        }
        if let Some(old) = self.host.take().filter(|old| old.uuid != spec.uuid) {
            self.core.forget(old.uuid);
        }
        self.core.bind(LocalPort { uuid: spec.uuid, ifindex, mtu: link.mtu, vlan: None });
        tracing::debug!(
            interface = HOST_LINK,
            prefixes = link.prefixes.len(),
            "the host is joined"
        );
        self.host = Some(HostPort { uuid: spec.uuid, ifindex, link, routes });
        Ok(())
    }

    /// Reads the host's addresses: node ports answer at all of them. True if they are others than before.
    pub(crate) fn look_at_addresses(&mut self) -> bool {
        let read = Links::open().and_then(|mut links| links.addresses());
        match read {
            Ok(addresses) => {
                let found = addresses.iter().map(|(_, net)| net.addr());
                self.core.set_own_addresses(found.filter(is_reachable).collect())
            }
            Err(error) => {
                tracing::debug!(%error, "the host's addresses cannot be listed");
                false
            }
        }
    }

    /// Interfaces are gone; when one is the host's, it is made again.
    pub(crate) fn host_link_gone(&mut self, gone: &[u32]) {
        if let Some(host) = self.host.take_if(|host| gone.contains(&host.ifindex)) {
            self.core.unbind(host.uuid);
        }
    }
}

/// Others may know it: no loopback and no link's own.
fn is_reachable(address: &IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(local || address.is_loopback())
}
