//! An HTTP/1.1 connection of a client: hyper reads and writes it, and this module watches the clock.
//!
//! Each request becomes a session in `proxy/session.rs`. After a 101 the socket is taken back from
//! hyper and handed to the session that asked for it.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::close::close;
use crate::proxy::{Client, ConnectionPermit, Phase, Signal, Worker, refused, run};
use crate::stream::{ClientBody, Guarded, Stream};

/// How long clients may go on to ask when the worker drains: a request may be on its way, or here and not
/// read yet. What is answered meanwhile says that the connection ends.
pub(super) const LAST_REQUESTS: Duration = Duration::from_millis(250);

/// Why a connection was ended from here.
enum Stop {
    /// The head took too long.
    HeadTimeout,
    /// Nothing was asked for too long, or the worker drains and nothing is under way.
    Idle,
}

/// Serves a connection to its end, or to where a session takes it over.
pub(crate) async fn serve(
    stream: Stream,
    client: Rc<Client>,
    worker: Rc<Worker>,
    permit: ConnectionPermit,
) {
    let generation = worker.generation();
    let max_head = generation.limits.max_header_bytes + LONGEST_TARGET_BYTES;
    let mut builder = http1::Builder::new();
    builder
        // Room for a target that is too long, so that it is told from a head that is. The limit itself
        // is the session's to keep.
        .max_header_size(max_head)
        .max_buf_size(max_head.max(DEFAULT_BUFFER_BYTES))
        .header_read_timeout(None);
    if generation.limits.max_headers != DEFAULT_MAX_HEADERS {
        builder.max_headers(generation.limits.max_headers);
    }
    let handover = Rc::new(Cell::new(None));
    let service = {
        let (client, worker, handover) = (client.clone(), worker.clone(), handover.clone());
        service_fn(move |request: Request<Incoming>| {
            let (client, worker, handover) = (client.clone(), worker.clone(), handover.clone());
            // Begun within: a future that is captured first has room made for it twice.
            async move {
                let mut response = run(request.map(ClientBody::Http1), client, worker).await;
                handover.set(response.body_mut().handover());
                Ok::<_, Infallible>(response)
            }
        })
    };
    let stream = Guarded::new(stream, generation.timeouts.send, client.clone());
    drop(generation);
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let result = poll_fn(|cx| {
        while let Poll::Ready(signal) = client.watch.poll_signal(cx) {
            match (signal, client.phase()) {
                (Signal::Expired, _) if !client.is_late() => {}
                (Signal::Expired, Phase::Head) => return Poll::Ready(Err(Stop::HeadTimeout)),
                (Signal::Expired, _) => return Poll::Ready(Err(Stop::Idle)),
                (Signal::Drain, _) => {
                    let at = client.watch.now().after(LAST_REQUESTS);
                    client.watch.set_alarm(at);
                }
                // hyper ends the connection after the response that is under way.
                (Signal::Alarm, _) => Pin::new(&mut connection).graceful_shutdown(),
                // It is not a session.
                (Signal::Close, _) => {}
            }
        }
        Pin::new(&mut connection).poll(cx).map(Ok)
    })
    .await;

    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner().into_inner();
    let mut last: &[u8] = b"";
    match result {
        Ok(Ok(())) => {
            if let Some(handover) = handover.take() {
                drop((client, parts.service));
                handover(stream, parts.read_buf, Some(permit));
                return;
            }
        }
        Ok(Err(error)) => {
            debug!(remote = %client.remote, %error, "connection failed");
            if let Some(status) = answered(&error) {
                refused(&worker, &client, status, &error);
            }
        }
        Err(Stop::HeadTimeout) => {
            // A client that sent nothing asked nothing.
            if !parts.read_buf.is_empty() {
                refused(&worker, &client, StatusCode::REQUEST_TIMEOUT, &HeadTimeout);
                last = b"HTTP/1.1 408 Request Timeout\r\n\
                    connection: close\r\ncontent-length: 0\r\n\r\n";
            }
        }
        Err(Stop::Idle) => {}
    }
    if !client.has_ended() {
        close(&mut stream, last, &worker).await;
    }
}

/// The rest of a request head did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("request head took too long")]
struct HeadTimeout;

/// Returns what hyper answered to a head that it could not read; None: it could not answer.
fn answered(error: &hyper::Error) -> Option<StatusCode> {
    if error.is_parse_too_large() {
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else if error.is_parse() {
        Some(StatusCode::BAD_REQUEST)
    } else {
        None
    }
}

/// hyper answers 414 beyond this.
const LONGEST_TARGET_BYTES: usize = 65_534;

/// hyper's own bound on what it reads ahead and holds back, per connection.
const DEFAULT_BUFFER_BYTES: usize = 417_792;

/// hyper's own limit, which costs nothing; another one costs an allocation per request.
const DEFAULT_MAX_HEADERS: usize = 100;
