//! One end of a connection, a client's or a service's: bytes as the test writes them, and HTTP and
//! WebSocket just far enough to read what comes back. It makes no decision on its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::frame::Frame;
use super::head::{self, ACCEPT, Head, Response, accepting, handshake};
use super::within;

/// One end of a connection. Every wait has a deadline, but for those of the functions called `next`,
/// with which a service waits for a client that may never come.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    role: Role,
    /// Read from the socket but not yet by the test.
    received: Vec<u8>,
}

/// Which end this is; it decides who masks frames (RFC 6455 §5.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Role {
    Client,
    Service,
}

/// What both plain TCP and TLS are.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// The socket below.
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for tokio_rustls::client::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Stream for tokio_rustls::server::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// The mask of frames this end sends as a client; its value means nothing.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// After this long without progress a sender counts as stalled.
pub(crate) const STALL: Duration = Duration::from_millis(500);

impl Connection {
    /// Connects to an address as a client.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = within("connection", TcpStream::connect(address))
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream, Role::Client)
    }

    /// Connects to an address where perhaps nobody listens any more.
    pub(crate) async fn try_open(address: SocketAddr) -> io::Result<Self> {
        let stream = within("connection", TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream, Role::Client))
    }

    /// Connects to an address as a client at an address of its own.
    pub(crate) async fn open_from(client: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(client, 0)).unwrap();
        let stream = within("connection", socket.connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream, Role::Client)
    }

    pub(super) fn new(stream: impl Stream + 'static, role: Role) -> Self {
        Self {
            stream: Box::new(stream),
            role,
            received: Vec::new(),
        }
    }

    /// Address of this end.
    pub(crate) fn address(&self) -> SocketAddr {
        self.stream.socket().local_addr().unwrap()
    }

    // Bytes.

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes)
            .await
            .expect("the far end takes what is sent");
    }

    /// Sends bytes to a far end that may close meanwhile.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within("room to send", async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Sends these bytes again and again, `most` at most, until the far end makes this end wait for
    /// longer than a moment. Returns how many it took.
    pub(crate) async fn send_until_stalled(&mut self, bytes: &[u8], most: usize) -> usize {
        let mut sent = 0;
        while sent < most {
            let write = self.stream.write(&bytes[sent % bytes.len()..]);
            match tokio::time::timeout(STALL, write).await {
                Ok(count) => sent += count.expect("the far end stays"),
                Err(_) => break,
            }
        }
        sent
    }

    /// Ends the connection as a crashed process does: by a reset, with whatever is not yet sent lost.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(self.stream.socket())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// Ends this direction; the other stays open.
    pub(crate) async fn finish_sending(&mut self) {
        within("end of sending", self.stream.shutdown())
            .await
            .unwrap();
    }

    /// Reads that many bytes.
    pub(crate) async fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        self.read_until("those bytes", |received| {
            (received.len() >= count).then_some(count)
        })
        .await
    }

    /// Reads up to a marker, and the marker too.
    pub(crate) async fn read_through(&mut self, marker: &str) -> String {
        let bytes = self
            .read_until(marker, |received| end_of(received, marker.as_bytes()))
            .await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads until the far end has finished sending. A reset counts as that, since what came before
    /// it is what the test goes on with.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        within("end of the connection", async {
            while self.read_more().await != 0 {}
        })
        .await;
        std::mem::take(&mut self.received)
    }

    /// Fails the test unless the far end closes without sending anything more.
    pub(crate) async fn expect_end(&mut self) {
        let rest = self.read_to_end().await;
        assert!(
            rest.is_empty(),
            "expected the end, got {:?}",
            String::from_utf8_lossy(&rest)
        );
    }

    /// Reads what comes next, on a connection that may be idle; nothing at its end.
    pub(crate) async fn next_bytes(&mut self) -> Option<Vec<u8>> {
        if self.received.is_empty() && self.read_more().await == 0 {
            return None;
        }
        Some(std::mem::take(&mut self.received))
    }

    /// Reads until `find` says how many bytes from the front to take.
    async fn read_until(&mut self, what: &str, find: impl Fn(&[u8]) -> Option<usize>) -> Vec<u8> {
        loop {
            if let Some(count) = find(&self.received) {
                return self.received.drain(..count).collect();
            }
            self.expect_more(what).await;
        }
    }

    /// Reads at least one byte, or fails the test with what did come.
    async fn expect_more(&mut self, what: &str) {
        let count = within(what, self.read_more()).await;
        let received = String::from_utf8_lossy(&self.received);
        assert!(
            count != 0,
            "the connection ended before {what}; received {received:?}"
        );
    }

    /// Reads once. Returns 0 at the end, for which a reset counts too.
    async fn read_more(&mut self) -> usize {
        self.received.reserve(16 * 1024);
        self.stream.read_buf(&mut self.received).await.unwrap_or(0)
    }

    // HTTP.

    /// Sends a head written as indented lines.
    pub(crate) async fn send_head(&mut self, lines: &str) {
        self.send(head::wire(lines)).await;
    }

    /// Sends a head without body and reads the response.
    pub(crate) async fn exchange(&mut self, lines: &str) -> Response {
        self.send_head(lines).await;
        self.read_response().await
    }

    /// Reads a head.
    pub(crate) async fn read_head(&mut self) -> Head {
        let bytes = self
            .read_until("head", |received| end_of(received, b"\r\n\r\n"))
            .await;
        Head::parse(&String::from_utf8_lossy(&bytes))
    }

    /// Reads the next head of a connection that may be idle; nothing at its end.
    pub(crate) async fn next_head(&mut self) -> Option<Head> {
        while self.received.is_empty() {
            if self.read_more().await == 0 {
                return None;
            }
        }
        Some(self.read_head().await)
    }

    /// Reads the next request with its body; nothing if the connection ends before it is whole.
    pub(crate) async fn next_request(&mut self) -> Option<Head> {
        let head = self.next_head().await?;
        let end = |received: &[u8]| match (is_chunked(&head), head.field("content-length")) {
            (true, _) => end_of(received, b"0\r\n\r\n"),
            (_, Some(length)) => length
                .parse()
                .ok()
                .filter(|length| received.len() >= *length),
            _ => Some(0),
        };
        loop {
            if let Some(count) = end(&self.received) {
                self.received.drain(..count);
                return Some(head);
            }
            if self.read_more().await == 0 {
                return None;
            }
        }
    }

    /// Reads a response with its body. Not for responses to HEAD, whose heads lie about a body.
    pub(crate) async fn read_response(&mut self) -> Response {
        let head = self.read_head().await;
        let bodiless = matches!(head.status(), 100..=199 | 204 | 304);
        let until_end = !bodiless && !is_chunked(&head) && head.field("content-length").is_none();
        let (body, trailers) = match (bodiless, until_end) {
            (true, _) => Default::default(),
            (_, true) => (self.read_to_end().await, Vec::new()),
            _ => self.read_body(&head).await,
        };
        Response {
            head,
            body,
            trailers,
        }
    }

    /// Reads the body and the trailers that follow a head, as its fields announce them.
    pub(crate) async fn read_body(&mut self, head: &Head) -> (Vec<u8>, Vec<(String, String)>) {
        if !is_chunked(head) {
            let length = head
                .field("content-length")
                .map_or(0, |length| length.parse().unwrap());
            return (self.read_exactly(length).await, Vec::new());
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.read_chunk().await {
            body.extend(chunk);
        }
        let mut trailers = Vec::new();
        loop {
            match self.read_through("\r\n").await.trim_end() {
                "" => return (body, trailers),
                line => trailers.push(head::field(line)),
            }
        }
    }

    /// Reads one chunk (RFC 9112 §7.1); nothing for the last, whose trailers are left unread.
    pub(crate) async fn read_chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.read_through("\r\n").await;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no chunk: {line:?}"));
        if size == 0 {
            return None;
        }
        let chunk = self.read_exactly(size).await;
        assert_eq!(self.read_exactly(2).await, b"\r\n", "a chunk ends its line");
        Some(chunk)
    }

    /// Sends one chunk.
    pub(crate) async fn send_chunk(&mut self, chunk: &str) {
        self.send(format!("{:x}\r\n{chunk}\r\n", chunk.len())).await;
    }

    // WebSocket.

    /// Opens a WebSocket at a target and fails the test unless the handshake succeeds.
    pub(crate) async fn open_websocket(&mut self, target: &str) -> Head {
        self.send_head(&handshake(target)).await;
        let head = self.read_head().await;
        assert_eq!(head.status(), 101, "the handshake was refused: {head:?}");
        assert_eq!(head.field("sec-websocket-accept"), Some(ACCEPT));
        head
    }

    /// Answers a request that opens a WebSocket, as a service.
    pub(crate) async fn accept_websocket(&mut self, request: &Head) {
        self.send(accepting(request).to_wire()).await;
    }

    /// Sends a frame, masked if this is a client.
    pub(crate) async fn send_frame(&mut self, frame: Frame) {
        self.send(frame.encode((self.role == Role::Client).then_some(MASK)))
            .await;
    }

    /// Reads a frame, and fails the test if the far end masked it wrongly.
    pub(crate) async fn read_frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.take_frame() {
                return frame;
            }
            self.expect_more("frame").await;
        }
    }

    /// Reads the next frame of a connection that may be idle; nothing at its end.
    pub(crate) async fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            if self.read_more().await == 0 {
                return None;
            }
        }
    }

    /// Sends a text message and fails the test unless the same comes back.
    pub(crate) async fn expect_echo(&mut self, payload: &str) {
        self.send_frame(super::text(payload)).await;
        assert_eq!(self.read_frame().await, super::text(payload));
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let (frame, masked) = Frame::take(&mut self.received)?;
        assert_eq!(
            masked,
            self.role == Role::Service,
            "only clients mask: {frame:?}"
        );
        Some(frame)
    }
}

fn is_chunked(head: &Head) -> bool {
    head.field("transfer-encoding")
        .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
}

/// Where a marker ends, if it is there.
fn end_of(received: &[u8], marker: &[u8]) -> Option<usize> {
    let start = received
        .windows(marker.len())
        .position(|window| window == marker)?;
    Some(start + marker.len())
}
