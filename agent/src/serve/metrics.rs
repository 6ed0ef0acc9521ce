//! Stats of the node's pods: `/stats/summary`, `/metrics/resource`, and a few metrics of the agent.

use std::fmt::Write;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Api, Body, Refusal, respond};
use crate::cri::messages as m;
use crate::metrics::metric;
use crate::pod::observed::{POD_NAME, POD_NAMESPACE, POD_UID};
use crate::pod::status::seconds;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Api {
    pub(super) async fn summary(&self) -> Result<Response<Body>, Refusal> {
        let stats = self.stats().await?;
        let mut pods: std::collections::BTreeMap<String, Value> = std::collections::BTreeMap::new();
        for stat in &stats {
            let Some(attributes) = &stat.attributes else {
                continue;
            };
            let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
            let pod = pods.entry(label(POD_UID)).or_insert_with(|| {
                json!({ "podRef": { "name": label(POD_NAME), "namespace": label(POD_NAMESPACE),
                    "uid": label(POD_UID) }, "containers": [] })
            });
            if let Some(list) = pod["containers"].as_array_mut() {
                let name = attributes.metadata.as_ref().map(|meta| meta.name.clone());
                list.push(json!({ "name": name, "cpu": cpu(stat), "memory": memory(stat) }));
            }
        }
        let pods: Vec<Value> = pods.into_values().collect();
        let summary = json!({ "node": { "nodeName": self.node.config.node_name }, "pods": pods });
        Ok(respond(
            StatusCode::OK,
            "application/json",
            summary.to_string(),
        ))
    }

    pub(super) async fn resource_metrics(&self) -> Result<Response<Body>, Refusal> {
        let stats = self.stats().await?;
        let mut text = String::from(
            "# TYPE container_cpu_usage_seconds_total counter\n\
             # TYPE container_memory_working_set_bytes gauge\n",
        );
        for stat in &stats {
            let Some(attributes) = &stat.attributes else {
                continue;
            };
            let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
            let labels = format!(
                "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}",
                attributes
                    .metadata
                    .as_ref()
                    .map(|meta| meta.name.as_str())
                    .unwrap_or_default(),
                label(POD_NAMESPACE),
                label(POD_NAME)
            );
            let cpu = value(
                stat.cpu
                    .as_ref()
                    .and_then(|cpu| cpu.usage_core_nano_seconds),
            );
            let memory = value(
                stat.memory
                    .as_ref()
                    .and_then(|memory| memory.working_set_bytes),
            );
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "container_cpu_usage_seconds_total{labels} {}.{:09}",
                cpu / 1_000_000_000,
                cpu % 1_000_000_000
            );
            let _ = writeln!(text, "container_memory_working_set_bytes{labels} {memory}");
        }
        Ok(respond(StatusCode::OK, TEXT, text))
    }

    pub(super) fn metrics(&self) -> Result<Response<Body>, Refusal> {
        let pods = self.pods.borrow().len() as u64;
        let mut text = self.metrics.render();
        let working = [(String::new(), pods)];
        metric(&mut text, "gauge", "kubelet_working_pods", working);
        Ok(respond(StatusCode::OK, TEXT, text))
    }

    async fn stats(&self) -> Result<Vec<m::ContainerStats>, Refusal> {
        let stats = self.node.runtime.list_container_stats().await;
        stats.map_err(|error| Refusal::internal(error.to_string()))
    }
}

fn value(value: Option<m::UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}

fn cpu(stat: &m::ContainerStats) -> Value {
    let Some(cpu) = &stat.cpu else {
        return Value::Null;
    };
    json!({ "time": time(cpu.timestamp), "usageCoreNanoSeconds": value(cpu.usage_core_nano_seconds) })
}

fn memory(stat: &m::ContainerStats) -> Value {
    let Some(memory) = &stat.memory else {
        return Value::Null;
    };
    json!({
        "time": time(memory.timestamp),
        "workingSetBytes": value(memory.working_set_bytes),
        "usageBytes": value(memory.usage_bytes),
        "rssBytes": value(memory.rss_bytes),
    })
}

fn time(nanos: i64) -> Option<String> {
    crate::pod::observed::timestamp(nanos).map(|time| seconds(time).to_string())
}
