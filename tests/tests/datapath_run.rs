//! Single packets through every program: verdict, bytes, counters and conntrack, in the kernel
//! (`BPF_PROG_TEST_RUN`) and, the same cases, with the logic compiled for the host; IPv4 and IPv6.

#[path = "datapath/lab.rs"]
#[allow(dead_code, reason = "shared by several tests")]
mod lab;
#[path = "datapath/machine.rs"]
mod machine;
#[path = "datapath/memory.rs"]
mod memory;
#[path = "datapath/packet.rs"]
mod packet;
#[path = "datapath/world.rs"]
mod world;

use std::net::IpAddr;

use abi::{Hook, Outcome, V4, V6};
use agent::net::load::Families;
use machine::{Machine, Way};
use memory::*;
use packet::{ACK, FIN, Packet, RST, SYN};
use world::{OUT_IF, POD2_IF, POD3_IF, Sample, World};

/// A case by its name.
type Case<A> = (&'static str, fn(&mut World<A>));

/// Every case as a test in memory for each family; and all of them, one after the other, by the programs
/// in the kernel, which take a while to load.
macro_rules! cases {
    ($($name:ident;)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn in_memory_v4() {
                super::$name(&mut World::<V4>::new(Machine::memory()));
            }

            #[test]
            fn in_memory_v6() {
                super::$name(&mut World::<V6>::new(Machine::memory()));
            }
        })*

        fn all<A: Sample>() -> Vec<Case<A>> {
            vec![$((stringify!($name), $name as fn(&mut World<A>))),*]
        }
    };
}

#[test]
fn every_case_in_the_kernel_v4() {
    in_the_kernel::<V4>("v4");
}

#[test]
fn every_case_in_the_kernel_v6() {
    in_the_kernel::<V6>("v6");
}

fn in_the_kernel<A: Sample>(name: &str) {
    let mut machine = Machine::kernel(name);
    for (case, run) in all::<A>() {
        println!("case {case}");
        machine.clear();
        let mut world = World::new(machine);
        run(&mut world);
        machine = world.machine;
    }
}

cases! {
    a_pod_reaches_a_service_and_hears_its_address;
    packets_that_must_not_pass_are_dropped_with_their_reason;
    datagrams_in_fragments_stay_together;
    a_service_without_endpoints_refuses;
    the_outside_is_reached_with_a_claimed_port;
    a_node_port_with_a_remote_backend_is_translated_twice;
    a_syn_chooses_again_and_the_middle_of_a_connection_does_not;
    datagrams_leave_a_backend_that_stopped_serving;
    a_client_with_affinity_stays_with_its_backend;
    entries_end_and_flows_begin_anew;
    a_lost_entry_is_picked_up_and_no_reset_reaches_a_server;
    policy_is_asked_after_translation;
    the_host_and_its_pods;
    an_address_with_a_new_owner_is_not_the_old_pod;
}

fn addr<A: Sample>(addr: A) -> IpAddr {
    addr.ip()
}

fn a_pod_reaches_a_service_and_hears_its_address<A: Sample>(w: &mut World<A>) {
    w.service(1, A::VIP, 80, abi::PROTO_TCP, &[(A::POD3, 8080, 1)]);
    let syn = Packet::tcp((addr(A::POD2), 40_000), (addr(A::VIP), 80), SYN);
    let (way, out) = w.pod2_sends(&syn);
    assert_eq!(way, Way::Redirect);
    let expected = Packet {
        dst: addr(A::POD3),
        dst_port: 8080,
        ..syn.clone()
    };
    assert_eq!(out, expected);
    assert_eq!(w.flows(), 2, "two entries per flow");
    let (way, back) = w.pod3_sends(&expected.reply(SYN | ACK));
    assert_eq!(way, Way::Redirect);
    assert_eq!(back, syn.reply(SYN | ACK));
    for flags in [ACK, ACK | FIN] {
        let (_, out) = w.pod2_sends(&Packet {
            flags,
            ..syn.clone()
        });
        assert_eq!(out.dst, addr(A::POD3));
    }
    assert_eq!(w.count(Hook::PodOut, Outcome::NewFlow), 1);
    assert_eq!(w.count(Hook::PodOut, Outcome::Forwarded), 3);

    w.service(2, A::VIP, 53, abi::PROTO_UDP, &[(A::POD3, 5353, 2)]);
    let question = Packet::udp((addr(A::POD2), 40_001), (addr(A::VIP), 53));
    let (_, out) = w.pod2_sends(&question);
    assert_eq!((out.dst, out.dst_port), (addr(A::POD3), 5353));
    let (_, back) = w.pod3_sends(&out.reply(0));
    assert_eq!(back, question.reply(0));

    // The only backend asks itself.
    let own = Packet::tcp((addr(A::POD3), 40_002), (addr(A::VIP), 80), SYN);
    let (_, out) = w.pod3_sends(&own);
    assert_eq!((out.src, out.dst), (addr(A::HAIRPIN), addr(A::POD3)));
    let (_, back) = w.pod3_sends(&out.reply(SYN | ACK));
    assert_eq!(back, own.reply(SYN | ACK));
}

