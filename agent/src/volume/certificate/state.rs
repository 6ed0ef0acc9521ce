//! Where one certificate of a pod stands. Pure: what the API says and times are arguments.
//!
//! ```text
//! (nothing) ──asked──▶ Asked ──issued──▶ Issued ◀──issued/forgotten── Renewing
//!                        │                  └────────due: asked──────────▲│
//!                        └──denied, failed──▶ Refused ◀───────────────────┘
//! ```

use std::time::Duration;

use k8s_openapi::api::certificates::v1::PodCertificateRequestStatus;
use k8s_openapi::jiff::Timestamp;
use rustls::pki_types::pem::{PemObject, SectionKind};

use crate::join::pem;
use crate::pod::backoff::add;

/// How long after the refresh was due an Event says so.
const OVERDUE: Duration = Duration::from_secs(600);

/// A key and its certificates, in PEM. The key is secret: no derived `Debug`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bundle {
    pub key: Vec<u8>,
    pub chain: Vec<u8>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bundle({} bytes of certificates)", self.chain.len())
    }
}

/// How a request has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Issued {
        chain: Vec<u8>,
        refresh: Timestamp,
        not_after: Timestamp,
    },
    Refused(Refusal),
    /// Deleted before it was decided.
    Forgotten,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `Denied` or `Failed`.
    pub verdict: &'static str,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub bundle: Bundle,
    pub refresh: Timestamp,
    pub not_after: Timestamp,
    /// What was told about it being late.
    told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Told {
    overdue: bool,
    expired: bool,
}

/// `P`: a request under way.
#[derive(Debug)]
pub enum State<P> {
    Asked(P),
    Issued(Issued),
    Renewing(Issued, P),
    Refused(Refusal),
}

/// Something to record about a certificate that is late: reason and message of an Event.
pub type Late = (&'static str, &'static str);

impl End {
    /// None while the request is open.
    pub fn of(status: &PodCertificateRequestStatus) -> Option<Self> {
        let conditions = status.conditions.iter().flatten();
        let mut ends = conditions.filter_map(|condition| {
            let refused = |verdict| {
                Self::Refused(Refusal {
                    verdict,
                    reason: condition.reason.clone(),
                    message: condition.message.clone(),
                })
            };
            match condition.type_.as_str() {
                "Denied" => Some(refused("Denied")),
                "Failed" => Some(refused("Failed")),
                "Issued" => Some(Self::Issued {
                    chain: clean(status.certificate_chain.as_deref().unwrap_or_default()),
                    refresh: status.begin_refresh_at.as_ref()?.0,
                    not_after: status.not_after.as_ref()?.0,
                }),
                _ => None,
            }
        });
        ends.next()
    }
}

impl<P> State<P> {
    /// The state after a request for `key` has ended; none: as if nothing had been asked. `jitter` keeps
    /// the pods of a node from asking at the same time.
    pub fn ended(self, key: &[u8], end: &End, jitter: Duration) -> Option<Self> {
        match (end, self) {
            (End::Refused(refusal), _) => Some(Self::Refused(refusal.clone())),
            (End::Forgotten, Self::Renewing(issued, _)) => Some(Self::Issued(issued)),
            (End::Forgotten, _) => None,
            (
                End::Issued {
                    chain,
                    refresh,
                    not_after,
                },
                _,
            ) => Some(Self::Issued(Issued {
                bundle: Bundle {
                    key: key.to_vec(),
                    chain: chain.clone(),
                },
                refresh: add(*refresh, jitter),
                not_after: *not_after,
                told: Told::default(),
            })),
        }
    }

    /// What is late for the first time.
    pub fn late(&mut self, now: Timestamp) -> Vec<Late> {
        let (Self::Issued(issued) | Self::Renewing(issued, _)) = self else {
            return Vec::new();
        };
        let mut late = Vec::new();
        if now > add(issued.refresh, OVERDUE) && !issued.told.overdue {
            issued.told.overdue = true;
            late.push((
                "CertificateOverdueForRefresh",
                "PodCertificate refresh overdue",
            ));
        }
        if now > issued.not_after && !issued.told.expired {
            issued.told.expired = true;
            late.push(("CertificateExpired", "PodCertificate expired"));
        }
        late
    }

