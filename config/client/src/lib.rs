//! Client of the configuration API: typed create, read, update, delete and list, and a [`Watcher`] that keeps a
//! copy of the configuration current over reconnects.
//!
//! Everything but the API itself reaches configuration through this crate, so whatever Skein's own parts do, a
//! user's script can do too.
//!
//! ```no_run
//! # async fn example() -> Result<(), skein_client::ClientError> {
//! use skein_model::Kind;
//! let client = skein_client::Client::new("http://127.0.0.1:8082")?;
//! let network = client
//!     .create(Kind::VIRTUAL_NETWORK, serde_json::json!({
//!         "fq_name": ["default-domain", "default-project", "blue"],
//!         "network_ipam_refs": [{
//!             "to": ["default-domain", "default-project", "default-network-ipam"],
//!             "attr": {"ipam_subnets": [{"subnet": {"ip_prefix": "10.0.0.0", "ip_prefix_len": 24}}]},
//!         }],
//!     }))
//!     .await?;
//! let network = client.get(Kind::VIRTUAL_NETWORK, network).await?;
//! # drop(network);
//! # Ok(()) }
//! ```

mod client;
mod decode;
mod error;
mod events;
mod init;
mod repeat;
mod replicas;
mod send;
mod tls;
mod watcher;

pub use client::{Client, ListOptions, ReferenceChange};
pub use decode::{decode, encode};
pub use error::ClientError;
pub use tls::{Connector, Tls, explain as explain_tls};
pub use watcher::{Event, Watcher};
