//! Distributes endpoints over slices with as few changed slices as possible.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};

use super::Group;
use crate::kinds::EndpointSlice;

/// Endpoints in one slice (upstream's default for --max-endpoints-per-slice).
pub const MAX_ENDPOINTS: usize = 100;

/// A slice as it should be.
#[derive(Debug)]
pub struct Slice<'a> {
    /// The slice as it is; `None` for one to be created.
    pub old: Option<&'a Arc<EndpointSlice>>,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

/// Ports are equal whatever their order.
pub fn same_ports(a: &[EndpointPort], b: &[EndpointPort]) -> bool {
    a.len() == b.len() && a.iter().all(|port| b.contains(port))
}

/// How every slice of one address type should look. A slice that should go is reused for a group
/// that needs one more, else it is left empty. There is at least one slice in the answer.
pub fn distribute<'a>(
    mut existing: Vec<&'a Arc<EndpointSlice>>,
    groups: Vec<Group>,
) -> Vec<Slice<'a>> {
    let mut slices = Vec::new();
    let mut homeless = Vec::new();
    for group in groups {
        let (of_group, others) = existing
            .into_iter()
            .partition(|slice| same_ports(&slice.ports, &group.ports));
        existing = others;
        keep(of_group, group, &mut slices, &mut homeless);
    }
    for Group {
        ports,
        mut endpoints,
    } in homeless
    {
        while !endpoints.is_empty() {
            let rest = endpoints.split_off(endpoints.len().min(MAX_ENDPOINTS));
            slices.push(Slice {
                old: existing.pop(),
                ports: ports.clone(),
                endpoints,
            });
            endpoints = rest;
        }
    }
    // Slices nothing needs any more.
    let empty = existing.into_iter().map(|old| Slice {
        old: Some(old),
        ports: Vec::new(),
        endpoints: Vec::new(),
    });
    slices.extend(empty);
    if slices.is_empty() {
        slices.push(Slice {
            old: None,
            ports: Vec::new(),
            endpoints: Vec::new(),
        });
    }
    slices
}

/// Keeps the endpoints of one group where they are, fills freed room, and leaves the rest.
fn keep<'a>(
    existing: Vec<&'a Arc<EndpointSlice>>,
    group: Group,
    slices: &mut Vec<Slice<'a>>,
    homeless: &mut Vec<Group>,
) {
    let Group { ports, endpoints } = group;
    let mut wanted: HashMap<String, Endpoint> =
        endpoints.iter().map(|e| (identity(e), e.clone())).collect();
    let first = slices.len();
    for slice in existing {
        let kept = slice
            .endpoints
            .iter()
            .filter_map(|e| wanted.remove(&identity(e)));
        let endpoints = kept.take(MAX_ENDPOINTS).collect();
        slices.push(Slice {
            old: Some(slice),
            ports: ports.clone(),
            endpoints,
        });
    }
    let mut new: Vec<Endpoint> = endpoints
        .into_iter()
        .filter(|e| wanted.contains_key(&identity(e)))
        .collect();
    for slice in &mut slices[first..] {
        let room = MAX_ENDPOINTS - slice.endpoints.len();
        slice.endpoints.extend(new.drain(..room.min(new.len())));
    }
    if !new.is_empty() {
        homeless.push(Group {
            ports,
            endpoints: new,
        });
    }
}

/// An endpoint stays the same while its pod and addresses do.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint
        .target_ref
        .as_ref()
        .and_then(|r| r.uid.as_deref())
        .unwrap_or("");
    format!("{uid} {}", endpoint.addresses.join(" "))
}
