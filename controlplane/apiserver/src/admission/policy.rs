//! Admission policies: expressions that decide about a request, or change its object, in this process.
//!
//! Policies and their bindings are read as they change ([`Policies`]) and compiled when a request first
//! needs them; a request pays a lookup by its resource's name when no policy is about it.
//! Port of `k8s.io/apiserver/pkg/admission/plugin/policy/{generic,validating,mutating}`. Audit annotations
//! are evaluated for their errors alone, because there is no audit log.

mod authorize;
mod mutate;
mod params;
mod scope;
mod validate;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, RwLock},
};

use api::{
    Format, Resource, Status, Value,
    expression::policy::{Policy as Expressions, compile},
    selector::LabelSelector,
};
use bumpalo::Bump;

use super::{
    matching::{Asked, GROUP, Index, Labels, Matching, Operation},
    webhook::Told,
};
use crate::{
    cache::{Cache, Change, Object},
    catalog::ResourceId,
};

const VALIDATING: [&str; 2] = [
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
];
const MUTATING: [&str; 2] = [
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];

/// All policies there are, kept from the cache's changes.
pub struct Policies {
    validating: Shared,
    mutating: Shared,
}

type Shared = Arc<RwLock<Arc<Set>>>;

/// The policies of one kind that have bindings, by name.
#[derive(Default)]
struct Set {
    list: Vec<Bound>,
    index: Index,
}

struct Bound {
    policy: Arc<Policy>,
    bindings: Vec<Arc<Binding>>,
}

struct Policy {
    name: String,
    matching: Matching,
    /// `failurePolicy: Ignore`.
    fails_open: bool,
    /// apiVersion and kind of its parameters.
    param_kind: Option<(String, String)>,
    /// `reinvocationPolicy: IfNeeded`.
    is_asked_again: bool,
    object: Arc<Object>,
    compiled: OnceLock<Result<Expressions, String>>,
}

struct Binding {
    name: String,
    policy: String,
    matching: Option<Matching>,
    param: Option<ParamRef>,
    denies: bool,
    warns: bool,
}

/// `paramRef`.
struct ParamRef {
    name: String,
    namespace: String,
    selector: Option<LabelSelector>,
    /// `parameterNotFoundAction: Deny`.
    must_exist: bool,
}

/// The policies whose rules are about a request.
#[derive(Default)]
pub struct Concerned {
    mutating: Option<Arc<Set>>,
    validating: Option<Arc<Set>>,
}

/// What policies and bindings the cache has had so far.
#[derive(Default)]
struct Seen {
    policies: BTreeMap<String, Arc<Policy>>,
    bindings: BTreeMap<String, Arc<Binding>>,
}

/// The objects of a request, in its version.
#[derive(Clone, Copy)]
struct Objects<'o, 'a> {
    object: Option<&'o Value<'a>>,
    old: Option<&'o Value<'a>>,
}

/// One policy by one binding, that is about a request.
struct Invocation<'i> {
    policy: &'i Arc<Policy>,
    binding: &'i Arc<Binding>,
    /// The resource in the version the rule names.
    resource: &'static Resource,
    param: Option<Arc<Object>>,
}

/// Why a policy (or a binding of it) cannot be asked.
struct Misconfigured {
    policy: Arc<Policy>,
    binding: Option<Arc<Binding>>,
    why: String,
}

// === impl Policies ===

impl Policies {
    pub fn new(cache: &Cache) -> Self {
        Self {
            validating: observe(cache, VALIDATING),
            mutating: observe(cache, MUTATING),
        }
    }

    /// Who is to be asked about what is asked for; selectors are looked at when the object is there.
    pub fn concerned(&self, asked: &Asked<'_>) -> Concerned {
        Concerned {
            mutating: about(&self.mutating, asked).filter(|_| is_mutable(asked.operation)),
            validating: about(&self.validating, asked),
        }
    }
}

fn about(shared: &Shared, asked: &Asked<'_>) -> Option<Arc<Set>> {
    let set = shared.read().expect("no code panics under this lock");
    let mut candidates = set.index.candidates(asked.resource.plural).iter();
    let is_about = |at: &usize| set.list[*at].policy.matching.rules_match(asked).is_some();
    candidates.any(is_about).then(|| Arc::clone(&set))
}

