//! cgroup socket hooks of the host's own processes: connect, sendmsg, recvmsg and getpeername of both
//! families. Sockets of other network namespaces (pods) are left alone, and so is every call that goes
//! wrong: a socket must not fail because of us, except towards a service without endpoints.

use abi::*;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use programs::packet::Family;
use programs::socket::{Call, Sockets, translate, translate_back};

use super::maps::FamilyMaps;
use super::skb::Skb;

/// Let the call go on.
const ALLOW: i32 = 1;
/// Fail it with EPERM.
const DENY: i32 = 0;

/// The address fields of a context, per family.
trait Fields: Family + FamilyMaps {
    fn get(ctx: *mut bpf_sock_addr) -> Self;
    fn set(ctx: *mut bpf_sock_addr, addr: Self);
}

impl Fields for V4 {
    #[inline(always)]
    fn get(ctx: *mut bpf_sock_addr) -> Self {
        // SAFETY: the kernel passes a valid context.
        Self(unsafe { (*ctx).user_ip4 })
    }

    #[inline(always)]
    fn set(ctx: *mut bpf_sock_addr, addr: Self) {
        // SAFETY: valid context.
        unsafe { (*ctx).user_ip4 = addr.0 }
    }
}

impl Fields for V6 {
    #[inline(always)]
    fn get(ctx: *mut bpf_sock_addr) -> Self {
        // SAFETY: valid context.
        Self(unsafe {
            [
                (*ctx).user_ip6[0],
                (*ctx).user_ip6[1],
                (*ctx).user_ip6[2],
                (*ctx).user_ip6[3],
            ]
        })
    }

    #[inline(always)]
    fn set(ctx: *mut bpf_sock_addr, addr: Self) {
        // SAFETY: valid context.
        unsafe {
            (*ctx).user_ip6[0] = addr.0[0];
            (*ctx).user_ip6[1] = addr.0[1];
            (*ctx).user_ip6[2] = addr.0[2];
            (*ctx).user_ip6[3] = addr.0[3];
        }
    }
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
fn forward<A: Fields>(ctx: &SockAddrContext, connected: bool) -> i32 {
    let at = ctx.sock_addr;
    if !is_host(at) {
        return ALLOW;
    }
    // SAFETY: valid context.
    let call = unsafe {
        Call {
            addr: A::get(at),
            port: Port((*at).user_port as u16),
            proto: (*at).protocol as u8,
            cookie: helper::bpf_get_socket_cookie(at.cast()),
        }
    };
    let mut k = Skb::<A>::new(core::ptr::null_mut());
    match translate(&mut k, &call, connected) {
        Ok(None) => ALLOW,
        Ok(Some((addr, port))) => {
            A::set(at, addr);
            // SAFETY: valid context.
            unsafe { (*at).user_port = port.0 as u32 };
            k.tally(Outcome::Translated);
            ALLOW
        }
        Err(outcome) => {
            k.tally(outcome);
            DENY
        }
    }
}

#[inline(always)]
fn back<A: Fields>(ctx: &SockAddrContext) -> i32 {
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
    if let Some((addr, port)) = translate_back(&k, cookie, A::get(at), port) {
        A::set(at, addr);
        // SAFETY: valid context.
        unsafe { (*at).user_port = port.0 as u32 };
    }
    ALLOW
}

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    forward::<V4>(&ctx, true)
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    forward::<V6>(&ctx, true)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    forward::<V4>(&ctx, false)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    forward::<V6>(&ctx, false)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    back::<V4>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    back::<V6>(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    back::<V4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeername6(ctx: SockAddrContext) -> i32 {
    back::<V6>(&ctx)
}
