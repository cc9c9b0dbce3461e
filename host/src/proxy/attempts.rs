//! Endpoints, one after another, until one has answered.
//!
//! What an attempt is, is said in `exchange.rs` and `handshake.rs`; when another one is made, by the
//! route's `retry`.

use std::time::Instant;

use http::request::Parts;
use http::{Method, StatusCode};

use super::ending::Ending;
use super::failure::Failure;
use super::session::{Chosen, Session};
use crate::config::Retry;
use crate::upstream::{Endpoint, Error, Upstream};

/// How an attempt at one endpoint ended, other than with an answer.
pub(crate) enum Attempt {
    /// The endpoint saw no byte of the request.
    NothingSent(Error),
    Failed(Error),
}

/// What the last attempt left, if no other comes to more.
enum Last<T> {
    Error(Error),
    /// An answer for which another endpoint is tried, and who gave it.
    Answer(T, usize),
}

/// When the next endpoint may be tried.
struct Patience<'a> {
    retry: &'a Retry,
    tries: usize,
    /// None: there is no limit.
    began: Option<Instant>,
    /// The request can be sent once more.
    can_repeat: bool,
}

/// Tries endpoints until one has answered, and returns what `attempt` made of the answer and the place
/// of the endpoint in the upstream. `status` is that of an answer.
pub(crate) async fn reach<T>(
    session: &mut Session,
    upstream: &Upstream,
    head: &mut Parts,
    ending: &mut Ending,
    status: impl Fn(&T) -> StatusCode,
    mut attempt: impl AsyncFnMut(&Session, &Endpoint, &mut Parts) -> Result<T, Attempt>,
) -> Result<(T, usize), Failure> {
    let route = session.route.clone();
    let mut patience = Patience::new(&route.settings.retry, head, ending);
    let mut last = None;
    loop {
        let chosen = match session.choose(upstream, head, ending) {
            Ok(chosen) => chosen,
            // The last attempt tells more than that there is none left.
            Err(Failure::Upstream(none)) => {
                return match last {
                    Some(Last::Answer(answer, index)) => Ok((answer, index)),
                    Some(Last::Error(error)) => Err(error.into()),
                    None => Err(none.into()),
                };
            }
            Err(failure) => return Err(failure),
        };
        let endpoint = &upstream.endpoints[chosen.index];
        session.remember(head, Some(endpoint.address));
        patience.tries += 1;
        let outcome = attempt(session, endpoint, head).await;
        if let Some(notes) = &mut ending.notes {
            notes.tried(session.connected.take(), outcome.as_ref().ok().map(&status));
        }
        let failed = match outcome {
            Ok(answer) => {
                let status = status(&answer);
                // As in nginx, what is passed on for want of another endpoint counts against nobody.
                let is_last = !patience.lasts() || patience.tries >= upstream.endpoints.len();
                if is_last || !patience.dislikes(status) {
                    endpoint.succeeded();
                    return Ok((answer, chosen.index));
                }
                judge(session, upstream, &chosen, status);
                session.search.failed(chosen.index);
                last = Some(Last::Answer(answer, chosen.index));
                continue;
            }
            Err(failed) => failed,
        };
        // What a client does to its own request says nothing of the endpoint.
        if let Some(problem) = ending.body_problem() {
            return Err(problem.into());
        }
        let (error, was_sent) = match failed {
            Attempt::NothingSent(error) => (error, false),
            Attempt::Failed(error) => (error, true),
        };
        session.attempt_failed(upstream, &chosen, &error);
        let may_repeat = patience.can_repeat || !was_sent;
        let goes_on = may_repeat && patience.covers(&error) && patience.lasts();
        let failure = Failure::Upstream(error);
        if let Some(notes) = &mut ending.notes {
            notes.try_failed(failure.status());
        }
        let Failure::Upstream(error) = failure else {
            return Err(failure);
        };
        if !goes_on {
            return Err(error.into());
        }
        session.search.failed(chosen.index);
        last = Some(Last::Error(error));
    }
}

/// Counts an answer that the operator dislikes against the endpoint. That something is forbidden or not
/// there is not its fault.
fn judge(session: &Session, upstream: &Upstream, chosen: &Chosen, status: StatusCode) {
    if !matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) {
        let address = upstream.endpoints[chosen.index].address;
        session.attempt_failed(upstream, chosen, &Error::Status { address, status });
    }
}

/// Whether a request without a body may be sent twice, although it is not known what came of the first
/// time.
pub(crate) fn is_repeatable(method: &Method, retry: &Retry) -> bool {
    retry.non_idempotent || !matches!(method.as_str(), "POST" | "LOCK" | "PATCH")
}

impl<'a> Patience<'a> {
    fn new(retry: &'a Retry, head: &Parts, ending: &Ending) -> Self {
        Self {
            retry,
            tries: 0,
            began: (!retry.timeout.is_zero()).then(Instant::now),
            // A body is not kept.
            can_repeat: !ending.has_body() && is_repeatable(&head.method, retry),
        }
    }

    /// Whether there may be another try.
    fn lasts(&self) -> bool {
        let is_late = self
            .began
            .is_some_and(|began| began.elapsed() >= self.retry.timeout);
        !is_late && (self.retry.tries == 0 || self.tries < self.retry.tries)
    }

    /// Whether another endpoint is tried after such an error.
    fn covers(&self, error: &Error) -> bool {
        match error {
            Error::Timeout { .. } => self.retry.on_timeout,
            Error::Exchange { source, .. } if source.is_parse() => self.retry.on_invalid_response,
            // What it switched to is of no use, and it may well be a program that knows nothing of it.
            Error::Answer { .. } => self.retry.on_error || self.retry.on_invalid_response,
            Error::Connect { .. } | Error::Tls { .. } | Error::Exchange { .. } => {
                self.retry.on_error
            }
            Error::Status { .. } | Error::NoEndpoint { .. } => false,
        }
    }

    /// Whether another endpoint is tried after an answer with this status.
    fn dislikes(&self, status: StatusCode) -> bool {
        self.can_repeat && self.retry.on_status.contains(&status)
    }
}
