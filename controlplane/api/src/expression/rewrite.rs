//! What happens to a parsed expression before it is kept: names are looked up, its kind is inferred,
//! and operators become what the interpreter evaluates as the specification says.
//!
//! - `a.b` is `a["b"]` (the interpreter's field selection copies, and is `false` on what has no fields),
//!   `has(a.b)` is `"b" in a`, `a.?b` is `a[?"b"]`;
//! - `variables.x` is one name, bound when it is needed;
//! - `Object{…}` and `JSONPatch{…}` are maps;
//! - `cel.bind(x, init, body)` is a loop without a round, as in cel-go (`ext/bindings.go`);
//! - rounds of loops and what makes values bigger are counted (`library`).

use std::collections::BTreeSet;

use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, LiteralValue,
    MapEntryExpr, SelectExpr, StructExpr, operators,
};

use super::{Environment, MAX_DEPTH, VARIABLES, library};

/// The root of a policy's variables.
const VARIABLES_ROOT: &str = "variables";

/// What an expression evaluates to, where that can be told from the expression alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    List,
    Map,
}

/// A rewritten expression.
pub struct Rewritten {
    pub tree: IdedExpr,
    pub kind: Option<Kind>,
    /// Its deepest nesting.
    pub depth: usize,
    pub roots: BTreeSet<String>,
    pub variables: BTreeSet<String>,
}

struct Rewriter<'r> {
    source: &'r str,
    environment: &'r Environment<'r>,
    /// Names that loops declare, the innermost last.
    local: Vec<(String, Option<Kind>)>,
    depth: usize,
    deepest: usize,
    roots: BTreeSet<String>,
    variables: BTreeSet<String>,
}

type Step = Result<(IdedExpr, Option<Kind>), String>;

/// Rewrites a parsed expression; the error is as of a compilation.
pub fn rewrite(
    parsed: IdedExpr,
    source: &str,
    environment: &Environment<'_>,
) -> Result<Rewritten, String> {
    let mut rewriter = Rewriter {
        source,
        environment,
        local: Vec::new(),
        depth: 0,
        deepest: 0,
        roots: BTreeSet::new(),
        variables: BTreeSet::new(),
    };
    let (tree, kind) = rewriter.expr(parsed)?;
    Ok(Rewritten {
        tree,
        kind,
        depth: rewriter.deepest,
        roots: rewriter.roots,
        variables: rewriter.variables,
    })
}

impl Kind {
    /// Its name in CEL.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Null => "null_type",
            Kind::Bool => "bool",
            Kind::Int => "int",
            Kind::Uint => "uint",
            Kind::Double => "double",
            Kind::String => "string",
            Kind::Bytes => "bytes",
            Kind::List => "list",
            Kind::Map => "map",
        }
    }

    fn of(literal: &LiteralValue) -> Kind {
        match literal {
            LiteralValue::Boolean(_) => Kind::Bool,
            LiteralValue::Bytes(_) => Kind::Bytes,
            LiteralValue::Double(_) => Kind::Double,
            LiteralValue::Int(_) => Kind::Int,
            LiteralValue::Null => Kind::Null,
            LiteralValue::String(_) => Kind::String,
            LiteralValue::UInt(_) => Kind::Uint,
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Kind::Int | Kind::Uint | Kind::Double)
    }
}

