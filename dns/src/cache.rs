//! What upstream servers said, for as long as they allow, bounded in time and number. Two
//! generations: when the young one is full it becomes the old one and the old one goes; an entry
//! that is used moves to the young one. That is LRU closely enough, at the price of a hash lookup.
//! The clock is an argument.

use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Entries of one generation.
const GENERATION: usize = 4096;
/// Longest time a positive answer is kept.
const POSITIVE: Duration = Duration::from_secs(300);
/// Longest time a negative answer is kept (RFC 2308 advises at most hours; clusters change faster).
const NEGATIVE: Duration = Duration::from_secs(30);
/// Time a failure is kept, so that a broken name is not asked for by every client (RFC 9520).
const FAILURE: Duration = Duration::from_secs(1);
/// How long after its end an answer is still better than none (RFC 8767).
const STALE: Duration = Duration::from_secs(3600);
/// TTL of an answer that is stale.
const STALE_TTL: u32 = 5;

/// What an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    name: Name,
    kind: RecordType,
    /// EDNS DO: with signatures.
    dnssec: bool,
    /// CD: not validated.
    unchecked: bool,
}

impl Key {
    /// The key of a query with one question.
    pub fn of(query: &Message) -> Option<Key> {
        let question = query.queries.first()?;
        Some(Key {
            name: question.name.to_lowercase(),
            kind: question.query_type,
            dnssec: query
                .edns
                .as_ref()
                .is_some_and(|edns| edns.flags().dnssec_ok),
            unchecked: query.metadata.checking_disabled,
        })
    }
}

/// The part of an upstream answer that does not belong to one client.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub code: ResponseCode,
    pub authentic: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
}

impl Answer {
    /// Takes what is kept of a response.
    pub fn of(response: Message) -> Answer {
        Answer {
            code: response.metadata.response_code,
            authentic: response.metadata.authentic_data,
            answers: response.answers,
            authorities: response.authorities,
        }
    }

    /// Puts this into a reply.
    pub fn fill(self, reply: &mut Message) {
        let Answer {
            code,
            authentic,
            answers,
            authorities,
        } = self;
        reply.metadata.response_code = code;
        reply.metadata.authentic_data = authentic;
        reply.add_answers(answers);
        reply.add_authorities(authorities);
    }

    fn lifetime(&self) -> Duration {
        let least = |records: &[Record]| records.iter().map(|record| record.ttl).min();
        let seconds = |ttl: u32| Duration::from_secs(ttl.into());
        match self.code {
            ResponseCode::NoError if !self.answers.is_empty() => {
                seconds(least(&self.answers).unwrap_or(0)).min(POSITIVE)
            }
            ResponseCode::NoError | ResponseCode::NXDomain => {
                // RFC 2308: the SOA's own TTL and its minimum, whichever is less; without: not kept
                let soa = self
                    .authorities
                    .iter()
                    .find_map(|record| match &record.data {
                        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                        _ => None,
                    });
                seconds(soa.unwrap_or(0)).min(NEGATIVE)
            }
            _ => FAILURE,
        }
    }

    fn aged(&self, seconds: u32, least: u32) -> Answer {
        let mut answer = self.clone();
        for record in answer.answers.iter_mut().chain(&mut answer.authorities) {
            record.ttl = record.ttl.saturating_sub(seconds).max(least);
        }
        answer
    }
}

#[derive(Debug)]
struct Entry {
    answer: Answer,
    since: Instant,
    lifetime: Duration,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Cache {
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
}

impl Cache {
    /// An answer that is still valid, its TTLs counted down.
    pub fn get(&mut self, key: &Key, now: Instant) -> Option<Answer> {
        self.promote(key);
        let entry = self.young.get(key)?;
        let age = now.saturating_duration_since(entry.since);
        (age < entry.lifetime).then(|| entry.answer.aged(age.as_secs() as u32, 0))
    }

