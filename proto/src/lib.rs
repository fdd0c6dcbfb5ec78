//! gRPC contracts between controllers and agents, one module a conversation.
//!
//! The `.proto` files beside this crate are the documentation of every field.

#![allow(missing_docs, reason = "generated; the contracts say it")]

/// A vRouter agent and one controller: intent down, local routes up.
pub mod session {
    tonic::include_proto!("skein.session.v1");
}

/// An agent asks for the configuration objects of a workload.
pub mod ports {
    tonic::include_proto!("skein.ports.v1");
}

/// A machine with the join token gets its certificate.
pub mod enroll {
    tonic::include_proto!("skein.enroll.v1");
}
