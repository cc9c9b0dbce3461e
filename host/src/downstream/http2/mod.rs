//! An HTTP/2 connection of a client: h2 reads and writes its frames, and this module watches the
//! clock and how often the client changes its mind.
//!
//! h2 is used as it is, not through hyper's server: that one knows no limit for a client that stops
//! reading one stream, answers no `Expect`, and puts a task and a channel between a stream and the
//! session that it was upgraded to. What happens on one stream is in `stream.rs`.

mod lent;
mod stream;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection, Handshake};
use tracing::debug;

use self::lent::Lent;
use super::close::{LINGER, close};
use super::http1::LAST_REQUESTS;
use crate::generation::Generation;
use crate::proxy::{Client, ConnectionPermit, Signal, Worker};
use crate::stream::{Guarded, Stream};

/// What h2 adds to each field when it measures a head (RFC 9113 §6.5.2), and so does not our limit.
const FIELD_OVERHEAD_BYTES: usize = 32;

/// Requests that a client may take back in a row, beyond as many as it may have open. Browsers take
/// back many when their user goes on to another page; the limit is for those who do nothing else.
const PATIENCE: u32 = 100;

/// Serves a connection to its end. Sessions that it was upgraded to are part of it.
pub(crate) async fn serve(
    stream: Stream,
    client: Rc<Client>,
    worker: Rc<Worker>,
    permit: ConnectionPermit,
) {
    client.keep(permit);
    let generation = worker.generation();
    let send_timeout = generation.timeouts.send;
    let stream = Lent::new(Guarded::new(stream, send_timeout, client.clone()));
    let handshake = builder(&generation).handshake(stream.lend());
    let mood = Mood {
        limit: generation.http2.max_streams.saturating_add(PATIENCE),
        taken_back: Cell::new(0),
    };
    drop(generation);
    let shared = Rc::new(Shared {
        client: client.clone(),
        worker: worker.clone(),
        send_timeout,
        mood,
    });
    let mut serving = Serving {
        state: State::Preface(Box::new(handshake)),
        leaving: Leaving::No,
        shared,
    };
    let result = poll_fn(|cx| serving.poll(cx)).await;
    // Streams that are still open end here.
    drop(serving);
    if let Err(error) = result {
        debug!(remote = %client.remote, %error, "connection failed");
    }
    if let Some(mut stream) = stream.take_back()
        && !client.has_ended()
    {
        close(&mut stream, b"", &worker).await;
    }
}

fn builder(generation: &Generation) -> Builder {
    let (limits, http2) = (&generation.limits, &generation.http2);
    // Room for a head that is a little too long, so that the session answers and records it. Of
    // further ones h2 answers the moderate with 431 and ends the connection over the rest.
    let room = 2 * limits.max_header_bytes + limits.max_headers * FIELD_OVERHEAD_BYTES;
    let mut builder = Builder::new();
    builder
        .initial_window_size(http2.stream_window_bytes)
        .initial_connection_window_size(http2.connection_window_bytes)
        .max_concurrent_streams(http2.max_streams)
        .max_header_list_size(u32::try_from(room).unwrap_or(u32::MAX))
        .max_send_buffer_size(http2.send_buffer_bytes)
        .enable_connect_protocol();
    builder
}

/// What the streams of a connection share.
struct Shared {
    client: Rc<Client>,
    worker: Rc<Worker>,
    send_timeout: Duration,
    mood: Mood,
}

/// How often a client takes its requests back before they are answered. Each costs a service work
/// that nobody sees, and the limit of open streams does not bound it (CVE-2023-44487).
struct Mood {
    limit: u32,
    /// Requests taken back, less those answered since.
    taken_back: Cell<u32>,
}

impl Mood {
    fn took_back(&self) {
        self.taken_back.set(self.taken_back.get().saturating_add(1));
    }

    fn was_answered(&self) {
        self.taken_back.set(self.taken_back.get().saturating_sub(1));
    }

    fn is_bad(&self) -> bool {
        self.taken_back.get() > self.limit
    }
}

struct Serving {
    state: State,
    leaving: Leaving,
    shared: Rc<Shared>,
}

enum State {
    /// The client has to begin (RFC 9113 §3.4).
    Preface(Box<Handshake<Lent>>),
    Open(Box<Connection<Lent, Bytes>>),
}

/// How far the end of a connection is that the proxy ends.
#[derive(PartialEq)]
enum Leaving {
    No,
    /// The client was told to open no more streams.
    Told,
    /// It had its time, and what was written to it has the send timeout.
    Flushing,
}

impl Serving {
    /// Ready when the connection has ended, or is to end at once.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while let Poll::Ready(signal) = self.shared.client.watch.poll_signal(cx) {
            if self.heed(signal).is_break() {
                return Poll::Ready(Ok(()));
            }
        }
        loop {
            let connection = match &mut self.state {
                State::Preface(handshake) => {
                    let connection = ready!(Pin::new(handshake).poll(cx))?;
                    self.state = State::Open(Box::new(connection));
                    continue;
                }
                State::Open(connection) => connection,
            };
            let Some(accepted) = ready!(pin!(connection.accept()).poll(cx)) else {
                return Poll::Ready(Ok(()));
            };
            let (request, respond) = accepted?;
            if self.shared.mood.is_bad() {
                debug!(remote = %self.shared.client.remote, "client takes back what it asks for");
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                continue;
            }
            let serve = stream::serve(request, respond, self.shared.clone());
            tokio::task::spawn_local(serve);
            let client = &self.shared.client;
            if self.leaving == Leaving::No && client.is_to_go(&self.shared.worker) {
                self.leaving = Leaving::Told;
                connection.graceful_shutdown();
                client.hurry(LINGER);
            }
        }
    }

    /// Does what the watch asks for. Break: the connection ends now.
    fn heed(&mut self, signal: Signal) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let client = &self.shared.client;
        let State::Open(connection) = &mut self.state else {
            if signal == Signal::Expired {
                return Break(());
            }
            // Its first request may be on its way.
            client.watch.shorten(LAST_REQUESTS);
            return Continue(());
        };
        match (signal, &self.leaving) {
            (Signal::Expired, _) if !client.is_late() => {}
            (Signal::Expired, Leaving::Told) if connection.has_streams() => {
                self.leaving = Leaving::Flushing;
                client.watch.arm(self.shared.send_timeout);
            }
            (Signal::Expired, Leaving::Told | Leaving::Flushing) => return Break(()),
            (Signal::Expired | Signal::Drain, Leaving::No) => {
                self.leaving = Leaving::Told;
                connection.graceful_shutdown();
                client.hurry(LINGER);
            }
            // Nobody sets an alarm here, and it is not a session.
            (Signal::Drain | Signal::Alarm | Signal::Close, _) => {}
        }
        Continue(())
    }
}
