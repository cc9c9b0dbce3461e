//! The body of a client's request as it arrives, whichever HTTP it speaks.
//!
//! What it may be, and how long it may take, is `upstream/body.rs`'s business.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// A request body.
pub(crate) enum ClientBody {
    Http1(Incoming),
    Http2(Http2Body),
    /// None: what the client sends is no body, but what follows an upgrade.
    Upgrade,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientBodyError {
    #[error(transparent)]
    Http1(hyper::Error),
    #[error(transparent)]
    Http2(h2::Error),
}

/// The body of a request on an HTTP/2 stream. Each byte that is taken lets the client send another.
pub(crate) struct Http2Body {
    recv: h2::RecvStream,
    /// What `Content-Length` says. h2 holds the client to it.
    length: Option<u64>,
    data_ended: bool,
    expectation: Option<Rc<Expectation>>,
}

/// `Expect: 100-continue` of a request: fulfilled once somebody wants the body (RFC 9110 §10.1.1).
#[derive(Default)]
pub(crate) struct Expectation {
    wanted: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Http2Body {
    pub(crate) fn new(
        recv: h2::RecvStream,
        length: Option<u64>,
        expectation: Option<Rc<Expectation>>,
    ) -> Self {
        Self {
            recv,
            length,
            data_ended: false,
            expectation,
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(expectation) = self.expectation.take() {
            expectation.want();
        }
        if !self.data_ended {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => {
                    if let Some(length) = &mut self.length {
                        *length = length.saturating_sub(data.len() as u64);
                    }
                    self.recv.flow_control().release_capacity(data.len())?;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.recv.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.recv.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl Expectation {
    fn want(&self) {
        self.wanted.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready once somebody wants the body. Only the last task to poll is woken.
    pub(crate) fn poll_wanted(&self, cx: &Context<'_>) -> Poll<()> {
        if self.wanted.get() {
            return Poll::Ready(());
        }
        self.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(ClientBodyError::Http1),
            Self::Http2(body) => body.poll_frame(cx).map_err(ClientBodyError::Http2),
            Self::Upgrade => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.recv.is_end_stream(),
            Self::Upgrade => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Upgrade => SizeHint::with_exact(0),
        }
    }
}
