//! Impersonation: `Impersonate-User` and its companions, each allowed by its own authorization.
//!
//! Port of `k8s.io/apiserver/pkg/endpoints/filters/impersonation`.

use api::Status;
use http::HeaderMap;

use crate::{
    ApiServer,
    attributes::{Attributes, percent_decode},
    identity::{GROUP_AUTHENTICATED, GROUP_UNAUTHENTICATED, USER_ANONYMOUS, UserInfo},
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The identity the request is to be treated as.
pub fn apply(server: &ApiServer, user: UserInfo, headers: &HeaderMap) -> Result<UserInfo, Status> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned)
    };
    let extra: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(name, value)| {
            let key = name.as_str().strip_prefix(EXTRA)?;
            Some((percent_decode(key, false), value.to_str().ok()?.to_owned()))
        })
        .collect();
    let groups: Vec<String> = headers
        .get_all(GROUP)
        .iter()
        .filter_map(|v| v.to_str().ok().map(str::to_owned))
        .collect();
    let Some(name) = text(USER).filter(|n| !n.is_empty()) else {
        if !groups.is_empty() || !extra.is_empty() || text(UID).is_some() {
            let text = "requested impersonation without impersonating a user";
            return Err(Status::internal(text));
        }
        return Ok(user);
    };
    let mut target = UserInfo {
        username: name.clone(),
        ..UserInfo::default()
    };
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|n| n.split_once(':'));
    match account {
        Some((namespace, account)) => {
            ask(server, &user, "serviceaccounts", "", namespace, account)?;
            if groups.is_empty() {
                target.groups = UserInfo::service_account(namespace, account).groups;
            }
        }
        None => ask(server, &user, "users", "", "", &name)?,
    }
    for group in &groups {
        ask(server, &user, "groups", "", "", group)?;
    }
    target.groups.extend(groups);
    if let Some(uid) = text(UID).filter(|u| !u.is_empty()) {
        ask(server, &user, "uids", "", "", &uid)?;
        target.uid = uid;
    }
    for (key, value) in extra {
        ask(server, &user, "userextras", &key, "", &value)?;
        target.extra.entry(key).or_default().push(value);
    }
    let implied = if name == USER_ANONYMOUS {
        GROUP_UNAUTHENTICATED
    } else {
        GROUP_AUTHENTICATED
    };
    if !target.in_group(implied) && !target.in_group(GROUP_UNAUTHENTICATED) {
        target.groups.push(implied.to_owned());
    }
    Ok(target)
}

fn ask(
    server: &ApiServer,
    user: &UserInfo,
    resource: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), Status> {
    let core = matches!(resource, "users" | "groups" | "serviceaccounts");
    let attributes = Attributes {
        verb: "impersonate".into(),
        is_resource: true,
        group: if core {
            String::new()
        } else {
            "authentication.k8s.io".into()
        },
        version: "v1".into(),
        namespace: namespace.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    super::authorize(server, user, &attributes)
}
