//! One zone: names, what they have, and what is computed.

use crate::key::{Key, dashed_address, suffixes};
use crate::record::Parsed;
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::net::IpAddr;

/// The version of the specification that a cluster's zone follows, told by `dns-version`.
const KUBERNETES_VERSION: &str = "1.1.0";
/// Seconds of the SOA that only transfers use.
const REFRESH: i32 = 7200;
const RETRY: i32 = 1800;
const EXPIRE: i32 = 86_400;

/// In which order the records of one name and type are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were made.
    Fixed,
    /// By chance.
    #[default]
    Random,
    /// Each query begins one later.
    RoundRobin,
}

/// Who is asked for names that are not the zone's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// The node's upstreams.
    #[default]
    Upstream,
    /// Another zone, by its id.
    Zone(String),
    /// A server.
    Server(IpAddr),
}

/// A zone without its records: a virtual-DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneSpec {
    /// Names the zone among all of the node's.
    pub id: String,
    /// Its domain, `cluster.local`.
    pub domain: String,
    /// Order of records.
    pub order: Order,
    /// Seconds, for records that have none.
    pub default_ttl: u32,
    /// Seconds for which "there is none" may be remembered.
    pub negative_ttl: u32,
    /// Who is asked for other names.
    pub next: Next,
    /// Addresses of its records lead back to their names.
    pub reverse: bool,
    /// It is a Kubernetes cluster's: `1-2-3-4.ns.pod` and `dns-version` are answered without records.
    pub cluster: bool,
}

/// A record at a name, and the set it came with.
#[derive(Clone, Debug)]
struct Held {
    ttl: u32,
    data: RData,
    set: u32,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    records: Vec<Held>,
    /// Names with records below this one: it exists though it has none itself.
    below: usize,
}

/// A zone with its records.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    pub(crate) spec: ZoneSpec,
    pub(crate) name: Name,
    apex: Key,
    serial: u32,
    names: HashMap<Key, Entry>,
    reverse: HashMap<IpAddr, Vec<(Name, u32, u32)>>,
}

/// What a zone says of a name of its own.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// Records of the type, with their owner's name as it was asked for.
    Records(Vec<Record>),
    /// The name is another's alias.
    Alias(Box<(Record, Name)>),
    /// It has none of the type.
    NoData,
    /// It does not exist.
    NoName,
}

impl Zone {
    pub(crate) fn new(spec: ZoneSpec, serial: u32) -> Result<Zone, String> {
        let mut name = Name::from_ascii(&spec.domain)
            .map_err(|error| format!("{:?} is no domain: {error}", spec.domain))?
            .to_lowercase();
        name.set_fqdn(true);
        if name.is_root() {
            return Err("the root is nobody's zone; give it a domain".into());
        }
        let apex = Key::of(&name);
        Ok(Zone { spec, name, apex, serial, names: HashMap::new(), reverse: HashMap::new() })
    }

    pub(crate) fn contains(&self, name: &Key) -> bool {
        name.below(self.apex.bytes()).is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.names.values().map(|entry| entry.records.len()).sum()
    }

    /// Adds the record of a set. One outside the zone is refused: it would be answered for somebody else's domain.
    pub(crate) fn insert(
        &mut self,
        record: Parsed,
        ttl: Option<u32>,
        set: u32,
    ) -> Result<(), String> {
        let ttl = ttl.unwrap_or(self.spec.default_ttl);
        self.serial = self.serial.wrapping_add(1);
        match record {
            Parsed::Reverse { address, target } => self.lead_back(address, target, ttl, set),
            Parsed::Forward { name, data, reverse } => {
                let key = Key::of(&name);
                if !self.contains(&key) {
                    return Err(format!("{name} is not in {}", self.name));
                }
                if let Some(address) = reverse.filter(|_| self.spec.reverse) {
                    self.lead_back(address, name, ttl, set);
                }
                let entry = self.names.entry(key.clone()).or_default();
                entry.records.push(Held { ttl, data, set });
                if entry.records.len() == 1 {
                    self.count(&key, 1);
                }
            }
        }
        Ok(())
    }

    fn lead_back(&mut self, address: IpAddr, target: Name, ttl: u32, set: u32) {
        self.reverse.entry(address).or_default().push((target, ttl, set));
    }

    /// Takes out what a set added as `record`.
    pub(crate) fn remove(&mut self, record: &Parsed, set: u32) {
        self.serial = self.serial.wrapping_add(1);
        let back = match record {
            Parsed::Reverse { address, .. } => Some(*address),
            Parsed::Forward { name, reverse, .. } => {
                let key = Key::of(name);
                if let Some(entry) = self.names.get_mut(&key)
                    && !entry.records.is_empty()
                {
                    entry.records.retain(|held| held.set != set);
                    if entry.records.is_empty() {
                        if entry.below == 0 {
                            self.names.remove(&key);
                        }
                        self.count(&key, -1);
                    }
                }
                *reverse
            }
        };
        if let Some(address) = back
            && let Some(names) = self.reverse.get_mut(&address)
        {
            names.retain(|(_, _, of)| *of != set);
            if names.is_empty() {
                self.reverse.remove(&address);
            }
        }
    }

