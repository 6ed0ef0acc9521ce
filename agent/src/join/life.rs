//! How long a certificate lives and when it is replaced: at a point between 70 and 90 percent of its
//! life, another one for each, so that nodes that joined together do not come back together
//! (upstream: client-go `util/certificate/certificate_manager.go`, nextRotationDeadline). Pure.

use std::net::IpAddr;
use std::time::Duration;

use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

/// Parts of its life after which a certificate is replaced: the earliest, and the jitter added.
const EARLIEST: f64 = 0.7;
const JITTER: f64 = 0.2;

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    pub from: OffsetDateTime,
    pub until: OffsetDateTime,
}

/// What to do about a certificate now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing, for so long.
    Wait(Duration),
    Renew,
}

impl Plan {
    /// For a certificate at `now`; `None` stands for one that cannot be read. `jitter` lies in 0..1 and
    /// stays the same as long as the certificate does.
    pub fn new(now: OffsetDateTime, life: Option<Life>, jitter: f64) -> Self {
        let Some(Life { from, until }) = life else {
            return Self::Renew;
        };
        let deadline = from + (until - from) * (EARLIEST + JITTER * jitter.clamp(0.0, 1.0));
        match Duration::try_from(deadline - now) {
            Ok(left) if !left.is_zero() => Self::Wait(left),
            // Nothing is left, or less than that.
            Ok(_) | Err(_) => Self::Renew,
        }
    }
}

impl Life {
    /// Of the first certificate in `pem`.
    pub fn of(pem: &[u8]) -> Option<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let validity = certificate.validity();
        Some(Self {
            from: validity.not_before.to_datetime(),
            until: validity.not_after.to_datetime(),
        })
    }

    pub fn includes(&self, now: OffsetDateTime) -> bool {
        (self.from..self.until).contains(&now)
    }
}

/// Whether the first certificate in `pem` is good for exactly these addresses.
pub fn has_addresses(pem: &[u8], wanted: &[IpAddr]) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem) else {
        return false;
    };
    let Ok(certificate) = pem.parse_x509() else {
        return false;
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| extension.value.general_names.as_slice());
    let address = |name: &GeneralName<'_>| match name {
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
        },
        _ => None,
    };
    let mut have: Vec<IpAddr> = names.into_iter().flatten().filter_map(address).collect();
    let mut wanted = wanted.to_vec();
    have.sort_unstable();
    wanted.sort_unstable();
    have == wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const LIFE: Life = Life {
        from: datetime!(2030-01-01 0:00 UTC),
        until: datetime!(2030-01-11 0:00 UTC),
    };

    fn after(hours: i64, jitter: f64) -> Plan {
        Plan::new(LIFE.from + time::Duration::hours(hours), Some(LIFE), jitter)
    }

    #[test]
    fn a_certificate_is_renewed_between_seven_and_nine_tenths_of_its_life() {
        let hours = |h: u64| Plan::Wait(Duration::from_secs(h * 3600));
        assert_eq!(after(0, 0.0), hours(168));
        assert_eq!(after(167, 0.0), hours(1));
        assert_eq!(after(168, 0.0), Plan::Renew);
        assert_eq!(after(168, 0.5), hours(24));
        assert_eq!(after(215, 1.0), hours(1));
        assert_eq!(after(216, 1.0), Plan::Renew);
    }

    #[test]
    fn an_expired_or_unreadable_certificate_is_renewed_at_once() {
        assert_eq!(after(1000, 1.0), Plan::Renew);
        assert_eq!(Plan::new(LIFE.from, None, 0.0), Plan::Renew);
        assert_eq!(Life::of(b"no PEM"), None);
    }

    #[test]
    fn the_addresses_of_a_certificate_are_compared_as_sets() {
        let names = vec!["n".to_owned(), "10.0.0.9".to_owned(), "fd00::9".to_owned()];
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(names).unwrap();
        let pem = params.self_signed(&key).unwrap().pem().into_bytes();
        let ips =
            |list: &[&str]| -> Vec<IpAddr> { list.iter().map(|ip| ip.parse().unwrap()).collect() };
        assert!(has_addresses(&pem, &ips(&["fd00::9", "10.0.0.9"])));
        assert!(!has_addresses(&pem, &ips(&["10.0.0.9"])));
        assert!(!has_addresses(&pem, &ips(&["10.0.0.8", "fd00::9"])));
    }
}
