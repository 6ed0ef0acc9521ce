//! Network namespaces, veths, addresses and routes of a lab, through iproute2.
//! Inputs: the lab's name. Knows nothing of what runs in the namespaces.

use std::process::Command;

use anyhow::{Context, Result};

use super::{Lab, NODES_LIMIT, Place, node_ip, node_ip6};
use crate::command;

/// Every place of a lab, the switch first.
pub fn places(lab: &Lab) -> impl Iterator<Item = Place> + use<> {
    [Place::Switch, Place::Outside]
        .into_iter()
        .chain(lab.nodes().map(Place::Node))
}

/// Every place any lab may have: for who knows nothing but a name.
pub fn possible() -> impl Iterator<Item = Place> {
    [Place::Switch, Place::Outside]
        .into_iter()
        .chain((1..=NODES_LIMIT).map(Place::Node))
}

/// Makes namespaces and links; only called when none of them exists.
pub fn create(lab: &Lab) -> Result<()> {
    for place in places(lab) {
        command::output(Command::new("ip").args(["netns", "add", &lab.netns(place)]))?;
    }
    batch(lab, Place::Switch, &switch(lab))?;
    batch(lab, Place::Outside, &outside())?;
    for n in lab.nodes() {
        batch(lab, Place::Node(n), &node(n))?;
    }
    let forward = "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";
    let mut sysctl = Command::new("nsenter");
    sysctl.arg(format!("--net=/run/netns/{}", lab.netns(Place::Switch)));
    sysctl.args(["sysctl", "-qw"]).args(forward.split(' '));
    command::output(&mut sysctl)?;
    Ok(())
}

/// The router: a bridge towards the nodes, a veth towards the outside. It answers "unreachable" at
/// once for everything else, so that whatever tries the internet fails fast.
fn switch(lab: &Lab) -> String {
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add nodes type bridge".to_owned(),
        "address add 10.90.0.1/24 dev nodes".to_owned(),
        "address add fd90::1/64 dev nodes nodad".to_owned(),
        "link set nodes up".to_owned(),
        format!(
            "link add outside type veth peer name eth0 netns {}",
            lab.netns(Place::Outside)
        ),
        "address add 10.91.0.1/24 dev outside".to_owned(),
        "address add fd91::1/64 dev outside nodad".to_owned(),
        "link set outside up".to_owned(),
        "route add unreachable default".to_owned(),
        "route add unreachable ::/0".to_owned(),
    ];
    for n in lab.nodes() {
        let place = Place::Node(n);
        let netns = lab.netns(place);
        lines.push(format!(
            "link add {place} type veth peer name eth0 netns {netns}"
        ));
        lines.push(format!("link set {place} master nodes up"));
    }
    lines.join("\n")
}

fn outside() -> String {
    [
        "link set lo up",
        "address add 10.91.0.2/24 dev eth0",
        "address add fd91::2/64 dev eth0 nodad",
        "link set eth0 up",
        "route add default via 10.91.0.1",
        "route add default via fd91::1",
    ]
    .join("\n")
}

fn node(n: u8) -> String {
    [
        "link set lo up".to_owned(),
        format!("address add {}/24 dev eth0", node_ip(n)),
        format!("address add {}/64 dev eth0 nodad", node_ip6(n)),
        "link set eth0 up".to_owned(),
        "route add default via 10.90.0.1".to_owned(),
        "route add default via fd90::1".to_owned(),
    ]
    .join("\n")
}

/// Tells a place which nodes the given ranges are on.
pub fn routes(lab: &Lab, place: Place, ranges: &[(u8, String)]) -> Result<()> {
    let lines: Vec<String> = ranges
        .iter()
        .map(|(n, range)| match range.contains(':') {
            true => format!("route replace {range} via {}", node_ip6(*n)),
            false => format!("route replace {range} via {}", node_ip(*n)),
        })
        .collect();
    batch(lab, place, &lines.join("\n"))
}

fn batch(lab: &Lab, place: Place, lines: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["-n", &lab.netns(place), "-batch", "-"]);
    command::fed(&mut ip, lines).with_context(|| format!("links of {place}"))?;
    Ok(())
}

/// Names of the machine's named network namespaces that begin with `prefix`.
pub fn named(prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

/// Removes a namespace with all links in it.
pub fn remove(name: &str) -> Result<()> {
    command::output(Command::new("ip").args(["netns", "delete", name]))?;
    Ok(())
}
