//! What containers must hold: names, images, ports, restarts. Environment, mounts, probes, resources and
//! security are in files of their own.
//!
//! Port of the container part of `pkg/apis/core/validation/validation.go`.

use std::collections::HashSet;

use super::options::{Spec, is_sidecar};
use super::{environment, mount, probe, profile, resources};
use crate::doc::Value;
use crate::validate::names::{dns_label, port_name, port_number};
use crate::validate::path::{Errors, Path};

const NO_POLICY_FOR_RULES: &str = "must specify restartPolicy when restart rules are used";
const MESSAGE_POLICIES: [&str; 2] = ["File", "FallbackToLogsOnError"];
/// When an image is pulled.
pub(super) const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const RESTART_ACTIONS: [&str; 2] = ["Restart", "RestartAllContainers"];
const EXIT_CODE_OPERATORS: [&str; 2] = ["In", "NotIn"];
const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
/// What an ephemeral container may have.
const EPHEMERAL_FIELDS: [&str; 17] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

/// All containers of a pod's spec.
pub(super) fn containers(known: &Spec<'_, '_>, path: &Path<'_>, errors: &mut Errors) {
    let list = known.spec.list_of("containers");
    let at = path.child("containers");
    if list.is_empty() {
        errors.required(&at, "");
    }
    let mut names: HashSet<&str> = HashSet::new();
    for (i, container) in list.iter().enumerate() {
        let at = at.index(i);
        common(known, container, &at, errors);
        let name = container.str_of("name").unwrap_or_default();
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        probe::hooks_and_probes(known, container, &at, errors);
        restart_policy(container, &at, errors);
    }
    if !list.is_empty() {
        host_port_conflicts(list, 0, &at, errors);
    }
    init_containers(known, names.clone(), &path.child("initContainers"), errors);
    names.extend(known.spec.list_of("initContainers").iter().map(name_of));
    ephemeral_containers(known, &names, &path.child("ephemeralContainers"), errors);
}

fn name_of<'a>(container: &Value<'a>) -> &'a str {
    container.str_of("name").unwrap_or_default()
}

fn init_containers<'s>(
    known: &Spec<'s, '_>,
    mut names: HashSet<&'s str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let list = known.spec.list_of("initContainers");
    for (i, container) in list.iter().enumerate() {
        let at = path.index(i);
        common(known, container, &at, errors);
        if container.get("restartPolicy").is_some() {
            restart_policy(container, &at, errors);
        } else if !container.list_of("restartPolicyRules").is_empty() {
            errors.required(&at.child("restartPolicy"), NO_POLICY_FOR_RULES);
        }
        let name = name_of(container);
        if names.contains(name) {
            errors.duplicate(&at.child("name"), name);
        } else if !name.is_empty() {
            names.insert(name);
        }
        // They run one by one, so each has its ports for itself; upstream's index is always the first.
        host_port_conflicts(&list[i..=i], 0, path, errors);
        if is_sidecar(container) {
            probe::hooks_and_probes(known, container, &at, errors);
        } else {
            without_sidecar(known, container, &at, errors);
        }
    }
}

/// What only init containers that keep running may have.
fn without_sidecar(
    known: &Spec<'_, '_>,
    container: &Value<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    for field in [
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
    ] {
        if container.get(field).is_some() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(&at.child(field), detail);
        }
    }
    if known.options.restarting_init_resize {
        return;
    }
    let list = at.child("resizePolicy");
    for (i, policy) in container.list_of("resizePolicy").iter().enumerate() {
        let restart = policy.str_of("restartPolicy").unwrap_or_default();
        if restart == "RestartContainer" {
            let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            errors.invalid(&list.index(i).child("restartPolicy"), restart, detail);
        }
    }
}

fn ephemeral_containers(
    known: &Spec<'_, '_>,
    others: &HashSet<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut names = others.clone();
    for (i, container) in known.spec.list_of("ephemeralContainers").iter().enumerate() {
        let at = path.index(i);
        common(known, container, &at, errors);
        padded_image(container, &at, errors);
        let name = name_of(container);
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        let target = container.str_of("targetContainerName").unwrap_or_default();
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(&at.child("targetContainerName"), target);
        }
        for (field, value) in container.as_object().into_iter().flat_map(|o| o.iter()) {
            // A struct by value is there also when nothing is in it.
            let nothing = field == "resources" && value.as_object().is_some_and(|o| o.is_empty());
            if !EPHEMERAL_FIELDS.contains(&field) && !nothing {
                errors.forbidden(&at.child(field), "cannot be set for an Ephemeral Container");
            }
        }
        let mounts = at.child("volumeMounts");
        for (m, mount) in container.list_of("volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.str_of(field).unwrap_or_default().is_empty() {
                    let detail = "cannot be set for an Ephemeral Container";
                    errors.forbidden(&mounts.index(m).child(field), detail);
                }
            }
        }
    }
}

