//! Clients that speak HTTP/2: one that does it well, and one that sends whatever frames a test wants.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, request};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf,
};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::connection::{Connection, STALL};
use super::frame::Frame;
use super::head::{Head, Response};
use super::tls::{Authority, tls_handshake};
use super::within;

/// A connection of a client that keeps to the rules.
pub(crate) struct Http2 {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    /// Connects to a plain listener, knowing beforehand what is spoken there.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_with(&Builder::new(), address).await
    }

    /// The same with settings of the client's own.
    pub(crate) async fn open_with(settings: &Builder, address: SocketAddr) -> Self {
        let socket = within("connection", TcpStream::connect(address)).await;
        Self::begin(settings, socket.unwrap()).await
    }

    /// Connects by TLS and insists on HTTP/2.
    pub(crate) async fn secured(authority: &Authority, address: SocketAddr, name: &str) -> Self {
        let mut config = authority.client(rustls::ALL_VERSIONS);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = tls_handshake(&Arc::new(config), address, name)
            .await
            .unwrap();
        Self::begin(&Builder::new(), stream).await
    }

    async fn begin<S>(settings: &Builder, stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = settings.handshake(stream).await.unwrap();
        Self {
            sender,
            connection: tokio::spawn(connection),
        }
    }

    /// Sends a request head, and its end too if that is all.
    pub(crate) async fn send(
        &mut self,
        request: Request<()>,
        is_all: bool,
    ) -> (Exchange, SendStream<Bytes>) {
        let ready = within("a free stream", self.sender.clone().ready());
        self.sender = ready.await.unwrap();
        let (response, send) = self.sender.send_request(request, is_all).unwrap();
        (Exchange(response), send)
    }

    /// Sends a request without body and reads the response.
    pub(crate) async fn exchange(&mut self, request: Request<()>) -> Response {
        self.send(request, true).await.0.response().await
    }

    /// Sends `GET` for a target and reads the response.
    pub(crate) async fn get(&mut self, target: &str) -> Response {
        self.exchange(asking(Method::GET, target).body(()).unwrap())
            .await
    }

    /// Waits until the far end has told which extensions it knows, and returns whether extended
    /// CONNECT is one of them (RFC 8441 §3).
    pub(crate) async fn can_connect(&mut self) -> bool {
        super::eventually("settings", async || {
            let known = self.sender.is_extended_connect_protocol_enabled();
            known.then_some(true)
        })
        .await
    }

    /// Waits for the far end to end the connection, and returns the reason it gave.
    pub(crate) async fn ended(self) -> Result<(), h2::Error> {
        drop(self.sender);
        within("end of the connection", self.connection)
            .await
            .unwrap()
    }
}

/// A request that waits for its response.
pub(crate) struct Exchange(ResponseFuture);

impl Exchange {
    /// Waits for the head.
    pub(crate) async fn head(self) -> Result<(Head, RecvStream), h2::Error> {
        let response = within("response", self.0).await?;
        let (head, body) = response.into_parts();
        let fields = head.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), value.into_owned())
        });
        let head = Head {
            // As HTTP/1.1 would have put it, which is what tests compare.
            start: format!("HTTP/1.1 {}", head.status),
            fields: fields.collect(),
        };
        Ok((head, body))
    }

    /// Reads the response to its end.
    pub(crate) async fn response(self) -> Response {
        self.try_response().await.unwrap()
    }

    /// The same, of a stream that may be reset.
    pub(crate) async fn try_response(self) -> Result<Response, h2::Error> {
        let (head, mut receive) = self.head().await?;
        let body = read_to_end(&mut receive).await?;
        let trailers = within("trailers", receive.trailers()).await?;
        let trailers = trailers.unwrap_or_default();
        let trailers = trailers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), value.into_owned())
        });
        Ok(Response {
            head,
            body,
            trailers: trailers.collect(),
        })
    }

    /// Waits for the 100 that lets the body begin.
    pub(crate) async fn go_ahead(&mut self) {
        let informed = std::future::poll_fn(|cx| self.0.poll_informational(cx));
        let informed = within("100", informed).await.unwrap().unwrap();
        assert_eq!(informed.status(), 100);
    }
}

