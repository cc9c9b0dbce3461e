//! The ways in which a row is sent to the other end, and whether what came of it is right.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::endpoint::{Ending, Heard, Side, Stream, echo};
use super::negotiation::{self, Agreement};
use super::speaker::speak;
use super::{Case, End, Expected, LIMIT};
use crate::harness::http2::{Http2, connecting};
use crate::harness::{
    DEADLINE, Frame, Head, Process, Tidegate, accepting, guest, handshake, node, one_listener,
};

/// Who is between the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    /// Nobody.
    Direct,
    /// A route that passes bytes.
    Unfiltered,
    /// A route whose messages all pass a plugin.
    Filtered,
    /// The same, but only the client's leg may be compressed: what is, is inflated on its way, and what
    /// comes back is compressed by the proxy.
    Converted,
    /// As unfiltered, and the client speaks HTTP/2 (RFC 8441).
    UnfilteredHttp2,
    /// As filtered, and the client speaks HTTP/2.
    FilteredHttp2,
    /// Nobody, and the other end is Node's `ws`.
    Node,
}

impl Mode {
    pub(super) const ALL: [Self; 7] = [
        Self::Direct,
        Self::Unfiltered,
        Self::Filtered,
        Self::Converted,
        Self::UnfilteredHttp2,
        Self::FilteredHttp2,
        Self::Node,
    ];

    /// Whether this side can speak in the mode.
    pub(super) fn is_for(self, speaker: Side) -> bool {
        match self {
            Self::Direct | Self::Unfiltered | Self::Filtered | Self::FilteredHttp2 => true,
            Self::Converted | Self::UnfilteredHttp2 | Self::Node => speaker == Side::Client,
        }
    }

    /// The mode whose exceptions are those of this one.
    pub(super) fn excepted_as(self) -> Self {
        match self {
            Self::Converted | Self::FilteredHttp2 => Self::Filtered,
            other => other,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "directly",
            Self::Unfiltered => "unfiltered",
            Self::Filtered => "filtered",
            Self::Converted => "filtered, plain to the service",
            Self::UnfilteredHttp2 => "unfiltered over HTTP/2",
            Self::FilteredHttp2 => "filtered over HTTP/2",
            Self::Node => "to Node's ws",
        })
    }
}

/// Everything that conversations are held on.
pub(super) struct Stage {
    tidegate: Tidegate,
    service: SocketAddr,
    node: SocketAddr,
    _node: Process,
    /// What services of conversations to come have to do, by number.
    roles: Arc<Mutex<HashMap<usize, Role>>>,
    next: AtomicUsize,
}

/// What a service does in a conversation, and who wants to hear of it.
struct Role {
    /// None: it answers.
    speaks: Option<(Arc<Case>, Mode)>,
    heard: oneshot::Sender<(Heard, Vec<u8>)>,
}

/// What both ends of a conversation made of it.
struct Held {
    speaker: Heard,
    listener: Heard,
    sent: Vec<u8>,
}

/// Echoes, and prints its port.
const NODE_SERVICE: &str = r#"
    const { WebSocketServer } = require("ws");
    const maxPayload = Number(process.argv[1]);
    const server = new WebSocketServer({ host: "127.0.0.1", port: 0, maxPayload, perMessageDeflate: { threshold: 0 } });
    server.on("listening", () => console.log(server.address().port));
    server.on("connection", (socket) => {
        socket.on("error", () => {});
        socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
    });
"#;

