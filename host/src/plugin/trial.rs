//! Candidates: versions that serve a share of a plugin's sessions and requests, or look on, until it is
//! decided whether they get them all.
//!
//! When that is decided is left to `server/trials.rs`; how a session gets from one version to another, to
//! `handover.rs`; what a candidate that looks on is shown, to `shadow.rs`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use tracing::{info, warn};

use super::engine::Version;
use super::judgement::{Breach, Held};
use super::onlooker::Observed;
use super::rollout::Plugin;
use crate::config::{self, Match, ShareKey, SwapPolicy};
use crate::protocol::headers::cookie;
use crate::telemetry::{PluginStatus, ShadowFigures, VersionFigures};

/// A candidate on trial.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) version: Arc<Version>,
    pub(crate) role: Role,
    /// How sessions that run get to the candidate.
    pub(crate) policy: SwapPolicy,
    pub(crate) since: SystemTime,
    began: Instant,
    /// What the version in force had counted by then.
    before: VersionFigures,
}

/// What a candidate does.
#[derive(Debug)]
pub(crate) enum Role {
    /// It serves a share.
    Canary {
        share: Share,
        limits: config::Canary,
    },
    /// It is shown what the version in force is, and what it says is compared.
    Shadow {
        share: Share,
        /// Percent of a worker's time that it may take.
        budget: u64,
        observed: Arc<Observed>,
    },
}

/// Which sessions and requests a candidate gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// 0 to 100.
    pub(crate) percent: u64,
    pub(crate) key: ShareKey,
    /// What gets it whatever its draw is.
    pub(crate) when: Option<Match>,
}

/// What a session or request draws at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lot(pub(super) u32);

/// A trial that is over.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// Of the candidate.
    pub(crate) version: u64,
    pub(crate) role: &'static str,
    pub(crate) outcome: Outcome,
    /// In words.
    pub(crate) reason: String,
    pub(crate) at: SystemTime,
    /// What the candidate had counted by then.
    pub(crate) figures: VersionFigures,
    /// If it looked on.
    pub(crate) observed: Option<ShadowFigures>,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Promoted,
    RolledBack,
}

/// What a look at a trial says.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    GoOn,
    /// It has kept to its limits for long enough.
    Promote,
    RollBack(Breach),
}

/// How trials of a plugin have ended.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Past>);

#[derive(Debug, Default, Clone)]
struct Past {
    last: Option<Ended>,
    promoted: u64,
    rolled_back: u64,
    shadows: ShadowFigures,
}

impl Trial {
    /// Begins a trial beside the version that is in force.
    pub(crate) fn new(
        version: Arc<Version>,
        role: Role,
        policy: SwapPolicy,
        in_force: &Version,
    ) -> Self {
        if let Role::Canary { limits, .. } = &role
            && let Some(limit) = limits.call_time
        {
            version.count_slower_than(limit);
        }
        Self {
            version,
            role,
            policy,
            since: SystemTime::now(),
            began: Instant::now(),
            before: in_force.figures(),
        }
    }

    /// Whether the candidate is to serve what has drawn `lot` and came with these fields.
    pub(super) fn serves(&self, lot: Lot, headers: &HeaderMap) -> bool {
        match &self.role {
            Role::Canary { share, .. } => share.takes(lot, headers),
            Role::Shadow { .. } => false,
        }
    }

    pub(super) fn looks_on(&self) -> bool {
        matches!(self.role, Role::Shadow { .. })
    }

    /// Returns how long it has lasted.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Compares what the candidate and the version in force have done meanwhile with the limits.
    pub(crate) fn look(&self, in_force: &Version) -> Look {
        let Role::Canary { limits, .. } = &self.role else {
            return Look::GoOn;
        };
        let held = Held {
            candidate: &self.version.figures(),
            other: &in_force.figures().since(&self.before),
        };
        match held.to(limits) {
            Err(breach) => Look::RollBack(breach),
            Ok(calls) if self.age() >= limits.window && calls >= limits.min_calls => Look::Promote,
            Ok(_) => Look::GoOn,
        }
    }
}