impl Rewriter<'_> {
    fn expr(&mut self, ided: IdedExpr) -> Step {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        if self.depth > MAX_DEPTH {
            return Err(format!("must not be nested deeper than {MAX_DEPTH}"));
        }
        let step = self.level(ided);
        self.depth -= 1;
        step
    }

    fn level(&mut self, ided: IdedExpr) -> Step {
        let id = ided.id;
        let (expr, kind) = match ided.expr {
            Expr::Literal(literal) => {
                let kind = Kind::of(&literal);
                (Expr::Literal(literal), Some(kind))
            }
            Expr::Ident(name) => return self.ident(id, name),
            Expr::Select(select) => return self.select(id, select),
            Expr::Call(call) => return self.call(id, call),
            Expr::List(list) => (Expr::List(self.list(list)?), Some(Kind::List)),
            Expr::Map(mut map) => {
                map.entries = map
                    .entries
                    .into_iter()
                    .map(|entry| self.entry(entry))
                    .collect::<Result<_, _>>()?;
                (Expr::Map(map), Some(Kind::Map))
            }
            Expr::Struct(made) => (self.made(made)?, Some(Kind::Map)),
            Expr::Comprehension(comprehension) => return self.comprehension(id, *comprehension),
            Expr::Unspecified => return Err(self.error("", "unspecified expression")),
        };
        Ok((IdedExpr { id, expr }, kind))
    }

    fn ident(&mut self, id: u64, name: String) -> Step {
        let local = self.local.iter().rev().find(|(local, _)| *local == name);
        let kind = match local {
            Some((_, kind)) => *kind,
            None if self.environment.roots.contains(&name.as_str()) => {
                self.roots.insert(name.clone());
                None
            }
            None => return Err(self.undeclared(&name)),
        };
        let expr = Expr::Ident(name);
        Ok((IdedExpr { id, expr }, kind))
    }

    fn select(&mut self, id: u64, select: SelectExpr) -> Step {
        let SelectExpr {
            operand,
            field,
            test,
        } = select;
        if self.is_variables(&operand) {
            if !self.environment.variables.contains(&field) {
                return Err(self.error(&field, &format!("undefined field '{field}'")));
            }
            self.variables.insert(field.clone());
            let expr = match test {
                true => Expr::Literal(LiteralValue::Boolean(true.into())),
                false => Expr::Ident(format!("{VARIABLES}{field}")),
            };
            return Ok((IdedExpr { id, expr }, test.then_some(Kind::Bool)));
        }
        if let Some(root) = self.dotted(&operand, &field) {
            self.roots.insert(root.clone());
            let expr = Expr::Ident(root);
            return Ok((IdedExpr { id, expr }, None));
        }
        let (operand, kind) = self.expr(*operand)?;
        if let Some(kind) = kind.filter(|kind| !matches!(kind, Kind::Map)) {
            let text = format!("type '{}' does not support field selection", kind.name());
            return Err(self.error(&field, &text));
        }
        let key = text(id, &field);
        Ok(match test {
            true => (
                call(id, operators::IN, vec![key, operand]),
                Some(Kind::Bool),
            ),
            false => (call(id, operators::INDEX, vec![operand, key]), None),
        })
    }

    /// The root whose name is both names, such as `authorizer.requestResource`.
    fn dotted(&self, operand: &IdedExpr, field: &str) -> Option<String> {
        let Expr::Ident(name) = &operand.expr else {
            return None;
        };
        let dotted = format!("{name}.{field}");
        let is_root = self.environment.roots.contains(&dotted.as_str());
        let is_hidden = self.local.iter().any(|(local, _)| local == name);
        (is_root && !is_hidden).then_some(dotted)
    }

    fn is_variables(&self, operand: &IdedExpr) -> bool {
        matches!(&operand.expr, Expr::Ident(name) if name == VARIABLES_ROOT)
            && self.environment.roots.contains(&VARIABLES_ROOT)
            && !self.local.iter().any(|(local, _)| local == VARIABLES_ROOT)
    }

    fn call(&mut self, id: u64, called: CallExpr) -> Step {
        let CallExpr {
            func_name,
            target,
            args,
        } = called;
        if let Some(target) = &target
            && let Expr::Ident(prefix) = &target.expr
            && !self.is_declared(prefix)
        {
            let qualified = format!("{prefix}.{func_name}");
            if qualified == "cel.bind" {
                return self.bind(id, args);
            }
            if !library::is_function(&qualified) {
                let known = library::is_namespace(prefix);
                let name = if known { &qualified } else { prefix };
                return Err(self.undeclared(name));
            }
            let (args, _) = self.exprs(args)?;
            let expr = Expr::Call(CallExpr {
                func_name: func_name.clone(),
                target: Some(target.clone()),
                args,
            });
            let kind = library::result(&qualified);
            return Ok((self.counted(id, &func_name, expr), kind));
        }
        let is_operator = target.is_none() && library::is_operator(&func_name);
        if !is_operator && !library::is_function(&func_name) {
            return Err(self.undeclared(&func_name));
        }
        let target = match target {
            Some(target) => Some(Box::new(self.expr(*target)?.0)),
            None => None,
        };
        let (args, kinds) = self.exprs(args)?;
        if is_operator {
            return self.operator(id, &func_name, args, &kinds);
        }
        let kind = library::result(&func_name);
        let func_name = match func_name.as_str() {
            "size" => library::SIZE.to_owned(),
            _ => func_name,
        };
        let expr = Expr::Call(CallExpr {
            func_name: func_name.clone(),
            target,
            args,
        });
        Ok((self.counted(id, &func_name, expr), kind))
    }

    /// The call, counted when its result may be bigger than what it was given.
    fn counted(&self, id: u64, function: &str, expr: Expr) -> IdedExpr {
        let called = IdedExpr { id, expr };
        if library::GROWING.contains(&function) {
            return call(id, library::COUNT, vec![called]);
        }
        called
    }

    fn operator(
        &mut self,
        id: u64,
        operator: &str,
        args: Vec<IdedExpr>,
        kinds: &[Option<Kind>],
    ) -> Step {
        let kind = of_operator(operator, kinds).map_err(|NoOverload| {
            let names: Vec<&str> = kinds.iter().map(|k| k.map_or("dyn", Kind::name)).collect();
            let names = names.join(", ");
            let text =
                format!("found no matching overload for '{operator}' applied to '({names})'");
            self.error("", &text)
        })?;
        let evaluated = match operator {
            operators::ADD => library::ADD,
            // The interpreter fails where a field is absent; its index does not.
            operators::OPT_SELECT => operators::OPT_INDEX,
            operator => operator,
        };
        Ok((call(id, evaluated, args), kind))
    }

    fn bind(&mut self, id: u64, args: Vec<IdedExpr>) -> Step {
        let Ok([name, init, body]) = <[IdedExpr; 3]>::try_from(args) else {
            return Err(self.error("cel.bind", "cel.bind() takes a name, a value and a result"));
        };
        let Expr::Ident(name) = name.expr else {
            return Err(self.error(
                "cel.bind",
                "cel.bind() variable names must be simple identifiers",
            ));
        };
        let (init, kind) = self.expr(init)?;
        self.local.push((name.clone(), kind));
        let body = self.expr(body);
        self.local.pop();
        let (result, kind) = body?;
        let comprehension = ComprehensionExpr {
            iter_range: IdedExpr {
                id,
                expr: Expr::List(ListExpr::new(Vec::new())),
            },
            iter_var: "#unused".into(),
            iter_var2: None,
            accu_var: name.clone(),
            accu_init: init,
            loop_cond: literal(id, false),
            loop_step: IdedExpr {
                id,
                expr: Expr::Ident(name),
            },
            result,
        };
        let expr = Expr::Comprehension(Box::new(comprehension));
        Ok((IdedExpr { id, expr }, kind))
    }

    fn comprehension(&mut self, id: u64, loops: ComprehensionExpr) -> Step {
        if loops.iter_var2.is_some() {
            return Err(self.error("", "comprehensions over two variables are not supported"));
        }
        let (iter_range, _) = self.expr(loops.iter_range)?;
        let (accu_init, accu_kind) = self.expr(loops.accu_init)?;
        let before = self.local.len();
        self.local.push((loops.accu_var.clone(), accu_kind));
        self.local.push((loops.iter_var.clone(), None));
        let inside = self.inside(loops.loop_cond, loops.loop_step, loops.result);
        self.local.truncate(before);
        let (loop_cond, loop_step, (result, kind)) = inside?;
        let comprehension = ComprehensionExpr {
            iter_range,
            iter_var: loops.iter_var,
            iter_var2: None,
            accu_var: loops.accu_var,
            accu_init,
            loop_cond: call(id, library::ROUND, vec![loop_cond]),
            loop_step,
            result,
        };
        let expr = Expr::Comprehension(Box::new(comprehension));
        Ok((IdedExpr { id, expr }, kind))
    }

    #[allow(clippy::type_complexity, reason = "the parts of a loop")]
    fn inside(
        &mut self,
        condition: IdedExpr,
        step: IdedExpr,
        result: IdedExpr,
    ) -> Result<(IdedExpr, IdedExpr, (IdedExpr, Option<Kind>)), String> {
        Ok((
            self.expr(condition)?.0,
            self.expr(step)?.0,
            self.expr(result)?,
        ))
    }

    fn list(&mut self, list: ListExpr) -> Result<ListExpr, String> {
        let (elements, _) = self.exprs(list.elements)?;
        Ok(ListExpr::new_with_optionals(
            elements,
            list.optional_indices,
        ))
    }

    #[allow(clippy::type_complexity, reason = "expressions and their kinds")]
    fn exprs(
        &mut self,
        exprs: Vec<IdedExpr>,
    ) -> Result<(Vec<IdedExpr>, Vec<Option<Kind>>), String> {
        let mut rewritten = Vec::with_capacity(exprs.len());
        let mut kinds = Vec::with_capacity(exprs.len());
        for expr in exprs {
            let (expr, kind) = self.expr(expr)?;
            rewritten.push(expr);
            kinds.push(kind);
        }
        Ok((rewritten, kinds))
    }

    fn entry(&mut self, entry: IdedEntryExpr) -> Result<IdedEntryExpr, String> {
        let (key, value, optional) = match entry.expr {
            EntryExpr::MapEntry(entry) => {
                let (key, _) = self.expr(entry.key)?;
                (key, entry.value, entry.optional)
            }
            EntryExpr::StructField(field) => {
                (text(entry.id, &field.field), field.value, field.optional)
            }
        };
        let (value, _) = self.expr(value)?;
        Ok(IdedEntryExpr {
            id: entry.id,
            expr: EntryExpr::MapEntry(MapEntryExpr {
                key,
                value,
                optional,
            }),
        })
    }

    fn made(&mut self, made: StructExpr) -> Result<Expr, String> {
        let name = made.type_name.trim_start_matches('.');
        let known = name == "Object" || name == "JSONPatch" || name.starts_with("Object.");
        if !self.environment.structs || !known {
            return Err(self.undeclared(name));
        }
        let entries = made
            .entries
            .into_iter()
            .map(|entry| self.entry(entry))
            .collect::<Result<_, _>>()?;
        Ok(Expr::Map(kube_cel::cel::common::ast::MapExpr { entries }))
    }

    fn is_declared(&self, name: &str) -> bool {
        self.local.iter().any(|(local, _)| local == name) || self.environment.roots.contains(&name)
    }

    fn undeclared(&self, name: &str) -> String {
        let text = format!("undeclared reference to '{name}' (in container '')");
        self.error(name, &text)
    }

    /// A compiler's error at the first place of `near`.
    fn error(&self, near: &str, text: &str) -> String {
        let at = self.source.find(near).unwrap_or(0);
        let before = &self.source[..at];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = self.source[start..at].chars().count() + 1;
        let shown = self.source[start..].lines().next().unwrap_or_default();
        format!(
            "compilation failed: ERROR: <input>:{line}:{column}: {text}\n | {shown}\n | {:.>column$}",
            "^"
        )
    }
}

