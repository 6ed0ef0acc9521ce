//! Which crate may depend on which (ARCHITECTURE.md), and which crates stay pure: read from
//! `cargo metadata`, so an arrow that is not drawn here does not compile into the product.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Each crate of the workspace with the crates of the workspace it may use.
const ARROWS: [(&str, &[&str]); 15] = [
    ("abi", &[]),
    ("api", &[]),
    ("store", &[]),
    ("dns", &[]),
    ("programs", &["abi"]),
    ("policies", &["abi"]),
    ("apiserver", &["api", "store"]),
    ("controllers", &["api"]),
    ("scheduler", &["api"]),
    (
        "controlplane",
        &["api", "apiserver", "controllers", "scheduler"],
    ),
    ("agent", &["abi", "api", "dns", "policies"]),
    ("windlass", &["agent", "controlplane"]),
    ("tests", &[]),
    ("hollow", &[]),
    ("xtask", &[]),
];

/// Crates whose whole dependency tree is free of runtimes, sockets and the kernel.
const PURE: [&str; 3] = ["abi", "api", "policies"];
const IMPURE: [&str; 7] = ["tokio", "aya", "nix", "hyper", "kube", "rtnetlink", "mio"];

/// Everything that does not hold.
pub fn problems(metadata: &Value) -> Vec<String> {
    let packages = workspace_packages(metadata);
    let mut problems = Vec::new();
    for (name, used) in &packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| known == name) else {
            problems.push(format!(
                "crate {name} is not in the table of arrows (xtask check)"
            ));
            continue;
        };
        for used in used.iter().filter(|used| packages.contains_key(*used)) {
            if !allowed.contains(&used.as_str()) {
                problems.push(format!("{name} must not depend on {used}"));
            }
        }
    }
    for name in PURE {
        let reached = reachable(name, &all_packages(metadata));
        for impure in IMPURE.iter().filter(|impure| reached.contains(**impure)) {
            problems.push(format!("{name} must stay pure but reaches {impure}"));
        }
    }
    problems
}

type Graph = BTreeMap<String, Vec<String>>;

/// Normal, non-optional dependencies by name; build and test dependencies are not the product.
fn dependencies(package: &Value) -> Vec<String> {
    let list = package["dependencies"].as_array().into_iter().flatten();
    list.filter(|d| d["kind"].is_null() && d["optional"] == false && d["target"].is_null())
        .filter_map(|d| d["name"].as_str().map(str::to_owned))
        .collect()
}

fn all_packages(metadata: &Value) -> Graph {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .filter_map(|p| Some((p["name"].as_str()?.to_owned(), dependencies(p))))
        .collect()
}

fn workspace_packages(metadata: &Value) -> Graph {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    // members of the workspace have no source
    packages
        .filter(|p| p["source"].is_null())
        .filter_map(|p| Some((p["name"].as_str()?.to_owned(), dependencies(p))))
        .collect()
}

fn reachable(name: &str, graph: &Graph) -> BTreeSet<String> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![name.to_owned()]);
    while let Some(name) = next.pop() {
        if seen.insert(name.clone()) {
            next.extend(graph.get(&name).into_iter().flatten().cloned());
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, uses: &[&str]) -> Value {
        let uses: Vec<Value> = uses
            .iter()
            .map(|name| json!({ "name": name, "kind": null, "optional": false, "target": null }))
            .collect();
        json!({ "name": name, "source": null, "dependencies": uses })
    }

    #[test]
    fn an_arrow_that_is_not_drawn_is_a_problem() {
        let packages = [
            package("store", &["api"]),
            package("api", &[]),
            package("x", &[]),
        ];
        let found = problems(&json!({ "packages": packages }));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("store must not depend on api"));
    }

    #[test]
    fn a_pure_crate_may_not_reach_a_runtime_through_others() {
        let packages = [package("policies", &["abi"]), package("abi", &["tokio"])];
        let found = problems(&json!({ "packages": packages }));
        assert!(
            found.iter().any(|p| p.contains("policies must stay pure")),
            "{found:?}"
        );
    }
}
