//! Packets with every checksum right, so that a translated one can be compared to what it should have become, byte for byte.

use std::net::IpAddr;

/// A packet of TCP, UDP, SCTP or ICMP echo (the identifier is both ports).
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub ports: (u16, u16),
    /// TCP flags; ICMP: the type.
    pub kind: u8,
    /// TCP: sequence and acknowledgement.
    pub numbers: (u32, u32),
    pub ttl: u8,
    /// UDP: the checksum is left out.
    pub unchecked: bool,
    pub size: usize,
}

pub fn whole(
    protocol: u8,
    source: (impl Into<IpAddr>, u16),
    destination: (impl Into<IpAddr>, u16),
) -> Whole {
    Whole {
        source: source.0.into(),
        destination: destination.0.into(),
        protocol,
        ports: (source.1, destination.1),
        kind: super::ACK,
        numbers: (0, 0),
        ttl: 64,
        unchecked: false,
        size: 20,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// CRC32c, bit by bit (RFC 9260 appendix A).
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

impl Whole {
    /// With other ends; what a translation should give.
    pub fn between(
        self,
        source: (impl Into<IpAddr>, u16),
        destination: (impl Into<IpAddr>, u16),
    ) -> Self {
        let (ports, source) = ((source.1, destination.1), source.0.into());
        Self { source, destination: destination.0.into(), ports, ..self }
    }

    /// The answer to it.
    pub fn back(self) -> Self {
        let kind = match (self.protocol, self.kind) {
            (1, 8) => 0,
            (58, 128) => 129,
            (_, kind) => kind,
        };
        Self {
            source: self.destination,
            destination: self.source,
            ports: (self.ports.1, self.ports.0),
            kind,
            ..self
        }
    }

    pub fn kind(self, kind: u8) -> Self {
        Self { kind, ..self }
    }

    pub fn numbers(self, sequence: u32, acknowledged: u32) -> Self {
        Self { numbers: (sequence, acknowledged), ..self }
    }

    pub fn hops_less(self, hops: u8) -> Self {
        Self { ttl: self.ttl - hops, ..self }
    }

    fn pseudo(&self, length: usize) -> Vec<u8> {
        let mut pseudo = [octets(self.source), octets(self.destination)].concat();
        pseudo.extend((length as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol]);
        pseudo
    }

    pub fn transport(&self) -> Vec<u8> {
        let (source, destination) = self.ports;
        let data: Vec<u8> = (0..self.size).map(|n| n as u8).collect();
        match self.protocol {
            6 => {
                let mut t = [super::tcp(source, destination, self.kind), data].concat();
                t[4..8].copy_from_slice(&self.numbers.0.to_be_bytes());
                t[8..12].copy_from_slice(&self.numbers.1.to_be_bytes());
                let sum = super::checksum(&[&self.pseudo(t.len()), &t]);
                t[16..18].copy_from_slice(&sum.to_be_bytes());
                t
            }
            17 => {
                let mut t = super::udp(source, destination, &data);
                if !self.unchecked {
                    let sum = super::checksum(&[&self.pseudo(t.len()), &t]);
                    let sum = if sum == 0 { 0xffff } else { sum };
                    t[6..8].copy_from_slice(&sum.to_be_bytes());
                }
                t
            }
            132 => {
                let mut t = [source, destination].map(u16::to_be_bytes).concat();
                t.extend([1, 2, 3, 4, 0, 0, 0, 0]);
                t.extend(data);
                let sum = crc32c(&t).to_le_bytes();
                t[8..12].copy_from_slice(&sum);
                t
            }
            1 => super::icmp(self.kind, 0, source, &data),
            58 => {
                let mut t = vec![self.kind, 0, 0, 0];
                t.extend(source.to_be_bytes());
                t.extend([0, 1]);
                t.extend(data);
                let sum = super::checksum(&[&self.pseudo(t.len()), &t]);
                t[2..4].copy_from_slice(&sum.to_be_bytes());
                t
            }
            other => panic!("protocol {other}"),
        }
    }

    pub fn packet(&self) -> Vec<u8> {
        let transport = self.transport();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                super::Ip4 { ttl: self.ttl, ..super::ip4(source, destination) }
                    .with(self.protocol, &transport)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                super::ip6(source, destination, self.ttl, self.protocol, &transport)
            }
            _ => panic!("two families"),
        }
    }
}