fn packets_that_must_not_pass_are_dropped_with_their_reason<A: Sample>(w: &mut World<A>) {
    let to = (addr(A::POD3), 80);
    let syn = |src| Packet::tcp((src, 40_000), to, SYN);
    let from = |w: &mut World<A>, packet: &Packet| w.pod2_sends(packet).0;
    let expect =
        |w: &World<A>, outcome| assert_eq!(w.count(Hook::PodOut, outcome), 1, "{outcome:?}");

    assert_eq!(from(w, &syn(addr(A::POD3))), Way::Drop);
    expect(w, Outcome::Spoofed);
    let stray = Packet::tcp((addr(A::POD2), 1), (addr(A::UNUSED_POD), 80), SYN);
    assert_eq!(from(w, &stray), Way::Drop);
    expect(w, Outcome::NoSuchPod);
    let stray = Packet::tcp((addr(A::POD2), 1), (addr(A::UNUSED_VIP), 80), SYN);
    assert_eq!(from(w, &stray), Way::Drop);
    expect(w, Outcome::NoSuchService);
    let multicast = Packet::udp((addr(A::POD2), 1), (addr(A::MULTICAST), 80));
    assert_eq!(from(w, &multicast), Way::Drop);
    expect(w, Outcome::Multicast);
    let tunnel = Packet {
        proto: 47,
        ..syn(addr(A::POD2))
    };
    assert_eq!(
        w.arrive(Hook::PodOut, POD2_IF, &tunnel.bytes()).0,
        Way::Drop
    );
    expect(w, Outcome::Protocol);
    let mut short = syn(addr(A::POD2)).bytes();
    short.truncate(short.len() - 15);
    assert_eq!(w.arrive(Hook::PodOut, POD2_IF, &short).0, Way::Drop);
    expect(w, Outcome::Malformed);
    w.endpoint(2, POD2_IF, 0, 0, 0);
    assert_eq!(from(w, &syn(addr(A::POD2))), Way::Drop);
    expect(w, Outcome::NotReady);
    assert_eq!(w.flows(), 0, "no entry for what was dropped");
}

fn datagrams_in_fragments_stay_together<A: Sample>(w: &mut World<A>) {
    const SPLIT: usize = 16;
    fn send<A: Sample>(w: &mut World<A>, ifindex: u32, packet: &Packet) -> Packet {
        Packet::join(&packet.fragments(SPLIT).map(|part| {
            let (way, out) = w.arrive(Hook::PodOut, ifindex, &part);
            assert_eq!(way, Way::Redirect);
            out
        }))
    }
    w.service(1, A::VIP, 53, abi::PROTO_UDP, &[(A::POD3, 5353, 1)]);
    let question = Packet {
        payload: (0..100).collect(),
        ..Packet::udp((addr(A::POD2), 40_000), (addr(A::VIP), 53))
    };
    let [_, overtaking] = question.fragments(SPLIT);
    let (way, _) = w.arrive(Hook::PodOut, POD2_IF, &overtaking);
    assert_eq!(way, Way::Drop);
    assert_eq!(w.count(Hook::PodOut, Outcome::Fragment), 1);
    for _ in ["a new flow", "a known one"] {
        let out = send(w, POD2_IF, &question);
        let expected = Packet {
            dst: addr(A::POD3),
            dst_port: 5353,
            ..question.clone()
        };
        assert_eq!(out, expected);
        assert_eq!(send(w, POD3_IF, &out.reply(0)), question.reply(0));
    }
    assert_eq!(w.flows(), 2);

    let outwards = Packet {
        dst: addr(A::OUTSIDE),
        ..question
    };
    let out = send(w, POD2_IF, &outwards);
    assert_eq!((out.src, out.ttl), (addr(A::NODE), 63));
    assert_eq!(out.payload, outwards.payload);
}

