//! What a pod asks of an interface, in itself and of the interface's network.

use super::annotations::NetworkChoice;
use ipnet::IpNet;
use skein_model::FqName;
use std::net::IpAddr;

/// Linux: IFNAMSIZ less the terminating zero.
const NAME_LIMIT: usize = 15;

/// Checks what is asked of a network with these subnets and their gateways.
///
/// # Errors
/// What it cannot give, and what it can.
pub(super) fn check(
    choice: &NetworkChoice,
    network: &FqName,
    subnets: &[(IpNet, Option<IpAddr>)],
) -> Result<(), String> {
    for (at, asked) in choice.addresses.iter().enumerate() {
        if !subnets.iter().any(|(net, _)| net.contains(asked)) {
            return Err(format!(
                "ips: {asked} is in no subnet of {network}; it has {}",
                list(subnets.iter().map(|(net, _)| net))
            ));
        }
        if choice.addresses[..at].iter().any(|one| one.is_ipv4() == asked.is_ipv4()) {
            return Err(format!("ips: {asked} is one too many; ask for one of each IP version"));
        }
    }
    let gateways = || subnets.iter().filter_map(|(_, gateway)| *gateway);
    match choice.default_route.iter().find(|asked| gateways().all(|one| one != **asked)) {
        None => Ok(()),
        Some(_) if gateways().next().is_none() => Err(format!(
            "default-route: {network} has no gateway; give its subnet one, or leave default-route away"
        )),
        Some(asked) => Err(format!(
            "default-route: {asked} is no gateway of {network}; write {}",
            list(gateways())
        )),
    }
}

fn list(all: impl Iterator<Item = impl ToString>) -> String {
    all.map(|one| one.to_string()).collect::<Vec<_>>().join(" or ")
}

/// Checks the name of an interface.
///
/// # Errors
/// The kernel takes no such name, or something else has it.
pub(super) fn interface(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%' | '@');
    if name.is_empty() || name.len() > NAME_LIMIT || !name.chars().all(good) || is_taken(name) {
        return Err(format!(
            "interface: {name:?} cannot be an interface's name; write 1 to {NAME_LIMIT} letters, digits, \
             \"-\", \"_\" or \".\", as net1"
        ));
    }
    Ok(())
}

/// Names that a namespace has anyway, and those of folders.
fn is_taken(name: &str) -> bool {
    matches!(name, "lo" | "all" | "default" | "." | "..")
}

/// Reads a MAC address, and writes it as the configuration does.
///
/// # Errors
/// It is none that an interface may have.
pub(super) fn mac(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let octet = |part: &&str| {
        let hex = part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit());
        u8::from_str_radix(part, 16).ok().filter(|_| hex)
    };
    let octets: Option<Vec<u8>> = parts.iter().map(octet).collect();
    let wrong = |what: &str| Err(format!("mac: {text:?} {what}; write 02:00:00:00:00:01"));
    match octets.as_deref() {
        Some([0, 0, 0, 0, 0, 0]) => wrong("is no interface's"),
        Some([first, _, _, _, _, _]) if first & 1 == 1 => wrong("is a group's"),
        Some([_, _, _, _, _, _]) => Ok(parts.join(":").to_ascii_lowercase()),
        _ => wrong("is no MAC address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_kernel_takes() {
        for good in ["eth7", "net1", "a", "exactly-fifteen", "with.dot_5"] {
            assert_eq!(interface(good), Ok(()), "{good}");
        }
        for bad in
            ["", "sixteen-letters.", "a/b", "a:b", "a b", "a@b", "%d", "lo", ".", "..", "n\u{e9}t"]
        {
            assert!(interface(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn macs_are_those_that_an_interface_may_have() {
        assert_eq!(mac("02-00-00-00-0A-0b").as_deref(), Ok("02:00:00:00:0a:0b"));
        let bad = ["", "02:00:00:00:00", "02:00:00:00:00:0g", "2:0:0:0:0:9", "01:00:5e:00:00:01"];
        for bad in bad.into_iter().chain([
            "00:00:00:00:00:00",
            "02:00:00:00:00:+1",
            "02:00:00:00:00:00:00",
        ]) {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_gives_what_it_has() {
        let network = FqName::parse("d:p:blue");
        let subnets = [
            ("10.1.1.0/24".parse().unwrap(), "10.1.1.254".parse().ok()),
            ("fd00::/64".parse().unwrap(), None),
        ];
        let ask = |ips: &[&str], routes: &[&str]| {
            let read = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect();
            let choice = NetworkChoice {
                addresses: read(ips),
                default_route: read(routes),
                ..NetworkChoice::default()
            };
            check(&choice, &network, &subnets)
        };
        assert_eq!(ask(&["10.1.1.7", "fd00::7"], &["10.1.1.254"]), Ok(()));
        for (ips, routes, named) in [
            (&["10.1.2.7"][..], &[][..], "10.1.1.0/24 or fd00::/64"),
            (&["10.1.1.7", "10.1.1.8"], &[], "one of each"),
            (&[], &["10.1.1.1"], "10.1.1.254"),
            (&[], &["10.1.1.254", "fd00::1"], "10.1.1.254"),
        ] {
            let said = ask(ips, routes).unwrap_err();
            assert!(said.contains(named), "{said}");
        }
    }
}
