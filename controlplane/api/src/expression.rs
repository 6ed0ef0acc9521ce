//! CEL expressions of admission policies, match conditions and their like: compiled once, evaluated
//! over documents.
//!
//! `kube-cel` has the parser, the interpreter and Kubernetes' function libraries. Between parsing and
//! evaluation stands [`rewrite`]: undeclared names are found before anything runs, what the interpreter
//! does not do as CEL's specification says is expressed by what it does, and every loop and every
//! function that makes something bigger is counted against [`BUDGET`].
//! Port of the contract of `k8s.io/apiserver/pkg/cel/environment` and `pkg/admission/plugin/cel`;
//! not there: comprehensions over two variables, `sortBy`, `type()`, types of fields at compile time.

pub mod authorizer;
mod library;
pub mod policy;
mod rewrite;
#[cfg(test)]
mod tests;
mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use kube_cel::cel::{Context, ExecutionError, parser::Parser};

pub use kube_cel::cel::{Value, objects::Key};
pub use rewrite::Kind;
pub use value::{from_json, from_value, into_value};

/// What one evaluation may cost: ten for a round of a loop, and the length of what `+` and functions
/// that make something bigger return. About a hundred thousand rounds, as with upstream's limit per
/// call (PerCallLimit).
pub const BUDGET: u64 = 1_000_000;
/// Longest expression, bytes (upstream: the size of an object alone is a limit).
pub const MAX_LENGTH: usize = 64 << 10;
/// Most operators of an expression: a chain of them is a nesting that the parser does not count.
pub const MAX_OPERATORS: usize = 4096;
/// Deepest nesting of brackets, as cel-go's parser has it.
const MAX_BRACKETS: u16 = 250;
/// Deepest nesting of what was parsed.
const MAX_DEPTH: usize = 512;
/// Stack of a compilation, bytes: the generated parser takes some 100 KiB for a bracket when it is not
/// optimized. It is mapped, not filled.
const COMPILE_STACK: usize = 128 << 20;
/// Stack of an evaluation for each level of the expression, bytes.
const LEVEL_STACK: usize = 32 << 10;
/// Variables of a policy are known under this prefix.
const VARIABLES: &str = "variables.";

/// What an expression may refer to.
#[derive(Clone, Copy, Debug)]
pub struct Environment<'e> {
    /// Roots such as `object`.
    pub roots: &'e [&'e str],
    /// Names of variables declared before, as `variables.NAME`.
    pub variables: &'e [String],
    /// Whether `Object{…}` and `JSONPatch{…}` can be made.
    pub structs: bool,
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    source: Box<str>,
    tree: kube_cel::cel::parser::Expression,
    /// What an evaluation may take of the stack, bytes.
    stack: usize,
    kind: Option<Kind>,
    roots: BTreeSet<String>,
    variables: BTreeSet<String>,
}

/// What the names of an expression stand for.
pub struct Scope {
    context: Context<'static>,
    /// Variables that could not be evaluated, and why.
    failed: BTreeMap<String, String>,
}

impl Expression {
    /// Compiles; the error is the reason without the expression itself.
    pub fn compile(source: &str, environment: &Environment<'_>) -> Result<Expression, String> {
        if source.len() > MAX_LENGTH {
            return Err(format!("must not be longer than {MAX_LENGTH} bytes"));
        }
        let is_operator = |c: &u8| b"+-*/%<>=!.[?".contains(c);
        if source.bytes().filter(is_operator).count() > MAX_OPERATORS {
            return Err(format!("must not have more than {MAX_OPERATORS} operators"));
        }
        let rewritten = stacker::grow(COMPILE_STACK, || {
            let parsed = Parser::new()
                .max_recursion_depth(MAX_BRACKETS)
                .enable_optional_syntax(true)
                .parse(source)
                .map_err(|errors| format!("compilation failed: {errors}"))?;
            rewrite::rewrite(parsed, source, environment)
        })?;
        Ok(Expression {
            source: source.into(),
            tree: rewritten.tree,
            stack: (rewritten.depth + 1) * LEVEL_STACK,
            kind: rewritten.kind,
            roots: rewritten.roots,
            variables: rewritten.variables,
        })
    }

