//! What the demo, the tests and the benchmarks say to the cluster of a lab: all of it through the
//! real kubectl, as a user would.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{KUBECTL, Lab, Place};
use crate::{command, images, progress};

/// A pod that runs the toolbox.
#[derive(Debug, Clone)]
pub struct ToolboxPod<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    /// Node it must run on.
    pub node: Option<u8>,
    pub labels: &'a [(&'a str, &'a str)],
    pub host_network: bool,
    /// Arguments of the toolbox; none: the pod sleeps and is entered with `exec`.
    pub args: &'a [&'a str],
    /// The program runs once: the pod ends `Succeeded` or `Failed`.
    pub once: bool,
}

impl Default for ToolboxPod<'_> {
    fn default() -> Self {
        ToolboxPod {
            namespace: "default",
            name: "toolbox",
            node: None,
            labels: &[],
            host_network: false,
            args: &[],
            once: false,
        }
    }
}

impl ToolboxPod<'_> {
    /// The manifest.
    pub fn manifest(&self) -> Value {
        let labels: serde_json::Map<String, Value> = self
            .labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).into()))
            .collect();
        let mut container = serde_json::json!({ "name": "main", "image": images::TOOLBOX });
        if self.args.is_empty() {
            container["command"] = serde_json::json!(["sleep", "1000000"]);
        } else {
            container["args"] = serde_json::json!(self.args);
        }
        let restart = if self.once { "Never" } else { "Always" };
        let mut spec = serde_json::json!({
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 1,
            "hostNetwork": self.host_network,
            "containers": [container],
        });
        if let Some(n) = self.node {
            let node = Place::Node(n).to_string();
            spec["nodeSelector"] = serde_json::json!({ "kubernetes.io/hostname": node });
        }
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": self.name, "namespace": self.namespace, "labels": labels },
            "spec": spec,
        })
    }
}