fn a_service_without_endpoints_refuses<A: Sample>(w: &mut World<A>) {
    w.service(1, A::VIP, 80, abi::PROTO_TCP, &[]);
    w.service(2, A::VIP, 53, abi::PROTO_UDP, &[]);
    let syn = Packet::tcp((addr(A::POD2), 40_000), (addr(A::VIP), 80), SYN);
    let (way, answer) = w.pod2_sends(&syn);
    assert_eq!(way, Way::Redirect);
    let expected = Packet {
        seq: 0,
        ack: syn.seq + 1,
        ..syn.reply(RST | ACK)
    };
    assert_eq!(answer, expected);
    let late = Packet {
        payload: b"data".to_vec(),
        ..Packet {
            flags: ACK,
            ..syn.clone()
        }
    };
    let (_, answer) = w.pod2_sends(&late);
    assert_eq!(
        (answer.flags, answer.seq, answer.payload.len()),
        (RST, late.ack, 0)
    );
    let reset = Packet {
        flags: RST,
        ..syn.clone()
    };
    assert_eq!(w.pod2_sends(&reset).0, Way::Drop, "a reset is not answered");
    let datagram = Packet::udp((addr(A::POD2), 40_000), (addr(A::VIP), 53));
    let (way, answer) = w.pod2_sends(&datagram);
    assert_eq!((way, answer.proto), (Way::Redirect, A::ICMP));
    assert_eq!((answer.src, answer.dst), (datagram.dst, datagram.src));
    let network_header = if A::FAMILY == 4 { 20 } else { 40 };
    assert_eq!(
        answer.payload.len(),
        network_header + 8,
        "quotes the datagram's headers"
    );
    let unknown = Packet::tcp((addr(A::POD2), 40_000), (addr(A::VIP), 81), SYN);
    assert_eq!(
        w.pod2_sends(&unknown).1.flags,
        RST | ACK,
        "an unknown port of a living VIP"
    );
}

fn the_outside_is_reached_with_a_claimed_port<A: Sample>(w: &mut World<A>) {
    let syn = Packet::tcp((addr(A::POD2), 40_000), (addr(A::OUTSIDE), 443), SYN);
    let (way, out) = w.pod2_sends(&syn);
    assert_eq!(
        (way, out.src, out.dst),
        (Way::Redirect, addr(A::NODE), addr(A::OUTSIDE))
    );
    assert!((abi::SNAT_LO..=abi::SNAT_HI).contains(&out.src_port));
    assert_eq!(out.ttl, syn.ttl - 1);
    let (way, back) = w.arrive_parsed(Hook::UplinkIn, OUT_IF, &out.reply(SYN | ACK));
    assert_eq!((way, back), (Way::Redirect, syn.reply(SYN | ACK)));

    w.forget();
    let (_, again) = w.pod2_sends(&Packet {
        flags: ACK,
        ..syn.clone()
    });
    assert_eq!(
        again.src_port, out.src_port,
        "the hash finds the same port again"
    );
    let second = Packet::tcp((addr(A::POD3), 40_000), (addr(A::OUTSIDE), 443), SYN);
    let (_, other) = w.pod3_sends(&second);
    assert_ne!(other.src_port, out.src_port, "one port, one flow");

    let ping = Packet::echo(addr(A::POD2), addr(A::OUTSIDE), 77, false);
    let (_, out) = w.pod2_sends(&ping);
    assert_eq!(out.src, addr(A::NODE));
    let reply = Packet::echo(out.dst, out.src, out.src_port, true);
    let (way, back) = w.arrive_parsed(Hook::UplinkIn, OUT_IF, &reply);
    assert_eq!(
        (way, back.dst, back.dst_port),
        (Way::Redirect, addr(A::POD2), 77)
    );

    w.configure(|cfg| cfg.snat_lo = cfg.snat_hi);
    let udp = |port| Packet::udp((addr(A::POD2), port), (addr(A::OUTSIDE), 53));
    assert_eq!(w.pod2_sends(&udp(1)).0, Way::Redirect);
    assert_eq!(w.pod2_sends(&udp(2)).0, Way::Drop);
    assert_eq!(w.count(Hook::PodOut, Outcome::SnatExhausted), 1);
}