    /// Tells the names above one, up to the apex, that it came or went.
    fn count(&mut self, key: &Key, by: isize) {
        let apex = self.apex.bytes().len();
        let above: Vec<&[u8]> =
            suffixes(key.bytes()).skip(1).take_while(|suffix| suffix.len() > apex).collect();
        for suffix in above {
            let known = self.names.get_mut(suffix);
            let entry = match known {
                Some(entry) => entry,
                None => self.names.entry(Key::from(suffix)).or_default(),
            };
            entry.below = entry.below.saturating_add_signed(by);
            if entry.below == 0 && entry.records.is_empty() {
                self.names.remove(suffix);
            }
        }
    }

    /// What the zone has of a name in it. `turn` differs from query to query.
    pub(crate) fn find(&self, asked: &Name, key: &Key, kind: RecordType, turn: u64) -> Found {
        if key.bytes() == self.apex.bytes() && matches!(kind, RecordType::SOA | RecordType::ANY) {
            return Found::Records(vec![self.soa(asked)]);
        }
        if let Some(computed) = self.computed(asked, key, kind) {
            return computed;
        }
        let Some(entry) = self.names.get(key) else {
            // The domain exists, whatever is in it, and so do the parts of a cluster's.
            let exists = key.bytes() == self.apex.bytes() || self.is_pod_domain(key);
            return if exists { Found::NoData } else { Found::NoName };
        };
        let record = |held: &Held| Record::from_rdata(asked.clone(), held.ttl, held.data.clone());
        let mut records: Vec<Record> = Vec::new();
        for held in &entry.records {
            let own = held.data.record_type();
            if let RData::CNAME(target) = &held.data
                && !matches!(kind, RecordType::CNAME | RecordType::ANY)
            {
                return Found::Alias(Box::new((record(held), target.0.clone())));
            }
            // Two sets may say the same thing; it is told once.
            if (own == kind || kind == RecordType::ANY)
                && !records.iter().any(|known| known.data == held.data)
            {
                records.push(record(held));
            }
        }
        if records.is_empty() {
            return Found::NoData;
        }
        let length = u64::try_from(records.len()).unwrap_or(1);
        let by = match self.spec.order {
            Order::Fixed => 0,
            Order::RoundRobin => turn % length,
            Order::Random => mix(turn) % length,
        };
        records.rotate_left(usize::try_from(by).unwrap_or(0));
        if self.spec.order == Order::Random {
            shuffle(&mut records, mix(turn ^ 0x9e37_79b9));
        }
        Found::Records(records)
    }

    /// Names that lead back from an address.
    pub(crate) fn names_of(&self, asked: &Name, address: IpAddr) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        for (target, ttl, _) in self.reverse.get(&address).into_iter().flatten() {
            let data = RData::PTR(PTR(target.clone()));
            if !records.iter().any(|known| known.data == data) {
                records.push(Record::from_rdata(asked.clone(), *ttl, data));
            }
        }
        records
    }

    /// Names of a cluster that no record stands for: a pod's is its address.
    fn computed(&self, asked: &Name, key: &Key, kind: RecordType) -> Option<Found> {
        if !self.spec.cluster {
            return None;
        }
        let below = Key::from(key.below(self.apex.bytes())?);
        let labels: Vec<&[u8]> = below.labels().collect();
        let one = |data: RData| {
            let own = data.record_type();
            let fits = own == kind || kind == RecordType::ANY;
            let record = Record::from_rdata(asked.clone(), self.spec.default_ttl, data);
            Some(if fits { Found::Records(vec![record]) } else { Found::NoData })
        };
        match labels.as_slice() {
            [b"dns-version"] => one(RData::TXT(TXT::new(vec![KUBERNETES_VERSION.to_owned()]))),
            [address, _, b"pod"] => match dashed_address(address)? {
                IpAddr::V4(v4) => one(RData::A(A(v4))),
                IpAddr::V6(v6) => one(RData::AAAA(AAAA(v6))),
            },
            _ => None,
        }
    }

    /// `pod` and `<namespace>.pod` have something below them.
    fn is_pod_domain(&self, key: &Key) -> bool {
        if !self.spec.cluster {
            return false;
        }
        let Some(below) = key.below(self.apex.bytes()) else { return false };
        let below = Key::from(below);
        let labels: Vec<&[u8]> = below.labels().collect();
        matches!(labels.as_slice(), [b"pod"] | [_, b"pod"])
    }

    /// The start of authority, which also says how long "there is none" may be remembered (RFC 2308).
    pub(crate) fn soa(&self, owner: &Name) -> Record {
        let named = |prefix: &str| {
            let name = Name::from_ascii(prefix).and_then(|name| name.append_domain(&self.name));
            name.unwrap_or_else(|_| self.name.clone())
        };
        let soa = SOA::new(
            named("ns.dns"),
            named("hostmaster"),
            self.serial,
            REFRESH,
            RETRY,
            EXPIRE,
            self.spec.negative_ttl,
        );
        Record::from_rdata(owner.clone(), self.spec.negative_ttl, RData::SOA(soa))
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Key {
        Key::from_wire(bytes)
    }
}

/// Spreads neighbouring numbers (SplitMix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn shuffle<T>(list: &mut [T], mut seed: u64) {
    for last in (1..list.len()).rev() {
        seed = mix(seed);
        let other = seed % (u64::try_from(last).unwrap_or(u64::MAX).saturating_add(1));
        list.swap(last, usize::try_from(other).unwrap_or(last));
    }
}
