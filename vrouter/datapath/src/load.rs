//! Opening: reuse what is pinned, make what is missing, load the programs.

use crate::abi::{ABI_VERSION, OpenVrouterSkel, VrouterSkelBuilder, from_bytes, types};
use crate::{Config, Error, Result};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle, OpenMapMut, PrintLevel};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::{fs, io};

/// File descriptors of what was loaded; libbpf's own objects are given up once these exist.
pub(crate) struct Loaded {
    pub(crate) maps: Maps,
    pub(crate) from_workload: OwnedFd,
    pub(crate) from_fabric: OwnedFd,
    pub(crate) from_loopback: OwnedFd,
    pub(crate) sweep: OwnedFd,
    pub(crate) bench: Option<OwnedFd>,
}

macro_rules! maps {
    ($($name:ident),* $(,)?) => {
        pub(crate) struct Maps {
            $(pub(crate) $name: MapHandle,)*
            pub(crate) bench: MapHandle,
        }

        fn prepare(open: &mut OpenVrouterSkel<'_>, config: &Config) -> Result<()> {
            $(adopt(&mut open.maps.$name, stringify!($name), config)?;)*
            Ok(())
        }

        fn take(skeleton: &crate::abi::LoadedSkeleton<'_>) -> libbpf_rs::Result<Maps> {
            Ok(Maps {
                $($name: MapHandle::try_from(&skeleton.maps.$name)?,)*
                bench: MapHandle::try_from(&skeleton.maps.bench)?,
            })
        }
    };
}

maps! {
    meta, vifs, vlans, vif_states, vif_stats, vif_drops, drops, generations, host_routes, prefix_routes, next_hops, labels,
    contexts, port_mappings, services, members, member_set, affinities, service_sources, node, node_addresses, peers, tunnel_addresses, policies, policy_sources, flows, keeps_ended, ages, fragments, events,
}

/// Size the configuration gives to a table; `None`: the one in maps.h.
fn configured(name: &str, config: &Config) -> Option<u32> {
    Some(match name {
        "vifs" | "vlans" | "vif_states" | "vif_stats" => config.vif_table_size,
        "host_routes" => config.host_route_table_size,
        "prefix_routes" => config.prefix_route_table_size,
        "next_hops" => config.next_hop_table_size,
        "policies" => config.policy_table_size,
        "flows" => config.flow_table_size,
        "contexts" => config.context_table_size,
        "services" => config.service_table_size,
        "members" | "member_set" => config.member_table_size,
        "affinities" => config.affinity_table_size,
        "fragments" => config.fragment_table_size,
        "events" => config.event_ring_bytes,
        _ => return None,
    })
}

/// Sets size and pin of a map before loading; a pinned one is reused by libbpf if it fits.
fn adopt(map: &mut OpenMapMut<'_>, name: &str, config: &Config) -> Result<()> {
    let path = config.pin_dir.join(name);
    let mut size = configured(name, config);
    if path.exists() {
        let pinned = MapHandle::from_pinned_path(&path)
            .map_err(Error::kernel(format!("to open pinned table {name}")))?;
        if (pinned.key_size(), pinned.value_size()) != (map.key_size(), map.value_size()) {
            return Err(Error::PinnedTable {
                pin_dir: config.pin_dir.clone(),
                table: name.to_owned(),
                detail: format!(
                    "key and value have {}+{} bytes, not {}+{}",
                    pinned.key_size(),
                    pinned.value_size(),
                    map.key_size(),
                    map.value_size()
                ),
            });
        }
        if size.is_some_and(|wanted| wanted != pinned.max_entries()) {
            tracing::warn!(
                table = name,
                size = pinned.max_entries(),
                configured = size,
                "the pinned table keeps its size; purge the pins to change it"
            );
        }
        size = Some(pinned.max_entries());
    }
    if let Some(size) = size {
        map.set_max_entries(size).map_err(Error::kernel(format!("size of table {name}")))?;
    }
    map.set_pin_path(&path).map_err(Error::kernel(format!("pin path of table {name}")))
}

