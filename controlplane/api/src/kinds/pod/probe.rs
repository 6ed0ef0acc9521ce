//! What probes and hooks must hold.
//!
//! Port of that part of `pkg/apis/core/validation/validation.go`.

use super::options::Spec;
use crate::doc::Value;
use crate::validate::names::{http_header, port_name, port_number};
use crate::validate::path::{Errors, Path};

const SCHEMES: [&str; 2] = ["HTTP", "HTTPS"];
const PROTOCOLS: [&str; 2] = ["HTTP1", "HTTP2"];
const GRPC_MODES: [&str; 2] = ["Plaintext", "TLS"];
const TWO_HANDLERS: &str = "may not specify more than 1 handler type";
/// Signals without a number, as they are sorted.
const SIGNALS: [&str; 34] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];
/// Real-time signals count up from the first and down from the last.
const REAL_TIME_UP: u8 = 15;
const REAL_TIME_DOWN: u8 = 14;

/// The `lifecycle` and the probes of a container.
pub(super) fn hooks_and_probes(
    known: &Spec<'_, '_>,
    container: &Value<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(lifecycle) = container.get("lifecycle") {
        let at = at.child("lifecycle");
        for hook in ["postStart", "preStop"] {
            if let Some(handler) = lifecycle.get(hook) {
                self::handler(handler, known.grace(), &at.child(hook), errors);
            }
        }
        if let Some(signal) = lifecycle.str_of("stopSignal") {
            stop_signal(known.os(), signal, &at.child("stopSignal"), errors);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get(name) {
            self::probe(name, probe, known.grace(), &at.child(name), errors);
        }
    }
}

fn probe(name: &str, probe: &Value<'_>, grace: Option<i64>, at: &Path<'_>, errors: &mut Errors) {
    handler(probe, grace, at, errors);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        errors.non_negative(&at.child(field), probe.int_of(field));
    }
    let own_grace = probe.int_of("terminationGracePeriodSeconds");
    let grace_at = at.child("terminationGracePeriodSeconds");
    if let Some(seconds) = own_grace.filter(|s| *s <= 0) {
        errors.invalid_number(&grace_at, seconds, "must be greater than 0");
    }
    let successes = probe.int_of("successThreshold").unwrap_or(0);
    if name == "readinessProbe" {
        if let Some(seconds) = own_grace {
            errors.invalid_number(&grace_at, seconds, "must not be set for readinessProbes");
        }
    } else if successes != 1 {
        errors.invalid_number(&at.child("successThreshold"), successes, "must be 1");
    }
}

fn handler(handler: &Value<'_>, grace: Option<i64>, at: &Path<'_>, errors: &mut Errors) {
    let mut found = false;
    for name in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = handler.get(name) else {
            continue;
        };
        let path = at.child(name);
        if found {
            errors.forbidden(&path, TWO_HANDLERS);
            continue;
        }
        found = true;
        match name {
            "exec" if action.list_of("command").is_empty() => {
                errors.required(&path.child("command"), "");
            }
            "httpGet" => http_get(action, &path, errors),
            "tcpSocket" => port(action.get("port"), &path.child("port"), errors),
            "grpc" => {
                port(action.get("port"), &path.child("port"), errors);
                errors.one_of(
                    &path.child("mode"),
                    action.str_of("mode"),
                    &GRPC_MODES,
                    false,
                );
            }
            "sleep" => {
                let seconds = action.int_of("seconds").unwrap_or(0);
                if let Some(grace) = grace.filter(|g| seconds < 0 || seconds > *g) {
                    let detail = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                    );
                    errors.invalid_number(&path, seconds, detail);
                }
            }
            _ => {}
        }
    }
    if !found {
        errors.required(at, "must specify a handler type");
    }
}

fn http_get(action: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    if action.str_of("path").unwrap_or_default().is_empty() {
        errors.required(&path.child("path"), "");
    }
    port(action.get("port"), &path.child("port"), errors);
    let scheme = action.str_of("scheme").unwrap_or_default();
    if !SCHEMES.contains(&scheme) {
        errors.not_supported(&path.child("scheme"), scheme, &SCHEMES);
    }
    for header in action.list_of("httpHeaders") {
        let name = header.str_of("name").unwrap_or_default();
        errors.each(&path.child("httpHeaders"), name, http_header(name));
    }
    let protocol_at = path.child("protocol");
    match action.str_of("protocol") {
        Some("HTTP2") if scheme != "HTTP" => {
            errors.invalid(&protocol_at, "HTTP2", "is only supported with HTTP (H2C)");
        }
        Some("HTTP2") => {
            if let Some(host) = action.str_of("host").filter(|h| !h.is_empty()) {
                let detail = "must be empty when `protocol` is \"HTTP2\"";
                errors.invalid(&path.child("host"), host, detail);
            }
        }
        protocol => errors.one_of(&protocol_at, protocol, &PROTOCOLS, false),
    }
}

/// A port by number or by name.
pub(crate) fn port(value: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Some(Value::String(name)) => errors.each(path, name, port_name(name)),
        value => {
            let number = value.and_then(Value::as_int).unwrap_or(0);
            errors.each_number(path, number, port_number(number));
        }
    }
}

fn stop_signal(os: Option<&str>, signal: &str, path: &Path<'_>, errors: &mut Errors) {
    match os {
        None => {
            let detail = "may not be set for containers with empty `spec.os.name`";
            errors.forbidden(path, detail);
        }
        Some("windows") => errors.one_of(path, Some(signal), &["SIGKILL", "SIGTERM"], false),
        Some("linux") => {
            let valid = linux_signals();
            let valid: Vec<&str> = valid.iter().map(String::as_str).collect();
            errors.one_of(path, Some(signal), &valid, false);
        }
        Some(_) => {}
    }
}

fn linux_signals() -> Vec<String> {
    let mut all: Vec<String> = SIGNALS.iter().map(|&s| s.to_owned()).collect();
    all.extend(["SIGRTMIN".to_owned(), "SIGRTMAX".to_owned()]);
    all.extend((1..=REAL_TIME_UP).map(|n| format!("SIGRTMIN+{n}")));
    all.extend((1..=REAL_TIME_DOWN).map(|n| format!("SIGRTMAX-{n}")));
    all.sort();
    all
}
