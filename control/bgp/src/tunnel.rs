//! Tunnel types of the encapsulation extended community.

/// How a packet travels to a path's next hop. Values: RFC 9012 section 4.1 registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum TunnelType {
    /// RFC 7348; between Skein's nodes the VNI carries the route's label.
    Vxlan = 8,
    /// RFC 4023.
    MplsOverGre = 11,
    /// RFC 7510.
    MplsOverUdp = 13,
}

impl TunnelType {
    /// The name that `encapsulation_priorities` uses.
    pub fn name(self) -> &'static str {
        match self {
            TunnelType::Vxlan => "VXLAN",
            TunnelType::MplsOverGre => "MPLSoGRE",
            TunnelType::MplsOverUdp => "MPLSoUDP",
        }
    }

    /// The type with a name of `encapsulation_priorities`.
    pub fn parse(name: &str) -> Option<TunnelType> {
        [TunnelType::Vxlan, TunnelType::MplsOverGre, TunnelType::MplsOverUdp]
            .into_iter()
            .find(|t| t.name() == name)
    }
}