/// Reads DATA to its end, and lets the far end send as much again.
pub(crate) async fn read_to_end(receive: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = within("data", receive.data()).await {
        let data = data?;
        receive.flow_control().release_capacity(data.len())?;
        body.extend(data);
    }
    Ok(body)
}

/// A request to example.com.
pub(crate) fn asking(method: Method, target: &str) -> request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("http://example.com{target}"))
}

/// A frame of HTTP/2 as it is sent (RFC 9113 §4.1).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RawFrame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// Kinds of frames (RFC 9113 §6).
pub(crate) mod kind {
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// END_STREAM of HEADERS.
pub(crate) const END_STREAM: u8 = 1;
/// END_HEADERS of HEADERS and CONTINUATION.
pub(crate) const END_HEADERS: u8 = 4;

/// What a client sends first (RFC 9113 §3.4), with settings that change nothing.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

impl RawFrame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload: payload.into(),
        }
    }

    pub(crate) fn to_wire(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut wire = length[1..].to_vec();
        wire.extend([self.kind, self.flags]);
        wire.extend(self.stream.to_be_bytes());
        wire.extend(&self.payload);
        wire
    }

    /// Reason of a RST_STREAM or GOAWAY.
    pub(crate) fn reason(&self) -> Reason {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap()).into()
    }
}

/// Fields as they are compressed by a client that compresses nothing: literals without names or
/// values of any table (RFC 7541 §6.2.2).
pub(crate) fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "longer ones need more than one byte");
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    block
}

/// The fields of a request for `/`.
pub(crate) fn usual_fields() -> Vec<u8> {
    literals(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "example.com"),
        (":path", "/"),
    ])
}

impl Connection {
    /// Reads a frame of HTTP/2.
    pub(crate) async fn read_raw(&mut self) -> RawFrame {
        let head = self.read_exactly(9).await;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let payload = self.read_exactly(length as usize).await;
        RawFrame::new(head[3], head[4], stream, payload)
    }

    /// Reads frames up to the first of this kind that is no acknowledgement.
    pub(crate) async fn read_raw_of(&mut self, kind: u8) -> RawFrame {
        loop {
            let frame = self.read_raw().await;
            let is_ack = matches!(kind, kind::SETTINGS | kind::PING) && frame.flags == 1;
            if frame.kind == kind && !is_ack {
                return frame;
            }
        }
    }
}

/// A request that opens a WebSocket (RFC 8441 §5).
pub(crate) fn connecting(target: &str) -> request::Builder {
    asking(Method::CONNECT, target)
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
}

/// A stream after extended CONNECT. As a client it masks what it sends.
pub(crate) struct Socket {
    send: SendStream<Bytes>,
    receive: RecvStream,
    received: Vec<u8>,
}

impl Http2 {
    /// Opens a WebSocket and fails the test unless that succeeds.
    pub(crate) async fn websocket(&mut self, target: &str) -> Socket {
        let request = connecting(target).body(()).unwrap();
        self.open_websocket(request).await.1
    }

    /// The same with a request that has more to it.
    pub(crate) async fn open_websocket(&mut self, request: Request<()>) -> (Head, Socket) {
        let (head, socket) = self.connect(request).await;
        assert_eq!(head.status(), 200, "it was refused: {head:?}");
        (head, socket)
    }

    /// Sends an extended CONNECT and reads the head of the answer.
    pub(crate) async fn connect(&mut self, request: Request<()>) -> (Head, Socket) {
        self.can_connect().await;
        let (exchange, send) = self.send(request, false).await;
        let (head, receive) = exchange.head().await.unwrap();
        let socket = Socket {
            send,
            receive,
            received: Vec::new(),
        };
        (head, socket)
    }
}

impl Socket {
    /// Sends bytes as they are, when the far end has room for them.
    pub(crate) async fn send(&mut self, bytes: impl Into<Bytes>) {
        self.send.send_data(bytes.into(), false).unwrap();
    }

