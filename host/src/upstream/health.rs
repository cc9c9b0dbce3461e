//! Whether an endpoint is up, judged by what happened to real requests and to health checks.
//!
//! The counting of failed requests is nginx's `max_fails` and `fail_timeout`. Choosing among those that are up is
//! `pick.rs`'s business.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Failures of one endpoint, shared by all workers.
#[derive(Default)]
pub(crate) struct Health {
    fails: AtomicU32,
    /// When a failure was last counted, in milliseconds of [`now`].
    failed: AtomicU64,
    /// When the endpoint was last given a chance after failing.
    checked: AtomicU64,
    /// When it came back, or joined a group that was running; 0: it has been there all along.
    risen: AtomicU64,
    /// By its health checks, if there are any.
    unhealthy: AtomicBool,
    passed: AtomicU64,
    not_passed: AtomicU64,
}

impl Health {
    /// Returns whether the endpoint may be tried at `now`: it has not failed `max_fails` times, or
    /// `fail_timeout` has gone by since it was last tried. `max_fails` 0 never takes it out.
    pub(crate) fn is_up(&self, max_fails: u32, fail_timeout: Duration, now: u64) -> bool {
        max_fails == 0
            || self.fails.load(Ordering::Relaxed) < max_fails
            || self.rested(self.checked.load(Ordering::Relaxed), fail_timeout, now)
    }

    /// Takes the chance that [`Self::is_up`] saw. False if another worker was faster: of an endpoint
    /// that failed, one live request at a time finds out whether it is back.
    pub(crate) fn claim(&self, max_fails: u32, fail_timeout: Duration, now: u64) -> bool {
        let checked = self.checked.load(Ordering::Relaxed);
        if self.rested(checked, fail_timeout, now) {
            let won = self
                .checked
                .compare_exchange(checked, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
            if won {
                return true;
            }
        }
        max_fails == 0 || self.fails.load(Ordering::Relaxed) < max_fails
    }

    /// Counts a failure: a connection that was refused or broke, or an answer that did not come. Returns
    /// how many there are.
    pub(crate) fn failure(&self, now: u64) -> u32 {
        let before = self.fails.fetch_add(1, Ordering::Relaxed);
        self.failed.store(now, Ordering::Relaxed);
        self.checked.store(now, Ordering::Relaxed);
        before.saturating_add(1)
    }

    /// Forgets failures once an attempt made after the last of them has succeeded. Returns whether that
    /// brought the endpoint back.
    pub(crate) fn success(&self, max_fails: u32) -> bool {
        if self.fails.load(Ordering::Relaxed) != 0
            && self.failed.load(Ordering::Relaxed) < self.checked.load(Ordering::Relaxed)
        {
            let fails = self.fails.swap(0, Ordering::Relaxed);
            if max_fails != 0 && fails >= max_fails {
                self.rises(now());
                return true;
            }
        }
        false
    }

    /// Notes that the endpoint is there again, or for the first time.
    pub(crate) fn rises(&self, now: u64) {
        self.risen.store(now, Ordering::Relaxed);
    }

    /// Whether health checks say that the endpoint is well, or nothing.
    pub(crate) fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed)
    }

    /// Notes what health checks come to.
    pub(crate) fn set_healthy(&self, healthy: bool) {
        let was = !self.unhealthy.swap(!healthy, Ordering::Relaxed);
        if healthy && !was {
            self.rises(now());
        }
    }

    /// Returns the failures that count against it.
    pub(crate) fn failures(&self) -> u32 {
        self.fails.load(Ordering::Relaxed)
    }

    /// Counts a health check.
    pub(crate) fn checked(&self, passed: bool) {
        let counter = if passed {
            &self.passed
        } else {
            &self.not_passed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the health checks passed, and those that were not.
    pub(crate) fn checks(&self) -> (u64, u64) {
        let (passed, not_passed) = (&self.passed, &self.not_passed);
        (
            passed.load(Ordering::Relaxed),
            not_passed.load(Ordering::Relaxed),
        )
    }

    /// Returns how long the endpoint has been back, in milliseconds. None: it was never away.
    pub(crate) fn back_for(&self, now: u64) -> Option<u64> {
        match self.risen.load(Ordering::Relaxed) {
            0 => None,
            risen => Some(now.saturating_sub(risen)),
        }
    }

    fn rested(&self, checked: u64, fail_timeout: Duration, now: u64) -> bool {
        u128::from(now.saturating_sub(checked)) > fail_timeout.as_millis()
    }
}

/// Returns milliseconds since the process first asked.
pub(crate) fn now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    // Starts at 1 so that 0 means never.
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis())
        .map_or(u64::MAX, |elapsed| elapsed + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn an_endpoint_is_out_after_max_fails_and_gets_one_probe_after_the_timeout() {
        let health = Health::default();
        health.failure(1_000);
        assert!(health.is_up(2, TIMEOUT, 1_000));
        health.failure(2_000);
        assert!(!health.is_up(2, TIMEOUT, 12_000));
        assert!(health.is_up(2, TIMEOUT, 12_001));
        assert!(health.claim(2, TIMEOUT, 12_001));
        assert!(
            !health.is_up(2, TIMEOUT, 12_002),
            "a second request must not probe"
        );
        health.success(2);
        assert!(health.is_up(2, TIMEOUT, 12_002));
        assert!(health.back_for(now()).is_some());
    }

    #[test]
    fn max_fails_0_never_takes_an_endpoint_out() {
        let health = Health::default();
        for _ in 0..100 {
            health.failure(5);
        }
        assert!(health.is_up(0, TIMEOUT, 5));
    }

    #[test]
    fn a_success_begun_before_the_failure_forgives_nothing() {
        let health = Health::default();
        health.failure(1_000);
        health.success(1);
        assert_eq!(health.back_for(1_001), None);
        assert!(!health.is_up(1, TIMEOUT, 1_001));
    }
}
