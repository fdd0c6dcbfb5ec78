//! The core by itself: by random events (`properties`), and by example.

mod ages;
mod announcers;
mod controllers;
mod dns;
mod events;
mod kernel;
mod members;
mod pools;
mod properties;
mod sub_interfaces;
mod wire;

use super::core::{Core, DnsPorts};
use super::numbers::Numbers;
use events::{Event, feed};
use kernel::Kernel;

/// The node's own address in the underlay.
const OWN: &str = "172.31.0.1";
const DNS: DnsPorts = DnsPorts { named: 8080, first: 16_000 };

fn core() -> Core {
    Core::new(2, Some(OWN.parse().unwrap()), Numbers::default(), 1000).named("here").with_dns(DNS)
}
