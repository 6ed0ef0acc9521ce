//! IP addresses and CIDRs in fields.
//!
//! Port of `k8s.io/apimachinery/pkg/util/validation/ip.go` and of the endpoint rules of core.

use std::net::IpAddr;

use super::names::Problems;
use super::path::{Errors, Path};

const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub(crate) address: IpAddr,
    pub(crate) length: u8,
}

impl Cidr {
    /// Parses `address/length`.
    pub(crate) fn parse(text: &str) -> Option<Cidr> {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length = length.parse().ok().filter(|l| digits && *l <= max)?;
        Some(Cidr { address, length })
    }

    fn network(&self, length: u8) -> Option<u128> {
        let (bits, width) = match self.address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32u32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        bits.checked_shr(width - u32::from(length)).or(Some(0))
    }

    /// Whether the other's address lies in this.
    pub(crate) fn contains(&self, other: &Cidr) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.network(self.length) == other.network(self.length)
    }
}

/// An IP address.
pub(crate) fn ip(value: &str, path: &Path<'_>, errors: &mut Errors) -> Option<IpAddr> {
    let parsed = value.parse().ok();
    if parsed.is_none() {
        errors.invalid(path, value, NOT_AN_IP);
    }
    parsed
}

/// An IP address in canonical form, as the names of IPAddress objects are.
pub(crate) fn canonical(value: &str) -> Problems {
    let Ok(address) = value.parse::<IpAddr>() else {
        return vec![NOT_AN_IP.to_owned()];
    };
    let mut problems = Problems::new();
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        problems.push("must not be an IPv4-mapped IPv6 address".to_owned());
    }
    let shown = address.to_canonical().to_string();
    if problems.is_empty() && shown != value {
        problems.push(format!("must be in canonical form ({shown:?})"));
    }
    problems
}

/// A CIDR.
pub(crate) fn cidr(value: &str, path: &Path<'_>, errors: &mut Errors) -> Option<Cidr> {
    let parsed = Cidr::parse(value);
    if parsed.is_none() {
        errors.invalid(path, value, NOT_A_CIDR);
    }
    parsed
}

/// An address that can be an endpoint.
pub(crate) fn endpoint(address: IpAddr, value: &str, path: &Path<'_>, errors: &mut Errors) {
    let (link_local, link_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            (first & 0xffc0 == 0xfe80, first & 0xff0f == 0xff02)
        }
    };
    let mut wrong = |is: bool, detail: String| {
        if is {
            errors.invalid(path, value, detail);
        }
    };
    wrong(
        address.is_unspecified(),
        format!("may not be unspecified ({value})"),
    );
    wrong(
        address.is_loopback(),
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
    );
    wrong(
        link_local,
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
    );
    wrong(
        link_multicast,
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_as_a_name_is_canonical() {
        for good in ["10.0.0.1", "fe80::42:1dff:fe84:f9e2", "::1"] {
            assert_eq!(canonical(good), Problems::new(), "{good}");
        }
        for (bad, problem) in [
            ("FE80::1", "must be in canonical form (\"fe80::1\")"),
            ("fe80:0::1", "must be in canonical form (\"fe80::1\")"),
            ("::ffff:10.0.0.1", "must not be an IPv4-mapped IPv6 address"),
            ("web", NOT_AN_IP),
        ] {
            assert_eq!(canonical(bad), [problem], "{bad}");
        }
    }

    #[test]
    fn a_network_contains_its_subnets() {
        let parse = |t| Cidr::parse(t).unwrap();
        assert!(parse("10.0.0.0/8").contains(&parse("10.1.0.0/16")));
        assert!(!parse("10.0.0.0/8").contains(&parse("11.0.0.0/16")));
        assert!(parse("0.0.0.0/0").contains(&parse("11.0.0.0/16")));
        assert!(parse("fd00::/8").contains(&parse("fd00:1::/64")));
        assert!(!parse("fd00::/8").contains(&parse("10.0.0.0/8")));
        assert!(Cidr::parse("10.0.0.0/33").is_none() && Cidr::parse("10.0.0.0").is_none());
    }
}
