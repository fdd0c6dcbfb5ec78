//! Frames as they are on a wire: sent raw, and heard on any interface. The sockets are Python's: the
//! workspace's own code has no packet sockets, and the tests should not trust it with them anyway.

use super::soon;
use skein_lab::{Host, Pod, Process, require, wait_for, wait_until};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SEND: &str = "
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
for line in sys.argv[2].split():
    try:
        out.send(bytes.fromhex(line))
    except OSError as error:
        # The kernel itself refuses what is shorter than a header.
        print(error, file=sys.stderr)
";

const HEAR: &str = "
import socket, sys
heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
heard.bind((sys.argv[1], 0))
print('listening', flush=True)
while True:
    print(heard.recv(65535).hex(), flush=True)
";

/// Sends frames out of a pod's `eth0`, whatever its address, as root in a container could.
pub fn send(pod: &Pod, frames: &[Vec<u8>]) {
    for some in frames.chunks(200) {
        let lines: Vec<String> = some.iter().map(|frame| hex(frame)).collect();
        let mut command = Command::new("python3");
        command.args(["-c", SEND, "eth0", &lines.join(" ")]);
        pod.run(&mut command).unwrap().success().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Sends frames out of a host's uplink, as anyone on the underlay could.
pub fn send_from(host: &Host, frames: &[Vec<u8>]) {
    let lines: Vec<String> = frames.iter().map(|frame| hex(frame)).collect();
    let mut command = Command::new("python3");
    command.args(["-c", SEND, host.uplink(), &lines.join(" ")]);
    host.run(&mut command).unwrap().success().unwrap_or_else(|error| panic!("{error}"));
}

/// A log of its own for each listener.
fn name() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("ear-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Everything that arrives on an interface, or leaves by it. It is printed by a process of its own, in its own time.
#[derive(Debug)]
pub struct Ear {
    process: Process,
    place: Place,
}

/// Where an ear is.
#[derive(Debug)]
enum Place {
    Pod(Pod),
    Uplink(Host),
}

impl Ear {
    pub fn of_pod(pod: &Pod) -> Ear {
        require("python3", "python3").unwrap();
        let mut command = Command::new("python3");
        let process = pod.spawn(&name(), command.args(["-c", HEAR, "eth0"])).unwrap();
        Ear::ready(process, Place::Pod(pod.clone()))
    }

    pub fn of_uplink(host: &Host) -> Ear {
        require("python3", "python3").unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", HEAR, host.uplink()]);
        Ear::ready(host.spawn(&name(), &mut command).unwrap(), Place::Uplink(host.clone()))
    }

    fn ready(process: Process, place: Place) -> Ear {
        let ear = Ear { process, place };
        wait_for("a listener", Duration::from_secs(10), || {
            if ear.log().starts_with("listening") { Ok(()) } else { Err(ear.log()) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        ear
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.process.log_path()).unwrap_or_default()
    }

    /// Waits until it has told of all that its interface has passed so far: a frame of its own goes out behind it. Only then
    /// does it say anything that something was not heard.
    pub fn caught_up(&self) {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mark = format!("caught-up-{:06}", COUNT.fetch_add(1, Ordering::Relaxed));
        // From itself to itself, so a bridge passes it on to nobody, and of a protocol that is nobody's (IEEE 802's local
        // experimental one).
        let own = [2, 0, 0, 0, 0, 0xea];
        let frame = [ethernet(own, own, 0x88b5, mark.as_bytes())];
        soon("an ear to catch up", || {
            match &self.place {
                Place::Pod(pod) => send(pod, &frame),
                Place::Uplink(host) => send_from(host, &frame),
            }
            // A full queue may have lost it.
            wait_until("the mark", Duration::from_secs(2), || self.heard(mark.as_bytes()) > 0)
                .is_ok()
        });
    }

    /// How many of the frames hold these bytes.
    pub fn heard(&self, bytes: &[u8]) -> usize {
        let wanted = hex(bytes);
        self.log().lines().filter(|line| line.contains(&wanted)).count()
    }

    /// How many frames are IPv4 UDP to this port.
    pub fn heard_udp(&self, port: u16) -> usize {
        let port = hex(&port.to_be_bytes());
        let is = |line: &&str| {
            line.get(24..28) == Some("0800")
                && line.get(46..48) == Some("11")
                && line.get(72..76) == Some(port.as_str())
        };
        self.log().lines().filter(is).count()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The gateway's MAC address in every network.
pub const GATEWAY: [u8; 6] = [0, 0, 0x5e, 0, 1, 0];

/// Bytes of a MAC address.
pub fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// An Ethernet frame.
pub fn ethernet(destination: [u8; 6], source: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source[..], &kind.to_be_bytes()[..], payload].concat()
}

/// An IPv4 packet with UDP. The UDP checksum is left out, as IPv4 allows.
pub fn udp4(source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).unwrap();
    let udp = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &length.to_be_bytes(), &[0, 0]]
        .concat();
    let total = length + 20;
    let mut head = vec![0x45, 0];
    head.extend(total.to_be_bytes());
    head.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    head.extend(source.octets());
    head.extend(destination.octets());
    let check = !sum(&head);
    head[10..12].copy_from_slice(&check.to_be_bytes());
    [head, udp, payload.to_vec()].concat()
}

/// An IPv6 packet with UDP.
pub fn udp6(source: Ipv6Addr, destination: Ipv6Addr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).unwrap();
    let mut udp = Vec::new();
    for field in [ports.0, ports.1, length, 0] {
        udp.extend(field.to_be_bytes());
    }
    udp.extend(payload);
    let addresses = [source.octets(), destination.octets()].concat();
    let pseudo = [&addresses[..], &[0, 0], &length.to_be_bytes(), &[0, 0, 0, 17], &udp].concat();
    let check = !sum(&pseudo);
    udp[6..8].copy_from_slice(&if check == 0 { 0xffff } else { check }.to_be_bytes());
    [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[17, 64], &addresses, &udp].concat()
}

/// The one's complement sum of 16-bit words (RFC 1071), a lone last byte filled up with zero.
fn sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}
