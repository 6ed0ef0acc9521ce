//! The functions: `kube-cel`'s, those for authorization, and our own behind names nobody can write.

use std::{cell::Cell, sync::LazyLock};

use kube_cel::{
    KubeCelExt,
    cel::{Context, ExecutionError, Value, common::ast::operators, extractors::This},
};

use super::{authorizer, rewrite::Kind};

/// Counts a round of a loop.
pub const ROUND: &str = "@round";
/// Counts what its argument became.
pub const COUNT: &str = "@count";
/// `+`, counted.
pub const ADD: &str = "@add";
/// `size`, of strings in characters.
pub const SIZE: &str = "@size";
/// What a round of a loop costs.
const ROUND_COST: u64 = 10;

/// Functions whose result may be bigger than all they were given.
pub const GROWING: [&str; 6] = ["format", "replace", "join", "flatten", "quote", "range"];

const OPERATORS: [&str; 21] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::OPT_INDEX,
    operators::OPT_SELECT,
    operators::IN,
    operators::NOT_STRICTLY_FALSE,
];

/// The functions there are: of the specification, of cel-go's extensions and of Kubernetes' libraries
/// (`k8s.io/apiserver/pkg/cel/library`). A registry cannot be asked, so they stand here; a test looks
/// each of them up.
const FUNCTIONS: [&str; 151] = [
    "add",
    "allowed",
    "asApproximateFloat",
    "asInteger",
    "base64.decode",
    "base64.encode",
    "bytes",
    "charAt",
    "check",
    "cidr",
    "compareTo",
    "contains",
    "containsCIDR",
    "containsIP",
    "distinct",
    "double",
    "duration",
    "endsWith",
    "error",
    "errored",
    "family",
    "fieldSelector",
    "find",
    "findAll",
    "first",
    "flatten",
    "format",
    "format.byte",
    "format.date",
    "format.datetime",
    "format.dns1035Label",
    "format.dns1035LabelPrefix",
    "format.dns1123Label",
    "format.dns1123LabelPrefix",
    "format.dns1123Subdomain",
    "format.dns1123SubdomainPrefix",
    "format.labelValue",
    "format.named",
    "format.qualifiedName",
    "format.uri",
    "format.uuid",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getEscapedPath",
    "getFullYear",
    "getHost",
    "getHostname",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getPort",
    "getQuery",
    "getScheme",
    "getSeconds",
    "group",
    "hasValue",
    "indexOf",
    "int",
    "ip",
    "ip.isCanonical",
    "isCIDR",
    "isCIDRv4",
    "isCIDRv6",
    "isGlobalUnicast",
    "isGreaterThan",
    "isIP",
    "isIPv4",
    "isIPv6",
    "isInteger",
    "isLessThan",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isQuantity",
    "isSemver",
    "isSorted",
    "isURL",
    "isUnspecified",
    "join",
    "jsonpatch.escapeKey",
    "labelSelector",
    "last",
    "lastIndexOf",
    "lists.range",
    "lowerAscii",
    "major",
    "masked",
    "matches",
    "math.abs",
    "math.bitAnd",
    "math.bitNot",
    "math.bitOr",
    "math.bitShiftLeft",
    "math.bitShiftRight",
    "math.bitXor",
    "math.ceil",
    "math.floor",
    "math.greatest",
    "math.isFinite",
    "math.isInf",
    "math.isNaN",
    "math.least",
    "math.round",
    "math.sign",
    "math.sqrt",
    "math.trunc",
    "max",
    "min",
    "minor",
    "name",
    "namespace",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "or",
    "orValue",
    "patch",
    "path",
    "prefixLength",
    "quantity",
    "reason",
    "replace",
    "resource",
    "reverse",
    "semver",
    "serviceAccount",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "sign",
    "size",
    "slice",
    "sort",
    "split",
    "startsWith",
    "string",
    "strings.quote",
    "sub",
    "subresource",
    "substring",
    "sum",
    "timestamp",
    "trim",
    "uint",
    "upperAscii",
    "url",
    "validate",
    "value",
];

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// The context that every scope has behind it.
pub fn base() -> &'static Context<'static> {
    static BASE: LazyLock<Context<'static>> = LazyLock::new(|| {
        let mut context = Context::default().with_all();
        context.add_function(ROUND, round);
        context.add_function(COUNT, count);
        context.add_function(ADD, add);
        context.add_function(SIZE, size);
        authorizer::register(&mut context);
        context
    });
    &BASE
}

