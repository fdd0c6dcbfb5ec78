//! A node's daemon: reads the configuration, has HAProxy run in network namespaces of their own, writes about itself.
//!
//! HAProxy is no child of this process and goes on when it ends, is killed or replaced: what runs is found again by the
//! files in [`LoadbalancerConfig::run_dir`] and taken over.

mod certificates;
mod commands;
mod config;
mod files;
mod namespace;
mod proxy;
mod run;
mod statistics;
mod status;
mod worker;

pub use certificates::{Certificates, Complaints, Found, Pem};
pub use config::LoadbalancerConfig;
pub use run::{LoadbalancerError, run};
