//! What a Pod asks for and may take. Port of `PodRequests` and `PodLimits` in
//! `k8s.io/component-helpers/resource/helpers.go`.

use serde::Deserialize;

use super::Amounts;

const HUGE_PAGES: &str = "hugepages-";

/// The fields of a pod that say so.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodResources {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    overhead: Amounts,
    resources: Option<Resources>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    pub name: String,
    restart_policy: Option<String>,
    pub resources: Resources,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub requests: Amounts,
    pub limits: Amounts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    conditions: Vec<Condition>,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    allocated_resources: Option<Amounts>,
    resources: Option<StatusResources>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusResources {
    requests: Option<Amounts>,
    limits: Option<Amounts>,
}

/// One way to look at what a container takes.
#[derive(Clone, Copy)]
enum View {
    Spec,
    Allocated,
    Actuated,
}

fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with(HUGE_PAGES)
}

impl PodResources {
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        self.spec
            .containers
            .iter()
            .chain(&self.spec.init_containers)
    }

    /// Resources of the pod as a whole, when it has any that count.
    pub fn pod_level(&self) -> Option<&Resources> {
        let resources = self.spec.resources.as_ref()?;
        let mut amounts = resources.requests.iter().chain(resources.limits.iter());
        amounts
            .any(|(name, _)| is_pod_level(name))
            .then_some(resources)
    }

    /// What it asks for, including what a resize in progress holds.
    pub fn requests(&self) -> Amounts {
        let of = |container: &Container, view: View| {
            let status = self.status_of(&container.name);
            let allocated = status.and_then(|s| s.allocated_resources.as_ref());
            let actual = status.and_then(|s| s.resources.as_ref()?.requests.as_ref());
            let reported = match view {
                View::Spec => return container.resources.requests.clone(),
                View::Allocated => allocated,
                View::Actuated => actual.or(allocated),
            };
            self.reported_or(reported, &container.resources.requests)
        };
        let views = [View::Spec, View::Allocated, View::Actuated];
        let mut requests = self.largest(&views, of);
        if let Some(whole) = self.pod_level() {
            overlay(&mut requests, &whole.requests);
        }
        requests.plus(&self.spec.overhead)
    }

    /// What it may take, including what a resize in progress holds.
    pub fn limits(&self) -> Amounts {
        let of = |container: &Container, view: View| {
            let status = self.status_of(&container.name);
            let actual = status.and_then(|s| s.resources.as_ref()?.limits.as_ref());
            match view {
                View::Spec => container.resources.limits.clone(),
                View::Allocated | View::Actuated => {
                    self.reported_or(actual, &container.resources.limits)
                }
            }
        };
        let mut limits = self.largest(&[View::Spec, View::Actuated], of);
        if let Some(whole) = self.pod_level() {
            overlay(&mut limits, &whole.limits);
        }
        for (name, overhead) in self.spec.overhead.iter() {
            if limits.get(name).is_some_and(|limit| limit.sign() != 0) {
                limits.add(name, overhead);
            }
        }
        limits
    }

    /// Requests and limits by the spec alone, without overhead.
    pub fn of_spec(&self) -> Resources {
        let mut resources = Resources {
            requests: self.aggregate(|container| container.resources.requests.clone()),
            limits: self.aggregate(|container| container.resources.limits.clone()),
        };
        if let Some(whole) = &self.spec.resources {
            overlay(&mut resources.requests, &whole.requests);
            overlay(&mut resources.limits, &whole.limits);
        }
        resources
    }

    fn status_of(&self, container: &str) -> Option<&ContainerStatus> {
        let Status {
            container_statuses,
            init_container_statuses,
            ..
        } = &self.status;
        let mut statuses = container_statuses.iter().chain(init_container_statuses);
        statuses.find(|status| status.name == container)
    }

    /// What the node reports; where it reports nothing, the spec, unless that cannot be had.
    fn reported_or(&self, reported: Option<&Amounts>, spec: &Amounts) -> Amounts {
        match reported {
            Some(reported) => reported.clone(),
            None if self.is_resize_infeasible() => Amounts::default(),
            None => spec.clone(),
        }
    }

    fn is_resize_infeasible(&self) -> bool {
        let pending = |c: &&Condition| c.type_ == "PodResizePending";
        let mut conditions = self.status.conditions.iter();
        conditions
            .find(pending)
            .is_some_and(|c| c.reason == "Infeasible")
    }

    /// The largest of the views; a spec that cannot be had does not count.
    fn largest(&self, views: &[View], of: impl Fn(&Container, View) -> Amounts) -> Amounts {
        let mut largest = Amounts::default();
        for view in views {
            if matches!(view, View::Spec) && self.is_resize_infeasible() {
                continue;
            }
            largest.raise_to(&self.aggregate(|container| of(container, *view)));
        }
        largest
    }

    /// The sum of the containers, or the largest moment of initialisation.
    fn aggregate(&self, of: impl Fn(&Container) -> Amounts) -> Amounts {
        let mut sum = Amounts::default();
        for container in &self.spec.containers {
            sum = sum.plus(&of(container));
        }
        let (mut sidecars, mut moments) = (Amounts::default(), Amounts::default());
        for container in &self.spec.init_containers {
            let own = of(container);
            if container.restart_policy.as_deref() == Some("Always") {
                sum = sum.plus(&own);
                sidecars = sidecars.plus(&own);
                moments.raise_to(&sidecars);
            } else {
                moments.raise_to(&own.plus(&sidecars));
            }
        }
        sum.raise_to(&moments);
        sum
    }
}

fn overlay(amounts: &mut Amounts, whole: &Amounts) {
    for (name, quantity) in whole.iter().filter(|(name, _)| is_pod_level(name)) {
        amounts.set(name, quantity);
    }
}
