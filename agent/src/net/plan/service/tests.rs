//! Programs of Services as tables, and the order of writes as a property: at every intermediate state
//! each list can be read completely and holds only backends of before or after.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::net::maps::MapSet;
use crate::net::plan::backend::Here;
use crate::net::writer::Writer;
use crate::state::{Endpoint, ServicePort, SliceKey, SlicePort};
use crate::state::{EndpointSlice, Protocol, Service, ServiceKind};

fn key() -> ObjectKey {
    ObjectKey::new("default", "web")
}

fn service() -> Service {
    Service {
        key: key(),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        headless: false,
        external_name: None,
        external_ips: vec![],
        load_balancer_ips: vec![],
        load_balancer_source_ranges: vec![],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        internal_local: false,
        external_local: false,
        health_check_node_port: None,
        affinity_seconds: None,
        publish_not_ready: false,
        foreign_proxy: false,
    }
}

fn slice(lasts: &[u8]) -> Arc<EndpointSlice> {
    let endpoint = |last: &u8| Endpoint {
        addresses: vec![format!("10.244.0.{last}").parse().unwrap()],
        ready: true,
        serving: true,
        terminating: false,
        node: Some(
            if last.is_multiple_of(2) {
                "here"
            } else {
                "there"
            }
            .into(),
        ),
        hostname: None,
        zone_hints: vec![],
        node_hints: vec![],
    };
    let port = SlicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: Some(8080),
    };
    Arc::new(EndpointSlice {
        key: SliceKey {
            service: key(),
            name: "web-1".into(),
        },
        ports: vec![port],
        endpoints: lasts.iter().map(endpoint).collect(),
    })
}

fn here() -> Here {
    Here {
        node: "here".into(),
        zone: String::new(),
    }
}

fn frontends(service: &Service) -> Vec<(String, u16, u8, u16)> {
    let program = program(service, &[], &here(), &[]);
    let all = program.ports.iter().flat_map(|p| &p.frontends);
    all.map(|f| (f.address.to_string(), f.port, f.scope, f.flags))
        .collect()
}

const INT: u8 = abi::SCOPE_INTERNAL;
const EXT: u8 = abi::SCOPE_EXTERNAL;
const NP: u16 = abi::FE_NODE_PORT;
const LOCAL: u16 = abi::FE_LOCAL;

#[test]
fn a_cluster_ip_is_reached_from_inside_only() {
    assert_eq!(frontends(&service()), [("10.96.0.10".into(), 80, INT, 0)]);
    let local = Service {
        internal_local: true,
        ..service()
    };
    assert_eq!(frontends(&local), [("10.96.0.10".into(), 80, INT, LOCAL)]);
}

#[test]
fn external_traffic_policy_counts_for_traffic_from_outside_only() {
    let mut service = Service {
        kind: ServiceKind::LoadBalancer,
        external_local: true,
        load_balancer_ips: vec!["192.0.2.1".parse().unwrap()],
        ..service()
    };
    service.ports[0].node_port = Some(30080);
    let expected = [
        ("10.96.0.10".into(), 80, INT, 0),
        ("192.0.2.1".into(), 80, INT, NP),
        ("192.0.2.1".into(), 80, EXT, NP | LOCAL),
        ("0.0.0.0".into(), 30080, INT, NP),
        ("0.0.0.0".into(), 30080, EXT, NP | LOCAL),
    ];
    assert_eq!(frontends(&service), expected);
}

#[test]
fn a_load_balancer_address_counts_only_for_services_of_that_type() {
    let service = Service {
        load_balancer_ips: vec!["192.0.2.1".parse().unwrap()],
        ..service()
    };
    assert_eq!(frontends(&service).len(), 1);
}

#[test]
fn headless_external_name_and_foreign_services_have_no_rows() {
    for service in [
        Service {
            headless: true,
            cluster_ips: vec![],
            ..service()
        },
        Service {
            kind: ServiceKind::ExternalName,
            ..service()
        },
        Service {
            foreign_proxy: true,
            ..service()
        },
    ] {
        assert_eq!(
            program(&service, &[slice(&[1])], &here(), &[]),
            Program::default()
        );
    }
}

#[test]
fn an_address_served_by_a_socket_of_the_node_has_no_backends() {
    let dns = ["10.96.0.10".parse().unwrap()];
    assert_eq!(
        program(&service(), &[slice(&[1])], &here(), &dns),
        Program::default()
    );
}

/// Reads the cluster list of the one Service as the programs do.
fn read(tables: &Tables) -> Option<Vec<u8>> {
    let fe = tables
        .fe4
        .values()
        .find(|v| v.flags & abi::FE_MARKER == 0)?;
    let svc = tables
        .svc
        .get(&fe.svc_id)
        .expect("a frontend's service port exists");
    let slots = (0..svc.cluster.n).map(|slot| {
        let key = BeKey {
            list: svc.cluster.list,
            slot,
        };
        let be = tables.be4.get(&key).expect("every slot below n exists");
        assert_eq!(be.list, key.list);
        std::net::Ipv4Addr::from(be.addr).octets()[3]
    });
    Some(slots.collect())
}

