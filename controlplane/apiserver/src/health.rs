//! `/healthz`, `/livez` and `/readyz`: the checks, and which of them a request asks for.
//!
//! What has to be done after the server answers its first request (creating what every cluster has) is
//! a hook; the server is ready when all its hooks are finished.
//! Port of `k8s.io/apiserver/pkg/server/healthz/healthz.go` and `pkg/server/hooks.go`.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use http::{Response, StatusCode};

use crate::{
    ApiServer,
    attributes::Attributes,
    body::{self, Body},
    chain::headers,
};

const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// The hooks of a server.
#[derive(Debug, Default)]
pub struct Hooks {
    hooks: RwLock<Vec<(&'static str, Arc<AtomicBool>)>>,
}

/// Work that the server's readiness waits for.
#[derive(Debug)]
#[must_use = "the server is not ready before `finished`"]
pub struct Hook {
    is_finished: Arc<AtomicBool>,
}

/// A check's name and what is wrong.
type Check = (String, Option<String>);

// === impl Hooks ===

impl Hooks {
    /// Adds a hook; the check is `poststarthook/NAME`.
    pub fn begin(&self, name: &'static str) -> Hook {
        let is_finished = Arc::new(AtomicBool::new(false));
        self.hooks
            .write()
            .expect("no code panics under this lock")
            .push((name, is_finished.clone()));
        Hook { is_finished }
    }

    fn checks(&self) -> Vec<Check> {
        let hooks = self.hooks.read().expect("no code panics under this lock");
        let check = |(name, is_finished): &(&str, Arc<AtomicBool>)| {
            let failure = (!is_finished.load(Ordering::Acquire)).then(|| "not finished".to_owned());
            (format!("poststarthook/{name}"), failure)
        };
        hooks.iter().map(check).collect()
    }
}

// === impl Hook ===

impl Hook {
    pub fn finished(self) {
        self.is_finished.store(true, Ordering::Release);
    }
}

/// Answers a path of one of the endpoints; none for other paths.
pub fn respond(server: &ApiServer, attributes: &Attributes) -> Option<Response<Body>> {
    let path = attributes.path.trim_matches('/');
    let (endpoint, check) = path.split_once('/').unwrap_or((path, ""));
    if !ENDPOINTS.contains(&endpoint) {
        return None;
    }
    let checks = checks(server);
    let response = if check.is_empty() {
        all(endpoint, &checks, attributes)
    } else {
        let (_, failure) = checks.into_iter().find(|(name, _)| name == check)?;
        match failure {
            None => body::text(StatusCode::OK, "ok"),
            Some(failure) => {
                let text = format!("internal server error: {failure}\n");
                body::text(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        }
    };
    Some(headers::nosniff(response))
}

fn checks(server: &ApiServer) -> Vec<Check> {
    let read_only = server.storage().log().status().read_only;
    let read_only = read_only.map(|reason| format!("store is read-only: {reason}"));
    let mut checks = vec![("ping".to_owned(), None), ("store".to_owned(), read_only)];
    checks.extend(server.hooks().checks());
    checks
}

fn all(endpoint: &str, checks: &[Check], attributes: &Attributes) -> Response<Body> {
    let named = |key: &str| {
        let values = attributes.query.iter().filter(|(k, _)| k == key);
        values.map(|(_, v)| v.as_str()).collect::<Vec<_>>()
    };
    let mut excluded = named("exclude");
    let mut text = String::new();
    let mut failed = false;
    for (name, failure) in checks {
        let line = if let Some(at) = excluded.iter().position(|e| e == name) {
            excluded.remove(at);
            writeln!(text, "[+]{name} excluded: ok")
        } else if failure.is_some() {
            failed = true;
            writeln!(text, "[-]{name} failed: reason withheld")
        } else {
            writeln!(text, "[+]{name} ok")
        };
        line.expect("a string takes any text");
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|e| format!("{e:?}")).collect();
        writeln!(
            text,
            "warn: some health checks cannot be excluded: no matches for {}",
            names.join(", ")
        )
        .expect("a string takes any text");
    }
    if failed {
        text.push_str(&format!("{endpoint} check failed\n"));
        return body::text(StatusCode::INTERNAL_SERVER_ERROR, text);
    }
    if named("verbose").is_empty() {
        return body::text(StatusCode::OK, "ok");
    }
    text.push_str(&format!("{endpoint} check passed\n"));
    body::text(StatusCode::OK, text)
}
