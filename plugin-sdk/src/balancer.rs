//! The choice of an endpoint within an upstream.

use crate::{Plugin, RequestHead};

pub use crate::bindings::balancer::exports::tidegate::plugin::balancer::{Candidate, Endpoint};

/// A plugin that chooses the endpoint of a request.
pub trait Balancer: Plugin {
    /// What the plugin keeps of an upstream: `Vec<Endpoint>` if there is nothing to prepare.
    type Upstream: 'static;

    /// Prepares an upstream. Called once before the first [`choose`](Self::choose) for it, and again
    /// when its endpoints have changed.
    fn upstream(&mut self, name: &str, endpoints: Vec<Endpoint>) -> Self::Upstream;

    /// Chooses one of `candidates`, or leaves the choice to the next plugin and at last to the
    /// upstream's `balance`. Called once per attempt to reach the service; an endpoint that failed
    /// is no longer among the candidates. There is at least one.
    fn choose(
        &mut self,
        upstream: &mut Self::Upstream,
        head: &RequestHead,
        candidates: &[Candidate],
    ) -> Option<Candidate>;
}