fn observe(cache: &Cache, [policies, bindings]: [&'static str; 2]) -> Shared {
    let shared = Shared::default();
    let seen = Arc::new(Mutex::new(Seen::default()));
    for (plural, is_binding) in [(policies, false), (bindings, true)] {
        let (shared, seen) = (shared.clone(), seen.clone());
        let observer = move |change: &Change| {
            let mut seen = seen.lock().expect("no code panics under this lock");
            let name = change.latest().name().to_owned();
            let object = change.object.as_ref();
            if is_binding {
                replace(
                    &mut seen.bindings,
                    name,
                    object.and_then(|o| Binding::read(o)),
                );
            } else {
                replace(&mut seen.policies, name, object.and_then(Policy::read));
            }
            let mut set = shared.write().expect("no code panics under this lock");
            *set = Arc::new(Set::new(&seen));
        };
        cache.observe(ResourceId::named(GROUP, plural), Box::new(observer));
    }
    shared
}

fn replace<T>(map: &mut BTreeMap<String, Arc<T>>, name: String, value: Option<T>) {
    match value {
        Some(value) => map.insert(name, Arc::new(value)),
        None => map.remove(&name),
    };
}

// === impl Concerned ===

impl Concerned {
    pub fn mutates(&self) -> bool {
        self.mutating.is_some()
    }

    pub fn validates(&self) -> bool {
        self.validating.is_some()
    }

    /// The object (complete JSON in the version of the request) as the mutating ones leave it; with
    /// `again` only those are asked that want to see others' changes.
    pub fn mutate(&self, told: &Told<'_>, json: Vec<u8>, again: bool) -> Result<Vec<u8>, Status> {
        match &self.mutating {
            Some(set) => mutate::mutate(set, told, json, again),
            None => Ok(json),
        }
    }

    /// Whether all validating ones allow the request.
    pub fn validate(
        &self,
        told: &Told<'_>,
        object: Option<&[u8]>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(set) = &self.validating else {
            return Ok(());
        };
        let arena = Bump::new();
        let (object, old) = (read(object, &arena)?, read(told.old, &arena)?);
        let objects = Objects {
            object: object.as_ref(),
            old: old.as_ref(),
        };
        validate::validate(set, told, objects, warnings)
    }
}

fn read<'a>(json: Option<&[u8]>, arena: &'a Bump) -> Result<Option<Value<'a>>, Status> {
    let bytes = json.map(|json| arena.alloc_slice_copy(json));
    let value = bytes.map(|bytes| api::codec::parse(Format::Json, bytes, arena));
    value.transpose().map_err(Status::internal)
}

// === impl Set ===

impl Set {
    fn new(seen: &Seen) -> Self {
        let mut by_policy: BTreeMap<&str, Vec<Arc<Binding>>> = BTreeMap::new();
        for binding in seen.bindings.values() {
            let bindings = by_policy.entry(&binding.policy).or_default();
            bindings.push(binding.clone());
        }
        let list: Vec<Bound> = by_policy
            .into_iter()
            .filter_map(|(name, bindings)| {
                let policy = seen.policies.get(name)?.clone();
                Some(Bound { policy, bindings })
            })
            .collect();
        let index = Index::new(list.iter().map(|bound| &bound.policy.matching));
        Self { list, index }
    }

    /// What is to be asked, in order, and what cannot be.
    fn invocations<'i>(
        &'i self,
        told: &Told<'_>,
        objects: Objects<'_, '_>,
    ) -> (Vec<Invocation<'i>>, Vec<Misconfigured>) {
        fn labels<'l>(value: Option<&'l Value<'_>>) -> Option<&'l dyn Labels> {
            value.map(|value| value as &dyn Labels)
        }
        let asked = &Asked {
            object: labels(objects.object),
            old: labels(objects.old),
            ..told.asked()
        };
        let mut invocations = Vec::new();
        let mut wrong = Vec::new();
        let cache = told.call.server.cache();
        for at in self.index.candidates(asked.resource.plural) {
            let Bound { policy, bindings } = &self.list[*at];
            let misconfigured = |binding: Option<&Arc<Binding>>, why: String| Misconfigured {
                policy: policy.clone(),
                binding: binding.cloned(),
                why,
            };
            let resource = match policy.matching.matches(asked, cache) {
                Ok(Some(resource)) => told.row(resource),
                Ok(None) => continue,
                Err(status) => {
                    wrong.push(misconfigured(None, status.message));
                    continue;
                }
            };
            for binding in bindings {
                let matching = binding.matching.as_ref();
                match matching.map(|matching| matching.matches(asked, cache)) {
                    None | Some(Ok(Some(_))) => {}
                    Some(Ok(None)) => continue,
                    Some(Err(status)) => {
                        wrong.push(misconfigured(Some(binding), status.message));
                        continue;
                    }
                }
                match params::of(told, policy, binding) {
                    Ok(params) => invocations.extend(params.into_iter().map(|param| Invocation {
                        policy,
                        binding,
                        resource,
                        param,
                    })),
                    Err(why) => wrong.push(misconfigured(Some(binding), why)),
                }
            }
        }
        (invocations, wrong)
    }
}

