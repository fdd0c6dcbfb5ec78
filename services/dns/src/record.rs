//! Records as the configuration writes them, and what they are on the wire.

use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SRV};
use hickory_proto::rr::{Name, RData};
use std::net::IpAddr;

/// One record, as `virtual_DNS_record_data` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordSpec {
    /// The owner, relative to the zone's domain; with a dot at its end it is whole. `@` or nothing: the domain itself. Of
    /// a PTR record: an address, or its name below `in-addr.arpa` or `ip6.arpa`.
    pub name: String,
    /// A, AAAA, CNAME, PTR, NS, MX or SRV.
    pub kind: String,
    /// An address; a name, relative to the domain if it is one label without a dot; of SRV `priority weight port name`.
    pub data: String,
    /// Seconds; none: the zone's default.
    pub ttl: Option<u32>,
    /// Of MX.
    pub preference: u16,
    /// Whether its address leads back to its name, in zones with reverse resolution.
    pub reverse: bool,
}

/// A record that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} record {name}: {reason}")]
pub struct BadRecord {
    /// Its owner.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// What is wrong, and what to write.
    pub reason: String,
}

/// A record that can be answered with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Parsed {
    /// Of a name.
    Forward { name: Name, data: RData, reverse: Option<IpAddr> },
    /// Of an address.
    Reverse { address: IpAddr, target: Name },
}

fn name_in(domain: &Name, text: &str, several_are_whole: bool) -> Result<Name, String> {
    let text = text.trim();
    if text.is_empty() || text == "@" {
        return Ok(domain.clone());
    }
    let whole = text.ends_with('.') || (several_are_whole && text.contains('.'));
    // Underscores are for SRV owners; what else a name may have is what the wire can carry.
    let mut name =
        Name::from_ascii(text).map_err(|error| format!("{text:?} is no name: {error}"))?;
    if whole {
        name.set_fqdn(true);
        return Ok(name);
    }
    name.append_domain(domain).map_err(|error| format!("{text:?} is too long: {error}"))
}

impl RecordSpec {
    pub(crate) fn parse(&self, domain: &Name) -> Result<Parsed, BadRecord> {
        self.read(domain).map_err(|reason| BadRecord {
            name: self.name.clone(),
            kind: self.kind.clone(),
            reason,
        })
    }

    fn read(&self, domain: &Name) -> Result<Parsed, String> {
        let target = |text: &str| name_in(domain, text, true);
        if self.kind == "PTR" {
            let address = self.name.parse().ok().or_else(|| {
                let mut name = Name::from_ascii(&self.name).ok()?;
                name.set_fqdn(true);
                crate::key::reverse_address(&crate::key::Key::of(&name))
            });
            let address = address.ok_or("its name is no address; write 10.0.0.1")?;
            return Ok(Parsed::Reverse { address, target: target(&self.data)? });
        }
        let mut reverse = None;
        let mut address = || {
            let read: Option<IpAddr> = self.data.trim().parse().ok();
            reverse = read.filter(|_| self.reverse);
            read
        };
        let data = match self.kind.as_str() {
            "A" => match address() {
                Some(IpAddr::V4(v4)) => RData::A(A(v4)),
                _ => return Err(format!("{:?} is no IPv4 address", self.data)),
            },
            "AAAA" => match address() {
                Some(IpAddr::V6(v6)) => RData::AAAA(AAAA(v6)),
                _ => return Err(format!("{:?} is no IPv6 address", self.data)),
            },
            "CNAME" => RData::CNAME(CNAME(target(&self.data)?)),
            "NS" => RData::NS(NS(target(&self.data)?)),
            "MX" => RData::MX(MX::new(self.preference, target(&self.data)?)),
            "SRV" => {
                let parts: Vec<&str> = self.data.split_whitespace().collect();
                let [priority, weight, port, name] = parts.as_slice() else {
                    return Err("write `priority weight port name`".into());
                };
                let number = |text: &str| {
                    text.parse::<u16>().map_err(|_| format!("{text:?} is not 0 to 65535"))
                };
                RData::SRV(SRV::new(
                    number(priority)?,
                    number(weight)?,
                    number(port)?,
                    target(name)?,
                ))
            }
            _ => return Err("is not A, AAAA, CNAME, PTR, NS, MX or SRV".into()),
        };
        Ok(Parsed::Forward { name: name_in(domain, &self.name, false)?, data, reverse })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, kind: &str, data: &str) -> RecordSpec {
        RecordSpec {
            name: name.into(),
            kind: kind.into(),
            data: data.into(),
            ..RecordSpec::default()
        }
    }

    #[test]
    fn names_are_relative_unless_they_end_with_a_dot() {
        let domain = Name::from_ascii("shop.example.").unwrap();
        let owner = |record: RecordSpec| match record.parse(&domain).unwrap() {
            Parsed::Forward { name, data, .. } => format!("{name} {data}"),
            Parsed::Reverse { address, target } => format!("{address} {target}"),
        };
        assert_eq!(owner(spec("www", "A", "10.0.0.1")), "www.shop.example. 10.0.0.1");
        assert_eq!(owner(spec("a.b", "CNAME", "www")), "a.b.shop.example. www.shop.example.");
        assert_eq!(owner(spec("@", "NS", "ns.other.example")), "shop.example. ns.other.example.");
        assert_eq!(
            owner(spec("www.shop.example.", "AAAA", "fd00::1")),
            "www.shop.example. fd00::1"
        );
        assert_eq!(owner(spec("10.0.0.1", "PTR", "www")), "10.0.0.1 www.shop.example.");
        assert_eq!(
            owner(spec("1.0.0.10.in-addr.arpa", "PTR", "www")),
            "10.0.0.1 www.shop.example."
        );
        let srv = owner(spec("_http._tcp", "SRV", "0 100 80 www"));
        assert_eq!(srv, "_http._tcp.shop.example. 0 100 80 www.shop.example.");
    }

    #[test]
    fn what_cannot_be_answered_with_is_refused() {
        let domain = Name::from_ascii("shop.example.").unwrap();
        for (name, kind, data) in [
            ("www", "A", "fd00::1"),
            ("www", "AAAA", "10.0.0.1"),
            ("www", "SRV", "0 100 www"),
            ("www", "SRV", "0 100 70000 www"),
            ("www", "TXT", "hello"),
            ("www", "PTR", "www"),
            ("a..b", "A", "10.0.0.1"),
        ] {
            assert!(spec(name, kind, data).parse(&domain).is_err(), "{name} {kind} {data}");
        }
    }
}
