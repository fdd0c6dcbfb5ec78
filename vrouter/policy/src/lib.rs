//! Policy meaning: rules, identities, the reference evaluator and the flattened form the kernel reads.

mod rule;

pub use rule::{Attributes, Direction, Layer, Peer, Policy, Rule};
