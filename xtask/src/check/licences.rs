//! Licences of everything that is linked in: only ones that Apache-2.0 can be shipped with.

use serde_json::Value;

const ALLOWED: [&str; 15] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "0BSD",
    "BSL-1.0",
    "Unlicense",
    "MIT-0",
    "CDLA-Permissive-2.0",
    "MPL-2.0",
    "MPL-2.0+",
];

/// Packages whose licence expression no allowed licence satisfies.
pub fn problems(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .filter(|package| !package["source"].is_null())
        .filter_map(|package| {
            let name = package["name"].as_str().unwrap_or_default();
            match package["license"].as_str() {
                Some(expression) if satisfied(expression) => None,
                Some(expression) => Some(format!("{name}: {expression}")),
                None => Some(format!("{name}: no licence")),
            }
        })
        .collect()
}

/// An SPDX expression of AND, OR (also the old `/`) and brackets, where AND binds tighter.
fn satisfied(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    // an exception only gives more rights
    let spaced = spaced
        .replace(" WITH LLVM-exception", "")
        .replace("Classpath-exception-2.0", "");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    either(&mut words.as_slice())
}

fn either(words: &mut &[&str]) -> bool {
    let mut value = both(words);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        value |= both(words);
    }
    value
}

fn both(words: &mut &[&str]) -> bool {
    let mut value = one(words);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        value &= one(words);
    }
    value
}

fn one(words: &mut &[&str]) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let value = either(words);
            *words = words.get(1..).unwrap_or_default();
            value
        }
        [licence, rest @ ..] => {
            *words = rest;
            ALLOWED.contains(licence)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_says() {
        for (expression, expected) in [
            ("MIT OR Apache-2.0", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
            ("GPL-2.0", false),
            ("", false),
        ] {
            assert_eq!(satisfied(expression), expected, "{expression}");
        }
    }
}
