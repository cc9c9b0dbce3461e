//! The choice of an endpoint, as nginx makes it.
//!
//! Whether an endpoint is up is `health.rs`'s knowledge, and what an address or a key hashes to is
//! `hash.rs`'s. A plugin's choice comes in as an index, carried by the session; this module never meets a
//! plugin.

use std::cell::RefCell;
use std::net::IpAddr;

use foldhash::HashMap;

use super::hash::{Key, Ring, ip_hash};
use super::turns::{Turn, fresh, is_busier, least, turn};
use super::{Balance, Endpoint, Open, Upstream, health};
use crate::telemetry::EndpointStatus;

/// After so many endpoints that were out, a hash or two draws give way to whose turn it is.
const MISSES: u32 = 20;

/// What `ip-hash` begins with.
const IP_HASH_SEED: u32 = 89;

/// The search of one request for an endpoint, from its first attempt to its last.
pub(crate) struct Search {
    client: IpAddr,
    key: Key,
    /// Where the client's cookie says it belongs.
    sticky: Option<usize>,
    /// Indices of the endpoints that failed.
    tried: Vec<usize>,
    /// As far as the client's address or the key has been hashed.
    hash: Option<u32>,
    /// Hashes of the key so far.
    hashes: u32,
    /// Endpoints found that were out.
    misses: u32,
}

/// The order in which one worker goes round, per upstream.
pub(crate) struct Balancer {
    /// Picks by which this worker is ahead of the first, so that a few long tunnels still spread.
    offset: usize,
    rounds: RefCell<HashMap<u32, Vec<Turn>>>,
}

impl Search {
    /// Begins the search of a client's request.
    pub(crate) fn new(client: IpAddr) -> Self {
        Self {
            client,
            key: Key::default(),
            sticky: None,
            tried: Vec::new(),
            hash: None,
            hashes: 0,
            misses: 0,
        }
    }

    /// Says what the request is chosen by, and where its cookie says that it belongs.
    pub(crate) fn prefer(&mut self, key: Key, sticky: Option<usize>) {
        self.key = key;
        self.sticky = sticky;
    }

    /// Returns what the client's address or the key was hashed to last; for a ring, a place in it.
    pub(crate) fn hash(&self) -> Option<u32> {
        self.hash
    }

    /// Returns where the client's cookie says that it belongs.
    pub(crate) fn sticky(&self) -> Option<usize> {
        self.sticky
    }

    /// Notes that an endpoint failed this request.
    pub(crate) fn failed(&mut self, index: usize) {
        self.tried.push(index);
    }

    fn may_try(&self, index: usize) -> bool {
        !self.tried.contains(&index)
    }

    /// Counts an endpoint that was out. False: there were too many of them.
    fn may_miss(&mut self) -> bool {
        self.misses += 1;
        self.misses <= MISSES
    }
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

    /// Takes an endpoint among those that are up and untried: the one where the client belongs, else as
    /// the upstream shares out requests; backups only when every other one is out. None: there is nothing
    /// left to try.
    pub(crate) fn pick(&self, upstream: &Upstream, search: &mut Search) -> Option<(usize, Open)> {
        let now = health::now();
        for backup in [false, true] {
            let belongs = search.sticky.filter(|&index| {
                upstream.endpoints.get(index).map(|e| e.backup) == Some(backup)
                    && search.may_try(index)
            });
            let taken = belongs
                .and_then(|index| upstream.take_at(index, now))
                .or_else(|| self.led_to(upstream, search, now).filter(|_| !backup))
                .or_else(|| self.whose_turn(upstream, search, backup, now, |_| true));
            if taken.is_some() {
                return taken;
            }
        }
        None
    }

    /// Takes the endpoint that the request itself leads to, or one of two drawn. None: the upstream does
    /// not choose so, or too many that it led to are out.
    fn led_to(&self, upstream: &Upstream, search: &mut Search, now: u64) -> Option<(usize, Open)> {
        match &upstream.balance {
            _ if upstream.endpoints.len() < 2 => None,
            Balance::RoundRobin | Balance::LeastConnections => None,
            Balance::IpHash => upstream.by_hash(search, now, |search| {
                let hash = search.hash.unwrap_or(IP_HASH_SEED);
                ip_hash(hash, search.client)
            }),
            Balance::Hash { .. } | Balance::Ring { .. } if search.key.is_empty() => None,
            Balance::Hash { .. } => upstream.by_hash(search, now, |search| {
                let hash = search.key.hash(search.hashes);
                search.hashes += 1;
                search.hash.unwrap_or(0).wrapping_add(hash)
            }),
            Balance::Ring { ring, .. } => self.by_ring(upstream, ring, search, now),
            Balance::RandomTwo => upstream.by_chance(search, now),
        }
    }

    /// Follows the ring until an endpoint is up.
    fn by_ring(
        &self,
        upstream: &Upstream,
        ring: &Ring,
        search: &mut Search,
        now: u64,
    ) -> Option<(usize, Open)> {
        let mut place = search.hash.unwrap_or_else(|| ring.find(search.key));
        while search.misses <= MISSES {
            search.hash = Some(place);
            let group = ring.at(place);
            let taken = match *group {
                [index] if !search.may_try(index) => None,
                [index] => upstream.take_at(index, now),
                // The addresses of one name take turns.
                _ => self.whose_turn(upstream, search, false, now, |index| group.contains(&index)),
            };
            match taken {
                Some(taken) => return Some(taken),
                None if search.may_miss() => place = place.wrapping_add(1),
                None => break,
            }
        }
        None
    }

