//! Address families and protocol numbers. An address is words whose memory is network byte order, so
//! that the kernel side compares and hashes words and user space converts with `From`.

use core::net::{Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// `FAMILY_*` as used in [`crate::Event::family`].
pub const FAMILY_V4: u8 = 4;
/// See [`FAMILY_V4`].
pub const FAMILY_V6: u8 = 6;

pub const PROTO_ICMP: u8 = 1;
pub const PROTO_TCP: u8 = 6;
pub const PROTO_UDP: u8 = 17;
pub const PROTO_ICMPV6: u8 = 58;
pub const PROTO_SCTP: u8 = 132;

/// A port (or ICMP echo identifier) in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Port(pub u16);

impl Port {
    /// From host order.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(port.to_be())
    }

    /// To host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// An IPv4 address; memory is network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct V4(pub u32);

/// An IPv6 address; memory is network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct V6(pub [u32; 4]);

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::V4 {}
    impl Sealed for super::V6 {}
}

/// An address family, through its address type. Sealed: [`V4`] and [`V6`].
pub trait Addr: sealed::Sealed + Pod + Eq + core::fmt::Debug + core::hash::Hash {
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    const FAMILY: u8;
    /// Bits of an address: 32 or 128.
    const BITS: u32;
    /// The ICMP of this family.
    const ICMP: u8;
    /// 0.0.0.0 or ::.
    const UNSPECIFIED: Self;

    /// As an IPv6 address (v4 mapped), for events.
    fn to_v6(self) -> V6;
    /// Mixes the address into 64 bits.
    fn fold(self) -> u64;
}

impl Addr for V4 {
    const FAMILY: u8 = FAMILY_V4;
    const BITS: u32 = 32;
    const ICMP: u8 = PROTO_ICMP;
    const UNSPECIFIED: Self = Self(0);

    #[inline(always)]
    fn to_v6(self) -> V6 {
        V6([0, 0, 0xffff_u32.to_be(), self.0])
    }

    #[inline(always)]
    fn fold(self) -> u64 {
        self.0 as u64
    }
}

impl Addr for V6 {
    const FAMILY: u8 = FAMILY_V6;
    const BITS: u32 = 128;
    const ICMP: u8 = PROTO_ICMPV6;
    const UNSPECIFIED: Self = Self([0; 4]);

    #[inline(always)]
    fn to_v6(self) -> V6 {
        self
    }

    #[inline(always)]
    fn fold(self) -> u64 {
        let [a, b, c, d] = self.0;
        let hi = ((a as u64) << 32) | b as u64;
        let lo = ((c as u64) << 32) | d as u64;
        hi.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ lo
    }
}

impl From<Ipv4Addr> for V4 {
    fn from(addr: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(addr.octets()))
    }
}

impl From<V4> for Ipv4Addr {
    fn from(addr: V4) -> Self {
        Self::from(addr.0.to_ne_bytes())
    }
}

impl From<Ipv6Addr> for V6 {
    fn from(addr: Ipv6Addr) -> Self {
        Self(bytemuck::cast(addr.octets()))
    }
}

impl From<V6> for Ipv6Addr {
    fn from(addr: V6) -> Self {
        Self::from(bytemuck::cast::<[u32; 4], [u8; 16]>(addr.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_in_network_byte_order() {
        let v4 = V4::from(Ipv4Addr::new(10, 244, 1, 2));
        assert_eq!(bytemuck::bytes_of(&v4), &[10, 244, 1, 2]);
        assert_eq!(Ipv4Addr::from(v4), Ipv4Addr::new(10, 244, 1, 2));
        let addr: Ipv6Addr = "fd00::1:2".parse().unwrap();
        assert_eq!(Ipv6Addr::from(V6::from(addr)), addr);
        assert_eq!(
            Ipv6Addr::from(v4.to_v6()),
            Ipv4Addr::new(10, 244, 1, 2).to_ipv6_mapped()
        );
    }

    #[test]
    fn a_port_is_kept_in_network_byte_order() {
        assert_eq!(bytemuck::bytes_of(&Port::new(0x1f90)), &[0x1f, 0x90]);
        assert_eq!(Port::new(8080).get(), 8080);
    }
}
