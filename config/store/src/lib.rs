//! The object store contract and the embedded redb store behind it.
