//! Values with `$variables` in them, as `set_headers` has them.
//!
//! What a variable stands for is the proxy's to say; this file only knows the names.

use http::HeaderName;

use super::nearest;

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

/// What may stand behind a `$`. Meanings are nginx's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    /// `$host`: host of the request line, else of the `Host` field, else the site's first name;
    /// lower case, without port.
    Host,
    /// `$http_host`: the `Host` field as it came.
    HttpHost,
    /// `$http_NAME`: a request field, underscores standing for hyphens.
    Http(HeaderName),
    /// `$remote_addr`: the client's address.
    RemoteAddr,
    /// `$remote_port`
    RemotePort,
    /// `$server_addr`: the address on which the client reached us.
    ServerAddr,
    /// `$server_port`
    ServerPort,
    /// `$server_name`: the site's first name.
    ServerName,
    /// `$scheme`: `http` or `https`, as the client used it.
    Scheme,
    /// `$request_method`
    RequestMethod,
    /// `$request_uri`: path and query as they came.
    RequestUri,
    /// `$uri`: the path, decoded and normalised.
    Uri,
    /// `$args`: the query without its question mark.
    Args,
    /// `$arg_NAME`: one argument of the query.
    Arg(String),
    /// `$cookie_NAME`
    Cookie(String),
    /// `$proxy_host`: the upstream's name, or the host of the route's `url`.
    ProxyHost,
    /// `$proxy_add_x_forwarded_for`: what came in `X-Forwarded-For`, and the client's address.
    ProxyAddXForwardedFor,
}

/// Names as written, for reading and for suggestions.
const NAMES: [(&str, Variable); 14] = [
    ("host", Variable::Host),
    ("http_host", Variable::HttpHost),
    ("remote_addr", Variable::RemoteAddr),
    ("remote_port", Variable::RemotePort),
    ("server_addr", Variable::ServerAddr),
    ("server_port", Variable::ServerPort),
    ("server_name", Variable::ServerName),
    ("scheme", Variable::Scheme),
    ("request_method", Variable::RequestMethod),
    ("request_uri", Variable::RequestUri),
    ("uri", Variable::Uri),
    ("args", Variable::Args),
    ("proxy_host", Variable::ProxyHost),
    ("proxy_add_x_forwarded_for", Variable::ProxyAddXForwardedFor),
];

impl Template {
    /// Reads `$name`, `${name}` and `$$`; all else stands for itself. The error says what is wrong
    /// with it, for the operator.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
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
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Variable(
                Variable::named(name).ok_or_else(|| unknown(name))?,
            ));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { parts })
    }

    /// The pieces in order; none for an empty text.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Appends the text to `out`; `lookup` appends the value of one variable.
    pub(crate) fn render(
        &self,
        out: &mut Vec<u8>,
        mut lookup: impl FnMut(&Variable, &mut Vec<u8>),
    ) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => lookup(variable, out),
            }
        }
    }
}

impl Variable {
    /// The variable of that name, without the dollar.
    pub(crate) fn named(name: &str) -> Option<Self> {
        if let Some((_, variable)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Some(variable.clone());
        }
        let (family, rest) = name.split_once('_').filter(|(_, rest)| !rest.is_empty())?;
        match family {
            "http" => HeaderName::from_bytes(rest.replace('_', "-").as_bytes())
                .ok()
                .map(Self::Http),
            "arg" => Some(Self::Arg(rest.to_owned())),
            "cookie" => Some(Self::Cookie(rest.to_owned())),
            _ => None,
        }
    }
}

/// Splits the name behind a dollar from what follows it.
fn variable_name(text: &str) -> Result<(&str, &str), String> {
    if let Some(braced) = text.strip_prefix('{') {
        return braced
            .split_once('}')
            .ok_or_else(|| "`${` has no `}`".to_owned());
    }
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    if end == 0 {
        return Err("a `$` without a name behind it; write `$$` for a dollar".to_owned());
    }
    Ok(text.split_at(end))
}

fn unknown(name: &str) -> String {
    match nearest::name(name, NAMES.iter().map(|(known, _)| *known)) {
        Some(near) => format!("unknown variable `${name}`; did you mean `${near}`?"),
        None => {
            let names: Vec<_> = NAMES.iter().map(|(known, _)| format!("${known}")).collect();
            format!(
                "unknown variable `${name}`; known: {}, $http_NAME, $arg_NAME, $cookie_NAME",
                names.join(", ")
            )
        }
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
    fn families_take_the_rest_of_the_name() {
        let upgrade = Variable::Http(HeaderName::from_static("x-forwarded-proto"));
        assert_eq!(Variable::named("http_x_forwarded_proto"), Some(upgrade));
        assert_eq!(Variable::named("http_host"), Some(Variable::HttpHost));
        assert_eq!(
            Variable::named("arg_room_id"),
            Some(Variable::Arg("room_id".to_owned()))
        );
        assert_eq!(
            Variable::named("cookie_sid"),
            Some(Variable::Cookie("sid".to_owned()))
        );
        assert_eq!(Variable::named("http_"), None);
        assert_eq!(Variable::named("Host"), None);
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
        assert!(error("$connection_upgrade").starts_with(
            "unknown variable `$connection_upgrade`; known: $host, $http_host, $remote_addr"
        ));
    }

    #[test]
    fn rendering_appends() {
        let template = Template::parse("$host:${server_port}!").unwrap();
        let mut out = b">".to_vec();
        template.render(&mut out, |variable, out| {
            out.extend_from_slice(if *variable == Variable::Host {
                b"a"
            } else {
                b"80"
            });
        });
        assert_eq!(out, b">a:80!");
    }
}
