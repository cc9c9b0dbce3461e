//! Endpoints, one after another, until one has answered.
//!
//! What an attempt is, is said in `exchange.rs` and `handshake.rs`.

use http::request::Parts;

use super::ending::Ending;
use super::failure::Failure;
use super::session::Session;
use crate::upstream::{Endpoint, Error, Upstream};

/// How an attempt at one endpoint ended, other than with an answer.
pub(crate) enum Attempt {
    /// The endpoint saw no byte of the request; another may be tried.
    NothingSent(Error),
    Failed(Error),
}

/// Tries endpoints until one has answered, and returns what `attempt` made of the answer and the place
/// of the endpoint in the upstream. Another one is tried only while nothing has been sent.
pub(crate) async fn reach<T>(
    session: &mut Session,
    upstream: &Upstream,
    head: &mut Parts,
    ending: &mut Ending,
    mut attempt: impl AsyncFnMut(&Session, &Endpoint, &mut Parts) -> Result<T, Attempt>,
) -> Result<(T, usize), Failure> {
    let mut last_error = None;
    loop {
        let chosen = match session.choose(upstream, head, ending) {
            Ok(chosen) => chosen,
            // The last attempt tells more than that there is none left.
            Err(Failure::Upstream(none)) => return Err(last_error.unwrap_or(none).into()),
            Err(failure) => return Err(failure),
        };
        let endpoint = &upstream.endpoints[chosen.index];
        session.remember(head, Some(endpoint.address));
        let failed = match attempt(session, endpoint, head).await {
            Ok(answer) => {
                endpoint.succeeded();
                return Ok((answer, chosen.index));
            }
            Err(failed) => failed,
        };
        // What a client does to its own request says nothing of the endpoint.
        if let Some(problem) = ending.body_problem() {
            return Err(problem.into());
        }
        match failed {
            Attempt::Failed(error) => {
                session.attempt_failed(upstream, &chosen, &error);
                return Err(error.into());
            }
            Attempt::NothingSent(error) => {
                session.attempt_failed(upstream, &chosen, &error);
                session.search.failed(chosen.index);
                last_error = Some(error);
            }
        }
    }
}
