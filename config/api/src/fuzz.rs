//! What the fuzz target and the replay of its corpus run.
//!
//! The input is lines: a verb and a type or uuid, then a JSON body, as in `POST virtual-network {...}`. They go through the same
//! checks and the same planner as requests do, over one state, without sockets. A store made of maps takes the
//! transactions and holds them to its contract; at the end, what starts from it must equal what ran.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use serde_json::Value;
use skein_model::{Kind, Object};
use skein_store::{Claim, State, Transaction};
use uuid::Uuid;

use crate::{
    http::bodies,
    plan::{Caller, Draft, Head, Intake, Now, Space, Write, apply, bootstrap, parse_uuid},
};

/// As much of a store as its contract with the planner says.
#[derive(Clone, Default)]
struct Stored {
    revision: u64,
    objects: BTreeMap<(u64, Uuid), Arc<Object>>,
    claims: BTreeMap<String, Uuid>,
    kv: BTreeMap<String, String>,
}

impl Stored {
    fn commit(&mut self, transaction: &Transaction) {
        self.revision += 1;
        assert_eq!(transaction.revision, self.revision, "a revision is left out");
        for gone in &transaction.deletes {
            let row = self.objects.remove(&(gone.created_revision, gone.uuid));
            assert!(row.is_some(), "the deleted {} {} has no row", gone.kind, gone.uuid);
        }
        for object in &transaction.puts {
            let row = (object.created_revision, object.uuid);
            let old = self.objects.insert(row, Arc::clone(object));
            let is_new = object.created_revision == self.revision;
            assert_eq!(old.is_none(), is_new, "{} {}: new or not?", object.kind, object.uuid);
        }
        for key in &transaction.releases {
            assert!(self.claims.remove(key).is_some(), "{key} is released and nobody holds it");
        }
        for Claim { key, owner } in &transaction.claims {
            let holder = self.claims.insert(key.clone(), *owner);
            assert!(holder.is_none_or(|holder| holder == *owner), "{key} has two owners");
        }
        for (key, value) in &transaction.kv {
            match value {
                Some(value) => self.kv.insert(key.clone(), value.clone()),
                None => self.kv.remove(key),
            };
        }
    }

    fn state(&self) -> State {
        let claim = |(key, owner): (&String, &Uuid)| Claim { key: key.clone(), owner: *owner };
        State {
            revision: self.revision,
            objects: self.objects.values().cloned().collect(),
            claims: self.claims.iter().map(claim).collect(),
            kv: self.kv.clone().into_iter().collect(),
            ..State::default()
        }
    }
}

fn now() -> Now {
    Now("2026-01-01T00:00:00.000000".into())
}

/// Runs the lines one after another. Panics if a refused request changed something, if a transaction breaks the store's
/// contract, or if a restart after the last line would find another state.
///
/// # Panics
/// A rule of the planner does not hold.
#[allow(clippy::panic)]
pub fn bodies(data: &[u8]) {
    // Lines are checked against each other, so every input starts from the same state.
    static START: OnceLock<(Stored, State)> = OnceLock::new();
    let (stored, state) = START.get_or_init(|| {
        let (mut head, mut stored) = (Head::default(), Stored::default());
        let caller = Caller { admin: true, project: None, system: true };
        let now = now();
        let mut draft = Draft::new(&mut head, &now, &caller);
        if let Err(error) = bootstrap(&mut draft) {
            panic!("the bootstrap objects are refused: {error}");
        }
        if let Some(transaction) = draft.finish() {
            stored.commit(&transaction);
        }
        let state = stored.state();
        (stored, state)
    });
    let (mut head, mut stored) = (Head::load(state), stored.clone());
    let caller = Caller { admin: true, ..Caller::default() };
    let now = now();
    for line in data.split(|b| *b == b'\n').take(64) {
        let mut parts = line.splitn(3, |b| *b == b' ');
        let (Some(verb), Some(what)) = (parts.next(), parts.next()) else { continue };
        let what = String::from_utf8_lossy(what);
        let Ok(body) = serde_json::from_slice::<Value>(parts.next().unwrap_or(b"null")) else {
            continue;
        };
        let Some(write) = write_of(verb, &what, body) else { continue };
        let before = (head.revision, allocated(&mut head));
        let mut draft = Draft::new(&mut head, &now, &caller);
        if apply(&mut draft, write).is_ok() {
            if let Some(transaction) = draft.finish() {
                stored.commit(&transaction);
            }
        } else {
            drop(draft);
            let after = (head.revision, allocated(&mut head));
            assert_eq!(before, after, "a refused request left something behind");
        }
    }
    whole(&head, &stored);
    same(&mut head, &mut Head::load(&stored.state()));
}