/// Runs an evaluation that may cost that much.
pub fn with_budget<T>(budget: u64, evaluate: impl FnOnce() -> T) -> T {
    let outer = LEFT.replace(budget);
    let result = evaluate();
    LEFT.set(outer);
    result
}

fn charge(cost: u64) -> Result<(), ExecutionError> {
    match LEFT.get().checked_sub(cost) {
        Some(left) => {
            LEFT.set(left);
            Ok(())
        }
        None => {
            LEFT.set(0);
            let text = "operation cancelled: actual cost limit exceeded";
            Err(ExecutionError::function_error("cost", text))
        }
    }
}

fn charge_size(value: &Value) -> Result<(), ExecutionError> {
    charge(match value {
        Value::String(text) => text.len() as u64,
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::List(list) => list.len() as u64,
        _ => 0,
    })
}

fn round(holds: bool) -> Result<bool, ExecutionError> {
    charge(ROUND_COST)?;
    Ok(holds)
}

fn count(value: Value) -> Result<Value, ExecutionError> {
    charge_size(&value)?;
    Ok(value)
}

fn add(left: Value, right: Value) -> Result<Value, ExecutionError> {
    let sum = (left + right)?;
    charge_size(&sum)?;
    Ok(sum)
}

fn size(This(this): This<Value>) -> Result<i64, ExecutionError> {
    let size = match this {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.map.len(),
        _ => return Err(ExecutionError::NoSuchOverload),
    };
    Ok(size as i64)
}

/// Whether it is an operator's name in a parsed expression.
pub fn is_operator(name: &str) -> bool {
    OPERATORS.contains(&name)
}

/// Whether there is a function or method of that name.
pub fn is_function(name: &str) -> bool {
    FUNCTIONS.binary_search(&name).is_ok()
}

/// Whether functions begin with that name and a dot.
pub fn is_namespace(name: &str) -> bool {
    FUNCTIONS.iter().any(|function| {
        function
            .split_once('.')
            .is_some_and(|(prefix, _)| prefix == name)
    })
}

/// What a function returns, where that does not depend on what it is given.
pub fn result(name: &str) -> Option<Kind> {
    Some(match name {
        "contains" | "startsWith" | "endsWith" | "matches" | "hasValue" | "allowed" | "errored"
        | "sets.contains" | "sets.equivalent" | "sets.intersects" => Kind::Bool,
        name if name.starts_with("is") => Kind::Bool,
        "size" | "int" | "indexOf" | "lastIndexOf" | "compareTo" => Kind::Int,
        "uint" => Kind::Uint,
        "double" => Kind::Double,
        "string"
        | "format"
        | "join"
        | "lowerAscii"
        | "upperAscii"
        | "trim"
        | "substring"
        | "replace"
        | "charAt"
        | "strings.quote"
        | "jsonpatch.escapeKey"
        | "base64.encode" => Kind::String,
        "split" | "findAll" | "lists.range" | "sort" | "distinct" => Kind::List,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_sorted_and_there() {
        assert!(FUNCTIONS.is_sorted());
        for name in FUNCTIONS {
            let called = match name.split_once('.') {
                Some((prefix, function)) => format!("{prefix}.{function}(1)"),
                None => format!("(1).{name}(1)"),
            };
            let program = kube_cel::cel::Program::compile(&called).expect("parses");
            let error = program.execute(&base().new_inner_scope()).err();
            let missing = matches!(
                error,
                Some(ExecutionError::UndeclaredReference(undeclared)) if name.ends_with(undeclared.as_str())
            );
            assert!(!missing, "{name} is not registered");
        }
    }
}
