//! Requests and limits: of containers, of the pod as a whole, and as overhead.
//!
//! Port of `validateResourceRequirements` and its neighbours in `pkg/apis/core/validation/validation.go`,
//! of `pkg/apis/core/helper` and of `k8s.io/component-helpers/resource`.

use std::collections::{BTreeMap, HashSet};

use super::options::{Options, Spec, containers, is_sidecar};
use crate::doc::{Object, Value};
use crate::quantity::Quantity;
use crate::status::FieldError;
use crate::validate::names::{dns_label, label_key};
use crate::validate::path::{Errors, Path};
use crate::validate::resource_name::{self, CONTAINER, COUNTED};

const HUGE_PAGES: &str = "hugepages-";
const POD_RESOURCES: [&str; 3] = ["cpu", "hugepages-", "memory"];

/// Whose resources they are: that decides which names there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Container,
    Pod,
}

/// An amount of a list such as `requests`.
pub(super) fn amount(resources: Option<&Value<'_>>, list: &str, name: &str) -> Option<Quantity> {
    let text = resources?.get(list)?.get(name)?.as_str()?;
    Quantity::parse(text).ok()
}

/// The amounts of a list such as `requests`.
pub(super) fn amounts<'a>(
    resources: Option<&Value<'a>>,
    list: &str,
) -> impl Iterator<Item = (&'a str, Quantity)> {
    let list = resources
        .and_then(|r| r.get(list))
        .and_then(Value::as_object);
    list.into_iter()
        .flat_map(Object::iter)
        .filter_map(|(name, text)| Some((name, Quantity::parse(text.as_str()?).ok()?)))
}

fn is_huge_pages(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether more may be promised than there is.
fn is_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && label_key(&format!("requests.{name}")).is_empty()
}

/// Whether a pod as a whole can have the resource.
pub(super) fn is_of_pod(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_pages(name)
}

fn is_whole_pages(name: &str, amount: &Quantity) -> bool {
    let page = name
        .strip_prefix(HUGE_PAGES)
        .and_then(|size| Quantity::parse(size).ok());
    page.is_some_and(|page| {
        page.sign() > 0 && page.milli_value() % 1000 == 0 && amount.value() % page.value() == 0
    })
}

/// Whether a spec has huge pages in other amounts than whole pages.
pub(super) fn has_broken_huge_pages(spec: &Value<'_>) -> bool {
    containers(spec).any(|(_, _, container)| {
        let resources = container.get("resources");
        ["limits", "requests"].iter().any(|list| {
            amounts(resources, list)
                .any(|(name, amount)| is_huge_pages(name) && !is_whole_pages(name, &amount))
        })
    })
}

/// The resources of a container.
pub(super) fn of_container(
    known: &Spec<'_, '_>,
    resources: Option<&Value<'_>>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(resources) = resources else { return };
    requirements(resources, Owner::Container, known.options, path, errors);
    claim_names(known, resources, &path.child("claims"), errors);
}

/// What a pod costs beyond its containers: limits without requests.
pub(super) fn overhead(list: &Value<'_>, options: &Options, path: &Path<'_>, errors: &mut Errors) {
    let arena = bumpalo::Bump::new();
    let mut resources = Object::new_in(&arena);
    resources.push("limits", list.copy_in(&arena));
    requirements(
        &Value::Object(resources),
        Owner::Container,
        options,
        path,
        errors,
    );
}

/// The resources of the pod as a whole.
pub(super) fn pod_resources(known: &Spec<'_, '_>, path: &Path<'_>, errors: &mut Errors) {
    let Some(resources) = known.spec.get("resources") else {
        return;
    };
    let at = path.child("resources");
    if known.os() == Some("windows") {
        return errors.forbidden(&at, "may not be set for a windows pod");
    }
    if resources.get("claims").is_some() {
        let detail = "claims may not be set for Resources at pod-level";
        errors.forbidden(&at.child("claims"), detail);
    }
    requirements(resources, Owner::Pod, known.options, &at, errors);
    claim_names(known, resources, &at.child("claims"), errors);
    consistency(known.spec, resources, &at, errors);
}