/// Refuses tables of another layout before anything touches them.
fn check_version(pin_dir: &Path) -> Result<()> {
    let path = pin_dir.join("meta");
    if !path.exists() {
        return Ok(());
    }
    let found = MapHandle::from_pinned_path(&path)
        .and_then(|map| map.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY))
        .map_err(Error::kernel("to read the pinned layout version"))?
        .and_then(|bytes| from_bytes::<u32>(&bytes))
        .unwrap_or(0);
    // 0: an opener died between making the tables and writing the version; they are empty.
    if found != 0 && found != ABI_VERSION {
        return Err(Error::AbiVersion { pin_dir: pin_dir.into(), found, wanted: ABI_VERSION });
    }
    Ok(())
}

/// BPF_F_ADJ_ROOM_DECAP_L3_* came with Linux 6.3.
fn kernel_has_decap_flags() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(std::result::Result::ok).unwrap_or(0);
    (next(), next()) >= (6, 3)
}

/// How often loading is tried. The verifier gives up with EAGAIN when a signal is pending; libbpf itself tries each program
/// five times, which a busy machine has used up (seen once in a test run beside other loads).
const ATTEMPTS: u32 = 5;

pub(crate) fn load(config: &Config) -> Result<Loaded> {
    for _ in 1..ATTEMPTS {
        match load_once(config) {
            Err(Error::Kernel { what, source })
                if source.kind() == libbpf_rs::ErrorKind::WouldBlock =>
            {
                tracing::info!(what, %source, "the kernel was interrupted, once more");
            }
            outcome => return outcome,
        }
    }
    load_once(config)
}

fn load_once(config: &Config) -> Result<Loaded> {
    // libbpf's own messages: what it cannot do is also in the error it returns.
    libbpf_rs::set_print(Some((PrintLevel::Warn, |_, text| {
        tracing::debug!(target: "libbpf", "{}", text.trim_end());
    })));
    make_pin_dir(&config.pin_dir)
        .map_err(|source| Error::PinDirectory { path: config.pin_dir.clone(), source })?;
    check_version(&config.pin_dir)?;

    let mut room = MaybeUninit::uninit();
    let mut open = VrouterSkelBuilder::default()
        .open(&mut room)
        .map_err(Error::kernel("to open the eBPF object"))?;
    prepare(&mut open, config)?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.cfg.decap_flags = kernel_has_decap_flags().into();
    }
    open.progs.bench_workload.set_autoload(config.with_bench);
    let skeleton = open.load().map_err(Error::kernel("to load the eBPF programs"))?;

    let kept = Error::kernel("to keep the programs");
    let loaded = (|| {
        let keep = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
        Ok::<_, libbpf_rs::Error>(Loaded {
            maps: take(&skeleton)?,
            from_workload: keep(skeleton.progs.from_workload.as_fd())?,
            from_fabric: keep(skeleton.progs.from_fabric.as_fd())?,
            from_loopback: keep(skeleton.progs.from_loopback.as_fd())?,
            sweep: keep(skeleton.progs.sweep_flows.as_fd())?,
            bench: if config.with_bench {
                Some(keep(skeleton.progs.bench_workload.as_fd())?)
            } else {
                None
            },
        })
    })()
    .map_err(kept)?;
    let version = types::meta { version: ABI_VERSION };
    crate::table::Table::new(
        MapHandle::try_from(&loaded.maps.meta).map_err(Error::kernel("to write the version"))?,
        "meta",
    )
    .set(&0_u32, &version)?;
    Ok(loaded)
}

fn make_pin_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let magic = nix::sys::statfs::statfs(path)?.filesystem_type();
    if magic != nix::sys::statfs::BPF_FS_MAGIC {
        return Err(io::Error::other("not on a bpffs"));
    }
    Ok(())
}
