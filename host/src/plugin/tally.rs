//! What the slots of one version on one worker have in common: its figures, and the bounds of what is
//! logged about it. They outlive a slot, so that a version is judged by what it did to sessions that have
//! ended as well.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::engine::Version;
use super::host::LogGate;
use crate::telemetry::VersionMetrics;

/// Failures of a version that are logged per second and worker.
const MAX_REPORTS: u32 = 5;

/// What is counted and logged of one version on one worker.
pub(super) struct Tally {
    /// [`Version::id`].
    version: u64,
    pub(super) metrics: Arc<VersionMetrics>,
    /// For what the plugin writes.
    pub(super) log: Arc<LogGate>,
    /// For what the host writes about its failures.
    pub(super) reports: LogGate,
}

/// Those of the versions of one plugin: two as a rule, so they are looked through.
#[derive(Default)]
pub(super) struct Tallies(RefCell<Vec<Rc<Tally>>>);

impl Tallies {
    /// Returns that of a version, begun if there is none.
    pub(super) fn of(&self, version: &Version) -> Rc<Tally> {
        let mut tallies = self.0.borrow_mut();
        let known = tallies
            .iter()
            .find(|tally| tally.version == version.id())
            .map(Rc::clone);
        known.unwrap_or_else(|| {
            let tally = Rc::new(Tally {
                version: version.id(),
                metrics: version.count(),
                log: LogGate::of_plugin(),
                reports: LogGate::new(MAX_REPORTS),
            });
            tallies.push(Rc::clone(&tally));
            tally
        })
    }

    /// Lets go of those of versions that are not `assigned`, unless a slot has them still.
    pub(super) fn retain(&self, assigned: impl Fn(u64) -> bool) {
        let mut tallies = self.0.borrow_mut();
        tallies.retain(|tally| assigned(tally.version) || Rc::strong_count(tally) > 1);
    }
}
