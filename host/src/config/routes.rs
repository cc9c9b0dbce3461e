//! Routes as they are written: what they match and what they do.

use http::StatusCode;
use http::header::LOCATION;

use super::pattern::{self, PATTERN, same_place};
use super::reader::{Table, Value};
use super::sites::{Level, Parts};
use super::template::Template;
use super::upstreams::Upstreams;
use super::variables::{Groups, Names, Stage};
use super::{Action, Pattern, Respond, Route, Target, files, headers};

const RESPOND: &str = "a table such as { status = 204 }";
const ACTIONS: &str = "one of `upstream`, `url`, `files`, `respond` and `redirect`";

/// Reads `[[sites.routes]]` of one site.
pub(super) fn read<'r>(t: &Table<'r>, parts: &mut Parts<'r, '_>, site: &Level<'_>) -> Vec<Route> {
    const ROUTES: &str = "at least one table [[sites.routes]] with `match`";
    let Some(value) = t.require("routes", ROUTES) else {
        return Vec::new();
    };
    let items = value.list("a list of tables [[sites.routes]]");
    if items.is_empty() && value.is_list() {
        value.problem(format_args!("expected {ROUTES}, found none"));
    }
    let mut routes: Vec<(Value<'r>, Route)> = Vec::new();
    for item in items {
        let read = item.table("a table", |t| route(t, parts, site)).flatten();
        let Some((pattern, route)) = read else {
            continue;
        };
        let twin = routes
            .iter()
            .find(|(_, other)| same_place(&other.pattern, &route.pattern));
        if let Some((other, _)) = twin {
            let found = pattern.found();
            pattern.problem(format_args!(
                "{found} is already matched by {}",
                other.key()
            ));
        }
        routes.push((item, route));
    }
    routes.into_iter().map(|(_, route)| route).collect()
}

fn route<'r>(
    t: &Table<'r>,
    parts: &mut Parts<'r, '_>,
    site: &Level<'_>,
) -> Option<(Value<'r>, Route)> {
    let written_pattern = t.require("match", PATTERN);
    let pattern = written_pattern.as_ref().and_then(pattern::read);
    let groups = match &pattern {
        Some(Pattern::Regex(regex)) => Groups::of(regex).after(site.groups),
        _ => site.groups.clone(),
    };
    let names = Names {
        groups: Some(&groups),
        ..parts.names
    };
    let action = action(t, &mut parts.upstreams, pattern.as_ref(), &names);
    let plugins = t
        .get("plugins")
        .map(|value| parts.plugins.chain(&value))
        .unwrap_or_default();
    let answers_itself = match action {
        Some(Action::Respond(_)) if t.get("redirect").is_some() => Some("redirect"),
        Some(Action::Respond(_)) => Some("respond"),
        Some(Action::Files(_)) => Some("files"),
        Some(Action::Proxy(_)) | None => None,
    };
    if let Some(key) = answers_itself {
        for value in FOR_SERVICES.into_iter().filter_map(|name| t.get(name)) {
            value.problem(format_args!("has no effect on a route with `{key}`"));
        }
    }
    let settings = site.inherited.read(t, &names, parts.formats).settings;
    let route = Route {
        pattern: pattern?,
        action: action?,
        plugins,
        settings,
    };
    Some((written_pattern?, route))
}

/// Settings that mean nothing without a service.
const FOR_SERVICES: [&str; 10] = [
    "set_headers",
    "hide_headers",
    "pass_headers",
    "rewrite_location",
    "rewrite_cookies",
    "upgrade",
    "websocket",
    "timeouts",
    "retry",
    "ignore_client_abort",
];

