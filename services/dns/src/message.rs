//! From records to bytes that fit.

use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::Record;

/// The most bytes in a datagram: no path fragments it (DNS flag day 2020).
pub const UDP_LIMIT: u16 = 1232;
/// What every client takes (RFC 1035 section 4.2.1).
const UDP_LEAST: u16 = 512;
/// Bytes of a message's header.
pub(crate) const HEADER: usize = 12;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A stream.
    Tcp,
}

/// What a reply needs of its query.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) metadata: Metadata,
    pub(crate) query: Query,
    pub(crate) edns: bool,
    /// The most bytes of the reply.
    pub(crate) limit: usize,
}

impl Asked {
    pub(crate) fn of(message: &Message, query: &Query, transport: Transport) -> Asked {
        let limit = match transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => {
                let wanted = message.edns.as_ref().map_or(UDP_LEAST, Edns::max_payload);
                usize::from(wanted.clamp(UDP_LEAST, UDP_LIMIT))
            }
        };
        Asked {
            metadata: message.metadata,
            query: query.clone(),
            edns: message.edns.is_some(),
            limit,
        }
    }
}

/// The parts of a reply.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

/// The reply, cut to what its reader takes: additional records go first, then answers from the end, and then it says so.
pub(crate) fn reply(asked: &Asked, parts: Parts) -> Vec<u8> {
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    message.metadata = Metadata::response_from_request(&asked.metadata);
    message.metadata.recursion_available = true;
    message.metadata.authoritative = parts.authoritative;
    message.metadata.response_code = parts.code;
    message.queries.push(asked.query.clone());
    message.answers = parts.answers;
    message.authorities = parts.authorities;
    message.additionals = parts.additionals;
    if asked.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LIMIT).set_version(0);
        message.edns = Some(edns);
    }
    fit(message, asked.limit).unwrap_or_else(|| failure(asked, ResponseCode::ServFail))
}

/// The longest form of a message that is not longer than `limit`.
fn fit(mut message: Message, limit: usize) -> Option<Vec<u8>> {
    let whole = message.to_vec().ok()?;
    if whole.len() <= limit {
        return Some(whole);
    }
    message.additionals.clear();
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    message.metadata.truncation = true;
    message.authorities.clear();
    // Some resolvers know no TCP and take what is there.
    let answers = std::mem::take(&mut message.answers);
    let mut best = message.to_vec().ok()?;
    let (mut fits, mut too_many) = (0, answers.len() + 1);
    while too_many - fits > 1 {
        let half = fits.midpoint(too_many);
        message.answers = answers[..half].to_vec();
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= limit {
            (fits, best) = (half, bytes);
        } else {
            too_many = half;
        }
    }
    Some(best)
}

/// A reply without records.
pub(crate) fn failure(asked: &Asked, code: ResponseCode) -> Vec<u8> {
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    message.metadata = Metadata::response_from_request(&asked.metadata);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.queries.push(asked.query.clone());
    message.to_vec().unwrap_or_default()
}

/// A reply to bytes of which only the header can be made out.
pub(crate) fn bare(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let mut header: [u8; HEADER] = query.get(..HEADER)?.try_into().ok()?;
    // QR; the opcode and RD stay.
    header[2] = header[2] & 0x79 | 0x80;
    header[3] = code.low();
    header[4..].fill(0);
    Some(header.to_vec())
}
