//! IP addresses and CIDRs in fields: what is valid, and what is valid but said in an unusual way.
//!
//! Port of `k8s.io/apimachinery/pkg/util/validation/ip.go` (with strict validation, the default since
//! v1.36) and of the endpoint rules of core. Upstream's old parser takes leading zeros; such values are
//! refused with a reason of their own, and kept where the stored object has them already.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::Problems;
use super::path::{Errors, Path};
use crate::status::quote;

const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address as upstream's lenient parser reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The address.
    pub(crate) ip: IpAddr,
    /// Whether its text has leading zeros.
    zeros: bool,
}

/// An address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    address: Address,
    pub(crate) length: u8,
    /// Whether the length has leading zeros.
    zeros: bool,
}

impl Address {
    /// Parses a text, leading zeros allowed.
    pub(crate) fn parse(text: &str) -> Option<Address> {
        if let Ok(ip) = text.parse() {
            return Some(Address { ip, zeros: false });
        }
        let (head, v4) = match text.rsplit_once(':') {
            Some((head, v4)) if v4.contains('.') => (Some(head), v4),
            Some(_) => return None,
            None => (None, text),
        };
        let v4 = lenient_v4(v4)?;
        let ip = match head {
            Some(head) => IpAddr::V6(format!("{head}:{v4}").parse().ok()?),
            None => IpAddr::V4(v4),
        };
        Some(Address { ip, zeros: true })
    }

    /// An IPv4 address written as IPv6.
    fn mapped(&self) -> Option<Ipv4Addr> {
        match self.ip {
            IpAddr::V6(v6) => v6.to_ipv4_mapped(),
            IpAddr::V4(_) => None,
        }
    }

    /// As upstream's old address type is: IPv4 wherever it can be.
    fn unmapped(&self) -> IpAddr {
        self.mapped().map_or(self.ip, IpAddr::V4)
    }
}

impl Cidr {
    /// Parses `address/length`, leading zeros allowed.
    pub(crate) fn parse(text: &str) -> Option<Cidr> {
        let (address, length) = text.split_once('/')?;
        let address = Address::parse(address)?;
        let max = if address.ip.is_ipv4() { 32 } else { 128 };
        let zeros = length.len() > 1 && length.starts_with('0');
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length: u32 = length.parse().ok().filter(|l| digits && *l <= max)?;
        Some(Cidr {
            address,
            length: length as u8,
            zeros,
        })
    }

    /// The address with the bits beyond the prefix cleared.
    fn network(&self) -> IpAddr {
        match self.address.ip {
            IpAddr::V4(v4) => {
                let kept = u32::MAX
                    .checked_shl(32 - u32::from(self.length))
                    .unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & kept))
            }
            IpAddr::V6(v6) => {
                let kept = u128::MAX
                    .checked_shl(128 - u32::from(self.length))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & kept))
            }
        }
    }

    /// Whether the other's first address lies in this.
    pub(crate) fn contains(&self, other: &Cidr) -> bool {
        let inner = Cidr {
            address: Address {
                ip: other.network(),
                zeros: false,
            },
            length: self.length,
            zeros: false,
        };
        self.address.ip.is_ipv4() == inner.address.ip.is_ipv4() && self.network() == inner.network()
    }

    /// As upstream prints networks.
    fn shown(&self) -> String {
        let network = Address {
            ip: self.network(),
            zeros: false,
        };
        match network.mapped() {
            Some(v4) if self.length >= 96 => format!("{v4}/{}", self.length - 96),
            Some(_) | None => format!("{}/{}", self.network(), self.length),
        }
    }
}

