//! Limit ranges: what containers get that say nothing, and what pods and claims may ask for. Pure.
//!
//! Port of `plugin/pkg/admission/limitranger/admission.go`.

use serde::Deserialize;

use crate::quantity::Quantity;
use crate::resources::{Amounts, PodResources, Resources};

/// A LimitRange as its rules need it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LimitRange {
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    limits: Vec<Limit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Limit {
    #[serde(rename = "type")]
    type_: String,
    max: Amounts,
    min: Amounts,
    default: Amounts,
    default_request: Amounts,
    max_limit_request_ratio: Amounts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Claim {
    spec: ClaimSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClaimSpec {
    resources: Resources,
}

impl LimitRange {
    /// Reads canonical JSON.
    pub fn read(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    /// Requests and limits of containers that do not have them.
    pub fn container_defaults(&self) -> Resources {
        let mut defaults = Resources::default();
        for limit in self.of_type("Container") {
            for (name, quantity) in limit.default_request.iter() {
                defaults.requests.set(name, quantity);
            }
            for (name, quantity) in limit.default.iter() {
                defaults.limits.set(name, quantity);
            }
        }
        defaults
    }

    /// What is wrong with a pod.
    pub fn check_pod(&self, pod: &PodResources) -> Vec<String> {
        let mut problems = Vec::new();
        for limit in &self.spec.limits {
            match limit.type_.as_str() {
                "Container" => {
                    for container in pod.containers() {
                        limit.check(&container.resources, &mut problems);
                    }
                }
                "Pod" => limit.check(&pod.of_spec(), &mut problems),
                _ => {}
            }
        }
        problems
    }

    /// What is wrong with a PersistentVolumeClaim, given as canonical JSON.
    pub fn check_claim(&self, claim: &[u8]) -> serde_json::Result<Vec<String>> {
        let claim: Claim = serde_json::from_slice(claim)?;
        let asked = Resources {
            requests: claim.spec.resources.requests,
            limits: Amounts::default(),
        };
        let mut problems = Vec::new();
        for limit in self.of_type("PersistentVolumeClaim") {
            problems.extend(
                limit
                    .min
                    .iter()
                    .filter_map(|(name, min)| limit.below(name, min, &asked)),
            );
            let above = |(name, max): (&str, Quantity)| limit.request_above(name, max, &asked);
            problems.extend(limit.max.iter().filter_map(above));
        }
        Ok(problems)
    }

    fn of_type(&self, type_: &str) -> impl Iterator<Item = &Limit> {
        self.spec
            .limits
            .iter()
            .filter(move |limit| limit.type_ == type_)
    }
}

impl Limit {
    fn check(&self, asked: &Resources, problems: &mut Vec<String>) {
        problems.extend(
            self.min
                .iter()
                .filter_map(|(name, min)| self.below(name, min, asked)),
        );
        problems.extend(
            self.max
                .iter()
                .filter_map(|(name, max)| self.above(name, max, asked)),
        );
        let ratios = self.max_limit_request_ratio.iter();
        problems.extend(ratios.filter_map(|(name, ratio)| self.too_far(name, ratio, asked)));
    }

    fn below(&self, name: &str, min: Quantity, asked: &Resources) -> Option<String> {
        let start = format!("minimum {name} usage per {} is {min}", self.type_);
        let Some(request) = asked.requests.get(name) else {
            return Some(format!("{start}.  No request is specified"));
        };
        if request < min {
            return Some(format!("{start}, but request is {request}"));
        }
        let limit = asked.limits.get(name).filter(|limit| *limit < min)?;
        Some(format!("{start}, but limit is {limit}"))
    }

    fn above(&self, name: &str, max: Quantity, asked: &Resources) -> Option<String> {
        let start = format!("maximum {name} usage per {} is {max}", self.type_);
        let Some(limit) = asked.limits.get(name) else {
            return Some(format!("{start}.  No limit is specified"));
        };
        if limit > max {
            return Some(format!("{start}, but limit is {limit}"));
        }
        let request = asked.requests.get(name).filter(|request| *request > max)?;
        Some(format!("{start}, but request is {request}"))
    }

    fn request_above(&self, name: &str, max: Quantity, asked: &Resources) -> Option<String> {
        let start = format!("maximum {name} usage per {} is {max}", self.type_);
        match asked.requests.get(name) {
            None => Some(format!("{start}.  No request is specified")),
            Some(request) if request > max => Some(format!("{start}, but request is {request}")),
            Some(_) => None,
        }
    }

    fn too_far(&self, name: &str, ratio: Quantity, asked: &Resources) -> Option<String> {
        let start = format!(
            "{name} max limit to request ratio per {} is {ratio}, but",
            self.type_
        );
        let asked_for = |amounts: &Amounts| amounts.get(name).filter(|amount| amount.sign() != 0);
        let Some(request) = asked_for(&asked.requests) else {
            return Some(format!("{start} no request is specified or request is 0"));
        };
        let Some(limit) = asked_for(&asked.limits) else {
            return Some(format!("{start} no limit is specified or limit is 0"));
        };
        let observed = limit.milli_value() as f64 / request.milli_value() as f64;
        let is_too_far = observed * 1000.0 > ratio.milli_value() as f64;
        is_too_far.then(|| format!("{start} provided ratio is {observed:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn range(limit: Value) -> LimitRange {
        let object = json!({"spec": {"limits": [limit]}});
        LimitRange::read(object.to_string().as_bytes()).unwrap()
    }

    fn pod(requests: Value, limits: Value) -> PodResources {
        let container = json!({"name": "c", "resources": {"requests": requests, "limits": limits}});
        serde_json::from_value(json!({"spec": {"containers": [container.clone(), container]}}))
            .unwrap()
    }

    #[test]
    fn containers_and_pods_stay_within_their_limits() {
        let limit = |type_: &str, min: Value, max: Value| {
            range(json!({"type": type_, "min": min, "max": max}))
        };
        let small = pod(json!({"cpu": "50m"}), json!({"cpu": "100m"}));
        let check = |range: LimitRange, pod: &PodResources| range.check_pod(pod).join("; ");
        let none = json!({});
        for (type_, min, max, problem) in [
            (
                "Container",
                json!({"cpu": "50m"}),
                json!({"cpu": "100m"}),
                "",
            ),
            (
                "Container",
                json!({"cpu": "60m"}),
                none.clone(),
                "minimum cpu usage per Container is 60m, but request is 50m; \
                 minimum cpu usage per Container is 60m, but request is 50m",
            ),
            ("Pod", json!({"cpu": "60m"}), none.clone(), ""),
            (
                "Pod",
                none.clone(),
                json!({"cpu": "150m"}),
                "maximum cpu usage per Pod is 150m, but limit is 200m",
            ),
            (
                "Pod",
                none,
                json!({"memory": "1Gi"}),
                "maximum memory usage per Pod is 1Gi.  No limit is specified",
            ),
        ] {
            assert_eq!(check(limit(type_, min, max), &small), problem);
        }
    }

    #[test]
    fn a_limit_is_not_too_far_from_the_request() {
        let range = range(json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}}));
        let check = |requests, limits| range.check_pod(&pod(requests, limits));
        assert!(check(json!({"cpu": "1"}), json!({"cpu": "2"})).is_empty());
        let problems = check(json!({"cpu": "1"}), json!({"cpu": "3"}));
        let text = "cpu max limit to request ratio per Pod is 2, but provided ratio is 3.000000";
        assert_eq!(problems, [text]);
        assert_eq!(check(json!({}), json!({"cpu": "3"})).len(), 1);
    }

    #[test]
    fn claims_are_checked_by_what_they_request() {
        let range = range(json!({
            "type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"},
        }));
        let check = |storage: &str| {
            let claim = json!({"spec": {"resources": {"requests": {"storage": storage}}}});
            range.check_claim(claim.to_string().as_bytes()).unwrap()
        };
        assert!(check("1Gi").is_empty());
        let text = "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi";
        assert_eq!(check("3Gi"), [text]);
        assert_eq!(check("1Mi").len(), 1);
    }
}