    /// When to look again without being told to.
    pub fn wake(&self) -> Option<Timestamp> {
        let moment = Duration::from_millis(1);
        match self {
            Self::Issued(issued) => Some(issued.refresh),
            Self::Renewing(issued, _) if !issued.told.overdue => {
                Some(add(issued.refresh, OVERDUE + moment))
            }
            Self::Renewing(issued, _) if !issued.told.expired => {
                Some(add(issued.not_after, moment))
            }
            Self::Renewing(..) | Self::Asked(_) | Self::Refused(_) => None,
        }
    }
}

/// The certificates of a chain alone: no text between them, no headers.
fn clean(chain: &str) -> Vec<u8> {
    let sections = <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(chain.as_bytes());
    let ders = sections.flatten().map(|(_, der)| der);
    ders.flat_map(|der| pem(&der)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn status(value: serde_json::Value) -> PodCertificateRequestStatus {
        serde_json::from_value(value).unwrap()
    }

    fn condition(ty: &str) -> serde_json::Value {
        json!([{"type": ty, "status": "True", "reason": "R", "message": "M",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    fn issued(refresh: i64, not_after: i64) -> End {
        End::Issued {
            chain: b"chain".to_vec(),
            refresh: at(refresh),
            not_after: at(not_after),
        }
    }

    #[test]
    fn a_request_ends_by_its_condition() {
        assert_eq!(End::of(&status(json!({}))), None);
        let denied = End::of(&status(json!({"conditions": condition("Denied")})));
        let Some(End::Refused(refusal)) = denied else {
            panic!("{denied:?}");
        };
        assert_eq!((refusal.verdict, &refusal.reason[..]), ("Denied", "R"));
        let end = End::of(&status(json!({
            "conditions": condition("Issued"),
            "certificateChain":
                "text\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\nmore\n",
            "beginRefreshAt": "1970-01-01T00:01:00Z",
            "notAfter": "1970-01-01T00:02:00Z"})));
        let chain = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec();
        let wanted = End::Issued {
            chain,
            refresh: at(60),
            not_after: at(120),
        };
        assert_eq!(end, Some(wanted));
    }

    #[test]
    fn an_issued_certificate_is_refreshed_when_due_and_kept_meanwhile() {
        let end = issued(100, 1000);
        let state = State::Asked(()).ended(b"key", &end, Duration::from_secs(5));
        let Some(State::Issued(first)) = state else {
            panic!("{state:?}");
        };
        assert_eq!(first.refresh, at(105));
        assert_eq!(first.bundle.key, b"key");
        let forgotten = State::Renewing(first.clone(), ()).ended(b"2", &End::Forgotten, OVERDUE);
        assert!(matches!(forgotten, Some(State::Issued(kept)) if kept == first));
        let end = issued(1100, 2000);
        let renewed = State::Renewing(first, ()).ended(b"2", &end, Duration::ZERO);
        assert!(matches!(renewed, Some(State::Issued(new)) if new.bundle.key == b"2"));
    }

    #[test]
    fn a_forgotten_first_request_is_made_again_and_a_refusal_stays() {
        let state = State::Asked(()).ended(b"k", &End::Forgotten, Duration::ZERO);
        assert!(state.is_none());
        let refusal = Refusal {
            verdict: "Failed",
            reason: String::new(),
            message: String::new(),
        };
        let end = End::Refused(refusal.clone());
        let state = State::Asked(()).ended(b"k", &end, Duration::ZERO);
        assert!(matches!(state, Some(State::Refused(found)) if found == refusal));
    }

    #[test]
    fn lateness_is_told_once_each() {
        let state = State::Asked(()).ended(b"k", &issued(0, 1000), Duration::ZERO);
        let mut state = state.unwrap();
        assert_eq!(state.wake(), Some(at(0)));
        assert!(state.late(at(600)).is_empty());
        assert_eq!(state.late(at(601))[0].0, "CertificateOverdueForRefresh");
        assert!(state.late(at(1000)).is_empty());
        assert_eq!(state.late(at(1001))[0].0, "CertificateExpired");
        assert!(state.late(at(2000)).is_empty());
    }
}
