//! Socket load balancing for the host's own processes: destinations are translated when a socket
//! connects or sends, so that no packet of the host ever carries a VIP. Answers of unconnected sockets
//! and `getpeername` are translated back by an LRU keyed by socket and backend.

use abi::service::SCOPE_INTERNAL;
use abi::{BeValue, Cfg, Outcome, Port, SockKey, SockValue};

use crate::packet::Family;
use crate::service::{By, Found};
use crate::{Kernel, hash, service};

/// A socket call about to go to an address.
#[derive(Clone, Copy, Debug)]
pub struct Call<A> {
    pub addr: A,
    pub port: Port,
    pub proto: u8,
    /// Cookie of the socket.
    pub cookie: u64,
}

/// The maps only sockets use, beyond [`Kernel`].
pub trait Sockets<A: Family>: Kernel<A> {
    fn remember(&mut self, key: &SockKey<A>, value: &SockValue<A>);
    fn recall(&self, key: &SockKey<A>) -> Option<SockValue<A>>;
    /// A number that differs between calls, for connections.
    fn random(&self) -> u32;
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It goes where it says.
    Stay,
    /// It goes to the address of the [`Way`].
    Go,
    /// It fails.
    Refuse,
}

/// What becomes of a call, and where it goes: a plain struct for the same reason as [`crate::Next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way<A> {
    pub turn: Turn,
    /// Why, if it is refused.
    pub outcome: Outcome,
    pub addr: A,
    pub port: Port,
}

impl<A: Family> Way<A> {
    #[inline(always)]
    const fn of(call: &Call<A>, turn: Turn, outcome: Outcome) -> Self {
        Self {
            turn,
            outcome,
            addr: call.addr,
            port: call.port,
        }
    }
}

/// Where the call shall go.
#[inline(always)]
pub fn translate<A: Family, K: Sockets<A>>(k: &mut K, call: &Call<A>, connected: bool) -> Way<A> {
    let stay = Way::of(call, Turn::Stay, Outcome::Translated);
    let Some(cfg) = k.cfg() else { return stay };
    let lookup = service::frontend(k, call.addr, call.port, call.proto, SCOPE_INTERNAL);
    let fe = match lookup.found {
        Found::Port => lookup.fe,
        Found::Socket => return stay,
        Found::NoSuchPort | Found::Nothing => match own_node_port(k, call, cfg) {
            Some(fe) => fe,
            None => return stay,
        },
    };
    // A connection may go anywhere; datagrams of one socket stay with one backend.
    let hash = if connected {
        k.random()
    } else {
        hash::word(call.cookie, cfg.secret)
    };
    let by = By {
        hash,
        client: A::UNSPECIFIED,
    };
    let backend: BeValue<A> = match service::choose(k, &fe, &by, cfg) {
        Ok(backend) => backend,
        Err(outcome) => return Way::of(call, Turn::Refuse, outcome),
    };
    let key = key(call.cookie, backend.addr, backend.port);
    let value = SockValue {
        addr: call.addr,
        port: call.port,
        reserved: 0,
        svc_id: fe.svc_id,
        be_ix: backend.be_ix,
    };
    k.remember(&key, &value);
    Way {
        turn: Turn::Go,
        outcome: Outcome::Translated,
        addr: backend.addr,
        port: backend.port,
    }
}

/// The address a program meant by the peer a socket has.
#[inline(always)]
pub fn translate_back<A: Family, K: Sockets<A>>(
    k: &K,
    cookie: u64,
    addr: A,
    port: Port,
) -> Option<(A, Port)> {
    k.recall(&key(cookie, addr, port))
        .map(|value| (value.addr, value.port))
}

#[inline(always)]
fn own_node_port<A: Family, K: Kernel<A>>(
    k: &K,
    call: &Call<A>,
    cfg: &Cfg,
) -> Option<abi::FeValue> {
    let fe = service::node_port(k, call.port, call.proto, SCOPE_INTERNAL, cfg)?;
    let own = call.addr.is_loopback() || k.local(&call.addr).is_some_and(|at| at.ep_ix == 0);
    own.then_some(fe)
}

#[inline(always)]
fn key<A: Family>(cookie: u64, addr: A, port: Port) -> SockKey<A> {
    SockKey {
        cookie: [cookie as u32, (cookie >> 32) as u32],
        addr,
        port,
        reserved: 0,
    }
}