fn action<'r>(
    t: &Table<'r>,
    upstreams: &mut Upstreams<'r>,
    pattern: Option<&Pattern>,
    names: &Names<'_>,
) -> Option<Action> {
    let upstream = t.get("upstream");
    let url = t.get("url");
    let served = t.get("files");
    let respond_with = t.get("respond");
    let redirect_to = t.get("redirect");
    let written: Vec<_> = [&upstream, &url, &served, &respond_with, &redirect_to]
        .into_iter()
        .flatten()
        .collect();
    match written[..] {
        [] => t.problem(format_args!("expected {ACTIONS}, found none")),
        [first, .., last] => last.problem(format_args!(
            "this route already has `{}`; expected only {ACTIONS}",
            first.name()
        )),
        _ => {}
    }
    // All are read, so that the problems of each are seen.
    let path = t.get("replace_prefix");
    let replace_prefix = path.as_ref().and_then(replace_prefix);
    if let Some(path) = &path
        && upstream.is_none()
    {
        path.problem("has an effect only beside `upstream`; a `url` has its path at its end");
    }
    let place = path.as_ref().or(url.as_ref()).cloned();
    let named = upstream.and_then(|value| {
        Some(Target {
            upstream: upstreams.named(&value)?,
            replace_prefix,
        })
    });
    let target = named.or(url.and_then(|value| upstreams.of_url(&value)));
    if let (
        Some(Target {
            replace_prefix: Some(_),
            ..
        }),
        Some(Pattern::Regex(_)),
        Some(place),
    ) = (&target, pattern, place)
    {
        place.problem("a route with a pattern has no prefix to replace; leave out the path");
    }
    let served = served.and_then(|value| files::read(&value, names));
    let respond = respond_with.and_then(|value| value.table(RESPOND, |t| respond(t, names)));
    let redirect = redirect_to.and_then(|value| redirect(&value, names));
    target
        .map(Action::Proxy)
        .or(served.map(Action::Files))
        .or(respond.or(redirect).map(Action::Respond))
}

fn replace_prefix(value: &Value<'_>) -> Option<String> {
    let path = |text: &str| {
        let fine = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        (fine && !text.contains(['?', '#'])).then(|| text.to_owned())
    };
    value.parse("a path such as \"/app/\"", path)
}

fn respond(t: &Table<'_>, names: &Names<'_>) -> Respond {
    let status = t.get("status").and_then(|value| {
        let code = value.whole::<u16>(200..=599)?;
        StatusCode::from_u16(code).ok()
    });
    let status = status.unwrap_or(StatusCode::OK);
    let headers = t
        .get("headers")
        .map(|value| headers::of_response(&value, names))
        .unwrap_or_default();
    let body = t.get("body").and_then(|value| {
        let text = value.parse("text, which may have variables", Some)?;
        if !text.is_empty() && matches!(status.as_u16(), 204 | 304) {
            value.problem(format_args!(
                "a response with status {} has no body",
                status.as_u16()
            ));
        }
        let template = Template::read(text, names, Stage::Request);
        let problem = |problem| value.problem(format_args!("{problem} (in {})", value.found()));
        template.map_err(problem).ok()
    });
    Respond {
        status,
        headers,
        body,
    }
}

/// Reads a `redirect`: where to, or a table with the status as well.
fn redirect(value: &Value<'_>, names: &Names<'_>) -> Option<Respond> {
    const REDIRECT: &str = "where to, such as \"https://$host$request_uri\", or a table such as \
                            { status = 301, to = \"https://$host$request_uri\" }";
    const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
    let (status, to) = if value.is_table() {
        value.table(REDIRECT, |t| {
            let status = t.get("status").map(|value| {
                let code = value.as_whole().and_then(|code| u16::try_from(code).ok());
                let code = code.filter(|code| STATUSES.contains(code));
                if code.is_none() {
                    value.expected("301, 302, 303, 307 or 308");
                }
                code.and_then(|code| StatusCode::from_u16(code).ok())
            });
            (status.flatten(), t.require("to", REDIRECT))
        })?
    } else if value.as_str().is_some() {
        (None, Some(value.clone()))
    } else {
        value.expected(REDIRECT);
        return None;
    };
    let to = to?;
    let location = headers::template(&to, names, Stage::Request)?;
    if location.parts().is_empty() {
        to.expected(REDIRECT);
    }
    Some(Respond {
        status: status.unwrap_or(StatusCode::FOUND),
        headers: vec![(LOCATION, location)],
        body: None,
    })
}
