//! Policy meaning: rules, identities, the reference evaluator and the flattened form the kernel reads.
