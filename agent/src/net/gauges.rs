//! Metrics of the net half: whether it is up, how full the maps are, what did not fit, and the
//! counters of DNS and of the datapath.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::maps::MapSet;
use super::shortage::Limits;
use super::stage::Stage;
use crate::metrics::{Metrics, metric};

/// Has `metrics` show them; `bpf_dir` holds the pins.
pub fn add<T: Send + Sync + 'static>(
    metrics: &Metrics,
    bpf_dir: &Path,
    stages: watch::Receiver<Stage<T>>,
    limits: watch::Receiver<Limits>,
    names: Arc<dns::server::Metrics>,
) {
    let bpf_dir = bpf_dir.to_owned();
    metrics.add(move |text| {
        let up = u64::from(stages.borrow().is_up());
        metric(text, "gauge", "windlass_net_up", [(String::new(), up)]);
        of_limits(text, &limits.borrow());
        for (name, value) in names.read() {
            metric(text, "counter", name, [(String::new(), value)]);
        }
        // While nothing is loaded nothing was counted.
        if let Ok(counts) = MapSet::open(&bpf_dir).and_then(|maps| maps.counts()) {
            let packets = counts.iter().map(|(hook, outcome, count)| {
                let verdict = if outcome.is_drop() {
                    "dropped"
                } else {
                    "passed"
                };
                let (hook, reason) = (hook.name(), outcome.name());
                let labels = format!("hook=\"{hook}\",reason=\"{reason}\",verdict=\"{verdict}\"");
                (labels, count.packets)
            });
            metric(text, "counter", "windlass_datapath_packets_total", packets);
        }
    });
}

fn of_limits(text: &mut String, limits: &Limits) {
    let of = |value: fn(&super::shortage::Fill) -> u32| {
        let fill = limits.fill.iter();
        fill.map(move |fill| (format!("map=\"{}\"", fill.map), u64::from(value(fill))))
    };
    metric(text, "gauge", "windlass_map_entries", of(|fill| fill.used));
    metric(text, "gauge", "windlass_map_limit", of(|fill| fill.limit));
    let mut refused = BTreeMap::from([
        ("NetworkPolicy", 0),
        ("Node", 0),
        ("Pod", 0),
        ("Service", 0),
    ]);
    for shortage in &limits.shortages {
        *refused.entry(shortage.subject.kind()).or_default() += 1;
    }
    let refused = refused
        .into_iter()
        .map(|(kind, n)| (format!("kind=\"{kind}\""), n));
    metric(text, "gauge", "windlass_limits_reached", refused);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::shortage::{Fill, Limit, Shortage, Subject};

    #[test]
    fn the_counters_of_dns_are_shown_while_the_datapath_is_down() {
        let metrics = Metrics::default();
        let (_, stages) = watch::channel(Stage::<()>::Starting);
        let (_, limits) = watch::channel(Limits::default());
        add(
            &metrics,
            Path::new("/nowhere"),
            stages,
            limits,
            Arc::default(),
        );
        let text = metrics.render();
        assert!(text.contains("# TYPE dns_queries_total counter\ndns_queries_total 0\n"));
        assert!(text.contains("windlass_net_up 0\n"), "{text}");
    }

    #[test]
    fn pressure_and_shortages_are_shown_by_map_and_kind() {
        let fill = Fill {
            map: "fe4",
            used: 3,
            limit: 65_536,
        };
        let shortage = Shortage {
            subject: Subject::Here,
            limit: Limit::GivenUp,
        };
        let limits = Limits {
            shortages: [shortage].into(),
            fill: vec![fill],
        };
        let mut text = String::new();
        of_limits(&mut text, &limits);
        for line in [
            "windlass_map_entries{map=\"fe4\"} 3",
            "windlass_map_limit{map=\"fe4\"} 65536",
            "windlass_limits_reached{kind=\"Node\"} 1",
            "windlass_limits_reached{kind=\"Service\"} 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}: {text}");
        }
    }
}