/// Holders of the numbers, and of the addresses of each subnet: an empty pool is as good as none.
type Allocated = (BTreeMap<String, (Vec<(u64, Uuid)>, Option<u64>)>, BTreeMap<Uuid, Vec<String>>);

fn allocated(head: &mut Head) -> Allocated {
    let numbers = head.numbers.iter().filter(|(_, pool)| !pool.is_empty());
    let numbers = numbers.map(|(space, pool)| {
        let owners = pool.owners().collect();
        // What would be handed out next.
        (space.clone(), (owners, pool.clone().allocate(Uuid::nil())))
    });
    let subnets = |space: &Space| {
        let subnets = space.subnets.iter().map(|subnet| {
            let taken: Vec<_> = subnet.pool.taken().collect();
            let used = subnet.pool.used();
            format!("{} {} {:?} {used} {taken:?}", subnet.uuid, subnet.ipam, subnet.pool.spec())
        });
        subnets.collect::<Vec<_>>()
    };
    let spaces = head.spaces.iter().map(|(owner, space)| (*owner, subnets(space)));
    (numbers.collect(), spaces.filter(|(_, subnets)| !subnets.is_empty()).collect())
}

/// Nothing points at what is not there, and every claim has an object behind it.
fn whole(head: &Head, stored: &Stored) {
    for object in head.graph.objects() {
        let parent = object.parent.is_none_or(|(_, parent)| head.graph.get(parent).is_some());
        assert!(parent, "{} {} has lost its parent", object.kind, object.fq_name);
        for reference in object.references.iter().filter(|reference| !reference.relaxed) {
            let there = head.graph.get_kind(reference.kind, reference.uuid).is_some();
            assert!(there, "{} {} refers to nothing", object.kind, object.fq_name);
        }
    }
    for (key, owner) in &stored.claims {
        let there = owner.is_nil() || head.graph.get(*owner).is_some();
        assert!(there, "{key} is held by {owner}, which is not there");
    }
    let names = stored.claims.keys().filter(|key| key.starts_with("name/")).count();
    assert_eq!(names, head.graph.len(), "names and objects");
}

/// What ran and what starts again are one.
fn same(ran: &mut Head, started: &mut Head) {
    assert_eq!(ran.revision, started.revision);
    assert_eq!(ran.kv, started.kv);
    assert_eq!(allocated(ran), allocated(started), "allocations after a restart");
    assert_eq!(ran.graph.len(), started.graph.len());
    for object in ran.graph.objects() {
        let uuid = object.uuid;
        assert_eq!(Some(object), started.graph.get(uuid));
        assert_eq!(Some(object), started.graph.by_name(object.kind, &object.fq_name));
        assert!(ran.graph.children(uuid).eq(started.graph.children(uuid)), "children of {uuid}");
        let back = ran.graph.back_references(uuid).eq(started.graph.back_references(uuid));
        assert!(back, "back references of {uuid}");
    }
}

fn write_of(verb: &[u8], what: &str, body: Value) -> Option<Write> {
    match verb {
        b"POST" => Intake::parse(Kind::parse(what)?, body).ok().map(Write::Create),
        b"PUT" => {
            let kind = Kind::parse(body.as_object()?.keys().next()?)?;
            Some(Write::Update(parse_uuid(what)?, Intake::parse(kind, body).ok()?))
        }
        b"DELETE" => Some(Write::Delete(Kind::parse(body.as_str()?)?, parse_uuid(what)?)),
        b"TAG" => match body {
            Value::Object(fields) => {
                let kind = Kind::parse(fields.get("obj_type")?.as_str()?)?;
                Some(Write::SetTag(kind, parse_uuid(what)?, fields))
            }
            _ => None,
        },
        b"CHMOD" => match body {
            Value::Object(fields) => Some(Write::Permissions(parse_uuid(what)?, fields)),
            _ => None,
        },
        b"REF" => bodies::reference(&body).ok(),
        b"RELAX" => bodies::relax(&body).ok(),
        b"PROP" => bodies::elements(&body).ok(),
        b"KV" => Some(Write::Kv(what.to_owned(), body.as_str().map(str::to_owned))),
        b"ALLOC" => bodies::allocation(parse_uuid(what)?, &body).ok(),
        b"FREE" => bodies::release(parse_uuid(what)?, &body).ok(),
        b"COUNT" => bodies::count(parse_uuid(what)?, &body).ok(),
        _ => None,
    }
}
