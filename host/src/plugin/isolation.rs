//! Instances that serve one session each, and how many of them there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory mappings of one instance.
const MAPPINGS: usize = 4;

/// Counts the instances that a plugin has for single sessions, on all workers.
#[derive(Debug, Default)]
pub(super) struct OwnInstances(Arc<AtomicUsize>);

/// One of them, until this is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl OwnInstances {
    /// Takes one, if there are fewer than `limit`.
    pub(super) fn take(&self, limit: usize) -> Option<Permit> {
        let one_more = |count| (count < limit).then_some(count + 1);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.ok().map(|_| Permit(Arc::clone(&self.0)))
    }

    /// Takes one whatever there are, for a session that has another one until it has moved.
    pub(super) fn take_for_move(&self) -> Permit {
        self.0.fetch_add(1, Ordering::Relaxed);
        Permit(Arc::clone(&self.0))
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns how many instances the kernel has mappings for, if `instances` are more.
pub(super) fn too_many_for_kernel(instances: usize) -> Option<usize> {
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    let most = most.trim().parse::<usize>().ok()? / MAPPINGS;
    (instances > most).then_some(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_the_limit_and_more_only_while_sessions_move() {
        let instances = OwnInstances::default();
        let one = instances.take(2).unwrap();
        let two = instances.take(2).unwrap();
        assert!(instances.take(2).is_none());
        let moved = instances.take_for_move();
        drop(one);
        assert!(instances.take(2).is_none());
        drop(two);
        assert!(instances.take(2).is_some());
        drop(moved);
        assert_eq!(instances.count(), 0);
    }
}
