//! How large TCP super-packets may be on an interface: read for tests, raised on the wires of the lab. The `ip` of Debian 12
//! knows neither.

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::fs::File;
use std::io::{Error, Read, Result, Write};

/// What a network card for large super-packets takes (GSO_MAX_SIZE of the kernel, less a TCP header).
const CARD: u32 = 524_280;

const NLMSG_ERROR: u16 = 2;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const IFLA_IFNAME: u16 = 3;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
/// `nlmsghdr` and `ifinfomsg`.
const FIXED: usize = 32;

/// Makes an interface of the caller's namespace pass super-packets of any size on. A wire of the lab is a virtual one: where a
/// real card cuts packets on their way out, its kernel would cut them in software.
pub(crate) fn widen(name: &str) -> Result<()> {
    match ask(RTM_SETLINK, name, Some(CARD)) {
        // A kernel before 6.3 has no larger ones, and no such attribute.
        Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Bytes a TCP super-packet over IPv4 may have; `None` on kernels before 6.3.
pub(crate) fn size(name: &str) -> Result<Option<u32>> {
    let answer = ask(RTM_GETLINK, name, None)?;
    let mut rest = answer.get(FIXED..).unwrap_or_default();
    while let [a, b, c, d, value @ ..] = rest {
        let (length, kind) = (u16::from_ne_bytes([*a, *b]), u16::from_ne_bytes([*c, *d]));
        if kind == IFLA_GSO_IPV4_MAX_SIZE {
            return Ok(value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)));
        }
        rest = rest.get(usize::from(length.max(4)).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(None)
}

fn ask(kind: u16, name: &str, super_packet: Option<u32>) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    message.extend(kind.to_ne_bytes());
    // A request, acknowledged when it changes something.
    message.extend(if super_packet.is_some() { 5_u16 } else { 1 }.to_ne_bytes());
    message.resize(FIXED - 4, 0);
    let text = [name.as_bytes(), &[0]].concat();
    message.extend(u16::try_from(text.len() + 4).map_err(Error::other)?.to_ne_bytes());
    message.extend(IFLA_IFNAME.to_ne_bytes());
    message.extend(text);
    message.resize(message.len().next_multiple_of(4), 0);
    if let Some(bytes) = super_packet {
        message.extend(8_u16.to_ne_bytes());
        message.extend(IFLA_GSO_IPV4_MAX_SIZE.to_ne_bytes());
        message.extend(bytes.to_ne_bytes());
    }
    let length = u32::try_from(message.len() + 4).map_err(Error::other)?;
    let message = [&length.to_ne_bytes(), &message[..]].concat();
    let mut kernel = File::from(socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?);
    kernel.write_all(&message)?;
    let mut answer = vec![0; 1 << 16];
    let length = kernel.read(&mut answer)?;
    answer.truncate(length);
    let [_, _, _, _, a, b, ..] = answer[..] else { return Err(Error::other("no answer")) };
    if u16::from_ne_bytes([a, b]) == NLMSG_ERROR {
        let code = answer.get(16..20).and_then(|bytes| bytes.first_chunk());
        match code.map_or(-1, |bytes| i32::from_ne_bytes(*bytes)) {
            0 => {}
            code => return Err(Error::from_raw_os_error(-code)),
        }
    }
    Ok(answer)
}