    /// Sends a frame.
    pub(crate) async fn send_frame(&mut self, frame: Frame) {
        self.send(frame.encode(Some([0x37, 0xfa, 0x21, 0x3d])))
            .await;
    }

    /// Sends these bytes again and again, `most` at most, until the far end makes this end wait for
    /// longer than a moment. Returns how many it took.
    pub(crate) async fn send_until_stalled(&mut self, bytes: &[u8], most: usize) -> usize {
        let mut sent = 0;
        while sent < most {
            let rest = &bytes[sent % bytes.len()..];
            self.send.reserve_capacity(rest.len());
            let room = std::future::poll_fn(|cx| self.send.poll_capacity(cx));
            let Ok(room) = tokio::time::timeout(STALL, room).await else {
                break;
            };
            let room = room.expect("the stream is open").unwrap().min(rest.len());
            self.send(Bytes::copy_from_slice(&rest[..room])).await;
            sent += room;
        }
        sent
    }

    /// Reads a frame, which must not be masked.
    pub(crate) async fn read_frame(&mut self) -> Frame {
        loop {
            if let Some((frame, masked)) = Frame::take(&mut self.received) {
                assert!(!masked, "only clients mask: {frame:?}");
                return frame;
            }
            let more = self.read_more().await;
            assert!(more.unwrap(), "the stream ended before a frame");
        }
    }

    /// Sends a text message and fails the test unless the same comes back.
    pub(crate) async fn expect_echo(&mut self, payload: &str) {
        self.send_frame(super::text(payload)).await;
        assert_eq!(self.read_frame().await, super::text(payload));
    }

    /// Fails the test unless the far end ends its side (END_STREAM) without anything more.
    pub(crate) async fn expect_end(&mut self) {
        assert!(!self.read_more().await.unwrap(), "{:?}", self.received);
        assert_eq!(self.received, b"");
    }

    /// Reads what there is up to the end.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        while self.read_more().await.unwrap() {}
        std::mem::take(&mut self.received)
    }

    /// Ends this side (END_STREAM).
    pub(crate) fn finish_sending(&mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
    }

    /// Breaks it off (RST_STREAM).
    pub(crate) fn reset(mut self) {
        self.send.send_reset(Reason::CANCEL);
    }

    /// Waits for the far end to break it off, and returns the reason.
    pub(crate) async fn broken_off(&mut self) -> Reason {
        let reason = std::future::poll_fn(|cx| self.send.poll_reset(cx));
        within("reset", reason).await.unwrap()
    }

    /// Returns a stream of bytes in its place, which a task carries to and fro.
    pub(crate) fn into_stream(self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (reader, mut writer) = tokio::io::split(far);
        let mut receive = self.receive;
        let to_near = async move {
            while let Some(Ok(data)) = receive.data().await {
                let released = receive.flow_control().release_capacity(data.len());
                if released.is_err() || writer.write_all(&data).await.is_err() {
                    return;
                }
            }
            writer.shutdown().await.ok();
        };
        tokio::spawn(to_near);
        tokio::spawn(carry(reader, self.send));
        near
    }

    /// Returns whether there was more before the end.
    async fn read_more(&mut self) -> Result<bool, h2::Error> {
        // The end may come in an empty frame.
        while let Some(data) = within("data", self.receive.data()).await {
            let data = data?;
            self.receive.flow_control().release_capacity(data.len())?;
            self.received.extend_from_slice(&data);
            if !data.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Sends what comes, as the far end has room for it, and ends the stream after it.
async fn carry(mut from: ReadHalf<DuplexStream>, mut to: SendStream<Bytes>) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let mut rest = Bytes::copy_from_slice(&piece[..length]);
        while !rest.is_empty() {
            to.reserve_capacity(rest.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| to.poll_capacity(cx)).await else {
                return;
            };
            let data = rest.split_to(room.min(rest.len()));
            if to.send_data(data, false).is_err() {
                return;
            }
        }
    }
    // The far end may have ended it already.
    to.send_data(Bytes::new(), true).ok();
}
