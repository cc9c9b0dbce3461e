//! From a question to its answer, step by step.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;

use super::question::{Asked, Question};
use super::{
    Choice, Explanation, Head, Other, Outcome, Phases, Refusal, Request, Value, What, candidates,
    settings,
};
use crate::config::{Config, Variable};
use crate::generation::Generation;
use crate::plugin::Takes;
use crate::protocol::headers::normalize_path;
use crate::proxy::{self, Entry, Next, Preview};
use crate::route::{ByName, ByPath, Found};
use crate::server;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Error {
    /// The configuration cannot be used.
    Server(server::Error),
    /// The question cannot.
    Question(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(error) => error.fmt(f),
            Self::Question(problem) => f.write_str(problem),
        }
    }
}

/// Explains what would become of a request. Blocks for as long as plugins take to compile.
pub(super) fn explain(question: &Question) -> Result<Explanation, Error> {
    let (loaded, generation) = server::load(&question.file).map_err(Error::Server)?;
    let config = loaded.config;
    let asked = question.ask(&config).map_err(Error::Question)?;
    let generation = Arc::new(generation);
    let entry = Entry {
        listener: asked.listener,
        is_tls: config.listeners[asked.listener].tls,
        local: asked.local,
        remote: asked.remote,
    };
    let host = proxy::host(&asked.head).unwrap_or_default();
    let path = normalize_path(asked.head.uri.path()).map_or_else(|_| String::new(), Into::into);
    let (site, site_choice) = site(&config, &generation, asked.listener, &host);
    let route = site.and_then(|site| route(&config, &generation, site, &path));
    let mut explanation = Explanation {
        request: Request {
            method: asked.head.method.to_string(),
            url: question.url.clone(),
            host,
            path,
            from: asked.remote.ip().to_string(),
        },
        listener: listener(&config, &asked),
        site: site_choice,
        route,
        refused: None,
        variables: Vec::new(),
        plugins: Phases::default(),
        outcomes: Vec::new(),
        upstream: None,
        settings: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| Error::Question(format!("no runtime to look for files in: {error}")))?;
    match Preview::begin(&generation, entry, asked.head.clone()) {
        Ok(mut preview) => {
            let route = preview.route().clone();
            explanation.variables = variables(&config, &generation, &preview);
            explanation.plugins = phases(&preview);
            explanation.settings = settings::in_force(&config, &route);
            let next = runtime.block_on(preview.next());
            explanation.outcomes.push(outcome("request", next));
            explanation.upstream = candidates::of(&mut preview);
        }
        Err(failure) => explanation.refused = Some(refusal(&failure)),
    }
    if explanation.upstream.is_some() {
        let handshake = Preview::begin(&generation, entry, asked.handshake());
        let next = handshake.and_then(|mut preview| runtime.block_on(preview.next()));
        explanation.outcomes.push(outcome("handshake", next));
    }
    Ok(explanation)
}

fn listener(config: &Config, asked: &Asked) -> Choice {
    let name = |index: usize| {
        let listener = &config.listeners[index];
        let tls = if listener.tls { " with TLS" } else { "" };
        format!("{}{tls}", listener.bind)
    };
    let others = (0..config.listeners.len()).filter(|index| *index != asked.listener);
    Choice {
        key: format!("listeners[{}]", asked.listener),
        name: name(asked.listener),
        why: asked.why.clone(),
        others: others
            .map(|index| Other {
                key: format!("listeners[{index}]"),
                name: name(index),
                why: "the URL does not lead there".to_owned(),
            })
            .collect(),
    }
}

/// The site a host leads to, with the reason why it is not one of the others.
fn site(
    config: &Config,
    generation: &Generation,
    listener: usize,
    host: &str,
) -> (Option<usize>, Choice) {
    let bind = config.listeners[listener].bind;
    let table = &generation.listeners[listener].sites;
    let fitting: Vec<_> = table.fitting(host).collect();
    let name = |index: usize| {
        let names = &config.sites[index].names;
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        match names.is_empty() {
            true => "the site without names".to_owned(),
            false => names.join(", "),
        }
    };
    let found = table.find(host);
    let why = match fitting.first() {
        Some((_, by)) => fits(by, host),
        None => format!("no site of {bind} has the name {host:?}, and it is the default"),
    };
    let other = |index: usize| {
        let why = if !config.sites[index].listeners.contains(&listener) {
            format!("is not on {bind}")
        } else if let Some((_, by)) = fitting.iter().find(|(site, _)| *site == index) {
            format!("{}, but that comes later", fits(by, host))
        } else {
            format!("has no name that fits {host:?}")
        };
        Other {
            key: format!("sites[{index}]"),
            name: name(index),
            why,
        }
    };
    let others = (0..config.sites.len()).filter(|index| Some(*index) != found);
    let choice = Choice {
        key: found.map_or_else(String::new, |index| format!("sites[{index}]")),
        name: found.map_or_else(|| "none".to_owned(), name),
        why,
        others: others.map(other).collect(),
    };
    (found, choice)
}

fn fits(by: &ByName<'_>, host: &str) -> String {
    match by {
        ByName::Exact => format!("{host} is its name"),
        ByName::Suffix(suffix) => format!("its name *{suffix} fits"),
        ByName::Prefix(prefix) => format!("its name {prefix}* fits"),
        ByName::Pattern(pattern) => {
            let pattern = pattern.as_str();
            let pattern = pattern.strip_prefix("(?i)").unwrap_or(pattern);
            format!("its name ~{pattern} matches")
        }
    }
}