impl Stage {
    pub(super) async fn start() -> Self {
        let mut process = node(NODE_SERVICE, &[&LIMIT.to_string()]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = listener.local_addr().unwrap();
        let roles = Arc::new(Mutex::new(HashMap::new()));
        tokio::spawn(serve(listener, roles.clone()));
        let routes = format!(
            r#"
            [[sites.routes]]
            match = "/unfiltered/"
            url = "http://{service}"

            [[sites.routes]]
            match = "/filtered/"
            url = "http://{service}"
            plugins = ["pass-through"]
            websocket = {{ max_message = "{LIMIT}B" }}

            [[sites.routes]]
            match = "/converted/"
            url = "http://{service}"
            plugins = ["pass-through"]
            websocket = {{ max_message = "{LIMIT}B", compression = "client" }}

            [plugins.pass-through]
            module = {:?}
            "#,
            guest("pass-through")
        );
        let listener = one_listener(&routes).replace("bind =", "http2 = true\nbind =");
        let tidegate = Tidegate::start(&listener).await;
        let port = process.stdout.line().await;
        Self {
            tidegate,
            service,
            node: format!("127.0.0.1:{port}").parse().unwrap(),
            _node: process,
            roles,
            next: AtomicUsize::new(0),
        }
    }

    /// Holds the conversation of a row. The error is what was wrong.
    pub(super) async fn hold(
        &self,
        case: &Arc<Case>,
        mode: Mode,
        speaker: Side,
    ) -> Result<(), String> {
        let expected = case.expected_in(mode).ok_or("not for this mode")?;
        let held = timeout(DEADLINE, self.converse(case, mode, speaker)).await;
        let held = held.map_err(|_| format!("nothing came for {DEADLINE:?}"))??;
        judge_speaker(expected, &held.speaker, mode)?;
        match mode {
            Mode::Direct | Mode::Node => Ok(()),
            Mode::Unfiltered | Mode::UnfilteredHttp2 => judge_unfiltered(&held),
            Mode::Filtered | Mode::Converted | Mode::FilteredHttp2 => {
                judge_filtered(expected, &held, speaker)
            }
        }
    }

    async fn converse(&self, case: &Arc<Case>, mode: Mode, speaker: Side) -> Result<Held, String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (heard, there) = oneshot::channel();
        let speaks = (speaker == Side::Service).then(|| (case.clone(), mode));
        let role = Role { speaks, heard };
        self.roles.lock().unwrap().insert(number, role);
        let (answer, mut stream, early) = self.open(mode, number, &case.offer).await?;
        let agreement = Agreement::read(&case.offer, answer.field("sec-websocket-extensions"))?;
        if case
            .agrees
            .is_some_and(|agrees| agrees != agreement.is_some())
        {
            return Err(format!("the offer was answered with {answer:?}"));
        }
        if speaker == Side::Client {
            let (speaker, sent) = speak(&mut stream, early, speaker, agreement, case, mode).await;
            let listener = match mode {
                Mode::Node => Heard::default(),
                _ => there.await.map_err(|_| "the service failed")?.0,
            };
            Ok(Held {
                speaker,
                listener,
                sent,
            })
        } else {
            let listener = echo(&mut stream, early, Side::Client, agreement).await;
            drop(stream);
            let (speaker, sent) = there.await.map_err(|_| "the service failed")?;
            Ok(Held {
                speaker,
                listener,
                sent,
            })
        }
    }

    /// Opens a WebSocket. Returns the answer, the stream, and what came after the answer.
    async fn open(
        &self,
        mode: Mode,
        number: usize,
        offer: &str,
    ) -> Result<(Head, Box<dyn Stream>, Vec<u8>), String> {
        let proxy = self.tidegate.address(0);
        let (address, path) = match mode {
            Mode::Direct => (self.service, "direct"),
            Mode::Unfiltered | Mode::UnfilteredHttp2 => (proxy, "unfiltered"),
            Mode::Filtered | Mode::FilteredHttp2 => (proxy, "filtered"),
            Mode::Converted => (proxy, "converted"),
            Mode::Node => (self.node, "node"),
        };
        let target = format!("/{path}/{number}");
        if matches!(mode, Mode::UnfilteredHttp2 | Mode::FilteredHttp2) {
            let (answer, stream) = open_http2(address, &target, offer).await?;
            return Ok((answer, Box::new(stream), Vec::new()));
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (answer, early) = open(&mut stream, &target, offer).await?;
        Ok((answer, Box::new(stream), early))
    }
}

/// Plays the roles of services, one per connection, whose path ends with the number of the role.
async fn serve(listener: TcpListener, roles: Arc<Mutex<HashMap<usize, Role>>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let roles = roles.clone();
        tokio::spawn(async move {
            stream.set_nodelay(true).unwrap();
            let Some((request, early)) = read_head(&mut stream).await else {
                return;
            };
            let number = request.target().rsplit('/').next().unwrap();
            let role = roles.lock().unwrap().remove(&number.parse().unwrap());
            let Role { speaks, heard } = role.expect("somebody plays the other end");
            let offers = request.fields("sec-websocket-extensions").join(",");
            let answer = negotiation::answer(&offers);
            let mut head = accepting(&request);
            if let Some(answer) = &answer {
                head = head.with("Sec-WebSocket-Extensions", answer);
            }
            if stream.write_all(head.to_wire().as_bytes()).await.is_err() {
                return;
            }
            let agreement = Agreement::read(&offers, answer.as_deref()).expect("it is our own");
            let side = Side::Service;
            let held = match speaks {
                Some((case, mode)) => speak(&mut stream, early, side, agreement, &case, mode).await,
                None => {
                    let heard = echo(&mut stream, early, side, agreement).await;
                    (heard, Vec::new())
                }
            };
            drop(stream);
            // Nobody waits for a conversation that took too long.
            heard.send(held).ok();
        });
    }
}

