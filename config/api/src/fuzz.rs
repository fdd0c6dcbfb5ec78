//! What the fuzz target and the replay of its corpus run.
//!
//! The input is lines: a verb and a type or uuid, then a JSON body, as in `POST virtual-network {...}`. They go through the same
//! checks and the same planner as requests do, over one state, without sockets or a store.

use std::sync::OnceLock;

use serde_json::Value;
use skein_model::Kind;

use crate::plan::{Caller, Draft, Head, Intake, Now, Write, apply, bootstrap, parse_uuid};

fn now() -> Now {
    Now("2026-01-01T00:00:00.000000".into())
}

/// Runs the lines one after another. Panics if a refused request changed something.
///
/// # Panics
/// A rule of the planner does not hold.
#[allow(clippy::panic)]
pub fn bodies(data: &[u8]) {
    // Lines are checked against each other, so every input starts from the same state.
    static OBJECTS: OnceLock<skein_store::State> = OnceLock::new();
    let start = OBJECTS.get_or_init(|| {
        let mut head = Head::default();
        let caller = Caller { admin: true, project: None, system: true };
        let now = now();
        let mut draft = Draft::new(&mut head, &now, &caller);
        if let Err(error) = bootstrap(&mut draft) {
            panic!("the bootstrap objects are refused: {error}");
        }
        let mut state = skein_store::State::default();
        if let Some(transaction) = draft.finish() {
            state.revision = transaction.revision;
            state.objects = transaction.puts;
            state.claims = transaction.claims;
        }
        state
    });
    let mut head = Head::load(start);
    let caller = Caller { admin: true, ..Caller::default() };
    let now = now();
    for line in data.split(|b| *b == b'\n').take(64) {
        let mut parts = line.splitn(3, |b| *b == b' ');
        let (Some(verb), Some(what)) = (parts.next(), parts.next()) else { continue };
        let what = String::from_utf8_lossy(what);
        let Ok(body) = serde_json::from_slice::<Value>(parts.next().unwrap_or(b"null")) else { continue };
        let Some(write) = write_of(verb, &what, body) else { continue };
        let before = (head.revision, head.graph.len(), taken(&head));
        let mut draft = Draft::new(&mut head, &now, &caller);
        if apply(&mut draft, write).is_ok() {
            draft.finish();
        } else {
            drop(draft);
            let after = (head.revision, head.graph.len(), taken(&head));
            assert_eq!(before, after, "a refused request left something behind");
        }
    }
}

/// How many numbers and addresses are held.
fn taken(head: &Head) -> (usize, usize) {
    let numbers = head.numbers.values().map(crate::alloc::NumberPool::len).sum();
    let addresses = head.spaces.values().flat_map(|s| &s.subnets).map(|s| s.pool.taken().count()).sum();
    (numbers, addresses)
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
        _ => None,
    }
}
