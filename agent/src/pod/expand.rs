//! `$(NAME)` references in commands, arguments and variables (upstream: `third_party/forked/golang/
//! expansion`): `$$` is a dollar sign, an unknown or unclosed reference stays as it is.

pub fn expand<'a>(input: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut output = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            output.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match lookup(name) {
                Some(value) => output.push_str(value),
                None => {
                    output.push_str("$(");
                    output.push_str(name);
                    output.push(')');
                }
            }
            rest = tail;
        } else {
            output.push('$');
            rest = after;
        }
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_escapes_collapse_and_the_rest_stays() {
        let table = [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("$x", "$x"),
            ("$$$(A)", "$1"),
            ("", ""),
        ];
        for (input, expected) in table {
            assert_eq!(
                expand(input, |name| (name == "A").then_some("1")),
                expected,
                "{input}"
            );
        }
    }
}
