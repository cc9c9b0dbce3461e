//! An ordinary request and its response, over a pooled or a new connection.

use std::io;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use tokio::time::timeout;
use tracing::debug;

use super::affinity;
use super::attempts::{Attempt, is_repeatable, reach};
use super::body::{ResponseBody, ServiceBody};
use super::ending::Ending;
use super::failure::Failure;
use super::head;
use super::response;
use super::session::Session;
use crate::config::RouteTimeouts;
use crate::stream::ClientBody;
use crate::upstream::{BodyProgress, Endpoint, Error, RequestBody, Sender, Upstream, http1};

const UNASKED: &str = "101 to a request that asked for no upgrade";

/// Sends the request to an endpoint and returns its response, once its head is complete. The body
/// follows as the client reads it.
///
/// A request that went out on a kept connection which the service closed without an answer is sent
/// once more, on a new one, if it has no body and may be repeated (RFC 9110 §9.2.2).
pub(crate) async fn run(
    session: &mut Session,
    upstream: &Upstream,
    head: &mut Parts,
    body: Option<ClientBody>,
    ending: &mut Ending,
) -> Result<Response<ResponseBody>, Failure> {
    let route = session.route.clone();
    let limit = route.settings.max_body_bytes;
    let body_read = route.generation().timeouts.body_read;
    // Most requests have no body, and nothing to keep track of.
    let body = body.filter(|body| !body.is_end_stream());
    let progress = body.as_ref().map(|_| ending.receives());
    let mut body = match (body, &progress) {
        (Some(body), Some(progress)) => RequestBody::new(body, limit, body_read, progress),
        _ => RequestBody::default(),
    };
    head::for_service(head, &route, &session.variables(), None)?;
    if !body.is_empty() && !head.headers.contains_key(CONTENT_LENGTH) {
        // hyper frames a body of unknown length by itself, but not that of a GET.
        head.headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let attempt = async |session: &Session, endpoint: &Endpoint, head: &mut Parts| {
        let (response, sender) = attempt(
            session,
            upstream,
            endpoint,
            head,
            &mut body,
            progress.as_deref(),
        )
        .await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (address, why) = (endpoint.address, UNASKED.into());
            return Err(Attempt::Failed(Error::Answer { address, why }));
        }
        Ok((response, sender))
    };
    let ((response, sender), endpoint) = reach(
        session,
        upstream,
        head,
        ending,
        |(response, _): &(Response<Incoming>, Sender)| response.status(),
        attempt,
    )
    .await?;

    let (mut head, incoming) = response.into_parts();
    head::for_client(&mut head, &incoming)?;
    response::rewrite(session, &mut head.headers, ending);
    affinity::set_cookie(session, upstream, endpoint, &mut head.headers);
    let body = ResponseBody::service(ServiceBody::new(incoming, sender, &route, endpoint));
    session
        .judge(Response::from_parts(head, body), ending)
        .await
}

/// Tries one endpoint, over an idle connection if there is one.
async fn attempt(
    session: &Session,
    upstream: &Upstream,
    endpoint: &Endpoint,
    head: &mut Parts,
    body: &mut RequestBody,
    progress: Option<&BodyProgress>,
) -> Result<(Response<Incoming>, Sender), Attempt> {
    let metrics = &session.worker.metrics;
    let timeouts = &session.route.settings.timeouts;
    let repeatable = body.is_empty() && is_repeatable(&head.method, &session.route.settings.retry);
    while let Some(mut sender) = session.worker.pools.take(&endpoint.state) {
        metrics.upstream_connections_reused.increment();
        let request = request(head, body, repeatable);
        match send(&mut sender, request, timeouts, endpoint, progress).await {
            Ok(response) => return Ok((response, sender)),
            Err(Unanswered {
                unsent: Some(request),
                ..
            }) => {
                // The service closed it while it was idle: its end had not been seen.
                (head.headers, *body) = take_back(*request);
            }
            // Once: if it is the request that makes the service close, all others would too.
            Err(Unanswered { closed, .. }) if closed && repeatable => break,
            Err(Unanswered { error, .. }) => return Err(Attempt::Failed(error)),
        }
    }
    // Boxed: most requests find a connection, and each would have to make room for what opens one.
    Box::pin(attempt_anew(
        session, upstream, endpoint, head, body, progress, repeatable,
    ))
    .await
}