fn a_node_port_with_a_remote_backend_is_translated_twice<A: Sample>(w: &mut World<A>) {
    w.node_port(1, 30_080, &[(A::REMOTE, 8080, 2)]);
    let syn = Packet::tcp((addr(A::OUTSIDE), 40_000), (addr(A::NODE), 30_080), SYN);
    let (way, out) = w.arrive_parsed(Hook::UplinkIn, OUT_IF, &syn);
    assert_eq!(
        (way, out.src, out.dst, out.dst_port),
        (Way::Redirect, syn.dst, addr(A::REMOTE), 8080)
    );
    assert_eq!(out.ttl, syn.ttl - 1);
    let (way, back) = w.arrive_parsed(Hook::UplinkIn, OUT_IF, &out.reply(SYN | ACK));
    let expected = Packet {
        ttl: 63,
        ..syn.reply(SYN | ACK)
    };
    assert_eq!((way, back), (Way::Redirect, expected));

    w.node_port(2, 30_081, &[(A::POD2, 8080, 1)]);
    let syn = Packet::tcp((addr(A::OUTSIDE), 40_000), (addr(A::NODE), 30_081), SYN);
    let (_, out) = w.arrive_parsed(Hook::UplinkIn, OUT_IF, &syn);
    assert_eq!(
        (out.src, out.dst),
        (syn.src, addr(A::POD2)),
        "a local backend sees the client"
    );

    let ssh = Packet::tcp((addr(A::OUTSIDE), 40_000), (addr(A::NODE), 22), SYN);
    assert_eq!(
        w.arrive_parsed(Hook::UplinkIn, OUT_IF, &ssh),
        (Way::Pass, ssh)
    );
    let old = Packet::tcp(
        (addr(A::OUTSIDE), 443),
        (addr(A::NODE), abi::SNAT_LO + 7),
        ACK,
    );
    assert_eq!(w.arrive(Hook::UplinkIn, OUT_IF, &old.bytes()).0, Way::Drop);
    assert_eq!(
        w.count(Hook::UplinkIn, Outcome::NoFlow),
        1,
        "the host must not reset it"
    );
    let spoofed = Packet::tcp((addr(A::POD3), 1), (addr(A::POD2), 80), SYN);
    assert_eq!(
        w.arrive(Hook::UplinkIn, OUT_IF, &spoofed.bytes()).0,
        Way::Drop
    );
    assert_eq!(w.count(Hook::UplinkIn, Outcome::Spoofed), 1);
}

fn a_syn_chooses_again_and_the_middle_of_a_connection_does_not<A: Sample>(w: &mut World<A>) {
    w.service(1, A::VIP, 80, abi::PROTO_TCP, &[(A::POD3, 8080, 1)]);
    let syn = Packet::tcp((addr(A::POD2), 40_000), (addr(A::VIP), 80), SYN);
    let (_, first) = w.pod2_sends(&syn);
    let _ = w.pod3_sends(&first.reply(SYN | ACK));
    let _ = w.pod2_sends(&Packet {
        flags: ACK,
        ..syn.clone()
    });
    w.service(1, A::VIP, 80, abi::PROTO_TCP, &[(A::REMOTE, 9090, 2)]);
    let (_, middle) = w.pod2_sends(&Packet {
        flags: ACK,
        ..syn.clone()
    });
    assert_eq!(middle.dst, addr(A::POD3), "keeps its backend");
    let (_, new) = w.pod2_sends(&syn);
    assert_eq!(
        (new.dst, new.dst_port),
        (addr(A::REMOTE), 9090),
        "a new connection"
    );
    w.service(1, A::VIP, 80, abi::PROTO_TCP, &[(A::POD3, 8080, 3)]);
    let (_, again) = w.pod2_sends(&syn);
    assert_eq!(
        again.dst,
        addr(A::REMOTE),
        "a retransmitted SYN keeps a living backend"
    );
    w.live(2, 5);
    let (_, again) = w.pod2_sends(&syn);
    assert_eq!(
        again.dst,
        addr(A::POD3),
        "and leaves one that stopped serving"
    );
}

