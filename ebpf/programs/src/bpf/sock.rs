//! cgroup socket hooks of the host's own processes: connect, sendmsg, recvmsg and getpeername of both
//! families. Sockets of other network namespaces (pods) are left alone, and so is every call that goes
//! wrong: a socket must not fail because of us, except towards a service without endpoints.

use abi::*;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use programs::packet::Family;
use programs::socket::{Call, Sockets, Turn, translate, translate_back};

use super::maps::FamilyMaps;
use super::skb::Skb;

/// Let the call go on.
const ALLOW: i32 = 1;
/// Fail it, with EPERM unless told otherwise.
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// Where a context keeps an address of family `A`.
trait Fields<A> {
    fn get(ctx: *mut bpf_sock_addr) -> A;
    fn set(ctx: *mut bpf_sock_addr, addr: A);
}

/// An IPv4 socket.
struct Four;
/// An IPv6 socket.
struct Six;
/// An IPv6 socket that speaks IPv4 (`::ffff:a.b.c.d`).
struct Mapped;

impl Fields<V4> for Four {
    #[inline(always)]
    fn get(ctx: *mut bpf_sock_addr) -> V4 {
        // SAFETY: the kernel passes a valid context.
        V4(unsafe { (*ctx).user_ip4 })
    }

    #[inline(always)]
    fn set(ctx: *mut bpf_sock_addr, addr: V4) {
        // SAFETY: valid context.
        unsafe { (*ctx).user_ip4 = addr.0 }
    }
}

impl Fields<V4> for Mapped {
    #[inline(always)]
    fn get(ctx: *mut bpf_sock_addr) -> V4 {
        // SAFETY: valid context.
        V4(unsafe { (*ctx).user_ip6[3] })
    }

    #[inline(always)]
    fn set(ctx: *mut bpf_sock_addr, addr: V4) {
        // SAFETY: valid context.
        unsafe { (*ctx).user_ip6[3] = addr.0 }
    }
}

impl Fields<V6> for Six {
    #[inline(always)]
    fn get(ctx: *mut bpf_sock_addr) -> V6 {
        // SAFETY: valid context.
        V6(unsafe {
            [
                (*ctx).user_ip6[0],
                (*ctx).user_ip6[1],
                (*ctx).user_ip6[2],
                (*ctx).user_ip6[3],
            ]
        })
    }

    #[inline(always)]
    fn set(ctx: *mut bpf_sock_addr, addr: V6) {
        // SAFETY: valid context.
        unsafe {
            (*ctx).user_ip6[0] = addr.0[0];
            (*ctx).user_ip6[1] = addr.0[1];
            (*ctx).user_ip6[2] = addr.0[2];
            (*ctx).user_ip6[3] = addr.0[3];
        }
    }
}

/// Whether an IPv6 socket is about to speak IPv4.
#[inline(always)]
fn is_mapped(ctx: &SockAddrContext) -> bool {
    let [a, b, c, _] = Six::get(ctx.sock_addr).0;
    a == 0 && b == 0 && c == 0xffff_u32.to_be()
}

impl<A: Family + FamilyMaps> Sockets<A> for Skb<A> {
    #[inline(always)]
    fn remember(&mut self, key: &SockKey<A>, value: &SockValue<A>) {
        // A full LRU evicts; losing an entry costs a name, not a connection.
        let _ = A::sock().insert(key, value, 0);
    }

    #[inline(always)]
    fn recall(&self, key: &SockKey<A>) -> Option<SockValue<A>> {
        // SAFETY: copied out at once.
        unsafe { A::sock().get(key).copied() }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes no argument.
        unsafe { helper::bpf_get_prandom_u32() }
    }
}

/// Whether the socket belongs to the node's own network namespace.
#[inline(always)]
fn is_host(ctx: *mut bpf_sock_addr) -> bool {
    // SAFETY: valid context.
    let cookie = unsafe { helper::bpf_get_netns_cookie(ctx.cast()) };
    super::maps::CFG
        .get(0)
        .is_some_and(|cfg| cfg.netns_cookie == cookie)
}

#[inline(always)]
fn forward<F: Fields<A>, A: Family + FamilyMaps>(ctx: &SockAddrContext, connected: bool) -> i32 {
    let at = ctx.sock_addr;
    if !is_host(at) {
        return ALLOW;
    }
    // SAFETY: valid context.
    let call = unsafe {
        Call {
            addr: F::get(at),
            port: Port((*at).user_port as u16),
            proto: (*at).protocol as u8,
            cookie: helper::bpf_get_socket_cookie(at.cast()),
        }
    };
    let mut k = Skb::<A>::new(core::ptr::null_mut());
    let way = translate(&mut k, &call, connected);
    match way.turn {
        Turn::Stay => ALLOW,
        Turn::Go => {
            F::set(at, way.addr);
            // SAFETY: valid context.
            unsafe { (*at).user_port = way.port.0 as u32 };
            k.tally(Outcome::Translated);
            ALLOW
        }
        Turn::Refuse => {
            k.tally(way.outcome);
            // SAFETY: the helper takes a number. Linux 5.18.
            unsafe { helper::bpf_set_retval(-ECONNREFUSED) };
            DENY
        }
    }
}

#[inline(always)]
fn back<F: Fields<A>, A: Family + FamilyMaps>(ctx: &SockAddrContext) -> i32 {
    let at = ctx.sock_addr;
    if !is_host(at) {
        return ALLOW;
    }
    // SAFETY: valid context.
    let (cookie, port) = unsafe {
        (
            helper::bpf_get_socket_cookie(at.cast()),
            Port((*at).user_port as u16),
        )
    };
    let k = Skb::<A>::new(core::ptr::null_mut());
    if let Some((addr, port)) = translate_back(&k, cookie, F::get(at), port) {
        F::set(at, addr);
        // SAFETY: valid context.
        unsafe { (*at).user_port = port.0 as u32 };
    }
    ALLOW
}

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    forward::<Four, V4>(&ctx, true)
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    if is_mapped(&ctx) {
        forward::<Mapped, V4>(&ctx, true)
    } else {
        forward::<Six, V6>(&ctx, true)
    }
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    forward::<Four, V4>(&ctx, false)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    if is_mapped(&ctx) {
        forward::<Mapped, V4>(&ctx, false)
    } else {
        forward::<Six, V6>(&ctx, false)
    }
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    back::<Four, V4>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    if is_mapped(&ctx) {
        back::<Mapped, V4>(&ctx)
    } else {
        back::<Six, V6>(&ctx)
    }
}

#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    back::<Four, V4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeername6(ctx: SockAddrContext) -> i32 {
    if is_mapped(&ctx) {
        back::<Mapped, V4>(&ctx)
    } else {
        back::<Six, V6>(&ctx)
    }
}
