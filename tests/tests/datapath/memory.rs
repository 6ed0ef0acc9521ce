//! Cases of what the datapath remembers: conntrack entries, clients with affinity, their ends.

use std::net::IpAddr;

use abi::{Hook, Outcome};

use super::addr;
use super::machine::Way;
use super::packet::{ACK, Packet, RST, SYN};
use super::world::{Sample, World};

pub fn datagrams_leave_a_backend_that_stopped_serving<A: Sample>(w: &mut World<A>) {
    w.service(1, A::VIP, 53, abi::PROTO_UDP, &[(A::POD3, 53, 1)]);
    let question = Packet::udp((addr(A::POD2), 40_000), (addr(A::VIP), 53));
    assert_eq!(w.pod2_sends(&question).1.dst, addr(A::POD3));
    w.service(1, A::VIP, 53, abi::PROTO_UDP, &[(A::REMOTE, 53, 2)]);
    assert_eq!(
        w.pod2_sends(&question).1.dst,
        addr(A::POD3),
        "still serving"
    );
    w.live(1, 2);
    assert_eq!(w.pod2_sends(&question).1.dst, addr(A::REMOTE), "at once");
}

pub fn a_client_with_affinity_stays_with_its_backend<A: Sample>(w: &mut World<A>) {
    const TIMEOUT: u32 = 100;
    let (local, remote) = ((A::POD3, 80, 1), (A::REMOTE, 80, 2));
    let mut port = 40_000;
    let mut backends = |w: &mut World<A>| {
        let mut seen = Vec::new();
        for _ in 0..24 {
            port += 1;
            let syn = Packet::tcp((addr(A::POD2), port), (addr(A::VIP), 80), SYN);
            seen.push(w.pod2_sends(&syn).1.dst);
        }
        seen.sort();
        seen.dedup();
        seen
    };
    w.service(1, A::VIP, 80, abi::PROTO_TCP, &[local, remote]);
    assert_eq!(backends(w).len(), 2, "without affinity it is balanced");
    w.affinity(1, TIMEOUT);
    let stays = backends(w);
    assert_eq!(stays.len(), 1);
    // It moves within the list, and stays the client's.
    let third = (A::OUTSIDE, 80, 3);
    w.service(1, A::VIP, 80, abi::PROTO_TCP, &[third, remote, local]);
    w.affinity(1, TIMEOUT);
    assert_eq!(backends(w), stays);
    w.age_clients(TIMEOUT - 1);
    assert_eq!(backends(w), stays);
    // It is not in the list any more: another one, and that one from then on.
    let (chosen, other) = if stays == [addr(local.0)] {
        (local, remote)
    } else {
        (remote, local)
    };
    w.service(1, A::VIP, 80, abi::PROTO_TCP, &[other]);
    w.affinity(1, TIMEOUT);
    assert_eq!(backends(w), [addr(other.0)]);
    w.service(1, A::VIP, 80, abi::PROTO_TCP, &[chosen, other]);
    w.affinity(1, TIMEOUT);
    assert_eq!(backends(w), [addr(other.0)]);
    // A backend that stopped serving meanwhile is another one, and so is one that was left long ago.
    let moves = |w: &mut World<A>,
                 backends: &mut dyn FnMut(&mut World<A>) -> Vec<IpAddr>,
                 forget: &dyn Fn(&mut World<A>)| {
        (0..24).any(|_| {
            forget(w);
            backends(w) != [addr(other.0)]
        })
    };
    let incarnation = std::cell::Cell::new(1);
    assert!(moves(w, &mut backends, &|w| {
        incarnation.set(incarnation.get() + 1);
        w.live(other.2, incarnation.get());
        w.live(chosen.2, incarnation.get());
    }));
    assert!(moves(w, &mut backends, &|w| w.age_clients(TIMEOUT + 2)));
}

