//! The handle on a node's datapath: opening, hooks, and running a packet through the programs without a wire.

use crate::abi::types;
use crate::load::{self, Maps};
use crate::table::Table;
use crate::{Config, Error, PolicyId, Result};
use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHook, TcHookBuilder};
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// One node's datapath. See the crate's documentation for the order of calls.
pub struct Datapath {
    pub(crate) vifs: Table<u32, types::vif>,
    pub(crate) vlans: Table<types::vlan_key, u32>,
    pub(crate) vif_states: Table<u32, types::vif_state>,
    pub(crate) vif_stats: Table<u32, types::vif_counters>,
    pub(crate) vif_drops: Table<types::vif_drop_key, u64>,
    pub(crate) drops: Table<u32, u64>,
    pub(crate) generations: Table<u32, u32>,
    pub(crate) host_routes: Table<types::host_key, types::route>,
    pub(crate) prefix_routes: Table<types::prefix_key, types::route>,
    pub(crate) next_hops: Table<u32, types::next_hop>,
    pub(crate) labels: Table<u32, types::label>,
    pub(crate) contexts: Table<u32, types::context>,
    pub(crate) port_mappings: Table<types::port_mapping_key, u32>,
    pub(crate) services: Table<types::service_key, types::service>,
    pub(crate) members: Table<types::member_slot, types::member>,
    pub(crate) member_set: Table<types::member_key, u32>,
    pub(crate) service_sources: Table<types::service_source_key, u32>,
    pub(crate) node: Table<u32, types::node>,
    pub(crate) node_addresses: Table<types::address_key, u32>,
    pub(crate) peers: Table<types::address_key, u32>,
    pub(crate) tunnel_addresses: Table<types::address_key, u32>,
    pub(crate) policies: Table<types::policy_key, types::policy_value>,
    pub(crate) policy_sources: Table<types::source_key, types::policy_value>,
    pub(crate) flows: Table<types::flow_key, types::flow>,
    pub(crate) keeps_ended: Table<u32, u32>,
    pub(crate) ages: Table<types::age_key, u64>,
    /// How many entries it has.
    pub(crate) listed_ages: u32,
    pub(crate) events: crate::event::Ring,
    pub(crate) bench_state: Table<u32, types::bench>,
    /// Keys of every loaded policy, so that unloading does not search.
    pub(crate) loaded_policies: HashMap<PolicyId, crate::policy::LoadedKeys>,
    pub(crate) last_peer: u32,
    pub(crate) last_service: u32,
    /// Members of every service by the bytes of their keys, so that changing a service does not search.
    pub(crate) service_members:
        HashMap<u32, std::collections::BTreeMap<Vec<u8>, types::member_key>>,
    /// Next hops taken away since the programs were last waited for: one may still be reading them.
    pub(crate) retired: HashSet<crate::NextHopId>,
    from_workload: OwnedFd,
    from_fabric: OwnedFd,
    from_loopback: OwnedFd,
    pub(crate) sweep: OwnedFd,
    bench: Option<OwnedFd>,
}

/// A program, for [`Datapath::run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What packets from workloads meet.
    Workload,
    /// What packets from the underlay meet.
    Fabric,
    /// What the node's own stack sends to its own addresses meets.
    Loopback,
    /// [`Hook::Workload`] behind a counter that makes every packet a new flow; needs [`Config::with_bench`].
    Bench,
}

/// Our filters are found again, and replaced in place, by these numbers.
const FILTER_HANDLE: u32 = 0x5e1;
const FILTER_PRIORITY: u32 = 0x5e1;

impl Datapath {
    /// Opens the node's datapath: takes over what an earlier process pinned, makes what is missing, loads this program's
    /// version of the eBPF programs. Interfaces keep running the old programs until they are attached again.
    ///
    /// # Errors
    /// [`Error::AbiVersion`] or [`Error::PinnedTable`] if the pinned tables are of another layout;
    /// [`Error::PinDirectory`]; [`Error::Kernel`] without rights or on too old a kernel.
    pub fn open(config: &Config) -> Result<Self> {
        let load::Loaded { maps, from_workload, from_fabric, from_loopback, sweep, bench } =
            load::load(config)?;
        let Maps {
            meta: _,
            vifs,
            vlans,
            vif_states,
            vif_stats,
            vif_drops,
            drops,
            generations,
            host_routes,
            prefix_routes,
            next_hops,
            labels,
            contexts,
            port_mappings,
            services,
            members,
            member_set,
            service_sources,
            node,
            node_addresses,
            // As the fragments below.
            affinities: _affinities,
            peers,
            tunnel_addresses,
            policies,
            policy_sources,
            flows,
            keeps_ended,
            ages,
            // Nobody but the programs reads it; the pin keeps it.
            fragments: _fragments,
            events,
            bench: bench_state,
        } = maps;
        let mut datapath = Self {
            vifs: Table::new(vifs, "vifs"),
            vlans: Table::new(vlans, "vlans"),
            vif_states: Table::new(vif_states, "vif_states"),
            vif_stats: Table::new(vif_stats, "vif_stats"),
            vif_drops: Table::new(vif_drops, "vif_drops"),
            drops: Table::new(drops, "drops"),
            generations: Table::new(generations, "generations"),
            host_routes: Table::new(host_routes, "host_routes"),
            prefix_routes: Table::new(prefix_routes, "prefix_routes"),
            next_hops: Table::new(next_hops, "next_hops"),
            labels: Table::new(labels, "labels"),
            contexts: Table::new(contexts, "contexts"),
            port_mappings: Table::new(port_mappings, "port_mappings"),
            services: Table::new(services, "services"),
            members: Table::new(members, "members"),
            member_set: Table::new(member_set, "member_set"),
            service_sources: Table::new(service_sources, "service_sources"),
            node: Table::new(node, "node"),
            node_addresses: Table::new(node_addresses, "node_addresses"),
            peers: Table::new(peers, "peers"),
            tunnel_addresses: Table::new(tunnel_addresses, "tunnel_addresses"),
            policies: Table::new(policies, "policies"),
            policy_sources: Table::new(policy_sources, "policy_sources"),
            flows: Table::new(flows, "flows"),
            keeps_ended: Table::new(keeps_ended, "keeps_ended"),
            ages: Table::new(ages, "ages"),
            listed_ages: 0,
            events: crate::event::Ring::open(&events)?,
            bench_state: Table::new(bench_state, "bench"),
            loaded_policies: HashMap::new(),
            last_peer: 0,
            last_service: 0,
            service_members: HashMap::new(),
            retired: HashSet::new(),
            from_workload,
            from_fabric,
            from_loopback,
            sweep,
            bench,
        };
        datapath.listed_ages = datapath.ages.keys().count() as u32;
        datapath.find_policies();
        datapath.find_peers()?;
        datapath.find_services()?;
        Ok(datapath)
    }