impl Role {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Canary { .. } => "canary",
            Self::Shadow { .. } => "shadow",
        }
    }

    /// What a candidate that looks on has been seen to do.
    pub(crate) fn observed(&self) -> Option<&Observed> {
        match self {
            Self::Canary { .. } => None,
            Self::Shadow { observed, .. } => Some(observed),
        }
    }
}

impl Share {
    /// The same value always gets the same answer, and what is within a share is within each larger one.
    pub(super) fn takes(&self, lot: Lot, headers: &HeaderMap) -> bool {
        let matches = |when: &Match| value(&when.key, headers) == Some(when.value.as_bytes());
        if self.when.as_ref().is_some_and(matches) {
            return true;
        }
        let drawn = match &self.key {
            ShareKey::Session => lot.0,
            key => match value(key, headers) {
                Some(value) => hash(value),
                None => return false,
            },
        };
        (u64::from(drawn) * 100) >> 32 < self.percent
    }
}

fn value<'a>(key: &ShareKey, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    match key {
        ShareKey::Session => None,
        ShareKey::Header(name) => headers.get(name).map(|value| value.as_bytes()),
        ShareKey::Cookie(name) => cookie(headers, name).map(str::as_bytes),
    }
}

fn hash(value: &[u8]) -> u32 {
    // Without a key of the process: the same value has the same place after a restart.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    (hasher.finish() >> 32) as u32
}

impl Lot {
    /// Draws. `state` is the worker's.
    pub(super) fn draw(state: &std::cell::Cell<u64>) -> Self {
        // Steps of the golden ratio, mixed: SplitMix64.
        let step = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(step);
        let mixed = (step ^ (step >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed >> 32) as u32)
    }
}

/// Trials. For the control thread, which alone decides.
impl Plugin {
    /// Gives a share to a candidate. The version in force stays in force.
    pub(crate) fn begin(&self, trial: Trial) {
        let plugin: &str = self.name();
        let (version, role) = (trial.version.id(), trial.role.name());
        info!(plugin, version, "{role} begun");
        self.assign_trial(Arc::new(trial));
    }

    /// Puts the candidate in force. Nothing, if there is none.
    pub(crate) fn promote(&self, reason: &str) -> Option<Arc<Version>> {
        let trial = self.trial()?;
        let ended = Ended::new(&trial, Outcome::Promoted, reason);
        self.swap(Arc::clone(&trial.version), trial.policy);
        self.history().note(self.name(), ended);
        Some(Arc::clone(&trial.version))
    }

    /// Takes the candidate away: sessions that it serves go back to the version in force, whatever the
    /// policy is. Nothing, if there is none.
    pub(crate) fn roll_back(&self, reason: &str) -> Option<Arc<Version>> {
        let trial = self.trial()?;
        self.dismiss(&trial, reason);
        self.assign_without_trial();
        Some(Arc::clone(&trial.version))
    }

    /// Notes that a candidate does not get anything any more.
    pub(super) fn dismiss(&self, trial: &Trial, reason: &str) {
        // Before the assignment: whoever finds that finds this.
        trial.version.revoke();
        let ended = Ended::new(trial, Outcome::RolledBack, reason);
        self.history().note(self.name(), ended);
    }

    /// Says what a version does here now: it is in force, on trial, or serves those that have stayed on it.
    pub(crate) fn role_of(&self, version: &Arc<Version>) -> &'static str {
        match self.trial() {
            _ if Arc::ptr_eq(version, &self.version()) => "in-force",
            Some(trial) if Arc::ptr_eq(version, &trial.version) => trial.role.name(),
            _ => "leaving",
        }
    }

    /// Returns how the last trial ended.
    pub(crate) fn last_trial(&self) -> Option<Ended> {
        self.history().past().last
    }

    /// Returns what a scrape tells of it.
    pub(crate) fn status(&self) -> PluginStatus {
        let versions = self.versions();
        let of = |version: &Arc<Version>| (self.role_of(version), version.figures());
        let trial = self.trial();
        let role = trial.as_ref().map(|trial| &trial.role);
        let share = match role {
            Some(Role::Canary { share, .. }) => Some(share.percent),
            _ => None,
        };
        let past = self.history().past();
        let mut shadows = past.shadows;
        if let Some(observed) = role.and_then(Role::observed) {
            shadows.add(&observed.figures());
        }
        let outcomes = [
            (Outcome::Promoted, past.promoted),
            (Outcome::RolledBack, past.rolled_back),
        ];
        let in_force = self.version();
        PluginStatus {
            plugin: self.name().to_string(),
            is_ejected: in_force.retry_in().is_some(),
            ejections: in_force.ejections(),
            own_instances: self.own_instances().count() as u64,
            versions: versions.iter().map(of).collect(),
            share,
            shadows,
            trials: outcomes
                .map(|(outcome, count)| (outcome.text(), count))
                .into(),
        }
    }
}

