//! Who may import whom in the host. Rust's modules do not enforce it, so this test reads the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Modules in the order a connection meets them: one may import those in later rows, and no others.
/// Modules of one row do not know each other.
const ROWS: [&[&str]; 12] = [
    &["main", "lib"],
    &["command"],
    &["demo", "explain", "import", "operate"],
    &["remote"],
    &["server"],
    &["downstream"],
    &["proxy"],
    &["generation"],
    &["route"],
    &["upstream", "plugin", "files"],
    &["certificates"],
    &["config", "protocol", "telemetry", "stream"],
];

#[test]
fn modules_import_only_those_a_connection_meets_later() {
    let mut wrong = Vec::new();
    for (module, file, source) in sources() {
        for imported in imports(&source) {
            if let Some(what) = objection(&module, &imported) {
                wrong.push(format!("{file}: {what}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn wasmtime_is_named_only_where_plugins_are_run() {
    only_in("plugin/", &["wasmtime", "wit_component"]);
}

#[test]
fn the_format_of_the_file_is_known_only_where_it_is_read() {
    only_in("config/", &["toml"]);
}

#[test]
fn the_protocol_has_no_sockets_no_clock_and_no_log() {
    let files = sources().filter(|(module, ..)| module == "protocol");
    let mut seen = 0;
    for (_, file, source) in files {
        seen += 1;
        for name in [
            "tokio",
            "hyper",
            "tracing",
            "std::net",
            "std::io",
            "std::time",
        ] {
            assert!(!names(&source, name), "{file} names {name}");
        }
    }
    assert!(seen > 0);
}

#[test]
fn a_wrong_arrow_is_found() {
    let source = "
        use crate::{config::Config, proxy::{session, exchange}};
        use crate::plugin;
        // crate::server is only spoken of
        pub(crate) fn f() -> crate::telemetry::Counter {}
    ";
    let found: Vec<_> = imports(source).into_iter().collect();
    assert_eq!(found, ["config", "plugin", "proxy", "telemetry"]);
    assert_eq!(objection("upstream", "config"), None);
    assert_eq!(objection("upstream", "upstream"), None);
    for (module, imported) in [
        ("upstream", "plugin"),
        ("upstream", "proxy"),
        ("upstream", "news"),
    ] {
        assert!(
            objection(module, imported).is_some(),
            "{module} → {imported}"
        );
    }
}

/// What is wrong with an import.
fn objection(module: &str, imported: &str) -> Option<String> {
    let row = |name| ROWS.iter().position(|row| row.contains(&name));
    match (row(module), row(imported)) {
        _ if module == imported => None,
        (Some(from), Some(to)) if from < to => None,
        (Some(_), Some(_)) => Some(format!("{module} must not import {imported}")),
        (None, _) => Some(format!("{module} has no place in the order of modules")),
        (_, None) => Some(format!("{imported} has no place in the order of modules")),
    }
}

/// Modules that a source names by `crate::`.
fn imports(source: &str) -> BTreeSet<String> {
    let code = without_comments(source);
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.insert(identifier(rest)),
            Some(group) => {
                found.extend(items(group));
                true
            }
        };
    }
    // `crate::run` in main.rs and macros are no modules.
    found.retain(|name| name.chars().next().is_some_and(char::is_lowercase));
    found
}

/// First names of the items of a group, up to its closing brace.
fn items(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut begins = true;
    let mut found = Vec::new();
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && character.is_alphabetic() => {
                found.push(identifier(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    found
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Fails unless these crates are named in one folder of the host at most, and in it at all.
fn only_in(folder: &str, crates: &[&str]) {
    for name in crates {
        let naming: Vec<_> = sources()
            .filter(|(_, _, source)| names(source, name))
            .map(|(_, file, _)| file)
            .collect();
        assert!(
            !naming.is_empty(),
            "{name} is not named at all: is this test still right?"
        );
        let elsewhere: Vec<_> = naming
            .iter()
            .filter(|file| !file.starts_with(folder))
            .collect();
        assert!(elsewhere.is_empty(), "{name} is named in {elsewhere:?}");
    }
}

/// Whether code, not a comment, has this path or a path that begins with it.
fn names(source: &str, path: &str) -> bool {
    let code = without_comments(source);
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + path.len()..];
        !before.is_some_and(|c| is_name(c) || c == '"')
            && (after.starts_with("::") || after.starts_with(';'))
    })
}

fn without_comments(source: &str) -> String {
    source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect()
}

/// All sources of the host: module, path below `src`, text.
fn sources() -> impl Iterator<Item = (String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.into_iter().map(move |path| {
        let below = path
            .strip_prefix(&root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let module = below
            .split('/')
            .next()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        let text = fs::read_to_string(&path).unwrap();
        (module, below, text)
    })
}

fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
