//! What a node's datapath is opened with.

use std::path::PathBuf;

/// Where the state lives and how large the tables are. Sizes of a table that is already pinned stay as they are until
/// the pins are removed ([`crate::Datapath::purge`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A directory on a bpffs, one per node, for example `/sys/fs/bpf/skein/<node>`. Made if missing.
    pub pin_dir: PathBuf,
    /// Connections the node can hold; 264 bytes of kernel memory each, taken at once.
    pub flow_table_size: u32,
    /// Routes of full length (/32, /128) over all VRFs.
    pub host_route_table_size: u32,
    /// Shorter routes over all VRFs, and prefixes of policies.
    pub prefix_route_table_size: u32,
    /// Next hops; ids run from 1 to this number minus 1. 160 bytes each, taken at once.
    pub next_hop_table_size: u32,
    /// Policy entries of all loaded policies.
    pub policy_table_size: u32,
    /// Workload interfaces.
    pub vif_table_size: u32,
    /// Further VRFs of the workloads: floating IPs and memberships in services.
    pub context_table_size: u32,
    /// Services over all VRFs.
    pub service_table_size: u32,
    /// Members over all services.
    pub member_table_size: u32,
    /// Pairs of a service with affinity and a client of this node; the oldest gives way.
    pub affinity_table_size: u32,
    /// Fragmented packets followed at a time; the oldest gives way.
    pub fragment_table_size: u32,
    /// Bytes of the event ring; a power of two and a multiple of the page size.
    pub event_ring_bytes: u32,
    /// Load the measuring program too ([`crate::Hook::Bench`]).
    pub with_bench: bool,
}

impl Config {
    /// Defaults for a node of ordinary size: 256 Ki flows, 4,096 workloads.
    #[must_use]
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            flow_table_size: 262_144,
            host_route_table_size: 262_144,
            prefix_route_table_size: 131_072,
            next_hop_table_size: 16_384,
            policy_table_size: 524_288,
            vif_table_size: 4_096,
            context_table_size: 16_384,
            service_table_size: 32_768,
            member_table_size: 262_144,
            affinity_table_size: 16_384,
            fragment_table_size: 8_192,
            event_ring_bytes: 262_144,
            with_bench: false,
        }
    }
}
