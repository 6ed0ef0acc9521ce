//! Golden: objects as the API sends them in, the maps' contents out. `WINDLASS_GOLDEN=write` rewrites
//! the expectations; review them as a diff.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::net::dump;
use crate::net::plan::node::Reach;

fn golden(name: &str, lines: &[String]) {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("src/net/core/golden/{name}"));
    let found = lines.join("\n") + "\n";
    if std::env::var_os("WINDLASS_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{name} differs from what the maps hold:\n{found}"
    );
}

fn node(name: &str, address: &str, cidr: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
}

fn pod(name: &str, node: &str, ip: &str, app: &str) -> Value {
    json!({"kind": "Pod", "metadata": {"name": name, "namespace": "shop", "uid": name,
            "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [
            {"ports": [{"name": "http", "containerPort": 8080, "hostPort": if app == "edge" { 8443 } else { 0 }}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}]}})
}

fn cluster() -> Vec<Value> {
    vec![
        node("a", "192.168.7.11", "10.244.0.0/24"),
        node("b", "192.168.7.12", "10.244.1.0/24"),
        json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "sales"}}}),
        pod("web-1", "a", "10.244.0.1", "web"),
        pod("edge", "a", "10.244.0.2", "edge"),
        pod("web-2", "b", "10.244.1.5", "web"),
        pod("db", "b", "10.244.1.6", "db"),
        json!({"kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.20"],
                "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
                "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}}}),
        json!({"kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-x", "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.244.0.1"], "nodeName": "a", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.5"], "nodeName": "b"},
                {"addresses": ["192.168.7.12"], "nodeName": "b", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.9"], "nodeName": "b", "conditions": {"ready": false}}]}),
        json!({"kind": "NetworkPolicy", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"podSelector": {"matchLabels": {"app": "web"}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {"from": [{"podSelector": {"matchLabels": {"app": "edge"}}}],
                        "ports": [{"port": "http"}]},
                    {"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}]}],
                "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "db"}}}],
                    "ports": [{"port": 5432, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}]}}),
    ]
}

fn facts() -> Facts {
    Facts {
        node_name: "a".into(),
        reach: HashMap::from([(
            "192.168.7.12".parse().unwrap(),
            Reach {
                ifindex: 2,
                gateway: None,
            },
        )]),
        own_addresses: BTreeSet::from(["192.168.7.11".parse().unwrap()]),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
    }
}

fn core(objects: &[Value]) -> Core {
    let mut core = Core::new(MapSet::memory(), "a", &["10.96.0.10".parse().unwrap()]).unwrap();
    core.set_facts(facts());
    core.set_state(Arc::new(crate::watch::state_of(objects)));
    core.reconcile(Instant::now());
    core
}

fn add(core: &mut Core, name: &str, ifindex: u32) {
    let id = SandboxId {
        container_id: name.into(),
        ifname: "eth0".into(),
    };
    let pod = Args {
        namespace: "shop".into(),
        name: name.into(),
        uid: name.into(),
    };
    core.reserve(&id, &pod, 0).unwrap();
    assert!(core.attached(&id, ifindex, Instant::now()));
    core.open(&id, Instant::now()).unwrap();
}

#[test]
fn a_small_cluster() {
    let mut core = core(&cluster());
    assert!(core.complete());
    add(&mut core, "web-1", 11);
    add(&mut core, "edge", 12);
    golden("small-cluster.txt", &dump::lines(core.tables()));
}

#[test]
fn a_pod_gets_no_address_of_a_family_the_cluster_does_not_have() {
    let mut objects = cluster();
    let ranges = json!(["10.244.0.0/24", "fd00:244::/64"]);
    objects[0]["spec"]["podCIDRs"] = ranges;
    let mut core = core(&objects);
    add(&mut core, "web-1", 11);
    let attached = core.attachments().values().next().unwrap();
    let expected: IpAddr = "10.244.0.1".parse().unwrap();
    assert_eq!(attached.sandbox.addresses, [expected]);
}

#[test]
fn an_empty_cluster_leaves_only_the_node_itself() {
    let mut core = core(&cluster());
    add(&mut core, "web-1", 11);
    let own = cluster().into_iter().take(1).collect::<Vec<_>>();
    core.set_state(Arc::new(crate::watch::state_of(&own)));
    let now = Instant::now();
    core.reconcile(now);
    let id = SandboxId {
        container_id: "web-1".into(),
        ifname: "eth0".into(),
    };
    assert_eq!(core.release(&id, now), Some(11));
    core.freed(&id, 0);
    core.reconcile(now);
    core.tick(now + Duration::from_secs(2));
    golden("empty-cluster.txt", &dump::lines(core.tables()));
}

#[test]
fn a_second_agent_plans_the_same_and_writes_nothing() {
    let mut first = core(&cluster());
    add(&mut first, "web-1", 11);
    add(&mut first, "edge", 12);
    let sandboxes: Vec<(Sandbox, u32)> = first
        .attachments()
        .values()
        .map(|a| {
            (
                a.sandbox.clone(),
                if a.sandbox.pod.name == "edge" { 12 } else { 11 },
            )
        })
        .collect();
    let before = first.tables().clone();
    let mut maps = MapSet::memory();
    before
        .rows()
        .iter()
        .for_each(|row| row.put(&mut maps).unwrap());
    let mut second = Core::new(maps, "a", &["10.96.0.10".parse().unwrap()]).unwrap();
    let now = Instant::now();
    for (sandbox, ifindex) in &sandboxes {
        second.adopt(sandbox.clone(), *ifindex, now);
    }
    second.adopted(vec![], now);
    second.set_facts(facts());
    second.set_state(Arc::new(crate::watch::state_of(&cluster())));
    second.reconcile(now);
    for (sandbox, _) in &sandboxes {
        second.open(&sandbox.id, now).unwrap();
    }
    second.reconcile(now);
    second.tick(now + Duration::from_secs(2));
    assert_eq!(dump::lines(second.tables()), dump::lines(&before));
    assert_eq!(second.writes(), 0);
}

/// Which objects are short of what, on a node whose map `full` takes `rows` rows.
fn short(full: &'static str, rows: usize) -> BTreeSet<String> {
    let maps = MapSet::memory().with_limit(full, rows);
    let mut core = Core::new(maps, "a", &["10.96.0.10".parse().unwrap()]).unwrap();
    core.set_facts(facts());
    core.set_state(Arc::new(crate::watch::state_of(&cluster())));
    core.reconcile(Instant::now());
    add(&mut core, "web-1", 11);
    let limits = core.limits();
    let fill = limits.fill.iter().find(|fill| fill.map == full).unwrap();
    assert_eq!(fill.used as usize, rows, "the map is full");
    let shortages = limits.shortages.iter();
    shortages
        .map(|s| format!("{:?}: {}", s.subject, s.limit))
        .collect()
}

#[test]
fn what_does_not_fit_a_map_is_said_of_the_object_it_belongs_to() {
    let key = |namespace, name| ObjectKey::new(namespace, name);
    let web = format!("Service({:?})", key("shop", "web"));
    let policy = format!("NetworkPolicy({:?})", key("shop", "web"));
    let pod = format!("Pod({:?})", key("shop", "web-1"));
    for (map, rows, subject) in [
        ("fe4", 3, &web),
        ("be4", 1, &web),
        ("svc", 0, &web),
        ("slot", 0, &web),
        ("pol", 0, &policy),
        ("ep", 0, &pod),
        ("ip4", 2, &pod),
        ("peer4", 0, &"Here".to_owned()),
        ("net4", 1, &"Here".to_owned()),
    ] {
        let short = short(map, rows);
        let limit = super::super::shortage::limit_of(map);
        let expected = format!("{subject}: the datapath's map {map} is full (limit {limit})");
        assert!(short.contains(&expected), "{map}: {short:?}");
    }
}

#[test]
fn a_shortage_is_over_when_there_is_room_again() {
    let maps = MapSet::memory().with_limit("fe4", 4);
    let mut core = Core::new(maps, "a", &["10.96.0.10".parse().unwrap()]).unwrap();
    core.set_facts(facts());
    let service = |name: &str, ip: &str| {
        json!({"kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIPs": [ip], "ports": [{"port": 80}]}})
    };
    let (one, two) = (service("one", "10.96.0.21"), service("two", "10.96.0.22"));
    let mut now = Instant::now();
    // The node's own DNS takes two frontends, each Service two more.
    core.set_state(Arc::new(crate::watch::state_of(&[one, two.clone()])));
    core.reconcile(now);
    let short = core.limits().shortages;
    assert!(!short.is_empty() && short.iter().all(|s| s.subject.kind() == "Service"));
    core.set_state(Arc::new(crate::watch::state_of(&[two])));
    core.reconcile(now);
    for _ in 0..60 {
        now += Duration::from_secs(1);
        core.tick(now);
    }
    assert_eq!(core.limits().shortages, BTreeSet::new());
    assert_eq!(core.tables().fe4.len(), 4);
}
