//! What pods of one operating system may not have of the other's.
//!
//! Port of `validateLinux`, `validateWindows`, `validateWindowsSecurityContextOptions` and
//! `validateWindowsHostProcessPod` in `pkg/apis/core/validation/validation.go`. The server runs no Windows
//! nodes; stock Windows nodes may join it.

use super::options::containers;
use crate::doc::Value;
use crate::validate::names::dns_subdomain;
use crate::validate::path::{Errors, Path};

const NOT_ON_LINUX: &str = "windows options cannot be set for a linux pod";
const NOT_ON_WINDOWS: &str = "cannot be set for a windows pod";
/// Fields of security contexts that Windows does not have.
const POD_CONTEXT: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const CONTAINER_CONTEXT: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];
const POD_FIELDS: [&str; 2] = ["hostUsers", "shareProcessNamespace"];
/// Limits of names of users and of credentials.
const MAX_CREDENTIAL_KIB: usize = 64;
const MAX_DOMAIN: usize = 256;
const MAX_USER: usize = 104;
const MAX_NETBIOS: usize = 15;
const MAX_LABEL: usize = 63;

/// A Linux pod has no Windows options.
pub(super) fn forbidden_on_linux(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let options = ["securityContext", "windowsOptions"];
    if spec.at(&options).is_some() {
        let at = path.child("securityContext");
        errors.forbidden(&at.child("windowsOptions"), NOT_ON_LINUX);
    }
    for (list, i, container) in containers(spec) {
        if container.at(&options).is_some() {
            let at = path.child(list);
            let at = at.index(i);
            let at = at.child("securityContext");
            errors.forbidden(&at.child("windowsOptions"), NOT_ON_LINUX);
        }
    }
}

/// A Windows pod has nothing that only Linux has.
pub(super) fn forbidden_on_windows(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let context_at = path.child("securityContext");
    for field in POD_CONTEXT {
        if spec.at(&["securityContext", field]).is_some() {
            errors.forbidden(&context_at.child(field), NOT_ON_WINDOWS);
        }
    }
    for field in POD_FIELDS {
        if spec.get(field).is_some() {
            errors.forbidden(&path.child(field), NOT_ON_WINDOWS);
        }
    }
    for field in ["hostPID", "hostIPC"] {
        if spec.bool_of(field) == Some(true) {
            errors.forbidden(&path.child(field), NOT_ON_WINDOWS);
        }
    }
    for (list, i, container) in containers(spec) {
        let at = path.child(list);
        let at = at.index(i);
        let at = at.child("securityContext");
        for field in CONTAINER_CONTEXT {
            if container.at(&["securityContext", field]).is_some() {
                errors.forbidden(&at.child(field), NOT_ON_WINDOWS);
            }
        }
    }
}

/// Containers that run as processes of the host: all of them or none, and on its network.
pub(super) fn host_process(spec: &Value<'_>, path: &Path<'_>, errors: &mut Errors) {
    let flag = |holder: &Value<'_>| {
        holder
            .at(&["securityContext", "windowsOptions", "hostProcess"])
            .and_then(Value::as_bool)
    };
    let of_pod = flag(spec);
    let (mut all, mut host) = (0, 0);
    for (list, i, container) in containers(spec) {
        all += 1;
        let own = flag(container);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let at = path.child(list);
            let at = at.index(i);
            let at = at.child("securityContext");
            let at = at.child("windowsOptions");
            let detail =
                format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.invalid_value(&at.child("hostProcess"), Some(&Value::Bool(own)), detail);
        }
        host += usize::from(own.or(of_pod) == Some(true));
    }
    if host == 0 {
        return;
    }
    if host != all {
        let detail = "If pod contains any hostProcess containers then all containers must be \
                      HostProcess containers";
        errors.invalid(path, "", detail);
    }
    if spec.bool_of("hostNetwork") != Some(true) {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid_value(
            &path.child("hostNetwork"),
            Some(&Value::Bool(false)),
            detail,
        );
    }
}

/// The Windows options of a security context.
pub(super) fn options(value: Option<&Value<'_>>, path: &Path<'_>, errors: &mut Errors) {
    let Some(options) = value else { return };
    if let Some(name) = options.str_of("gmsaCredentialSpecName") {
        errors.each(
            &path.child("gmsaCredentialSpecName"),
            name,
            dns_subdomain(name),
        );
    }
    let at = path.child("gmsaCredentialSpec");
    match options.str_of("gmsaCredentialSpec") {
        Some("") => errors.invalid(&at, "", "gmsaCredentialSpec cannot be an empty string"),
        Some(text) if text.len() > MAX_CREDENTIAL_KIB << 10 => {
            let detail = format!("gmsaCredentialSpec size must be under {MAX_CREDENTIAL_KIB} KiB");
            errors.invalid(&at, text, detail);
        }
        Some(_) | None => {}
    }
    if let Some(name) = options.str_of("runAsUserName") {
        for problem in user_name(name) {
            errors.invalid(&path.child("runAsUserName"), name, problem);
        }
    }
}

fn user_name(name: &str) -> Vec<String> {
    let one = |text: &str| vec![format!("runAsUserName {text}")];
    if name.is_empty() {
        return one("cannot be an empty string");
    }
    if name.bytes().any(|b| b.is_ascii_control()) {
        return one("cannot contain control characters");
    }
    if name.matches('\\').count() > 1 {
        return one("cannot contain more than one backslash");
    }
    let (domain, user) = match name.split_once('\\') {
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut out = Vec::new();
    let mut wrong = |is: bool, text: String| {
        if is {
            out.push(format!("runAsUserName's {text}"));
        }
    };
    let long_domain = domain.is_some_and(|d| d.len() >= MAX_DOMAIN);
    wrong(
        long_domain,
        format!("Domain length must be under {MAX_DOMAIN} characters"),
    );
    wrong(
        domain.is_some_and(|d| !is_netbios(d) && !is_dns(d)),
        "Domain doesn't match the NetBios nor the DNS format".to_owned(),
    );
    wrong(user.is_empty(), "User cannot be empty".to_owned());
    wrong(
        user.len() > MAX_USER,
        format!("User length must not be longer than {MAX_USER} characters"),
    );
    wrong(
        !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')),
        "User cannot contain only periods or spaces".to_owned(),
    );
    wrong(
        user.contains([
            '"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']',
        ]),
        "User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".to_owned(),
    );
    out
}

fn is_netbios(domain: &str) -> bool {
    let count = domain.chars().count();
    (1..=MAX_NETBIOS).contains(&count)
        && !domain.starts_with('.')
        && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let bytes = label.as_bytes();
        bytes.len() <= MAX_LABEL
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    })
}
