//! `scale`: a Deployment, ReplicaSet, StatefulSet or ReplicationController seen as
//! `autoscaling/v1 Scale`.

use api::{Doc, Status};
use bumpalo::Bump;

use super::{body_schema, scratch};
use crate::{
    admission::{
        matching::Operation,
        webhook::{self, Told},
    },
    attempt::{self, Update, decode_stored, stored_row},
    cache::Object,
    call::Call,
    present::Answer,
    rest::write,
};

/// get, update and patch of a scale.
pub async fn scale(call: &Call) -> Result<Answer, Status> {
    let id = call.stored()?;
    let (namespace, name) = (&call.attributes.namespace, &call.attributes.name);
    let object = call
        .server
        .cache()
        .get(id, namespace, name)
        .ok_or_else(|| call.not_found())?;
    if call.attributes.verb == "get" {
        return Ok(Answer::ok(scale_json(call, &object)?.into_bytes()));
    }
    let json = wanted_json(call, &object)?;
    let before = scale_json(call, &object)?;
    let told = Told {
        old: Some(before.as_bytes()),
        ..Told::new(call, Operation::Update, "scale", name)
    };
    let (json, mut warnings) = webhook::admit_body(&told, json).await?;
    let wanted = wanted(call, &json)?;
    let edit = move |doc: &mut Doc<'_>| -> Result<(), Status> {
        if !wanted.version.is_empty() {
            doc.set_str(&["metadata", "resourceVersion"], &wanted.version);
        }
        if !wanted.uid.is_empty() {
            doc.set_str(&["metadata", "uid"], &wanted.uid);
        }
        doc.set_int(&["spec", "replicas"], wanted.replicas);
        Ok(())
    };
    let answer = attempt::update(call, "scale", &Update::With(&edit)).await?;
    let Some(object) = Object::new(object.key.clone(), answer.json.clone().into(), 0, false) else {
        return Err(Status::internal("the scaled object has no metadata"));
    };
    warnings.extend(answer.warnings);
    Ok(Answer {
        code: answer.code,
        json: scale_json(call, &object)?.into_bytes(),
        warnings,
    })
}

struct Wanted {
    replicas: i64,
    version: String,
    uid: String,
}

/// The scale the body asks for.
fn wanted_json(call: &Call, object: &Object) -> Result<Vec<u8>, Status> {
    let arena = Bump::new();
    let schema = body_schema(call)?;
    let doc = if call.attributes.verb == "patch" {
        let kind = write::patch_kind(call)?;
        let current = scratch(&scale_json(call, object)?, schema, &arena)?;
        let patch = arena.alloc_slice_copy(&call.body);
        let patched =
            api::patch::apply_patch(kind, &current, patch, call.field_validation(), &arena);
        patched.map_err(|e| e.to_status())?.0
    } else {
        let body = write::Encoded {
            format: call.format()?,
            bytes: call.body.clone(),
        };
        write::decode(call, &body, schema, &arena)?.0
    };
    Ok(api::canonical(&doc))
}

/// What a scale comes to.
fn wanted(call: &Call, json: &[u8]) -> Result<Wanted, Status> {
    let arena = Bump::new();
    let bytes = arena.alloc_slice_copy(json);
    let doc = api::codec::decode_stored(bytes, body_schema(call)?, &arena);
    let doc = doc.map_err(Status::internal)?;
    let replicas = doc.int_at(&["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let text = "must be greater than or equal to 0";
        let error = api::FieldError::invalid_raw("spec.replicas", replicas, text);
        return Err(Status::invalid(
            "autoscaling",
            "Scale",
            &call.attributes.name,
            &[error],
        ));
    }
    // A patch was made from the object that was read; only the client's own version is a condition.
    let version = if call.attributes.verb == "patch" {
        ""
    } else {
        doc.meta("resourceVersion")
    };
    Ok(Wanted {
        replicas,
        version: version.to_owned(),
        uid: doc.meta("uid").to_owned(),
    })
}

fn scale_json(call: &Call, object: &Object) -> Result<String, Status> {
    let arena = Bump::new();
    let doc = decode_stored(stored_row(call.resource), object, &arena)?;
    let version = match object.revision {
        0 => doc.meta("resourceVersion").to_owned(),
        revision => revision.to_string(),
    };
    let scale = serde_json::json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": doc.name(),
            "namespace": doc.namespace(),
            "uid": doc.meta("uid"),
            "resourceVersion": version,
            "creationTimestamp": doc.meta("creationTimestamp"),
        },
        "spec": { "replicas": doc.int_at(&["spec", "replicas"]).unwrap_or(0) },
        "status": {
            "replicas": doc.int_at(&["status", "replicas"]).unwrap_or(0),
            "selector": selector_text(&doc),
        },
    });
    Ok(scale.to_string())
}

/// The selector in its query syntax.
fn selector_text(doc: &Doc<'_>) -> String {
    let pairs = |path: &[&str]| -> Vec<String> {
        let labels = doc.get(path).and_then(|v| v.as_object());
        labels
            .into_iter()
            .flat_map(|o| o.iter())
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect()
    };
    if doc.kind() == "ReplicationController" {
        return pairs(&["spec", "selector"]).join(",");
    }
    let mut terms = pairs(&["spec", "selector", "matchLabels"]);
    for expression in doc.list_at(&["spec", "selector", "matchExpressions"]) {
        let key = expression.str_of("key").unwrap_or_default();
        let values: Vec<&str> = expression
            .list_of("values")
            .iter()
            .filter_map(|v| v.as_str())
            .collect();
        let values = values.join(",");
        terms.push(match expression.str_of("operator") {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.sort();
    terms.join(",")
}
