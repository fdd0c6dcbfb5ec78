//! VPN routes, route targets and VRF tables: the routing heart of the controller.
//!
//! A route of a workload is a VPN route from the start: route distinguisher, route targets, label
//! and tunnel types, in the shape BGP/MPLS IP VPNs (RFC 4364) exchange. [`Rib`] holds every path
//! once and works out which VRFs import it. No sockets and no clocks.

mod path;
mod rib;
mod route_distinguisher;
mod route_target;
mod tunnel;

pub use path::{DEFAULT_LOCAL_PREFERENCE, Path, PathKey, STALE_LOCAL_PREFERENCE, Source};
pub use rib::Rib;
pub use route_distinguisher::RouteDistinguisher;
pub use route_target::{BadRouteTarget, RouteTarget};
pub use tunnel::TunnelType;
