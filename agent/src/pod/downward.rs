//! The downward API: a field of the pod as text (upstream: `pkg/fieldpath`, `kubelet_pods.go`
//! podFieldSelectorRuntimeValue). Pure; what only the node knows is an argument.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::spec;

/// What the pod object itself does not say yet.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub pod_ips: Vec<IpAddr>,
    pub node_ips: Vec<IpAddr>,
    pub node_name: String,
}

/// The field's value; `None` for a path the downward API does not have.
pub fn field(pod: &Pod, facts: &Facts, path: &str) -> Option<String> {
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => pod.metadata.labels.as_ref(),
            "metadata.annotations" => pod.metadata.annotations.as_ref(),
            _ => return None,
        };
        return Some(
            map.and_then(|map| map.get(key))
                .cloned()
                .unwrap_or_default(),
        );
    }
    let join = |ips: &[IpAddr]| {
        ips.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let value = match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => spec::spec(pod)
            .service_account_name
            .clone()
            .unwrap_or_default(),
        "status.hostIP" => first(&facts.node_ips),
        "status.hostIPs" => join(&facts.node_ips),
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => join(&facts.pod_ips),
        _ => return None,
    };
    Some(value)
}

/// Whether a label or annotation reference, which is not static, occurs in the path.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as lines `key="value"` with Go's quoting, sorted by key.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (at, (key, value)) in map.into_iter().flatten().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        text.push_str(key);
        text.push('=');
        quote(value, &mut text);
    }
    text
}

fn quote(value: &str, text: &mut String) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\x{:02x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_from_the_pod_and_the_node() {
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".to_owned());
        pod.metadata.labels = Some(
            [
                ("b".to_owned(), "x\"y".to_owned()),
                ("a".to_owned(), "1".to_owned()),
            ]
            .into(),
        );
        let facts = Facts {
            pod_ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            ..Facts::default()
        };
        let table = [
            ("metadata.name", "web"),
            ("metadata.labels", "a=\"1\"\nb=\"x\\\"y\""),
            ("metadata.labels['a']", "1"),
            ("metadata.labels['none']", ""),
            ("status.podIP", "10.0.0.1"),
            ("status.podIPs", "10.0.0.1,fd00::1"),
        ];
        for (path, expected) in table {
            assert_eq!(
                field(&pod, &facts, path).as_deref(),
                Some(expected),
                "{path}"
            );
        }
        assert_eq!(field(&pod, &facts, "spec.nope"), None);
    }
}
