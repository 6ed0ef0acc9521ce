//! Which upstream server to ask next, and whether what came back is its answer. No sockets: the
//! server sends what it is told and reports what happened; the clock is an argument.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode};

use crate::answer::UDP_LIMIT;

/// Upstream servers used at most; resolv.conf(5) knows three.
const SERVER_LIMIT: usize = 3;
/// Longest wait for one server.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// A server that did not answer is asked last for this long.
const PENALTY: Duration = Duration::from_secs(10);
/// Port of DNS.
const PORT: u16 = 53;

/// The upstream servers and how they behaved.
#[derive(Debug, Clone)]
pub struct Upstreams {
    servers: Vec<(SocketAddr, Option<Instant>)>,
}

impl Upstreams {
    /// Servers in the order of preference; duplicates and our own addresses are left out, a server
    /// that asks itself would never end.
    pub fn new(servers: &[SocketAddr], own: &[SocketAddr]) -> Upstreams {
        let mut list: Vec<(SocketAddr, Option<Instant>)> = Vec::new();
        for server in servers {
            let known = list.iter().any(|(other, _)| other == server);
            if !known && !own.contains(server) && list.len() < SERVER_LIMIT {
                list.push((*server, None));
            }
        }
        Upstreams { servers: list }
    }

    /// All servers, in the order to ask them: those that failed a moment ago last.
    pub fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let mut order = self.servers.clone();
        // stable: the configured order holds within each group
        order.sort_by_key(|(_, failed)| {
            failed.is_some_and(|at| now.saturating_duration_since(at) < PENALTY)
        });
        order.into_iter().map(|(server, _)| server).collect()
    }

    /// A server answered, or did not within its time.
    pub fn report(&mut self, server: SocketAddr, answered: bool, now: Instant) {
        for (own, failed) in &mut self.servers {
            if *own == server {
                *failed = (!answered).then_some(now);
            }
        }
    }
}

/// Upstream servers of a resolv.conf; lines it does not know are passed over.
pub fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split(['#', ';']).next()?.split_whitespace();
        (words.next()? == "nameserver").then_some(words.next()?)
    });
    // a zone ("fe80::1%eth0") names an interface of this machine; such servers are left out
    lines
        .filter_map(|ip| Some(SocketAddr::new(ip.parse().ok()?, PORT)))
        .collect()
}

/// The query sent upstream for a client's query, under an id of our own.
pub fn query(client: &Message, id: u16) -> Message {
    let mut query = Message::new(id, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.metadata.checking_disabled = client.metadata.checking_disabled;
    query.metadata.authentic_data = client.metadata.authentic_data;
    query.add_queries(client.queries.iter().cloned());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_LIMIT);
    edns.set_dnssec_ok(
        client
            .edns
            .as_ref()
            .is_some_and(|edns| edns.flags().dnssec_ok),
    );
    query.set_edns(edns);
    query
}

/// Parses a response and makes sure that it answers this query: id and question (RFC 5452).
pub fn accept(bytes: &[u8], query: &Message) -> Option<Message> {
    let response = Message::from_vec(bytes).ok()?;
    let same_question = match (response.queries.as_slice(), query.queries.as_slice()) {
        ([got], [asked]) => {
            got.query_type == asked.query_type
                && got.query_class == asked.query_class
                && got.name.to_lowercase() == asked.name.to_lowercase()
        }
        _ => false,
    };
    let answers = response.metadata.message_type == MessageType::Response
        && response.metadata.id == query.metadata.id;
    (answers && same_question).then_some(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use hickory_proto::rr::{Name, RecordType};

    fn at(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 53)
    }

    #[test]
    fn a_server_that_failed_is_asked_last_for_a_while() {
        let (a, b) = (at("192.0.2.1"), at("192.0.2.2"));
        let mut upstreams = Upstreams::new(&[a, b, a, at("10.96.0.10")], &[at("10.96.0.10")]);
        let now = Instant::now();
        assert_eq!(upstreams.order(now), [a, b]);
        upstreams.report(a, false, now);
        assert_eq!(upstreams.order(now), [b, a]);
        assert_eq!(upstreams.order(now + PENALTY), [a, b]);
        upstreams.report(a, true, now);
        assert_eq!(upstreams.order(now), [a, b]);
    }

    #[test]
    fn resolv_conf_gives_its_name_servers() {
        let text = "# x\nsearch a.b\nnameserver 192.0.2.1 # first\nnameserver fe80::1%eth0\n\
                    nameserver 2001:db8::1\noptions edns0\nnameserver\n";
        assert_eq!(
            parse_resolv_conf(text),
            [at("192.0.2.1"), at("2001:db8::1")]
        );
    }

    #[test]
    fn only_the_answer_to_this_question_is_accepted() {
        let question = |name| Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
        let mut client = Message::query();
        client.add_query(question("a.example."));
        let query = query(&client, 7);
        let response = |id, name| {
            let mut message = Message::response(id, OpCode::Query);
            message.add_query(question(name));
            message.to_vec().unwrap()
        };
        assert!(accept(&response(7, "A.example."), &query).is_some());
        assert!(accept(&response(8, "a.example."), &query).is_none());
        assert!(accept(&response(7, "b.example."), &query).is_none());
        assert!(accept(&query.to_vec().unwrap(), &query).is_none());
    }
}
