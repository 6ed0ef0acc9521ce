//! The request chain: panic recovery → request info → authentication → impersonation → limit of
//! requests in flight → authorization → the resource's verb (or one of the few other paths) → the
//! headers of every answer.
//!
//! Each layer that is more than a line has a file under `chain/`.

pub mod headers;
mod impersonate;
pub mod limit;

use std::panic::AssertUnwindSafe;

use api::{Facts, Resource, Status};
use futures::FutureExt;
use http::{Method, Response, StatusCode, header, request::Parts};

use crate::{
    ApiServer,
    attributes::Attributes,
    auth::Decision,
    body::{self, Body, LazyBody},
    call::Call,
    catalog::ResourceId,
    clock, discovery, health,
    identity::UserInfo,
    negotiate::{self, Form, Output},
    openapi, rest,
};

/// Answers one request. Never fails: every failure is a `Status`.
pub async fn run(server: ApiServer, parts: Parts, body: LazyBody) -> Response<Body> {
    let path = parts.uri.path().to_owned();
    let audit_id = headers::audit_id(&parts.headers);
    let is_head = parts.method == Method::HEAD;
    let accept = parts.headers.get(header::ACCEPT).cloned();
    let failure = |status| headers::failure(&status, accept.as_ref());
    let handled = AssertUnwindSafe(handle(server, parts, body))
        .catch_unwind()
        .await;
    let mut response = match handled {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => failure(status),
        Err(_) => {
            tracing::error!(path, "a request panicked");
            failure(Status::internal(
                "this request caused a panic; see the server's log",
            ))
        }
    };
    headers::complete(&mut response, audit_id);
    if is_head {
        // h2 has no rule of its own that an answer to HEAD ends with its headers.
        *response.body_mut() = body::full("");
    }
    response
}

async fn handle(server: ApiServer, parts: Parts, body: LazyBody) -> Result<Response<Body>, Status> {
    let attributes = Attributes::parse(&parts.method, parts.uri.path(), parts.uri.query());
    let user = server.auth().authenticate(&parts).await?;
    let user = match impersonate::apply(&server, user, &parts.headers) {
        Ok(user) => user,
        Err(status) => return Ok(headers::refusal(&status, parts.headers.get(header::ACCEPT))),
    };
    let _slot = limit::enter(&server, &attributes, &parts)?;
    if let Err(status) = authorize(&server, &user, &attributes) {
        return Ok(headers::refusal(&status, parts.headers.get(header::ACCEPT)));
    }
    if attributes.is_resource {
        return resource(server, user, attributes, parts, body).await;
    }
    other(&server, &attributes, &parts)
}

/// 403 with upstream's text unless the authorizers allow it.
pub fn authorize(
    server: &ApiServer,
    user: &UserInfo,
    attributes: &Attributes,
) -> Result<(), Status> {
    match server.auth().authorize(user, attributes) {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => Err(forbidden(user, attributes, &reason)),
    }
}

/// Port of `forbiddenMessage` in `k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go`.
fn forbidden(user: &UserInfo, attributes: &Attributes, reason: &str) -> Status {
    let quote = api::status::quote;
    // Nothing that looks like HTML.
    let quote = |text: &str| {
        let quoted = quote(text).replace('&', "&amp;");
        quoted.replace('<', "&lt;").replace('>', "&gt;")
    };
    let who = quote(&user.username);
    let verb = quote(&attributes.verb);
    if !attributes.is_resource {
        let mut text = format!(
            "User {who} cannot {} path {}",
            attributes.verb,
            quote(&attributes.path)
        );
        if !reason.is_empty() {
            text = format!("{text}: {reason}");
        }
        return Status::forbidden("", "", "", &text);
    }
    let what = quote(&attributes.resource_path());
    let group = quote(&attributes.group);
    let place = if attributes.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {}", quote(&attributes.namespace))
    };
    let mut text = format!(
        "User {who} cannot {} resource {what} in API group {group} {place}",
        verb.trim_matches('"')
    );
    if !reason.is_empty() {
        text = format!("{text}: {reason}");
    }
    Status::forbidden(
        &attributes.group,
        &attributes.resource,
        &attributes.name,
        &text,
    )
}