    /// Removes the pins of a node. Filters that are still attached keep the tables, and forward, until they are
    /// detached; a later [`Datapath::open`] starts with empty tables.
    ///
    /// # Errors
    /// [`Error::PinDirectory`] if the directory exists and cannot be removed.
    pub fn purge(pin_dir: &Path) -> Result<()> {
        match std::fs::remove_dir_all(pin_dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::PinDirectory { path: pin_dir.into(), source })
            }
            _ => Ok(()),
        }
    }

    fn hook(program: BorrowedFd<'_>, ifindex: u32, side: TcAttachPoint) -> TcHook {
        TcHookBuilder::new(program)
            .ifindex(ifindex as i32)
            .replace(true)
            .handle(FILTER_HANDLE)
            .priority(FILTER_PRIORITY)
            .hook(side)
    }

    fn attach(program: BorrowedFd<'_>, ifindex: u32, side: TcAttachPoint) -> Result<()> {
        let mut hook = Self::hook(program, ifindex, side);
        hook.create()
            .and_then(|mut hook| hook.attach())
            .map(drop)
            .map_err(|source| Error::Interface { ifindex, source })
    }

    /// Puts the workload program on an interface's host end, in the caller's network namespace; a program that is there
    /// already is replaced without a packet in between meeting none.
    ///
    /// # Errors
    /// [`Error::Interface`] if it does not exist or takes no filter.
    pub fn attach_workload(&self, ifindex: u32) -> Result<()> {
        Self::attach(self.from_workload.as_fd(), ifindex, TC_INGRESS)
    }

    /// The same for an uplink.
    ///
    /// # Errors
    /// [`Error::Interface`].
    pub fn attach_uplink(&self, ifindex: u32) -> Result<()> {
        Self::attach(self.from_fabric.as_fd(), ifindex, TC_INGRESS)
    }

    /// Puts the program for what the node's own stack sends to its own addresses on the namespace's `lo`. Its packets go to
    /// services of [`crate::INSIDE`] by way of the host's interface ([`crate::NodeAddress::host`]).
    ///
    /// # Errors
    /// [`Error::Interface`].
    pub fn attach_loopback(&self, ifindex: u32) -> Result<()> {
        Self::attach(self.from_loopback.as_fd(), ifindex, TC_EGRESS)
    }

    /// Takes our program off an interface; no error if the program or the interface is not there.
    ///
    /// # Errors
    /// [`Error::Interface`].
    pub fn detach(&self, ifindex: u32) -> Result<()> {
        match Self::hook(self.from_workload.as_fd(), ifindex, TC_INGRESS).detach() {
            Ok(()) => Ok(()),
            // ENOENT: no filter; EINVAL: no clsact; ENODEV: no interface.
            Err(e)
                if matches!(
                    e.kind(),
                    libbpf_rs::ErrorKind::NotFound | libbpf_rs::ErrorKind::InvalidInput
                ) =>
            {
                Ok(())
            }
            Err(e) if e.to_string().contains("No such device") => Ok(()),
            Err(source) => Err(Error::Interface { ifindex, source }),
        }
    }

    pub(crate) fn program(&self, hook: Hook) -> Result<BorrowedFd<'_>> {
        match hook {
            Hook::Workload => Ok(self.from_workload.as_fd()),
            Hook::Fabric => Ok(self.from_fabric.as_fd()),
            Hook::Loopback => Ok(self.from_loopback.as_fd()),
            Hook::Bench => self.bench.as_ref().map(AsFd::as_fd).ok_or_else(|| Error::Argument {
                field: "hook",
                reason: "the measuring program is not loaded; set Config::with_bench".into(),
            }),
        }
    }
}