impl Lab {
    /// `kubectl apply` of a manifest, YAML or JSON, any number of documents.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        command::fed_within(&mut self.kubectl(&["apply", "-f", "-"]), manifest, KUBECTL)
    }

    /// `kubectl ARGS` with a manifest on standard input, whatever comes of it.
    pub fn try_manifest(&self, args: &[&str], manifest: &str) -> Result<String> {
        command::fed_within(&mut self.kubectl(args), manifest, KUBECTL)
    }

    /// `kubectl get ARGS -o json`.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl_output(&[&["get"], args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).context("kubectl printed no JSON")
    }

    /// Makes pods and waits until all are Ready.
    pub fn run_pods(&self, pods: &[ToolboxPod<'_>]) -> Result<()> {
        let manifests: Vec<String> = pods.iter().map(|pod| pod.manifest().to_string()).collect();
        self.apply(&manifests.join("\n"))?;
        pods.iter()
            .try_for_each(|pod| self.ready(pod.namespace, &[&format!("pod/{}", pod.name)]))
    }

    /// Makes a pod that runs once.
    pub fn start_once(&self, pod: &ToolboxPod<'_>) -> Result<()> {
        self.apply(&pod.manifest().to_string())?;
        self.running(pod.namespace, pod.name)
    }

    /// Waits until a pod runs, or has run to its end.
    pub fn running(&self, namespace: &str, pod: &str) -> Result<()> {
        progress::wait(&format!("{pod} runs"), Duration::from_secs(30), || {
            let phase = self.phase(namespace, pod)?;
            Ok(matches!(phase.as_str(), "Running" | "Succeeded" | "Failed"))
        })
        .with_context(|| self.events(namespace))
    }

    /// Waits for the end of a pod that runs once; its phase and its log.
    pub fn ended(&self, namespace: &str, pod: &str, limit: Duration) -> Result<(String, String)> {
        let mut phase = String::new();
        progress::wait(&format!("{pod} ends"), limit, || {
            phase = self.phase(namespace, pod)?;
            Ok(matches!(phase.as_str(), "Succeeded" | "Failed"))
        })
        .with_context(|| self.events(namespace))?;
        Ok((phase, self.kubectl_output(&["-n", namespace, "logs", pod])?))
    }

    fn phase(&self, namespace: &str, pod: &str) -> Result<String> {
        let object = self.get(&["-n", namespace, "pod", pod])?;
        Ok(object["status"]["phase"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// Waits until objects are Ready.
    pub fn ready(&self, namespace: &str, objects: &[&str]) -> Result<()> {
        let fixed = [
            "-n",
            namespace,
            "wait",
            "--for=condition=Ready",
            "--timeout=60s",
        ];
        let waited = self.kubectl_output(&[&fixed, objects].concat());
        waited.map(drop).with_context(|| self.events(namespace))
    }

    /// Waits for a rollout to its end.
    pub fn rolled_out(&self, namespace: &str, object: &str) -> Result<()> {
        let args = [
            "-n",
            namespace,
            "rollout",
            "status",
            object,
            "--timeout=90s",
        ];
        self.kubectl_output(&args)
            .map(drop)
            .with_context(|| self.events(namespace))
    }

    /// Recent events, for error messages.
    pub fn events(&self, namespace: &str) -> String {
        let pods = self.kubectl_output(&["-n", namespace, "get", "pods", "-o", "wide"]);
        let events = self.kubectl_output(&["-n", namespace, "get", "events"]);
        format!(
            "{}\n{}",
            pods.unwrap_or_default(),
            events.unwrap_or_default()
        )
    }

    /// The first address of a pod.
    pub fn pod_ip(&self, namespace: &str, pod: &str) -> Result<String> {
        self.field(&["-n", namespace, "pod", pod], "/status/podIP")
    }

    /// The first address of a Service.
    pub fn cluster_ip(&self, namespace: &str, service: &str) -> Result<String> {
        self.field(&["-n", namespace, "service", service], "/spec/clusterIP")
    }

    /// A text field of an object, by JSON pointer.
    pub fn field(&self, object: &[&str], pointer: &str) -> Result<String> {
        let value = self.get(object)?;
        let text = value.pointer(pointer).and_then(Value::as_str);
        Ok(text
            .with_context(|| format!("{object:?} has no {pointer}"))?
            .to_owned())
    }

    /// A command in a pod's container. Over SPDY: over WebSocket, kubectl 1.32 discards what arrives before it
    /// has set up its streams (`client-go/tools/remotecommand/websocket.go` waits for them since).
    pub fn in_pod(&self, namespace: &str, pod: &str, argv: &[&str]) -> Command {
        let mut command = self.kubectl(&[&["-n", namespace, "exec", pod, "--"], argv].concat());
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
        command
    }

    /// Runs a command in a pod to its end; standard output, or an error.
    pub fn pod_run(&self, namespace: &str, pod: &str, argv: &[&str]) -> Result<String> {
        command::output_within(&mut self.in_pod(namespace, pod, argv), KUBECTL)
            .with_context(|| format!("in {namespace}/{pod}"))
    }

    /// Runs a command in a pod to its end, whatever comes of it.
    pub fn pod_try(&self, namespace: &str, pod: &str, argv: &[&str]) -> Result<Output> {
        command::raw_within(&mut self.in_pod(namespace, pod, argv), KUBECTL)
    }

    /// Repeats a command in a pod until it succeeds: for states that reach a node a moment after
    /// the API (endpoints, policies).
    pub fn pod_until(&self, namespace: &str, pod: &str, argv: &[&str]) -> Result<String> {
        let mut last = String::new();
        progress::wait(
            &format!("{argv:?} in {namespace}/{pod}"),
            Duration::from_secs(15),
            || match self.pod_run(namespace, pod, argv) {
                Ok(text) => {
                    last = text;
                    Ok(true)
                }
                Err(error) => {
                    last = format!("{error:#}");
                    Ok(false)
                }
            },
        )
        .map(|()| last.clone())
        .with_context(|| last)
    }

    /// Makes an empty namespace for one test; an earlier one of that name is removed first.
    pub fn fresh_namespace(&self, name: &str) -> Result<()> {
        let gone = [
            "delete",
            "namespace",
            name,
            "--ignore-not-found",
            "--timeout=60s",
        ];
        self.kubectl_output(&gone)?;
        self.kubectl_output(&["create", "namespace", name])?;
        // pods are refused until the account exists
        progress::wait(
            "the default service account",
            Duration::from_secs(10),
            || Ok(self.get(&["-n", name, "serviceaccount", "default"]).is_ok()),
        )
    }
}
