//! Names as keys: small letters, in wire form, so that looking one up costs one hash.

use hickory_proto::rr::Name;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A name in small letters: each label behind its length, without the root's zero. The parent is a suffix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(Box<[u8]>);

impl Key {
    pub(crate) fn of(name: &Name) -> Key {
        let mut bytes = Vec::with_capacity(name.len());
        for label in name {
            // hickory keeps labels at 63 bytes.
            bytes.push(u8::try_from(label.len()).unwrap_or(63));
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        Key(bytes.into_boxed_slice())
    }

    /// Of bytes that are one already, or a part of one.
    pub(crate) fn from_wire(bytes: &[u8]) -> Key {
        Key(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name and those above it, nearest first, down to the root's empty key.
    pub(crate) fn suffixes(&self) -> impl Iterator<Item = &[u8]> {
        suffixes(&self.0)
    }

    /// Labels, leftmost first.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.suffixes().filter_map(|rest| {
            let (length, rest) = rest.split_first()?;
            rest.get(..usize::from(*length))
        })
    }

    /// What stands before `suffix`, when the name is at or below it.
    pub(crate) fn below<'a>(&'a self, suffix: &[u8]) -> Option<&'a [u8]> {
        let at = self.suffixes().find(|rest| rest.len() == suffix.len())?;
        (at == suffix).then(|| &self.0[..self.0.len() - suffix.len()])
    }
}

impl std::borrow::Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// A key and those above it, nearest first.
pub(crate) fn suffixes(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(key);
    std::iter::from_fn(move || {
        let now = rest?;
        rest = now.split_first().and_then(|(length, tail)| tail.get(usize::from(*length)..));
        Some(now)
    })
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for; none if it is no whole address.
pub(crate) fn reverse_address(key: &Key) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = key.labels().collect();
    let (last, labels) = labels.split_last()?;
    let (zone, labels) = labels.split_last()?;
    if *last != b"arpa" {
        return None;
    }
    let text = |label: &&[u8]| std::str::from_utf8(label).ok().map(str::to_owned);
    match (*zone, labels.len()) {
        (b"in-addr", 4) => {
            let mut octets = [0; 4];
            for (slot, label) in octets.iter_mut().zip(labels.iter().rev()) {
                let text = text(label)?;
                *slot = text.parse().ok().filter(|n: &u8| n.to_string() == text)?;
            }
            Some(Ipv4Addr::from(octets).into())
        }
        (b"ip6", 32) => {
            let mut number = 0u128;
            for label in labels.iter().rev() {
                let text = text(label).filter(|text| text.len() == 1)?;
                number = number << 4 | u128::from(u8::from_str_radix(&text, 16).ok()?);
            }
            Some(Ipv6Addr::from(number).into())
        }
        _ => None,
    }
}

/// The address that one label writes with dashes: `10-0-0-1`, `fd00--1`.
pub(crate) fn dashed_address(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    if let Ok(v4) = text.replace('-', ".").parse::<Ipv4Addr>() {
        return Some(v4.into());
    }
    text.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::of(&Name::from_ascii(text).unwrap())
    }

    #[test]
    fn a_name_is_below_whole_labels_only() {
        let name = key("Web.Shop.Example.");
        assert_eq!(name.below(key("example.").bytes()), Some(&b"\x03web\x04shop"[..]));
        assert_eq!(name.below(key("op.example.").bytes()), None);
        assert_eq!(name.below(name.bytes()), Some(&b""[..]));
        assert_eq!(name.labels().collect::<Vec<_>>(), [&b"web"[..], b"shop", b"example"]);
    }

    #[test]
    fn addresses_are_read_from_names() {
        let at = |text: &str| reverse_address(&key(text)).map(|a| a.to_string());
        assert_eq!(at("1.0.96.10.in-addr.arpa.").as_deref(), Some("10.96.0.1"));
        assert_eq!(at("01.0.96.10.in-addr.arpa."), None);
        assert_eq!(at("96.10.in-addr.arpa."), None);
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
        assert_eq!(at(v6).as_deref(), Some("fd00::1"));
        assert_eq!(dashed_address(b"10-244-0-7"), Some("10.244.0.7".parse().unwrap()));
        assert_eq!(dashed_address(b"fd00--7"), Some("fd00::7".parse().unwrap()));
        assert_eq!(dashed_address(b"web-1"), None);
    }
}
