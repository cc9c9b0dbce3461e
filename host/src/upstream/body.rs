//! The body of a request on its way to a service: a client's, which is streamed, counted, and bounded in
//! size and in time, or one that is known.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::stream::{ClientBody, Patience};

/// What can be wrong with a request body. All of it is the client's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyProblem {
    #[error("request body is longer than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("client sent nothing of its request body for {timeout:?}")]
    Timeout { timeout: Duration },
    #[error("client broke off its request body")]
    Aborted,
}

/// How far a request body has come. Shared by the body, which hyper owns, and the session.
#[derive(Debug, Default)]
pub(crate) struct BodyProgress {
    bytes: Cell<u64>,
    done: Cell<bool>,
    problem: Cell<Option<BodyProblem>>,
}

impl BodyProgress {
    /// Returns the bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Returns whether the client's part is over.
    pub(crate) fn is_done(&self) -> bool {
        self.done.get()
    }

    /// Returns why the body ended early, if it did.
    pub(crate) fn problem(&self) -> Option<BodyProblem> {
        self.problem.get()
    }
}

/// A request body. Boxed, since most requests have none.
#[derive(Default)]
pub(crate) struct RequestBody(Option<Box<Source>>);

enum Source {
    Client(Streaming),
    /// Not taken yet.
    Fixed(Option<Bytes>),
}

struct Streaming {
    incoming: ClientBody,
    /// 0: no limit.
    limit: u64,
    /// With a client that sends nothing.
    patience: Patience,
    progress: Rc<BodyProgress>,
}

impl RequestBody {
    /// Wraps what is read from the client. `limit` in bytes, 0 for none.
    pub(crate) fn new(
        incoming: ClientBody,
        limit: u64,
        read_timeout: Duration,
        progress: &Rc<BodyProgress>,
    ) -> Self {
        if incoming.is_end_stream() {
            progress.done.set(true);
            return Self(None);
        }
        let progress = progress.clone();
        Self(Some(Box::new(Source::Client(Streaming {
            incoming,
            limit,
            patience: Patience::new(read_timeout),
            progress,
        }))))
    }

    /// A body that is known.
    pub(crate) fn fixed(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Self(None);
        }
        Self(Some(Box::new(Source::Fixed(Some(bytes)))))
    }

    /// Returns whether there is no body, so that the request can be sent again.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Streaming {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyProblem>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            ready!(self.patience.poll(cx));
            let timeout = self.patience.limit();
            return Poll::Ready(Some(Err(BodyProblem::Timeout { timeout })));
        };
        self.patience.renew();
        Poll::Ready(match frame {
            None => None,
            Some(Err(_)) => Some(Err(BodyProblem::Aborted)),
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                let bytes = self.progress.bytes.get() + length;
                self.progress.bytes.set(bytes);
                if self.limit != 0 && bytes > self.limit {
                    Some(Err(BodyProblem::TooLarge { limit: self.limit }))
                } else {
                    Some(Ok(frame))
                }
            }
        })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyProblem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyProblem>>> {
        let streaming = match self.0.as_deref_mut() {
            None => return Poll::Ready(None),
            Some(Source::Fixed(bytes)) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Some(Source::Client(streaming)) => streaming,
        };
        let frame = ready!(streaming.poll_frame(cx));
        match &frame {
            Some(Ok(_)) => {}
            Some(Err(problem)) => streaming.progress.problem.set(Some(*problem)),
            None => streaming.progress.done.set(true),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self.0.as_deref() {
            None | Some(Source::Fixed(None)) => true,
            Some(Source::Fixed(Some(_))) => false,
            Some(Source::Client(streaming)) => streaming.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.as_deref() {
            None | Some(Source::Fixed(None)) => SizeHint::with_exact(0),
            Some(Source::Fixed(Some(bytes))) => SizeHint::with_exact(bytes.len() as u64),
            Some(Source::Client(streaming)) => streaming.incoming.size_hint(),
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // Whoever lets go of it wants no more, so the client's part is over: hyper does not ask again
        // once Content-Length bytes have come, nor after trailers.
        self.progress.done.set(true);
    }
}
