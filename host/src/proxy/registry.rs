//! The sessions that a worker has open, as operators see them: who they are, what has passed, and how one
//! is ended from outside.
//!
//! An entry belongs to the watch of its session (`sweep.rs`), so there is no second list to keep. The
//! session writes what has passed where it notes activity anyway.

use std::cell::{Cell, RefCell};
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::sweep::{Moment, Sweep};
use super::worker::Worker;
use crate::protocol::close::CloseCode;

/// Entries that are looked at before the worker's other tasks get a turn.
const ENTRIES_AT_ONCE: usize = 2048;

/// One session.
pub(crate) struct Entry {
    /// Counts from 1 on each worker. Set by [`Sweep::watch_session`].
    pub(super) number: u64,
    pub(super) opened: Moment,
    pub(crate) client: SocketAddr,
    pub(crate) site: Arc<str>,
    pub(crate) route: Arc<str>,
    pub(crate) endpoint: Arc<str>,
    /// What `$request_id` stood for, if somebody asked.
    pub(crate) request_id: Option<Box<u128>>,
    pub(crate) is_websocket: bool,
    /// The plugins that see its messages, and the version of each that it is on.
    pub(super) plugins: RefCell<Box<[PluginVersion]>>,
    pub(super) figures: Cell<Figures>,
    pub(super) goodbye: Cell<Option<Box<Goodbye>>>,
}

/// A plugin and the number of one of its versions.
pub(crate) type PluginVersion = (Arc<str>, u64);

/// What has passed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    /// From the client and from the service.
    pub(crate) bytes: [u64; 2],
    pub(crate) messages: [u64; 2],
}

/// With what a session is to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Goodbye {
    pub(crate) code: CloseCode,
    pub(crate) reason: String,
}

/// Which sessions are meant: those of which all that is given is true.
#[derive(Debug, Clone, Default)]
pub(crate) struct Which {
    pub(crate) number: Option<u64>,
    /// First name of the site.
    pub(crate) site: Option<String>,
    /// The pattern as written.
    pub(crate) route: Option<String>,
    /// One that sees its messages.
    pub(crate) plugin: Option<String>,
    pub(crate) client: Option<Network>,
    pub(crate) endpoint: Option<String>,
    pub(crate) older_than: Option<Duration>,
    pub(crate) idle_for: Option<Duration>,
}

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    /// Bits that count.
    length: u32,
}

/// A session as it was when somebody asked.
#[derive(Debug)]
pub(crate) struct Sight {
    pub(crate) number: u64,
    pub(crate) client: SocketAddr,
    pub(crate) site: Arc<str>,
    pub(crate) route: Arc<str>,
    pub(crate) endpoint: Arc<str>,
    pub(crate) request_id: Option<u128>,
    pub(crate) is_websocket: bool,
    pub(crate) plugins: Box<[PluginVersion]>,
    pub(crate) age: Duration,
    pub(crate) idle: Duration,
    pub(crate) figures: Figures,
}

impl Entry {
    pub(crate) fn new(
        client: SocketAddr,
        (site, route): (&Arc<str>, &Arc<str>),
        endpoint: &Arc<str>,
        request_id: Option<u128>,
        is_websocket: bool,
    ) -> Box<Self> {
        Box::new(Self {
            number: 0,
            opened: Moment::default(),
            client,
            site: site.clone(),
            route: route.clone(),
            endpoint: endpoint.clone(),
            request_id: request_id.map(Box::new),
            is_websocket,
            plugins: RefCell::default(),
            figures: Cell::default(),
            goodbye: Cell::default(),
        })
    }

    /// Returns how it looks. `idle`: for how long nothing has passed.
    pub(super) fn sight(&self, now: Moment, idle: Duration) -> Sight {
        Sight {
            number: self.number,
            client: self.client,
            site: self.site.clone(),
            route: self.route.clone(),
            endpoint: self.endpoint.clone(),
            request_id: self.request_id.as_deref().copied(),
            is_websocket: self.is_websocket,
            plugins: self.plugins.borrow().clone(),
            age: now.since(self.opened),
            idle,
            figures: self.figures.get(),
        }
    }
}

impl Which {
    /// Whether nothing is given, so that all are meant.
    pub(crate) fn is_all(&self) -> bool {
        let Self {
            number,
            site,
            route,
            plugin,
            client,
            endpoint,
            older_than,
            idle_for,
        } = self;
        let texts = [site, route, plugin, endpoint];
        let durations = [older_than, idle_for];
        number.is_none()
            && texts.into_iter().all(Option::is_none)
            && client.is_none()
            && durations.into_iter().all(Option::is_none)
    }

