//! What an update of a pod (or of a template) does not look at, because the stored object has it already,
//! and the facts about a spec that its parts are checked against.
//!
//! Port of `GetValidationOptionsFromPodSpecAndMeta` in `pkg/api/pod/util.go`, at the default feature gates
//! of v1.37.

use std::collections::{BTreeSet, HashMap};

use super::{profile, resources, scheduling, volume};
use crate::doc::Value;
use crate::validate::meta::Selectors;
use crate::validate::path::{Errors, Path};

/// The annotation that ranks pods for deletion.
pub(super) const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What is allowed beyond the rules.
#[derive(Default)]
pub(crate) struct Options {
    /// The spec is a pod's own, not a template's.
    pub(super) is_pod: bool,
    /// Values in selectors of pod affinity.
    pub(super) affinity_selectors: Selectors,
    /// Values in required node affinity.
    pub(super) node_affinity_values: bool,
    /// Anything in selectors of spread constraints.
    pub(super) spread_selectors: bool,
    /// Keys in `matchLabelKeys` that are in the selector too.
    pub(super) repeated_label_keys: bool,
    /// Huge pages in other amounts than whole pages.
    pub(super) broken_huge_pages: bool,
    /// Tokens outside of their volume.
    pub(super) foreign_token_paths: bool,
    /// Namespaced sysctls without the namespace.
    pub(super) host_sysctls: bool,
    /// Devices in pods with user namespaces.
    pub(super) devices_for_users: bool,
    /// The host's network in pods with user namespaces.
    pub(super) host_network_for_users: bool,
    /// Tolerations that compare numbers.
    pub(super) comparing_tolerations: bool,
    /// Init containers that restart when they are resized.
    pub(super) restarting_init_resize: bool,
    /// Image volumes without a reference.
    pub(super) empty_image_references: bool,
    /// CAP_SYS_ADMIN without privilege escalation.
    pub(super) admin_without_escalation: bool,
    /// Malformed deletion costs.
    pub(super) deletion_cost: bool,
}

impl Options {
    /// For a new pod or template (`old` is null then) or an updated one.
    pub(crate) fn new(old: &Value<'_>, is_pod: bool) -> Options {
        let mut options = Options {
            is_pod,
            ..Options::default()
        };
        let Some(spec) = old.get("spec") else {
            return options;
        };
        let cost = old
            .at(&["metadata", "annotations", DELETION_COST])
            .and_then(Value::as_str);
        options.deletion_cost = cost.is_some_and(|cost| !is_deletion_cost(cost));
        if scheduling::has_bad_affinity_selectors(spec) {
            options.affinity_selectors = Selectors::AnyValue;
        }
        options.node_affinity_values = scheduling::has_bad_node_affinity_values(spec);
        options.spread_selectors = scheduling::has_bad_spread_selectors(spec);
        options.repeated_label_keys = scheduling::has_bad_label_keys(spec);
        options.broken_huge_pages = resources::has_broken_huge_pages(spec);
        options.foreign_token_paths = volume::has_foreign_token_paths(spec);
        options.host_sysctls = profile::has_host_sysctls(spec);
        let users = spec.bool_of("hostUsers") == Some(false);
        let any = |wanted: fn(&Value<'_>) -> bool| containers(spec).any(|(_, _, c)| wanted(c));
        options.devices_for_users = users && any(|c| !c.list_of("volumeDevices").is_empty());
        options.host_network_for_users = users && spec.bool_of("hostNetwork") == Some(true);
        let compares = |t: &Value<'_>| matches!(t.str_of("operator"), Some("Lt" | "Gt"));
        options.comparing_tolerations = spec.list_of("tolerations").iter().any(compares);
        options.restarting_init_resize = spec.list_of("initContainers").iter().any(|c| {
            let restarts = |p: &Value<'_>| p.str_of("restartPolicy") == Some("RestartContainer");
            !is_sidecar(c) && c.list_of("resizePolicy").iter().any(restarts)
        });
        let images = spec
            .list_of("volumes")
            .iter()
            .filter_map(|v| v.get("image"));
        options.empty_image_references = images
            .into_iter()
            .any(|i| i.str_of("reference").unwrap_or_default().is_empty());
        options.admin_without_escalation = any(|c| {
            let context = c.get("securityContext");
            context.is_some_and(|s| s.bool_of("allowPrivilegeEscalation") != Some(true))
                && context.is_some_and(profile::adds_sys_admin)
        });
        options
    }
}

/// How much of a workload's own selector is looked at, by the stored template.
pub(crate) fn selectors(old_template: &Value<'_>) -> Selectors {
    Options::new(old_template, false).affinity_selectors
}

/// A spec and what is known about it while its parts are checked.
pub(super) struct Spec<'s, 'a> {
    pub(super) spec: &'s Value<'a>,
    pub(super) options: &'s Options,
    /// The pod's name; "" in templates.
    pub(super) pod_name: &'s str,
    /// The valid volumes, by name.
    pub(super) volumes: HashMap<&'s str, &'s Value<'a>>,
    /// The names of resource claims.
    pub(super) claims: BTreeSet<&'s str>,
}

impl Spec<'_, '_> {
    /// How long the pod has to end, if that is set.
    pub(super) fn grace(&self) -> Option<i64> {
        self.spec.int_of("terminationGracePeriodSeconds")
    }

    /// Whether its users are the host's.
    pub(super) fn host_users(&self) -> bool {
        self.spec.bool_of("hostUsers") != Some(false)
    }

    /// The operating system, if it is named.
    pub(super) fn os(&self) -> Option<&str> {
        self.spec
            .get("os")
            .map(|os| os.str_of("name").unwrap_or_default())
    }
}

/// The lists of containers, in the order rules over all of them visit them.
pub(super) const CONTAINER_LISTS: [&str; 3] =
    ["initContainers", "containers", "ephemeralContainers"];

/// Every container with its list and place.
pub(super) fn containers<'s, 'a>(
    spec: &'s Value<'a>,
) -> impl Iterator<Item = (&'static str, usize, &'s Value<'a>)> {
    CONTAINER_LISTS.into_iter().flat_map(move |list| {
        spec.list_of(list)
            .iter()
            .enumerate()
            .map(move |(i, container)| (list, i, container))
    })
}

/// An init container that keeps running.
pub(super) fn is_sidecar(container: &Value<'_>) -> bool {
    container.str_of("restartPolicy") == Some("Always")
}

/// A number of 32 bits without plus sign or leading zeros.
pub(super) fn is_deletion_cost(text: &str) -> bool {
    let bytes = text.as_bytes();
    let first = match bytes.first() {
        Some(b'-') => bytes.len() > 1,
        Some(b'0') => text == "0",
        Some(digit) => digit.is_ascii_digit(),
        None => false,
    };
    first && text.parse::<i32>().is_ok()
}

/// Whether a check finds anything.
pub(super) fn fails(check: impl FnOnce(&Path<'_>, &mut Errors)) -> bool {
    let mut errors = Errors::default();
    check(&Path::new("spec"), &mut errors);
    !errors.0.is_empty()
}
