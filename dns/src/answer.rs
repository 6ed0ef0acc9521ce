//! From a question to its answer: the Kubernetes DNS specification 1.1.0 over a [`Zone`].
//!
//! A name that exists without records of the asked type is NODATA (NOERROR and a SOA), also where
//! it exists only because longer names do (RFC 8020); a name that does not exist is NXDOMAIN.
//! Whatever is not of this cluster is for the upstream servers.

mod names;

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::zone::Zone;
use names::{Found, Item};

/// Seconds an answer of the cluster may be kept: short, because endpoints move.
pub const TTL: u32 = 5;
/// Version of the specification that `dns-version` names.
pub const SPECIFICATION: &str = "1.1.0";
/// Largest UDP answer offered and sent, so that it needs no fragment (DNS flag day 2020).
pub const UDP_LIMIT: u16 = 1232;
/// Largest answer for a client without EDNS (RFC 1035).
pub(crate) const PLAIN_LIMIT: u16 = 512;
/// Longest chain of names followed inside the cluster.
const ALIAS_LIMIT: usize = 8;

/// What becomes of a query.
#[derive(Debug)]
pub enum Outcome {
    /// Answered here.
    Reply(Message),
    /// The upstream servers know.
    Forward,
    /// The name is an alias for one outside of the cluster: ask the upstream servers for the
    /// target and append what they say.
    Follow { reply: Message, target: Name },
}

/// Answers a query. `turn` rotates lists of equal records, so that successive clients begin with
/// different ones.
pub fn answer(zone: &Zone, query: &Message, turn: usize) -> Outcome {
    let question = match check(query) {
        Ok(question) => question,
        Err(code) => return Outcome::Reply(failure(query, code)),
    };
    let mut reply = response(query);
    let (mut name, kind) = (question.name.clone(), question.query_type);
    for _ in 0..ALIAS_LIMIT {
        match names::find(zone, &name) {
            Found::Elsewhere if reply.answers.is_empty() => return Outcome::Forward,
            Found::Elsewhere => {
                return Outcome::Follow {
                    reply,
                    target: name,
                };
            }
            Found::Nothing => {
                reply.metadata.authoritative = true;
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.add_authority(soa(zone));
                return Outcome::Reply(reply);
            }
            Found::Alias(target) => {
                let alias = RData::CNAME(CNAME(target.clone()));
                reply.metadata.authoritative = true;
                reply.add_answer(Record::from_rdata(name, TTL, alias));
                if kind == RecordType::CNAME {
                    return Outcome::Reply(reply);
                }
                name = target;
            }
            Found::Items(items) => {
                fill(zone, &mut reply, &name, kind, &items, turn);
                return Outcome::Reply(reply);
            }
        }
    }
    Outcome::Reply(failure(query, ResponseCode::ServFail))
}

/// The one question of a well-formed query.
fn check(query: &Message) -> Result<&hickory_proto::op::Query, ResponseCode> {
    if query.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(ResponseCode::BADVERS);
    }
    match query.queries.as_slice() {
        [question] if question.query_class == DNSClass::IN => Ok(question),
        [_] => Err(ResponseCode::Refused),
        _ => Err(ResponseCode::FormErr),
    }
}

/// An empty response to a query: id, question, flags and EDNS as they must be.
pub fn response(query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LIMIT);
        reply.set_edns(edns);
    }
    reply
}

/// A response that says only what went wrong.
pub fn failure(query: &Message, code: ResponseCode) -> Message {
    let mut reply = response(query);
    reply.metadata.response_code = code;
    if let Some(edns) = &mut reply.edns {
        edns.set_rcode_high(code.high());
    }
    reply
}

