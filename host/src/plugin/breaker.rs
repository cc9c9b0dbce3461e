//! Whether a version of a plugin is called at all: one that keeps failing is ejected, on all workers, and
//! tried again after a while.
//!
//! What a call that is not made means for an exchange or session is `slots.rs`'s and `on_failure`'s.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Ejection;
use crate::telemetry::{Label, Phase};

/// How long a trial keeps others from being made, if nobody hears of it again.
const TRIAL: u64 = 10_000;

/// The state of one version.
pub(super) struct Breaker {
    /// None: it is never ejected.
    settings: Option<Ejection>,
    /// The millisecond from which on one call may be made again; 0: all are made.
    ejected_until: AtomicU64,
    // Locked when a call fails, and after a trial.
    history: Mutex<History>,
}

/// Milliseconds since the process has looked for the first time, and no less than 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Now(u64);

/// That a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Admission {
    Usual,
    /// The plugin is ejected, and what becomes of this call decides whether it is back.
    Trial,
}

struct History {
    /// When the first failure was that is counted.
    since: Now,
    /// By phase: one in which all calls fail need not be the one that is called most.
    counts: [Count; PHASES],
    /// It is back, and one failure is enough until [`Ejection::within`] has passed.
    on_probation: bool,
    /// How long it is left out the next time.
    back_off: Duration,
    ejections: u64,
}

/// Failures of one phase.
#[derive(Clone, Copy, Default)]
struct Count {
    failures: u64,
    /// Calls that had been made before those that are compared with the failures.
    calls_before: Option<u64>,
}

const PHASES: usize = Phase::ALL.len();

impl Now {
    pub(super) fn read() -> Self {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self(1 + millis(START.elapsed()))
    }
}

impl Breaker {
    pub(super) fn new(settings: Option<Ejection>) -> Self {
        Self {
            settings,
            ejected_until: AtomicU64::new(0),
            history: Mutex::new(History {
                since: Now(0),
                counts: [Count::default(); PHASES],
                on_probation: false,
                back_off: settings
                    .map(|settings| settings.back_off)
                    .unwrap_or_default(),
                ejections: 0,
            }),
        }
    }

    /// Asks whether a call may be made: one load, as long as all are. Returns how long it is until the next
    /// trial if not.
    pub(super) fn admit(&self) -> Result<Admission, Duration> {
        match self.ejected_until.load(Ordering::Acquire) {
            0 => Ok(Admission::Usual),
            _ => self.admit_at(Now::read()),
        }
    }

    fn admit_at(&self, now: Now) -> Result<Admission, Duration> {
        let until = self.ejected_until.load(Ordering::Acquire);
        if until == 0 {
            return Ok(Admission::Usual);
        }
        // Of all workers that find the time gone by, one tries.
        let next = now.0 + TRIAL;
        if until <= now.0
            && self
                .ejected_until
                .compare_exchange(until, next, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            return Ok(Admission::Trial);
        }
        Err(Duration::from_millis(until.saturating_sub(now.0)))
    }

    /// Notes that a trial went well: all calls are made again. `calls` of each phase have been made so far.
    pub(super) fn readmit(&self, now: Now, calls: impl Fn(Phase) -> u64) {
        let mut history = self.history();
        history.since = now;
        for (count, phase) in history.counts.iter_mut().zip(Phase::ALL) {
            count.failures = 0;
            count.calls_before = Some(calls(*phase));
        }
        history.on_probation = true;
        self.ejected_until.store(0, Ordering::Release);
    }

    /// Notes a call that failed, of `calls` of that phase that were made so far. Returns for how long the
    /// plugin is left out, if that begins now.
    pub(super) fn failed(
        &self,
        admission: Admission,
        phase: Phase,
        now: Now,
        calls: u64,
    ) -> Option<Duration> {
        let settings = self.settings?;
        let mut history = self.history();
        let is_ejected = self.ejected_until.load(Ordering::Acquire) != 0;
        if is_ejected && admission == Admission::Usual {
            // It began before.
            return None;
        }
        let ejects = is_ejected || history.count(&settings, phase, now, calls);
        ejects.then(|| {
            let back_off = history.back_off;
            history.back_off = back_off.saturating_mul(2).min(settings.max_back_off);
            history.ejections += 1;
            let until = now.0.saturating_add(millis(back_off));
            self.ejected_until.store(until, Ordering::Release);
            back_off
        })
    }

    /// Returns how long it is until the next trial, if the plugin is ejected.
    pub(super) fn retry_in(&self) -> Option<Duration> {
        match self.ejected_until.load(Ordering::Acquire) {
            0 => None,
            until => Some(Duration::from_millis(until.saturating_sub(Now::read().0))),
        }
    }

