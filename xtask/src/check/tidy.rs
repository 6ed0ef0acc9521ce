//! Rules about files that no other tool knows: every file says what it owns, sizes have limits,
//! `unsafe` stays where it belongs and says why it is sound, pure modules name no runtime.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::{command, workspace};

/// Longest file and function, lines.
const FILE_LIMIT: usize = 600;
const FUNCTION_LIMIT: usize = 70;

/// Files that may be longer, each with the reason.
const LONG_FILES: [(&str, &str); 0] = [];

/// Where `unsafe` may stand: the BPF side, the modules that speak to the kernel without a safe
/// wrapper, and the program that has no standard library.
const UNSAFE: [&str; 8] = [
    "ebpf/",
    "agent/src/net/load",
    "agent/src/net/maps",
    "agent/src/net/netns",
    "agent/src/net/netlink",
    "agent/src/net/veth",
    "xtask/images/pause.rs",
    "tests/tests/datapath",
];

/// Modules that decide: no clock, no socket, no runtime. A path ending in `/` is a folder.
const PURE: [&str; 8] = [
    "policies/src/",
    "ebpf/abi/src/",
    "controlplane/api/src/",
    "dns/src/zone.rs",
    "dns/src/answer.rs",
    "dns/src/answer/",
    "dns/src/cache.rs",
    "dns/src/forward.rs",
];
const IMPURE: [&str; 6] = [
    "tokio::",
    "aya::",
    "Instant::now()",
    "SystemTime::now()",
    "std::process::",
    "TcpStream",
];

/// Everything that does not hold in the files git knows or would know.
pub fn problems() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
    ]);
    let files = command::output(git.current_dir(workspace::root()))?;
    let mut problems = Vec::new();
    for path in files.lines() {
        // a file that was deleted but not yet staged
        if let Ok(text) = fs::read_to_string(workspace::root().join(path)) {
            problems.extend(
                file(path, &text)
                    .into_iter()
                    .map(|what| format!("{path}: {what}")),
            );
        }
    }
    Ok(problems)
}

fn file(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push("does not open with //! (what it owns)".to_owned());
    }
    let lines = text.lines().count();
    if lines > FILE_LIMIT && !LONG_FILES.iter().any(|(long, _)| *long == path) {
        found.push(format!("{lines} lines, more than {FILE_LIMIT}"));
    }
    for (at, name, lines) in long_functions(text) {
        // a table of cases is as long as it has cases
        if is_test(path) || product(text).all(|(line, _)| line != at) {
            continue;
        }
        found.push(format!(
            "line {at}: {name} has {lines} lines, more than {FUNCTION_LIMIT}"
        ));
    }
    if !UNSAFE.iter().any(|place| path.starts_with(place)) {
        for at in unsafe_lines(text) {
            found.push(format!("line {at}: unsafe outside of the modules that may"));
        }
    } else {
        for at in unexplained(text) {
            found.push(format!("line {at}: unsafe without // SAFETY:"));
        }
    }
    let pure = !is_test(path)
        && (PURE.iter().any(|p| {
            if p.ends_with('/') {
                path.starts_with(p)
            } else {
                path == *p
            }
        }) || path.contains("/plan/")
            || path.ends_with("/plan.rs"));
    if pure {
        for (at, line) in product(text) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                found.push(format!("line {at}: {word} in a module that decides"));
            }
        }
    }
    found
}

/// A file of tests alone.
fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/")
}

/// Numbered lines before the tests, without comments.
fn product(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text
        .lines()
        .enumerate()
        .take_while(|(_, line)| *line != "#[cfg(test)]");
    lines
        .map(|(n, line)| (n + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Functions longer than the limit, in text formatted by rustfmt: a function ends with a brace at
/// its own indentation.
fn long_functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(name) = function_name(code) else {
            continue;
        };
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let Some(length) = lines[at..].iter().position(|other| *other == end) else {
            continue;
        };
        if length + 1 > FUNCTION_LIMIT && !line.ends_with(';') && !line.ends_with('}') {
            long.push((at + 1, name.to_owned(), length + 1));
        }
    }
    long
}

fn function_name(code: &str) -> Option<&str> {
    let at = if code.starts_with("fn ") {
        0
    } else {
        code.find(" fn ")? + 1
    };
    let before = &code[..at];
    let plain = |c: char| c.is_ascii_alphanumeric() || " ()_\":".contains(c);
    if !before.chars().all(plain) {
        return None;
    }
    code[at + 3..].split(['(', '<']).next()
}

fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
        .iter()
        .any(|u| code.contains(u))
}

fn unsafe_lines(text: &str) -> Vec<usize> {
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| is_unsafe(line) && !line.contains('"'))
        .map(|(n, _)| n + 1)
        .collect()
}

/// Unsafe blocks with no SAFETY comment in the few lines above; an `unsafe fn` documents its
/// callers' duty instead.
fn unexplained(text: &str) -> Vec<usize> {
    const ABOVE: usize = 8;
    let lines: Vec<&str> = text.lines().collect();
    let needs = |line: &&str| is_unsafe(line) && !line.contains("unsafe fn");
    let explained = |at: usize| {
        lines[at.saturating_sub(ABOVE)..=at]
            .iter()
            .any(|line| line.contains("SAFETY:"))
    };
    let found = lines
        .iter()
        .enumerate()
        .filter(|(at, line)| needs(line) && !explained(*at));
    found.map(|(at, _)| at + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_its_first_words_is_found() {
        assert_eq!(file("a.rs", "fn main() {}\n").len(), 1);
        assert!(file("a.rs", "//! A.\nfn main() {}\n").is_empty());
    }

    #[test]
    fn long_functions_are_found_by_their_indentation() {
        let body = "        x();\n".repeat(FUNCTION_LIMIT);
        let text = format!("impl A {{\n    pub async fn f<T>(t: T) {{\n{body}    }}\n}}\n");
        let found = long_functions(&text);
        assert_eq!(found, [(2, "f".to_owned(), FUNCTION_LIMIT + 2)]);
    }

    #[test]
    fn a_plan_names_no_clock_but_its_tests_may() {
        let text = "//! P.\nlet a = Instant::now();\n#[cfg(test)]\nlet b = Instant::now();\n";
        assert_eq!(file("agent/src/net/plan/x.rs", text).len(), 1);
        assert!(file("agent/src/net/apply.rs", text).is_empty());
    }

    #[test]
    fn unsafe_needs_its_place_and_its_reason() {
        let text = concat!("//! U.\nfn f() {\n    unsa", "fe { g() }\n}\n");
        assert_eq!(file("dns/src/x.rs", text).len(), 1);
        assert_eq!(file("ebpf/programs/src/x.rs", text).len(), 1);
        let text = text.replace("    unsafe", "    // SAFETY: g is sound.\n    unsafe");
        assert!(file("ebpf/programs/src/x.rs", &text).is_empty());
    }
}
