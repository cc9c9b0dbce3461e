//! Which generation serves what comes in by a listener, also when a reload has removed that listener.

use std::cell::RefCell;
use std::rc::Rc;

use super::worker::{InForce, Worker};
use crate::generation::ListenerId;

/// The generation that serves a listener's connections: the one in force, for as long as that has the
/// listener; then the last one that had it.
#[derive(Clone)]
pub(crate) struct Home {
    listener: ListenerId,
    last: RefCell<Rc<InForce>>,
}

impl Home {
    /// `generation`: one that has the listener.
    pub(crate) fn new(listener: ListenerId, generation: Rc<InForce>) -> Self {
        Self {
            listener,
            last: RefCell::new(generation),
        }
    }

    /// Returns the listener.
    pub(crate) fn listener(&self) -> ListenerId {
        self.listener
    }

    /// Returns the generation for what comes next.
    pub(crate) fn generation(&self, worker: &Worker) -> Rc<InForce> {
        let now = worker.generation();
        let mut last = self.last.borrow_mut();
        if !Rc::ptr_eq(&now, &last) && now.listener(self.listener).is_some() {
            *last = now;
        }
        last.clone()
    }

    /// Whether the listener has been removed.
    pub(crate) fn is_gone(&self, worker: &Worker) -> bool {
        worker.generation().listener(self.listener).is_none()
    }
}