    /// Returns how often it was ejected.
    pub(super) fn ejections(&self) -> u64 {
        self.history().ejections
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // It is whole whatever panicked while it was locked.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// Counts a failure. Returns whether it was one too many.
    fn count(&mut self, settings: &Ejection, phase: Phase, now: Now, calls: u64) -> bool {
        if now.0.saturating_sub(self.since.0) > millis(settings.within) || self.since == Now(0) {
            self.since = now;
            self.counts = [Count::default(); PHASES];
            self.on_probation = false;
            self.back_off = settings.back_off;
        }
        let count = &mut self.counts[phase.index()];
        count.failures += 1;
        let before = *count
            .calls_before
            .get_or_insert_with(|| calls.saturating_sub(1));
        // A call for which no instance could be had was not made.
        let calls = calls.saturating_sub(before).max(count.failures);
        let enough = match self.on_probation {
            true => 1,
            false => u64::from(settings.failures),
        };
        count.failures >= enough && count.failures * 100 >= calls * u64::from(settings.percent)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Ejection {
        Ejection {
            failures: 3,
            percent: 50,
            within: Duration::from_secs(10),
            back_off: Duration::from_secs(1),
            max_back_off: Duration::from_secs(3),
        }
    }

    fn breaker() -> Breaker {
        Breaker::new(Some(settings()))
    }

    /// Fails calls that are all that is called, at one moment, until one of them ejects.
    fn fail_until_ejected(breaker: &Breaker, at: u64) -> Option<Duration> {
        (1..=3).find_map(|calls| breaker.failed(Admission::Usual, Phase::Message, Now(at), calls))
    }

    #[test]
    fn so_many_failures_in_the_time_eject_and_fewer_do_not() {
        let breaker = breaker();
        assert_eq!(
            breaker.failed(Admission::Usual, Phase::Message, Now(1), 1),
            None
        );
        assert_eq!(
            breaker.failed(Admission::Usual, Phase::Message, Now(10_000), 2),
            None
        );
        // The first one is too old by now.
        assert_eq!(
            breaker.failed(Admission::Usual, Phase::Message, Now(10_002), 3),
            None
        );
        assert_eq!(
            breaker.failed(Admission::Usual, Phase::Message, Now(10_003), 4),
            None
        );
        assert_eq!(breaker.admit_at(Now(10_003)), Ok(Admission::Usual));
        let second = Duration::from_secs(1);
        assert_eq!(
            breaker.failed(Admission::Usual, Phase::Message, Now(10_004), 5),
            Some(second)
        );
        assert_eq!(breaker.admit_at(Now(10_004)), Err(second));
        assert_eq!(breaker.ejections(), 1);
    }

    #[test]
    fn failures_among_many_calls_that_go_well_do_not_eject() {
        let breaker = breaker();
        for n in 0..1_000 {
            assert_eq!(
                breaker.failed(Admission::Usual, Phase::Message, Now(1 + n), 1 + n * 3),
                None
            );
        }
    }

    #[test]
    fn a_phase_in_which_all_calls_fail_ejects_whatever_goes_well_elsewhere() {
        let breaker = breaker();
        // Two rows of calls, of which only those to one phase fail.
        let failed = |phase, calls| breaker.failed(Admission::Usual, phase, Now(1), calls);
        assert_eq!(failed(Phase::Request, 1_000), None);
        assert_eq!(failed(Phase::Message, 1), None);
        assert_eq!(failed(Phase::Request, 2_000), None);
        assert_eq!(failed(Phase::Message, 2), None);
        assert_eq!(failed(Phase::Request, 3_000), None);
        assert!(failed(Phase::Message, 3).is_some());
    }

    #[test]
    fn one_call_is_the_trial_and_lets_it_back_in_or_not() {
        let breaker = breaker();
        assert!(fail_until_ejected(&breaker, 1).is_some());
        assert_eq!(breaker.admit_at(Now(1_001)), Ok(Admission::Trial));
        assert!(breaker.admit_at(Now(1_001)).is_err(), "a second trial");
        let two = Duration::from_secs(2);
        assert_eq!(
            breaker.failed(Admission::Trial, Phase::Message, Now(1_001), 4),
            Some(two)
        );
        assert_eq!(breaker.admit_at(Now(3_001)), Ok(Admission::Trial));
        breaker.readmit(Now(3_001), |_| 5);
        assert_eq!(breaker.admit_at(Now(3_001)), Ok(Admission::Usual));
    }

    #[test]
    fn the_back_off_grows_to_its_end_and_starts_over_once_it_works() {
        let breaker = breaker();
        assert!(fail_until_ejected(&breaker, 1).is_some());
        let mut now = 1_001;
        for seconds in [2, 3, 3] {
            assert_eq!(breaker.admit_at(Now(now)), Ok(Admission::Trial));
            let back_off = Duration::from_secs(seconds);
            assert_eq!(
                breaker.failed(Admission::Trial, Phase::Message, Now(now), 4),
                Some(back_off)
            );
            now += 1_000 * seconds;
        }
        assert_eq!(breaker.admit_at(Now(now)), Ok(Admission::Trial));
        breaker.readmit(Now(now), |_| 10);
        // Half of what it is called for then: on probation that is enough.
        let three = Duration::from_secs(3);
        assert_eq!(
            breaker.failed(Admission::Usual, Phase::Message, Now(now), 12),
            Some(three)
        );
        now += 3_000;
        assert_eq!(breaker.admit_at(Now(now)), Ok(Admission::Trial));
        breaker.readmit(Now(now), |_| 20);
        let later = now + 10_001;
        assert_eq!(
            fail_until_ejected(&breaker, later),
            Some(Duration::from_secs(1))
        );
    }

    #[test]
    fn a_trial_that_nobody_hears_of_is_followed_by_another() {
        let breaker = breaker();
        assert!(fail_until_ejected(&breaker, 1).is_some());
        assert_eq!(breaker.admit_at(Now(1_001)), Ok(Admission::Trial));
        assert!(breaker.admit_at(Now(1_000 + TRIAL)).is_err());
        assert_eq!(breaker.admit_at(Now(1_001 + TRIAL)), Ok(Admission::Trial));
    }

    #[test]
    fn what_is_never_to_be_ejected_never_is() {
        let breaker = Breaker::new(None);
        assert_eq!(fail_until_ejected(&breaker, 1), None);
        assert_eq!(breaker.admit_at(Now(1)), Ok(Admission::Usual));
    }
}
