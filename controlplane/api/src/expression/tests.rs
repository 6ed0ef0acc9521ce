//! What expressions compile to and evaluate to.

use super::*;
use serde_json::json;

const ROOTS: [&str; 3] = ["object", "oldObject", "variables"];

fn environment(variables: &[String]) -> Environment<'_> {
    Environment {
        roots: &ROOTS,
        variables,
        structs: true,
    }
}

fn compile(source: &str) -> Result<Expression, String> {
    Expression::compile(source, &environment(&[]))
}

fn scope() -> Scope {
    let mut scope = Scope::new();
    let object = json!({
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"replicas": 3, "ratio": 0.5, "containers": [
            {"name": "a", "image": "x/a:1"}, {"name": "b", "image": "x/b:2"}]},
    });
    scope.bind("object", from_json(&object));
    scope.bind("oldObject", Value::Null);
    scope
}

fn evaluate(source: &str) -> Result<Value, String> {
    compile(source)?.evaluate(&scope())
}

#[test]
fn conditions() {
    let cases = [
        ("object.spec.replicas > 1", true),
        ("object.metadata.namespace == 'shop'", true),
        (
            "has(object.metadata.labels) && 'app' in object.metadata.labels",
            true,
        ),
        ("has(object.spec.paused)", false),
        ("object.?spec.?missing.?deeper.orValue(7) == 7", true),
        ("object.?spec.?replicas.orValue(7) == 3", true),
        (
            "object.spec.containers.all(c, c.image.startsWith('x/'))",
            true,
        ),
        ("object.spec.containers.exists(c, c.name == 'b')", true),
        ("object.spec.containers.exists_one(c, c.name == 'z')", false),
        ("object.spec.containers.map(c, c.name) == ['a', 'b']", true),
        (
            "object.spec.containers.filter(c, c.name != 'a').size() == 1",
            true,
        ),
        ("cel.bind(n, object.spec.replicas, n * n == 9)", true),
        ("size('häß') == 3 && 'häß'.size() == 3", true),
        ("oldObject == null || oldObject.spec.replicas > 9", true),
        ("quantity('1Gi').isGreaterThan(quantity('500Mi'))", true),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3')", true),
        ("'a,b'.split(',').join('-') == 'a-b'", true),
        ("'%s has %d'.format(['web', 3]) == 'web has 3'", true),
        ("object.metadata.labels.app.matches('^w.b$')", true),
        ("object.spec.replicas in [1, 2, 3]", true),
        (
            "[1, 2].map(a, [10, 20].map(b, a + b)) == [[11, 21], [12, 22]]",
            true,
        ),
    ];
    for (source, expected) in cases {
        let expression = compile(source).unwrap_or_else(|e| panic!("{source}: {e}"));
        let holds = expression
            .holds(&scope())
            .unwrap_or_else(|e| panic!("{source}: {e}"));
        assert_eq!(holds, expected, "{source}");
    }
}

#[test]
fn errors_while_evaluating() {
    let cases = [
        ("object.spec.missing > 1", "no such key: missing"),
        ("oldObject.spec == 1", "no such overload"),
        ("has(oldObject.spec)", "no such overload"),
        ("object.spec.replicas.deeper == 1", "no such overload"),
        ("'wants ' + object.spec.replicas", "no such overload"),
        ("object.spec.replicas / 0", "division by zero"),
        ("object.spec.containers[7].name", "index out of bounds: 7"),
    ];
    for (source, expected) in cases {
        assert_eq!(
            evaluate(source).err().as_deref(),
            Some(expected),
            "{source}"
        );
    }
}

#[test]
fn errors_while_compiling() {
    let cases = [
        (
            "... [] bad",
            "compilation failed: ERROR: <input>:1:2: Syntax error",
        ),
        ("object.x &&", "Syntax error"),
        (
            "missing.x == 1",
            "<input>:1:1: undeclared reference to 'missing' (in container '')\n | missing.x",
        ),
        ("object.x.nothing(1)", "undeclared reference to 'nothing'"),
        (
            "sets.nothing([1])",
            "undeclared reference to 'sets.nothing'",
        ),
        ("[1].all(x, y > 0)", "undeclared reference to 'y'"),
        ("[1].all(x, x > 0) && x > 0", "undeclared reference to 'x'"),
        (
            "'1' > 1",
            "found no matching overload for '_>_' applied to '(string, int)'",
        ),
        (
            "1 + 'a'",
            "found no matching overload for '_+_' applied to '(int, string)'",
        ),
        ("object && 'a'", "found no matching overload for '_&&_'"),
        ("variables.none", "undefined field 'none'"),
        ("Thing{a: 1}", "undeclared reference to 'Thing'"),
    ];
    for (source, expected) in cases {
        let error = compile(source)
            .err()
            .unwrap_or_else(|| panic!("{source} compiles"));
        assert!(error.contains(expected), "{source}: {error}");
    }
    let error = Expression::compile_to("1 + 2", &environment(&[]), &[Kind::Bool]).err();
    assert_eq!(error.as_deref(), Some("must evaluate to bool"));
    assert!(Expression::compile_to("object.spec", &environment(&[]), &[Kind::Bool]).is_ok());
}