/// Tries one endpoint, over a connection of its own.
async fn attempt_anew(
    session: &Session,
    upstream: &Upstream,
    endpoint: &Endpoint,
    head: &mut Parts,
    body: &mut RequestBody,
    progress: Option<&BodyProgress>,
    repeatable: bool,
) -> Result<(Response<Incoming>, Sender), Attempt> {
    let metrics = &session.worker.metrics;
    let timeouts = &session.route.settings.timeouts;
    let stream = upstream
        .connect(endpoint, timeouts.connect)
        .await
        .map_err(Attempt::NothingSent)?;
    metrics.upstream_connections_opened.increment();
    session.connected.set(Some(Instant::now()));
    let max_header_bytes = session.route.generation().limits.max_header_bytes;
    let failed = |source| {
        Attempt::NothingSent(Error::Exchange {
            address: endpoint.address,
            source,
        })
    };
    let (mut sender, connection) = http1(stream, timeouts.send, max_header_bytes)
        .await
        .map_err(failed)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            debug!(%error, "connection to a service ended");
        }
    });
    // Another endpoint may have to be sent the same.
    let keeps = repeatable && upstream.endpoints.len() > 1;
    match send(
        &mut sender,
        request(head, body, keeps),
        timeouts,
        endpoint,
        progress,
    )
    .await
    {
        Ok(response) => Ok((response, sender)),
        Err(Unanswered {
            error,
            unsent: Some(request),
            ..
        }) => {
            (head.headers, *body) = take_back(*request);
            Err(Attempt::NothingSent(error))
        }
        Err(Unanswered { error, .. }) => Err(Attempt::Failed(error)),
    }
}

/// A request that got no response.
struct Unanswered {
    error: Error,
    /// The request, if no byte of it went out.
    unsent: Option<Box<Request<RequestBody>>>,
    /// The connection was closed or reset before the head of a response was complete.
    closed: bool,
}

/// Sends a request and waits for the head of its response, for as long as the service may take to
/// answer from when the client's part is over.
async fn send(
    sender: &mut Sender,
    request: Request<RequestBody>,
    timeouts: &RouteTimeouts,
    endpoint: &Endpoint,
    progress: Option<&BodyProgress>,
) -> Result<Response<Incoming>, Unanswered> {
    let address = endpoint.address;
    let response = sender.try_send_request(request);
    tokio::pin!(response);
    let result = loop {
        let sending = progress.is_some_and(|progress| !progress.is_done());
        match timeout(timeouts.read, response.as_mut()).await {
            Ok(result) => break result,
            // While the body is on its way, its own timeouts watch both ends of it.
            Err(_) if sending => {}
            Err(_) => {
                let error = Error::Timeout {
                    address,
                    action: "answer",
                    timeout: timeouts.read,
                };
                return Err(Unanswered {
                    error,
                    unsent: None,
                    closed: false,
                });
            }
        }
    };
    result.map_err(|mut failed| {
        let unsent = failed.take_message().map(Box::new);
        let source = failed.into_error();
        let closed = is_closed(&source);
        Unanswered {
            error: broken(address, source, timeouts),
            unsent,
            closed,
        }
    })
}

/// Says why a connection to a service failed: a write that stalled for too long, or something else.
pub(crate) fn broken(
    address: std::net::SocketAddr,
    source: hyper::Error,
    timeouts: &RouteTimeouts,
) -> Error {
    if io_kind(&source) == Some(io::ErrorKind::TimedOut) {
        Error::Timeout {
            address,
            action: "take the request",
            timeout: timeouts.send,
        }
    } else {
        Error::Exchange { address, source }
    }
}

/// Moves head and body into a request. Method and target stay, for the log; fields if it `keeps` them,
/// to be sent once more.
fn request(head: &mut Parts, body: &mut RequestBody, keeps: bool) -> Request<RequestBody> {
    let mut request = Request::new(std::mem::take(body));
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = if keeps {
        head.headers.clone()
    } else {
        std::mem::take(&mut head.headers)
    };
    request
}

fn take_back(request: Request<RequestBody>) -> (HeaderMap, RequestBody) {
    let (head, body) = request.into_parts();
    (head.headers, body)
}

/// Whether the service ended the connection before the head of a response was complete.
fn is_closed(error: &hyper::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    error.is_incomplete_message()
        || error.is_closed()
        || matches!(io_kind(error), Some(BrokenPipe | ConnectionReset))
}

fn io_kind(error: &hyper::Error) -> Option<io::ErrorKind> {
    let source = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    Some(source.kind())
}