pub fn entries_end_and_flows_begin_anew<A: Sample>(w: &mut World<A>) {
    let question = Packet::udp((addr(A::POD2), 40_000), (addr(A::POD3), 53));
    let _ = w.pod2_sends(&question);
    w.age(abi::timeout::UDP - 5);
    let _ = w.pod2_sends(&question);
    assert_eq!(
        w.count(Hook::PodOut, Outcome::NewFlow),
        1,
        "an entry in use lives on"
    );
    w.age(abi::timeout::UDP + 5);
    let _ = w.pod2_sends(&question);
    assert_eq!(
        w.count(Hook::PodOut, Outcome::NewFlow),
        2,
        "expiry is decided at lookup"
    );
    let _ = w.pod3_sends(&question.reply(0));
    w.age(abi::timeout::UDP + 5);
    let _ = w.pod2_sends(&question);
    assert_eq!(
        w.count(Hook::PodOut, Outcome::NewFlow),
        2,
        "answered flows live longer"
    );
    let now = w.machine.seconds();
    assert_eq!(w.machine.maps().sweep(now).expect("sweep").1, 0);
    w.age(abi::timeout::UDP_ASSURED + 5);
    assert_eq!(w.machine.maps().sweep(now).expect("sweep"), (2, 2));
}

pub fn a_lost_entry_is_picked_up_and_no_reset_reaches_a_server<A: Sample>(w: &mut World<A>) {
    w.service(1, A::VIP, 80, abi::PROTO_TCP, &[(A::POD3, 8080, 1)]);
    let syn = Packet::tcp((addr(A::POD2), 40_000), (addr(A::VIP), 80), SYN);
    let _ = w.pod2_sends(&syn);
    let ack = Packet {
        flags: ACK,
        ..syn.clone()
    };
    let answer = Packet::tcp((addr(A::POD3), 8080), (addr(A::POD2), 40_000), ACK);

    // The server speaks first after the loss: the frontend its clients use is the first guess.
    w.forget();
    let (way, out) = w.pod3_sends(&answer);
    assert_eq!(
        (way, out.src, out.src_port),
        (Way::Redirect, addr(A::VIP), 80)
    );
    let (way, out) = w.pod2_sends(&ack);
    assert_eq!(
        (way, out.dst, out.dst_port),
        (Way::Redirect, addr(A::POD3), 8080)
    );

    // A client that was connected directly does not know the frontend and resets it; the server must not
    // hear that, and its next packet is not translated.
    w.forget();
    let direct = Packet::tcp((addr(A::POD2), 40_000), (addr(A::POD3), 8080), ACK);
    let (_, guessed) = w.pod3_sends(&answer);
    assert_eq!(w.pod2_sends(&guessed.reply(RST)).0, Way::Drop);
    assert_eq!(w.count(Hook::PodOut, Outcome::ResetGuarded), 1);
    let (_, second) = w.pod3_sends(&answer);
    let known = if second.src_port == 0 {
        w.pod3_sends(&answer).1
    } else {
        second
    };
    assert_eq!((known.src, known.src_port), (addr(A::POD3), 8080));
    assert_eq!(w.pod2_sends(&direct).0, Way::Redirect);
    assert_eq!(w.pod3_sends(&answer).1.src, addr(A::POD3), "known now");
    let (way, out) = w.pod2_sends(&Packet {
        flags: RST,
        ..direct
    });
    assert_eq!(
        (way, out.flags),
        (Way::Redirect, RST),
        "a client's own reset passes"
    );

    // The client speaks first: the hash finds its backend again, whatever was guessed before.
    w.forget();
    let _ = w.pod3_sends(&answer);
    let (_, out) = w.pod2_sends(&ack);
    assert_eq!((out.dst, out.dst_port), (addr(A::POD3), 8080));
    assert_eq!(w.pod3_sends(&answer).1.src, addr(A::VIP));

    // Whoever is no backend is not guarded.
    let plain = Packet::tcp((addr(A::POD3), 9999), (addr(A::POD2), 40_009), ACK);
    let _ = w.pod3_sends(&plain);
    assert_eq!(w.pod2_sends(&plain.reply(RST)).0, Way::Redirect);
}
