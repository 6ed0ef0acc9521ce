//! Admission webhooks: who is asked about a request, and what comes of it.
//!
//! The configurations are compiled as they change ([`Webhooks`]); a request looks once whether any
//! webhook's rules are about it ([`Webhooks::concerned`]) and pays nothing more when none is. The
//! questions themselves are asked by the driver of a write, between its synchronous halves: objects are
//! complete JSON in the version of the request here.
//! Port of `k8s.io/apiserver/pkg/admission/plugin/webhook/generic/webhook.go`.

mod client;
pub(super) mod conditions;
mod connect;
mod dispatch;
pub(super) mod review;
mod trust;

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use api::{Format, Header, Resource, Status, Value, expression::authorizer::Access};
use bumpalo::Bump;

use super::{
    matching::{Asked, GROUP, Index, Labels, Matching, Operation},
    policy::{self, Policies},
};
use crate::{
    cache::{Cache, Change, Object},
    call::Call,
    catalog::ResourceId,
    rest::delete::DeleteOptions,
};
use client::Client;
use conditions::Conditions;
use review::{Kind, Named, ReviewVersion};

const MUTATING: &str = "mutatingwebhookconfigurations";
const VALIDATING: &str = "validatingwebhookconfigurations";
/// Time a webhook has whose configuration says nothing (the default of the API).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// All webhooks there are, kept from the cache's changes, and the policies that go before them.
pub struct Webhooks {
    policies: Policies,
    mutating: Shared,
    validating: Shared,
}

type Shared = Arc<RwLock<Arc<Hooks>>>;

/// The webhooks of one kind in the order in which they are asked.
#[derive(Default)]
struct Hooks {
    list: Vec<Arc<Hook>>,
    index: Index,
}

/// One webhook, compiled.
struct Hook {
    name: String,
    matching: Matching,
    conditions: Conditions,
    /// `failurePolicy: Ignore`.
    fails_open: bool,
    has_side_effects: bool,
    /// `reinvocationPolicy: IfNeeded`.
    is_asked_again: bool,
    timeout: Duration,
    /// The first version in its list that is known here.
    version: Option<ReviewVersion>,
    client: Client,
}

/// The policies and webhooks whose rules are about a request.
pub struct Concerned {
    policies: policy::Concerned,
    mutating: Option<Arc<Hooks>>,
    validating: Option<Arc<Hooks>>,
}

/// A request as webhooks are told of it (upstream: admission.Attributes).
#[derive(Clone, Copy)]
pub struct Told<'t> {
    pub call: &'t Call,
    pub operation: Operation,
    /// In the version of the request.
    pub resource: &'static Resource,
    pub subresource: &'t str,
    /// Of a namespace its own name.
    pub namespace: &'t str,
    pub name: &'t str,
    /// What was there before.
    pub old: Option<&'t [u8]>,
    pub dry_run: bool,
    /// The options of a deletion.
    pub deletion: Option<&'t DeleteOptions>,
}

/// The built-in plugins once more over an object that webhooks changed.
pub type Again<'a> = dyn Fn(&[u8]) -> Result<Vec<u8>, Status> + Sync + 'a;

/// Complete JSON, for its labels.
struct Scanned<'j> {
    json: &'j [u8],
    header: Header,
}

// === impl Webhooks ===

impl Webhooks {
    pub fn new(cache: &Cache) -> Self {
        Self {
            policies: Policies::new(cache),
            mutating: observe(cache, MUTATING),
            validating: observe(cache, VALIDATING),
        }
    }

    /// Who is to be asked about what is asked for; selectors are looked at when the object is there.
    pub fn concerned(&self, asked: &Asked<'_>) -> Concerned {
        Concerned {
            policies: self.policies.concerned(asked),
            mutating: about(&self.mutating, asked),
            validating: about(&self.validating, asked),
        }
    }
}

/// The webhooks of a kind when any rule of theirs is about a request.
fn about(shared: &Shared, asked: &Asked<'_>) -> Option<Arc<Hooks>> {
    let hooks = shared.read().expect("no code panics under this lock");
    let mut candidates = hooks.index.candidates(asked.resource.plural).iter();
    let is_about = |at: &usize| hooks.list[*at].matching.rules_match(asked).is_some();
    candidates.any(is_about).then(|| Arc::clone(&hooks))
}

fn observe(cache: &Cache, plural: &'static str) -> Shared {
    let shared = Shared::default();
    let hooks = shared.clone();
    // Ordered by name, as they are asked.
    let mut configurations: BTreeMap<String, Vec<Arc<Hook>>> = BTreeMap::new();
    let observer = move |change: &Change| {
        let name = change.latest().name().to_owned();
        match &change.object {
            Some(object) => configurations.insert(name, Hook::read_all(object)),
            None => configurations.remove(&name),
        };
        let list: Vec<Arc<Hook>> = configurations.values().flatten().cloned().collect();
        let index = Index::new(list.iter().map(|hook| &hook.matching));
        let mut shared = hooks.write().expect("no code panics under this lock");
        *shared = Arc::new(Hooks { list, index });
    };
    cache.observe(ResourceId::named(GROUP, plural), Box::new(observer));
    shared
}

