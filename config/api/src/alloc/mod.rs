//! Allocators: addresses of a subnet, numbers of a space. Pure data structures without clocks or I/O; who may
//! ask for what is decided by the rules in [`crate::plan`].

mod numbers;
mod subnet;

pub use numbers::NumberPool;
pub use subnet::{Grant, PoolRange, Refusal, SubnetPool, SubnetSpec, address, number};
