//! From a query to what is to be done about it. No I/O and no clock: what differs from query to query is an argument.

use crate::key::{Key, reverse_address};
use crate::message::{self, Asked, HEADER, Parts, Transport};
use crate::metrics::Outcome;
use crate::zone::{Found, Next, Zone};
use crate::zones::{View, Zones};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::IpAddr;

/// Aliases and zones in a row. More is a circle.
const STEPS: usize = 8;
/// Addresses told beside names that records point to.
const EXTRAS: usize = 16;

/// What is to be done about a query.
#[derive(Debug)]
pub enum Verdict {
    /// This is the reply.
    Reply(Vec<u8>, Outcome),
    /// Somebody else must be asked first.
    Forward(Box<Forward>),
    /// Nothing: it is no query at all, or a reply.
    Drop,
}

/// A question for somebody else, and what is made of the reply.
#[derive(Debug)]
pub struct Forward {
    asked: Asked,
    /// Aliases that lead to the question.
    chain: Vec<Record>,
    /// The name as it is asked for.
    pub(crate) name: Name,
    pub(crate) kind: RecordType,
    /// The server; none: the node's upstreams.
    pub(crate) server: Option<IpAddr>,
    /// What is sent, under another id.
    pub(crate) message: Vec<u8>,
}

impl Zones {
    /// Looks at one query of a view. `turn` is another number for every query.
    #[must_use]
    pub fn answer(&self, view: &str, bytes: &[u8], transport: Transport, turn: u64) -> Verdict {
        // Replies are not replied to: two servers would go on for ever.
        if bytes.get(2).is_none_or(|flags| flags & 0x80 != 0) || bytes.len() < HEADER {
            return Verdict::Drop;
        }
        let refuse = |code, outcome| {
            message::bare(bytes, code).map_or(Verdict::Drop, |reply| Verdict::Reply(reply, outcome))
        };
        if bytes[2] >> 3 & 0xf != u8::from(OpCode::Query) {
            return refuse(ResponseCode::NotImp, Outcome::Refused);
        }
        let Ok(message) = Message::from_vec(bytes) else {
            return refuse(ResponseCode::FormErr, Outcome::Malformed);
        };
        let [query] = message.queries.as_slice() else {
            return refuse(ResponseCode::FormErr, Outcome::Malformed);
        };
        if message.metadata.message_type != MessageType::Query {
            return Verdict::Drop;
        }
        let asked = Asked::of(&message, query, transport);
        let refused = |code| Verdict::Reply(message::failure(&asked, code), Outcome::Refused);
        if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return bad_version(&asked);
        }
        if query.query_class != DNSClass::IN {
            return refused(ResponseCode::Refused);
        }
        if matches!(query.query_type, RecordType::AXFR | RecordType::IXFR) {
            return refused(ResponseCode::Refused);
        }
        match self.view(view) {
            Some(View::Zone(zone)) => self.resolve(Some(zone), asked, bytes, turn),
            Some(View::Outside) => self.resolve(None, asked, bytes, turn),
            Some(View::Unknown) => {
                Verdict::Reply(message::failure(&asked, ResponseCode::ServFail), Outcome::Failed)
            }
            None => refused(ResponseCode::Refused),
        }
    }

    fn resolve(&self, first: Option<&Zone>, asked: Asked, bytes: &[u8], turn: u64) -> Verdict {
        let kind = asked.query.query_type;
        let mut name = asked.query.name.clone();
        let mut chain: Vec<Record> = Vec::new();
        for _ in 0..STEPS {
            match self.look(first, &name, kind, turn) {
                Looked::Elsewhere(server) => {
                    return forward(asked, chain, name, kind, server, bytes);
                }
                Looked::Here(zone, Found::Alias(alias)) => {
                    let (record, target) = *alias;
                    chain.push(record);
                    if target == asked.query.name || chain.len() >= STEPS {
                        return finish(&asked, zone, chain, Found::NoData, Vec::new());
                    }
                    name = target;
                }
                Looked::Here(zone, found) => {
                    let extras = self.extras(first, &found, turn);
                    return finish(&asked, zone, chain, found, extras);
                }
            }
        }
        Verdict::Reply(message::failure(&asked, ResponseCode::ServFail), Outcome::Failed)
    }

    /// The zone that answers for a name, with its answer, or who is asked instead.
    fn look<'a>(
        &'a self,
        first: Option<&'a Zone>,
        name: &Name,
        kind: RecordType,
        turn: u64,
    ) -> Looked<'a> {
        let key = Key::of(name);
        let back = reverse_address(&key);
        let mut zone = first;
        for _ in 0..STEPS {
            let Some(here) = zone else { return Looked::Elsewhere(None) };
            if let Some(address) = back {
                let names = here.names_of(name, address);
                if !names.is_empty() {
                    let fits = matches!(kind, RecordType::PTR | RecordType::ANY);
                    let found = if fits { Found::Records(names) } else { Found::NoData };
                    return Looked::Here(here, found);
                }
            }
            if here.contains(&key) {
                return Looked::Here(here, here.find(name, &key, kind, turn));
            }
            zone = match &here.spec.next {
                Next::Upstream => return Looked::Elsewhere(None),
                Next::Server(address) => return Looked::Elsewhere(Some(*address)),
                Next::Zone(id) => self.zone(id),
            };
        }
        Looked::Elsewhere(None)
    }

    /// Addresses of what the records point to.
    fn extras(&self, first: Option<&Zone>, found: &Found, turn: u64) -> Vec<Record> {
        let Found::Records(records) = found else { return Vec::new() };
        let mut out = Vec::new();
        for record in records {
            let target = match &record.data {
                RData::SRV(srv) => &srv.target,
                RData::MX(mx) => &mx.exchange,
                _ => continue,
            };
            for kind in [RecordType::A, RecordType::AAAA] {
                if let Looked::Here(_, Found::Records(more)) = self.look(first, target, kind, turn)
                {
                    out.extend(more);
                }
            }
            if out.len() >= EXTRAS {
                out.truncate(EXTRAS);
                break;
            }
        }
        out
    }
}

