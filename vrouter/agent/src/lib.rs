//! The node agent: interfaces, routes, policy and the port API.
mod state;
