//! Sessions to the vRouter agents: compiler and routing tables behind gRPC.
//!
//! [`Core`] is the controller without I/O; [`Controller`] puts the watch, the gRPC services and the
//! clock around it.

mod configuration;
mod core;
mod find;
mod message;
mod node;
mod pki;
mod ports;
mod run;
mod service;
mod staged;
mod status;

pub use core::{Core, END_OF_RIB_LIMIT, RESTART_TIME};
pub use node::{Node, SessionId};
pub use pki::{Authority, PkiError, SERVER_NAME};
pub use run::{Controller, ControllerConfig, ControllerError};
