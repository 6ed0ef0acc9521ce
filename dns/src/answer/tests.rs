//! Questions and answers as tables: `TYPE name → code, sorted records`.

use super::*;
use crate::zone::{Endpoint, Kind, Port, Protocol, Service, ServiceKey, Slice};
use hickory_proto::op::Query;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(name: &str, protocol: Protocol, port: u16) -> Port {
    Port {
        name: name.into(),
        protocol,
        port,
    }
}

fn endpoint(address: &str, ready: bool, hostname: Option<&str>) -> Endpoint {
    Endpoint {
        addresses: vec![ip(address)],
        ready,
        hostname: hostname.map(str::to_owned),
    }
}

fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local", &[ip("10.96.0.10")]);
    let web = ServiceKey::new("default", "web");
    let ports = vec![
        port("http", Protocol::Tcp, 80),
        port("dns", Protocol::Udp, 53),
    ];
    let ips = vec![ip("10.96.3.4"), ip("fd10:96::4")];
    zone.set_service(
        &web,
        Service {
            kind: Kind::ClusterIp(ips),
            ports,
        },
    );
    let slice_ports = vec![port("http", Protocol::Tcp, 8080)];
    let endpoints = vec![endpoint("10.244.1.3", true, None)];
    zone.set_slice(
        &web,
        "web-a",
        Slice {
            ports: slice_ports.clone(),
            endpoints,
        },
    );

    let db = ServiceKey::new("default", "db");
    zone.set_service(
        &db,
        Service {
            kind: Kind::Headless,
            ports: slice_ports.clone(),
        },
    );
    let endpoints = vec![
        endpoint("10.244.1.5", true, Some("db-0")),
        endpoint("10.244.2.5", true, None),
        endpoint("10.244.2.6", false, Some("db-2")),
    ];
    zone.set_slice(
        &db,
        "db-a",
        Slice {
            ports: slice_ports,
            endpoints,
        },
    );

    let empty = ServiceKey::new("default", "empty");
    zone.set_service(
        &empty,
        Service {
            kind: Kind::Headless,
            ports: vec![],
        },
    );
    let external = |zone: &mut Zone, name: &str, target: &str| {
        let kind = Kind::ExternalName(target.to_owned());
        zone.set_service(
            &ServiceKey::new("default", name),
            Service {
                kind,
                ports: vec![],
            },
        );
    };
    external(&mut zone, "out", "www.outside.test");
    external(&mut zone, "alias", "web.default.svc.cluster.local");
    external(&mut zone, "loop", "loop.default.svc.cluster.local");
    zone
}

fn ask(kind: RecordType, name: &str) -> Outcome {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    answer(&zone(), &query, 0)
}

/// `CODE` or `CODE record record …` in one line.
fn line(kind: RecordType, name: &str) -> String {
    match ask(kind, name) {
        Outcome::Forward => "forward".to_owned(),
        Outcome::Follow { reply, target } => format!("{} → {target}", show(&reply)),
        Outcome::Reply(reply) => show(&reply),
    }
}

fn show(reply: &Message) -> String {
    let mut records: Vec<String> = reply.answers.iter().map(|r| r.data.to_string()).collect();
    records.sort();
    let code = match reply.metadata.response_code {
        ResponseCode::NoError if records.is_empty() => "NODATA".to_owned(),
        ResponseCode::NoError => String::new(),
        other => format!("{other:?}"),
    };
    let negative = records.is_empty() && reply.metadata.response_code != ResponseCode::ServFail;
    assert_eq!(
        negative,
        !reply.authorities.is_empty(),
        "a SOA exactly in negative answers"
    );
    format!("{code} {}", records.join(" | ")).trim().to_owned()
}

