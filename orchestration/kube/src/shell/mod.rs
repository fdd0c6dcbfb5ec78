//! The shell: everything with a socket or a clock.

pub(crate) mod cluster_event;
mod discovery;
mod election;
mod informers;
mod pod_times;
mod publish;
mod report;
mod run;
mod status;
mod tls;
mod watches;

pub use publish::{Publication, publish};
pub(crate) use run::kubernetes;
pub use run::{ManagerError, run};
pub use tls::TlsError;
