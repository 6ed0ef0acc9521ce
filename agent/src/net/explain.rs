//! `windlass policy explain`: reads policies, pods and namespaces from the API and answers whether one
//! would reach the other, and why. The answer is the policies' own reading, not the datapath's state.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use policies::explain::{Explanation, Party, PodFacts, PolicyRef};
use policies::{Labels, NamedPort};

use crate::state::Protocol;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{0:?} is neither NAMESPACE/POD nor an address; write default/web-0, or 10.0.0.1 for what is no pod"
    )]
    Party(String),
    #[error("{0:?} is not a port: write 80, or 53/UDP (also SCTP) where it is not TCP")]
    Port(String),
    #[error("there is no {what}; `kubectl get pods -A -o wide` lists those there are")]
    Missing { what: String },
    #[error("{what}: this kubeconfig's user may not read it ({message}); pass one that may")]
    Forbidden { what: String, message: String },
    #[error("read {what}; does the API server of the kubeconfig run?")]
    Api {
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("pod {0} has no address yet: ask again when it runs (kubectl get pod -o wide)")]
    NoAddress(String),
    #[error("pod {0} uses the node's network: policies do not apply to it")]
    HostNetwork(String),
    #[error("pod {0} has ended: its address may be another pod's")]
    Ended(String),
}

/// One end as read from the API.
struct End {
    address: IpAddr,
    pod: Option<Facts>,
}

struct Facts {
    namespace: String,
    namespace_labels: Labels,
    labels: Labels,
    ports: Vec<NamedPort>,
}

/// Explains a connection from `source` to `port` (`80`, `53/UDP`) of `destination`, each
/// `NAMESPACE/POD` or an address.
pub async fn explain(
    client: Client,
    source: &str,
    destination: &str,
    port: &str,
) -> Result<Explanation, Error> {
    let (number, protocol) = parse_port(port)?;
    let from = end(&client, source).await?;
    let to = end(&client, destination).await?;
    let all = Api::<NetworkPolicy>::all(client)
        .list(&ListParams::default())
        .await;
    let all = all.map_err(failed("NetworkPolicies"))?;
    let named: Vec<(String, String, _)> = all
        .items
        .into_iter()
        .map(|p| {
            (
                p.namespace().unwrap_or_default(),
                p.name_any(),
                p.spec.unwrap_or_default(),
            )
        })
        .collect();
    let refs: Vec<PolicyRef<'_>> = named
        .iter()
        .map(|(namespace, name, spec)| PolicyRef {
            namespace,
            name,
            spec,
        })
        .collect();
    Ok(policies::explain::explain(
        &refs,
        from.party(),
        to.party(),
        protocol,
        number,
    ))
}

fn parse_port(text: &str) -> Result<(u16, u8), Error> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let number = number.parse().ok().filter(|number| *number != 0);
    let number = number.ok_or_else(|| Error::Port(text.into()))?;
    let protocol = Protocol::parse(Some(&protocol.to_ascii_uppercase()));
    Ok((
        number,
        protocol.ok_or_else(|| Error::Port(text.into()))?.number(),
    ))
}

async fn end(client: &Client, text: &str) -> Result<End, Error> {
    if let Ok(address) = text.parse() {
        return end_at(client, address).await;
    }
    let (namespace, name) = text
        .split_once('/')
        .filter(|(namespace, name)| {
            !namespace.is_empty() && !name.is_empty() && !name.contains('/')
        })
        .ok_or_else(|| Error::Party(text.into()))?;
    let pod = Api::<Pod>::namespaced(client.clone(), namespace)
        .get(name)
        .await;
    let pod = pod.map_err(failed(format!("pod {text}")))?;
    if host_network(&pod) {
        return Err(Error::HostNetwork(text.into()));
    }
    if is_terminal(&pod) {
        return Err(Error::Ended(text.into()));
    }
    let address = addresses(&pod)
        .next()
        .ok_or_else(|| Error::NoAddress(text.into()))?;
    Ok(End {
        address,
        pod: Some(facts(client, &pod).await?),
    })
}