impl Ended {
    fn new(trial: &Trial, outcome: Outcome, reason: &str) -> Self {
        Self {
            version: trial.version.id(),
            role: trial.role.name(),
            outcome,
            reason: reason.to_owned(),
            at: SystemTime::now(),
            figures: trial.version.figures(),
            observed: trial.role.observed().map(Observed::figures),
        }
    }
}

impl Outcome {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled-back",
        }
    }
}

impl History {
    fn note(&self, plugin: &str, ended: Ended) {
        let (version, role, reason) = (ended.version, ended.role, &*ended.reason);
        let mut past = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match ended.outcome {
            Outcome::Promoted => {
                info!(plugin, version, reason, "{role} promoted");
                past.promoted += 1;
            }
            Outcome::RolledBack => {
                warn!(plugin, version, reason, "{role} rolled back");
                past.rolled_back += 1;
            }
        }
        if let Some(observed) = &ended.observed {
            past.shadows.add(observed);
        }
        past.last = Some(ended);
    }

    fn past(&self) -> Past {
        let past = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        past.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn share(percent: u64, key: &str) -> Share {
        let key = ShareKey::parse(key).unwrap();
        Share {
            percent,
            key,
            when: None,
        }
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn about_as_many_sessions_are_taken_as_the_share_says() {
        let state = Cell::new(1);
        let lots: Vec<_> = (0..10_000).map(|_| Lot::draw(&state)).collect();
        let none = HeaderMap::new();
        for percent in [0, 10, 50, 100] {
            let share = share(percent, "session");
            let taken = lots.iter().filter(|lot| share.takes(**lot, &none)).count() as u64;
            assert!(
                taken.abs_diff(percent * 100) < 200,
                "{taken} at {percent} %"
            );
        }
    }

    #[test]
    fn a_value_is_always_taken_or_never_and_a_larger_share_takes_all_of_a_smaller() {
        let (small, large) = (share(10, "header:x-user"), share(20, "header:x-user"));
        let mut taken = [0; 2];
        for user in 0..10_000 {
            let head = headers("x-user", &user.to_string());
            let is_small = small.takes(Lot(user), &head);
            assert_eq!(is_small, small.takes(Lot(!user), &head));
            let is_large = large.takes(Lot(user), &head);
            assert!(is_large || !is_small);
            taken[0] += u32::from(is_small);
            taken[1] += u32::from(is_large);
        }
        assert!(
            taken[0].abs_diff(1000) < 200 && taken[1].abs_diff(2000) < 200,
            "{taken:?}"
        );
        assert!(!share(100, "header:x-user").takes(Lot(0), &HeaderMap::new()));
    }

    #[test]
    fn a_cookie_is_found_among_others_and_a_match_is_taken_without_a_draw() {
        let by_cookie = share(100, "cookie:sid");
        assert!(by_cookie.takes(Lot(0), &headers("cookie", "a=1; sid=2")));
        assert!(!by_cookie.takes(Lot(0), &headers("cookie", "a=1; xsid=2")));
        let mut matching = share(0, "session");
        matching.when = Match::parse("header:x-canary=1");
        assert!(matching.takes(Lot(0), &headers("x-canary", "1")));
        assert!(!matching.takes(Lot(0), &headers("x-canary", "2")));
    }
}
