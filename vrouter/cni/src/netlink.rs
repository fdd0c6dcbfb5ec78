//! The few rtnetlink messages the plugin needs, written and read by hand over a raw socket.
//!
//! Several messages travel in one send; each is acknowledged. Layouts are those of
//! `linux/netlink.h` and `linux/rtnetlink.h` (man 7 rtnetlink), in host byte order.

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Write};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_SETLINK: u16 = 19;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_NEWRULE: u16 = 32;

pub(crate) const F_ACK: u16 = 0x4;
pub(crate) const F_DUMP: u16 = 0x300;
pub(crate) const F_REPLACE: u16 = 0x100;
pub(crate) const F_EXCL: u16 = 0x200;
pub(crate) const F_CREATE: u16 = 0x400;

const F_REQUEST: u16 = 0x1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;

/// Messages for one send.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    start: usize,
    count: u32,
}

impl Batch {
    /// Begins a message; `body` is the fixed part after the header.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, body: &[u8]) -> &mut Self {
        self.finish();
        self.start = self.bytes.len();
        self.count += 1;
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | F_REQUEST).to_ne_bytes());
        // The sequence number tells the answers apart.
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(body);
        self
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// An attribute that holds `prefix` and then the attributes `inner` adds.
    pub(crate) fn nested(
        &mut self,
        kind: u16,
        prefix: &[u8],
        inner: impl FnOnce(&mut Self),
    ) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(prefix);
        inner(self);
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(&mut self) {
        if self.count > 0 {
            let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
            self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }
}

/// One answer: which message it belongs to, its kind and what follows the header.
pub(crate) struct Answer {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

/// What became of one message of a batch.
pub(crate) struct Outcome {
    pub(crate) result: Result<()>,
    pub(crate) answers: Vec<Answer>,
}

/// A netlink route socket of the namespace it was opened in.
pub(crate) struct Netlink(File);

impl Netlink {
    pub(crate) fn open() -> Result<Self> {
        let descriptor = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Ok(Self(File::from(descriptor)))
    }

    /// Sends all messages at once and waits until each has been answered. Every message must carry
    /// [`F_ACK`] or [`F_DUMP`], or nothing would say that it is done.
    pub(crate) fn exchange(&mut self, batch: &mut Batch) -> Result<Vec<Outcome>> {
        batch.finish();
        self.0.write_all(&batch.bytes)?;
        let mut outcomes: Vec<Outcome> =
            (0..batch.count).map(|_| Outcome { result: Ok(()), answers: Vec::new() }).collect();
        let mut open = batch.count;
        let mut buffer = vec![0; 64 * 1024];
        while open > 0 {
            let length = self.0.read(&mut buffer)?;
            let mut rest = &buffer[..length];
            while rest.len() >= HEADER {
                let size = usize::try_from(u32_at(rest, 0)).unwrap_or(0);
                if size < HEADER || size > rest.len() {
                    return Err(Error::new(ErrorKind::InvalidData, "broken netlink answer"));
                }
                let (kind, sequence) = (u16_at(rest, 4), u32_at(rest, 8));
                let body = &rest[HEADER..size];
                let index = usize::try_from(sequence).unwrap_or(0).wrapping_sub(1);
                if let Some(outcome) = outcomes.get_mut(index) {
                    match kind {
                        NLMSG_ERROR | NLMSG_DONE => {
                            open -= 1;
                            let code =
                                if body.len() >= 4 { u32_at(body, 0).cast_signed() } else { 0 };
                            if code != 0 {
                                outcome.result = Err(Error::from_raw_os_error(-code));
                            }
                        }
                        _ => outcome.answers.push(Answer { kind, body: body.to_vec() }),
                    }
                }
                rest = &rest[size.next_multiple_of(4).min(rest.len())..];
            }
        }
        Ok(outcomes)
    }
}

/// The attributes of an answer after its fixed part of `skip` bytes.
pub(crate) fn attributes(body: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(skip..).unwrap_or_default();
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let size = usize::from(u16_at(rest, 0));
        let kind = u16_at(rest, 2) & 0x3fff;
        let value = rest.get(4..size)?;
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}
