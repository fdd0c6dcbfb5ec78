//! Policy meaning: rules, identities, the reference evaluator and the flattened form the kernel reads.
//!
//! The path of a policy, top to bottom:
//!
//! 1. [`Policy`]: ordered rules in layers, as the configuration has them.
//! 2. [`evaluate`]: what they mean, one packet at a time, slowly and obviously. This is the definition.
//! 3. [`Identity`]: what of a remote end a policy can ask. [`Identities`] numbers them; a number rides
//!    in every route, so that one route lookup tells who the remote end is. [`overlay`] splits routes
//!    where a CIDR condition begins, so that prefixes are identities too.
//! 4. [`Program`]: a policy specialised to a family and a local address. It flattens into [`Entry`]s: longest
//!    prefix match on (identity, protocol, port prefix) yields the verdict and the rule that gave it.
//!
//! A property test holds 4 equal to 2. Everything here is a pure function of its arguments.

mod evaluate;
mod flat;
mod identity;
mod overlay;
mod ports;
mod program;
mod rule;
mod selection;

pub use evaluate::{Packet, Verdict, evaluate, evaluate_staged};
pub use flat::{Action, Entry, FlatPolicy, SourceEntry};
pub use identity::{Identities, Identity, IdentityNumber};
pub use overlay::{Overlaid, overlay, policy_prefixes};
pub use program::{Addition, Decision, Program, RuleBook, RuleNumber};
pub use rule::{Attributes, Direction, Layer, Peer, Policy, Rule, RuleAction};

/// Address family of a flattened policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a prefix.
    #[must_use]
    pub fn of_prefix(prefix: &ipnet::IpNet) -> Self {
        Self::of(prefix.addr())
    }

    /// 4 or 6, as [`Rule::family`] writes it.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}