#[test]
fn variables_are_evaluated_once_and_their_errors_told_where_they_are_needed() {
    let names = ["good".to_owned(), "bad".to_owned()];
    let compile =
        |source: &str| Expression::compile(source, &environment(&names)).expect("compiles");
    let mut scope = scope();
    scope.bind_variable("good", &compile("object.spec.replicas"));
    scope.bind_variable("bad", &compile("object.spec.missing"));
    let both = compile("variables.good > 1 || variables.bad");
    assert_eq!(both.variables().collect::<Vec<_>>(), ["bad", "good"]);
    assert_eq!(both.holds(&scope), Ok(true));
    let error = compile("variables.good > 5 || variables.bad").holds(&scope);
    let expected = "composited variable \"bad\" fails to evaluate: no such key: missing";
    assert_eq!(error, Err(expected.to_owned()));
    assert_eq!(compile("has(variables.bad)").holds(&scope), Ok(true));
}

#[test]
fn objects_are_made() {
    let source = "Object{metadata: Object.metadata{annotations: {'a/b': 'c'}}, spec: Object.spec{\
                  ?replicas: object.?spec.?none}}";
    let arena = bumpalo::Bump::new();
    let value = evaluate(source).expect("evaluates");
    let value = into_value(&value, &arena).expect("JSON has a form for it");
    let doc = crate::Doc::from_value(value, &crate::Type::Any, &arena);
    let json = String::from_utf8(crate::canonical(&doc)).expect("text");
    assert_eq!(
        json,
        r#"{"metadata":{"annotations":{"a/b":"c"}},"spec":{}}"#
    );
}

#[test]
fn what_costs_too_much_is_ended() {
    let cases = [
        "lists.range(2000).all(a, lists.range(2000).all(b, a + b >= 0))",
        // Each doubles the text: 2^40 characters.
        &{
            let mut source = "x".to_owned();
            for _ in 0..40 {
                source = format!("cel.bind(x, x + x, {source})");
            }
            format!("cel.bind(x, 'ab', {source}) != ''")
        },
        "'aaaaaaaaaa'.replace('a', 'aaaaaaaaaa').replace('a', 'aaaaaaaaaa').replace('a', 'aaaaaaaaaa')\
         .replace('a', 'aaaaaaaaaa').replace('a', 'aaaaaaaaaa').replace('a', 'aaaaaaaaaa') != ''",
    ];
    for source in cases {
        let error = evaluate(source).err();
        assert_eq!(
            error.as_deref(),
            Some("operation cancelled: actual cost limit exceeded"),
            "{source}"
        );
    }
    assert!(evaluate("lists.range(1000).all(a, a >= 0)").is_ok());
}

#[test]
fn nesting_has_a_limit_and_no_input_panics() {
    let deep = format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(compile(&deep).is_err());
    let nested = format!("{}1{} == 1", "(".repeat(200), ")".repeat(200));
    assert_eq!(
        compile(&nested).expect("compiles").holds(&scope()),
        Ok(true)
    );
    let chain = vec!["1"; 400].join(" + ");
    assert_eq!(evaluate(&chain), Ok(Value::Int(400)));
    assert!(compile(&vec!["1"; 2000].join("+")).is_err());
    assert!(compile(&vec!["1"; 9000].join("+")).is_err());
    let long = vec!["true"; 3000].join(" && ");
    assert_eq!(evaluate(&long), Ok(Value::Bool(true)));
    assert!(compile(&"a".repeat(MAX_LENGTH + 1)).is_err());
    for source in [
        "",
        "{",
        "[1,",
        "object.?",
        "JSONPatch{",
        "has(1)",
        "[].map(1, 2)",
        "\u{0}",
        "'\\",
        "a.b{c:1}",
    ] {
        assert!(compile(source).is_err(), "{source}");
    }
}