fn policy_is_asked_after_translation<A: Sample>(w: &mut World<A>) {
    w.service(1, A::VIP, 80, abi::PROTO_TCP, &[(A::POD3, 8080, 1)]);
    w.endpoint(3, world::POD3_IF, 9, abi::ISOLATED_INGRESS, abi::EP_READY);
    let syn = Packet::tcp((addr(A::POD2), 40_000), (addr(A::VIP), 80), SYN);
    assert_eq!(w.pod2_sends(&syn).0, Way::Drop);
    assert_eq!(w.count(Hook::PodOut, Outcome::PolicyIngress), 1);
    w.peer(A::POD2, 4);
    w.allow(9, 4, abi::DIR_INGRESS, abi::PROTO_TCP, 8080, 8080);
    assert_eq!(w.pod2_sends(&syn).0, Way::Redirect, "by the backend's port");
    let other = Packet::tcp((addr(A::POD2), 40_000), (addr(A::POD3), 8081), SYN);
    assert_eq!(w.pod2_sends(&other).0, Way::Drop);
    w.overflow(9, 4, abi::DIR_INGRESS, abi::PROTO_TCP, 8081);
    assert_eq!(w.pod2_sends(&other).0, Way::Redirect, "by the overflow");
    assert_eq!(
        w.pod3_sends(&other.reply(SYN | ACK)).0,
        Way::Redirect,
        "answers pass"
    );
    w.epoch(3, 1);
    assert_eq!(
        w.pod3_sends(&other.reply(ACK)).0,
        Way::Redirect,
        "judged again, still allowed"
    );
    w.peer(A::POD2, 5);
    w.epoch(3, 2);
    assert_eq!(
        w.pod3_sends(&other.reply(ACK)).0,
        Way::Drop,
        "judged again by the roles of the flow"
    );
    w.endpoint(2, POD2_IF, 8, abi::ISOLATED_EGRESS, abi::EP_READY);
    assert_eq!(w.pod2_sends(&syn).0, Way::Drop);
    assert_eq!(w.count(Hook::PodOut, Outcome::PolicyEgress), 1);
    let to_node = Packet::tcp((addr(A::POD2), 1), (addr(A::NODE), 10_250), SYN);
    assert_eq!(
        w.pod2_sends(&to_node).0,
        Way::Pass,
        "the own node is always allowed"
    );
}

fn the_host_and_its_pods<A: Sample>(w: &mut World<A>) {
    let probe = Packet::tcp((addr(A::NODE), 40_000), (addr(A::POD2), 80), SYN);
    assert_eq!(
        w.arrive_parsed(Hook::PodIn, POD2_IF, &probe),
        (Way::Pass, probe.clone())
    );
    assert_eq!(
        w.pod2_sends(&probe.reply(SYN | ACK)).0,
        Way::Pass,
        "untracked"
    );
    assert_eq!(w.flows(), 0);
    assert_eq!(w.forwarded(&probe), Way::Drop);
    assert_eq!(w.count(Hook::PodIn, Outcome::ForwardedByHost), 1);

    w.host_service(1, 443, A::NODE, 6443);
    let syn = Packet::tcp((addr(A::POD2), 40_000), (addr(A::VIP), 443), SYN);
    let (way, out) = w.pod2_sends(&syn);
    assert_eq!(
        (way, out.dst, out.dst_port),
        (Way::Pass, addr(A::NODE), 6443),
        "up the stack"
    );
    let (way, back) = w.arrive_parsed(Hook::PodIn, POD2_IF, &out.reply(SYN | ACK));
    assert_eq!(
        (way, back),
        (Way::Pass, syn.reply(SYN | ACK)),
        "translated on the way down"
    );
    w.configure(|cfg| cfg.flags |= abi::CFG_UPLINK_OUT);
    let own = Packet::tcp((addr(A::NODE), 1234), (addr(A::OUTSIDE), 80), SYN);
    assert_eq!(
        w.arrive_parsed(Hook::UplinkOut, OUT_IF, &own),
        (Way::Pass, own)
    );
}

