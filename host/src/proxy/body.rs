//! The body of a response on its way to a client: streamed, counted, and the place where an exchange
//! ends.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::client::Handover;
use super::ending::Ending;
use super::session::RouteHandle;
use crate::files;
use crate::stream::Patience;
use crate::upstream::Sender;

/// A response body. When it has been sent, or the client is gone, the exchange is recorded.
pub(crate) struct ResponseBody {
    source: Source,
    /// Bytes handed to hyper.
    bytes: u64,
    ending: Option<Ending>,
}

enum Source {
    /// At most one chunk.
    Fixed(Option<Bytes>),
    File(files::Body),
    Service(ServiceBody),
    /// Not a body: what takes over the client's stream, once the 101 has gone out.
    Switched(Option<Handover>),
}

/// A body as it comes from a service, and the connection it comes on.
pub(crate) struct ServiceBody {
    incoming: Incoming,
    /// With a service that sends nothing.
    patience: Patience,
    /// Everything has come, trailers included.
    ended: bool,
    connection: Option<Reusable>,
}

/// A connection that goes back to its pool once the response has been read.
struct Reusable {
    sender: Sender,
    route: RouteHandle,
    endpoint: usize,
}

/// Why a response broke off. hyper then closes the client's connection, which is how HTTP/1.1 says
/// that a body is not whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("response broke off")]
    Service(#[source] hyper::Error),
    #[error("service sent nothing of its response for {0:?}")]
    Timeout(Duration),
    #[error("file cannot be read on")]
    File(#[source] std::io::Error),
}

impl ResponseBody {
    /// A body that is known.
    pub(crate) fn fixed(bytes: Bytes) -> Self {
        let source = Source::Fixed(Some(bytes).filter(|bytes| !bytes.is_empty()));
        Self {
            source,
            bytes: 0,
            ending: None,
        }
    }

    /// A body that is read from a file.
    pub(crate) fn file(body: files::Body) -> Self {
        Self {
            source: Source::File(body),
            bytes: 0,
            ending: None,
        }
    }

    /// A body that a service sends.
    pub(crate) fn service(body: ServiceBody) -> Self {
        Self {
            source: Source::Service(body),
            bytes: 0,
            ending: None,
        }
    }

    /// No body: the client's stream goes to a session.
    pub(crate) fn switched(handover: Handover) -> Self {
        Self {
            source: Source::Switched(Some(handover)),
            bytes: 0,
            ending: None,
        }
    }

    /// Returns what takes over the client's stream, if this response switches protocols.
    pub(crate) fn handover(&mut self) -> Option<Handover> {
        match &mut self.source {
            Source::Switched(handover) => handover.take(),
            Source::Fixed(_) | Source::File(_) | Source::Service(_) => None,
        }
    }

    /// Whether this response switches protocols.
    pub(crate) fn switches(&self) -> bool {
        matches!(self.source, Source::Switched(_))
    }

    /// Notes why what is left of it will not be sent.
    pub(crate) fn failed(&mut self, error: &dyn std::error::Error) {
        if let Some(ending) = &mut self.ending {
            ending.failed(error);
        }
    }

    /// Ends the exchange when this body ends.
    pub(crate) fn ends(&mut self, ending: Ending) {
        self.ending = Some(ending);
    }
}

impl ServiceBody {
    /// `sender` goes back to the pool of `endpoint` once the body has been read.
    pub(crate) fn new(
        incoming: Incoming,
        sender: Sender,
        route: &RouteHandle,
        endpoint: usize,
    ) -> Self {
        Self {
            incoming,
            patience: Patience::new(route.settings.timeouts.read),
            ended: false,
            connection: Some(Reusable {
                sender,
                route: route.clone(),
                endpoint,
            }),
        }
    }
}

impl ServiceBody {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            ready!(self.patience.poll(cx));
            return Poll::Ready(Some(Err(BodyError::Timeout(self.patience.limit()))));
        };
        self.patience.renew();
        // hyper asks no more after trailers.
        self.ended = frame
            .as_ref()
            .is_none_or(|frame| frame.as_ref().is_ok_and(|frame| frame.is_trailers()));
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Service)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.source {
            Source::Fixed(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Source::File(body) => ready!(body.poll_chunk(cx))
                .map(|chunk| chunk.map(Frame::data).map_err(BodyError::File)),
            Source::Service(body) => ready!(body.poll_frame(cx)),
            Source::Switched(_) => None,
        };
        match &frame {
            Some(Ok(frame)) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Some(Err(error)) => self.failed(error),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Fixed(bytes) => bytes.is_none(),
            Source::File(body) => body.remaining() == 0,
            Source::Service(body) => body.incoming.is_end_stream(),
            Source::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Fixed(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::File(body) => SizeHint::with_exact(body.remaining()),
            Source::Service(body) => body.incoming.size_hint(),
            Source::Switched(_) => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Source::Service(body) = &mut self.source
            && (body.ended || body.incoming.is_end_stream())
            && let (
                Some(ending),
                Some(Reusable {
                    sender,
                    route,
                    endpoint,
                }),
            ) = (&self.ending, body.connection.take())
            && let Some(upstream) = &route.upstream
        {
            let endpoint = &upstream.endpoints[endpoint];
            ending.worker().pools.put(upstream, &endpoint.state, sender);
        }
        if let Some(mut ending) = self.ending.take() {
            ending.delivered(self.bytes);
        }
    }
}
