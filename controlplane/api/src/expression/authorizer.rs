//! `authorizer`: what a policy asks of the authorization of the request's user, or of a service account.
//!
//! Port of `k8s.io/apiserver/pkg/cel/library/authz.go`; selectors of fields and labels are not looked at.

use std::{fmt, sync::Arc};

use kube_cel::cel::{Context, ExecutionError, Value, extractors::This, objects::Opaque};

/// Whose access is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The user of the request.
    Requester,
    ServiceAccount {
        namespace: String,
        name: String,
    },
}

/// What access is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    pub verb: String,
    /// Of a request that is not for a resource.
    pub path: Option<String>,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

/// The answer to an [`Access`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    pub error: String,
}

/// Answers them.
pub trait Authorize: Send + Sync {
    fn decide(&self, subject: &Subject, access: &Access) -> Decision;
}

/// A question that is not complete yet.
#[derive(Clone)]
struct Question {
    authorize: Arc<dyn Authorize>,
    subject: Subject,
    access: Access,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Authorizer,
    Path,
    Group,
    Resource,
}

impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        (&self.subject, &self.access, self.step) == (&other.subject, &other.access, other.step)
    }
}

impl Eq for Question {}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?}", self.access, self.subject)
    }
}

impl Opaque for Question {
    fn runtime_type_name(&self) -> &str {
        match self.step {
            Step::Authorizer => "kubernetes.authorization.Authorizer",
            Step::Path => "kubernetes.authorization.PathCheck",
            Step::Group => "kubernetes.authorization.GroupCheck",
            Step::Resource => "kubernetes.authorization.ResourceCheck",
        }
    }
}

impl Opaque for Decision {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.authorization.Decision"
    }
}

type Answer<T = Value> = Result<T, ExecutionError>;

/// The value of `authorizer`.
pub fn authorizer(authorize: Arc<dyn Authorize>) -> Value {
    question(authorize, Access::default(), Step::Authorizer)
}

/// The value of `authorizer.requestResource`, known as `REQUEST_RESOURCE` in a scope.
pub fn resource(authorize: Arc<dyn Authorize>, access: Access) -> Value {
    question(authorize, access, Step::Resource)
}

fn question(authorize: Arc<dyn Authorize>, access: Access, step: Step) -> Value {
    Value::Opaque(Arc::new(Question {
        authorize,
        subject: Subject::Requester,
        access,
        step,
    }))
}

/// A function that makes a question more precise: its name, where it may stand, where it leads, and what
/// its argument is.
type Refinement = (&'static str, Step, Step, fn(&mut Access, String));

const REFINEMENTS: [Refinement; 8] = [
    ("path", Step::Authorizer, Step::Path, |access, text| {
        access.path = Some(text);
    }),
    ("group", Step::Authorizer, Step::Group, |access, text| {
        access.group = text;
    }),
    ("resource", Step::Group, Step::Resource, |access, text| {
        access.resource = text;
    }),
    (
        "subresource",
        Step::Resource,
        Step::Resource,
        |access, text| {
            access.subresource = text;
        },
    ),
    (
        "namespace",
        Step::Resource,
        Step::Resource,
        |access, text| {
            access.namespace = text;
        },
    ),
    ("name", Step::Resource, Step::Resource, |access, text| {
        access.name = text;
    }),
    ("fieldSelector", Step::Resource, Step::Resource, |_, _| ()),
    ("labelSelector", Step::Resource, Step::Resource, |_, _| ()),
];

pub(super) fn register(context: &mut Context<'_>) {
    for (name, from, to, refine) in REFINEMENTS {
        let function = move |This(this): This<Value>, text: Arc<String>| -> Answer {
            next(&this, from, to, |question| {
                refine(&mut question.access, text.to_string());
            })
        };
        context.add_function(name, function);
    }
    context.add_function(
        "serviceAccount",
        |This(this): This<Value>, namespace: Arc<String>, name: Arc<String>| -> Answer {
            next(&this, Step::Authorizer, Step::Authorizer, |question| {
                question.subject = Subject::ServiceAccount {
                    namespace: namespace.to_string(),
                    name: name.to_string(),
                };
            })
        },
    );
    context.add_function("check", check);
    context.add_function("allowed", |This(this): This<Value>| -> Answer<bool> {
        decision(&this).map(|decision| decision.allowed)
    });
    context.add_function("errored", |This(this): This<Value>| -> Answer<bool> {
        decision(&this).map(|decision| !decision.error.is_empty())
    });
    context.add_function("reason", |This(this): This<Value>| -> Answer {
        decision(&this).map(|decision| text(&decision.reason))
    });
    context.add_function("error", |This(this): This<Value>| -> Answer {
        decision(&this).map(|decision| text(&decision.error))
    });
}

fn check(This(this): This<Value>, verb: Arc<String>) -> Answer {
    let question = opaque::<Question>(&this)
        .filter(|question| matches!(question.step, Step::Path | Step::Resource))
        .ok_or(ExecutionError::NoSuchOverload)?;
    let access = Access {
        verb: verb.to_string(),
        ..question.access.clone()
    };
    let decision = question.authorize.decide(&question.subject, &access);
    Ok(Value::Opaque(Arc::new(decision)))
}

fn next(this: &Value, from: Step, to: Step, change: impl FnOnce(&mut Question)) -> Answer {
    let mut question = opaque::<Question>(this)
        .filter(|question| from == question.step)
        .ok_or(ExecutionError::NoSuchOverload)?
        .clone();
    question.step = to;
    change(&mut question);
    Ok(Value::Opaque(Arc::new(question)))
}

fn decision(this: &Value) -> Answer<&Decision> {
    opaque(this).ok_or(ExecutionError::NoSuchOverload)
}

fn opaque<T: 'static>(value: &Value) -> Option<&T> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref(),
        _ => None,
    }
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}
