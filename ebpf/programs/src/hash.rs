//! The keyed hash behind every choice: the same flow gets the same backend and the same SNAT port on
//! every node and after every loss of state, and nobody without the secret can predict them.

use abi::{Addr, CtKey};

/// Two rounds of multiply and rotate over the tuple, folded with the cluster's secret. It has to spread
/// well and be unpredictable from outside, not to resist an attacker who sees its output.
#[inline(always)]
pub fn flow<A: Addr>(key: &CtKey<A>, secret: u64) -> u32 {
    let ports = ((key.src_port.0 as u64) << 32) | ((key.dst_port.0 as u64) << 8) | key.proto as u64;
    let mut h = secret ^ key.src.fold().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h = mix(h ^ key.dst.fold());
    h = mix(h ^ ports);
    (h >> 32) as u32
}

/// Hash of one word (socket cookies).
#[inline(always)]
pub fn word(word: u64, secret: u64) -> u32 {
    (mix(mix(word ^ secret)) >> 32) as u32
}

#[inline(always)]
fn mix(mut h: u64) -> u64 {
    h ^= h >> 32;
    h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^= h >> 29;
    h.wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// Scales a hash to 0..n without division.
#[inline(always)]
pub fn scale(hash: u32, n: u32) -> u32 {
    ((hash as u64 * n as u64) >> 32) as u32
}
