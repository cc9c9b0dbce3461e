//! One stream of an HTTP/2 connection, as a stream of bytes: what RFC 8441 puts in the place of a
//! socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that its client may send on and read from for as long as it likes. DATA is bytes,
/// END_STREAM the end of a side, RST_STREAM a break (RFC 8441 §5), and a window that is used up a
/// socket that takes no more.
///
/// Dropping it before both sides have ended resets it, with CANCEL.
pub(crate) struct Http2Stream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Came with the last DATA frame and did not fit. Its share of the window is given back when it
    /// is read.
    rest: Bytes,
    /// Our side has ended.
    finished: bool,
}

impl Http2Stream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self {
            send,
            recv,
            rest: Bytes::new(),
            finished: false,
        }
    }

    /// Moves what fits, and lets the client send as much again.
    fn take_rest(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let taken = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..taken]);
        self.rest.advance(taken);
        if self.rest.is_empty() {
            // It may be a piece of a larger buffer, which would live as long.
            self.rest = Bytes::new();
        }
        let window = self.recv.flow_control();
        window.release_capacity(taken).map_err(broken)
    }
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        // As much as there is: frames are small, and each read costs a write to the service.
        loop {
            if !this.rest.is_empty() {
                this.take_rest(buffer)?;
            }
            if buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match this.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => this.rest = data,
                _ if buffer.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(poll_room(&mut self.send, cx, bytes.len()))?;
        let taken = room.min(bytes.len());
        let sent = self
            .send
            .send_data(Bytes::copy_from_slice(&bytes[..taken]), false);
        Poll::Ready(sent.map(|()| taken).map_err(broken))
    }

    /// The connection writes on its own.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        self.finished = true;
        self.send.reserve_capacity(0);
        let ended = self.send.send_data(Bytes::new(), true);
        Poll::Ready(ended.map_err(broken))
    }
}

/// Waits until the client takes some of `wanted` bytes, and returns how many: what its windows allow
/// and what the connection may hold back for one stream. Fails once the stream has been reset.
pub(crate) fn poll_room(
    send: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    wanted: usize,
) -> Poll<io::Result<usize>> {
    send.reserve_capacity(wanted);
    while send.capacity() == 0 {
        match ready!(send.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
    Poll::Ready(Ok(send.capacity()))
}

/// Returns what a socket would have said.
fn broken(error: h2::Error) -> io::Error {
    let kind = match error.reason() {
        Some(Reason::NO_ERROR | Reason::CANCEL) => io::ErrorKind::ConnectionReset,
        _ => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, error)
}