    /// Takes the endpoint whose turn it is.
    fn whose_turn(
        &self,
        upstream: &Upstream,
        search: &Search,
        backup: bool,
        now: u64,
        among: impl Fn(usize) -> bool,
    ) -> Option<(usize, Open)> {
        let mut rounds = self.rounds.borrow_mut();
        let turns = rounds.entry(upstream.id).or_insert_with(|| {
            let mut turns = fresh(upstream);
            for _ in 0..self.offset % upstream.endpoints.len().max(1) {
                turn(upstream, &mut turns, now, |_, endpoint| !endpoint.backup);
            }
            turns
        });
        // A lost race for the one probe of an endpoint that failed, or for its last place, leaves the
        // others.
        let mut lost = Vec::new();
        loop {
            let may = |index: usize, endpoint: &Endpoint| {
                endpoint.backup == backup
                    && among(index)
                    && search.may_try(index)
                    && !lost.contains(&index)
                    && upstream.is_available(endpoint, now)
            };
            let index = match upstream.balance {
                Balance::LeastConnections => least(upstream, turns, now, may)?,
                _ => turn(upstream, turns, now, may)?,
            };
            match upstream.claim(index, now) {
                Some(taken) => return Some(taken),
                None => lost.push(index),
            }
        }
    }

    /// Lowers the share of an endpoint that failed; it grows back with each round. Returns whether the
    /// failure takes it out.
    pub(crate) fn failed(&self, upstream: &Upstream, index: usize) -> bool {
        let endpoint = &upstream.endpoints[index];
        let failures = endpoint.state.health.failure(health::now());
        if let Some(turns) = self.rounds.borrow_mut().get_mut(&upstream.id)
            && let Some(turn) = turns.get_mut(index)
            && endpoint.max_fails > 0
        {
            turn.cut(endpoint);
        }
        failures == endpoint.max_fails && !upstream.is_alone()
    }
}

impl Upstream {
    /// Returns what a scrape tells of the endpoints.
    pub(crate) fn status(&self) -> impl Iterator<Item = EndpointStatus> {
        let now = health::now();
        self.endpoints.iter().map(move |endpoint| EndpointStatus {
            upstream: self.name.clone(),
            address: endpoint.address,
            is_up: endpoint.is_up(self.is_alone(), now),
            checks: self.health.as_ref().map(|_| endpoint.state.health.checks()),
        })
    }

    /// Returns the endpoints that may be chosen now: up, untried, and backups only if alone.
    pub(crate) fn candidates(&self, search: &Search) -> Vec<usize> {
        let now = health::now();
        let of = |backup| {
            self.endpoints
                .iter()
                .enumerate()
                .filter(move |(index, endpoint)| {
                    endpoint.backup == backup
                        && search.may_try(*index)
                        && self.is_available(endpoint, now)
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

    /// Takes an endpoint that someone else chose. None if it is out, or its one probe or its last place
    /// went to another request.
    pub(crate) fn take(&self, index: usize) -> Option<(usize, Open)> {
        self.take_at(index, health::now())
    }

    fn take_at(&self, index: usize, now: u64) -> Option<(usize, Open)> {
        let is_available = self.is_available(&self.endpoints[index], now);
        is_available.then(|| self.claim(index, now)).flatten()
    }

    fn is_available(&self, endpoint: &Endpoint, now: u64) -> bool {
        endpoint.is_available(self.is_alone(), now)
    }

    fn claim(&self, index: usize, now: u64) -> Option<(usize, Open)> {
        let open = self.endpoints[index].claim(self.is_alone(), now)?;
        Some((index, open))
    }

    /// As in nginx, a group with a single server is never marked down: there is nothing to gain.
    fn is_alone(&self) -> bool {
        self.endpoints.len() == 1
    }

    /// Hashes until an endpoint is up.
    fn by_hash(
        &self,
        search: &mut Search,
        now: u64,
        mut next: impl FnMut(&mut Search) -> u32,
    ) -> Option<(usize, Open)> {
        while search.misses <= MISSES {
            let hash = next(search);
            search.hash = Some(hash);
            let index = self.at_weight(u64::from(hash) % self.total_weight);
            let taken = search.may_try(index).then(|| self.take_at(index, now));
            match taken.flatten() {
                Some(taken) => return Some(taken),
                None if search.may_miss() => {}
                None => break,
            }
        }
        None
    }

    /// Draws two endpoints that are up, and takes the one with fewer open for its weight.
    fn by_chance(&self, search: &mut Search, now: u64) -> Option<(usize, Open)> {
        let mut first: Option<usize> = None;
        while search.misses <= MISSES {
            let index = self.at_weight(fastrand::u64(..self.total_weight));
            let endpoint = &self.endpoints[index];
            let is_fit =
                first != Some(index) && search.may_try(index) && self.is_available(endpoint, now);
            match first {
                Some(other) if is_fit => {
                    let fewer = if is_busier(endpoint, &self.endpoints[other], now) {
                        other
                    } else {
                        index
                    };
                    if let Some(taken) = self.claim(fewer, now) {
                        return Some(taken);
                    }
                }
                None if is_fit => {
                    first = Some(index);
                    continue;
                }
                _ => {}
            }
            if !search.may_miss() {
                break;
            }
        }
        None
    }

    /// Returns the endpoint at a place below `total_weight`, laid end to end by weight.
    fn at_weight(&self, mut place: u64) -> usize {
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            match place.checked_sub(endpoint.weight.into()) {
                Some(rest) => place = rest,
                None => return index,
            }
        }
        0
    }
}
