//! Tells the underlay which addresses are here now, so that nobody goes on sending to the node that had them before.

use skein_datapath::Datapath;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};

/// An address is announced when it comes and so many times more, a second apart: frames get lost, and the node that had it
/// may still have answered someone in between.
const REPEATS: u8 = 2;

/// Announces addresses on the uplink, and hears who asks for them.
pub(crate) struct Announcer {
    uplink: u32,
    again: BTreeMap<IpAddr, u8>,
    /// Addresses of an agent before this one, which another node may have had meanwhile.
    found: BTreeSet<IpAddr>,
    /// Holds the multicast groups in which IPv6 neighbours ask: a card passes nothing else on.
    groups: Option<UdpSocket>,
}

impl Announcer {
    pub(crate) fn new(uplink: u32) -> Self {
        Self { uplink, again: BTreeMap::new(), found: BTreeSet::new(), groups: None }
    }

    /// An address is here from now on.
    pub(crate) fn here(&mut self, address: IpAddr, datapath: &Datapath) {
        self.listen(address);
        self.again.insert(address, REPEATS);
        tell(address, datapath);
    }

    /// An address was here before the agent was. It is announced once it is [confirmed](Self::confirm).
    pub(crate) fn found(&mut self, address: IpAddr) {
        self.listen(address);
        self.found.insert(address);
    }

    /// Controllers have told everything, and it is carried out: what was found and is still here, is here.
    pub(crate) fn confirm(&mut self) {
        self.again.extend(std::mem::take(&mut self.found).into_iter().map(|one| (one, REPEATS)));
    }

    fn listen(&mut self, address: IpAddr) {
        let IpAddr::V6(address) = address else { return };
        if self.groups.is_none() {
            self.groups = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok();
        }
        let joined = self.groups.as_ref().map(|socket| {
            // Another address may share the group; it is joined once.
            socket.join_multicast_v6(&solicited(address), self.uplink)
        });
        tracing::trace!(%address, ok = matches!(joined, Some(Ok(()))), "listening for solicitations");
    }

    /// It is not any more.
    pub(crate) fn gone(&mut self, address: IpAddr) {
        // The group stays: others may share it, and a solicitation for nobody's address is the host's, as ever.
        self.again.remove(&address);
        self.found.remove(&address);
    }

    /// Call about every second.
    pub(crate) fn repeat(&mut self, datapath: &Datapath) {
        self.again.retain(|address, left| {
            tell(*address, datapath);
            *left -= 1;
            *left > 0
        });
    }
}

fn tell(address: IpAddr, datapath: &Datapath) {
    if let Err(error) = datapath.announce(address) {
        tracing::warn!(
            %address, %error,
            "not announced: neighbours that remember another node find out when they ask again"
        );
    }
}

/// The group in which an address is asked for (RFC 4291 section 2.7.1).
fn solicited(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_an_address_has_its_last_three_bytes() {
        let group = solicited("fd64::12:3456:789a".parse().unwrap());
        assert_eq!(group, "ff02::1:ff56:789a".parse::<Ipv6Addr>().unwrap());
    }
}