fn sorted(mut list: Vec<u8>) -> Vec<u8> {
    list.sort_unstable();
    list
}

fn plan_for(lasts: &[u8], services: &mut Services, tables: &Tables) -> Vec<Step> {
    let program = program(&service(), &[slice(lasts)], &here(), &[]);
    services.plan(&key(), &program, &Nodes::default(), tables).0
}

#[test]
fn one_more_endpoint_is_three_writes_at_any_size() {
    let mut writer = Writer::new(MapSet::memory()).unwrap();
    let mut services = Services::default();
    // Odd endpoints are on another node: the local list stays as it is.
    let many: Vec<u8> = (0..100).map(|i| 2 * i + 1).collect();
    let steps = plan_for(&many, &mut services, writer.tables());
    writer.apply(&steps, Instant::now());
    let before = writer.writes();
    let more: Vec<u8> = many.iter().copied().chain([201]).collect();
    let steps = plan_for(&more, &mut services, writer.tables());
    writer.apply(&steps, Instant::now());
    assert_eq!(
        writer.writes() - before,
        3,
        "be_ix comes alive, slot, header"
    );
}

#[test]
fn a_new_agent_with_the_same_cluster_writes_nothing() {
    let mut writer = Writer::new(MapSet::memory()).unwrap();
    let mut services = Services::default();
    for lasts in [&[1, 2, 3, 4][..], &[2, 3, 4], &[9, 2, 3]] {
        let steps = plan_for(lasts, &mut services, writer.tables());
        writer.apply(&steps, Instant::now());
        writer.tick(Instant::now() + Duration::from_secs(2));
    }
    let before = writer.writes();
    let mut restarted = Services::default();
    let steps = plan_for(&[9, 2, 3], &mut restarted, writer.tables());
    writer.apply(&steps, Instant::now());
    let pruned = restarted.prune(writer.tables(), &[]);
    assert_eq!((writer.writes() - before, pruned), (0, vec![]));
}

#[test]
fn a_removed_service_leaves_nothing_behind() {
    let mut writer = Writer::new(MapSet::memory()).unwrap();
    let mut services = Services::default();
    let now = Instant::now();
    let steps = plan_for(&[1, 2, 3], &mut services, writer.tables());
    writer.apply(&steps, now);
    let (steps, _) = services.plan(
        &key(),
        &Program::default(),
        &Nodes::default(),
        writer.tables(),
    );
    writer.apply(&steps, now);
    assert_eq!(read(writer.tables()), None);
    writer.tick(now + Duration::from_secs(2));
    assert_eq!(writer.tables(), &Tables::default());
    assert_eq!(services.installed().count(), 0);
}

#[test]
fn what_nobody_wants_any_more_is_pruned_after_a_restart() {
    let mut writer = Writer::new(MapSet::memory()).unwrap();
    let steps = plan_for(&[1, 2], &mut Services::default(), writer.tables());
    writer.apply(&steps, Instant::now());
    let steps = Services::default().prune(writer.tables(), &[]);
    writer.apply(&steps, Instant::now());
    writer.tick(Instant::now() + Duration::from_secs(2));
    assert_eq!(writer.tables(), &Tables::default());
}

proptest! {
    #[test]
    fn every_intermediate_state_is_old_or_new_and_the_last_is_new(
        history in proptest::collection::vec(
            proptest::collection::btree_set(0u8..24, 0..16), 1..8),
        pauses in proptest::collection::vec(0u64..1500, 8),
    ) {
        let mut writer = Writer::new(MapSet::memory()).unwrap();
        let mut services = Services::default();
        let mut now = Instant::now();
        let mut old = BTreeSet::new();
        for (wanted, pause) in history.into_iter().zip(pauses) {
            let lasts: Vec<u8> = wanted.iter().copied().collect();
            let steps = plan_for(&lasts, &mut services, writer.tables());
            for step in steps {
                writer.apply(&[step], now);
                let list = read(writer.tables()).unwrap_or_default();
                prop_assert!(list.iter().all(|b| wanted.contains(b) || old.contains(b)));
            }
            prop_assert_eq!(sorted(read(writer.tables()).unwrap()), lasts);
            now += Duration::from_millis(pause);
            writer.tick(now);
            read(writer.tables());
            old = wanted;
        }
        writer.tick(now + Duration::from_secs(2));
        let svc = *writer.tables().svc.values().next().unwrap();
        prop_assert_eq!(writer.tables().be4.len() as u32, svc.cluster.n + svc.local.n);
    }
}

// === limits and affinity ===