/// Opens a WebSocket. Returns the answer and what came after it.
async fn open(
    stream: &mut TcpStream,
    target: &str,
    offer: &str,
) -> Result<(Head, Vec<u8>), String> {
    let mut request = handshake(target);
    if !offer.is_empty() {
        request += &format!("\nSec-WebSocket-Extensions: {offer}");
    }
    let lines = request.lines().map(str::trim);
    let wire: String = lines.map(|line| format!("{line}\r\n")).collect();
    let sent = stream.write_all(format!("{wire}\r\n").as_bytes()).await;
    sent.map_err(|error| error.to_string())?;
    let answer = read_head(stream)
        .await
        .ok_or("no answer to the handshake")?;
    match answer.0.status() {
        101 => Ok(answer),
        status => Err(format!("the handshake was answered with {status}")),
    }
}

/// Opens a WebSocket over a connection of HTTP/2.
async fn open_http2(
    address: SocketAddr,
    target: &str,
    offer: &str,
) -> Result<(Head, DuplexStream), String> {
    let mut request = connecting(target);
    if !offer.is_empty() {
        request = request.header("sec-websocket-extensions", offer);
    }
    let mut client = Http2::open(address).await;
    let (answer, socket) = client.connect(request.body(()).unwrap()).await;
    match answer.status() {
        200 => Ok((answer, socket.into_stream())),
        status => Err(format!("the handshake was answered with {status}")),
    }
}

/// Reads a head and what came with it.
async fn read_head(stream: &mut TcpStream) -> Option<(Head, Vec<u8>)> {
    let mut received = Vec::new();
    loop {
        if let Some(at) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let rest = received.split_off(at + 4);
            return Some((Head::parse(&String::from_utf8_lossy(&received)), rest));
        }
        if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

/// Whether the end that sent the row heard what it should.
fn judge_speaker(expected: &Expected, heard: &Heard, mode: Mode) -> Result<(), String> {
    let is_right = match (&expected.end, &heard.end) {
        (End::Closed(expected), Ending::Closed(found)) => expected == found,
        (End::Failed(code), Ending::Closed(found)) => found.close_code() == Some(*code),
        _ => false,
    };
    if !is_right {
        return Err(format!("it heard {:?} {:?}", heard.frames, heard.end));
    }
    if !heard.bytes.is_empty() {
        return Err(format!("{:?} came after the end", heard.bytes));
    }
    let failed = matches!(expected.end, End::Failed(_));
    let answers = match (mode.excepted_as(), failed) {
        // The proxy ends both legs at once; answers that are still on their way are lost.
        (Mode::Filtered, true) => expected.answers.get(..heard.frames.len()),
        _ => Some(&expected.answers[..]),
    };
    if answers == Some(&heard.frames[..]) {
        Ok(())
    } else {
        Err(format!("it was answered {:?}", heard.frames))
    }
}

/// Whether the far end of an unfiltered route got every byte.
fn judge_unfiltered(held: &Held) -> Result<(), String> {
    if held.listener.bytes == held.sent {
        Ok(())
    } else {
        Err("other bytes arrived than were sent".to_owned())
    }
}

/// Whether the far end of a filtered route got what passed, and was told of what did not.
fn judge_filtered(expected: &Expected, held: &Held, speaker: Side) -> Result<(), String> {
    let listener = &held.listener;
    if let End::Failed(_) = expected.end {
        let code = match speaker {
            Side::Client => 1001,
            Side::Service => 1014,
        };
        return match &listener.end {
            Ending::Closed(close) if close.close_code() == Some(code) => Ok(()),
            other => Err(format!("the far end heard {other:?}")),
        };
    }
    let used = held.speaker.agreement.map(|leg| leg.of(speaker));
    let allowed = listener.agreement.map(|leg| leg.of(speaker));
    let is_transparent = match (used, allowed) {
        (None, None) => true,
        (Some(used), Some(allowed)) => used.window_bits <= allowed.window_bits,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if is_transparent && listener.bytes != passed(&held.sent) {
        return Err("a message that passed was changed on its way".to_owned());
    }
    Ok(())
}

/// What goes on of these bytes if everything passes: a message is held until it is whole, so control
/// frames come before it, and what is never finished or follows a Close frame is not sent at all.
pub(super) fn passed(sent: &[u8]) -> Vec<u8> {
    let mut rest = sent.to_vec();
    let mut out = Vec::new();
    let mut message = Vec::new();
    loop {
        let before = rest.len();
        let Some((frame, _)) = Frame::take(&mut rest) else {
            return out;
        };
        let start = sent.len() - before;
        let wire = &sent[start..sent.len() - rest.len()];
        if frame.opcode >= 8 {
            out.extend(wire);
        } else {
            message.extend(wire);
        }
        if frame.opcode == 8 {
            return out;
        }
        if frame.fin && frame.opcode < 8 {
            out.append(&mut message);
        }
    }
}
