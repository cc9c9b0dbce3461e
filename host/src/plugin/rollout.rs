//! A plugin through its versions: which of them serves whom, and how sessions that run get there.
//!
//! The control thread assigns. Workers compare the number of the assignment with the one they know,
//! which is one load of a line that nobody writes meanwhile; what they do about a new one is left to
//! `slots.rs` and `messages.rs`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;

use super::engine::{Origin, Version};
use super::isolation::OwnInstances;
use super::trial::{History, Lot, Trial};
use crate::config::{self, SwapPolicy};

/// A plugin as the configuration names it, whatever version of it is in force.
pub(crate) struct Plugin {
    /// Never used again for another plugin.
    id: u64,
    name: Arc<str>,
    in_force: ArcSwap<Assignment>,
    /// [`Assignment::number`] of the one in force.
    number: AtomicU64,
    /// All that may still serve somebody, oldest first.
    versions: Mutex<Vec<Weak<Version>>>,
    history: History,
    own_instances: OwnInstances,
}

/// Who is served by what. Immutable; a swap makes the next one.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    /// Counts from 1.
    number: u64,
    /// For new exchanges and sessions, but for the share of a candidate.
    version: Arc<Version>,
    /// What the configuration asked for last; of `version`, unless somebody swapped by hand.
    configured: Arc<Origin>,
    /// How sessions that run get to `version`.
    policy: SwapPolicy,
    /// The time that `policy` gave them is over.
    overdue: bool,
    /// The candidate beside `version`.
    trial: Option<Arc<Trial>>,
}

/// What sessions on another version than the one assigned have to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// Go to the version assigned, at the next message boundary.
    Now,
    /// Stay to their end.
    Never,
    /// End.
    Close,
}

impl Plugin {
    /// Makes a plugin with its first version.
    pub(crate) fn new(version: Arc<Version>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);

        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: Arc::clone(version.name()),
            number: AtomicU64::new(1),
            own_instances: OwnInstances::default(),
            versions: Mutex::new(vec![Arc::downgrade(&version)]),
            history: History::default(),
            in_force: ArcSwap::from_pointee(Assignment {
                number: 1,
                policy: version.declared().swap,
                configured: Arc::clone(version.origin()),
                version,
                overdue: false,
                trial: None,
            }),
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the number of the assignment in force. Cheap enough for every message.
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Returns the assignment in force.
    pub(super) fn assignment(&self) -> Arc<Assignment> {
        self.in_force.load_full()
    }

    /// Returns the version that new sessions get.
    pub(crate) fn version(&self) -> Arc<Version> {
        Arc::clone(&self.in_force.load().version)
    }

    /// Those that it has for single sessions.
    pub(super) fn own_instances(&self) -> &OwnInstances {
        &self.own_instances
    }

    /// Returns how sessions get to the version in force.
    pub(crate) fn policy(&self) -> SwapPolicy {
        self.in_force.load().policy
    }

    /// Whether the configuration asks for what it asked for before, `bytes` included. A swap by hand
    /// lasts until it asks for something else.
    pub(crate) fn is_configured(&self, settings: &config::Plugin, bytes: &[u8]) -> bool {
        self.in_force.load().configured.is(settings, bytes)
    }

    /// Puts a version in force, as the configuration asks for. A candidate on trial is turned down.
    pub(crate) fn configure(&self, version: Arc<Version>) {
        let policy = version.declared().swap;
        if let Some(trial) = self.trial() {
            self.dismiss(&trial, "the configuration asks for another version");
        }
        self.assign(|before| Assignment {
            number: before.number + 1,
            configured: Arc::clone(version.origin()),
            version,
            policy,
            overdue: false,
            trial: None,
        });
    }

    /// Puts a version in force by hand.
    pub(crate) fn swap(&self, version: Arc<Version>, policy: SwapPolicy) {
        self.assign(|before| Assignment {
            number: before.number + 1,
            configured: Arc::clone(&before.configured),
            version,
            policy,
            overdue: false,
            trial: None,
        });
    }