fn restart_policy(container: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let rules = container.list_of("restartPolicyRules");
    let policy = container.str_of("restartPolicy");
    let policy_at = at.child("restartPolicy");
    match policy {
        None if rules.is_empty() => return,
        None => {
            errors.required(&policy_at, NO_POLICY_FOR_RULES);
        }
        Some(policy) if !RESTART_POLICIES.contains(&policy) => {
            errors.not_supported(&policy_at, policy, &RESTART_POLICIES);
        }
        Some(_) => {}
    }
    let list = at.child("restartPolicyRules");
    if rules.len() > MAX_RESTART_RULES {
        errors.too_many(&list, rules.len(), MAX_RESTART_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = list.index(i);
        let action = rule.str_of("action").unwrap_or_default();
        if !RESTART_ACTIONS.contains(&action) {
            errors.not_supported(&at.child("action"), action, &RESTART_ACTIONS);
        }
        let codes_at = at.child("exitCodes");
        let Some(codes) = rule.get("exitCodes") else {
            errors.required(&codes_at, "must be specified");
            continue;
        };
        let operator = codes.str_of("operator").unwrap_or_default();
        if !EXIT_CODE_OPERATORS.contains(&operator) {
            errors.not_supported(&codes_at.child("operator"), operator, &EXIT_CODE_OPERATORS);
        }
        let count = codes.list_of("values").len();
        if count > MAX_EXIT_CODES {
            errors.too_many(&codes_at.child("values"), count, MAX_EXIT_CODES);
        }
    }
}

fn common(known: &Spec<'_, '_>, container: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    errors.named(&at.child("name"), container.str_of("name"), dns_label);
    if container.str_of("image").unwrap_or_default().is_empty() {
        errors.required(&at.child("image"), "");
    }
    let policy = container.str_of("terminationMessagePolicy");
    let policy_at = at.child("terminationMessagePolicy");
    errors.one_of(&policy_at, policy, &MESSAGE_POLICIES, true);
    ports(container.list_of("ports"), &at.child("ports"), errors);
    environment::variables(container.list_of("env"), &at.child("env"), errors);
    environment::sources(container.list_of("envFrom"), &at.child("envFrom"), errors);
    mount::mounts(known, container, at, errors);
    mount::devices(known, container, at, errors);
    let pull = container.str_of("imagePullPolicy");
    errors.one_of(&at.child("imagePullPolicy"), pull, &PULL_POLICIES, true);
    resources::of_container(
        known,
        container.get("resources"),
        &at.child("resources"),
        errors,
    );
    resize_policy(known, container, &at.child("resizePolicy"), errors);
    profile::container_context(known, container, &at.child("securityContext"), errors);
}

/// Images of pods, not of templates, have no space around them.
pub(super) fn padded_image(container: &Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let image = container.str_of("image").unwrap_or_default();
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.invalid(&at.child("image"), image, detail);
    }
}

fn ports(list: &[Value<'_>], path: &Path<'_>, errors: &mut Errors) {
    let mut names: HashSet<&str> = HashSet::new();
    for (i, port) in list.iter().enumerate() {
        let at = path.index(i);
        if let Some(name) = port.str_of("name").filter(|n| !n.is_empty()) {
            let problems = port_name(name);
            if !problems.is_empty() {
                errors.each(&at.child("name"), name, problems);
            } else if !names.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        }
        match port.int_of("containerPort").unwrap_or(0) {
            0 => errors.required(&at.child("containerPort"), ""),
            number => errors.each_number(&at.child("containerPort"), number, port_number(number)),
        }
        match port.int_of("hostPort").unwrap_or(0) {
            0 => {}
            number => errors.each_number(&at.child("hostPort"), number, port_number(number)),
        }
        let protocol = port.str_of("protocol");
        errors.one_of(&at.child("protocol"), protocol, &PROTOCOLS, true);
    }
}

fn host_port_conflicts(
    containers: &[Value<'_>],
    first: usize,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut taken: HashSet<String> = HashSet::new();
    for (c, container) in containers.iter().enumerate() {
        let container_at = path.index(first + c);
        let ports_at = container_at.child("ports");
        for (p, port) in container.list_of("ports").iter().enumerate() {
            let number = port.int_of("hostPort").unwrap_or(0);
            let text = |field| port.str_of(field).unwrap_or_default();
            let key = format!("{}/{}/{number}", text("protocol"), text("hostIP"));
            if number != 0 && !taken.insert(key.clone()) {
                errors.duplicate(&ports_at.index(p).child("hostPort"), &key);
            }
        }
    }
}

fn resize_policy(
    known: &Spec<'_, '_>,
    container: &Value<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut seen = HashSet::new();
    for (i, policy) in container.list_of("resizePolicy").iter().enumerate() {
        let text = |field| policy.str_of(field).unwrap_or_default();
        let (resource, restart) = (text("resourceName"), text("restartPolicy"));
        if !seen.insert(resource) {
            errors.duplicate(&path.index(i), resource);
        }
        for (word, valid) in [
            (resource, ["cpu", "memory"]),
            (restart, ["NotRequired", "RestartContainer"]),
        ] {
            errors.one_of(path, Some(word), &valid, true);
        }
        if known.spec.str_of("restartPolicy") == Some("Never") && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid(path, restart, detail);
        }
    }
}
