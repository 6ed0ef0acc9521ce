//! Resources of a pod as a whole: what is not said follows from the containers.
//!
//! Port of `DefaultPodLevelResources` in `pkg/api/pod/util.go`. Runs on new pods only.

use super::options::containers;
use super::resources::{aggregate, amount, amounts, is_of_pod};
use crate::doc::{Doc, Object, Value};
use crate::quantity::Quantity;

const HUGE_PAGES: &str = "hugepages-";

/// Fills in the pod's own requests and limits, if it has any.
pub(super) fn default_resources(doc: &mut Doc<'_>) {
    let named = |list: &str| {
        let list = doc
            .get(&["spec", "resources", list])
            .and_then(Value::as_object);
        list.is_some_and(|o| !o.is_empty())
    };
    if !named("requests") && !named("limits") {
        return;
    }
    huge_page_limits(doc);
    requests(doc);
    limits(doc);
}

fn own(doc: &Doc<'_>, list: &str, name: &str) -> Option<Quantity> {
    amount(doc.get(&["spec", "resources"]), list, name)
}

fn set(doc: &mut Doc<'_>, list: &str, name: &str, text: &str) {
    let arena = doc.arena();
    let resources = match doc.get_mut(&["spec", "resources"]) {
        Some(resources) => resources.make_object(arena),
        None => return,
    };
    let list = resources.entry_or_object(list).make_object(arena);
    list.set_copied(name, Value::string_in(text, arena));
}

/// What containers want together, as it is printed.
fn sums(doc: &Doc<'_>, list: &str) -> Vec<(String, Quantity)> {
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    aggregate(spec, list)
        .into_iter()
        .map(|(name, sum)| (name.to_owned(), sum))
        .collect()
}

fn huge_page_limits(doc: &mut Doc<'_>) {
    for (name, sum) in sums(doc, "limits") {
        let free = own(doc, "requests", &name).is_none() && own(doc, "limits", &name).is_none();
        if name.starts_with(HUGE_PAGES) && free {
            set(doc, "limits", &name, &sum.to_string());
        }
    }
}

fn requests(doc: &mut Doc<'_>) {
    for (name, sum) in sums(doc, "requests") {
        if matches!(&*name, "cpu" | "memory") && own(doc, "requests", &name).is_none() {
            set(doc, "requests", &name, &sum.to_string());
        }
    }
    let limits = doc
        .get(&["spec", "resources", "limits"])
        .and_then(Value::as_object);
    let limits: Vec<(String, String)> = limits
        .into_iter()
        .flat_map(Object::iter)
        .map(|(name, text)| {
            (
                name.to_owned(),
                text.as_str().unwrap_or_default().to_owned(),
            )
        })
        .collect();
    for (name, text) in limits {
        if is_of_pod(&name) && own(doc, "requests", &name).is_none() {
            set(doc, "requests", &name, &text);
        }
    }
}

/// Where every container is limited, the pod is too: to the sum, or to its request if that is more.
fn limits(doc: &mut Doc<'_>) {
    let spec = doc.get(&["spec"]).unwrap_or(&Value::Null);
    let all_limited = |name: &str| {
        containers(spec).all(|(_, _, c)| c.at(&["resources", "limits", name]).is_some())
    };
    let names: Vec<String> = amounts(spec.get("resources"), "requests")
        .map(|(name, _)| name.to_owned())
        .filter(|name| is_of_pod(name) && own(doc, "limits", name).is_none() && all_limited(name))
        .collect();
    let sums = sums(doc, "limits");
    for name in names {
        let Some((_, sum)) = sums.iter().find(|(n, _)| *n == name) else {
            continue;
        };
        let request = own(doc, "requests", &name).filter(|request| request > sum);
        let text = match request {
            Some(_) => doc
                .str_at(&["spec", "resources", "requests", &name])
                .unwrap_or_default()
                .to_owned(),
            None => sum.to_string(),
        };
        set(doc, "limits", &name, &text);
    }
}
