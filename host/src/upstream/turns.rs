//! Whose turn it is: smooth weighted round-robin, and the fewest connections for the weight, as nginx
//! has them.
//!
//! Which endpoints are among them is the caller's decision.

use super::{Endpoint, Upstream};

/// Weights are counted in these, so that a part of a weight of 1 can be told.
const UNIT: i64 = 1 << 10;

/// State of one endpoint in the round. In [`UNIT`]s.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    current: i64,
    effective: i64,
}

/// Whether an endpoint has more open for its weight than another one.
pub(super) fn is_busier(one: &Endpoint, other: &Endpoint, now: u64) -> bool {
    load(one, other, now) > load(other, one, now)
}

/// Returns the open ones of an endpoint over its weight, as a number to compare with that of the other:
/// both are multiplied by the weights of both.
fn load(endpoint: &Endpoint, other: &Endpoint, now: u64) -> i128 {
    i128::from(endpoint.state.open()) * i128::from(weight(other, now))
}

/// Returns the weight that counts at `now`, in [`UNIT`]s.
fn weight(endpoint: &Endpoint, now: u64) -> i64 {
    endpoint.ramped(i64::from(endpoint.weight) * UNIT, now)
}

pub(super) fn fresh(upstream: &Upstream) -> Vec<Turn> {
    let turn = |endpoint: &Endpoint| Turn {
        current: 0,
        effective: i64::from(endpoint.weight) * UNIT,
    };
    upstream.endpoints.iter().map(turn).collect()
}

/// One step of smooth weighted round-robin: everyone gains its effective weight, the first of those
/// with most is taken and pays the total.
pub(super) fn turn(
    upstream: &Upstream,
    turns: &mut [Turn],
    now: u64,
    may: impl Fn(usize, &Endpoint) -> bool,
) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for (index, (endpoint, turn)) in upstream.endpoints.iter().zip(turns.iter_mut()).enumerate() {
        if !may(index, endpoint) {
            continue;
        }
        total += turn.gain(endpoint, now);
        if best.is_none_or(|(_, most)| turn.current > most) {
            best = Some((index, turn.current));
        }
    }
    let (index, _) = best?;
    turns[index].current -= total;
    Some(index)
}

/// Takes the endpoint with the fewest open for its weight. Between several, it is whose turn it is.
pub(super) fn least(
    upstream: &Upstream,
    turns: &mut [Turn],
    now: u64,
    may: impl Fn(usize, &Endpoint) -> bool,
) -> Option<usize> {
    let endpoints = &upstream.endpoints;
    let mut best: Option<usize> = None;
    let mut many = false;
    for (index, endpoint) in endpoints.iter().enumerate() {
        if !may(index, endpoint) {
            continue;
        }
        let Some(other) = best.map(|best| &endpoints[best]) else {
            best = Some(index);
            continue;
        };
        if is_busier(other, endpoint, now) {
            best = Some(index);
            many = false;
        } else if !is_busier(endpoint, other, now) {
            many = true;
        }
    }
    let best = best?;
    if !many {
        return Some(best);
    }
    let as_free = |index: usize, endpoint: &Endpoint| {
        index == best || may(index, endpoint) && !is_busier(endpoint, &endpoints[best], now)
    };
    turn(upstream, turns, now, as_free)
}

impl Turn {
    /// Adds to what the endpoint has gained, and returns how much.
    fn gain(&mut self, endpoint: &Endpoint, now: u64) -> i64 {
        let gained = endpoint.ramped(self.effective, now);
        self.current += gained;
        if self.effective < i64::from(endpoint.weight) * UNIT {
            self.effective += UNIT;
        }
        gained
    }

    /// Lowers the share of an endpoint that failed; it grows back with each round.
    pub(super) fn cut(&mut self, endpoint: &Endpoint) {
        let cut = i64::from(endpoint.weight / endpoint.max_fails) * UNIT;
        self.effective = (self.effective - cut).max(0);
    }
}
