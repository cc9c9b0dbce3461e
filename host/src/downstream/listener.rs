//! Bound addresses, and the loop that only accepts.
//!
//! Each worker has a socket of its own per address (`SO_REUSEPORT`), so that the kernel shares out
//! connections and no worker waits for another.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use super::tls::Accepted;
use super::{http1, http2, tls};
use crate::proxy::{Client, ConnectionPermit, Http, Signal, Worker};
use crate::stream::Stream;

/// Connections that may wait for a worker to accept them.
const BACKLOG: i32 = 4096;

/// How long to wait after a failure that has nothing to do with the client, such as no descriptors.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// How a client begins that knows beforehand that HTTP/2 is spoken here. No method of HTTP/1.1 begins
/// so.
const HTTP2_BEGINNING: &[u8] = b"PRI";

/// How long to wait for the rest of it.
const PEEK_PAUSE: Duration = Duration::from_millis(10);

/// One worker's socket of one bound address.
pub(crate) struct Listener {
    /// Place in the configuration.
    pub(crate) index: usize,
    pub(crate) socket: std::net::TcpListener,
}

impl Listener {
    /// Binds an address for a number of workers. Port 0 takes a free one, the same for all.
    ///
    /// The first socket is bound without `SO_REUSEPORT` for a moment, so that an address which another
    /// process serves is an error instead of a share.
    pub(crate) fn bind(
        index: usize,
        address: SocketAddr,
        workers: usize,
    ) -> io::Result<(SocketAddr, Vec<Self>)> {
        let address = probe(address)?;
        let sockets = (0..workers).map(|_| {
            let socket = socket(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(Self {
                index,
                socket: socket.into(),
            })
        });
        Ok((address, sockets.collect::<io::Result<_>>()?))
    }

    /// Accepts connections until the worker drains. TLS handshakes and requests happen in tasks of
    /// their own, so that a slow client stops nobody.
    pub(crate) async fn accept_loop(self, worker: Rc<Worker>) {
        let listener = match TcpListener::from_std(self.socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "cannot watch a listener");
                return;
            }
        };
        let watch = worker.sweep.watch();
        loop {
            let drained = poll_fn(|cx| match watch.poll_signal(cx) {
                std::task::Poll::Ready(Signal::Drain) => std::task::Poll::Ready(()),
                _ => std::task::Poll::Pending,
            });
            let accepted = tokio::select! {
                biased;
                () = drained => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, remote)) => {
                    let Some(permit) = worker.admit() else {
                        debug!(%remote, "connection refused: the worker has as many as it may");
                        continue;
                    };
                    let worker = worker.clone();
                    tokio::task::spawn_local(serve(socket, remote, self.index, worker, permit));
                }
                // The client was gone before it was accepted.
                Err(error) if is_of_one_client(&error) => debug!(%error, "cannot accept"),
                Err(error) => {
                    warn!(%error, "cannot accept");
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(
    socket: TcpStream,
    remote: SocketAddr,
    listener: usize,
    worker: Rc<Worker>,
    permit: ConnectionPermit,
) {
    let setup = socket.set_nodelay(true).and_then(|()| socket.local_addr());
    // Fails only if the client is gone already.
    let Ok(local) = setup else { return };
    let generation = worker.generation();
    let tls = generation.listeners[listener].tls.clone();
    let speaks_http2 = generation.listeners[listener].http2;
    let (stream, tls) = match tls {
        None => (Stream::Plain(socket), None),
        Some(config) => {
            let limit = generation.timeouts.tls_handshake;
            // Boxed: a TLS handshake is large, and this task is there for every connection.
            match Box::pin(tls::accept(socket, config, limit)).await {
                Ok(Accepted::Tls(stream, facts)) => (stream, Some(facts)),
                // The session tells it so.
                Ok(Accepted::Plain(stream)) => (stream, None),
                Err(error) => {
                    worker.metrics.tls_handshake_failures.increment();
                    debug!(%remote, %error, "TLS handshake failed");
                    return;
                }
            }
        }
    };
    drop(generation);
    let http = match &stream {
        Stream::Plain(socket) if speaks_http2 => begun(socket, &worker).await,
        stream if tls::chose_http2(stream) => Some(Http::Two),
        _ => Some(Http::One),
    };
    let Some(http) = http else { return };
    let client = Client::new(remote, local, listener, tls, http, &worker);
    match http {
        Http::One => http1::serve(stream, Rc::new(client), worker, permit).await,
        // Boxed: it is larger, and this task is there for every connection.
        Http::Two => Box::pin(http2::serve(stream, Rc::new(client), worker, permit)).await,
    }
}

/// Returns what a client speaks that was told nothing of HTTP/2 but may know of it beforehand
/// (RFC 9113 §3.3), by its first bytes, which stay where they are. None: they took too long, or the
/// worker drains.
async fn begun(socket: &TcpStream, worker: &Worker) -> Option<Http> {
    let watch = worker.sweep.watch();
    watch.arm(worker.generation().timeouts.header_read);
    let looked = async {
        loop {
            let mut bytes = [0; HTTP2_BEGINNING.len()];
            match socket.peek(&mut bytes).await {
                Ok(length) if bytes[..length] == *HTTP2_BEGINNING => return Http::Two,
                Ok(length @ 1..) if HTTP2_BEGINNING.starts_with(&bytes[..length]) => {
                    // Nothing tells that there is more behind what has not been taken.
                    tokio::time::sleep(PEEK_PAUSE).await;
                }
                _ => return Http::One,
            }
        }
    };
    let interrupted = poll_fn(|cx| watch.poll_signal(cx));
    tokio::select! {
        biased;
        _ = interrupted => None,
        http = looked => Some(http),
    }
}

/// Takes the address for a moment and returns it with the port that was found free.
fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = socket(address)?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    let bound = socket.local_addr()?;
    bound
        .as_socket()
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Whether the next connection may well be accepted. Others, above all a process without descriptors,
/// need time to pass.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