/// What is said to bytes that are no query; `None` where not even an id can be read, or where they
/// claim to be a response (two servers must not talk for ever).
pub fn malformed(bytes: &[u8]) -> Option<Message> {
    let [a, b, flags, ..] = bytes else {
        return None;
    };
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([*a, *b]);
    Some(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
}

/// Parses a query; a response is none.
pub fn parse(bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    (message.metadata.message_type == MessageType::Query).then_some(message)
}

/// Largest UDP answer this client can take.
pub fn udp_limit(query: &Message) -> usize {
    let offered = query.edns.as_ref().map_or(PLAIN_LIMIT, Edns::max_payload);
    usize::from(offered.clamp(PLAIN_LIMIT, UDP_LIMIT))
}

/// Encodes a response in at most `limit` bytes. What does not fit is left out, the additional
/// records first; only a missing answer sets TC, and what fits is sent, since some clients never
/// come back over TCP.
pub fn encode(mut reply: Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = reply.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    reply.additionals.clear();
    let bytes = reply.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    reply.metadata.truncation = true;
    let answers = std::mem::take(&mut reply.answers);
    // names compress, so sizes are found by trying: the largest number that fits
    let (mut fits, mut too_many, mut best) = (0, answers.len(), None);
    while fits < too_many {
        let keep = (fits + too_many) / 2;
        reply.answers = answers[..keep].to_vec();
        let bytes = reply.to_vec().ok()?;
        if bytes.len() <= limit {
            (fits, best) = (keep + 1, Some(bytes));
        } else {
            too_many = keep;
        }
    }
    best.or_else(|| {
        reply.answers.clear();
        reply.authorities.clear();
        reply.to_vec().ok().filter(|bytes| bytes.len() <= limit)
    })
}

/// Puts the records of the asked type into a reply, or the SOA where there is none.
fn fill(
    zone: &Zone,
    reply: &mut Message,
    name: &Name,
    kind: RecordType,
    items: &[Item],
    turn: usize,
) {
    reply.metadata.authoritative = true;
    let mut records: Vec<RData> = Vec::new();
    for item in items {
        let (data, additional) = data(zone, item, kind);
        records.extend(data);
        for (owner, address) in additional {
            reply.add_additional(Record::from_rdata(owner, TTL, address_data(address)));
        }
    }
    if records.is_empty() {
        reply.add_authority(soa(zone));
        return;
    }
    let middle = turn % records.len();
    records.rotate_left(middle);
    reply.add_answers(
        records
            .into_iter()
            .map(|data| Record::from_rdata(name.clone(), TTL, data)),
    );
}

/// The record an item gives for a type, and the addresses that spare the client a question.
fn data(zone: &Zone, item: &Item, kind: RecordType) -> (Option<RData>, Vec<(Name, IpAddr)>) {
    let wanted = |own: RecordType| kind == own || kind == RecordType::ANY;
    let data = match item {
        Item::Address(ip @ IpAddr::V4(_)) if wanted(RecordType::A) => address_data(*ip),
        Item::Address(ip @ IpAddr::V6(_)) if wanted(RecordType::AAAA) => address_data(*ip),
        Item::Target {
            port,
            name,
            addresses,
        } if wanted(RecordType::SRV) => {
            let addresses = addresses.iter().map(|ip| (name.clone(), *ip)).collect();
            return (
                Some(RData::SRV(SRV::new(0, 100, *port, name.clone()))),
                addresses,
            );
        }
        Item::Pointer(name) if wanted(RecordType::PTR) => RData::PTR(PTR(name.clone())),
        Item::Version if wanted(RecordType::TXT) => {
            RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]))
        }
        Item::Apex if wanted(RecordType::SOA) => soa(zone).data,
        Item::Apex if wanted(RecordType::NS) => {
            let server = names::server(zone);
            let addresses = zone
                .servers()
                .iter()
                .map(|ip| (server.clone(), *ip))
                .collect();
            return (Some(RData::NS(NS(server))), addresses);
        }
        Item::Address(_) | Item::Target { .. } | Item::Pointer(_) | Item::Version | Item::Apex => {
            return (None, Vec::new());
        }
    };
    (Some(data), Vec::new())
}

fn address_data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// Start of authority; its minimum bounds how long a negative answer is kept (RFC 2308).
fn soa(zone: &Zone) -> Record {
    let apex = names::apex(zone);
    let mail = apex
        .prepend_label("hostmaster")
        .unwrap_or_else(|_| apex.clone());
    let data = SOA::new(
        names::server(zone),
        mail,
        zone.serial(),
        7200,
        1800,
        86400,
        TTL,
    );
    Record::from_rdata(apex, TTL, RData::SOA(data))
}

#[cfg(test)]
mod tests;
