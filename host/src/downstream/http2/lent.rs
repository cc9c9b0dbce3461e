//! A stream that is lent: h2 does not give back what it reads and writes, and it is needed once more
//! when h2 is done with it.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::Client;
use crate::stream::{Guarded, Stream};

/// One handle of a client's stream.
pub(super) struct Lent(Rc<RefCell<Guarded<Rc<Client>>>>);

impl Lent {
    pub(super) fn new(stream: Guarded<Rc<Client>>) -> Self {
        Self(Rc::new(RefCell::new(stream)))
    }

    /// Returns another handle.
    pub(super) fn lend(&self) -> Self {
        Self(self.0.clone())
    }

    /// Returns the stream. None: there is another handle.
    pub(super) fn take_back(self) -> Option<Stream> {
        let stream = Rc::into_inner(self.0)?;
        Some(stream.into_inner().into_inner())
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}
