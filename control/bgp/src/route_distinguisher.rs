//! Route distinguishers (RFC 4364 section 4.2).

use std::fmt;
use std::net::Ipv4Addr;

/// Keeps equal prefixes of different VRFs and nodes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteDistinguisher {
    /// The vRouter's tunnel address; for IPv6 underlays a 32-bit hash of it takes this place.
    pub address: Ipv4Addr,
    /// The vRouter's number of the VRF.
    pub instance: u16,
}

impl RouteDistinguisher {
    /// Type 1: IPv4 address and number.
    pub fn octets(self) -> [u8; 8] {
        let mut out = [0, 1, 0, 0, 0, 0, 0, 0];
        out[2..6].copy_from_slice(&self.address.octets());
        out[6..8].copy_from_slice(&self.instance.to_be_bytes());
        out
    }
}

impl fmt::Display for RouteDistinguisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address, self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_vector_of_a_vrouter() {
        // spec/control-plane.md section 5.9: vRouter 192.168.0.10, VRF id 7.
        let rd = RouteDistinguisher { address: Ipv4Addr::new(192, 168, 0, 10), instance: 7 };
        assert_eq!(rd.octets(), [0x00, 0x01, 0xc0, 0xa8, 0x00, 0x0a, 0x00, 0x07]);
        assert_eq!(rd.to_string(), "192.168.0.10:7");
    }
}