// === impl Hook ===

impl Hook {
    /// The webhooks of a configuration. What is stored was checked; what cannot be read all the same is
    /// not asked.
    fn read_all(configuration: &Object) -> Vec<Arc<Self>> {
        let arena = Bump::new();
        let bytes = arena.alloc_slice_copy(&configuration.bytes);
        let Ok(value) = api::codec::parse(Format::Json, bytes, &arena) else {
            return Vec::new();
        };
        let hooks = value.list_of("webhooks").iter().filter_map(|hook| {
            let matching = Matching::of_webhook(hook).inspect_err(|error| {
                tracing::warn!(configuration = configuration.name(), %error, "webhook");
            });
            matching.ok().map(|matching| Self::read(hook, matching))
        });
        hooks.map(Arc::new).collect()
    }

    fn read(hook: &Value<'_>, matching: Matching) -> Self {
        let versions = hook.list_of("admissionReviewVersions").iter();
        let seconds = hook.get("timeoutSeconds").and_then(Value::as_int);
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let side_effects = hook.str_of("sideEffects").unwrap_or_default();
        Self {
            name: hook.str_of("name").unwrap_or_default().to_owned(),
            matching,
            conditions: Conditions::read(hook),
            fails_open: hook.str_of("failurePolicy") == Some("Ignore"),
            has_side_effects: !matches!(side_effects, "None" | "NoneOnDryRun"),
            is_asked_again: hook.str_of("reinvocationPolicy") == Some("IfNeeded"),
            timeout: seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs),
            version: versions
                .filter_map(Value::as_str)
                .find_map(ReviewVersion::parse),
            client: Client::read(hook.get("clientConfig")),
        }
    }

    /// The resource in the version it is to be asked about, when it is to be.
    fn is_asked(
        &self,
        told: &Told<'_>,
        object: Option<&[u8]>,
    ) -> Result<Option<&'static Resource>, Status> {
        let Some(resource) = self.matches(told, object)? else {
            return Ok(None);
        };
        let holds = self
            .conditions
            .hold(told, resource, object, self.fails_open)?;
        Ok(holds.then_some(resource))
    }

    fn matches(
        &self,
        told: &Told<'_>,
        object: Option<&[u8]>,
    ) -> Result<Option<&'static Resource>, Status> {
        let object = object.and_then(Scanned::new);
        let old = told.old.and_then(Scanned::new);
        fn labels<'s>(scanned: &'s Option<Scanned<'_>>) -> Option<&'s dyn Labels> {
            scanned.as_ref().map(|scanned| scanned as &dyn Labels)
        }
        let asked = Asked {
            object: labels(&object),
            old: labels(&old),
            ..told.asked()
        };
        let cache = told.call.server.cache();
        let matched = self.matching.matches(&asked, cache)?;
        Ok(matched.map(|row| told.row(row)))
    }
}

// === impl Told ===

impl<'t> Told<'t> {
    /// What a call asks for, of an object of that name.
    pub fn new(call: &'t Call, operation: Operation, subresource: &'t str, name: &'t str) -> Self {
        let resource = call.resource;
        let is_namespace = resource.group.is_empty() && resource.plural == "namespaces";
        Self {
            call,
            operation,
            resource,
            subresource,
            namespace: match is_namespace {
                true => name,
                false => &call.attributes.namespace,
            },
            name,
            old: None,
            dry_run: call.dry_run(),
            deletion: None,
        }
    }