/// The route a path leads to, with the reason why it is not one of the others.
fn route(config: &Config, generation: &Generation, site: usize, path: &str) -> Option<Choice> {
    let table = &generation.sites[site].table;
    let fitting: Vec<_> = table.fitting(path).collect();
    let (found, by) = fitting.first()?;
    let (Found::Route(chosen) | Found::WithSlash(chosen)) = *found;
    let name = |index: usize| generation.sites[site].routes[index].label.to_string();
    let why = match (found, by) {
        (Found::WithSlash(_), _) => format!("{path} lacks the slash at the end of its prefix"),
        (_, ByPath::Exact) => format!("it is for exactly {path}"),
        (_, ByPath::First) => "its prefix is the longest, and `^~` keeps patterns out".to_owned(),
        (_, ByPath::Pattern) => "its pattern is the first that matches".to_owned(),
        (_, ByPath::Prefix) => "its prefix is the longest, and no pattern matches".to_owned(),
        (_, ByPath::Shorter) => "its prefix matches".to_owned(),
    };
    let lost = |with: &ByPath| match (with, by) {
        (_, ByPath::Exact) => "matches, but a route for exactly this path goes before",
        (ByPath::Pattern, ByPath::First) => "matches, but `^~` keeps patterns out",
        (ByPath::Pattern, _) => "matches, but stands behind a pattern that does so too",
        (ByPath::Prefix, ByPath::Pattern) => "its prefix is the longest, but patterns go before",
        _ => "its prefix matches, but is shorter",
    };
    let other = |index: usize| {
        let fits = fitting
            .iter()
            .find(|(found, _)| *found == Found::Route(index));
        let why = match fits {
            Some((_, with)) => lost(with).to_owned(),
            None => format!("does not match {path}"),
        };
        Other {
            key: format!("sites[{site}].routes[{index}]"),
            name: name(index),
            why,
        }
    };
    let others = (0..config.sites[site].routes.len()).filter(|index| *index != chosen);
    Some(Choice {
        key: format!("sites[{site}].routes[{chosen}]"),
        name: name(chosen),
        why,
        others: others.map(other).collect(),
    })
}

/// Values of the variables that the route's templates name, and of those that their maps do.
fn variables(config: &Config, generation: &Generation, preview: &Preview) -> Vec<Value> {
    let place = preview.route().numbers();
    let route = &config.sites[place.0].routes[place.1];
    let mut wanted: Vec<&Variable> = route.variables().collect();
    let mut values: Vec<Value> = Vec::new();
    let mut next = 0;
    while let Some(&variable) = wanted.get(next) {
        next += 1;
        let name = variable.name(&generation.maps);
        if values.iter().any(|value| value.name == name) {
            continue;
        }
        let mut why = None;
        if let Variable::Map(index) = variable
            && let Some(map) = generation.maps.get(*index)
        {
            wanted.extend(map.source.variables());
            let source = preview.render(&map.source);
            why = Some(format!("{source:?} {}", map.find(&source).by));
        }
        let value = preview.variable(variable);
        if value.is_none() && why.is_none() {
            why = Some("the request has none, or it is known only later".to_owned());
        }
        values.push(Value {
            name,
            value: value.unwrap_or_default(),
            why,
        });
    }
    values
}

/// Plugins by phase: towards the service first to last, towards the client last to first.
fn phases(preview: &Preview) -> Phases {
    let names = |takes: fn(&Takes) -> bool| -> Vec<String> {
        let taking = preview.plugins().filter(|(_, taken)| takes(taken));
        taking.map(|(name, _)| name.to_owned()).collect()
    };
    let reversed = |mut names: Vec<String>| {
        names.reverse();
        names
    };
    Phases {
        request: names(|takes| takes.request),
        endpoint: names(|takes| takes.endpoint),
        response: reversed(names(|takes| takes.response)),
        messages_from_client: names(|takes| takes.messages),
        messages_from_service: reversed(names(|takes| takes.messages)),
    }
}

fn outcome(kind: &'static str, next: Result<Next, proxy::Failure>) -> Outcome {
    let what = match next {
        Ok(Next::Service { head, upgrade }) => What::Sent(sent(&head, upgrade, kind)),
        Ok(Next::Answer(head)) => What::Answered(Head {
            line: format!("HTTP/1.1 {}", head.status),
            fields: fields(&head.headers),
            note: None,
        }),
        Err(failure) => What::Refused(refusal(&failure)),
    };
    Outcome { kind, what }
}

fn sent(head: &Parts, upgrade: bool, kind: &str) -> Head {
    let note = (kind == "handshake" && !upgrade)
        .then(|| "This asks for no upgrade: the route or its fields do not allow one.".to_owned());
    Head {
        line: format!("{} {} HTTP/1.1", head.method, head.uri),
        fields: fields(&head.headers),
        note,
    }
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields = headers.iter();
    fields
        .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
        .collect()
}

fn refusal(failure: &proxy::Failure) -> Refusal {
    Refusal {
        status: failure.status().as_u16(),
        why: failure.to_string(),
    }
}
