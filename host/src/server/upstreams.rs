//! The part of the admin listener about upstreams: how endpoints are, taking them out, and their weights.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tracing::info;

use super::admin::{Seen, Shared, answer, refusal};
use super::parameters::Parameters;
use super::reload::SetWeight;
use crate::generation::Generation;
use crate::upstream::{EndpointReport, Upstream};

/// Largest weight that can be set by hand: points on a ring are made for each unit of it.
const MAX_WEIGHT: u32 = 1000;

pub(super) fn routes() -> Router<Arc<Seen>> {
    Router::new()
        .route("/v1/upstreams", get(list))
        .route("/v1/upstreams/{name}", get(show))
        .route(
            "/v1/upstreams/{name}/endpoints/{address}/drain",
            post(drain),
        )
        .route(
            "/v1/upstreams/{name}/endpoints/{address}/undrain",
            post(undrain),
        )
        .route(
            "/v1/upstreams/{name}/endpoints/{address}/weight",
            post(weigh),
        )
}

/// An upstream and an endpoint of it.
type Place = Path<(String, String)>;

async fn list(State(seen): Shared) -> Response {
    let generation = seen.in_force.load();
    let upstreams = generation.upstreams.iter();
    let upstreams: Vec<_> = upstreams.map(|upstream| as_json(upstream)).collect();
    answer(&json!({ "upstreams": upstreams }))
}

async fn show(State(seen): Shared, Path(name): Path<String>) -> Response {
    let generation = seen.in_force.load();
    match named(&generation, &name).next() {
        Some(upstream) => answer(&as_json(upstream)),
        None => unknown(&generation, &name, ""),
    }
}

async fn drain(State(seen): Shared, Path(place): Place) -> Response {
    set_drained(&seen, &place, true)
}

async fn undrain(State(seen): Shared, Path(place): Place) -> Response {
    set_drained(&seen, &place, false)
}

fn set_drained(seen: &Seen, (name, endpoint): &(String, String), drained: bool) -> Response {
    let generation = seen.in_force.load();
    let upstreams = named(&generation, name);
    let found: usize = upstreams
        .map(|upstream| upstream.set_drained(endpoint, drained))
        .sum();
    if found == 0 {
        return unknown(&generation, name, endpoint);
    }
    let what = if drained {
        "endpoint drained"
    } else {
        "endpoint drained no more"
    };
    info!(upstream = name, endpoint, "{what}");
    answer(&json!({ "upstream": name, "endpoint": endpoint, "drained": drained }))
}

async fn weigh(
    State(seen): Shared,
    Path((upstream, endpoint)): Place,
    Query(given): Query<BTreeMap<String, String>>,
) -> Response {
    let weight = match weight(given) {
        Ok(weight) => weight,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error),
    };
    let set = SetWeight {
        upstream: upstream.clone(),
        endpoint: endpoint.clone(),
        weight,
    };
    match seen.control.set_weight(set).await {
        Ok(Some(generation)) => answer(&json!({
            "upstream": upstream,
            "endpoint": endpoint,
            "weight": weight,
            "generation": generation,
        })),
        Ok(None) => unknown(&seen.in_force.load(), &upstream, &endpoint),
        Err(error) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &error),
    }
}

/// None: that of the configuration.
fn weight(given: BTreeMap<String, String>) -> Result<Option<u32>, String> {
    let expected = format!(
        "a whole number from 1 to {MAX_WEIGHT}, or `configured`; with `drain` an endpoint gets nothing"
    );
    let mut parameters = Parameters::new(given);
    let weight = parameters.read("weight", &expected, |text| {
        if text == "configured" {
            return Some(None);
        }
        let weight = text.parse().ok();
        let weight = weight.filter(|weight| (1..=MAX_WEIGHT).contains(weight));
        weight.map(Some)
    })?;
    parameters.finish()?;
    weight.ok_or_else(|| format!("weight: missing; expected {expected}"))
}

/// Those of a name: there may be one with TLS and one without.
fn named<'a>(generation: &'a Generation, name: &str) -> impl Iterator<Item = &'a Arc<Upstream>> {
    let upstreams = generation.upstreams.iter();
    upstreams.filter(move |upstream| upstream.name == name)
}

/// Says what there is in place of what was asked for.
fn unknown(generation: &Generation, name: &str, endpoint: &str) -> Response {
    let endpoints: Vec<_> = named(generation, name)
        .flat_map(|upstream| upstream.report())
        .map(|endpoint| endpoint.address.to_string())
        .collect();
    let error = if endpoints.is_empty() {
        let upstreams = generation.upstreams.iter();
        let names: Vec<_> = upstreams.map(|upstream| &*upstream.name).collect();
        match names.is_empty() {
            true => format!("no upstream `{name}`; the configuration has none"),
            false => format!(
                "no upstream `{name}`; expected one of `{}`",
                names.join("`, `")
            ),
        }
    } else {
        let known = endpoints.join("`, `");
        format!("no endpoint `{endpoint}` in upstream `{name}`; expected one of `{known}`")
    };
    refusal(StatusCode::NOT_FOUND, &error)
}

fn as_json(upstream: &Upstream) -> Value {
    let endpoints = upstream
        .report()
        .map(|endpoint| endpoint_as_json(&endpoint));
    json!({
        "name": upstream.name,
        "balance": upstream.balance_name(),
        "tls": upstream.tls.is_some(),
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn endpoint_as_json(endpoint: &EndpointReport) -> Value {
    let (passed, failed) = endpoint.checks;
    json!({
        "address": endpoint.address.to_string(),
        "written": endpoint.written,
        "up": endpoint.is_up,
        "drained": endpoint.is_drained,
        "down": endpoint.is_down,
        "backup": endpoint.is_backup,
        "weight": endpoint.weight,
        "configured_weight": endpoint.configured_weight,
        "open": endpoint.open,
        "max_connections": endpoint.max_connections,
        "failures": endpoint.failures,
        "healthy": endpoint.is_healthy,
        "checks": endpoint.is_healthy.map(|_| json!({ "passed": passed, "failed": failed })),
    })
}
