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

pub(super) fn register(context: &mut Context<'_>) {
    context.add_function(
        "path",
        |This(this): This<Value>, path: Arc<String>| -> Answer {
            next(&this, &[Step::Authorizer], Step::Path, |q| {
                q.access.path = Some(path.to_string());
            })
        },
    );
    context.add_function(
        "group",
        |This(this): This<Value>, group: Arc<String>| -> Answer {
            next(&this, &[Step::Authorizer], Step::Group, |q| {
                q.access.group = group.to_string();
            })
        },
    );
    context.add_function(
        "serviceAccount",
        |This(this): This<Value>, namespace: Arc<String>, name: Arc<String>| -> Answer {
            next(&this, &[Step::Authorizer], Step::Authorizer, |q| {
                q.subject = Subject::ServiceAccount {
                    namespace: namespace.to_string(),
                    name: name.to_string(),
                };
            })
        },
    );
    context.add_function(
        "resource",
        |This(this): This<Value>, resource: Arc<String>| -> Answer {
            next(&this, &[Step::Group], Step::Resource, |q| {
                q.access.resource = resource.to_string();
            })
        },
    );
    let same = [Step::Resource];
    context.add_function(
        "subresource",
        move |This(this): This<Value>, text: Arc<String>| -> Answer {
            next(&this, &same, Step::Resource, |q| {
                q.access.subresource = text.to_string()
            })
        },
    );
    context.add_function(
        "namespace",
        move |This(this): This<Value>, text: Arc<String>| -> Answer {
            next(&this, &same, Step::Resource, |q| {
                q.access.namespace = text.to_string()
            })
        },
    );
    context.add_function(
        "name",
        move |This(this): This<Value>, text: Arc<String>| -> Answer {
            next(&this, &same, Step::Resource, |q| {
                q.access.name = text.to_string()
            })
        },
    );
    for selector in ["fieldSelector", "labelSelector"] {
        context.add_function(
            selector,
            move |This(this): This<Value>, _: Arc<String>| -> Answer {
                next(&this, &same, Step::Resource, |_| ())
            },
        );
    }
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

fn next(this: &Value, from: &[Step], to: Step, change: impl FnOnce(&mut Question)) -> Answer {
    let mut question = opaque::<Question>(this)
        .filter(|question| from.contains(&question.step))
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
