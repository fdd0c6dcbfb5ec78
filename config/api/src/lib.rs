//! The VNC REST server: CRUD, references, allocation, watch.
//!
//! Three parts, one inside the other. The planner ([`plan`]) holds every rule and does no I/O. The sequencer runs
//! it on one thread, commits what it planned in groups, and publishes the durable result. The HTTP shell parses and
//! checks requests in parallel, hands writes to the sequencer, and reads the published state directly.
//!
//! Several servers on one etcd are replicas: one writes, the others follow and hand writes on to it
//! ([`Server::start_replica`]).
//!
//! So a write is validated against the newest state, answered only when durable, and visible to every read that
//! starts after its answer. See `docs/adr/` for why, and `skein-client` for the other end.

pub mod alloc;
mod error;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod http;
mod metrics;
pub mod plan;
mod present;
mod published;
mod replica;
mod sequencer;
mod server;
mod tls;

pub use error::{ApiError, ApiResult};
pub use http::{Authenticate, NoAuth};
pub use replica::{Cluster, PeerFiles};
pub use sequencer::StartError;
pub use server::{Clients, Config, Https, Server, ServerError, TlsFiles};
