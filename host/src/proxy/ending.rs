//! The end of an exchange or session: what is counted until then, and its line in the access log.
//!
//! Whatever holds the last byte of it holds this too: a response's body, or a relay.

use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue};
use http::{Response, StatusCode};

use super::body::ResponseBody;
use super::client::{Client, Http};
use super::log_line;
use super::notes::Notes;
use super::worker::Worker;
use crate::telemetry::{Chain, Direction, EndpointMetrics};
use crate::upstream::{self, BodyProgress, Endpoint, Open};

/// Records an exchange or session when it is dropped, with 499 if nothing was answered by then: the
/// client went away.
pub(crate) struct Ending {
    worker: Rc<Worker>,
    /// None: nothing is made of it later.
    pub(crate) notes: Option<Box<Notes>>,
    /// The endpoint that counts this as open.
    endpoint: Option<(Open, Arc<EndpointMetrics>)>,
    body: Option<Rc<BodyProgress>>,
    /// The connection that has a session less when this ends.
    client: Option<Rc<Client>>,
}

impl Ending {
    pub(crate) fn begin(worker: &Rc<Worker>, client: &Rc<Client>) -> Self {
        client.begin();
        Self {
            worker: worker.clone(),
            notes: None,
            endpoint: None,
            body: None,
            client: Some(client.clone()),
        }
    }

    /// Counts the exchange as open at an endpoint, and no longer at the one before.
    pub(crate) fn opens(
        &mut self,
        endpoint: &Endpoint,
        open: Open,
        metrics: &Arc<EndpointMetrics>,
    ) {
        self.closes();
        metrics.open.increment();
        self.endpoint = Some((open, metrics.clone()));
        if let Some(notes) = &mut self.notes {
            notes.tries(endpoint.address);
        }
    }

    fn closes(&mut self) {
        if let Some((_, metrics)) = self.endpoint.take() {
            metrics.open.decrement();
        }
    }

    /// Notes why this ends badly.
    pub(crate) fn failed(&mut self, failure: &dyn Error) {
        if let Some(notes) = &mut self.notes {
            notes.failure = Some(Chain(failure).to_string().into());
        }
    }

    /// Whether the whole request body has been read, or given up.
    pub(crate) fn has_received(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_done())
    }

    /// Whether the request has a body.
    pub(crate) fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// Returns what is wrong with the request body, if anything is.
    pub(crate) fn body_problem(&self) -> Option<upstream::BodyProblem> {
        self.body.as_ref().and_then(|body| body.problem())
    }

    /// Notes the bytes of the response body that went to the client.
    pub(crate) fn delivered(&mut self, bytes: u64) {
        self.worker.metrics.bytes[Direction::ToClient].add(bytes);
        if let Some(notes) = &mut self.notes {
            notes.bytes_to_client += bytes;
        }
    }

    /// Counts what is read of the request body from now on.
    pub(crate) fn receives(&mut self) -> Rc<BodyProgress> {
        self.body.get_or_insert_default().clone()
    }

    /// Notes bytes that came from the client.
    pub(crate) fn received(&mut self, bytes: u64) {
        self.worker.metrics.bytes[Direction::ToService].add(bytes);
        if let Some(notes) = &mut self.notes {
            notes.bytes_from_client += bytes;
        }
    }

    /// Returns the worker that serves this.
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Hands what is left to record to a session that begins with a 101.
    pub(crate) fn for_session(&mut self) -> Self {
        if let Some(notes) = &mut self.notes {
            notes.status = Some(StatusCode::SWITCHING_PROTOCOLS);
        }
        let mut ending = self.take();
        // A connection of HTTP/1.1 is not coming back, and an idle session should not hold more than
        // it needs.
        ending.client.take_if(|client| client.http == Http::One);
        ending
    }

    fn take(&mut self) -> Self {
        Self {
            worker: self.worker.clone(),
            notes: self.notes.take(),
            endpoint: self.endpoint.take(),
            body: self.body.take(),
            client: self.client.take(),
        }
    }

    /// Lets the exchange end with the body of its response.
    pub(crate) fn answer(
        &mut self,
        mut response: Response<ResponseBody>,
        unread: bool,
    ) -> Response<ResponseBody> {
        let status = response.status();
        self.worker.metrics.responses[status.into()].increment();
        if let Some(notes) = &mut self.notes {
            notes.status = Some(status);
        }
        // What is left of the request's body will not be read, so the connection cannot go on. A
        // stream of HTTP/2 is simply reset, and its connection says by itself when it is to go.
        let client = self.client.as_ref();
        if let Some(client) = client.filter(|client| client.http == Http::One)
            && !response.body().switches()
            && (unread || client.is_to_go(&self.worker))
        {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            if unread {
                client.ends();
            }
        }
        let ending = self.take();
        response.body_mut().ends(ending);
        response
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.closes();
        if let Some(body) = self.body.take() {
            self.received(body.bytes());
        }
        if let Some(client) = self.client.take() {
            client.rest();
        }
        if let Some(notes) = self.notes.take() {
            log_line::write(&notes, &self.worker);
        }
    }
}
