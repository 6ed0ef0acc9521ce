//! What admission does to pods: LimitRanger, ServiceAccount (account, pull secrets, token volume),
//! Priority, DefaultTolerationSeconds and RuntimeClass, in this order.
//!
//! Ports of `plugin/pkg/admission/{serviceaccount,defaulttolerationseconds}/admission.go`; the others
//! have files of their own.

use api::{Doc, Status};

use super::{Admission, append, limits, node, priority, runtime_class};
use crate::{cache::Object, catalog::ResourceId, clock};

const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Seconds a token volume's token lives; the kubelet renews it earlier.
const TOKEN_SECONDS: i64 = 3607;
/// Seconds a pod stays on a node that is not ready or unreachable.
const TOLERATION_SECONDS: i64 = 300;

/// Of new pods; tolerations also of changed ones.
pub fn mutate(admission: &Admission<'_>, doc: &mut Doc<'_>) -> Result<(), Status> {
    if admission.is_create() {
        limits::fill_in(admission, doc)?;
        service_account(admission, doc)?;
        priority::resolve(admission, doc)?;
    }
    default_toleration_seconds(doc);
    if admission.is_create() {
        runtime_class::mutate(admission, doc)?;
    }
    Ok(())
}

fn service_account(admission: &Admission<'_>, doc: &mut Doc<'_>) -> Result<(), Status> {
    if doc
        .map_value(&["metadata", "annotations"], MIRROR)
        .is_some()
    {
        return Ok(());
    }
    if doc
        .str_at(&["spec", "serviceAccountName"])
        .unwrap_or_default()
        .is_empty()
    {
        doc.set_str(&["spec", "serviceAccountName"], "default");
    }
    let name = doc
        .str_at(&["spec", "serviceAccountName"])
        .unwrap_or_default();
    let accounts = ResourceId::named("", "serviceaccounts");
    let cache = admission.call.server.cache();
    let Some(account) = cache.get(accounts, doc.namespace(), name) else {
        let text = format!(
            "error looking up service account {}/{name}: serviceaccount {} not found",
            doc.namespace(),
            api::status::quote(name)
        );
        return Err(Status::forbidden("", "pods", doc.name(), &text));
    };
    if wants_token(doc, &account) {
        mount_token(doc);
    }
    pull_secrets(doc, &account);
    Ok(())
}

fn wants_token(doc: &Doc<'_>, account: &Object) -> bool {
    doc.bool_at(&["spec", "automountServiceAccountToken"])
        .or_else(|| {
            account
                .field("automountServiceAccountToken")
                .map(|raw| raw == "true")
        })
        .unwrap_or(true)
}

fn pull_secrets(doc: &mut Doc<'_>, account: &Object) {
    let Some(raw) = account.field("imagePullSecrets") else {
        return;
    };
    if !doc.list_at(&["spec", "imagePullSecrets"]).is_empty() {
        return;
    }
    let arena = doc.arena();
    let raw = arena.alloc_slice_copy(raw.as_bytes());
    if let Ok(value) = api::codec::parse(api::Format::Json, raw, arena) {
        doc.set(&["spec", "imagePullSecrets"], value);
    }
}

/// Adds the projected volume and mounts it where nothing is mounted yet.
fn mount_token(doc: &mut Doc<'_>) {
    let existing = doc
        .list_at(&["spec", "volumes"])
        .iter()
        .filter_map(|v| v.str_of("name"))
        .find(|n| n.starts_with("kube-api-access-"));
    let volume = match existing {
        Some(name) => name.to_owned(),
        None => format!("kube-api-access-{}", clock::random_suffix()),
    };
    let mut mounted = existing.is_some();
    for list in ["initContainers", "containers"] {
        let count = doc.list_at(&["spec", list]).len();
        for index in 0..count {
            let index = index.to_string();
            let path = ["spec", list, &index, "volumeMounts"];
            let taken = doc
                .list_at(&path)
                .iter()
                .any(|m| m.str_of("mountPath") == Some(TOKEN_DIR));
            if !taken {
                append(
                    doc,
                    &path,
                    &format!(r#"{{"name":"{volume}","readOnly":true,"mountPath":"{TOKEN_DIR}"}}"#),
                );
                mounted = true;
            }
        }
    }
    if mounted && existing.is_none() {
        append(doc, &["spec", "volumes"], &token_volume(&volume));
    }
}

fn token_volume(name: &str) -> String {
    format!(
        r#"{{"name":"{name}","projected":{{"sources":[{{"serviceAccountToken":{{"expirationSeconds":{TOKEN_SECONDS},"path":"token"}}}},{{"configMap":{{"name":"kube-root-ca.crt","items":[{{"key":"ca.crt","path":"ca.crt"}}]}}}},{{"downwardAPI":{{"items":[{{"path":"namespace","fieldRef":{{"apiVersion":"v1","fieldPath":"metadata.namespace"}}}}]}}}}],"defaultMode":420}}}}"#
    )
}

fn default_toleration_seconds(doc: &mut Doc<'_>) {
    for key in [node::NOT_READY, "node.kubernetes.io/unreachable"] {
        let tolerated = doc.list_at(&["spec", "tolerations"]).iter().any(|t| {
            let matches_key =
                matches!(t.str_of("key"), None | Some("")) || t.str_of("key") == Some(key);
            let effect = t.str_of("effect").unwrap_or_default();
            matches_key && (effect.is_empty() || effect == "NoExecute")
        });
        if !tolerated {
            append(
                doc,
                &["spec", "tolerations"],
                &format!(
                    r#"{{"key":"{key}","operator":"Exists","effect":"NoExecute","tolerationSeconds":{TOLERATION_SECONDS}}}"#
                ),
            );
        }
    }
}
