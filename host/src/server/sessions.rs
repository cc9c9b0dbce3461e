//! The part of the admin listener about sessions: which are open, what has passed in them, and closing them.
//!
//! The workers have them (`proxy/registry.rs`); each is asked on its own thread.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::admin::{Seen, Shared, answer, refusal, seconds};
use super::parameters::Parameters;
use super::workers::Lines;
use crate::protocol::close::{CloseCode, MAX_REASON};
use crate::proxy::{Goodbye, Network, Sight, Which};

/// Sessions that one answer lists, if nobody says how many, and at most.
const PAGE: usize = 100;
const LONGEST_PAGE: usize = 1000;

/// What a session is called: its worker, and its number there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Id {
    worker: usize,
    number: u64,
}

pub(super) fn routes() -> Router<Arc<Seen>> {
    Router::new()
        .route("/v1/sessions", get(list))
        .route("/v1/sessions/close", post(close_those))
        .route("/v1/sessions/{id}", get(show))
        .route("/v1/sessions/{id}/close", post(close))
}

type Given = Query<BTreeMap<String, String>>;

async fn list(State(seen): Shared, Query(given): Given) -> Response {
    let (which, after, limit) = match page(given) {
        Ok(page) => page,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error),
    };
    // One more, to know whether there are more.
    let mut found = find(&seen.workers, &which, after, limit + 1).await;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(id, _)| id.to_string());
    let sessions = found.iter().map(|(id, sight)| as_json(*id, sight));
    answer(&json!({ "sessions": sessions.collect::<Vec<_>>(), "next": next }))
}

fn page(given: BTreeMap<String, String>) -> Result<(Which, Id, usize), String> {
    let mut parameters = Parameters::new(given);
    let which = which(&mut parameters)?;
    let read = |text: &str| text.parse().ok();
    let after = parameters.read("after", "the id of a session such as `0-17`", read)?;
    let expected = format!("a whole number from 1 to {LONGEST_PAGE}");
    let limit = parameters.read("limit", &expected, |text| {
        let limit = text.parse().ok();
        limit.filter(|limit| (1..=LONGEST_PAGE).contains(limit))
    })?;
    parameters.finish()?;
    Ok((which, after.unwrap_or_default(), limit.unwrap_or(PAGE)))
}

/// Returns the sessions that are meant, by worker and number, from after `after` on and `limit` at most.
async fn find(workers: &Lines, which: &Which, after: Id, limit: usize) -> Vec<(Id, Sight)> {
    let mut found: Vec<(Id, Sight)> = Vec::new();
    for worker in after.worker..workers.count() {
        let (which, wanted) = (which.clone(), limit - found.len());
        let after = if worker == after.worker {
            after.number
        } else {
            0
        };
        let ask = workers.ask(worker, async move |worker| {
            worker.sessions(&which, after, wanted).await
        });
        let sights = ask.await.unwrap_or_default().into_iter();
        found.extend(sights.map(|sight| {
            (
                Id {
                    worker,
                    number: sight.number,
                },
                sight,
            )
        }));
        if found.len() >= limit {
            break;
        }
    }
    found
}

async fn show(State(seen): Shared, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<Id>() else {
        return unknown(&id);
    };
    let which = Which {
        number: Some(id.number),
        ..Which::default()
    };
    let sights = seen.workers.ask(id.worker, async move |worker| {
        worker.sessions(&which, 0, 1).await
    });
    match sights.await.unwrap_or_default().first() {
        Some(sight) => answer(&as_json(id, sight)),
        None => unknown(&id),
    }
}

async fn close(State(seen): Shared, Path(id): Path<String>, Query(given): Given) -> Response {
    let mut parameters = Parameters::new(given);
    let said = goodbye(&mut parameters).and_then(|said| parameters.finish().map(|()| said));
    let goodbye = match said {
        Ok(goodbye) => goodbye,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error),
    };
    let Ok(id) = id.parse::<Id>() else {
        return unknown(&id);
    };
    let which = Which {
        number: Some(id.number),
        ..Which::default()
    };
    let closed = seen.workers.ask(id.worker, async move |worker| {
        worker.close_sessions(&which, &goodbye).await
    });
    match closed.await {
        Some(closed @ 1..) => answer(&json!({ "closed": closed })),
        _ => unknown(&id),
    }
}