#[test]
fn services_endpoints_pods_and_what_does_not_exist() {
    use RecordType::{A, AAAA, ANY, CNAME, NS, SRV, TXT};
    let table = [
        (A, "web.default.svc.cluster.local.", "10.96.3.4"),
        (A, "WEB.Default.svc.CLUSTER.local", "10.96.3.4"),
        (AAAA, "web.default.svc.cluster.local.", "fd10:96::4"),
        (TXT, "web.default.svc.cluster.local.", "NODATA"),
        (A, "web.other.svc.cluster.local.", "NXDomain"),
        (A, "no.default.svc.cluster.local.", "NXDomain"),
        (A, "default.svc.cluster.local.", "NODATA"),
        (A, "other.svc.cluster.local.", "NXDomain"),
        (A, "svc.cluster.local.", "NODATA"),
        (A, "web.cluster.local.", "NXDomain"),
        (A, "x.y.web.default.svc.cluster.local.", "NXDomain"),
        (
            SRV,
            "_http._tcp.web.default.svc.cluster.local.",
            "0 100 80 web.default.svc.cluster.local.",
        ),
        (
            SRV,
            "_dns._udp.web.default.svc.cluster.local.",
            "0 100 53 web.default.svc.cluster.local.",
        ),
        (SRV, "_http._udp.web.default.svc.cluster.local.", "NXDomain"),
        (A, "_http._tcp.web.default.svc.cluster.local.", "NODATA"),
        (A, "_tcp.web.default.svc.cluster.local.", "NODATA"),
        (A, "_sctp.web.default.svc.cluster.local.", "NXDomain"),
        (A, "10-244-1-3.web.default.svc.cluster.local.", "10.244.1.3"),
        (
            A,
            "db.default.svc.cluster.local.",
            "10.244.1.5 | 10.244.2.5",
        ),
        (AAAA, "db.default.svc.cluster.local.", "NODATA"),
        (A, "db-0.db.default.svc.cluster.local.", "10.244.1.5"),
        (A, "10-244-2-5.db.default.svc.cluster.local.", "10.244.2.5"),
        (A, "10-244-1-5.db.default.svc.cluster.local.", "NXDomain"),
        (A, "db-2.db.default.svc.cluster.local.", "NXDomain"),
        (
            SRV,
            "_http._tcp.db.default.svc.cluster.local.",
            "0 100 8080 10-244-2-5.db.default.svc.cluster.local. | \
             0 100 8080 db-0.db.default.svc.cluster.local.",
        ),
        (A, "empty.default.svc.cluster.local.", "NXDomain"),
        (A, "10-244-9-9.default.pod.cluster.local.", "10.244.9.9"),
        (AAAA, "fd10--9.default.pod.cluster.local.", "fd10::9"),
        (A, "10-244-9.default.pod.cluster.local.", "NXDomain"),
        (A, "10-244-9-9.other.pod.cluster.local.", "NXDomain"),
        (TXT, "dns-version.cluster.local.", "1.1.0"),
        (A, "dns-version.cluster.local.", "NODATA"),
        (NS, "cluster.local.", "ns.dns.cluster.local."),
        (A, "ns.dns.cluster.local.", "10.96.0.10"),
        (CNAME, "out.default.svc.cluster.local.", "www.outside.test."),
        (
            A,
            "out.default.svc.cluster.local.",
            "www.outside.test. → www.outside.test.",
        ),
        (
            A,
            "alias.default.svc.cluster.local.",
            "10.96.3.4 | web.default.svc.cluster.local.",
        ),
        (A, "loop.default.svc.cluster.local.", "ServFail"),
        (ANY, "db-0.db.default.svc.cluster.local.", "10.244.1.5"),
        (A, "example.org.", "forward"),
        (A, "notcluster.local.", "forward"),
        (A, "xcluster.local.", "forward"),
    ];
    for (kind, name, expected) in table {
        assert_eq!(line(kind, name), expected, "{kind} {name}");
    }
}

#[test]
fn reverse_names_lead_to_services_and_endpoints_and_the_rest_upstream() {
    let table = [
        ("4.3.96.10.in-addr.arpa.", "web.default.svc.cluster.local."),
        (
            "5.1.244.10.in-addr.arpa.",
            "db-0.db.default.svc.cluster.local.",
        ),
        (
            "5.2.244.10.in-addr.arpa.",
            "10-244-2-5.db.default.svc.cluster.local.",
        ),
        ("6.2.244.10.in-addr.arpa.", "forward"),
        ("8.8.8.8.in-addr.arpa.", "forward"),
        ("2.244.10.in-addr.arpa.", "forward"),
        (
            "4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.d.f.ip6.arpa.",
            "web.default.svc.cluster.local.",
        ),
    ];
    for (name, expected) in table {
        assert_eq!(line(RecordType::PTR, name), expected, "{name}");
    }
}

