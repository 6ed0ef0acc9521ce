//! The expressions of an admission policy, compiled: what validation reports and what the server
//! evaluates come from here.
//!
//! Port of the compilation in `k8s.io/apiserver/pkg/admission/plugin/policy/{validating,mutating}/plugin.go`
//! and of its checks in `pkg/apis/admissionregistration/validation/validation.go`.

use super::{Environment, Expression, Kind};
use crate::doc::Value;

/// The root that stands for `authorizer.requestResource`.
pub const REQUEST_RESOURCE: &str = "authorizer.requestResource";
/// The field of match conditions.
pub const CONDITIONS: &str = "matchConditions";
/// Longest text of an audit annotation's expression, bytes (maxAuditAnnotationValueExpressionLength).
const MAX_AUDIT_LENGTH: usize = 5 * 1024;

/// All expressions of a ValidatingAdmissionPolicy or a MutatingAdmissionPolicy.
#[derive(Debug, Default)]
pub struct Policy {
    pub conditions: Vec<Expression>,
    pub variables: Vec<Variable>,
    pub validations: Vec<Validation>,
    pub audits: Vec<Expression>,
    pub mutations: Vec<Mutation>,
}

/// A variable for the expressions after it.
#[derive(Debug)]
pub struct Variable {
    pub name: String,
    pub expression: Expression,
}

/// What must hold.
#[derive(Debug)]
pub struct Validation {
    pub expression: Expression,
    pub message: String,
    pub message_expression: Option<Expression>,
    /// `""`: Invalid.
    pub reason: String,
}

/// What is changed.
#[derive(Debug)]
pub enum Mutation {
    /// The fields of an object that is merged in.
    Apply(Expression),
    /// The operations of a JSON patch.
    JsonPatch(Expression),
}

/// An expression that does not compile.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its field below `spec`, for example `variables[0].expression`.
    pub field: String,
    pub source: String,
    pub why: String,
}

/// What expressions about a request may refer to.
pub fn roots(has_params: bool, has_authorizer: bool) -> Vec<&'static str> {
    let mut roots = vec!["object", "oldObject", "request", "namespaceObject"];
    if has_params {
        roots.push("params");
    }
    if has_authorizer {
        roots.extend(["authorizer", REQUEST_RESOURCE]);
    }
    roots
}

/// Compiles the `spec` of a policy. Expressions that are missing are left out.
pub fn compile(spec: &Value<'_>) -> (Policy, Vec<Problem>) {
    let has_params = spec.get("paramKind").is_some();
    let mut compiler = Compiler::new(has_params);
    let conditions = compiler.conditions(spec.list_of(CONDITIONS));
    let variables = compiler.variables(spec.list_of("variables"));
    let policy = Policy {
        conditions,
        variables,
        validations: compiler.validations(spec.list_of("validations")),
        audits: compiler.audits(spec.list_of("auditAnnotations")),
        mutations: compiler.mutations(spec.list_of("mutations")),
    };
    (policy, compiler.problems)
}

struct Compiler {
    has_params: bool,
    names: Vec<String>,
    problems: Vec<Problem>,
}

