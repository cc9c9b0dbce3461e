//! From a client's address or a key to an endpoint, by the functions that nginx has for it, so that both
//! proxies send the same client to the same service.
//!
//! Whether that endpoint is up is `pick.rs`'s question.

use std::io::Write;
use std::net::IpAddr;

use crc32fast::Hasher;

use super::Endpoint;

/// Points on the ring for each unit of weight.
const POINTS: u32 = 160;

/// What a request's key comes to. The key itself is not kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Key {
    crc: u32,
    length: u64,
}

/// The points of the endpoints on a circle of 32-bit numbers. A key belongs to the next point.
pub(crate) struct Ring {
    /// By their place.
    points: Box<[Point]>,
    /// Endpoints by what they are written as: the addresses of one name share its points.
    groups: Box<[Box<[usize]>]>,
}

struct Point {
    place: u32,
    group: u32,
}

/// Goes on with the hash of a client's address; 89 begins it.
pub(super) fn ip_hash(hash: u32, client: IpAddr) -> u32 {
    let step = |hash, octet: &u8| (hash * 113 + u32::from(*octet)) % 6271;
    match client {
        IpAddr::V4(v4) => v4.octets()[..3].iter().fold(hash, step),
        IpAddr::V6(v6) => v6.octets().iter().fold(hash, step),
    }
}

impl Key {
    /// Hashes a key.
    pub(crate) fn new(key: &[u8]) -> Self {
        Self {
            crc: crc32fast::hash(key),
            length: key.len() as u64,
        }
    }

    /// Whether there was nothing to hash.
    pub(super) fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Returns what attempt number `attempt` adds to the hash, as Cache::Memcached has it: from the
    /// second on, the number stands before the key.
    pub(super) fn hash(self, attempt: u32) -> u32 {
        let mut hasher = Hasher::new_with_initial_len(self.crc, self.length);
        if attempt > 0 {
            let mut digits = [0; 10];
            let mut rest = &mut digits[..];
            // Ten digits hold every u32.
            let written = write!(rest, "{attempt}").map_or(0, |()| 10 - rest.len());
            let mut prefixed = Hasher::new();
            prefixed.update(&digits[..written]);
            prefixed.combine(&hasher);
            hasher = prefixed;
        }
        hasher.finalize() >> 16 & 0x7fff
    }
}

impl Ring {
    /// Places the endpoints on the ring, as Cache::Memcached::Fast does.
    pub(super) fn new(endpoints: &[Endpoint]) -> Self {
        let mut groups: Vec<(&str, Vec<usize>)> = Vec::new();
        let mut points = Vec::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let written = endpoint.written.as_str();
            if let Some((_, group)) = groups.iter_mut().find(|(other, _)| *other == written) {
                group.push(index);
                continue;
            }
            let group = u32::try_from(groups.len()).unwrap_or(u32::MAX);
            groups.push((written, vec![index]));
            points.extend(places(written, endpoint.weight).map(|place| Point { place, group }));
        }
        points.sort_by_key(|point| point.place);
        points.dedup_by_key(|point| point.place);
        Self {
            points: points.into(),
            groups: groups.into_iter().map(|(_, group)| group.into()).collect(),
        }
    }

    /// Returns the number of the point that a key belongs to.
    pub(super) fn find(&self, key: Key) -> u32 {
        let next = self.points.partition_point(|point| point.place < key.crc);
        u32::try_from(next).unwrap_or_default()
    }

    /// Returns the endpoints of a point, whose numbers go round.
    pub(super) fn at(&self, number: u32) -> &[usize] {
        let point = &self.points[number as usize % self.points.len()];
        &self.groups[point.group as usize]
    }
}

/// Returns the places of an endpoint, each of which depends on the one before.
fn places(written: &str, weight: u32) -> impl Iterator<Item = u32> {
    let (host, port) = written.rsplit_once(':').unwrap_or((written, ""));
    let mut base = Hasher::new();
    base.update(host.as_bytes());
    base.update(&[0]);
    base.update(port.as_bytes());
    let mut last = 0u32;
    (0..weight * POINTS).map(move |_| {
        let mut hasher = base.clone();
        hasher.update(&last.to_le_bytes());
        last = hasher.finalize();
        last
    })
}