enum Looked<'a> {
    Here(&'a Zone, Found),
    Elsewhere(Option<IpAddr>),
}

fn finish(
    asked: &Asked,
    zone: &Zone,
    chain: Vec<Record>,
    found: Found,
    additionals: Vec<Record>,
) -> Verdict {
    let mut parts = Parts { authoritative: true, answers: chain, additionals, ..Parts::default() };
    let outcome = match found {
        Found::Records(records) => {
            parts.answers.extend(records);
            Outcome::Answered
        }
        Found::Alias(alias) => {
            parts.answers.push(alias.0);
            Outcome::Answered
        }
        Found::NoData => Outcome::NoData,
        Found::NoName => {
            parts.code = ResponseCode::NXDomain;
            Outcome::NoName
        }
    };
    if outcome != Outcome::Answered {
        parts.authorities.push(zone.soa(&zone.name));
    }
    Verdict::Reply(message::reply(asked, parts), outcome)
}

fn forward(
    asked: Asked,
    chain: Vec<Record>,
    name: Name,
    kind: RecordType,
    server: Option<IpAddr>,
    bytes: &[u8],
) -> Verdict {
    let message = if chain.is_empty() {
        // As it came: what the client says of itself is for the server, too.
        bytes.to_vec()
    } else {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), kind));
        let mut edns = Edns::new();
        edns.set_max_payload(message::UDP_LIMIT).set_version(0);
        message.edns = Some(edns);
        match message.to_vec() {
            Ok(bytes) => bytes,
            Err(_) => {
                let reply = message::failure(&asked, ResponseCode::ServFail);
                return Verdict::Reply(reply, Outcome::Failed);
            }
        }
    };
    Verdict::Forward(Box::new(Forward { asked, chain, name, kind, server, message }))
}

fn bad_version(asked: &Asked) -> Verdict {
    let mut parts = Parts { code: ResponseCode::BADVERS, ..Parts::default() };
    parts.authoritative = false;
    Verdict::Reply(message::reply(asked, parts), Outcome::Refused)
}

impl Forward {
    /// The reply to the client, from what the server said. `None`: nobody said anything.
    #[must_use]
    pub fn finish(&self, said: Option<&[u8]>) -> (Vec<u8>, Outcome) {
        let failed = || (message::failure(&self.asked, ResponseCode::ServFail), Outcome::Failed);
        let Some(said) = said else { return failed() };
        if self.chain.is_empty() {
            if said.len() <= self.asked.limit {
                let mut reply = said.to_vec();
                reply[..2].copy_from_slice(&self.asked.metadata.id.to_be_bytes());
                // Another client may have asked, in other letters: each gets the question as it wrote it.
                let end = HEADER + Key::of(&self.name).bytes().len() + 1;
                if reply[4..6] == [0, 1]
                    && let (Some(slot), Some(own)) =
                        (reply.get_mut(HEADER..end), self.message.get(HEADER..end))
                    && slot.eq_ignore_ascii_case(own)
                {
                    slot.copy_from_slice(own);
                }
                return (reply, Outcome::Forwarded);
            }
            let Ok(message) = Message::from_vec(said) else { return failed() };
            let parts = Parts {
                code: message.metadata.response_code,
                answers: message.answers,
                authorities: message.authorities,
                ..Parts::default()
            };
            return (message::reply(&self.asked, parts), Outcome::Forwarded);
        }
        let Ok(message) = Message::from_vec(said) else { return failed() };
        let mut parts = Parts { code: message.metadata.response_code, ..Parts::default() };
        parts.answers.clone_from(&self.chain);
        parts.answers.extend(message.answers);
        parts.authorities = message.authorities;
        (message::reply(&self.asked, parts), Outcome::Forwarded)
    }
}
