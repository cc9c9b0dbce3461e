//! Call-outs: requests that plugins make to upstreams of the configuration, over the same balancing and
//! the same idle connections as those of clients.
//!
//! What may be asked for, and how often, is decided in `plugin/` before a call-out gets here. Dropping one
//! closes its connection.

use std::error::Error;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::worker::Worker;
use crate::plugin::{CallError, CallOut, CallResult, Caller};
use crate::upstream::{self, Endpoint, RequestBody, Search, Sender, Upstream, http1};

/// How long connecting and writing may take where the call-out says nothing: as for clients' requests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns what sends the call-outs of a worker's plugins.
pub(super) fn caller(worker: Weak<Worker>) -> Caller {
    Rc::new(move |call| {
        let worker = worker.clone();
        Box::pin(async move {
            // Without a worker nobody is there who waits.
            let worker = worker.upgrade().ok_or(CallError::Refused)?;
            run(&worker, call).await
        })
    })
}

/// How an attempt at one endpoint failed.
enum Failed {
    /// The endpoint saw no byte of the request.
    NothingSent(upstream::Error),
    /// The connection ended before the head of a response was complete.
    Unanswered(upstream::Error),
    /// The time is over.
    Late,
    /// There is an answer, but none to hand on.
    Reply(CallError),
}

async fn run(worker: &Rc<Worker>, call: CallOut) -> CallResult {
    let generation = worker.generation();
    let named = |upstream: &&std::sync::Arc<Upstream>| upstream.name == call.upstream;
    let Some(upstream) = generation.upstreams.iter().find(named) else {
        // A reload has taken it away, and swaps the plugin that was granted it.
        return Err(CallError::Refused);
    };
    attempts(worker, upstream, &call).await
}

/// Tries endpoints until one has answered.
async fn attempts(worker: &Rc<Worker>, upstream: &Upstream, call: &CallOut) -> CallResult {
    let mut search = Search::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut last = CallError::Refused;
    let deadline = call
        .timeout
        .and_then(|limit| Instant::now().checked_add(limit));
    while let Some((index, open)) = worker.balancer.pick(upstream, &mut search) {
        let endpoint = &upstream.endpoints[index];
        let metrics = worker.endpoint_metrics(upstream, endpoint);
        metrics.picks.increment();
        // Counted as open until this attempt is over, or dropped.
        let attempt = Attempt {
            worker,
            upstream,
            endpoint,
            index,
            call,
        };
        let result = attempt.run(deadline).await;
        drop(open);
        let (error, goes_on) = match result {
            Ok(response) => return Ok(response),
            Err(Failed::Reply(error)) => return Err(error),
            Err(Failed::Late) => {
                metrics.failures.increment();
                return Err(CallError::Timeout);
            }
            Err(Failed::NothingSent(error)) => (error, true),
            Err(Failed::Unanswered(error)) => (error, is_repeatable(call)),
        };
        debug!(endpoint = %endpoint.name, error = &error as &dyn Error, "call-out failed");
        metrics.failures.increment();
        search.failed(index);
        if !goes_on {
            return Err(CallError::Failed);
        }
        last = match error {
            upstream::Error::Exchange { .. } => CallError::Failed,
            _ => CallError::Refused,
        };
    }
    Err(last)
}

/// An attempt at one endpoint.
struct Attempt<'a> {
    worker: &'a Rc<Worker>,
    upstream: &'a Upstream,
    endpoint: &'a Endpoint,
    index: usize,
    call: &'a CallOut,
}

