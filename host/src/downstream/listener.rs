//! Bound addresses, and the loop that only accepts.
//!
//! Each worker has a socket of its own per address (`SO_REUSEPORT`), so that the kernel shares out
//! connections and no worker waits for another.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::http1::LAST_REQUESTS;
use super::tls::Accepted;
use super::{http1, http2, tls};
use crate::generation::{Generation, ListenerId};
use crate::proxy::{Client, ConnectionPermit, Home, Http, Signal, Worker};
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
    pub(crate) id: ListenerId,
    socket: std::net::TcpListener,
}

impl Listener {
    /// Binds an address for a number of workers. Port 0 takes a free one, the same for all.
    ///
    /// The first socket is bound without `SO_REUSEPORT` for a moment, so that an address which another
    /// process serves is an error instead of a share. This process may have a socket of the port already,
    /// bound to another one of its addresses, which would look the same: `shares` says so.
    pub(crate) fn bind(
        id: ListenerId,
        address: SocketAddr,
        workers: usize,
        shares: bool,
    ) -> io::Result<(SocketAddr, Vec<Self>)> {
        let address = if shares { address } else { probe(address)? };
        let sockets = (0..workers).map(|_| {
            let socket = socket(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(Self {
                id,
                socket: socket.into(),
            })
        });
        Ok((address, sockets.collect::<io::Result<_>>()?))
    }

    /// Accepts connections until the worker drains or `closed` comes, and then those that the kernel has
    /// accepted already. TLS handshakes and requests happen in tasks of their own, so that a slow client
    /// stops nobody.
    /// `generation`: the one that brought the listener, which a later one may have removed by now.
    pub(crate) async fn accept_loop(
        self,
        worker: Rc<Worker>,
        generation: Arc<Generation>,
        mut closed: oneshot::Receiver<()>,
    ) {
        let home = Home::new(self.id, worker.hold(generation));
        let listener = match TcpListener::from_std(self.socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "cannot watch a listener");
                return;
            }
        };
        let watch = worker.sweep.watch();
        loop {
            // Or a listener that nobody comes to would keep all that an old one has.
            home.generation(&worker);
            let drained = poll_fn(|cx| match watch.poll_signal(cx) {
                Poll::Ready(Signal::Drain) => Poll::Ready(()),
                _ => Poll::Pending,
            });
            let accepted = tokio::select! {
                biased;
                () = drained => break,
                // An error: the worker ends without a word.
                _ = &mut closed => break,
                () = worker.renewed() => continue,
                accepted = listener.accept() => accepted,
            };
            // As of now: when this is asked for again, the listener may be gone.
            home.generation(&worker);
            match accepted {
                Ok((socket, remote)) => {
                    admit(socket, remote, &home, &worker);
                }
                // The client was gone before it was accepted.
                Err(error) if is_of_one_client(&error) => debug!(%error, "cannot accept"),
                Err(error) => {
                    warn!(%error, "cannot accept");
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            }
        }
        // Closing the socket would reset them.
        turn_away(&listener);
        match listener.into_std() {
            Ok(listener) => accept_rest(&listener, &home, &worker),
            Err(error) => warn!(%error, "cannot accept what waits at a listener that closes"),
        }
    }
}

/// Has the kernel pass over what asks for a connection here from now on: the client's system asks again,
/// and finds who listens then. Without this, what comes just before the socket is closed would be reset.
fn turn_away(listener: &TcpListener) {
    /// `BPF_RET | BPF_K`: takes so many bytes of a packet.
    const RETURN: u16 = 0x06;
    let nothing = [SockFilter::new(RETURN, 0, 0, 0)];
    if let Err(error) = SockRef::from(listener).attach_filter(&nothing) {
        debug!(%error, "cannot keep clients from a listener that closes");
    }
}

fn accept_rest(listener: &std::net::TcpListener, home: &Home, worker: &Rc<Worker>) {
    loop {
        let accepted = listener.accept().and_then(|(socket, remote)| {
            socket.set_nonblocking(true)?;
            Ok((TcpStream::from_std(socket)?, remote))
        });
        match accepted {
            Ok((socket, remote)) => admit(socket, remote, home, worker),
            Err(error) if is_of_one_client(&error) => debug!(%error, "cannot accept"),
            // There are no more, or no descriptors for them.
            Err(_) => return,
        }
    }
}

/// Serves a connection in a task of its own, unless there are too many.
fn admit(socket: TcpStream, remote: SocketAddr, home: &Home, worker: &Rc<Worker>) {
    match worker.admit() {
        Some(permit) => {
            let serve = serve(socket, remote, home.clone(), worker.clone(), permit);
            tokio::task::spawn_local(serve);
        }
        None => debug!(%remote, "connection refused: the worker has as many as it may"),
    }
}

async fn serve(
    socket: TcpStream,
    remote: SocketAddr,
    home: Home,
    worker: Rc<Worker>,
    permit: ConnectionPermit,
) {
    let setup = socket.set_nodelay(true).and_then(|()| socket.local_addr());
    // Fails only if the client is gone already.
    let Ok(local) = setup else { return };
    let generation = home.generation(&worker);
    // None, if it was removed before the worker had heard of it.
    let Some(listener) = generation.listener(home.listener()) else {
        return;
    };
    let tls = listener.tls.as_ref().map(|tls| tls.config.clone());
    let speaks_http2 = listener.http2;
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
    let client = Client::new(remote, local, home, tls, http, &worker);
    match http {
        Http::One => http1::serve(stream, Rc::new(client), worker, permit).await,
        // Boxed: it is larger, and this task is there for every connection.
        Http::Two => Box::pin(http2::serve(stream, Rc::new(client), worker, permit)).await,
    }
}

/// Returns what a client speaks that was told nothing of HTTP/2 but may know of it beforehand
/// (RFC 9113 §3.3), by its first bytes, which stay where they are. None: they took too long.
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
    let interrupted = poll_fn(|cx| {
        // What it begins with may be on its way.
        while let Poll::Ready(signal) = watch.poll_signal(cx) {
            match signal {
                Signal::Drain => watch.shorten(LAST_REQUESTS),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    });
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
