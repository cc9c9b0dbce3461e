//! The end of a session that the proxy brings about: a Close frame to each side that can be told, and
//! a bounded wait for the peers to go first.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::failure::SessionFailure;
use super::mask;
use super::relay::Ends;
use super::worker::Worker;
use crate::protocol::close::encode_close;
use crate::stream::Stream;

/// What a side has yet to be sent before it is told goodbye.
pub(crate) struct Farewell {
    /// Bytes that wait to be written.
    pub(crate) rest: Vec<u8>,
    /// A frame ends with them, and none was a Close frame, so that one may follow.
    pub(crate) at_boundary: bool,
}

/// Sends each side what waits for it and the Close frame that the failure has for it, then waits for
/// the peers to go.
pub(crate) async fn say_goodbye(
    ends: &mut Ends,
    failure: &SessionFailure,
    mut client: Farewell,
    mut service: Farewell,
) {
    if let Some((code, reason)) = failure.close_for_client().filter(|_| client.at_boundary) {
        if let Some(record) = &mut ends.ending.notes {
            record.close_code.get_or_insert(code.as_u16());
        }
        encode_close(&mut client.rest, None, code, &reason);
    }
    if let Some((code, reason)) = failure.close_for_service().filter(|_| service.at_boundary) {
        encode_close(&mut service.rest, Some(mask::fresh()), code, &reason);
    }
    end(ends, &client.rest, &service.rest).await;
}

/// Ends a session whose peers have closed it, after what waits for them.
pub(crate) async fn finish(ends: &mut Ends, client: Farewell, service: Farewell) {
    end(ends, &client.rest, &service.rest).await;
}

async fn end(ends: &mut Ends, to_client: &[u8], to_service: &[u8]) {
    let Ends {
        worker,
        client,
        service,
        close_timeout,
        ..
    } = ends;
    // Neither waits for the other: one that does not read must not cost the other its last bytes.
    tokio::join!(
        leave(client, to_client, worker, *close_timeout),
        leave(service, to_service, worker, *close_timeout)
    );
}

/// Says what is left to say, then waits for the peer to go, for so long in all.
async fn leave(stream: &mut Stream, last: &[u8], worker: &Worker, close_timeout: Duration) {
    let gone = async {
        say_last(stream, last).await;
        linger(stream, worker).await;
    };
    if timeout(close_timeout, gone).await.is_err() {
        tracing::debug!("peer did not go after the session had ended");
    }
}

/// Writes what is left to say and ends our side of the stream.
async fn say_last(stream: &mut Stream, last: &[u8]) {
    let said = async {
        stream.write_all(last).await?;
        stream.shutdown().await
    };
    if let Err(error) = said.await {
        tracing::debug!(%error, "peer was gone before its Close frame");
    }
}

/// Reads and discards until the peer ends its side. Without this, bytes that are still on their way
/// would make the kernel answer with a reset, and the peer could lose what was said last.
pub(crate) async fn linger(stream: &mut Stream, worker: &Worker) {
    poll_fn(|cx| {
        let buffers = &mut *worker.buffers.borrow_mut();
        loop {
            let mut read = ReadBuf::new(&mut buffers.read);
            match Pin::new(&mut *stream).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
