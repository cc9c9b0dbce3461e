//! A byte stream to a peer: a plain socket, one under TLS, or one of an HTTP/2 connection's streams.
//!
//! Who speaks TLS and with which configuration is decided in `downstream/tls.rs` and
//! `upstream/connect.rs`.

mod body;
mod http2;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::{client, server};

pub(crate) use body::{ClientBody, Expectation, Http2Body};
pub(crate) use http2::{Http2Stream, poll_room};

/// A connected stream. All but a socket is boxed, so that a plain tunnel does not pay for its size.
pub(crate) enum Stream {
    Plain(TcpStream),
    /// We are the TLS server: a client's connection.
    TlsServer(Box<server::TlsStream<TcpStream>>),
    /// We are the TLS client: a connection to a service.
    TlsClient(Box<client::TlsStream<TcpStream>>),
    /// A WebSocket, or another upgrade, of a client that speaks HTTP/2 (RFC 8441).
    Http2(Box<Http2Stream>),
}

/// Calls a method of whichever stream it is.
macro_rules! delegate {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Stream::TlsServer(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
            Stream::TlsClient(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
            Stream::Http2(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::TlsServer(stream) => stream.is_write_vectored(),
            Self::TlsClient(stream) => stream.is_write_vectored(),
            Self::Http2(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown(cx))
    }
}

/// Who is told what happens on a [`Guarded`] stream.
pub(crate) trait Observer {
    /// So many bytes were read; 0 at the end.
    fn read(&self, _bytes: usize) {}

    /// A write went through, or the peer takes nothing for now.
    fn wrote(&self, _stalled: bool) {}
}

/// Nobody.
impl Observer for () {}

/// How long something may not move. The clock runs only while somebody waits.
pub(crate) struct Patience {
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            waiting: None,
        }
    }

    /// Returns the longest wait.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Begins anew, since something has moved.
    pub(crate) fn renew(&mut self) {
        self.waiting = None;
    }

    /// Ready once nothing has moved for the limit.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        waiting.as_mut().poll(cx)
    }
}

/// A stream whose writes may not stall for longer than a limit.
pub(crate) struct Guarded<O> {
    stream: Stream,
    patience: Patience,
    observer: O,
}

impl<O: Observer> Guarded<O> {
    /// Fails writes with [`io::ErrorKind::TimedOut`] when the peer has taken nothing for
    /// `send_timeout`.
    pub(crate) fn new(stream: Stream, send_timeout: Duration, observer: O) -> Self {
        Self {
            stream,
            patience: Patience::new(send_timeout),
            observer,
        }
    }

    /// Returns the stream.
    pub(crate) fn into_inner(self) -> Stream {
        self.stream
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.observer.wrote(write.is_pending());
        if write.is_ready() {
            self.patience.renew();
            return write;
        }
        self.patience
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<O: Observer + Unpin> AsyncRead for Guarded<O> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = read {
            self.observer.read(buffer.filled().len() - before);
        }
        read
    }
}

impl<O: Observer + Unpin> AsyncWrite for Guarded<O> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, shutdown)
    }
}
