//! The opening handshake of a WebSocket, or of any other protocol that a request upgrades to.
//!
//! hyper gives a client's socket back only after the 101 is on its way, so [`run`] leaves a task with
//! the connection and returns; that task then owns the session to its end.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL};
use http::header::{HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1::Parts as ConnectionParts;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::affinity;
use super::attempts::{Attempt, reach};
use super::body::{ResponseBody, ServiceBody};
use super::client::Handover;
use super::compression::{Legs, Negotiation};
use super::ending::Ending;
use super::exchange::broken;
use super::failure::Failure;
use super::head;
use super::registry::Entry;
use super::relay::{self, Relay};
use super::response;
use super::session::Session;
use crate::config::{self, HandshakeRules, Origin};
use crate::plugin::{ChainRun, Handshake};
use crate::protocol::accept::accept_for;
use crate::protocol::headers::remove_hop_by_hop;
use crate::protocol::upgrade::{is_websocket, list_items, lists};
use crate::protocol::upgrade::{named, requested, valid_key};
use crate::stream::Stream;
use crate::telemetry::Kind;
use crate::upstream::{Endpoint, Error, RequestBody, Sender, Sending, Upstream, http1};

/// An upgrade that a request asks for and its route allows.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    /// The token as the client wrote it.
    token: HeaderValue,
    is_websocket: bool,
}

/// Returns the upgrade a request asks for, if the route allows it. Another one is not an error: the
/// request goes on without it, as RFC 9110 §7.8 has it. So does one that has a body, for which a 101
/// would have to wait.
pub(crate) fn offer(head: &Parts, has_body: bool, settings: &config::Settings) -> Option<Offer> {
    // No request of HTTP/2 has the field but what was translated to it.
    let knows_it = matches!(head.version, Version::HTTP_11 | Version::HTTP_2);
    if !head.headers.contains_key(UPGRADE) || !knows_it || has_body {
        return None;
    }
    let token = match settings.websocket.handshake {
        HandshakeRules::Strict | HandshakeRules::Lenient => requested(&head.headers),
        HandshakeRules::Off => named(&head.headers),
    }?;
    let name = token.split('/').next().unwrap_or(token);
    let names = |allowed: &String| {
        allowed.eq_ignore_ascii_case(name) || allowed.eq_ignore_ascii_case(token)
    };
    if !settings.upgrade.iter().any(names) {
        return None;
    }
    let is_websocket = is_websocket(token);
    // A WebSocket is opened by GET and nothing else (RFC 6455 §4.1).
    if is_websocket && head.method != Method::GET {
        return None;
    }
    Some(Offer {
        token: HeaderValue::from_str(token).ok()?,
        is_websocket,
    })
}

impl Offer {
    /// Returns the token as the client wrote it.
    pub(crate) fn token(&self) -> &HeaderValue {
        &self.token
    }

    /// Refuses a WebSocket whose page is not among `origins`, unless that is empty (RFC 6455 §10.2).
    pub(crate) fn check_origin(
        &self,
        headers: &HeaderMap,
        origins: &[Origin],
    ) -> Result<(), Failure> {
        if !self.is_websocket || origins.is_empty() {
            return Ok(());
        }
        let value = single(headers, &ORIGIN).ok_or(Failure::NoOrigin)?;
        let value = String::from_utf8_lossy(value.as_bytes());
        if origins.iter().any(|origin| origin.matches(&value)) {
            return Ok(());
        }
        Err(Failure::ForeignOrigin {
            origin: value.into_owned(),
        })
    }
}

