//! Values with `$variables` in them, as `set_headers` and access logs have them.
//!
//! Which variables there are is `variables.rs`'s knowledge; what they stand for is the proxy's.

use super::variables::{Names, Stage, Variable};

/// Text with variables, read once from the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

/// A piece of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(String),
    Variable(Variable),
}

impl Template {
    /// Reads a text in which `$name` and `${name}` are variables and `$$` is a dollar. The error says
    /// what is wrong, or that a variable is not known before a stage later than `stage`.
    pub(super) fn read(text: &str, names: &Names<'_>, stage: Stage) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            let (before, from_dollar) = rest.split_at(dollar);
            literal.push_str(before);
            rest = &from_dollar[1..];
            if let Some(after) = rest.strip_prefix('$') {
                literal.push('$');
                rest = after;
                continue;
            }
            let (name, after) = variable_name(rest)?;
            let variable = names.find(name)?;
            check_stage(name, variable.stage(names), stage)?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Variable(variable));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { parts })
    }

    /// Reads a text without maps and groups.
    #[cfg(test)]
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::read(text, &Names::default(), Stage::Request)
    }

    /// The pieces in order; none for an empty text.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The text, if it has no variables.
    pub(crate) fn as_literal(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The variables, in the order of the text.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Variable(variable) => Some(variable),
        })
    }
}

/// Splits the name behind a dollar from what follows it. Numbers have one digit.
fn variable_name(text: &str) -> Result<(&str, &str), String> {
    if let Some(braced) = text.strip_prefix('{') {
        return braced
            .split_once('}')
            .ok_or_else(|| "`${` has no `}`".to_owned());
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(text.split_at(1));
    }
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    if end == 0 {
        return Err("a `$` without a name behind it; write `$$` for a dollar".to_owned());
    }
    Ok(text.split_at(end))
}

fn check_stage(name: &str, known: Stage, needed: Stage) -> Result<(), String> {
    match known {
        _ if known <= needed => Ok(()),
        Stage::End => Err(format!(
            "`${name}` is known only at the end, for access logs"
        )),
        _ => Err(format!(
            "`${name}` is not known before the response, in `add_headers` and access logs"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Part {
        Part::Literal(text.to_owned())
    }

    #[test]
    fn names_end_where_a_name_can_no_longer_go_on() {
        let parts = |text| Template::parse(text).unwrap().parts;
        let host = || Part::Variable(Variable::Host);
        let port = || Part::Variable(Variable::ServerPort);
        assert_eq!(parts("$host:$server_port"), [host(), literal(":"), port()]);
        assert_eq!(parts("${host}s"), [host(), literal("s")]);
        assert_eq!(parts("a$host-"), [literal("a"), host(), literal("-")]);
        assert_eq!(parts("$host$server_port"), [host(), port()]);
        assert_eq!(parts("cost: 5$$ $$host"), [literal("cost: 5$ $host")]);
        assert_eq!(parts(""), []);
    }

    #[test]
    fn a_number_has_one_digit() {
        let groups = super::super::variables::Groups::of(&regex::Regex::new("(a)").unwrap());
        let names = Names {
            maps: &[],
            groups: Some(&groups),
        };
        let template = Template::read("$10", &names, Stage::Request).unwrap();
        assert_eq!(
            template.parts,
            [Part::Variable(Variable::Capture(1)), literal("0")]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |text| Template::parse(text).unwrap_err();
        assert_eq!(
            error("$hots"),
            "unknown variable `$hots`; did you mean `$host`?"
        );
        assert_eq!(
            error("5$"),
            "a `$` without a name behind it; write `$$` for a dollar"
        );
        assert_eq!(error("${host"), "`${` has no `}`");
        assert_eq!(
            error("$connection_upgrade"),
            "unknown variable `$connection_upgrade`; there are no [maps] in this file"
        );
        assert_eq!(
            error("$status"),
            "`$status` is not known before the response, in `add_headers` and access logs"
        );
        assert_eq!(
            Template::read("$bytes_sent", &Names::default(), Stage::Response).unwrap_err(),
            "`$bytes_sent` is known only at the end, for access logs"
        );
    }
}
