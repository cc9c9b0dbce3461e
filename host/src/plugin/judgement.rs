//! What a candidate has done, held against what it may do.

use std::fmt;
use std::time::Duration;

use crate::config;
use crate::telemetry::VersionFigures;

/// Calls before which a share of them says nothing.
const ENOUGH_CALLS: u64 = 100;

/// Calls of both versions before which their times are not compared: what is slow at first is cold.
const ENOUGH_TO_COMPARE: u64 = 500;

/// What a candidate and the version in force have counted since the trial began.
pub(super) struct Held<'a> {
    pub(super) candidate: &'a VersionFigures,
    pub(super) other: &'a VersionFigures,
}

/// A limit that a candidate did not keep to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Breach {
    Traps {
        found: u64,
        limit: u64,
    },
    Timeouts {
        found: u64,
        limit: u64,
    },
    Closes {
        code: u16,
        found: u64,
        limit: u64,
    },
    CallTime {
        slow: u64,
        calls: u64,
        limit: Duration,
    },
    Slowdown {
        found: Duration,
        other: Duration,
    },
}

impl Held<'_> {
    /// Returns the calls about messages and heads that the candidate has answered within its limits.
    pub(super) fn to(&self, limits: &config::Canary) -> Result<u64, Breach> {
        let Self { candidate, other } = self;
        let traps = candidate.failures.saturating_sub(candidate.timeouts);
        if traps > limits.max_traps {
            return Err(Breach::Traps {
                found: traps,
                limit: limits.max_traps,
            });
        }
        if candidate.timeouts > limits.max_timeouts {
            return Err(Breach::Timeouts {
                found: candidate.timeouts,
                limit: limits.max_timeouts,
            });
        }
        for (&code, &limit) in &limits.closes {
            let found = candidate.closes.get(&code).copied().unwrap_or(0);
            if found > limit {
                return Err(Breach::Closes { code, found, limit });
            }
        }
        let calls = candidate.serving.count();
        if let Some(limit) = limits.call_time
            && calls >= ENOUGH_CALLS
            && candidate.slow * 100 > calls
        {
            return Err(Breach::CallTime {
                slow: candidate.slow,
                calls,
                limit,
            });
        }
        let slowdown = u32::try_from(limits.slowdown).unwrap_or(u32::MAX);
        if slowdown > 0 && calls.min(other.serving.count()) >= ENOUGH_TO_COMPARE {
            let found = candidate.serving.estimate(99);
            let other = other.serving.estimate(99);
            if found > other * slowdown {
                return Err(Breach::Slowdown { found, other });
            }
        }
        Ok(calls)
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Traps { found, limit } => {
                write!(f, "{found} failed calls, with {limit} allowed (max_traps)")
            }
            Self::Timeouts { found, limit } => write!(
                f,
                "{found} calls stopped for their CPU time, with {limit} allowed (max_timeouts)"
            ),
            Self::Closes { code, found, limit } => write!(
                f,
                "{found} sessions closed with {code}, with {limit} allowed (max_closes)"
            ),
            Self::CallTime { slow, calls, limit } => write!(
                f,
                "{slow} of {calls} calls took longer than {limit:?} (call_time)"
            ),
            Self::Slowdown { found, other } => write!(
                f,
                "all but 1 % of calls took {found:?}, and {other:?} in the version in force (slowdown)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::telemetry::Buckets;

    fn figures(calls: u64, time: Duration) -> VersionFigures {
        let serving = Buckets::of((0..calls).map(|_| time));
        VersionFigures {
            serving,
            ..VersionFigures::default()
        }
    }

    fn judge(candidate: VersionFigures, limits: &config::Canary) -> Result<u64, Breach> {
        let other = &figures(1000, Duration::from_micros(2));
        let candidate = &candidate;
        Held { candidate, other }.to(limits)
    }

    #[test]
    fn a_candidate_within_its_limits_is_told_by_its_calls() {
        let limits = config::Canary::default();
        let good = figures(1000, Duration::from_micros(2));
        assert_eq!(judge(good, &limits), Ok(1000));
    }

    #[test]
    fn each_limit_is_one_that_may_be_reached_but_not_passed() {
        let limits = config::Canary {
            max_traps: 2,
            max_timeouts: 1,
            closes: BTreeMap::from([(1008, 3)]),
            ..config::Canary::default()
        };
        let mut candidate = VersionFigures {
            failures: 3,
            timeouts: 1,
            closes: BTreeMap::from([(1008, 3), (1011, 9)]),
            ..VersionFigures::default()
        };
        assert_eq!(judge(candidate.clone(), &limits), Ok(0));
        candidate.closes.insert(1008, 4);
        let (code, found, limit) = (1008, 4, 3);
        let breach = Breach::Closes { code, found, limit };
        assert_eq!(judge(candidate.clone(), &limits), Err(breach));
        candidate.timeouts = 2;
        candidate.failures = 4;
        let breach = Breach::Timeouts { found: 2, limit: 1 };
        assert_eq!(judge(candidate.clone(), &limits), Err(breach));
        candidate.failures = 5;
        let breach = Breach::Traps { found: 3, limit: 2 };
        assert_eq!(judge(candidate, &limits), Err(breach));
    }

    #[test]
    fn call_times_are_judged_once_there_are_enough() {
        let limits = config::Canary::default();
        let slow = Duration::from_micros(40);
        assert!(judge(figures(499, slow), &limits).is_ok());
        assert!(matches!(
            judge(figures(500, slow), &limits),
            Err(Breach::Slowdown { .. })
        ));
        let mut not_compared = config::Canary {
            slowdown: 0,
            ..limits
        };
        assert!(judge(figures(500, slow), &not_compared).is_ok());
        not_compared.call_time = Some(Duration::from_micros(30));
        let mut candidate = figures(100, slow);
        candidate.slow = 1;
        assert!(judge(candidate.clone(), &not_compared).is_ok());
        candidate.slow = 2;
        assert!(matches!(
            judge(candidate, &not_compared),
            Err(Breach::CallTime { .. })
        ));
    }
}
