//! Sessions to the vRouter agents: compiler and routing tables behind gRPC.

mod core;
mod message;
mod node;
mod pki;
mod service;

pub use core::{Core, END_OF_RIB_LIMIT, RESTART_TIME};
pub use node::{Node, SessionId};
pub use pki::{Authority, PkiError, SERVER_NAME};