async fn resource(
    server: ApiServer,
    user: UserInfo,
    attributes: Attributes,
    parts: Parts,
    body: LazyBody,
) -> Result<Response<Body>, Status> {
    let facts = Facts::get();
    let known = facts.resource(&attributes.group, &attributes.version, &attributes.resource);
    let Some(resource) = known else {
        return nowhere(&attributes.path);
    };
    let subresource = match attributes.subresource.as_str() {
        "" => None,
        name => Some(
            resource
                .subresource(name)
                .ok_or_else(Status::page_not_found)?,
        ),
    };
    // Virtual resources (reviews) are as namespaced as their path says.
    if resource.stored
        && !resource.namespaced
        && !attributes.namespace.is_empty()
        && attributes.resource != "namespaces"
    {
        return Err(Status::page_not_found());
    }
    let accept = parts
        .headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok());
    // What is asked of a pod or a service is answered by it.
    let accept = accept.filter(|_| attributes.subresource != "proxy");
    let output = Output::of_accept(accept)?;
    if !resource.stored && resource.plural != "componentstatuses" && output.form != Form::Object {
        // Reviews have neither metadata nor rows.
        return Err(Status::not_acceptable(&negotiate::SUPPORTED));
    }
    let body = body.read().await?;
    let id = ResourceId::of(resource).filter(|_| resource.stored);
    let mut attributes = attributes;
    if attributes.resource == "namespaces" {
        // The namespace object itself lives in no namespace; authorization has seen its name.
        attributes.namespace.clear();
    }
    let deprecation = deprecation(resource);
    let accept = parts.headers.get(header::ACCEPT).cloned();
    let now = clock::unix_now();
    let call = Call {
        server,
        user,
        attributes,
        resource,
        id,
        subresource,
        output,
        parts,
        body,
        now,
    };
    let answer = rest::dispatch(call).await;
    let Some(warning) = deprecation else {
        return answer;
    };
    let answer = answer.unwrap_or_else(|status| headers::failure(&status, accept.as_ref()));
    Ok(headers::warned(answer, warning))
}

/// What whoever uses a resource is warned of (the prerelease lifecycle of `k8s.io/api/core/v1`).
fn deprecation(resource: &Resource) -> Option<&'static str> {
    match (resource.group, resource.plural) {
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        ("", "endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        _ => None,
    }
}

fn other(
    server: &ApiServer,
    attributes: &Attributes,
    parts: &Parts,
) -> Result<Response<Body>, Status> {
    let path = attributes.path.trim_end_matches('/');
    if let Some(response) = health::respond(server, attributes) {
        return Ok(response);
    }
    if path == "/version" {
        return Ok(body::json(200, version()));
    }
    let document = discovery::respond(path, &parts.headers)
        .or_else(|| server.auth().openid(path))
        .or_else(|| openapi::respond(path, &attributes.query, &parts.headers));
    Ok(match document {
        Some(document) => document.map(body::full),
        None => nowhere(path)?,
    })
}

/// What leads nowhere. Below the paths of the groups there are it is upstream's routes that say so, with a
/// Status; everywhere else nobody is there to say more than a web server does.
fn nowhere(path: &str) -> Result<Response<Body>, Status> {
    let mut parts = path.trim_start_matches('/').split('/');
    let is_routed = match (parts.next(), parts.next()) {
        (Some("api"), _) => true,
        (Some("apis"), Some(group)) => {
            let mut groups = Facts::get().groups.iter();
            !group.is_empty() && groups.any(|known| known.name == group)
        }
        _ => false,
    };
    if is_routed {
        return Err(Status::page_not_found());
    }
    if path.starts_with("/openapi/v3/") {
        let mut response = Response::new(body::full(""));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    let text = body::text(StatusCode::NOT_FOUND, "404 page not found\n");
    Ok(headers::nosniff(text))
}

fn version() -> Vec<u8> {
    let release = Facts::get().kubernetes;
    let release = if release.is_empty() {
        "v1.37.0"
    } else {
        release
    };
    let mut numbers = release.trim_start_matches('v').split('.');
    let major = numbers.next().unwrap_or_default();
    let minor = numbers.next().unwrap_or_default();
    // What may still be there was written one version before (k8s.io/component-base/compatibility).
    let before = minor.parse::<u32>().unwrap_or_default().saturating_sub(1);
    let version = serde_json::json!({
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": before.to_string(),
        "gitVersion": format!("{release}+windlass"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", platform()),
    });
    version.to_string().into_bytes()
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