    /// Returns the candidate on trial.
    pub(crate) fn trial(&self) -> Option<Arc<Trial>> {
        self.in_force.load().trial.clone()
    }

    /// Lets a candidate have its share from now on.
    pub(super) fn assign_trial(&self, trial: Arc<Trial>) {
        self.assign(|before| Assignment {
            number: before.number + 1,
            trial: Some(trial),
            ..before.clone()
        });
    }

    pub(super) fn assign_without_trial(&self) {
        self.assign(|before| Assignment {
            number: before.number + 1,
            trial: None,
            ..before.clone()
        });
    }

    /// How trials have ended.
    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// Returns the number of the assignment in force, and how long sessions may stay on the version
    /// before; None: to their end.
    pub(crate) fn grace(&self) -> Option<(u64, Duration)> {
        let assignment = self.in_force.load();
        match assignment.policy {
            SwapPolicy::DrainBy(grace) if !assignment.overdue => Some((assignment.number, grace)),
            _ => None,
        }
    }

    /// Ends the time that the policy of assignment `number` gave to sessions that run. Nothing, if
    /// another one is in force by now.
    pub(crate) fn end_grace(&self, number: u64) {
        if self.number() == number {
            self.assign(|before| Assignment {
                number: before.number + 1,
                overdue: true,
                ..before.clone()
            });
        }
    }

    /// Returns the versions that still serve somebody, oldest first.
    pub(crate) fn versions(&self) -> Vec<Arc<Version>> {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.iter().filter_map(Weak::upgrade).collect()
    }

    /// For the control thread, which alone assigns.
    fn assign(&self, next: impl FnOnce(&Assignment) -> Assignment) {
        let next = Arc::new(next(&self.in_force.load()));
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.retain(|version| version.strong_count() > 0);
        let candidate = next.trial.as_ref().map(|trial| &trial.version);
        for assigned in [&next.version].into_iter().chain(candidate) {
            if !versions
                .iter()
                .any(|version| version.as_ptr() == Arc::as_ptr(assigned))
            {
                versions.push(Arc::downgrade(assigned));
            }
        }
        drop(versions);
        let number = next.number;
        self.in_force.store(next);
        // After the assignment itself: whoever sees the number finds it, or a later one.
        self.number.store(number, Ordering::Release);
    }
}

impl Assignment {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// The candidate on trial.
    pub(super) fn trial(&self) -> Option<&Arc<Trial>> {
        self.trial.as_ref()
    }

    /// Returns the version for what has drawn `lot` and came with these fields. Who is with a candidate
    /// stays there for as long as it is on trial.
    pub(super) fn version_for(
        &self,
        now: Option<&Arc<Version>>,
        lot: Lot,
        headers: &HeaderMap,
    ) -> &Arc<Version> {
        match &self.trial {
            Some(trial)
                if now.is_some_and(|now| Arc::ptr_eq(now, &trial.version))
                    || trial.serves(lot, headers) =>
            {
                &trial.version
            }
            _ => &self.version,
        }
    }

    /// What becomes of a session on version `now` that another one is assigned to.
    pub(super) fn moves(&self, now: &Version, next: &Arc<Version>) -> Move {
        if now.is_revoked() {
            return Move::Now;
        }
        if let Some(trial) = &self.trial
            && Arc::ptr_eq(&trial.version, next)
        {
            // Time that a policy gives counts once all are to come.
            return match trial.policy {
                SwapPolicy::NextMessage => Move::Now,
                SwapPolicy::NextSession | SwapPolicy::DrainBy(_) => Move::Never,
            };
        }
        match self.policy {
            SwapPolicy::NextMessage => Move::Now,
            SwapPolicy::NextSession => Move::Never,
            SwapPolicy::DrainBy(_) if self.overdue => Move::Close,
            SwapPolicy::DrainBy(_) => Move::Never,
        }
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.name)
            .field("in_force", &*self.in_force.load())
            .finish_non_exhaustive()
    }
}
