//! Ports of the node's own address that its workloads borrow.

use serde::Serialize;
use skein_datapath::NodeAddress;
use skein_proto::session as wire;
use std::ops::RangeInclusive;

/// Ports that the host keeps for its own connections, of those it may choose from.
const HOST_KEEPS: usize = 1024;
/// Whom a problem is about.
pub(crate) const SUBJECT: &str = "port_translation_pools";

/// By protocol: ranges in order that neither overlap nor touch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortPools {
    /// Of TCP.
    pub tcp: Vec<RangeInclusive<u16>>,
    /// Of UDP.
    pub udp: Vec<RangeInclusive<u16>>,
    /// Of SCTP.
    pub sctp: Vec<RangeInclusive<u16>>,
}

impl Default for PortPools {
    fn default() -> Self {
        let NodeAddress { tcp, udp, sctp, .. } = NodeAddress::default();
        Self { tcp, udp, sctp }
    }
}

impl PortPools {
    /// What the configuration says, and the node's own pools of protocols that it does not name. `host_ports` are those
    /// that the host chooses from for itself. Refused, with the reason, is what would leave too few of them.
    pub(crate) fn read(
        global: Option<&wire::Global>,
        host_ports: &RangeInclusive<u16>,
    ) -> Result<Self, String> {
        let listed = global.map(|global| global.port_pools.as_slice()).unwrap_or_default();
        let mut pools = Self::default();
        for (protocol, own) in [(6, &mut pools.tcp), (17, &mut pools.udp), (132, &mut pools.sctp)] {
            let given: Vec<_> = listed
                .iter()
                .filter(|pool| pool.protocol == protocol)
                .filter_map(|pool| {
                    let port = |number| u16::try_from(number).ok().filter(|port| *port != 0);
                    Some(port(pool.first)?..=port(pool.last)?)
                })
                .filter(|range| !range.is_empty())
                .collect();
            if given.len() > NodeAddress::RANGES {
                let (count, most) = (given.len(), NodeAddress::RANGES);
                return Err(format!(
                    "{count} ranges of ports of protocol {protocol}; a node takes {most}: join some. The node lends \
                     its own ports instead"
                ));
            }
            if !given.is_empty() {
                *own = given;
            }
        }
        let all = pools.all();
        let left = host_ports.clone().filter(|port| !all.iter().any(|range| range.contains(port)));
        let own = Self::default().all();
        let is_taken = |port: &u16| own.iter().any(|range| range.contains(port));
        // Where the host has next to none anyway, nothing is taken away.
        let had = host_ports.clone().filter(|port| !is_taken(port)).count();
        if left.count() < HOST_KEEPS.min(had) {
            let (first, last) = (host_ports.start(), host_ports.end());
            return Err(format!(
                "the host would keep fewer than {HOST_KEEPS} ports for its own connections \
                 (net.ipv4.ip_local_port_range is {first} to {last}): make the pools smaller. The node lends its own \
                 ports instead"
            ));
        }
        Ok(pools)
    }

    /// Ranges of all protocols.
    pub(crate) fn all(&self) -> Vec<RangeInclusive<u16>> {
        [&self.tcp, &self.udp, &self.sctp].into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: RangeInclusive<u16> = 32_768..=60_999;

    fn pool(protocol: u32, first: u32, last: u32) -> wire::PortPool {
        wire::PortPool { protocol, first, last }
    }

    fn read(pools: &[wire::PortPool]) -> Result<PortPools, String> {
        let global = wire::Global { port_pools: pools.to_vec(), ..wire::Global::default() };
        PortPools::read(Some(&global), &HOST)
    }

    #[test]
    fn protocols_without_a_pool_keep_the_nodes_own() {
        let pools = read(&[pool(6, 2000, 2999), pool(6, 5000, 5000)]).unwrap();
        assert_eq!(pools.tcp, [2000..=2999, 5000..=5000]);
        assert_eq!(pools.udp, PortPools::default().udp);
        assert_eq!(PortPools::read(None, &HOST), Ok(PortPools::default()));
    }

    #[test]
    fn the_host_keeps_ports_of_its_own() {
        assert!(read(&[pool(17, 33_000, 65_535)]).unwrap_err().contains("fewer than 1024"));
        assert!(read(&[pool(17, 34_000, 65_535)]).is_ok());
        let many: Vec<_> = (1..=5).map(|n| pool(6, n * 100, n * 100 + 1)).collect();
        assert!(read(&many).unwrap_err().contains("5 ranges"));
        // A host that chooses from few of its own is not our doing.
        assert!(PortPools::read(None, &(56_000..=56_010)).is_ok());
    }
}
