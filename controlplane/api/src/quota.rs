//! Resource quotas: what objects use of them, and whether a write still fits. Pure.
//!
//! Input: canonical JSON of ResourceQuotas and of the objects they count, `now`. Used by admission (what
//! does this write add?) and by the quota controller (what is used in all?).
//! Port of `k8s.io/apiserver/pkg/admission/plugin/resourcequota/controller.go` (`CheckRequest`),
//! `k8s.io/apiserver/pkg/quota/v1` and `pkg/quota/v1/evaluator/core`. Devices of ResourceClaims are not
//! counted, only the claims.

mod claim;
mod pod;
mod scope;
mod service;

use serde::Deserialize;

pub use scope::Scope;

use crate::resources::Amounts;

/// Kinds quotas never count.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];
/// Counts that had a name before `count/`.
const ALIASES: [&str; 4] = [
    "configmaps",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
];

/// A ResourceQuota as its rules need it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quota {
    pub name: String,
    /// What the spec allows.
    pub spec_hard: Amounts,
    /// What is enforced: the spec as the controller saw it last.
    pub hard: Amounts,
    pub used: Amounts,
    pub scopes: Vec<Scope>,
}

/// An object that quotas count.
#[derive(Debug)]
pub enum Item {
    Pod(Box<pod::Pod>),
    Service(service::Service),
    Claim(claim::Claim),
    /// Any other kind, with its quota names.
    Counted(Vec<String>),
}

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    Create,
    /// Update of the object or of the named subresource.
    Update(&'a str),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawQuota {
    metadata: RawMeta,
    spec: RawSpec,
    status: RawStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawMeta {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawSpec {
    hard: Amounts,
    scopes: Vec<String>,
    scope_selector: Option<RawSelector>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawSelector {
    match_expressions: Vec<Scope>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawStatus {
    hard: Amounts,
    used: Amounts,
}

/// The name under which objects of a kind are counted.
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() {
        format!("count/{plural}")
    } else {
        format!("count/{plural}.{group}")
    }
}

/// Whether quotas count objects of the kind at all.
pub fn is_counted(group: &str, plural: &str) -> bool {
    !IGNORED.contains(&(group, plural))
}

/// Whether a quota with these limits counts objects of the kind.
pub fn counts(hard: &Amounts, group: &str, plural: &str) -> bool {
    is_counted(group, plural) && !Item::names(group, plural, hard).is_empty()
}

// === impl Quota ===

impl Quota {
    /// Reads canonical JSON.
    pub fn read(json: &[u8]) -> serde_json::Result<Self> {
        let RawQuota {
            metadata,
            spec,
            status,
        } = serde_json::from_slice(json)?;
        let mut scopes: Vec<Scope> = spec.scopes.into_iter().map(Scope::exists).collect();
        scopes.extend(spec.scope_selector.unwrap_or_default().match_expressions);
        Ok(Self {
            name: metadata.name,
            spec_hard: spec.hard,
            hard: status.hard,
            used: status.used,
            scopes,
        })
    }

    /// What would be used after a write; none when the write changes nothing for this quota. `old` is
    /// the version that is replaced.
    ///
    /// # Errors
    /// Why the write is forbidden.
    pub fn check(
        &self,
        new: &Item,
        old: Option<&Item>,
        operation: Operation<'_>,
        now: i64,
    ) -> Result<Option<Amounts>, String> {
        let restricted = new.matching(&self.hard);
        if restricted.is_empty() || !self.scopes.iter().all(|scope| new.is_in(scope)) {
            return Ok(None);
        }
        new.constraints(&restricted)
            .map_err(|why| format!("failed quota: {}: {why}", self.name))?;
        if restricted.iter().any(|name| self.used.get(name).is_none()) {
            return Err(format!(
                "status unknown for quota: {}, resources: {}",
                self.name,
                restricted.join(",")
            ));
        }
        let usage = new.usage(now);
        let negative = usage.negative();
        if !negative.is_empty() {
            return Err(format!(
                "quota usage is negative for resource(s): {}",
                negative.join(",")
            ));
        }
        let delta = match old {
            Some(old) if self.scopes.iter().all(|scope| old.is_in(scope)) => {
                usage.minus_not_below_zero(&old.usage(now))
            }
            Some(_) | None => usage,
        };
        let requested = delta.without_zeros().masked(&self.hard);
        if requested.is_empty() {
            return Ok(None);
        }
        let used = self.used.plus(&requested);
        if operation != Operation::Update("status") {
            let exceeded = used.masked(&requested).exceeding(&self.hard);
            if !exceeded.is_empty() {
                return Err(format!(
                    "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                    self.name,
                    requested.masked(&exceeded),
                    self.used.masked(&exceeded),
                    self.hard.masked(&exceeded)
                ));
            }
        }
        Ok(Some(used))
    }

    /// What the objects of one kind use, under every name this quota has for the kind. Objects of
    /// which only the existence counts are one item and their number.
    pub fn recount<'i>(
        &self,
        (group, plural): (&str, &str),
        items: impl IntoIterator<Item = (&'i Item, i64)>,
        now: i64,
    ) -> Amounts {
        let names = Item::names(group, plural, &self.spec_hard);
        let mut used: Amounts = names.iter().map(|name| (name.as_str(), 0)).collect();
        for (item, number) in items {
            if self.scopes.iter().all(|scope| item.is_in(scope)) {
                used = used.plus(&item.usage(now).times(number));
            }
        }
        used.masked(&self.spec_hard)
    }
}

// === impl Item ===

impl Item {
    /// Reads canonical JSON of an object of the kind.
    pub fn read(group: &str, plural: &str, json: &[u8]) -> serde_json::Result<Self> {
        Ok(match (group, plural) {
            ("", "pods") => Self::Pod(Box::new(pod::Pod::read(json)?)),
            ("", "services") => Self::Service(serde_json::from_slice(json)?),
            ("", "persistentvolumeclaims") => Self::Claim(serde_json::from_slice(json)?),
            _ => Self::counted(group, plural),
        })
    }

    /// An object of which only the existence counts.
    pub fn counted(group: &str, plural: &str) -> Self {
        let mut names = vec![count_name(group, plural)];
        if group.is_empty() && ALIASES.contains(&plural) {
            names.push(plural.to_owned());
        }
        Self::Counted(names)
    }

    /// Whether a write may change what is used (upstream: `Handles`).
    pub fn is_handled(&self, old: Option<&Self>, operation: Operation<'_>) -> bool {
        match (self, operation) {
            (_, Operation::Create) => true,
            (Self::Pod(new), Operation::Update("")) => {
                matches!(old, Some(Self::Pod(old)) if old.is_terminating() != new.is_terminating())
            }
            (Self::Pod(_), Operation::Update(subresource)) => subresource == "resize",
            (Self::Service(_), Operation::Update(subresource)) => subresource.is_empty(),
            (Self::Claim(_), Operation::Update(subresource)) => {
                matches!(subresource, "" | "status")
            }
            (Self::Counted(_), Operation::Update(_)) => false,
        }
    }

    /// Which of the names this object counts for.
    fn matching(&self, hard: &Amounts) -> Vec<String> {
        match self {
            Self::Pod(_) => hard.names_where(pod::is_resource),
            Self::Service(_) => hard.names_where(service::is_resource),
            Self::Claim(_) => hard.names_where(claim::is_resource),
            Self::Counted(names) => hard.names_where(|name| names.iter().any(|n| n == name)),
        }
    }

    /// Which of the names objects of the kind count for.
    fn names(group: &str, plural: &str, hard: &Amounts) -> Vec<String> {
        match (group, plural) {
            ("", "pods") => hard.names_where(pod::is_resource),
            ("", "services") => hard.names_where(service::is_resource),
            ("", "persistentvolumeclaims") => hard.names_where(claim::is_resource),
            _ => Self::counted(group, plural).matching(hard),
        }
    }

    fn is_in(&self, scope: &Scope) -> bool {
        match self {
            Self::Pod(pod) => pod.is_in(scope),
            Self::Claim(claim) => claim.is_in(scope),
            Self::Service(_) | Self::Counted(_) => false,
        }
    }

    fn constraints(&self, required: &[String]) -> Result<(), String> {
        match self {
            Self::Pod(pod) => pod.constraints(required),
            Self::Service(_) | Self::Claim(_) | Self::Counted(_) => Ok(()),
        }
    }

    /// What it uses; `now` in seconds since the Unix epoch.
    pub fn usage(&self, now: i64) -> Amounts {
        match self {
            Self::Pod(pod) => pod.usage(now),
            Self::Service(service) => service.usage(),
            Self::Claim(claim) => claim.usage(),
            Self::Counted(names) => names.iter().map(|name| (name.as_str(), 1)).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
