//! The node agent: interfaces, routes, policy and the port API.
#![allow(dead_code, unused_imports)]
mod state;