fn requirements(
    resources: &Value<'_>,
    owner: Owner,
    options: &Options,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (limits_at, requests_at) = (path.child("limits"), path.child("requests"));
    let (mut huge, mut basic) = (false, false);
    for (list, at) in [("limits", &limits_at), ("requests", &requests_at)] {
        for (name, quantity) in amounts(Some(resources), list) {
            let at = at.key(name);
            owned_name(name, owner, &at, errors);
            let text = resources
                .at(&[list, name])
                .and_then(Value::as_str)
                .unwrap_or_default();
            resource_amount(name, text, &quantity, &at, errors);
            if list == "requests" {
                within_limit(resources, name, text, &requests_at, errors);
            }
            if is_huge_pages(name) {
                huge = true;
                if !options.broken_huge_pages && !is_whole_pages(name, &quantity) {
                    let detail = format!("{text} is not positive integer multiple of {name}");
                    errors.invalid(&at, text, detail);
                }
            }
            basic |= matches!(name, "cpu" | "memory");
        }
    }
    if huge && !basic {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// A request is at most the limit; what cannot be overcommitted is requested as it is limited.
fn within_limit(
    resources: &Value<'_>,
    name: &str,
    text: &str,
    requests: &Path<'_>,
    errors: &mut Errors,
) {
    let limit_text = resources.at(&["limits", name]).and_then(Value::as_str);
    let limit = amount(Some(resources), "limits", name);
    let request = amount(Some(resources), "requests", name);
    match (limit, request) {
        (Some(limit), Some(request)) if request != limit && !is_overcommitted(name) => {
            let detail = format!(
                "must be equal to {name} limit of {}",
                limit_text.unwrap_or("0")
            );
            errors.invalid(requests, text, detail);
        }
        (Some(limit), Some(request)) if request > limit => {
            let limit = limit_text.unwrap_or("0");
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.invalid(requests, text, detail);
        }
        (None, _) if !is_overcommitted(name) => {
            let limits = requests.sibling("limits");
            errors.required(
                &limits,
                "Limit must be set for non overcommitable resources",
            );
        }
        _ => {}
    }
}

/// An amount: not negative, and whole where things are counted.
pub(super) fn resource_amount(
    name: &str,
    text: &str,
    quantity: &Quantity,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    if quantity.sign() < 0 {
        errors.invalid(at, text, "must be greater than or equal to 0");
    }
    let counted = COUNTED.contains(&name) || is_extended(name);
    if counted && quantity.milli_value() % 1000 != 0 {
        errors.invalid(at, text, "must be an integer");
    }
}

fn owned_name(name: &str, owner: Owner, at: &Path<'_>, errors: &mut Errors) {
    let plain = !name.contains('/');
    let good = resource_name::resource_name(at, name, errors);
    match owner {
        Owner::Pod if good && !is_of_pod(name) => {
            errors.not_supported(at, name, &POD_RESOURCES);
        }
        Owner::Pod => {}
        Owner::Container if plain => {
            if !CONTAINER.contains(&name) && !is_huge_pages(name) {
                errors.invalid(at, name, "must be a standard resource for containers");
            }
        }
        Owner::Container => {
            if !is_native(name) && !is_extended(name) {
                errors.invalid(at, name, "doesn't follow extended resource name standard");
            }
        }
    }
}

/// Claims of a container are claims of its pod.
fn claim_names(known: &Spec<'_, '_>, resources: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut names: HashSet<String> = HashSet::new();
    for (i, claim) in resources.list_of("claims").iter().enumerate() {
        let at = path.index(i);
        let name = claim.str_of("name").unwrap_or_default();
        let request = claim.str_of("request").unwrap_or_default();
        if name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        if names.contains(name) {
            errors.duplicate(&at, name);
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                errors.each(&at.child("request"), request, dns_label(request));
                key = format!("{name}/{request}");
            }
            if names.contains(&key) {
                errors.duplicate(&at, &key);
            } else if request.is_empty() {
                let of_claim =
                    |k: &&String| k.split_once('/').is_some_and(|(claim, _)| claim == name);
                for _ in names.iter().filter(of_claim) {
                    errors.duplicate(&at, name);
                }
            }
            names.insert(key);
        }
        if !known.claims.contains(name) {
            let mut error = FieldError::not_found(at.to_string(), name);
            let all: Vec<&str> = known.claims.iter().copied().collect();
            error.detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            error.detail.push_str(&match all.is_empty() {
                true => " which is empty".to_owned(),
                false => format!(": {}", all.join(", ")),
            });
            errors.0.push(error);
        }
    }
}

/// What all containers ask for together: `AggregateContainerRequests` and `…Limits`.
pub(super) fn aggregate<'a>(spec: &Value<'a>, list: &str) -> BTreeMap<&'a str, Quantity> {
    let mut total: BTreeMap<&str, Quantity> = BTreeMap::new();
    let add = |to: &mut BTreeMap<&'a str, Quantity>, container: &Value<'a>| {
        for (name, amount) in amounts(container.get("resources"), list) {
            let sum = to.get(name).map_or(amount, |have| have.plus(amount));
            to.insert(name, sum);
        }
    };
    let raise = |to: &mut BTreeMap<&'a str, Quantity>, by: &BTreeMap<&'a str, Quantity>| {
        for (name, amount) in by {
            if to.get(name).is_none_or(|have| amount > have) {
                to.insert(name, *amount);
            }
        }
    };
    for container in spec.list_of("containers") {
        add(&mut total, container);
    }
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::new());
    for container in spec.list_of("initContainers") {
        if is_sidecar(container) {
            add(&mut total, container);
            add(&mut sidecars, container);
            raise(&mut peak, &sidecars);
        } else {
            let mut now = BTreeMap::new();
            add(&mut now, container);
            for (name, amount) in &sidecars {
                let sum = now
                    .get(name)
                    .map_or(*amount, |have: &Quantity| have.plus(*amount));
                now.insert(name, sum);
            }
            raise(&mut peak, &now);
        }
    }
    raise(&mut total, &peak);
    total
}

/// The pod's amounts and those of its containers fit together.
fn consistency(spec: &Value<'_>, resources: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let text = |list: &str, name: &str| {
        resources
            .at(&[list, name])
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (requests, limits) = (path.child("requests"), path.child("limits"));
    for (name, sum) in aggregate(spec, "requests") {
        if amount(Some(resources), "requests", name).is_some_and(|own| sum > own) {
            let detail =
                format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(&requests.key(name), &text("requests", name), detail);
        }
    }
    for (name, sum) in aggregate(spec, "limits") {
        let own = amount(Some(resources), "limits", name);
        if is_huge_pages(name) && own.is_some_and(|own| sum > own) {
            let detail =
                format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.invalid(&limits.key(name), &text("limits", name), detail);
        }
    }
    let list = path.child("containers");
    for (i, container) in spec.list_of("containers").iter().enumerate() {
        for (name, limit) in amounts(container.get("resources"), "limits") {
            if amount(Some(resources), "limits", name).is_some_and(|own| limit > own) {
                let own = container
                    .at(&["resources", "limits", name])
                    .and_then(Value::as_str);
                let at = list.index(i);
                let detail = format!(
                    "must be less than or equal to pod limits of {}",
                    text("limits", name)
                );
                errors.invalid(
                    &at.key(name).child("limits"),
                    own.unwrap_or_default(),
                    detail,
                );
            }
        }
    }
}
