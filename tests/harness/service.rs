//! Services to put behind the proxy: scripted by a test, or ready-made. None of them is correct
//! beyond what its test needs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::connection::{Connection, Role};
use super::frame::pong;
use super::within;

/// A service on a port of its own. Ends with the test, and fails it if the script did.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// How many scripts have come to their end.
    finished: watch::Receiver<usize>,
    failed: Arc<AtomicBool>,
    accepting: AbortHandle,
}

impl Service {
    /// Runs the script for each connection.
    pub(crate) async fn start<F>(script: impl Fn(Connection) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::listen(None, script).await
    }

    /// Runs the script for each connection, behind TLS.
    pub(crate) async fn start_tls<F>(
        tls: Arc<ServerConfig>,
        script: impl Fn(Connection) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::listen(Some(TlsAcceptor::from(tls)), script).await
    }

    /// Answers every request with the head it received, as the body; keeps connections alive.
    pub(crate) async fn http_echo() -> Self {
        Self::start(http_echo).await
    }

    /// Answers every request with this body; keeps connections alive.
    pub(crate) async fn answering(body: &'static str) -> Self {
        Self::start(move |connection| answering(connection, body)).await
    }

    /// As [`Service::answering`], at an address that may be taken; then nothing.
    pub(crate) async fn answering_at(address: SocketAddr, body: &'static str) -> Option<Self> {
        let listener = TcpListener::bind(address).await.ok()?;
        let script = move |connection| answering(connection, body);
        Some(Self::accept(listener, None, script))
    }

    /// Sends every WebSocket message back, frame by frame.
    pub(crate) async fn websocket_echo() -> Self {
        Self::start(websocket_echo).await
    }

    /// How many connections were accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until the script has come to its end on all connections so far, of which there is one
    /// at least.
    pub(crate) async fn finished(&self) {
        let mut finished = self.finished.clone();
        let all = finished.wait_for(|&count| count > 0 && count == self.connections());
        within("end of the service's script", all).await.unwrap();
    }

    /// Waits until the script has come to its end on one connection at least.
    pub(crate) async fn one_finished(&self) {
        let mut finished = self.finished.clone();
        let one = finished.wait_for(|&count| count > 0);
        within("end of the service's script", one).await.unwrap();
    }

    async fn listen<F>(
        tls: Option<TlsAcceptor>,
        script: impl Fn(Connection) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self::accept(socket.listen(1024).unwrap(), tls, script)
    }

    fn accept<F>(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        script: impl Fn(Connection) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let failed = Arc::new(AtomicBool::new(false));
        let (finished, watched) = watch::channel(0);
        let finished = Arc::new(finished);
        let (counted, flag) = (connections.clone(), failed.clone());
        let accepting = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                socket.set_nodelay(true).unwrap();
                let Some(connection) = secure(tls.as_ref(), socket).await else {
                    continue;
                };
                let running = tokio::spawn(script(connection));
                let (flag, finished) = (flag.clone(), finished.clone());
                tokio::spawn(async move {
                    if running.await.is_err_and(|error| error.is_panic()) {
                        flag.store(true, Ordering::SeqCst);
                    }
                    finished.send_modify(|count| *count += 1);
                });
            }
        });
        Self {
            address,
            connections,
            finished: watched,
            failed,
            accepting: accepting.abort_handle(),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.accepting.abort();
        let failed = self.failed.load(Ordering::SeqCst);
        assert!(
            !failed || std::thread::panicking(),
            "the script of a service failed"
        );
    }
}

/// Nothing if the client does not finish the TLS handshake, which some tests are about.
async fn secure(tls: Option<&TlsAcceptor>, socket: TcpStream) -> Option<Connection> {
    match tls {
        None => Some(Connection::new(socket, Role::Service)),
        Some(tls) => {
            let stream = tls.accept(socket).await.ok()?;
            Some(Connection::new(stream, Role::Service))
        }
    }
}

/// The script of [`Service::http_echo`].
pub(crate) async fn http_echo(mut connection: Connection) {
    while let Some(head) = connection.next_request().await {
        let body = head.to_wire();
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        // The client may have gone; that is the test's affair.
        if connection.try_send(answer).await.is_err() {
            return;
        }
    }
}

/// The script of [`Service::answering`].
async fn answering(mut connection: Connection, body: &'static str) {
    while connection.next_request().await.is_some() {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if connection.try_send(answer).await.is_err() {
            return;
        }
    }
}

/// The script of [`Service::websocket_echo`].
pub(crate) async fn websocket_echo(mut connection: Connection) {
    let Some(head) = connection.next_head().await else {
        return;
    };
    connection.accept_websocket(&head).await;
    while let Some(frame) = connection.next_frame().await {
        let is_close = frame.opcode == 8;
        let answer = if frame.opcode == 9 {
            pong(&frame.payload)
        } else {
            frame
        };
        if connection.try_send(answer.encode(None)).await.is_err() || is_close {
            return;
        }
    }
}

/// An address that refuses connections for as long as this lives: bound, but nobody listens.
pub(crate) struct Refusing {
    pub(crate) address: SocketAddr,
    socket: TcpSocket,
}

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self {
            address: socket.local_addr().unwrap(),
            socket,
        }
    }

    /// Comes back to life with the script of [`Service::answering`].
    pub(crate) fn serve(self, body: &'static str) -> Service {
        let listener = self.socket.listen(1024).unwrap();
        Service::accept(listener, None, move |connection| {
            answering(connection, body)
        })
    }
}

/// An address where connecting takes forever: its queue is full and nobody accepts.
pub(crate) struct Unreachable {
    pub(crate) address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<std::net::TcpStream>,
}

impl Unreachable {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let wait = std::time::Duration::from_millis(100);
        let connect = || std::net::TcpStream::connect_timeout(&address, wait).ok();
        let queued = std::iter::from_fn(connect).collect();
        Self {
            address,
            _listener: listener,
            _queued: queued,
        }
    }
}