    pub(super) fn asked(&self) -> Asked<'t> {
        Asked {
            operation: self.operation,
            resource: self.resource,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            object: None,
            old: None,
        }
    }

    /// The webhooks whose rules are about it.
    pub fn concerned(&self) -> Concerned {
        self.call.server.webhooks().concerned(&self.asked())
    }

    /// The row of a resource that was matched: rows live as long as the process, what was asked does not.
    pub(super) fn row(&self, matched: &Resource) -> &'static Resource {
        let Resource {
            group,
            version,
            plural,
            ..
        } = matched;
        let other = api::Facts::get().resource(group, version, plural);
        other.unwrap_or(self.resource)
    }

    /// What the request itself asks of authorization, but for the verb.
    pub(super) fn access(&self) -> Access {
        let attributes = &self.call.attributes;
        Access {
            verb: String::new(),
            path: None,
            group: attributes.group.clone(),
            resource: attributes.resource.clone(),
            subresource: attributes.subresource.clone(),
            namespace: attributes.namespace.clone(),
            name: self.name.to_owned(),
        }
    }

    /// The kind of its object, when it is asked as a request for `resource`.
    fn kind<'r>(&self, resource: &'r Resource) -> Kind<'r> {
        let Resource {
            group,
            version,
            kind,
            ..
        } = resource;
        match resource.subresource(self.subresource) {
            Some(sub) => Kind {
                group: sub.group,
                version: sub.version,
                kind: sub.kind,
            },
            None => Kind {
                group,
                version,
                kind,
            },
        }
    }

    fn named<'r>(&self, resource: &'r Resource) -> Named<'r> {
        Named {
            group: resource.group,
            version: resource.version,
            resource: resource.plural,
        }
    }

    /// Whether its object is of the resource's own kind.
    pub(super) fn is_of_resource(&self) -> bool {
        self.kind(self.resource).kind == self.resource.kind
    }
}

// === impl Concerned ===

impl Concerned {
    /// Nobody, for changes of the server's own.
    pub fn nobody() -> Self {
        Self {
            policies: policy::Concerned::default(),
            mutating: None,
            validating: None,
        }
    }

    pub fn mutates(&self) -> bool {
        self.mutating.is_some() || self.policies.mutates()
    }

    pub fn validates(&self) -> bool {
        self.validating.is_some() || self.policies.validates()
    }

    /// The object as the mutating policies and, after them, the webhooks leave it.
    pub async fn mutate(
        &self,
        told: &Told<'_>,
        object: Vec<u8>,
        again: &Again<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<u8>, Status> {
        let mut object = object;
        if self.policies.mutates() {
            let changed = self.policies.mutate(told, object.clone(), false)?;
            object = match changed == object {
                true => changed,
                false => again(&changed)?,
            };
        }
        let Some(hooks) = &self.mutating else {
            return Ok(object);
        };
        let mut rounds = dispatch::Rounds::default();
        let mut object = Some(object);
        let first = rounds.ask(told, hooks, &mut object, warnings).await;
        first.map_err(|status| with(status, warnings))?;
        if rounds.is_changed() {
            let before = object.as_deref().unwrap_or_default();
            let after = self.policies.mutate(told, again(before)?, true)?;
            rounds.begin_second(after != before);
            object = Some(after);
            let second = rounds.ask(told, hooks, &mut object, warnings).await;
            second.map_err(|status| with(status, warnings))?;
        }
        Ok(object.unwrap_or_default())
    }

    /// Whether all validating policies and webhooks allow it.
    pub async fn validate(
        &self,
        told: &Told<'_>,
        object: Option<&[u8]>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        self.policies.validate(told, object, warnings)?;
        let Some(hooks) = &self.validating else {
            return Ok(());
        };
        let outcome = dispatch::validate(told, hooks, object, warnings).await;
        outcome.map_err(|status| with(status, warnings))
    }

    /// All webhooks about something that is not stored as it comes: a subresource's own body, or (without
    /// an object) a deletion. The body as they leave it.
    pub async fn admit(
        &self,
        told: &Told<'_>,
        object: Option<Vec<u8>>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Vec<u8>>, Status> {
        let object = match (object, &self.mutating) {
            (Some(object), _) => {
                let again = |json: &[u8]| Ok(json.to_vec());
                Some(self.mutate(told, object, &again, warnings).await?)
            }
            (None, Some(hooks)) => {
                let mut nothing = None;
                let mut rounds = dispatch::Rounds::default();
                let outcome = rounds.ask(told, hooks, &mut nothing, warnings).await;
                outcome.map_err(|status| with(status, warnings))?;
                None
            }
            (None, None) => None,
        };
        self.validate(told, object.as_deref(), warnings).await?;
        Ok(object)
    }
}

/// A refusal with the warnings that came before it.
fn with(status: Status, warnings: &mut Vec<String>) -> Status {
    status.with_warnings(std::mem::take(warnings))
}

/// The body of a subresource as its webhooks leave it: at once, when there are none.
pub async fn admit_body(told: &Told<'_>, body: Vec<u8>) -> Result<(Vec<u8>, Vec<String>), Status> {
    let concerned = told.concerned();
    let mut warnings = Vec::new();
    if !concerned.mutates() && !concerned.validates() {
        return Ok((body, warnings));
    }
    let body = concerned.admit(told, Some(body), &mut warnings).await?;
    Ok((body.unwrap_or_default(), warnings))
}

// === impl Scanned ===

impl<'j> Scanned<'j> {
    fn new(json: &'j [u8]) -> Option<Self> {
        let header = Header::scan(json)?;
        Some(Self { json, header })
    }
}

impl Labels for Scanned<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.header.label(self.json, key)
    }
}