impl Attempt<'_> {
    /// An endpoint that has not answered by the deadline has failed. One that nobody waits for any longer
    /// has not.
    async fn run(self, deadline: Option<Instant>) -> Result<Response<Bytes>, Failed> {
        let asked = self.ask();
        let result = match deadline {
            None => asked.await,
            Some(deadline) => timeout_at(deadline, asked)
                .await
                .unwrap_or(Err(Failed::Late)),
        };
        match &result {
            Ok(_) | Err(Failed::Reply(_)) => self.endpoint.succeeded(),
            Err(Failed::NothingSent(_) | Failed::Unanswered(_) | Failed::Late) => {
                self.worker.balancer.failed(self.upstream, self.index);
            }
        }
        result
    }

    /// Asks over an idle connection if there is one, else over a new one.
    async fn ask(&self) -> Result<Response<Bytes>, Failed> {
        let metrics = &self.worker.metrics;
        while let Some(sender) = self.worker.pools.take(&self.endpoint.state) {
            metrics.upstream_connections_reused.increment();
            match self.exchange(sender).await {
                Ok((response, sender)) => {
                    self.keep(sender);
                    return Ok(response);
                }
                // The service closed it while it was idle: its end had not been seen.
                Err(Failed::NothingSent(_)) => {}
                Err(Failed::Unanswered(_)) if is_repeatable(self.call) => break,
                Err(failed) => return Err(failed),
            }
        }
        let limit = self.call.timeout.unwrap_or(PATIENCE);
        let stream = self
            .upstream
            .connect(self.endpoint, limit)
            .await
            .map_err(Failed::NothingSent)?;
        metrics.upstream_connections_opened.increment();
        let max_header_bytes = self.worker.generation().limits.max_header_bytes;
        let (sender, connection) = http1(stream, limit, max_header_bytes)
            .await
            .map_err(|source| Failed::NothingSent(self.broken(source)))?;
        // Driven here until the response is there, so that it ends with whoever waits for that.
        let mut connection = Box::pin(connection);
        let mut is_open = true;
        let mut exchange = std::pin::pin!(self.exchange(sender));
        let (response, sender) = poll_fn(|cx| {
            if is_open && connection.as_mut().poll(cx).is_ready() {
                is_open = false;
            }
            exchange.as_mut().poll(cx)
        })
        .await?;
        if is_open {
            tokio::task::spawn_local(connection);
            self.keep(sender);
        }
        Ok(response)
    }

    /// Sends the request and reads the whole response.
    async fn exchange(&self, mut sender: Sender) -> Result<(Response<Bytes>, Sender), Failed> {
        let answer = sender.try_send_request(self.request()).await;
        let response = answer.map_err(|mut failed| {
            let was_sent = failed.take_message().is_none();
            let error = self.broken(failed.into_error());
            if was_sent {
                Failed::Unanswered(error)
            } else {
                Failed::NothingSent(error)
            }
        })?;
        let (head, body) = response.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failed::Reply(CallError::Failed));
        }
        let body = self.read(body).await.map_err(Failed::Reply)?;
        Ok((Response::from_parts(head, body), sender))
    }

    fn request(&self) -> Request<RequestBody> {
        let asked = &self.call.request;
        let mut request = Request::new(RequestBody::fixed(asked.body().clone()));
        *request.method_mut() = asked.method().clone();
        *request.uri_mut() = asked.uri().clone();
        *request.headers_mut() = asked.headers().clone();
        if let Some(host) = &self.upstream.host
            && !request.headers().contains_key(HOST)
        {
            request.headers_mut().insert(HOST, host.clone());
        }
        request
    }

    async fn read(&self, mut body: Incoming) -> Result<Bytes, CallError> {
        let limit = self.call.max_reply_bytes;
        if body.size_hint().lower() > limit as u64 {
            return Err(CallError::TooLarge);
        }
        let mut read = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let Ok(frame) = frame else {
                return Err(CallError::Failed);
            };
            if let Some(bytes) = frame.data_ref() {
                if read.len() + bytes.len() > limit {
                    return Err(CallError::TooLarge);
                }
                read.extend_from_slice(bytes);
            }
        }
        Ok(read.freeze())
    }

    fn keep(&self, sender: Sender) {
        let pools = &self.worker.pools;
        pools.put(self.upstream, &self.endpoint.state, sender);
    }

    fn broken(&self, source: hyper::Error) -> upstream::Error {
        upstream::Error::Exchange {
            address: self.endpoint.address,
            source,
        }
    }
}

/// Whether a request may be sent twice, although it is not known what came of the first time.
fn is_repeatable(call: &CallOut) -> bool {
    let method = call.request.method();
    !matches!(*method, Method::POST | Method::PATCH) && method.as_str() != "LOCK"
}
