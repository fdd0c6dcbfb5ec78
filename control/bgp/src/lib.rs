//! VPN routes, route targets and VRF tables: the routing heart of the controller.
