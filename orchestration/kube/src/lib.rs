//! The Kubernetes manager: what Kubernetes objects mean in the configuration API.
//!
//! [`core::Core`] has no I/O: it keeps both sides as they are, derives for each owner (a pod, a service, a policy, ...)
//! the configuration objects it should have, and names the writes that are missing. [`run`] is the shell around it:
//! informers, the configuration watch, a writer, leader election, status.
//!
//! It only translates. What the objects do is the business of the compiler and the nodes. [`secrets`] is for those nodes:
//! the one thing of Kubernetes that load balancers need and no configuration object may hold.

pub mod cache;
mod config;
pub mod core;
pub mod derive;
pub mod desired;
pub mod key;
pub mod names;
pub mod objects;
pub mod packed;
pub mod plan;
pub mod secrets;
pub mod settings;
mod shell;
pub mod tellings;
pub mod writer;

pub use config::{Election, Kubernetes, ManagerConfig, StatusTls};
pub use settings::Settings;
pub use shell::{ManagerError, Publication, TlsError, publish, run};