async fn close_those(State(seen): Shared, Query(given): Given) -> Response {
    let (which, goodbye) = match those(given) {
        Ok(those) => those,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error),
    };
    let mut closed = 0;
    for worker in 0..seen.workers.count() {
        let (which, goodbye) = (which.clone(), goodbye.clone());
        let ask = seen.workers.ask(worker, async move |worker| {
            worker.close_sessions(&which, &goodbye).await
        });
        closed += ask.await.unwrap_or(0);
    }
    answer(&json!({ "closed": closed }))
}

fn those(given: BTreeMap<String, String>) -> Result<(Which, Goodbye), String> {
    let mut parameters = Parameters::new(given);
    let goodbye = goodbye(&mut parameters)?;
    let which = which(&mut parameters)?;
    let all = parameters.read("all", "`true`", |text| (text == "true").then_some(()))?;
    parameters.finish()?;
    if which.is_all() && all.is_none() {
        let by = "`site`, `route`, `plugin`, `client`, `endpoint`, `older_than` or `idle_for`";
        return Err(format!(
            "say which sessions, by {by}, or `all=true` (`--all`)"
        ));
    }
    Ok((which, goodbye))
}

fn which(parameters: &mut Parameters) -> Result<Which, String> {
    let network = "an address or a network such as `10.0.0.0/8`";
    Ok(Which {
        number: None,
        site: parameters.text("site"),
        route: parameters.text("route"),
        plugin: parameters.text("plugin"),
        client: parameters.read("client", network, Network::parse)?,
        endpoint: parameters.text("endpoint"),
        older_than: parameters.duration("older_than")?,
        idle_for: parameters.duration("idle_for")?,
    })
}

fn goodbye(parameters: &mut Parameters) -> Result<Goodbye, String> {
    let code = "a code that may be sent, such as `1001` or `4000`";
    let code = parameters.read("code", code, |text| CloseCode::new(text.parse().ok()?))?;
    let reason = format!("at most {MAX_REASON} bytes");
    let reason = parameters.read("reason", &reason, |text| {
        (text.len() <= MAX_REASON).then(|| text.to_owned())
    })?;
    Ok(Goodbye {
        code: code.unwrap_or(CloseCode::GOING_AWAY),
        reason: reason.unwrap_or_default(),
    })
}

fn unknown(id: &dyn fmt::Display) -> Response {
    let error = format!("no session `{id}` is open");
    refusal(StatusCode::NOT_FOUND, &error)
}

fn as_json(id: Id, sight: &Sight) -> Value {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let plugins = sight.plugins.iter();
    let plugin = |(name, version): &(Arc<str>, u64)| json!({ "name": **name, "version": version });
    let sides =
        |[client, service]: [u64; 2]| json!({ "from_client": client, "from_service": service });
    let opened = SystemTime::now().checked_sub(sight.age);
    json!({
        "id": id.to_string(),
        "kind": if sight.is_websocket { "websocket" } else { "tunnel" },
        "client": sight.client.to_string(),
        "site": *sight.site,
        "route": *sight.route,
        "endpoint": *sight.endpoint,
        "plugins": plugins.map(plugin).collect::<Vec<_>>(),
        "request_id": sight.request_id.map(|id| format!("{id:032x}")),
        "opened_at": opened.map(seconds),
        "age_ms": millis(sight.age),
        "idle_ms": millis(sight.idle),
        "bytes": sides(sight.figures.bytes),
        "messages": sides(sight.figures.messages),
    })
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.worker, self.number)
    }
}

impl FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (worker, number) = text.split_once('-').ok_or(())?;
        Ok(Self {
            worker: worker.parse().map_err(drop)?,
            number: number.parse().map_err(drop)?,
        })
    }
}
