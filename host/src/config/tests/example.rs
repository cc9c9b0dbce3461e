//! The example file: it is right, its defaults are those in force, and it forgets no key.

use super::*;
use crate::config::reader::coverage;

const EXAMPLE: &str = include_str!("../../../tidegate.example.toml");

/// The example with the lines in force that begin with one of `marks` and a letter or bracket.
fn example_with(marks: &[&str]) -> String {
    let uncommented = |line: &str| {
        let text = line.trim_start();
        let setting = marks.iter().find_map(|mark| text.strip_prefix(mark))?;
        setting
            .starts_with(|c: char| c.is_ascii_lowercase() || c == '[')
            .then(|| setting.to_owned())
    };
    let lines = EXAMPLE
        .lines()
        .map(|line| uncommented(line).unwrap_or_else(|| line.to_owned()));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_is_without_fault() {
    let loaded = parse(EXAMPLE).unwrap();
    assert_eq!(loaded.warnings, []);
}

#[test]
fn the_defaults_that_the_example_names_are_those_in_force() {
    let with_defaults = example_with(&["#"]);
    assert!(with_defaults.contains("\nworkers = \"auto\"\n"));
    assert_eq!(config(&with_defaults), config(EXAMPLE));
}

#[test]
fn the_example_has_every_key() {
    let folder = std::env::temp_dir().join(format!("tidegate-example-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["cert.pem", "key.pem", "ca.pem"] {
        std::fs::write(folder.join(file), "").unwrap();
    }
    coverage::take();
    let loaded = Config::parse(&example_with(&["#+ ", "#"]), &folder.join("tidegate.toml"));
    let missing: Vec<_> = {
        // `upstreams.chat.endpoints[0].weight` and `upstreams.pictures.endpoints[0].weight` are one key.
        let general = regex::Regex::new(r"\[\d+\]|(?:upstreams|plugins)\.[a-z-]+").unwrap();
        let mut keys = std::collections::BTreeMap::<_, bool>::new();
        for (key, present) in coverage::take() {
            let key = general.replace_all(&key, |found: &regex::Captures<'_>| {
                found[0]
                    .split_once('.')
                    .map(|(section, _)| section.to_owned())
                    .unwrap_or_default()
            });
            *keys.entry(key.into_owned()).or_default() |= present;
        }
        keys.into_iter()
            .filter(|(_, present)| !present)
            .map(|(key, _)| key)
            .collect()
    };
    std::fs::remove_dir_all(&folder).unwrap();
    loaded.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(missing, [""; 0]);
}