impl Compiler {
    fn new(has_params: bool) -> Self {
        Self {
            has_params,
            names: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// None, and a problem unless it is only missing.
    fn compile(
        &mut self,
        field: String,
        source: &str,
        environment: &Environment<'_>,
        kinds: &[Kind],
    ) -> Option<Expression> {
        if source.trim().is_empty() {
            return None;
        }
        let compiled = match kinds {
            [] => Expression::compile(source, environment),
            kinds => Expression::compile_to(source, environment, kinds),
        };
        compiled
            .map_err(|why| {
                let source = source.to_owned();
                self.problems.push(Problem { field, source, why });
            })
            .ok()
    }

    /// [`Compiler::compile`] of one that may use the variables so far.
    fn with_variables(
        &mut self,
        field: String,
        source: &str,
        has_authorizer: bool,
        structs: bool,
        kinds: &[Kind],
    ) -> Option<Expression> {
        let mut roots = roots(self.has_params, has_authorizer);
        roots.push("variables");
        let names = self.names.clone();
        let environment = Environment {
            roots: &roots,
            variables: &names,
            structs,
        };
        self.compile(field, source, &environment, kinds)
    }

    fn conditions(&mut self, list: &[Value<'_>]) -> Vec<Expression> {
        let roots = roots(self.has_params, true);
        let environment = Environment {
            roots: &roots,
            variables: &[],
            structs: false,
        };
        let mut conditions = Vec::new();
        for (i, condition) in list.iter().enumerate() {
            let source = condition.str_of("expression").unwrap_or_default().trim();
            let field = format!("{CONDITIONS}[{i}].expression");
            let compiled = self.compile(field, source, &environment, &[Kind::Bool]);
            conditions.extend(compiled);
        }
        conditions
    }

    fn variables(&mut self, list: &[Value<'_>]) -> Vec<Variable> {
        let mut variables = Vec::new();
        for (i, variable) in list.iter().enumerate() {
            let name = variable.str_of("name").unwrap_or_default().to_owned();
            let source = variable.str_of("expression").unwrap_or_default();
            let field = format!("variables[{i}].expression");
            let compiled = self.with_variables(field, source, true, false, &[]);
            // Known from here on even if it does not compile: one error is enough.
            self.names.push(name.clone());
            variables.extend(compiled.map(|expression| Variable { name, expression }));
        }
        variables
    }

    fn validations(&mut self, list: &[Value<'_>]) -> Vec<Validation> {
        let mut validations = Vec::new();
        for (i, validation) in list.iter().enumerate() {
            let text = |field: &str| validation.str_of(field).unwrap_or_default();
            let field = |name: &str| format!("validations[{i}].{name}");
            let source = text("expression");
            let kinds = &[Kind::Bool];
            let expression = self.with_variables(field("expression"), source, true, false, kinds);
            let source = text("messageExpression");
            let kinds = &[Kind::String];
            let message_expression =
                self.with_variables(field("messageExpression"), source, false, false, kinds);
            validations.extend(expression.map(|expression| Validation {
                expression,
                message: text("message").trim().to_owned(),
                message_expression,
                reason: text("reason").to_owned(),
            }));
        }
        validations
    }

    fn audits(&mut self, list: &[Value<'_>]) -> Vec<Expression> {
        let mut audits = Vec::new();
        for (i, annotation) in list.iter().enumerate() {
            let source = annotation
                .str_of("valueExpression")
                .unwrap_or_default()
                .trim();
            let field = format!("auditAnnotations[{i}].valueExpression");
            if source.len() <= MAX_AUDIT_LENGTH {
                let kinds = &[Kind::String, Kind::Null];
                audits.extend(self.with_variables(field, source, true, false, kinds));
            }
        }
        audits
    }

    fn mutations(&mut self, list: &[Value<'_>]) -> Vec<Mutation> {
        let mut mutations = Vec::new();
        for (i, mutation) in list.iter().enumerate() {
            let (name, kind): (_, &[Kind]) = match mutation.str_of("patchType") {
                Some("ApplyConfiguration") => ("applyConfiguration", &[Kind::Map]),
                Some("JSONPatch") => ("jsonPatch", &[Kind::List]),
                _ => continue,
            };
            let patch = mutation.get(name);
            let source = patch.and_then(|patch| patch.str_of("expression"));
            let field = format!("mutations[{i}].{name}.expression");
            let source = source.unwrap_or_default().trim();
            let compiled = self.with_variables(field, source, true, true, kind);
            mutations.extend(compiled.map(match name {
                "jsonPatch" => Mutation::JsonPatch,
                _ => Mutation::Apply,
            }));
        }
        mutations
    }
}

impl Policy {
    /// All its expressions.
    pub fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let variables = self.variables.iter().map(|variable| &variable.expression);
        let validations = self.validations.iter().flat_map(|validation| {
            std::iter::once(&validation.expression).chain(&validation.message_expression)
        });
        let mutations = self.mutations.iter().map(|mutation| match mutation {
            Mutation::Apply(expression) | Mutation::JsonPatch(expression) => expression,
        });
        self.conditions
            .iter()
            .chain(variables)
            .chain(validations)
            .chain(&self.audits)
            .chain(mutations)
    }
}
