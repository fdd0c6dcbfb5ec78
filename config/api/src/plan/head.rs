//! The newest state: objects, allocators, the clients' key-value pairs.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::RangeInclusive,
    sync::Arc,
};

use skein_model::{Change, Graph, Kind, Object};
use skein_store::{State, Transaction};
use tracing::warn;
use uuid::Uuid;

use super::{names::is_flat, rules};
use crate::alloc::{NumberPool, SubnetPool};

/// One subnet of a network, or of a flat IPAM.
#[derive(Debug, Clone)]
pub struct Subnet {
    /// `subnet_uuid` as clients see it.
    pub uuid: String,
    /// The IPAM of the link it stands on.
    pub ipam: Uuid,
    /// Its addresses.
    pub pool: SubnetPool,
}

/// The subnets that belong to one owner: a virtual network, or a flat IPAM. They never overlap.
#[derive(Debug, Clone, Default)]
pub struct Space {
    /// In the order of the links and their lists.
    pub subnets: Vec<Subnet>,
}

/// Newest state, owned by the planning thread.
#[derive(Debug, Default)]
pub struct Head {
    /// All objects.
    pub graph: Graph,
    /// Addresses by owner of the space.
    pub spaces: HashMap<Uuid, Space>,
    /// Numbers by name of the space.
    pub numbers: HashMap<String, NumberPool>,
    /// The clients' key-value pairs.
    pub kv: BTreeMap<String, String>,
    /// Revision of the last planned write.
    pub revision: u64,
}

/// From where a number space allocates; see spec section 14.
pub(super) fn number_range(space: &str) -> RangeInclusive<u64> {
    match space {
        "virtual-network" => 1..=0xff_ffff,
        "security-group" => 8_000_001..=u64::from(u32::MAX),
        "route-target" => 8_000_000..=16_777_216,
        "route-target-4byte" => 8_000..=32_768,
        "tag-type" => 255..=0x7fff,
        // Values of one tag type; the upper half is for callers that choose.
        _ => 0..=0x7fff,
    }
}

impl Head {
    /// Builds the state from what was stored.
    #[must_use]
    pub fn load(state: &State) -> Self {
        let mut head = Self { revision: state.revision, ..Self::default() };
        for object in &state.objects {
            head.graph.apply(&Change::Put(Arc::clone(object)));
        }
        let networks: Vec<Arc<Object>> = head
            .graph
            .of_kind(Kind::VIRTUAL_NETWORK)
            .chain(head.graph.of_kind(Kind::NETWORK_IPAM).filter(|ipam| is_flat(ipam)))
            .cloned()
            .collect();
        for owner in networks {
            match rules::subnets::space_of(&owner, &head.graph) {
                Ok(space) => {
                    head.spaces.insert(owner.uuid, space);
                }
                Err(error) => {
                    warn!(%error, network = %owner.fq_name, "stored subnets are not usable");
                }
            }
        }
        for claim in &state.claims {
            let mut parts = claim.key.splitn(3, '/');
            match (parts.next(), parts.next(), parts.next()) {
                (Some("ip"), Some(space), Some(address)) => {
                    let place = space.parse::<Uuid>().ok().zip(address.parse::<IpAddr>().ok());
                    if let Some((space, address)) = place
                        && let Some(subnet) = head
                            .spaces
                            .get_mut(&space)
                            .and_then(|s| s.subnets.iter_mut().find(|s| s.pool.contains(address)))
                    {
                        subnet.pool.restore(address, claim.owner);
                    } else {
                        warn!(key = %claim.key, "a stored address belongs to no subnet");
                    }
                }
                (Some("id"), Some(_), Some(_)) => {
                    if let Some((space, number)) = claim.key[3..].rsplit_once('/')
                        && let Ok(number) = number.parse()
                    {
                        // A second holder cannot exist: the key is the claim.
                        let _ = head.number_pool(space).take(number, claim.owner);
                    }
                }
                _ => {}
            }
        }
        head.kv = state.kv.iter().cloned().collect();
        head
    }

    /// The allocator of a number space, made on first use.
    pub fn number_pool(&mut self, space: &str) -> &mut NumberPool {
        if !self.numbers.contains_key(space) {
            self.numbers.insert(space.to_owned(), NumberPool::new(number_range(space)));
        }
        self.numbers.entry(space.to_owned()).or_insert_with(|| NumberPool::new(number_range(space)))
    }

    /// Applies the objects of a planned write.
    pub fn apply(&mut self, transaction: &Transaction) {
        for gone in &transaction.deletes {
            self.graph.apply(&Change::Delete(gone.uuid));
        }
        for object in &transaction.puts {
            self.graph.apply(&Change::Put(Arc::clone(object)));
        }
        for (key, value) in &transaction.kv {
            match value {
                Some(value) => self.kv.insert(key.clone(), value.clone()),
                None => self.kv.remove(key),
            };
        }
        self.revision = transaction.revision;
    }

    /// The global autonomous system number.
    #[must_use]
    pub fn autonomous_system(&self) -> u64 {
        self.graph
            .of_kind(Kind::GLOBAL_SYSTEM_CONFIG)
            .find_map(|config| config.properties.get("autonomous_system")?.as_u64())
            .unwrap_or(64_512)
    }
}