fn an_address_with_a_new_owner_is_not_the_old_pod<A: Sample>(w: &mut World<A>) {
    let question = Packet::udp((addr(A::POD2), 40_000), (addr(A::POD3), 53));
    let _ = w.pod2_sends(&question);
    let old = w.out_of(&question).expect("an entry");
    assert_eq!(old, world::POD3_IF);
    // The pod is replaced by one with its address, behind another interface.
    w.endpoint(3, world::OUT_IF, 0, 0, abi::EP_READY);
    w.epoch(3, 1);
    assert_eq!(w.pod2_sends(&question).0, Way::Redirect);
    assert_eq!(
        w.out_of(&question),
        Some(world::OUT_IF),
        "the flow began anew"
    );
}

#[test]
fn without_ipv6_its_packets_are_no_pods_and_those_of_the_uplink_the_hosts() {
    let mut w = World::<V6>::new(Machine::kernel_with("only-v4", Families::Ipv4));
    let question = Packet::udp((addr(V6::POD2), 40_000), (addr(V6::POD3), 53));
    assert_eq!(w.pod2_sends(&question).0, Way::Drop);
    assert_eq!(w.machine.counted(Hook::PodOut, Outcome::OtherFamily), 1);
    let to_host = Packet::tcp((addr(V6::OUTSIDE), 40_000), (addr(V6::NODE), 22), SYN);
    for hook in [Hook::UplinkIn, Hook::UplinkOut] {
        w.configure(|cfg| cfg.flags |= abi::CFG_UPLINK_OUT);
        let passed = (Way::Pass, to_host.clone());
        assert_eq!(w.arrive_parsed(hook, OUT_IF, &to_host), passed);
        assert_eq!(w.machine.counted(hook, Outcome::NotOurs), 1);
    }
}

/// The verifier gives up at a million, and every start of an agent waits for it.
#[test]
fn programs_stay_within_what_their_verification_may_cost() {
    const BUDGET: u32 = 120_000;
    let Machine::Kernel(machine) = Machine::kernel("verified") else {
        panic!("just made")
    };
    let mut total = 0;
    for (name, count) in machine.datapath.verified().expect("counts") {
        println!("{name}: {count} instructions verified");
        assert!(count > 0 && count < BUDGET, "{name}: {count}");
        total += count;
    }
    println!("all programs: {total} instructions verified");
}

/// Not a measurement to compare machines by, but one to see a change by.
#[test]
fn nanoseconds_per_packet_are_told() {
    let mut w = World::<V4>::new(Machine::kernel("nanos"));
    let syn = Packet::tcp((addr(V4::POD2), 40_000), (addr(V4::POD3), 80), SYN);
    let _ = w.pod2_sends(&syn);
    let _ = w.pod3_sends(&syn.reply(SYN | ACK));
    let ack = Packet {
        flags: ACK,
        ..syn.clone()
    };
    let established = w.nanos(Hook::PodOut, POD2_IF, &ack);
    let to_host = Packet::tcp((addr(V4::POD2), 1), (addr(V4::NODE), 10_250), ACK);
    let host = w.nanos(Hook::PodOut, POD2_IF, &to_host);
    let ssh = Packet::tcp((addr(V4::OUTSIDE), 40_000), (addr(V4::NODE), 22), ACK);
    let uplink = w.nanos(Hook::UplinkIn, OUT_IF, &ssh);
    println!(
        "ns per packet: established pod to pod {established}, pod to host {host}, uplink to host {uplink}"
    );
    assert!(established > 0);
}