fn lenient_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse::<u32>().ok()?.try_into().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// An IP address; one in `kept` is not looked at again.
pub(crate) fn ip(value: &str, kept: &[&str], path: &Path<'_>, errors: &mut Errors) -> bool {
    if kept.contains(&value) {
        return true;
    }
    let Some(address) = Address::parse(value) else {
        errors.invalid(path, value, NOT_AN_IP);
        return false;
    };
    if address.zeros {
        errors.invalid(path, value, "must not have leading 0s");
    } else if address.mapped().is_some() {
        errors.invalid(path, value, "must not be an IPv4-mapped IPv6 address");
    }
    !address.zeros && address.mapped().is_none()
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

/// A CIDR; one in `kept` is not looked at again.
pub(crate) fn cidr(value: &str, kept: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if kept.contains(&value) {
        return;
    }
    match Cidr::parse(value) {
        None => errors.invalid(path, value, NOT_A_CIDR),
        Some(cidr) if cidr.zeros || cidr.address.zeros => {
            errors.invalid(
                path,
                value,
                "must not have leading 0s in IP or prefix length",
            );
        }
        Some(cidr) if cidr.address.mapped().is_some() => {
            errors.invalid(path, value, "must not have an IPv4-mapped IPv6 address");
        }
        Some(cidr) if cidr.network() != cidr.address.ip => {
            errors.invalid(
                path,
                value,
                "must not have bits set beyond the prefix length",
            );
        }
        Some(_) => {}
    }
}

/// Whether a text is an IPv6 address.
pub(crate) fn is_v6(value: &str) -> bool {
    Address::parse(value).is_some_and(|address| address.unmapped().is_ipv6())
}

/// Whether there are addresses of both families; none when one is not an address.
pub(crate) fn is_dual<'v>(values: impl Iterator<Item = &'v str>) -> Option<bool> {
    let (mut v4, mut v6) = (false, false);
    for value in values {
        match Address::parse(value)?.unmapped() {
            IpAddr::V4(_) => v4 = true,
            IpAddr::V6(_) => v6 = true,
        }
    }
    Some(v4 && v6)
}

/// An address that can be an endpoint.
pub(crate) fn endpoint(value: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some(address) = Address::parse(value) else {
        return errors.invalid(path, value, "must be a valid IP address");
    };
    let address = address.unmapped();
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

/// What is unusual about a valid address.
pub(crate) fn ip_warning(value: &str, path: &str) -> Option<String> {
    let address = Address::parse(value)?;
    let shown = quote(value);
    if address.zeros || address.mapped().is_some() {
        let better = quote(&address.unmapped().to_string());
        return Some(format!(
            "{path}: non-standard IP address {shown} is invalid: use {better}"
        ));
    }
    let usual = address.ip.to_string();
    (address.ip.is_ipv6() && usual != value).then(|| {
        let usual = quote(&usual);
        format!("{path}: IPv6 address {shown} should be in RFC 5952 canonical format ({usual})")
    })
}

/// What is unusual about a valid CIDR.
pub(crate) fn cidr_warnings(value: &str, path: &Path<'_>, out: &mut Vec<String>) {
    let Some(cidr) = Cidr::parse(value) else {
        return;
    };
    let before = out.len();
    let (shown, better) = (quote(value), quote(&cidr.shown()));
    if cidr.network() != cidr.address.ip {
        let whole = if cidr.address.ip.is_ipv4() { 32 } else { 128 };
        let single = quote(&format!("{}/{whole}", cidr.address.unmapped()));
        out.push(format!(
            "{path}: CIDR value {shown} is ambiguous in this context (should be {better} or {single}?)"
        ));
    }
    if cidr.zeros || cidr.address.zeros || cidr.address.mapped().is_some() {
        out.push(format!(
            "{path}: non-standard CIDR value {shown} is invalid: use {better}"
        ));
    }
    let usual = format!("{}/{}", cidr.address.ip, cidr.length);
    if out.len() == before && cidr.address.ip.is_ipv6() && usual != value {
        let usual = quote(&usual);
        out.push(format!(
            "{path}: IPv6 CIDR value {shown} should be in RFC 5952 canonical format ({usual})"
        ));
    }
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

    #[test]
    fn leading_zeros_are_seen() {
        assert!(Address::parse("010.1.2.3").unwrap().zeros);
        assert!(Address::parse("::ffff:01.2.3.4").unwrap().zeros);
        assert!(Address::parse("1.2.3").is_none() && Address::parse("fe80::1%eth0").is_none());
        assert!(Cidr::parse("10.0.0.0/08").unwrap().zeros);
    }
}
