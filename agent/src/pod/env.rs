//! The environment of a container: service variables, `envFrom`, `env`, in this order, later ones win
//! (upstream: `kubelet_pods.go` makeEnvironmentVariables, `pkg/kubelet/envvars`). Pure; ConfigMaps and
//! Secrets are handed in. Values may be secret: they appear in no error.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::downward::{self, Facts};
use super::expand::expand;
use super::objects::{Key, Objects};
use super::resources;
use super::spec;

/// Why a container cannot be configured; becomes its CreateContainerConfigError.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("{kind} {name:?} not found")]
    ObjectMissing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    KeyMissing {
        kind: &'static str,
        namespace: String,
        name: String,
        key: String,
    },
    #[error("value of key {key} in {kind} {name} is not text")]
    NotText {
        kind: &'static str,
        name: String,
        key: String,
    },
    #[error("fieldRef {0:?} is not supported")]
    Field(String),
    #[error("resourceFieldRef {0:?} is not supported")]
    Resource(String),
}

/// A service as the environment needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEnv {
    pub namespace: String,
    pub name: String,
    pub cluster_ip: IpAddr,
    /// Name, protocol, port.
    pub ports: Vec<(Option<String>, String, u16)>,
}

/// Everything an environment is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub facts: &'a Facts,
    pub services: &'a [ServiceEnv],
    pub objects: &'a Objects,
    /// Milli-CPUs and bytes of memory of the node.
    pub allocatable: (i64, i64),
}

pub fn environment(
    input: Input<'_>,
    container: &Container,
) -> Result<BTreeMap<String, String>, Error> {
    let services = service_variables(input);
    let mut result = BTreeMap::new();
    from_objects(input, container, &mut result)?;
    let mut defined: BTreeMap<String, String> = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let value = if let Some(source) = &variable.value_from {
            match from_source(input, container, source)? {
                Some(value) => value,
                None => continue,
            }
        } else {
            let raw = variable.value.as_deref().unwrap_or_default();
            expand(raw, |name| {
                let known = defined.get(name).or_else(|| result.get(name));
                known.or_else(|| services.get(name)).map(String::as_str)
            })
        };
        defined.insert(variable.name.clone(), value);
    }
    result.extend(defined);
    for (name, value) in services {
        result.entry(name).or_insert(value);
    }
    Ok(result)
}

fn from_objects(
    input: Input<'_>,
    container: &Container,
    result: &mut BTreeMap<String, String>,
) -> Result<(), Error> {
    let namespace = spec::namespace(input.pod);
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (key, optional) = if let Some(reference) = &from.config_map_ref {
            (
                Key::config_map(namespace, &reference.name),
                reference.optional,
            )
        } else if let Some(reference) = &from.secret_ref {
            (Key::secret(namespace, &reference.name), reference.optional)
        } else {
            continue;
        };
        let Some(data) = input.objects.get(&key) else {
            if optional == Some(true) && input.objects.is_missing(&key) {
                continue;
            }
            return Err(Error::ObjectMissing {
                kind: key.kind(),
                name: key.name(),
            });
        };
        for (name, value) in &data.data {
            let Ok(text) = std::str::from_utf8(value) else {
                continue;
            };
            result.insert(format!("{prefix}{name}"), text.to_owned());
        }
    }
    Ok(())
}

fn from_source(
    input: Input<'_>,
    container: &Container,
    source: &EnvVarSource,
) -> Result<Option<String>, Error> {
    let namespace = spec::namespace(input.pod);
    if let Some(reference) = &source.field_ref {
        return downward::field(input.pod, input.facts, &reference.field_path)
            .map(Some)
            .ok_or_else(|| Error::Field(reference.field_path.clone()));
    }
    if let Some(reference) = &source.resource_field_ref {
        let named = reference
            .container_name
            .as_deref()
            .filter(|name| !name.is_empty());
        let found = named
            .and_then(|name| spec::find(input.pod, name))
            .map(|(_, c)| c);
        let of = found.as_ref().unwrap_or(container);
        let divisor = reference.divisor.as_ref().map(|q| q.0.as_str());
        return resources::field(of, &reference.resource, divisor, input.allocatable)
            .map(Some)
            .ok_or_else(|| Error::Resource(reference.resource.clone()));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let key = Key::config_map(namespace, &reference.name);
        return value_of(input, &key, &reference.key, reference.optional);
    }
    if let Some(reference) = &source.secret_key_ref {
        let key = Key::secret(namespace, &reference.name);
        return value_of(input, &key, &reference.key, reference.optional);
    }
    Ok(Some(String::new()))
}

fn value_of(
    input: Input<'_>,
    object: &Key,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>, Error> {
    let optional = optional == Some(true);
    let (kind, name) = (object.kind(), object.name());
    let Some(data) = input.objects.get(object) else {
        return if optional && input.objects.is_missing(object) {
            Ok(None)
        } else {
            Err(Error::ObjectMissing { kind, name })
        };
    };
    match data.data.get(key) {
        Some(value) => match std::str::from_utf8(value) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(Error::NotText {
                kind,
                name,
                key: key.to_owned(),
            }),
        },
        None if optional => Ok(None),
        None => Err(Error::KeyMissing {
            kind,
            namespace: spec::namespace(input.pod).to_owned(),
            name,
            key: key.to_owned(),
        }),
    }
}

