//! The shell: everything with a socket or a clock.

mod discovery;
mod election;
mod informers;
mod publish;
mod report;
mod run;
mod status;

pub use publish::{Publication, publish};
pub(crate) use run::kubernetes;
pub use run::{ManagerError, run};
