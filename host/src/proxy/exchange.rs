//! An ordinary request and its response, over a pooled or a new connection.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::timeout;
use tracing::debug;

use super::body::{ResponseBody, ServiceBody};
use super::failure::Failure;
use super::head;
use super::session::{Ending, Session};
use crate::upstream::{BodyProgress, Endpoint, Error, RequestBody, Sender, Upstream, http1};

/// Sends the request to an endpoint and returns its response, once its head is complete. The body
/// follows as the client reads it.
///
/// Another endpoint is tried as long as nothing was sent: when one cannot be reached. A request that
/// went out on a connection which the service closed at the same moment is sent once more, if it has
/// no body and may be repeated (RFC 9110 §9.2.2).
pub(crate) async fn run(
    session: &mut Session,
    head: &mut Parts,
    body: Incoming,
    ending: &mut Ending,
) -> Result<Response<ResponseBody>, Failure> {
    let route = session.route.clone();
    let Some(upstream) = &route.upstream else {
        return Err(Failure::BadResponse("the route has no upstream"));
    };
    let progress = ending.receives();
    let body_read = route.generation().timeouts.body_read;
    let mut body = RequestBody::new(body, route.settings.max_body_bytes, body_read, &progress);
    head::for_service(
        head,
        &route.settings.set_headers,
        &session.variables(),
        None,
    )?;

    let mut tried = Vec::new();
    let mut last_error = None;
    let (response, sender, endpoint) = loop {
        let chosen = match session.choose(upstream, head, &tried, ending) {
            Ok(chosen) => chosen,
            // The last attempt tells more than that there is none left.
            Err(Failure::Upstream(none)) => return Err(last_error.unwrap_or(none).into()),
            Err(failure) => return Err(failure),
        };
        let endpoint = &upstream.endpoints[chosen.index];
        session.remember(head, Some(endpoint.address));
        match attempt(session, upstream, endpoint, head, &mut body, &progress).await {
            Ok((response, sender)) => {
                endpoint.state.health.success();
                break (response, sender, chosen.index);
            }
            Err(Attempt::Failed(error)) => {
                if let Some(problem) = progress.problem() {
                    return Err(problem.into());
                }
                session.attempt_failed(upstream, &chosen, &error);
                return Err(error.into());
            }
            Err(Attempt::NothingSent(error)) => {
                session.attempt_failed(upstream, &chosen, &error);
                tried.push(chosen.index);
                last_error = Some(error);
            }
        }
    };

    let (mut head, incoming) = response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::BadResponse(
            "101 to a request that asked for no upgrade",
        ));
    }
    head::for_client(&mut head);
    let body = ResponseBody::service(ServiceBody::new(incoming, sender, &route, endpoint));
    session.judge(Response::from_parts(head, body))
}

/// How an attempt at one endpoint ended, other than with a response.
enum Attempt {
    /// The endpoint saw no byte of the request; another may be tried.
    NothingSent(Error),
    Failed(Error),
}

/// Tries one endpoint, over an idle connection if there is one.
async fn attempt(
    session: &Session,
    upstream: &Upstream,
    endpoint: &Endpoint,
    head: &mut Parts,
    body: &mut RequestBody,
    progress: &Rc<BodyProgress>,
) -> Result<(Response<Incoming>, Sender), Attempt> {
    let metrics = &session.worker.metrics;
    let read_timeout = session.route.settings.timeouts.read;
    while let Some(mut sender) = session.worker.pools.take(&endpoint.state) {
        metrics.upstream_connections_reused.increment();
        let repeatable = body.is_empty() && head.method.is_idempotent();
        let kept = repeatable.then(|| head.headers.clone());
        let request = request(head, body);
        match send(&mut sender, request, read_timeout, endpoint, progress).await {
            Ok(response) => return Ok((response, sender)),
            Err(Unanswered {
                unsent: Some(request),
                ..
            }) => {
                // The service closed it while it was idle: its end had not been seen.
                (head.headers, *body) = take_back(*request);
            }
            Err(Unanswered { error, closed, .. }) => match kept {
                Some(headers) if closed => head.headers = headers,
                _ => return Err(Attempt::Failed(error)),
            },
        }
    }
    let timeouts = &session.route.settings.timeouts;
    let stream = upstream
        .connect(endpoint, timeouts.connect)
        .await
        .map_err(Attempt::NothingSent)?;
    metrics.upstream_connections_opened.increment();
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
    match send(
        &mut sender,
        request(head, body),
        read_timeout,
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
    /// The connection was closed, in order, before any byte of a response.
    closed: bool,
}

/// Sends a request and waits for the head of its response, for `read_timeout` from when the client's
/// part is over.
async fn send(
    sender: &mut Sender,
    request: Request<RequestBody>,
    read_timeout: Duration,
    endpoint: &Endpoint,
    progress: &BodyProgress,
) -> Result<Response<Incoming>, Unanswered> {
    let address = endpoint.address;
    let response = sender.try_send_request(request);
    tokio::pin!(response);
    let result = loop {
        let sending = !progress.is_done();
        match timeout(read_timeout, response.as_mut()).await {
            Ok(result) => break result,
            // While the body is on its way, its own timeouts watch both ends of it.
            Err(_) if sending => {}
            Err(_) => {
                let error = Error::Timeout {
                    address,
                    action: "answer",
                    timeout: read_timeout,
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
        let error = if is_timeout(&source) {
            Error::Timeout {
                address,
                action: "take the request",
                timeout: read_timeout,
            }
        } else {
            Error::Exchange { address, source }
        };
        Unanswered {
            error,
            unsent,
            closed,
        }
    })
}

/// Moves head and body into a request. Method and target stay, for the log.
fn request(head: &mut Parts, body: &mut RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(std::mem::take(body));
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = std::mem::take(&mut head.headers);
    request
}

fn take_back(request: Request<RequestBody>) -> (HeaderMap, RequestBody) {
    let (head, body) = request.into_parts();
    (head.headers, body)
}

/// Whether a write stalled for longer than the route allows.
fn is_timeout(error: &hyper::Error) -> bool {
    io_kind(error) == Some(io::ErrorKind::TimedOut)
}

/// Whether the service ended the connection before any byte of a response.
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
