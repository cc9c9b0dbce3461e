//! One address of an upstream, and what all workers know of it while they run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tracing::info;

use super::Before;
use super::health::{self, Health};
use crate::config;

/// One address of an upstream.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// [`Self::address`] as text.
    pub(crate) name: Arc<str>,
    /// Host and port as the configuration has them.
    pub(super) written: String,
    pub(crate) weight: u32,
    /// The configuration's, if an operator has set another one.
    pub(super) configured_weight: u32,
    pub(crate) backup: bool,
    pub(super) max_fails: u32,
    fail_timeout: Duration,
    /// 0: any number.
    pub(super) max_connections: u32,
    /// In milliseconds.
    slow_start: u64,
    down: bool,
    pub(crate) state: Arc<EndpointState>,
}

/// What all workers know of an endpoint. It outlives reloads that keep the address.
pub(crate) struct EndpointState {
    /// Unique in the process; key of the pools.
    pub(crate) id: u64,
    pub(crate) health: Health,
    open: AtomicU32,
    orders: Arc<Orders>,
}

/// What an operator has said of an address. It holds also where the address is reached in another way than
/// before, of which nothing else is known yet.
#[derive(Default)]
struct Orders {
    /// It is to get nothing.
    drained: AtomicBool,
    /// A weight: that of the configuration then, and the one that was set in the lower half. 0: none.
    weight: AtomicU64,
}

/// An exchange or session counted as open at an endpoint until this is dropped.
pub(crate) struct Open(Arc<EndpointState>);

impl Endpoint {
    /// Makes an endpoint. What is known of the address from before is kept; one that is new to the upstream
    /// starts slowly, if it is to.
    pub(super) fn new(
        settings: &config::Endpoint,
        address: SocketAddr,
        before: Before<'_>,
    ) -> Self {
        let state = match before {
            Before::Nothing => EndpointState::new(Arc::default()),
            Before::Same(old) => old.state(address).unwrap_or_else(|| {
                let state = EndpointState::new(Arc::default());
                state.health.rises(health::now());
                state
            }),
            Before::Named(old) => {
                let state = old.state(address);
                EndpointState::new(state.map_or_else(Arc::default, |old| old.orders.clone()))
            }
        };
        Self {
            address,
            name: address.to_string().into(),
            written: settings.written.clone(),
            weight: state.weight(settings.weight),
            configured_weight: settings.weight,
            backup: settings.backup,
            max_fails: settings.max_fails,
            fail_timeout: settings.fail_timeout,
            max_connections: settings.max_connections,
            slow_start: u64::try_from(settings.slow_start.as_millis()).unwrap_or(u64::MAX),
            down: settings.down,
            state,
        }
    }

    /// Whether the two take the same turns, so that the order they are in still holds.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.address == other.address
            && self.weight == other.weight
            && self.backup == other.backup
            && self.max_fails == other.max_fails
            && self.fail_timeout == other.fail_timeout
    }

    /// Notes that an attempt succeeded.
    pub(crate) fn succeeded(&self) {
        if self.state.health.success(self.max_fails) {
            info!(endpoint = %self.name, "endpoint is back");
        }
    }

    /// Whether the endpoint is in use, or would be tried. `alone`: nothing is gained by leaving it alone
    /// after failures, since there is no other.
    pub(super) fn is_up(&self, alone: bool, now: u64) -> bool {
        let health = &self.state.health;
        let has_rested = alone || health.is_up(self.max_fails, self.fail_timeout, now);
        !self.down && !self.state.is_drained() && health.is_healthy() && has_rested
    }

    /// Whether the endpoint may be given one more.
    pub(super) fn is_available(&self, alone: bool, now: u64) -> bool {
        let has_room = self.max_connections == 0 || self.state.open() < self.max_connections;
        has_room && self.is_up(alone, now)
    }

    /// Whether the endpoint gets nothing, by the configuration.
    pub(crate) fn is_down(&self) -> bool {
        self.down
    }

    /// Takes the place that [`Self::is_available`] saw. None: another worker was faster.
    pub(super) fn claim(&self, alone: bool, now: u64) -> Option<Open> {
        // The place first: it can be given back, and the chance to find out whether the endpoint is
        // back cannot.
        let open = self.state.opened(self.max_connections)?;
        let claimed = alone || {
            let health = &self.state.health;
            health.claim(self.max_fails, self.fail_timeout, now)
        };
        claimed.then_some(open)
    }

    /// Returns the part of `weight` that counts at `now`: all of it, unless the endpoint came back less
    /// than its slow start ago. At least 1.
    pub(super) fn ramped(&self, weight: i64, now: u64) -> i64 {
        if self.slow_start == 0 {
            return weight;
        }
        match self.state.health.back_for(now) {
            Some(elapsed) if elapsed < self.slow_start => {
                let part = i128::from(weight) * i128::from(elapsed) / i128::from(self.slow_start);
                i64::try_from(part).unwrap_or(weight).max(1)
            }
            _ => weight,
        }
    }
}

impl EndpointState {
    fn new(orders: Arc<Orders>) -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            health: Health::default(),
            open: AtomicU32::new(0),
            orders,
        })
    }

    /// Returns the exchanges and sessions open now, over all workers.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether an operator has taken it out: it gets nothing more.
    pub(crate) fn is_drained(&self) -> bool {
        self.orders.drained.load(Ordering::Relaxed)
    }

    /// Takes it out, or back in.
    pub(super) fn set_drained(&self, drained: bool) {
        let was = self.orders.drained.swap(drained, Ordering::Relaxed);
        if was && !drained {
            self.health.rises(health::now());
        }
    }

    /// Returns the weight that counts where the configuration says `configured`.
    pub(super) fn weight(&self, configured: u32) -> u32 {
        let [then, set] = halves(self.orders.weight.load(Ordering::Relaxed));
        if set != 0 && then == configured {
            set
        } else {
            configured
        }
    }

    /// Sets a weight in place of the one that the configuration has.
    pub(super) fn set_weight(&self, configured: u32, weight: u32) {
        let both = u64::from(configured) << 32 | u64::from(weight);
        let both = if weight == configured { 0 } else { both };
        self.orders.weight.store(both, Ordering::Relaxed);
    }

    /// Forgets a weight that was set while the configuration had another one than now.
    pub(super) fn settle(&self, configured: u32) {
        let [then, _] = halves(self.orders.weight.load(Ordering::Relaxed));
        if then != configured {
            self.orders.weight.store(0, Ordering::Relaxed);
        }
    }

    /// Counts one more until the guard is dropped, unless there are as many as `most`, 0 for no limit.
    fn opened(self: &Arc<Self>, most: u32) -> Option<Open> {
        if most == 0 {
            self.open.fetch_add(1, Ordering::Relaxed);
        } else {
            let add = |open| (open < most).then_some(open + 1);
            self.open
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
                .ok()?;
        }
        Some(Open(self.clone()))
    }
}

fn halves(both: u64) -> [u32; 2] {
    // Each is what fits by itself.
    [both >> 32, both & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(u32::MAX))
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