/// Carries the handshake to an endpoint and its answer back. A 101 becomes a session of its own; any
/// other answer is an ordinary response.
pub(crate) async fn run(
    session: &mut Session,
    upstream: &Upstream,
    offer: Offer,
    head: &mut Parts,
    ending: &mut Ending,
) -> Result<Response<ResponseBody>, Failure> {
    let route = session.route.clone();
    let rules = route.settings.websocket.handshake;
    let compression = prepare(session, &offer, head)?;
    let is_filtered = compression.is_some();
    if let Some(chain) = session.chain.as_mut().filter(|_| is_filtered) {
        chain.reserve()?;
    }
    let attempt = async |session: &Session, endpoint: &Endpoint, head: &mut Parts| {
        let mut answer = attempt(session, upstream, endpoint, head).await?;
        judge(
            &mut answer,
            &offer,
            rules,
            &head.headers,
            compression.as_ref(),
        )
        .map_err(|why| {
            let address = endpoint.address;
            Attempt::Failed(Error::Answer { address, why })
        })?;
        Ok(answer)
    };
    let (answer, endpoint) =
        reach(session, upstream, head, ending, Answer::status, attempt).await?;
    let (mut response, switched, compression) = match answer {
        Answer::Ordinary(response, sender) => {
            let (mut head, incoming) = response.into_parts();
            head::for_client(&mut head, &incoming)?;
            response::rewrite(session, &mut head.headers, ending);
            affinity::set_cookie(session, upstream, endpoint, &mut head.headers);
            let body = ResponseBody::service(ServiceBody::new(incoming, sender, &route, endpoint));
            return session
                .judge(Response::from_parts(head, body), ending)
                .await;
        }
        Answer::Switched(response, parts, compression) => (response, parts, compression),
    };
    let token = response
        .headers
        .get(UPGRADE)
        .cloned()
        .unwrap_or(offer.token);
    remove_hop_by_hop(&mut response.headers);
    response::rewrite(session, &mut response.headers, ending);
    response.extensions.clear();
    response.headers.insert(UPGRADE, token);
    response
        .headers
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    // Some services send one with a 101; it means nothing there (RFC 9110 §8.6).
    response.headers.remove(http::header::CONTENT_LENGTH);
    affinity::set_cookie(session, upstream, endpoint, &mut response.headers);
    let response = Response::from_parts(response, ResponseBody::fixed(bytes::Bytes::new()));
    let response = session.judge(response, ending).await?;

    let endpoint = &upstream.endpoints[endpoint];
    let chain = session.chain.take().filter(|_| is_filtered);
    let mut ending = ending.for_session();
    if let Some(record) = &mut ending.notes {
        record.kind = if offer.is_websocket {
            Kind::WebSocket
        } else {
            Kind::Tunnel
        };
    }
    let relay = Relay {
        worker: session.worker.clone(),
        service: switched.io.into_inner().into_inner(),
        service_early: switched.read_buf,
        entry: Entry::new(
            session.client.remote,
            (&route.site().name, &route.label),
            &endpoint.name,
            session.request_id(),
            offer.is_websocket,
        ),
        chain: chain.map(|chain| {
            let handshake = remembered(session, head, &response, endpoint);
            (chain, Arc::new(handshake))
        }),
        compression,
        route,
        ending,
    };
    let handover: Handover =
        Box::new(move |client, early, permit| relay::start(relay, client, early, permit));
    Ok(response.map(|_| ResponseBody::switched(handover)))
}

/// Judges the client's side and makes the head one for the service. Returns what was begun about
/// compression, if plugins see messages.
pub(super) fn prepare(
    session: &Session,
    offer: &Offer,
    head: &mut Parts,
) -> Result<Option<Negotiation>, Failure> {
    let route = &session.route;
    if offer.is_websocket {
        match route.settings.websocket.handshake {
            HandshakeRules::Strict => check_request(&head.headers)?,
            HandshakeRules::Lenient | HandshakeRules::Off => {}
        }
    }
    let sees_messages = session.chain.as_ref().is_some_and(ChainRun::sees_messages);
    let is_filtered = offer.is_websocket && sees_messages;
    let compression = is_filtered.then(|| {
        let allowed = route.settings.websocket.compression;
        Negotiation::begin(&mut head.headers, allowed)
    });
    head::for_service(head, route, &session.variables(), Some(&offer.token))?;
    Ok(compression)
}

/// What an endpoint answered.
enum Answer {
    /// Not a 101.
    Ordinary(Response<Incoming>, Sender),
    Switched(http::response::Parts, ConnectionParts<Sending>, Legs),
}

impl Answer {
    fn status(&self) -> StatusCode {
        match self {
            Self::Ordinary(response, _) => response.status(),
            Self::Switched(response, ..) => response.status,
        }
    }
}

/// Asks one endpoint, over a connection of its own.
async fn attempt(
    session: &Session,
    upstream: &Upstream,
    endpoint: &Endpoint,
    head: &Parts,
) -> Result<Answer, Attempt> {
    let connect_timeout = session.route.settings.timeouts.connect;
    let stream = upstream
        .connect(endpoint, connect_timeout)
        .await
        .map_err(Attempt::NothingSent)?;
    session
        .worker
        .metrics
        .upstream_connections_opened
        .increment();
    session.connected.set(Some(Instant::now()));
    ask(session, endpoint, stream, head)
        .await
        .map_err(Attempt::Failed)
}

/// Sends the request and waits for the head of the answer. The connection is driven here until then,
/// so that a 101 costs no task of its own.
async fn ask(
    session: &Session,
    endpoint: &Endpoint,
    stream: Stream,
    head: &Parts,
) -> Result<Answer, Error> {
    let address = endpoint.address;
    let timeouts = &session.route.settings.timeouts;
    let failed = |source| broken(address, source, timeouts);
    let max_header_bytes = session.route.generation().limits.max_header_bytes;
    let (mut sender, mut connection) = http1(stream, timeouts.send, max_header_bytes)
        .await
        .map_err(failed)?;
    let mut request = Request::new(RequestBody::default());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = head.headers.clone();
    let mut response = std::pin::pin!(sender.send_request(request));
    let mut connected = true;
    let answered = std::future::poll_fn(|cx| {
        if connected && std::pin::Pin::new(&mut connection).poll(cx).is_ready() {
            connected = false;
        }
        response.as_mut().poll(cx)
    });
    let response = match timeout(timeouts.read, answered).await {
        Ok(response) => response.map_err(failed)?,
        Err(_) => {
            let timeout = timeouts.read;
            return Err(Error::Timeout {
                address,
                action: "answer the handshake",
                timeout,
            });
        }
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // hyper has stopped at the end of the head; what it read beyond comes with the parts.
        if connected {
            std::future::poll_fn(|cx| connection.poll_without_shutdown(cx))
                .await
                .map_err(failed)?;
        }
        let (head, _) = response.into_parts();
        let parts = connection.into_parts();
        return Ok(Answer::Switched(head, parts, Legs::default()));
    }
    if connected {
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection to a service ended");
            }
        });
    }
    Ok(Answer::Ordinary(response, sender))
}