    /// An answer that may be too old, for when nobody can be asked; failures are not worth it.
    pub fn get_stale(&mut self, key: &Key, now: Instant) -> Option<Answer> {
        self.promote(key);
        let entry = self.young.get(key)?;
        let age = now.saturating_duration_since(entry.since);
        let useful = matches!(
            entry.answer.code,
            ResponseCode::NoError | ResponseCode::NXDomain
        );
        (useful && age < entry.lifetime + STALE).then(|| entry.answer.aged(u32::MAX, STALE_TTL))
    }

    /// Keeps an answer. A failure does not replace an answer that may still serve as stale.
    pub fn put(&mut self, key: Key, answer: Answer, now: Instant) {
        let lifetime = answer.lifetime();
        let failed = !matches!(answer.code, ResponseCode::NoError | ResponseCode::NXDomain);
        if lifetime.is_zero() || failed && self.get_stale(&key, now).is_some() {
            return;
        }
        self.insert(
            key,
            Entry {
                answer,
                since: now,
                lifetime,
            },
        );
    }

    fn promote(&mut self, key: &Key) {
        if let Some((key, entry)) = self.old.remove_entry(key) {
            self.insert(key, entry);
        }
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use hickory_proto::rr::rdata::{A, SOA};

    fn key(name: &str) -> Key {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        Key::of(&query).unwrap()
    }

    fn positive(ttl: u32) -> Answer {
        let data = RData::A(A::new(192, 0, 2, 1));
        let record = Record::from_rdata(Name::root(), ttl, data);
        Answer {
            code: ResponseCode::NoError,
            authentic: false,
            answers: vec![record],
            authorities: vec![],
        }
    }

    fn negative(ttl: u32, minimum: u32) -> Answer {
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
        let record = Record::from_rdata(Name::root(), ttl, RData::SOA(soa));
        let code = ResponseCode::NXDomain;
        Answer {
            code,
            authentic: false,
            answers: vec![],
            authorities: vec![record],
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_answer_lives_for_its_ttl_and_counts_down() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key("a."), positive(10), now);
        assert_eq!(
            cache.get(&key("A."), now + 4 * SECOND).unwrap().answers[0].ttl,
            6
        );
        assert!(cache.get(&key("a."), now + 10 * SECOND).is_none());
        let stale = cache.get_stale(&key("a."), now + 10 * SECOND).unwrap();
        assert_eq!(stale.answers[0].ttl, STALE_TTL);
        assert!(
            cache
                .get_stale(&key("a."), now + 10 * SECOND + STALE)
                .is_none()
        );
    }

    #[test]
    fn a_negative_answer_lives_for_the_lesser_of_soa_ttl_and_minimum() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key("a."), negative(20, 5), now);
        assert!(cache.get(&key("a."), now + 4 * SECOND).is_some());
        assert!(cache.get(&key("a."), now + 5 * SECOND).is_none());
        cache.put(
            key("b."),
            Answer {
                authorities: vec![],
                ..negative(20, 5)
            },
            now,
        );
        assert!(cache.get(&key("b."), now).is_none());
    }

    #[test]
    fn a_failure_does_not_replace_what_may_serve_as_stale() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let failure = Answer {
            code: ResponseCode::ServFail,
            ..negative(0, 0)
        };
        cache.put(key("a."), positive(1), now);
        cache.put(key("a."), failure.clone(), now + 2 * SECOND);
        assert!(cache.get_stale(&key("a."), now + 2 * SECOND).is_some());
        cache.put(key("b."), failure, now);
        assert!(cache.get(&key("b."), now).is_some());
        assert!(cache.get_stale(&key("b."), now).is_none());
    }

    #[test]
    fn the_number_of_entries_is_bounded_and_used_ones_stay() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for n in 0..3 * GENERATION {
            cache.put(key(&format!("n{n}.")), positive(10), now);
            if n % 100 == 0 {
                assert!(cache.get(&key("n0."), now).is_some(), "{n}");
            }
        }
        assert!(cache.young.len() + cache.old.len() <= 2 * GENERATION);
    }
}
