//! Local endpoints → rows, in the order the abi prescribes: closed first, open when the policies are
//! loaded, gone in reverse.

use std::net::IpAddr;

use abi::{Endpoint, LocalAddr, Mac};

use super::node::local_row;
use crate::net::rows::{Key, Row, Step};

/// A pod's interface on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    pub ep_ix: u32,
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub addresses: Vec<IpAddr>,
}

/// What the policies say about an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// 0: under no policy.
    pub set_id: u32,
    /// `abi::ISOLATED_*`.
    pub isolation: u8,
}

/// The endpoint exists, and nothing passes.
pub fn close(local: &Local) -> Vec<Step> {
    let mut steps = vec![
        Step::Put(Row::EpMac(local.ep_ix, Mac::new(local.mac))),
        Step::BumpEpoch(local.ep_ix),
        Step::Put(Row::Ep(local.ep_ix, Endpoint::closed(local.ifindex))),
    ];
    let pod = LocalAddr::pod(local.ep_ix);
    steps.extend(
        local
            .addresses
            .iter()
            .map(|a| Step::Put(local_row(*a, pod))),
    );
    steps
}

/// The row of an endpoint whose policies are loaded; one write flips families and directions.
pub fn open(local: &Local, verdicts: Verdicts) -> Row {
    let value = Endpoint {
        ifindex: local.ifindex,
        set_id: verdicts.set_id,
        isolation: verdicts.isolation,
        flags: abi::EP_READY,
        reserved: [0; 6],
    };
    Row::Ep(local.ep_ix, value)
}

/// The rows of an endpoint an earlier agent opened, without its `ep` row: traffic goes on.
pub fn adopt(local: &Local) -> Vec<Step> {
    let pod = LocalAddr::pod(local.ep_ix);
    let mac = Step::Put(Row::EpMac(local.ep_ix, Mac::new(local.mac)));
    local
        .addresses
        .iter()
        .map(|a| Step::Put(local_row(*a, pod)))
        .chain([mac])
        .collect()
}

/// The endpoint is gone.
pub fn remove(local: &Local) -> Vec<Step> {
    let pod = LocalAddr::pod(local.ep_ix);
    let addresses = local
        .addresses
        .iter()
        .map(|a| Step::Remove(local_row(*a, pod).key()));
    let mut steps: Vec<Step> = addresses.collect();
    steps.push(Step::Remove(Key::Ep(local.ep_ix)));
    steps.push(Step::Remove(Key::EpMac(local.ep_ix)));
    steps.push(Step::BumpEpoch(local.ep_ix));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_reachable_by_its_address_only_after_it_is_closed() {
        let local = Local {
            ep_ix: 3,
            ifindex: 9,
            mac: [2; 6],
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        };
        let steps = close(&local);
        let position = |wanted: fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
        let ep = position(|s| matches!(s, Step::Put(Row::Ep(..))));
        let ip4 = position(|s| matches!(s, Step::Put(Row::Ip4(..))));
        let ip6 = position(|s| matches!(s, Step::Put(Row::Ip6(..))));
        assert!(ep < ip4 && ep < ip6);
        let Step::Put(Row::Ep(_, value)) = steps[ep] else {
            panic!("checked above")
        };
        assert_eq!(value.flags & abi::EP_READY, 0);
        assert_eq!(
            value.isolation,
            abi::ISOLATED_INGRESS | abi::ISOLATED_EGRESS
        );
    }
}
