//! Sessions to the vRouter agents: compiler and routing tables behind gRPC.
//!
//! [`Core`] is the controller without I/O; [`Controller`] puts the watch, the gRPC services and the
//! clock around it.

mod certificates;
mod configuration;
mod core;
mod dns;
mod explain;
mod find;
mod inquiry;
mod message;
mod node;
mod pki;
mod ports;
mod run;
mod service;
mod staged;
mod status;

pub use certificates::{CLIENT_ORGANIZATION, Issued};
pub use core::{Core, END_OF_RIB_LIMIT, RESTART_TIME, STALE_TIME};
pub use node::{Node, SessionId};
pub use pki::{Authority, PkiError, SERVER_NAME, SharedAuthority};
pub use run::{Controller, ControllerConfig, ControllerError, Silence};
