//! One pod of a StatefulSet: its name, ordinal and labels, its creation and deletion.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::{REVISION_LABEL, Sync, claims, label_patch};
use crate::kinds::{Pod, Projection, StatefulSet};
use crate::object::{Key, MetaExt};
use crate::template;
use crate::write::{Notes, Write};

const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// `web-3` belongs to `web` and has ordinal 3.
pub fn parent_and_ordinal(meta: &ObjectMeta) -> (Option<&str>, Option<i32>) {
    let name = meta.name.as_deref().unwrap_or_default();
    let Some((parent, digits)) = name.rsplit_once('-') else {
        return (None, None);
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return (None, None);
    }
    (Some(parent), digits.parse().ok())
}

/// Name of the revision the pod was made of.
pub fn revision(pod: &Pod) -> Option<&str> {
    pod.metadata.label(REVISION_LABEL)
}

/// Creates the pod of an ordinal from the revision that is its turn (`newVersionedStatefulSetPod`).
pub fn creation(sync: &Sync<'_>, ordinal: i32) -> Write {
    let set = sync.set;
    let strategy = &set.spec.update_strategy;
    let first_updated = match (strategy.type_.as_str(), &strategy.rolling_update) {
        (_, Some(rolling)) => rolling.partition,
        ("RollingUpdate", None) => set.status.current_replicas,
        _ => 0,
    };
    let start = set.spec.ordinals.start;
    let (template, revision) = if ordinal < start.saturating_add(first_updated) {
        &sync.current
    } else {
        &sync.updated
    };
    let body = pod(set, template, revision, ordinal);
    let key = Key::new(
        set.metadata.namespace.as_deref().unwrap_or(""),
        &name(set, ordinal),
    );
    let notes = notes(
        set,
        &key.name,
        ["Create", "SuccessfulCreate", "FailedCreate"],
    );
    Write::create(&Pod::RESOURCE, key, body).noting(notes)
}

pub fn deletion(set: &StatefulSet, pod: &Pod) -> Write {
    let key = Key::of(&pod.metadata);
    let notes = notes(
        set,
        &key.name,
        ["Delete", "SuccessfulDelete", "FailedDelete"],
    );
    Write::delete(&Pod::RESOURCE, key, pod.metadata.uid()).noting(notes)
}

fn notes(set: &StatefulSet, pod: &str, [verb, done, failed]: [&'static str; 3]) -> Notes {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let about = format!("{verb} Pod {pod} in StatefulSet {name}");
    Notes {
        regarding: kube::Resource::object_ref(set, &()),
        done: Some((done, format!("{about} successful"))),
        failed: Some((failed, format!("{about} failed error: {{error}}"))),
        ..Notes::default()
    }
}

fn name(set: &StatefulSet, ordinal: i32) -> String {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{ordinal}")
}

fn pod(set: &StatefulSet, from: &Value, revision: &str, ordinal: i32) -> Value {
    let name = name(set, ordinal);
    let mut pod = template::pod(from, set);
    let metadata = &mut pod["metadata"];
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("generateName");
    }
    metadata["name"] = name.as_str().into();
    let labels = &mut metadata["labels"];
    if !labels.is_object() {
        *labels = json!({});
    }
    labels[POD_NAME_LABEL] = name.as_str().into();
    labels[INDEX_LABEL] = ordinal.to_string().into();
    labels[REVISION_LABEL] = revision.into();
    let spec = &mut pod["spec"];
    spec["hostname"] = name.into();
    spec["subdomain"] = set.spec.service_name.as_str().into();
    let volumes = claims::volumes(set, spec["volumes"].take(), ordinal);
    if !volumes.is_empty() {
        spec["volumes"] = Value::Array(volumes);
    } else if let Some(spec) = spec.as_object_mut() {
        spec.remove("volumes");
    }
    pod
}

/// Gives a pod that lost it (or was adopted) the label with its name.
pub fn identity(pod: &Pod) -> Option<Write> {
    let name = pod.metadata.name.as_deref()?;
    if pod.metadata.label(POD_NAME_LABEL) == Some(name) {
        return None;
    }
    let ordinal = parent_and_ordinal(&pod.metadata).1?;
    let labels = json!({POD_NAME_LABEL: name, INDEX_LABEL: ordinal.to_string()});
    Some(label_patch(pod, &labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_parent_and_the_ordinal() {
        let of = |name: &str| {
            let meta = ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            };
            let (parent, ordinal) = parent_and_ordinal(&meta);
            (parent.map(str::to_owned), ordinal)
        };
        assert_eq!(of("web-3"), (Some("web".into()), Some(3)));
        assert_eq!(of("web-a-10"), (Some("web-a".into()), Some(10)));
        assert_eq!(of("web-a"), (None, None));
        assert_eq!(of("web-"), (None, None));
        assert_eq!(of("web-99999999999"), (Some("web".into()), None));
    }
}
