//! As much of SCTP (RFC 9260) as reachability needs: an INIT, and the INIT ACK that answers it.
//!
//! It runs on raw sockets, so it works where the kernel has no SCTP. The answer travels in the state
//! cookie, which is the server's to fill; no association is ever made. A kernel that does have SCTP answers
//! an INIT for a port it does not know by ABORT, beside the probe's own answer: an ABORT decides nothing.

use crate::ask::{ATTEMPTS, understand, words};
use crate::serve;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use skein_lab::kubernetes::ProbeAnswer;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
/// Parameter type of the state cookie.
const COOKIE: u16 = 7;
const COMMON_HEADER: usize = 12;
/// INIT and INIT ACK without parameters, with the chunk's header.
const CHUNK: usize = 20;

/// The first chunk of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    from: u16,
    to: u16,
    tag: u32,
    kind: u8,
    /// Of INIT and INIT ACK: the tag that the other side must use.
    initiate: u32,
    cookie: Vec<u8>,
}

impl Packet {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.from.to_be_bytes());
        bytes.extend(self.to.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        let parameter = if self.cookie.is_empty() { 0 } else { 4 + self.cookie.len() };
        let length = u16::try_from(CHUNK + parameter).unwrap_or(u16::MAX);
        bytes.extend([self.kind, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(self.initiate.to_be_bytes());
        // Receiver window, outbound and inbound streams, first TSN.
        bytes.extend(0xffff_u32.to_be_bytes());
        bytes.extend([0, 1, 0, 1]);
        bytes.extend(self.initiate.to_be_bytes());
        if !self.cookie.is_empty() {
            let length = u16::try_from(parameter).unwrap_or(u16::MAX);
            bytes.extend(COOKIE.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            bytes.extend(&self.cookie);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let sum = crc32c(&bytes).to_le_bytes();
        bytes[8..COMMON_HEADER].copy_from_slice(&sum);
        bytes
    }

    /// Reads a packet; `None` for what is none, or damaged.
    fn decode(bytes: &[u8]) -> Option<Packet> {
        let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let sum = bytes.get(8..COMMON_HEADER)?;
        let mut zeroed = bytes.to_vec();
        zeroed[8..COMMON_HEADER].fill(0);
        if sum != crc32c(&zeroed).to_le_bytes() {
            return None;
        }
        let kind = *bytes.get(COMMON_HEADER)?;
        let end = COMMON_HEADER + usize::from(word(COMMON_HEADER + 2)?);
        let (mut initiate, mut cookie) = (0, Vec::new());
        if kind == INIT || kind == INIT_ACK {
            initiate = long(COMMON_HEADER + 4)?;
            let mut at = COMMON_HEADER + CHUNK;
            while at + 4 <= end {
                let length = usize::from(word(at + 2)?);
                if word(at)? == COOKIE {
                    cookie = bytes.get(at + 4..at + length)?.to_vec();
                }
                at += length.max(4).next_multiple_of(4);
            }
        }
        Some(Packet { from: word(0)?, to: word(2)?, tag: long(4)?, kind, initiate, cookie })
    }
}

/// CRC-32C (Castagnoli), bit by bit: packets here are short.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// A raw socket, as a socket of datagrams: ports in its addresses mean nothing.
fn raw(ipv4: bool) -> Result<UdpSocket, String> {
    let family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp)
        .map(UdpSocket::from)
        .map_err(|error| format!("raw socket: {error}; the pod needs the capability NET_RAW"))
}

/// The SCTP packet in what a raw socket received: with IPv4 the IP header comes first.
fn payload(received: &[u8], ipv4: bool) -> Option<&[u8]> {
    let header = if ipv4 { usize::from(received.first()? & 0xf) * 4 } else { 0 };
    received.get(header..)
}

/// Answers on ports, over both families.
pub(crate) fn serve(pod: &str, ports: &[u16]) -> Result<(), String> {
    for ipv4 in [true, false] {
        // A pod without IPv6 has no such sockets.
        let socket = match raw(ipv4) {
            Ok(socket) => socket,
            Err(_) if !ipv4 => continue,
            Err(error) => return Err(error),
        };
        let (pod, ports) = (pod.to_owned(), ports.to_vec());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
                let packet = payload(&buffer[..length], ipv4).and_then(Packet::decode);
                let Some(init) = packet.filter(|p| p.kind == INIT && ports.contains(&p.to)) else {
                    continue;
                };
                let seen = SocketAddr::new(client.ip(), init.from);
                let reply = Packet {
                    from: init.to,
                    to: init.from,
                    tag: init.initiate,
                    kind: INIT_ACK,
                    initiate: random() | 1,
                    cookie: serve::answer(&pod, seen, None),
                };
                let _ = socket.send_to(&reply.encode(), SocketAddr::new(client.ip(), 0));
            }
        });
    }
    Ok(())
}

/// Asks a server.
pub(crate) fn ask(
    address: SocketAddr,
    timeout: Duration,
    port: u16,
) -> Result<ProbeAnswer, String> {
    let ipv4 = address.is_ipv4();
    let socket = raw(ipv4)?;
    let io = |error: std::io::Error| words(&error);
    socket.connect(SocketAddr::new(address.ip(), 0)).map_err(io)?;
    let init = Packet {
        // Else a dynamic port; the tag tells answers apart should two asks have the same one.
        from: if port == 0 { 49_152 + (random() % 16_384) as u16 } else { port },
        to: address.port(),
        tag: 0,
        kind: INIT,
        initiate: random() | 1,
        cookie: Vec::new(),
    };
    let mut last = "timeout".to_owned();
    let mut buffer = [0; 4096];
    for _ in 0..ATTEMPTS {
        socket.send(&init.encode()).map_err(io)?;
        let until = Instant::now() + timeout / ATTEMPTS;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let left = left.max(Duration::from_millis(1));
            socket.set_read_timeout(Some(left)).map_err(io)?;
            let length = match socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) => {
                    last = words(&error);
                    break;
                }
            };
            let packet = payload(&buffer[..length], ipv4).and_then(Packet::decode);
            match packet.filter(|p| p.to == init.from && p.tag == init.initiate) {
                Some(packet) if packet.kind == INIT_ACK => return understand(&packet.cookie),
                Some(packet) if packet.kind == ABORT => last = "refused".into(),
                _ => {}
            }
        }
    }
    Err(last)
}

fn random() -> u32 {
    // The standard library seeds every hasher state afresh.
    (RandomState::new().hash_one(0) >> 16) as u32
}

#[cfg(test)]
mod tests {
    use super::{INIT_ACK, Packet, crc32c};

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // RFC 3720, appendix B.4, tells the same polynomial's values.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn packets_survive_the_wire_and_damage_does_not_pass() {
        let packet = Packet {
            from: 80,
            to: 50_000,
            tag: 7,
            kind: INIT_ACK,
            initiate: 9,
            cookie: b"who".to_vec(),
        };
        let mut bytes = packet.encode();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(Packet::decode(&bytes), Some(packet));
        bytes[33] ^= 1;
        assert_eq!(Packet::decode(&bytes), None);
        assert_eq!(Packet::decode(&bytes[..10]), None);
    }
}