/// Plans programs of the key one after the other into one set of maps.
struct Planner {
    services: Services,
    writer: Writer,
}

impl Planner {
    fn new(limits: Limits) -> Self {
        Self {
            services: Services::with_limits(limits),
            writer: Writer::new(MapSet::memory()).unwrap(),
        }
    }

    fn plan(&mut self, service: &Service, lasts: &[u8]) -> BTreeSet<Refused> {
        let program = program(service, &[slice(lasts)], &here(), &[]);
        self.write(service, &program)
    }

    fn write(&mut self, service: &Service, program: &Program) -> BTreeSet<Refused> {
        let tables = self.writer.tables();
        let nodes = Nodes::default();
        let (steps, refused) = self.services.plan(&service.key, program, &nodes, tables);
        let now = Instant::now();
        self.writer.apply(&steps, now);
        self.writer.tick(now + Duration::from_secs(2));
        refused
    }
}

#[test]
fn backends_beyond_the_limit_are_left_out_and_said() {
    let mut planner = Planner::new(Limits {
        backends: 3,
        ..Limits::default()
    });
    let refused = planner.plan(&service(), &[1, 2, 3, 4, 5]);
    let (have, taken) = (5, 3);
    assert!(
        refused.contains(&Refused::Backends { have, taken }),
        "{refused:?}"
    );
    let tables = planner.writer.tables();
    let (id, svc) = tables.svc.iter().next().unwrap();
    assert_eq!(svc.cluster.n, 3);
    for slot in 0..3 {
        let list = svc.cluster.list;
        assert!(tables.be4.contains_key(&BeKey { list, slot }), "no holes");
    }
    let key = planner.services.owner_of(&Key::Svc(*id));
    assert_eq!(key, Some(&service().key));
    // Fewer backends: there is room, and nothing to say.
    assert_eq!(planner.plan(&service(), &[1]), BTreeSet::new());
}

#[test]
fn a_service_port_or_frontend_that_does_not_fit_is_left_out_whole() {
    let other = Service {
        key: ObjectKey::new("default", "other"),
        cluster_ips: vec!["10.96.0.11".parse().unwrap()],
        ..service()
    };
    let (ports, frontends) = (1, 2);
    let mut planner = Planner::new(Limits {
        ports,
        ..Limits::default()
    });
    assert_eq!(planner.plan(&service(), &[1]), BTreeSet::new());
    let refused = planner.plan(&other, &[]);
    assert_eq!(refused, [Refused::Ports { limit: ports }].into());
    assert_eq!(planner.writer.tables().svc.len(), 1);
    planner.write(&service(), &Program::default());
    assert_eq!(planner.plan(&other, &[]), BTreeSet::new(), "room again");

    let mut planner = Planner::new(Limits {
        frontends,
        ..Limits::default()
    });
    // Two rows each: the port, and the marker of the address.
    assert_eq!(planner.plan(&service(), &[]), BTreeSet::new());
    let refused = planner.plan(&other, &[]);
    assert_eq!(refused, [Refused::Frontends { limit: frontends }].into());
    assert_eq!(planner.writer.tables().fe4.len(), 2);
}

/// Identity → slot as the rows say, and as the lists are.
fn places(tables: &Tables) -> [BTreeSet<(u32, u32, u32)>; 2] {
    let rows = tables.slot.iter();
    let said = rows.map(|(key, slot)| (key.list, key.be_ix, *slot));
    let headers = tables.svc.values().flat_map(|s| [s.cluster, s.local]);
    let slots = headers.flat_map(|list| {
        (0..list.n).map(move |slot| BeKey {
            list: list.list,
            slot,
        })
    });
    let real = slots.map(|key| (key.list, tables.be4[&key].be_ix, key.slot));
    [said.collect(), real.collect()]
}

#[test]
fn backends_of_a_service_with_affinity_have_their_places_told() {
    let mut planner = Planner::new(Limits::default());
    let sticky = Service {
        affinity_seconds: Some(60),
        ..service()
    };
    planner.plan(&service(), &[1, 2]);
    assert!(planner.writer.tables().slot.is_empty());
    for lasts in [&[1, 2][..], &[1, 2, 3, 4], &[4, 2], &[], &[7, 8, 9]] {
        planner.plan(&sticky, lasts);
        let [said, real] = places(planner.writer.tables());
        assert_eq!(said, real, "{lasts:?}");
    }
    // A new agent finds what is there, and takes it away when it is not wanted.
    planner.services = Services::default();
    planner.plan(&sticky, &[8, 9]);
    let [said, real] = places(planner.writer.tables());
    assert_eq!(said, real);
    planner.plan(&service(), &[8, 9]);
    assert!(planner.writer.tables().slot.is_empty());
    planner.plan(&sticky, &[8, 9]);
    planner.write(&sticky, &Program::default());
    assert!(planner.writer.tables().slot.is_empty());
}
