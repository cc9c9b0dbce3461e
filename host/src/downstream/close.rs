//! The end of a client's connection.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tracing::debug;

use crate::proxy::{Worker, linger};
use crate::stream::Stream;

/// How long a client may take to end its side after its connection has been closed here.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// Says what is left to say, ends our side, and waits for the client to end its own: what it still
/// sends must not make the kernel reset the connection before the last response has been read
/// (RFC 9112 §9.6).
pub(super) async fn close(stream: &mut Stream, last: &[u8], worker: &Worker) {
    let ended = async {
        stream.write_all(last).await?;
        stream.shutdown().await?;
        linger(stream, worker).await;
        Ok::<_, io::Error>(())
    };
    match timeout(LINGER, ended).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "client was gone before the end"),
        Err(_) => debug!("client did not end its side"),
    }
}
