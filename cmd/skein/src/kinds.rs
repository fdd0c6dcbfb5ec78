//! Object types as people write them: `virtual-network`, `virtual-networks`, `network`, `vn`.

use crate::error::Error;
use crate::nearest::nearest;
use skein_model::Kind;

/// Names that are shorter than the schema's.
const ALIASES: &[(&str, &str)] = &[
    ("vn", "virtual-network"),
    ("network", "virtual-network"),
    ("vmi", "virtual-machine-interface"),
    ("vm", "virtual-machine"),
    ("iip", "instance-ip"),
    ("np", "network-policy"),
    ("policy", "network-policy"),
    ("sg", "security-group"),
    ("ipam", "network-ipam"),
    ("vr", "virtual-router"),
    ("ri", "routing-instance"),
    ("rt", "route-target"),
    ("bgp", "bgp-router"),
    ("fip", "floating-ip"),
    ("fipp", "floating-ip-pool"),
    ("aip", "alias-ip"),
    ("lr", "logical-router"),
    ("rtb", "route-table"),
    ("irt", "interface-route-table"),
    ("acl", "access-control-list"),
    ("aps", "application-policy-set"),
    ("fwp", "firewall-policy"),
    ("fwr", "firewall-rule"),
    ("si", "service-instance"),
    ("st", "service-template"),
    ("shc", "service-health-check"),
    ("pr", "physical-router"),
    ("pi", "physical-interface"),
    ("li", "logical-interface"),
    ("gsc", "global-system-config"),
    ("gvc", "global-vrouter-config"),
    ("vdns", "virtual-DNS"),
];

/// The type that a word means.
pub(crate) fn parse(word: &str) -> Result<Kind, Error> {
    find(word).ok_or_else(|| {
        let names = Kind::all().map(Kind::name).chain(ALIASES.iter().map(|(alias, _)| *alias));
        let next = nearest(word, names).map_or_else(
            || "`skein types` lists every type".to_owned(),
            |name| format!("did you mean {name}? `skein types` lists every type"),
        );
        Error::usage(format!("there is no object type {word:?}"), next)
    })
}

fn find(word: &str) -> Option<Kind> {
    let lower = word.to_ascii_lowercase().replace('_', "-");
    let whole = |word: &str| {
        let named = |name: &str| Kind::all().find(|k| k.name().eq_ignore_ascii_case(name));
        named(word).or_else(|| named(ALIASES.iter().find(|(alias, _)| *alias == word)?.1))
    };
    whole(&lower)
        .or_else(|| lower.strip_suffix("ies").and_then(|stem| whole(&format!("{stem}y"))))
        .or_else(|| lower.strip_suffix("ses").and_then(|stem| whole(&format!("{stem}s"))))
        .or_else(|| lower.strip_suffix('s').and_then(whole))
}

/// The type of exactly this schema name, as manifests and the API write it.
pub(crate) fn exact(name: &str) -> Option<Kind> {
    Kind::parse(name)
}

/// The short names of a type.
pub(crate) fn aliases(kind: Kind) -> impl Iterator<Item = &'static str> {
    ALIASES.iter().filter(move |(_, name)| *name == kind.name()).map(|(alias, _)| *alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alias_names_a_type() {
        for (alias, name) in ALIASES {
            assert_eq!(find(alias).map(Kind::name), Some(*name), "{alias}");
        }
    }

    #[test]
    fn plurals_and_other_spellings_are_understood() {
        for (word, name) in [
            ("virtual-networks", "virtual-network"),
            ("virtual_network", "virtual-network"),
            ("vns", "virtual-network"),
            ("policies", "network-policy"),
            ("network-policys", "network-policy"),
            ("alias", ""),
            ("virtual-dns", "virtual-DNS"),
            ("VN", "virtual-network"),
        ] {
            assert_eq!(find(word).map_or("", Kind::name), name, "{word}");
        }
    }

    #[test]
    fn a_slip_of_the_pen_gets_a_suggestion() {
        let error = parse("virtual-netwrok").unwrap_err();
        assert!(error.next_step().unwrap().contains("virtual-network"), "{error:?}");
    }
}