/// Holds a 101 to what was asked, or says what is wrong with it. An endpoint that answers wrongly has
/// failed: another one may do better.
fn judge(
    answer: &mut Answer,
    offer: &Offer,
    rules: HandshakeRules,
    asked: &HeaderMap,
    compression: Option<&Negotiation>,
) -> Result<(), Cow<'static, str>> {
    let Answer::Switched(response, _, legs) = answer else {
        return Ok(());
    };
    check_answer(offer, rules, asked, response)?;
    // Whatever the rules: frames of an extension that was not agreed on could not be read here.
    if let Some(negotiation) = compression {
        let concluded = negotiation.conclude(&mut response.headers);
        *legs = concluded.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Checks what RFC 6455 §4.2.1 asks of a client.
fn check_request(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(version) = single(headers, &SEC_WEBSOCKET_VERSION) else {
        return Err(Failure::BadHandshake("expected one Sec-WebSocket-Version"));
    };
    if version.as_bytes() != b"13" {
        return Err(Failure::BadWebSocketVersion);
    }
    match single(headers, &SEC_WEBSOCKET_KEY) {
        Some(key) if valid_key(key.as_bytes()) => Ok(()),
        Some(_) => Err(Failure::BadHandshake(
            "Sec-WebSocket-Key is not 16 bytes in base64",
        )),
        None => Err(Failure::BadHandshake("expected one Sec-WebSocket-Key")),
    }
}

/// Checks that a 101 answers what was asked, as far as the rules of the route go.
fn check_answer(
    offer: &Offer,
    rules: HandshakeRules,
    asked: &HeaderMap,
    answer: &http::response::Parts,
) -> Result<(), &'static str> {
    match rules {
        HandshakeRules::Strict => {
            check_token(offer, answer)?;
            check_proof(offer, asked, answer)
        }
        HandshakeRules::Lenient => {
            check_token(offer, answer)?;
            if let Err(why) = check_proof(offer, asked, answer) {
                warn!(error = why, "lenient about a handshake");
            }
            Ok(())
        }
        HandshakeRules::Off => Ok(()),
    }
}

/// Checks that the protocol switched to is the one that was asked for (RFC 9110 §7.8).
fn check_token(offer: &Offer, answer: &http::response::Parts) -> Result<(), &'static str> {
    let Some(token) = single(&answer.headers, &UPGRADE) else {
        return Err("101 without Upgrade");
    };
    if !token
        .as_bytes()
        .eq_ignore_ascii_case(offer.token.as_bytes())
    {
        return Err("101 for another protocol than was asked");
    }
    Ok(())
}

/// Checks that a service which accepts a WebSocket has read the handshake (RFC 6455 §4.1).
fn check_proof(
    offer: &Offer,
    asked: &HeaderMap,
    answer: &http::response::Parts,
) -> Result<(), &'static str> {
    if !offer.is_websocket {
        return Ok(());
    }
    if !lists(&answer.headers, CONNECTION, "upgrade") {
        return Err("101 whose Connection does not name Upgrade");
    }
    let key = asked
        .get(SEC_WEBSOCKET_KEY)
        .map(|key| accept_for(key.as_bytes()));
    let accept = single(&answer.headers, &SEC_WEBSOCKET_ACCEPT);
    if accept.map(HeaderValue::as_bytes) != key.as_ref().map(String::as_bytes) {
        return Err("Sec-WebSocket-Accept does not answer the key");
    }
    let mut offered = list_items(asked.get_all(SEC_WEBSOCKET_PROTOCOL));
    let mut chosen = answer.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    match (chosen.next(), chosen.next()) {
        (None, _) => Ok(()),
        (Some(chosen), None) if offered.any(|offered| chosen == offered) => Ok(()),
        (Some(_), None) => Err("a subprotocol that was not offered"),
        (Some(_), Some(_)) => Err("more than one subprotocol"),
    }
}

/// Returns the value of a field that is there exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Keeps what plugins may ask about the handshake for as long as the session lives.
fn remembered(
    session: &Session,
    head: &Parts,
    response: &Response<ResponseBody>,
    endpoint: &Endpoint,
) -> Handshake {
    Handshake {
        facts: session.facts.clone(),
        target: head::target(head).into(),
        request: copied(&head.headers),
        response: copied(response.headers()),
        endpoint: endpoint.address,
    }
}

/// Copies fields, since those that hyper parsed keep the buffer they were read into.
fn copied(headers: &HeaderMap) -> HeaderMap {
    let copy = |value: &HeaderValue| HeaderValue::from_bytes(value.as_bytes()).ok();
    headers
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), copy(value)?)))
        .collect()
}