    /// [`Expression::compile`] of one whose result must be of one of these kinds.
    pub fn compile_to(
        source: &str,
        environment: &Environment<'_>,
        kinds: &[Kind],
    ) -> Result<Expression, String> {
        let expression = Expression::compile(source, environment)?;
        match expression.kind {
            Some(kind) if !kinds.contains(&kind) => {
                let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
                Err(format!("must evaluate to {}", names.join(" or ")))
            }
            _ => Ok(expression),
        }
    }

    /// The text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The roots it refers to.
    pub fn roots(&self) -> impl Iterator<Item = &str> {
        self.roots.iter().map(String::as_str)
    }

    /// The variables it refers to, without their prefix.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(String::as_str)
    }

    /// Evaluates; the error is the reason without the expression itself.
    pub fn evaluate(&self, scope: &Scope) -> Result<Value, String> {
        stacker::maybe_grow(self.stack, 2 * self.stack, || {
            library::with_budget(BUDGET, || scope.context.resolve(&self.tree))
        })
        .map_err(|error| scope.explain(&error))
    }

    /// [`Expression::evaluate`] of one that is a condition.
    pub fn holds(&self, scope: &Scope) -> Result<bool, String> {
        match self.evaluate(scope)? {
            Value::Bool(holds) => Ok(holds),
            _ => Err("cel expression evaluates to a value that is not a bool".into()),
        }
    }

    /// Whether all conditions hold. One that does not is enough, whatever the others come to
    /// (`k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions/matcher.go`).
    pub fn all_hold(conditions: &[Expression], scope: &Scope) -> Result<bool, String> {
        let mut errors = Vec::new();
        for condition in conditions {
            match condition.holds(scope) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => errors.push(condition.failed(&why)),
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            several => Err(format!("[{}]", several.join(", "))),
        }
    }

    /// An evaluation that came to an error, in upstream's words.
    pub fn failed(&self, why: &str) -> String {
        format!("expression '{}' resulted in error: {why}", self.source)
    }
}

impl Scope {
    /// A scope with the libraries alone.
    pub fn new() -> Scope {
        Scope {
            context: library::base().new_inner_scope(),
            failed: BTreeMap::new(),
        }
    }

    /// Says what a root stands for.
    pub fn bind(&mut self, root: &str, value: Value) {
        self.context.add_variable_from_value(root, value);
    }

    /// Evaluates a variable and says that it stands for that. An error is told by the expressions that
    /// need it.
    pub fn bind_variable(&mut self, name: &str, expression: &Expression) {
        match expression.evaluate(self) {
            Ok(value) => self
                .context
                .add_variable_from_value(format!("{VARIABLES}{name}"), value),
            Err(why) => {
                self.failed.insert(name.to_owned(), why);
            }
        }
    }

    /// An error of the interpreter in the words of upstream's.
    fn explain(&self, error: &ExecutionError) -> String {
        match error {
            ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
            ExecutionError::NoSuchOverload | ExecutionError::UnsupportedBinaryOperator(..) => {
                "no such overload".into()
            }
            ExecutionError::DivisionByZero(_) => "division by zero".into(),
            ExecutionError::RemainderByZero(_) => "modulus by zero".into(),
            ExecutionError::Overflow(..) => "return error for overflow".into(),
            ExecutionError::FunctionError { message, .. } => message.clone(),
            ExecutionError::UndeclaredReference(name) => {
                let failed = name
                    .strip_prefix(VARIABLES)
                    .and_then(|name| Some((name, self.failed.get(name)?)));
                match failed {
                    Some((name, why)) => {
                        format!("composited variable \"{name}\" fails to evaluate: {why}")
                    }
                    None => format!("no such attribute(s): {name}"),
                }
            }
            // The others print values; their kind is enough.
            ExecutionError::UnexpectedType { got, want } => {
                format!("unexpected type {got}, want {want}")
            }
            ExecutionError::IndexOutOfBounds(Value::Int(index)) => {
                format!("index out of bounds: {index}")
            }
            ExecutionError::InvalidArgumentCount { expected, actual } => {
                format!("expected {expected} arguments, got {actual}")
            }
            _ => "no such overload".into(),
        }
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
