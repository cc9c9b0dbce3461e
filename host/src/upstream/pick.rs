//! The choice of an endpoint by smooth weighted round-robin, as nginx makes it.
//!
//! Whether an endpoint is up is `health.rs`'s knowledge. A plugin's choice comes in as an index,
//! carried by the session; this module never meets a plugin.

use std::cell::RefCell;

use foldhash::HashMap;

use super::{Endpoint, Upstream, health};

/// Indices of the endpoints already tried for a request.
pub(crate) type Tried = Vec<usize>;

/// The order in which one worker goes round, per upstream.
pub(crate) struct Balancer {
    /// Picks by which this worker is ahead of the first, so that a few long tunnels still spread.
    offset: usize,
    rounds: RefCell<HashMap<u32, Vec<Turn>>>,
}

/// State of one endpoint in the round.
#[derive(Clone, Copy)]
struct Turn {
    current: i64,
    effective: i64,
}

impl Balancer {
    pub(crate) fn new(offset: usize) -> Self {
        Self {
            offset,
            rounds: RefCell::default(),
        }
    }

    /// Forgets upstreams that no generation in force has.
    pub(crate) fn retain(&self, in_force: impl Fn(u32) -> bool) {
        self.rounds.borrow_mut().retain(|id, _| in_force(*id));
    }

    /// Takes the endpoint whose turn it is among those that are up and untried; backups only when
    /// every other one is out. None: there is nothing left to try.
    pub(crate) fn pick(&self, upstream: &Upstream, tried: &Tried) -> Option<usize> {
        let now = health::now();
        let mut rounds = self.rounds.borrow_mut();
        let turns = rounds.entry(upstream.id).or_insert_with(|| {
            let mut turns = fresh(upstream);
            for _ in 0..self.offset % upstream.endpoints.len().max(1) {
                turn(upstream, &mut turns, |endpoint| !endpoint.backup);
            }
            turns
        });
        for backup in [false, true] {
            // A lost race for the one probe of an endpoint that failed leaves the others.
            let mut lost = Vec::new();
            while let Some(index) = turn_where(upstream, turns, |index, endpoint| {
                endpoint.backup == backup
                    && !tried.contains(&index)
                    && !lost.contains(&index)
                    && upstream.is_up(endpoint, now)
            }) {
                if upstream.claim(&upstream.endpoints[index], now) {
                    return Some(index);
                }
                lost.push(index);
            }
        }
        None
    }

    /// Lowers the share of an endpoint that failed; it grows back with each round.
    pub(crate) fn failed(&self, upstream: &Upstream, index: usize) {
        let endpoint = &upstream.endpoints[index];
        upstream.endpoints[index]
            .state
            .health
            .failure(health::now());
        if let Some(turns) = self.rounds.borrow_mut().get_mut(&upstream.id)
            && let Some(turn) = turns.get_mut(index)
            && endpoint.max_fails > 0
        {
            let cut = i64::from(endpoint.weight / endpoint.max_fails);
            turn.effective = (turn.effective - cut).max(0);
        }
    }
}

impl Upstream {
    /// Returns the endpoints that may be chosen now: up, untried, and backups only if alone.
    pub(crate) fn candidates(&self, tried: &Tried) -> Vec<usize> {
        let now = health::now();
        let of = |backup| {
            self.endpoints
                .iter()
                .enumerate()
                .filter(move |(index, endpoint)| {
                    endpoint.backup == backup && !tried.contains(index) && self.is_up(endpoint, now)
                })
                .map(|(index, _)| index)
        };
        let primaries: Vec<_> = of(false).collect();
        if primaries.is_empty() {
            of(true).collect()
        } else {
            primaries
        }
    }

    /// Takes an endpoint that someone else chose. False if it is out, or its one probe went to another
    /// request.
    pub(crate) fn take(&self, index: usize) -> bool {
        let (endpoint, now) = (&self.endpoints[index], health::now());
        self.is_up(endpoint, now) && self.claim(endpoint, now)
    }

    /// As in nginx, a group with a single server is never marked down: there is nothing to gain.
    fn is_up(&self, endpoint: &Endpoint, now: u64) -> bool {
        self.endpoints.len() == 1
            || endpoint
                .state
                .health
                .is_up(endpoint.max_fails, endpoint.fail_timeout, now)
    }

    fn claim(&self, endpoint: &Endpoint, now: u64) -> bool {
        self.endpoints.len() == 1
            || endpoint
                .state
                .health
                .claim(endpoint.max_fails, endpoint.fail_timeout, now)
    }
}

