//! Load balancers that read what passes through them: HAProxy, run on nodes of the fabric.
//!
//! The core has no I/O. [`read`] turns configuration objects into a [`Balancer`], [`render`] turns that into the text of a
//! configuration, [`placement`] says which two nodes carry it, [`Core`] keeps all of it up to date and says what a node
//! has to do and to write. The [`shell`] is a node's daemon around it: it reaches the system through the configuration
//! API and the agent's port API, as anybody's script can.
//!
//! Objects of any provider in [`Settings::providers`](core::Settings) are served: those that the Kubernetes manager
//! makes of Ingresses and those of LBaaS. Nothing here knows either.

mod cluster;
pub mod core;
pub mod model;
pub mod placement;
mod quote;
pub mod read;
pub mod render;
pub mod routes;
pub mod shell;

pub use crate::core::{Assignment, Core, Settings, Write};
pub use model::{Backend, Balancer, Frontend, FrontendKind, Member, Monitor, Persistence};
pub use shell::{Certificates, Complaints, Found, LoadbalancerConfig, LoadbalancerError, Pem, run};
