//! The agent's core: what controllers and ports say in, what the kernel shall do out. No I/O.
//!
//! ```text
//! controllers -> view (one each) -> merged -\
//!                                            compile -> Tables (wanted) -> diff -> Operations
//! ports (local) ----------------------------/
//! ```
//!
//! A change marks what it touches as dirty, and only dirty parts are compiled again. A property test
//! holds that any sequence of events ends in the tables a full compile gives.

mod compile;
mod core;
mod diff;
mod merge;
mod numbers;
mod port_pools;
mod spec;
pub(crate) mod staged;
mod tables;
#[cfg(test)]
mod tests;
mod trace;
mod view;

pub use self::core::{
    Core, DnsChanges, DnsPorts, DnsView, HealthCheck, LocalPort, PortProblem, Waiting,
};
pub use diff::Operation;
pub use numbers::Numbers;
pub use port_pools::PortPools;
pub use spec::{ContextSpec, InterfaceSpec, MemberSpec, PathSpec, ServiceSpec};
pub use staged::{Cause, Connection, Sample, Staged};
pub use tables::{
    ContextEntry, Encapsulation, FloatingDirection, FloatingEntry, InterfaceEntry, NextHop,
    NodeEntry, PolicyState, RouteEntry, ServiceEntry, ServiceKey, Tables,
};
pub use trace::{Question, Step, Trace};