/// The operator is not for those kinds.
struct NoOverload;

/// What an operator makes of values of those kinds.
fn of_operator(operator: &str, kinds: &[Option<Kind>]) -> Result<Option<Kind>, NoOverload> {
    Ok(match operator {
        operators::CONDITIONAL => match kinds {
            [Some(kind), _, _] if *kind != Kind::Bool => return Err(NoOverload),
            [_, a, b] if a == b => *a,
            _ => None,
        },
        operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
            if kinds.iter().flatten().any(|kind| *kind != Kind::Bool) {
                return Err(NoOverload);
            }
            Some(Kind::Bool)
        }
        operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS => match kinds {
            [Some(a), Some(b)] if a != b && !(a.is_number() && b.is_number()) => {
                return Err(NoOverload);
            }
            _ => Some(Kind::Bool),
        },
        operators::EQUALS | operators::NOT_EQUALS => match kinds {
            [Some(a), Some(b)] if a != b && ![*a, *b].contains(&Kind::Null) => {
                return Err(NoOverload);
            }
            _ => Some(Kind::Bool),
        },
        operators::IN | operators::NOT_STRICTLY_FALSE => Some(Kind::Bool),
        operators::NEGATE => kinds.first().copied().flatten(),
        operators::ADD
        | operators::SUBSTRACT
        | operators::MULTIPLY
        | operators::DIVIDE
        | operators::MODULO => match kinds {
            [Some(a), Some(b)] if a != b => return Err(NoOverload),
            [Some(a), _] | [_, Some(a)] if a.is_number() || *a == Kind::String => Some(*a),
            [a, b] if a == b => *a,
            _ => None,
        },
        _ => None,
    })
}

fn call(id: u64, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    let expr = Expr::Call(CallExpr {
        func_name: name.to_owned(),
        target: None,
        args,
    });
    IdedExpr { id, expr }
}

fn text(id: u64, text: &str) -> IdedExpr {
    let expr = Expr::Literal(LiteralValue::String(text.into()));
    IdedExpr { id, expr }
}

fn literal(id: u64, value: bool) -> IdedExpr {
    let expr = Expr::Literal(LiteralValue::Boolean(value.into()));
    IdedExpr { id, expr }
}
