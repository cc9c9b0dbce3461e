//! One stream of an HTTP/2 connection: a request, and its response as fast as the client takes it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT, HeaderValue};
use http::{Method, Request, Response, StatusCode, response};
use http_body::Body;
use tracing::debug;

use super::Shared;
use crate::protocol::headers::remove_hop_by_hop;
use crate::proxy::{Handover, ResponseBody, accept_connect, is_extended_connect, run};
use crate::stream::{ClientBody, Expectation, Http2Body, Http2Stream, Patience, Stream, poll_room};

/// Why a response was not sent to its end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("client reset the stream, or is gone")]
    Gone(#[source] io::Error),
    #[error("client took nothing of the response for {0:?}")]
    Stalled(Duration),
    /// The body says itself why.
    #[error("response broke off")]
    Body,
}

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Self {
        Self::Gone(io::Error::other(error))
    }
}

/// Serves a request. Dropping what serves it, when the client resets the stream, is how a session
/// learns that nobody waits for it any more.
pub(super) async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Rc<Shared>,
) {
    let (head, recv) = request.into_parts();
    let is_head = head.method == Method::HEAD;
    let length = head.headers.get(CONTENT_LENGTH).and_then(decimal);
    let mut expectation = head
        .headers
        .get(EXPECT)
        .filter(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        .map(|_| Rc::new(Expectation::default()));
    let (body, upgraded) = match is_extended_connect(&head) {
        true => (ClientBody::Upgrade, Some(recv)),
        false => {
            let body = Http2Body::new(recv, length, expectation.clone());
            (ClientBody::Http2(body), None)
        }
    };
    let request = Request::from_parts(head, body);
    let answer = async {
        let mut session = pin!(run(request, shared.client.clone(), shared.worker.clone()));
        poll_fn(|cx| {
            if let Poll::Ready(response) = session.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            if let Some(wanted) = &expectation
                && wanted.poll_wanted(cx).is_ready()
            {
                expectation = None;
                let mut go_on = Response::new(());
                *go_on.status_mut() = StatusCode::CONTINUE;
                if let Err(error) = respond.send_informational(go_on) {
                    debug!(%error, "cannot ask for the body of a request");
                }
            }
            respond.poll_reset(cx).map(|_| None)
        })
        .await
    };
    let Some(mut response) = answer.await else {
        shared.mood.took_back();
        return;
    };
    shared.mood.was_answered();
    match (upgraded, response.body_mut().handover()) {
        (Some(recv), Some(handover)) => switch(response, handover, respond, recv),
        _ => answer_with(response, is_head, respond, shared.send_timeout).await,
    }
}

/// Leaves the stream to a session.
fn switch(
    response: Response<ResponseBody>,
    handover: Handover,
    mut respond: SendResponse<Bytes>,
    recv: RecvStream,
) {
    let (mut head, _) = response.into_parts();
    accept_connect(&mut head);
    match respond.send_response(Response::from_parts(head, ()), false) {
        Ok(send) => {
            let stream = Http2Stream::new(send, recv);
            handover(Stream::Http2(Box::new(stream)), Bytes::new(), None);
        }
        Err(error) => debug!(%error, "client did not wait for the session"),
    }
}

/// Sends a response.
async fn answer_with(
    response: Response<ResponseBody>,
    is_head: bool,
    mut respond: SendResponse<Bytes>,
    send_timeout: Duration,
) {
    let (mut head, body) = response.into_parts();
    complete(&mut head, &body, is_head);
    let bodiless = matches!(
        head.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    let is_whole = is_head || bodiless || body.is_end_stream();
    match respond.send_response(Response::from_parts(head, ()), is_whole) {
        Ok(_) if is_whole => {}
        Ok(send) => deliver(send, body, send_timeout).await,
        Err(error) => {
            debug!(%error, "cannot answer");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// Takes out of a head what HTTP/2 has no place for (RFC 9113 §8.2.2), and adds what hyper adds in
/// HTTP/1.1.
fn complete(head: &mut response::Parts, body: &ResponseBody, is_head: bool) {
    remove_hop_by_hop(&mut head.headers);
    if !head.headers.contains_key(DATE) {
        let date = httpdate::fmt_http_date(SystemTime::now());
        if let Ok(date) = HeaderValue::from_maybe_shared(Bytes::from(date)) {
            head.headers.insert(DATE, date);
        }
    }
    let length = body.size_hint().exact();
    // What answers HEAD and has no body does not say how long it would have been.
    if let Some(length) = length.filter(|length| *length > 0 || !is_head)
        && !matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        )
        && !head.headers.contains_key(CONTENT_LENGTH)
    {
        head.headers.insert(CONTENT_LENGTH, length.into());
    }
}

/// Sends a body to its end, or resets the stream.
async fn deliver(mut send: SendStream<Bytes>, mut body: ResponseBody, send_timeout: Duration) {
    match pass_on(&mut send, &mut body, Patience::new(send_timeout)).await {
        Ok(()) => {}
        Err(Broken::Body) => send.send_reset(Reason::INTERNAL_ERROR),
        Err(stalled @ Broken::Stalled(_)) => {
            body.failed(&stalled);
            send.send_reset(Reason::CANCEL);
        }
        Err(Broken::Gone(error)) => debug!(%error, "client did not wait for the response"),
    }
}

async fn pass_on(
    send: &mut SendStream<Bytes>,
    body: &mut ResponseBody,
    mut patience: Patience,
) -> Result<(), Broken> {
    loop {
        let frame = poll_fn(|cx| match send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Poll::Ready(Err(Broken::from(h2::Error::from(reason)))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending => Pin::new(&mut *body).poll_frame(cx).map(Ok),
        });
        let Some(frame) = frame.await? else {
            send.send_data(Bytes::new(), true)?;
            return Ok(());
        };
        let mut data = match frame.map_err(|_| Broken::Body)?.into_data() {
            Ok(data) if data.is_empty() => continue,
            Ok(data) => data,
            Err(frame) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    remove_hop_by_hop(&mut trailers);
                    send.send_trailers(trailers)?;
                    return Ok(());
                }
                Err(_) => continue,
            },
        };
        let is_last = body.is_end_stream();
        while !data.is_empty() {
            let room = poll_fn(|cx| match poll_room(send, cx, data.len()) {
                Poll::Ready(room) => Poll::Ready(room.map_err(Broken::Gone)),
                Poll::Pending => {
                    let limit = patience.limit();
                    patience.poll(cx).map(|()| Err(Broken::Stalled(limit)))
                }
            })
            .await?;
            patience.renew();
            let piece = data.split_to(room.min(data.len()));
            send.send_data(piece, is_last && data.is_empty())?;
        }
        if is_last {
            return Ok(());
        }
    }
}

fn decimal(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}