    fn is(&self, entry: &Entry, now: Moment, idle: Duration) -> bool {
        let same =
            |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let plugins = || entry.plugins.borrow();
        let has_plugin = |name: &str| plugins().iter().any(|(plugin, _)| **plugin == *name);
        self.number.is_none_or(|number| number == entry.number)
            && same(&self.site, &entry.site)
            && same(&self.route, &entry.route)
            && same(&self.endpoint, &entry.endpoint)
            && self.plugin.as_deref().is_none_or(has_plugin)
            && self
                .client
                .is_none_or(|network| network.has(entry.client.ip()))
            && self
                .older_than
                .is_none_or(|least| now.since(entry.opened) >= least)
            && self.idle_for.is_none_or(|least| idle >= least)
    }
}

impl Network {
    /// Reads an address, or a network such as `10.0.0.0/8`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            None => (text, None),
            Some((address, length)) => (address, Some(length.parse().ok()?)),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(most);
        (length <= most).then_some(Self { address, length })
    }

    fn has(self, address: IpAddr) -> bool {
        let differ = match (self.address, address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                u128::from(one.to_bits() ^ other.to_bits()) >> (32 - self.length)
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                let differ = one.to_bits() ^ other.to_bits();
                differ.checked_shr(128 - self.length).unwrap_or(0)
            }
            _ => return false,
        };
        differ == 0
    }
}

impl Worker {
    /// Returns the sessions that are meant, in the order of their numbers, from after `after` on and
    /// `limit` at most.
    pub(crate) async fn sessions(&self, which: &Which, after: u64, limit: usize) -> Vec<Sight> {
        // The greatest of them on top, to make room for a lesser one.
        let mut first: BinaryHeap<(u64, usize)> = BinaryHeap::new();
        self.look(|key, entry, now, idle| {
            let is_meant = entry.number > after && which.is(entry, now, idle);
            let has_room = first.len() < limit;
            if is_meant && (has_room || first.peek().is_some_and(|most| entry.number < most.0)) {
                if !has_room {
                    first.pop();
                }
                first.push((entry.number, key));
            }
        })
        .await;
        let first = first.into_sorted_vec().into_iter();
        first
            .filter_map(|(number, key)| self.sweep.sight(key, number))
            .collect()
    }

    /// Closes the sessions that are meant. Returns how many there are.
    pub(crate) async fn close_sessions(&self, which: &Which, goodbye: &Goodbye) -> usize {
        let mut keys = Vec::new();
        self.look(|key, entry, now, idle| {
            if which.is(entry, now, idle) {
                keys.push((key, entry.number));
            }
        })
        .await;
        let said = keys.into_iter();
        said.filter(|&(key, number)| self.sweep.bid_goodbye(key, number, goodbye))
            .count()
    }

    /// Looks at all entries: a few at a time, so that those that have something to say do not wait.
    async fn look(&self, mut look: impl FnMut(usize, &Entry, Moment, Duration)) {
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.sweep.entries(from, ENTRIES_AT_ONCE, &mut look);
            tokio::task::yield_now().await;
        }
    }

    /// Tells the sessions that are open to end, one after the other over `spread`, so that their clients
    /// do not come back all at once. The first is told at once.
    pub(crate) async fn dismiss_sessions(&self, spread: Duration) {
        let keys = self.sweep.session_keys();
        let begin = tokio::time::Instant::now();
        let count = keys.len().max(1);
        for (place, (key, number)) in keys.into_iter().enumerate() {
            let at = begin + spread.mul_f64(place as f64 / count as f64);
            // Several are due at each look.
            if at > tokio::time::Instant::now() {
                tokio::time::sleep_until(at).await;
            }
            self.sweep.dismiss(key, number);
        }
    }
}

impl Sweep {
    /// Returns the places and numbers of all sessions, in the order of their numbers.
    fn session_keys(&self) -> Vec<(usize, u64)> {
        let mut keys = Vec::new();
        self.entries(0, usize::MAX, &mut |key, entry: &Entry, _, _| {
            keys.push((key, entry.number));
        });
        keys.sort_by_key(|(_, number)| *number);
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every open session has one, for all its life.
    #[test]
    fn an_entry_is_small() {
        let size = size_of::<Entry>();
        assert!(size <= 184, "{size} bytes");
    }

    #[test]
    fn networks_have_the_addresses_that_begin_like_them() {
        let rows = [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("10.0.0.0/8", "10.9.8.7", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "fe80::1", true),
            ("fe80::/10", "fe80::1", true),
            ("fe80::/10", "fc00::1", false),
            ("::1", "::1", true),
        ];
        for (network, address, has) in rows {
            let parsed = Network::parse(network).unwrap();
            assert_eq!(
                parsed.has(address.parse().unwrap()),
                has,
                "{network} {address}"
            );
        }
        for wrong in [
            "",
            "here",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }
}