/// An address may be a pod's.
async fn end_at(client: &Client, address: IpAddr) -> Result<End, Error> {
    let pods = Api::<Pod>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let pods = pods.map_err(failed("pods"))?;
    let owner = pods
        .items
        .iter()
        .filter(|p| !host_network(p) && !is_terminal(p) && addresses(p).any(|a| a == address))
        .max_by_key(|p| {
            p.status
                .as_ref()
                .and_then(|s| s.start_time.as_ref().map(|t| t.0))
        });
    let pod = match owner {
        Some(pod) => Some(facts(client, pod).await?),
        None => None,
    };
    Ok(End { address, pod })
}

async fn facts(client: &Client, pod: &Pod) -> Result<Facts, Error> {
    let namespace = pod.namespace().unwrap_or_default();
    let object = Api::<Namespace>::all(client.clone()).get(&namespace).await;
    let object = object.map_err(failed(format!("namespace {namespace}")))?;
    let ports = pod
        .spec
        .iter()
        .flat_map(|s| &s.containers)
        .flat_map(|c| c.ports.iter().flatten());
    let named = ports.filter_map(|p| {
        Some(NamedPort {
            name: p.name.clone()?,
            protocol: Protocol::parse(p.protocol.as_deref())?.number(),
            port: u16::try_from(p.container_port).ok()?,
        })
    });
    let labels = |map: &BTreeMap<String, String>| map.clone();
    Ok(Facts {
        namespace_labels: labels(object.labels()),
        labels: labels(pod.labels()),
        ports: named.collect(),
        namespace,
    })
}

fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn host_network(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .is_some_and(|s| s.host_network == Some(true))
}

fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let ips = pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten());
    ips.filter_map(|ip| ip.ip.parse().ok())
}

fn failed(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let what = what.into();
    move |error| match error {
        kube::Error::Api(status) if status.code == 404 => Error::Missing { what },
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => Error::Forbidden {
            what,
            message: status.message.clone(),
        },
        source => Error::Api {
            what,
            source: Box::new(source),
        },
    }
}

impl End {
    fn party(&self) -> Party<'_> {
        let pod = self.pod.as_ref().map(|facts| PodFacts {
            namespace: &facts.namespace,
            namespace_labels: &facts.namespace_labels,
            labels: &facts.labels,
            ports: &facts.ports,
        });
        Party {
            address: self.address,
            pod,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_tcp_unless_it_says_otherwise() {
        assert_eq!(parse_port("80").unwrap(), (80, abi::PROTO_TCP));
        assert_eq!(parse_port("53/udp").unwrap(), (53, abi::PROTO_UDP));
        for wrong in ["x", "80/QUIC", "0", "70000", ""] {
            let error = parse_port(wrong).unwrap_err().to_string();
            assert!(error.contains("53/UDP"), "{error}");
        }
    }

    fn api(code: u16) -> kube::Error {
        let status =
            kube::core::Status::failure("pods \"x\" not found", "NotFound").with_code(code);
        kube::Error::Api(Box::new(status))
    }

    #[tokio::test]
    async fn wrong_names_are_answered_with_what_to_write() {
        let answer = |_: http::Request<kube::client::Body>| async {
            let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":404,
                "reason":"NotFound","message":"pods \"x\" not found"}"#;
            let mut response =
                http::Response::new(kube::client::Body::from(body.as_bytes().to_vec()));
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            Ok::<_, std::convert::Infallible>(response)
        };
        let client = Client::new(tower::service_fn(answer), "default");
        let table = [
            ("web", "write default/web-0"),
            ("a/b/c", "write default/web-0"),
            ("/web", "write default/web-0"),
            ("default/x", "there is no pod default/x"),
        ];
        for (from, expected) in table {
            let error = explain(client.clone(), from, "10.0.0.1", "80").await;
            let error = error.unwrap_err().to_string();
            assert!(error.contains(expected), "{from}: {error}");
        }
        let forbidden = failed("pods")(api(403)).to_string();
        assert!(forbidden.contains("may not read"), "{forbidden}");
    }
}
