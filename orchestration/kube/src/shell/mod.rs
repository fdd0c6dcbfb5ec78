//! The shell: everything with a socket or a clock.

mod discovery;
mod election;
mod informers;
mod report;
mod run;
mod status;

pub(crate) use run::kubernetes;
pub use run::{ManagerError, run};
