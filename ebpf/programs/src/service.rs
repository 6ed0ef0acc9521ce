//! Services: frontend → service port → backend, by affinity or by hash. One definition for pods, uplinks and sockets.

use abi::service::*;
use abi::{
    AffKey, AffValue, BeKey, BeValue, Cfg, FeKey, FeValue, Hook, List, Outcome, Port, RevValue,
    Service, SlotKey,
};

use crate::hooks::Begin;
use crate::packet::{Family, Packet};
use crate::{Kernel, hash, kernel};

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No service has this address and port.
    Nothing,
    /// Served by a local socket.
    Socket,
    /// A service port.
    Port,
    /// The VIP lives, this port does not.
    NoSuchPort,
}

/// What a frontend says. `fe` is all zeroes unless a port was found: an enum with the value inside leaves
/// bytes undefined, which the compiler may copy and the verifier then refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    pub found: Found,
    pub fe: FeValue,
}

impl Lookup {
    const fn without(found: Found) -> Self {
        Self {
            found,
            fe: FeValue {
                svc_id: 0,
                flags: 0,
                reserved: 0,
            },
        }
    }

    /// A service port.
    pub const fn port(fe: FeValue) -> Self {
        Self {
            found: Found::Port,
            fe,
        }
    }
}

/// Looks a destination up.
#[inline(always)]
pub fn frontend<A: Family, K: Kernel<A>>(
    k: &K,
    addr: A,
    port: Port,
    proto: u8,
    scope: u8,
) -> Lookup {
    let mut key = FeKey {
        addr,
        port,
        proto,
        scope,
    };
    if let Some(fe) = k.frontend(&key) {
        if fe.flags & FE_SOCKET != 0 {
            return Lookup::without(Found::Socket);
        }
        return Lookup::port(fe);
    }
    key.port = Port(0);
    key.proto = 0;
    let marked = k.frontend(&key).is_some();
    Lookup::without(if marked {
        Found::NoSuchPort
    } else {
        Found::Nothing
    })
}

/// Looks a port of the node's own address up: NodePorts, and hostPorts while there are some.
#[inline(always)]
pub fn node_port<A: Family, K: Kernel<A>>(
    k: &K,
    port: Port,
    proto: u8,
    scope: u8,
    cfg: &Cfg,
) -> Option<FeValue> {
    let number = port.get();
    let in_range = cfg.node_port_lo <= number && number <= cfg.node_port_hi;
    if !in_range && cfg.flags & abi::CFG_HOST_PORTS == 0 {
        return None;
    }
    k.frontend(&FeKey {
        addr: A::UNSPECIFIED,
        port,
        proto,
        scope,
    })
}

/// What a choice depends on, besides the lists.
#[derive(Clone, Copy)]
pub struct By<A> {
    pub hash: u32,
    /// The client as affinity knows it.
    pub client: A,
}

/// Chooses a backend of the service port: with affinity the client's last one, else by hash.
#[inline(always)]
pub fn choose<A: Family, K: Kernel<A>>(
    k: &K,
    fe: &FeValue,
    by: &By<A>,
    cfg: &Cfg,
) -> Result<BeValue<A>, Outcome> {
    let service = k.service(fe.svc_id).ok_or(Outcome::NoEndpoints)?;
    let list = list_of(&service, fe)?;
    if service.flags & SVC_AFFINITY == 0 {
        return any(k, fe, list, by.hash);
    }
    let now = kernel::seconds(k.jiffies(), cfg);
    let key = AffKey {
        client: by.client,
        svc_id: fe.svc_id,
    };
    if let Some(known) = k.affinity(&key)
        && now.wrapping_sub(known.seen) <= service.affinity
        && let Some(backend) = same(k, list, &known)
    {
        note(k, &key, known.be_ix, now);
        return Ok(backend);
    }
    let backend = any(k, fe, list, by.hash)?;
    note(k, &key, backend.be_ix, now);
    Ok(backend)
}

/// Notes which backend a client has now.
#[inline(always)]
fn note<A: Family, K: Kernel<A>>(k: &K, key: &AffKey<A>, be_ix: u32, seen: u32) {
    let value = AffValue {
        be_ix,
        be_gen: k.live(be_ix),
        seen,
        reserved: 0,
    };
    k.note_affinity(key, &value);
}

/// The backend a client had, if it still is in the list. One that is not, or that stopped serving and came
/// back, is another one.
#[inline(always)]
fn same<A: Family, K: Kernel<A>>(k: &K, list: List, known: &AffValue) -> Option<BeValue<A>> {
    if k.live(known.be_ix) != known.be_gen {
        return None;
    }
    let slot = k.slot(&SlotKey {
        list: list.list,
        be_ix: known.be_ix,
    })?;
    let list = list.list;
    let backend = k.backend(&BeKey { list, slot })?;
    if backend.list != list || backend.be_ix != known.be_ix {
        return None;
    }
    Some(backend)
}

/// Any backend of the list, by hash.
#[inline(always)]
fn any<A: Family, K: Kernel<A>>(
    k: &K,
    fe: &FeValue,
    list: List,
    hash: u32,
) -> Result<BeValue<A>, Outcome> {
    if let Some(backend) = slot(k, list, hash) {
        return Ok(backend);
    }
    // The list shrank between the two reads: its header tells the new length.
    let service = k.service(fe.svc_id).ok_or(Outcome::NoEndpoints)?;
    let list = list_of(&service, fe)?;
    slot(k, list, hash).ok_or(Outcome::MissingSlot)
}

#[inline(always)]
fn list_of(service: &Service, fe: &FeValue) -> Result<List, Outcome> {
    if fe.flags & FE_LOCAL != 0 {
        // Without any endpoint in the cluster it is refused, without one here it is dropped.
        return match (service.local.n, service.cluster.n) {
            (0, 0) => Err(Outcome::NoEndpoints),
            (0, _) => Err(Outcome::NoLocalEndpoints),
            _ => Ok(service.local),
        };
    }
    if service.cluster.n == 0 {
        Err(Outcome::NoEndpoints)
    } else {
        Ok(service.cluster)
    }
}

#[inline(always)]
fn slot<A: Family, K: Kernel<A>>(k: &K, list: List, hash: u32) -> Option<BeValue<A>> {
    let key = BeKey {
        list: list.list,
        slot: hash::scale(hash, list.n),
    };
    k.backend(&key).filter(|backend| backend.list == list.list)
}

/// Remembers by which frontend a backend is reached, should the flow's entries be lost.
#[inline(always)]
pub fn note_reversed<A: Family, K: Kernel<A>>(
    k: &mut K,
    hook: Hook,
    packet: &Packet<A>,
    begin: &Begin<A>,
) {
    let scope = if hook == Hook::PodOut {
        SCOPE_INTERNAL
    } else {
        SCOPE_EXTERNAL
    };
    let backend = FeKey {
        addr: begin.dst,
        port: begin.dst_port,
        proto: packet.key.proto,
        scope,
    };
    let (vip, port) = (packet.key.dst, packet.key.dst_port);
    let (before, before_port) = match k.reversed(&backend) {
        Some(known) if known.last == vip && known.last_port == port => return,
        Some(known) => (known.last, known.last_port),
        None => (A::UNSPECIFIED, Port(0)),
    };
    // Two frontends in use take turns.
    let value = RevValue {
        last: vip,
        before,
        last_port: port,
        before_port,
    };
    k.note_reversed(&backend, &value);
}