// === impl Policy ===

impl Policy {
    /// What is stored was checked; what cannot be read all the same is no policy.
    fn read(object: &Arc<Object>) -> Option<Self> {
        let arena = Bump::new();
        let value = parsed(object, &arena)?;
        let spec = value.get("spec")?;
        let matching = spec
            .get("matchConstraints")
            .and_then(|constraints| read_matching(object, constraints))?;
        let param_kind = spec.get("paramKind").map(|kind| {
            let text = |field| kind.str_of(field).unwrap_or_default().to_owned();
            (text("apiVersion"), text("kind"))
        });
        Some(Self {
            name: object.name().to_owned(),
            matching,
            fails_open: spec.str_of("failurePolicy") == Some("Ignore"),
            param_kind,
            is_asked_again: spec.str_of("reinvocationPolicy") == Some("IfNeeded"),
            object: object.clone(),
            compiled: OnceLock::new(),
        })
    }

    /// Its expressions, compiled when they are first needed; not under the cache's lock.
    fn expressions(&self) -> Result<&Expressions, String> {
        let compiled = self.compiled.get_or_init(|| {
            let arena = Bump::new();
            let value = parsed(&self.object, &arena);
            let spec = value.as_ref().and_then(|value| value.get("spec"));
            let (expressions, problems) = compile(spec.unwrap_or(&Value::Null));
            match problems.first() {
                None => Ok(expressions),
                Some(problem) => Err(format!("spec.{}: {}", problem.field, problem.why)),
            }
        });
        compiled.as_ref().map_err(String::clone)
    }
}

// === impl Binding ===

impl Binding {
    fn read(object: &Object) -> Option<Self> {
        let arena = Bump::new();
        let value = parsed(object, &arena)?;
        let spec = value.get("spec")?;
        let matching = match spec.get("matchResources") {
            Some(resources) => Some(read_matching(object, resources)?),
            None => None,
        };
        let param = spec.get("paramRef").map(|reference| ParamRef {
            name: reference.str_of("name").unwrap_or_default().to_owned(),
            namespace: reference.str_of("namespace").unwrap_or_default().to_owned(),
            selector: reference
                .get("selector")
                .and_then(|selector| LabelSelector::from_value(Some(selector)).ok()),
            must_exist: reference.str_of("parameterNotFoundAction") == Some("Deny"),
        });
        let actions = spec.list_of("validationActions");
        let has = |action| actions.iter().any(|one| one.as_str() == Some(action));
        Some(Self {
            name: object.name().to_owned(),
            policy: spec.str_of("policyName").unwrap_or_default().to_owned(),
            matching,
            param,
            denies: has("Deny"),
            warns: has("Warn"),
        })
    }
}

// === impl Misconfigured ===

impl Misconfigured {
    fn message(&self) -> String {
        let what = match self.binding {
            Some(_) => "binding",
            None => "policy",
        };
        format!("failed to configure {what}: {}", self.why)
    }
}

fn parsed<'a>(object: &Object, arena: &'a Bump) -> Option<Value<'a>> {
    let bytes = arena.alloc_slice_copy(&object.bytes);
    api::codec::parse(Format::Json, bytes, arena).ok()
}

fn read_matching(object: &Object, value: &Value<'_>) -> Option<Matching> {
    let matching = Matching::of_policy(value);
    let name = object.name();
    let matching = matching.inspect_err(|error| tracing::warn!(name, %error, "admission policy"));
    matching.ok()
}

pub use authorize::check as check_params;

/// Whether an operation is one that policies may change objects of.
fn is_mutable(operation: Operation) -> bool {
    matches!(operation, Operation::Create | Operation::Update)
}