#[test]
fn srv_answers_carry_the_addresses_of_their_targets() {
    let Outcome::Reply(reply) = ask(RecordType::SRV, "_http._tcp.db.default.svc.cluster.local.")
    else {
        panic!("forwarded")
    };
    assert_eq!(reply.additionals.len(), 2);
}

#[test]
fn answers_begin_with_another_record_each_turn() {
    let mut query = Message::query();
    let name = Name::from_ascii("db.default.svc.cluster.local.").unwrap();
    query.add_query(Query::query(name, RecordType::A));
    let first = |turn| match answer(&zone(), &query, turn) {
        Outcome::Reply(reply) => reply.answers[0].data.to_string(),
        Outcome::Forward | Outcome::Follow { .. } => panic!("forwarded"),
    };
    assert_ne!(first(0), first(1));
    assert_eq!(first(0), first(2));
}

#[test]
fn a_list_too_long_for_udp_is_cut_and_says_so() {
    let mut zone = zone();
    let key = ServiceKey::new("default", "many");
    zone.set_service(
        &key,
        Service {
            kind: Kind::Headless,
            ports: vec![],
        },
    );
    let endpoints = (0..250)
        .map(|n| endpoint(&format!("10.244.7.{n}"), true, None))
        .collect();
    zone.set_slice(
        &key,
        "many-a",
        Slice {
            ports: vec![],
            endpoints,
        },
    );
    let mut query = Message::query();
    let name = Name::from_ascii("many.default.svc.cluster.local.").unwrap();
    query.add_query(Query::query(name, RecordType::A));
    let reply = || match answer(&zone, &query, 0) {
        Outcome::Reply(reply) => reply,
        Outcome::Forward | Outcome::Follow { .. } => panic!("forwarded"),
    };
    assert_eq!(udp_limit(&query), 512);
    let small = Message::from_vec(&encode(reply(), 512).unwrap()).unwrap();
    assert!(small.metadata.truncation);
    assert!(
        (20..250).contains(&small.answers.len()),
        "{}",
        small.answers.len()
    );
    let whole = Message::from_vec(&encode(reply(), 65535).unwrap()).unwrap();
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 250);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    query.set_edns(edns);
    assert_eq!(udp_limit(&query), 1232);
}

#[test]
fn queries_that_are_none_get_an_error_and_responses_get_nothing() {
    let mut two = Message::query();
    let name = Name::from_ascii("web.default.svc.cluster.local.").unwrap();
    two.add_query(Query::query(name.clone(), RecordType::A));
    two.add_query(Query::query(name.clone(), RecordType::AAAA));
    let mut chaos = Message::query();
    let mut question = Query::query(name.clone(), RecordType::TXT);
    question.set_query_class(DNSClass::CH);
    chaos.add_query(question);
    let mut newer = Message::query();
    newer.add_query(Query::query(name, RecordType::A));
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    for (query, code) in [
        (two, ResponseCode::FormErr),
        (chaos, ResponseCode::Refused),
        (newer, ResponseCode::BADVERS),
    ] {
        let Outcome::Reply(reply) = answer(&zone(), &query, 0) else {
            panic!("forwarded")
        };
        assert_eq!(reply.metadata.response_code, code);
    }
    assert!(malformed(&[1, 2]).is_none());
    assert!(malformed(&[1, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
    let reply = malformed(&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(reply.metadata.id, 0x0102);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
        if let Some(query) = parse(&bytes) {
            if let Outcome::Reply(reply) = answer(&zone(), &query, 0) {
                let _ = encode(reply, 512);
            }
        } else {
            let _ = malformed(&bytes);
        }
    }

    #[test]
    fn any_name_below_the_domain_is_answered_here(labels in "[a-z_-]{1,8}(\\.[a-z_-]{1,8}){0,5}") {
        if let Ok(name) = Name::from_ascii(format!("{labels}.cluster.local.")) {
            let mut query = Message::query();
            query.add_query(Query::query(name, RecordType::A));
            proptest::prop_assert!(matches!(answer(&zone(), &query, 0), Outcome::Reply(_)));
        }
    }
}