fn fresh(upstream: &Upstream) -> Vec<Turn> {
    let turn = |endpoint: &Endpoint| Turn {
        current: 0,
        effective: i64::from(endpoint.weight),
    };
    upstream.endpoints.iter().map(turn).collect()
}

fn turn(upstream: &Upstream, turns: &mut [Turn], may: impl Fn(&Endpoint) -> bool) -> Option<usize> {
    turn_where(upstream, turns, |_, endpoint| may(endpoint))
}

/// One step of smooth weighted round-robin: everyone gains its effective weight, the first of those
/// with most is taken and pays the total.
fn turn_where(
    upstream: &Upstream,
    turns: &mut [Turn],
    may: impl Fn(usize, &Endpoint) -> bool,
) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for (index, (endpoint, turn)) in upstream.endpoints.iter().zip(turns.iter_mut()).enumerate() {
        if !may(index, endpoint) {
            continue;
        }
        turn.current += turn.effective;
        total += turn.effective;
        if turn.effective < i64::from(endpoint.weight) {
            turn.effective += 1;
        }
        if best.is_none_or(|(_, most)| turn.current > most) {
            best = Some((index, turn.current));
        }
    }
    let (index, _) = best?;
    turns[index].current -= total;
    Some(index)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config;

    fn upstream(weights: &[(u32, bool)]) -> Upstream {
        let endpoints = (1u16..)
            .zip(weights)
            .map(|(port, &(weight, backup))| config::Endpoint {
                address: ([127, 0, 0, 1], port).into(),
                weight,
                max_fails: 1,
                fail_timeout: Duration::from_secs(10),
                backup,
            });
        let settings = config::Upstream {
            name: "test".into(),
            endpoints: endpoints.collect(),
            balance: config::Balance::RoundRobin,
            keep_alive: 0,
            keep_alive_timeout: Duration::ZERO,
            tls: None,
        };
        Upstream::new(&settings, None).unwrap()
    }

    fn picks(balancer: &Balancer, upstream: &Upstream, count: usize) -> String {
        let name = |_| {
            let index = balancer.pick(upstream, &vec![]).unwrap();
            char::from(b'a' + u8::try_from(index).unwrap())
        };
        (0..count).map(name).collect()
    }

    #[test]
    fn weights_5_1_1_give_a_smooth_order() {
        let upstream = upstream(&[(5, false), (1, false), (1, false)]);
        assert_eq!(picks(&Balancer::new(0), &upstream, 14), "aabacaaaabacaa");
    }

    #[test]
    fn equal_endpoints_alternate_and_workers_start_apart() {
        let upstream = upstream(&[(1, false), (1, false)]);
        assert_eq!(picks(&Balancer::new(0), &upstream, 4), "abab");
        assert_eq!(picks(&Balancer::new(1), &upstream, 4), "baba");
    }

    #[test]
    fn equal_weights_of_50_behave_as_1() {
        let upstream = upstream(&[(50, false); 4]);
        assert_eq!(picks(&Balancer::new(0), &upstream, 8), "abcdabcd");
    }

    #[test]
    fn backups_serve_only_when_every_other_endpoint_is_out() {
        let upstream = upstream(&[(1, false), (1, false), (1, true)]);
        let balancer = Balancer::new(0);
        assert_eq!(picks(&balancer, &upstream, 4), "abab");
        balancer.failed(&upstream, 0);
        assert_eq!(picks(&balancer, &upstream, 2), "bb");
        balancer.failed(&upstream, 1);
        assert_eq!(picks(&balancer, &upstream, 2), "cc");
        balancer.failed(&upstream, 2);
        assert_eq!(balancer.pick(&upstream, &vec![]), None);
    }

    #[test]
    fn what_was_tried_is_not_picked_again() {
        let upstream = upstream(&[(1, false), (1, false)]);
        let balancer = Balancer::new(0);
        assert_eq!(balancer.pick(&upstream, &vec![0]), Some(1));
        assert_eq!(balancer.pick(&upstream, &vec![0, 1]), None);
        assert_eq!(upstream.candidates(&vec![0]), [1]);
    }

    #[test]
    fn a_single_endpoint_is_never_out() {
        let upstream = upstream(&[(1, false)]);
        let balancer = Balancer::new(0);
        balancer.failed(&upstream, 0);
        assert_eq!(balancer.pick(&upstream, &vec![]), Some(0));
    }
}