/// Docker-links style variables of the services of the pod's namespace, and of `kubernetes` always.
fn service_variables(input: Input<'_>) -> BTreeMap<String, String> {
    let links = spec::spec(input.pod).enable_service_links.unwrap_or(true);
    let namespace = spec::namespace(input.pod);
    let mut variables = BTreeMap::new();
    let master = |s: &&ServiceEnv| s.namespace == "default" && s.name == "kubernetes";
    let own = input
        .services
        .iter()
        .filter(|s| links && s.namespace == namespace);
    for service in input.services.iter().filter(master).chain(own) {
        add_service(service, &mut variables);
    }
    variables
}

fn add_service(service: &ServiceEnv, variables: &mut BTreeMap<String, String>) {
    let Some((_, _, first_port)) = service.ports.first() else {
        return;
    };
    let prefix = service.name.to_uppercase().replace('-', "_");
    let ip = service.cluster_ip;
    let host = if ip.is_ipv6() {
        format!("[{ip}]")
    } else {
        ip.to_string()
    };
    let mut set = |name: String, value: String| variables.insert(name, value);
    set(format!("{prefix}_SERVICE_HOST"), ip.to_string());
    set(format!("{prefix}_SERVICE_PORT"), first_port.to_string());
    for (at, (name, protocol, port)) in service.ports.iter().enumerate() {
        if let Some(name) = name.as_ref().filter(|name| !name.is_empty()) {
            let name = name.to_uppercase().replace('-', "_");
            set(format!("{prefix}_SERVICE_PORT_{name}"), port.to_string());
        }
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{port}");
        if at == 0 {
            set(format!("{prefix}_PORT"), url.clone());
        }
        let base = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
        set(base.clone(), url);
        set(format!("{base}_PROTO"), lower);
        set(format!("{base}_PORT"), port.to_string());
        set(format!("{base}_ADDR"), ip.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::objects::Data;
    use k8s_openapi::api::core::v1::EnvVar;
    use serde_json::json;

    fn container(value: serde_json::Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u" },
            "spec": { "containers": [] }
        }))
        .unwrap()
    }

    fn run(container: &Container) -> Result<BTreeMap<String, String>, Error> {
        let facts = Facts {
            pod_ips: vec!["10.1.0.9".parse().unwrap()],
            ..Facts::default()
        };
        let services = [
            ServiceEnv {
                namespace: "ns".to_owned(),
                name: "my-db".to_owned(),
                cluster_ip: "10.96.0.5".parse().unwrap(),
                ports: vec![(Some("sql".to_owned()), "TCP".to_owned(), 5432)],
            },
            ServiceEnv {
                namespace: "other".to_owned(),
                name: "hidden".to_owned(),
                cluster_ip: "10.96.0.6".parse().unwrap(),
                ports: vec![(None, "TCP".to_owned(), 1)],
            },
        ];
        let mut objects = Objects::default();
        let data = Data {
            data: [("k".to_owned(), b"v".to_vec())].into(),
        };
        objects.insert(Key::config_map("ns", "cm"), data);
        let pod = pod();
        let input = Input {
            pod: &pod,
            facts: &facts,
            services: &services,
            objects: &objects,
            allocatable: (2000, 1 << 30),
        };
        environment(input, container)
    }

    #[test]
    fn variables_refer_to_earlier_ones_and_to_services() {
        let env = run(&container(json!({ "name": "c", "env": [
            { "name": "A", "value": "1" },
            { "name": "B", "value": "$(A)-$(MY_DB_SERVICE_HOST)-$(LATER)" },
            { "name": "LATER", "value": "x" },
            { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
        ]})))
        .unwrap();
        assert_eq!(env["B"], "1-10.96.0.5-$(LATER)");
        assert_eq!(env["IP"], "10.1.0.9");
        assert_eq!(env["MY_DB_PORT_5432_TCP"], "tcp://10.96.0.5:5432");
        assert_eq!(env["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert!(!env.keys().any(|name| name.starts_with("HIDDEN")));
    }

    #[test]
    fn config_maps_fill_by_key_and_as_a_whole() {
        let env = run(&container(json!({ "name": "c",
            "envFrom": [{ "prefix": "P_", "configMapRef": { "name": "cm" } },
                        { "secretRef": { "name": "none", "optional": true } }],
            "env": [{ "name": "X", "valueFrom": { "configMapKeyRef": { "name": "cm", "key": "k" } } },
                    { "name": "Y", "valueFrom": { "configMapKeyRef":
                        { "name": "cm", "key": "none", "optional": true } } }]
        })))
        .unwrap();
        assert_eq!((env["P_k"].as_str(), env["X"].as_str()), ("v", "v"));
        assert!(!env.contains_key("Y"));
    }

    #[test]
    fn missing_objects_and_keys_are_errors_that_name_them() {
        let source = |name: &str, key: &str| {
            let value_from = json!({ "configMapKeyRef": { "name": name, "key": key } });
            run(&Container {
                env: Some(vec![EnvVar {
                    name: "X".to_owned(),
                    value_from: Some(serde_json::from_value(value_from).unwrap()),
                    ..EnvVar::default()
                }]),
                ..Container::default()
            })
        };
        assert_eq!(
            source("gone", "k").unwrap_err().to_string(),
            "configmap \"gone\" not found"
        );
        let error = source("cm", "gone").unwrap_err();
        assert_eq!(
            error.to_string(),
            "couldn't find key gone in configmap ns/cm"
        );
    }
}
