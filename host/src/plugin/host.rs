//! What the host offers to plugins: the imports of `wit/host.wit`.
//!
//! [`State`] is what a store holds: what is lent to the guest for the call under way, what that call
//! may still use up, and what it has produced. Making calls is left to `instance.rs`.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, request, response};
use tracing::{Level, debug, error, info, trace, warn};
use wasmtime::component::{Resource, ResourceTable};
use wasmtime::{ResourceLimiter, Result, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::bindings::tidegate::plugin::http::{Answer, HeadError};
use super::bindings::tidegate::plugin::{http as heads, logging, outgoing};
use super::{Cause, Facts, Handshake, Sent, SentRequest, wasi};
use crate::config::PluginLimits;
use crate::protocol::close::CloseCode;
use crate::protocol::message::{MessageKind, Side};
use crate::telemetry::Phase;

/// Longest message of a log line.
const MAX_LOG_BYTES: usize = 8 * 1024;

/// Longest name of the part of a plugin that speaks in a log line.
const MAX_LOG_CONTEXT_BYTES: usize = 256;

/// Log lines of a plugin per second and worker.
const MAX_LOG_LINES: u32 = 100;

/// What one element of a table counts for in an instance's memory.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// Longest payload of a control frame, and with its code of a close reason (RFC 6455 §5.5).
const MAX_CONTROL_BYTES: usize = 125;
const MAX_REASON_BYTES: usize = 123;

/// Fields of the connection, not of the message. With those of a handshake they are the host's.
const CONNECTION_FIELDS: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
];

pub(super) use handles::{HandshakeFacts, RequestHead, ResponseHead, SentRequestHead};

/// What the guest's handles are of. A call lends at most one of each, so all of a kind have the same
/// representation, and what they stand for is in [`State::lent`].
#[allow(unreachable_pub, reason = "the generated bindings export them again")]
pub(super) mod handles {
    pub struct RequestHead;
    pub struct SentRequestHead;
    pub struct ResponseHead;
    pub struct HandshakeFacts;
}

/// What a store holds beside the instance.
pub(super) struct State {
    plugin: Arc<str>,
    log: Arc<LogGate>,
    /// Bytes of memories and tables, and what they may grow to.
    memory: usize,
    max_memory: usize,
    /// Counted before a growth, and taken back if that fails.
    growing: usize,
    pub(super) call: Call,
    pub(super) lent: Lent,
    pub(super) produced: Produced,
    wasi: WasiCtx,
    table: ResourceTable,
}

/// The call under way and what it may use.
pub(super) struct Call {
    phase: Phase,
    /// Of the message being judged.
    kind: MessageKind,
    /// CPU time of the thread at the first tick of the clock within the call.
    since: Option<Duration>,
    timeout: Duration,
    limit: Allowance,
    left: Allowance,
}

/// What a call may produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) bytes: usize,
    pub(super) messages: usize,
}

/// What a call left with the host beside its verdict.
#[derive(Default)]
pub(super) struct Produced {
    pub(super) answer: Option<http::Response<Bytes>>,
    pub(super) replacement: Option<Vec<u8>>,
    pub(super) close: Option<(CloseCode, String)>,
    pub(super) sent: Vec<Sent>,
}

/// What the guest's handles stand for.
pub(super) enum Lent {
    Nothing,
    Request(Loan<request::Parts>),
    Response(Arc<SentRequest>, Loan<response::Parts>),
    Handshake {
        handshake: Arc<Handshake>,
        reopened: bool,
    },
}

/// A head that a guest may change, and what it was before.
pub(super) struct Loan<H: Head> {
    head: H,
    facts: Arc<Facts>,
    changed: Option<Changed<H>>,
}

struct Changed<H: Head> {
    first_line: H::FirstLine,
    /// Values of the fields that were touched. Few are, so this is cheaper than a copy of all.
    fields: Vec<(HeaderName, Vec<HeaderValue>)>,
    /// Size of the head as it is now.
    bytes: usize,
}

/// The head of a request or response.
pub(super) trait Head {
    /// What a plugin may change of the first line.
    type FirstLine: Clone;

    fn first_line(&mut self) -> &mut Self::FirstLine;
    fn first_line_bytes(&self) -> usize;
    fn fields(&mut self) -> &mut HeaderMap;
}

/// Counts the log lines of a plugin, or about it, on a worker.
pub(super) struct LogGate {
    lines_per_second: u32,
    /// Second since the first line of the process.
    second: AtomicU64,
    lines: AtomicU32,
}

impl State {
    pub(super) fn new(plugin: &Arc<str>, limits: &PluginLimits, log: &Arc<LogGate>) -> Self {
        let nothing = Allowance {
            bytes: 0,
            messages: 0,
        };
        Self {
            plugin: Arc::clone(plugin),
            log: Arc::clone(log),
            memory: 0,
            max_memory: limits.memory_bytes,
            growing: 0,
            call: Call {
                phase: Phase::Configure,
                kind: MessageKind::Text,
                since: None,
                timeout: limits.call_timeout,
                limit: nothing,
                left: nothing,
            },
            lent: Lent::Nothing,
            produced: Produced::default(),
            wasi: wasi::context(plugin, log),
            table: ResourceTable::new(),
        }
    }

    /// Asked at each tick of the clock that a call lives through. Wall time stops healthy calls when
    /// their thread does not run, so it is CPU time that counts, from the first tick on: reading it
    /// before each call would cost more than most calls.
    pub(super) fn tick(&mut self) -> Result<UpdateDeadline> {
        let now = thread_cpu_time();
        let since = *self.call.since.get_or_insert(now);
        let limit = self.call.timeout;
        if now.saturating_sub(since) >= limit {
            return Err(Cause::Timeout { limit }.into());
        }
        Ok(UpdateDeadline::Continue(1))
    }

    fn request(&mut self) -> Result<&mut Loan<request::Parts>> {
        match &mut self.lent {
            Lent::Request(loan) => Ok(loan),
            _ => Err(stale()),
        }
    }

    fn response(&mut self) -> Result<&mut Loan<response::Parts>> {
        match &mut self.lent {
            Lent::Response(_, loan) => Ok(loan),
            _ => Err(stale()),
        }
    }

    fn sent_request(&self) -> Result<&SentRequest> {
        match &self.lent {
            Lent::Response(request, _) => Ok(request),
            _ => Err(stale()),
        }
    }

    fn handshake(&self) -> Result<&Handshake> {
        match &self.lent {
            Lent::Handshake { handshake, .. } => Ok(handshake),
            _ => Err(stale()),
        }
    }

    fn spend(&mut self, bytes: usize, messages: usize) -> Result<()> {
        let Allowance {
            bytes: limit,
            messages: most,
        } = self.call.limit;
        let left = &mut self.call.left;
        left.bytes = left.bytes.checked_sub(bytes).ok_or(Cause::Output {
            limit,
            unit: "bytes",
        })?;
        left.messages = left.messages.checked_sub(messages).ok_or(Cause::Output {
            limit: most,
            unit: "messages",
        })?;
        Ok(())
    }

    fn grow(&mut self, bytes: usize) -> Result<bool> {
        match self.memory.checked_add(bytes) {
            Some(memory) if memory <= self.max_memory => {
                self.memory = memory;
                self.growing = bytes;
                Ok(true)
            }
            _ => Err(Cause::Memory {
                limit: self.max_memory,
            }
            .into()),
        }
    }

    fn grow_failed(&mut self) {
        self.memory = self
            .memory
            .saturating_sub(std::mem::take(&mut self.growing));
    }
}

impl Call {
    pub(super) fn begin(&mut self, phase: Phase, timeout: Duration, limit: Allowance) {
        self.phase = phase;
        self.since = None;
        self.timeout = timeout;
        self.limit = limit;
        self.left = limit;
    }

    pub(super) fn judges(&mut self, kind: MessageKind) {
        self.kind = kind;
    }

    /// What the call may still produce.
    pub(super) fn left(&self) -> Allowance {
        self.left
    }

    pub(super) fn too_much_output(&self) -> Cause {
        Cause::Output {
            limit: self.limit.bytes,
            unit: "bytes",
        }
    }

    fn must_be(&self, allowed: &[Phase], function: &str) -> Result<()> {
        if allowed.contains(&self.phase) {
            Ok(())
        } else {
            rule(format!(
                "called `{function}` within `{}`",
                super::function(self.phase)
            ))
        }
    }
}

impl Allowance {
    pub(super) fn of(limits: &PluginLimits) -> Self {
        Self {
            bytes: limits.output_bytes,
            messages: limits.output_messages,
        }
    }
}

impl Produced {
    pub(super) fn clear(&mut self) {
        self.answer = None;
        self.replacement = None;
        self.close = None;
        self.sent.clear();
    }
}

impl<H: Head> Loan<H> {
    pub(super) fn new(head: H, facts: &Arc<Facts>) -> Self {
        Self {
            head,
            facts: Arc::clone(facts),
            changed: None,
        }
    }

    /// Ends the loan; the head is as the guest left it.
    pub(super) fn give_back(self) -> H {
        self.head
    }

    /// Ends the loan; the head is as it was.
    pub(super) fn undo(mut self) -> H {
        if let Some(before) = self.changed {
            *self.head.first_line() = before.first_line;
            let fields = self.head.fields();
            // All new ones first: a map takes 32,768 fields, and those that were there fit.
            for (name, _) in &before.fields {
                fields.remove(name);
            }
            for (name, values) in before.fields {
                for value in values {
                    fields.append(&name, value);
                }
            }
        }
        self.head
    }

    fn changing(&mut self) -> (&mut H, &mut Changed<H>) {
        let head = &mut self.head;
        let changed = self.changed.get_or_insert_with(|| {
            let fields = head.fields().iter();
            let fields = fields.map(|(name, value)| field_bytes(name, value.len()));
            let bytes = fields.sum::<usize>() + head.first_line_bytes();
            Changed {
                first_line: head.first_line().clone(),
                fields: Vec::new(),
                bytes,
            }
        });
        (head, changed)
    }

    fn names(&mut self) -> Vec<String> {
        self.head
            .fields()
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect()
    }

    fn get(&mut self, name: &str) -> Option<Vec<u8>> {
        first(self.head.fields(), name)
    }

    fn get_all(&mut self, name: &str) -> Vec<Vec<u8>> {
        let values = self.head.fields().get_all(name);
        values
            .iter()
            .map(|value| value.as_bytes().to_vec())
            .collect()
    }

    /// Sets a field, or adds to it what it does not `replace`.
    fn put(
        &mut self,
        name: &str,
        value: Vec<u8>,
        replace: bool,
    ) -> std::result::Result<(), HeadError> {
        let max = self.facts.max_header_bytes;
        let name = self.field_name(name)?;
        let value = HeaderValue::from_maybe_shared(Bytes::from(value))
            .map_err(|_| HeadError::InvalidField(name.as_str().to_owned()))?;
        let (head, changed) = self.changing();
        let fields = head.fields();
        let gone = if replace { all_bytes(fields, &name) } else { 0 };
        let grown = changed.bytes - gone + field_bytes(&name, value.len());
        if grown > max && grown > changed.bytes {
            return Err(HeadError::TooLarge);
        }
        changed.remember(&name, fields);
        // Refused past 32,768 fields.
        let put = if replace {
            fields.try_insert(name, value).map(drop)
        } else {
            fields.try_append(name, value).map(drop)
        };
        put.map_err(|_| HeadError::TooLarge)?;
        changed.bytes = grown;
        Ok(())
    }

    fn remove(&mut self, name: &str) -> std::result::Result<bool, HeadError> {
        let name = self.field_name(name)?;
        if !self.head.fields().contains_key(&name) {
            return Ok(false);
        }
        let (head, changed) = self.changing();
        let fields = head.fields();
        changed.remember(&name, fields);
        changed.bytes -= all_bytes(fields, &name);
        fields.remove(&name);
        Ok(true)
    }

    fn field_name(&self, name: &str) -> std::result::Result<HeaderName, HeadError> {
        let valid = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| HeadError::InvalidField(name.to_owned()))?;
        let of_handshake = self.facts.is_handshake && valid.as_str().starts_with("sec-websocket-");
        if of_handshake || CONNECTION_FIELDS.contains(&valid) {
            return Err(HeadError::ForbiddenField(valid.as_str().to_owned()));
        }
        Ok(valid)
    }
}

impl<H: Head> Changed<H> {
    /// Keeps what a field was before it is touched for the first time.
    fn remember(&mut self, name: &HeaderName, fields: &HeaderMap) {
        if self.fields.iter().all(|(known, _)| known != name) {
            let values = fields.get_all(name).iter().cloned().collect();
            self.fields.push((name.clone(), values));
        }
    }
}

impl Head for request::Parts {
    type FirstLine = Uri;

    fn first_line(&mut self) -> &mut Uri {
        &mut self.uri
    }

    fn first_line_bytes(&self) -> usize {
        target(&self.uri).len()
    }

    fn fields(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }
}

impl Head for response::Parts {
    type FirstLine = StatusCode;

    fn first_line(&mut self) -> &mut StatusCode {
        &mut self.status
    }

    fn first_line_bytes(&self) -> usize {
        0
    }

    fn fields(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }
}

impl heads::HostRequestHead for State {
    fn method(&mut self, _: Resource<RequestHead>) -> Result<String> {
        Ok(self.request()?.head.method.as_str().to_owned())
    }

    fn scheme(&mut self, _: Resource<RequestHead>) -> Result<String> {
        Ok(self.request()?.facts.scheme.to_owned())
    }

    fn host(&mut self, _: Resource<RequestHead>) -> Result<String> {
        Ok(self.request()?.facts.host.to_string())
    }

    fn target(&mut self, _: Resource<RequestHead>) -> Result<String> {
        Ok(target(&self.request()?.head.uri).to_owned())
    }

    fn set_target(
        &mut self,
        _: Resource<RequestHead>,
        new: String,
    ) -> Result<std::result::Result<(), HeadError>> {
        let loan = self.request()?;
        let Some(path_and_query) = origin_form(&new) else {
            return Ok(Err(HeadError::InvalidTarget(new)));
        };
        let max = loan.facts.max_header_bytes;
        let (head, changed) = loan.changing();
        let grown = changed.bytes - target(&head.uri).len() + new.len();
        if grown > max && grown > changed.bytes {
            return Ok(Err(HeadError::TooLarge));
        }
        let mut parts = head.uri.clone().into_parts();
        parts.path_and_query = Some(path_and_query);
        match Uri::from_parts(parts) {
            Ok(uri) => head.uri = uri,
            Err(_) => return Ok(Err(HeadError::InvalidTarget(new))),
        }
        changed.bytes = grown;
        Ok(Ok(()))
    }

    fn remote_address(&mut self, _: Resource<RequestHead>) -> Result<String> {
        Ok(self.request()?.facts.remote_address())
    }

    fn is_handshake(&mut self, _: Resource<RequestHead>) -> Result<bool> {
        Ok(self.request()?.facts.is_handshake)
    }

    fn names(&mut self, _: Resource<RequestHead>) -> Result<Vec<String>> {
        Ok(self.request()?.names())
    }

    fn get(&mut self, _: Resource<RequestHead>, name: String) -> Result<Option<Vec<u8>>> {
        Ok(self.request()?.get(&name))
    }

    fn get_all(&mut self, _: Resource<RequestHead>, name: String) -> Result<Vec<Vec<u8>>> {
        Ok(self.request()?.get_all(&name))
    }

    fn set(
        &mut self,
        _: Resource<RequestHead>,
        name: String,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), HeadError>> {
        Ok(self.request()?.put(&name, value, true))
    }

    fn add(
        &mut self,
        _: Resource<RequestHead>,
        name: String,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), HeadError>> {
        Ok(self.request()?.put(&name, value, false))
    }

    fn remove(
        &mut self,
        _: Resource<RequestHead>,
        name: String,
    ) -> Result<std::result::Result<bool, HeadError>> {
        Ok(self.request()?.remove(&name))
    }

    fn drop(&mut self, _: Resource<RequestHead>) -> Result<()> {
        Ok(())
    }
}

impl heads::HostSentRequest for State {
    fn method(&mut self, _: Resource<SentRequestHead>) -> Result<String> {
        Ok(self.sent_request()?.method.as_str().to_owned())
    }

    fn scheme(&mut self, _: Resource<SentRequestHead>) -> Result<String> {
        Ok(self.sent_request()?.facts.scheme.to_owned())
    }

    fn host(&mut self, _: Resource<SentRequestHead>) -> Result<String> {
        Ok(self.sent_request()?.facts.host.to_string())
    }

    fn target(&mut self, _: Resource<SentRequestHead>) -> Result<String> {
        Ok(self.sent_request()?.target.to_string())
    }

    fn remote_address(&mut self, _: Resource<SentRequestHead>) -> Result<String> {
        Ok(self.sent_request()?.facts.remote_address())
    }

    fn get(&mut self, _: Resource<SentRequestHead>, name: String) -> Result<Option<Vec<u8>>> {
        Ok(first(&self.sent_request()?.headers, &name))
    }

    fn endpoint(&mut self, _: Resource<SentRequestHead>) -> Result<Option<String>> {
        Ok(self
            .sent_request()?
            .endpoint
            .map(|endpoint| endpoint.to_string()))
    }

    fn drop(&mut self, _: Resource<SentRequestHead>) -> Result<()> {
        Ok(())
    }
}

impl heads::HostResponseHead for State {
    fn status(&mut self, _: Resource<ResponseHead>) -> Result<u16> {
        Ok(self.response()?.head.status.as_u16())
    }

    fn set_status(
        &mut self,
        _: Resource<ResponseHead>,
        status: u16,
    ) -> Result<std::result::Result<(), HeadError>> {
        let loan = self.response()?;
        let now = loan.head.status;
        if status == now.as_u16() {
            return Ok(Ok(()));
        }
        match final_status(status) {
            Some(status) if now != StatusCode::SWITCHING_PROTOCOLS => {
                loan.changing().0.status = status;
                Ok(Ok(()))
            }
            _ => Ok(Err(HeadError::InvalidStatus(status))),
        }
    }

    fn names(&mut self, _: Resource<ResponseHead>) -> Result<Vec<String>> {
        Ok(self.response()?.names())
    }

    fn get(&mut self, _: Resource<ResponseHead>, name: String) -> Result<Option<Vec<u8>>> {
        Ok(self.response()?.get(&name))
    }

    fn get_all(&mut self, _: Resource<ResponseHead>, name: String) -> Result<Vec<Vec<u8>>> {
        Ok(self.response()?.get_all(&name))
    }

    fn set(
        &mut self,
        _: Resource<ResponseHead>,
        name: String,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), HeadError>> {
        Ok(self.response()?.put(&name, value, true))
    }

    fn add(
        &mut self,
        _: Resource<ResponseHead>,
        name: String,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), HeadError>> {
        Ok(self.response()?.put(&name, value, false))
    }

    fn remove(
        &mut self,
        _: Resource<ResponseHead>,
        name: String,
    ) -> Result<std::result::Result<bool, HeadError>> {
        Ok(self.response()?.remove(&name))
    }

    fn drop(&mut self, _: Resource<ResponseHead>) -> Result<()> {
        Ok(())
    }
}

impl heads::HostHandshake for State {
    fn scheme(&mut self, _: Resource<HandshakeFacts>) -> Result<String> {
        Ok(self.handshake()?.facts.scheme.to_owned())
    }

    fn host(&mut self, _: Resource<HandshakeFacts>) -> Result<String> {
        Ok(self.handshake()?.facts.host.to_string())
    }

    fn target(&mut self, _: Resource<HandshakeFacts>) -> Result<String> {
        Ok(self.handshake()?.target.to_string())
    }

    fn remote_address(&mut self, _: Resource<HandshakeFacts>) -> Result<String> {
        Ok(self.handshake()?.facts.remote_address())
    }

    fn request_field(
        &mut self,
        _: Resource<HandshakeFacts>,
        name: String,
    ) -> Result<Option<Vec<u8>>> {
        Ok(first(&self.handshake()?.request, &name))
    }

    fn response_field(
        &mut self,
        _: Resource<HandshakeFacts>,
        name: String,
    ) -> Result<Option<Vec<u8>>> {
        Ok(first(&self.handshake()?.response, &name))
    }

    fn subprotocol(&mut self, _: Resource<HandshakeFacts>) -> Result<Option<String>> {
        let agreed = self
            .handshake()?
            .response
            .get(header::SEC_WEBSOCKET_PROTOCOL);
        Ok(agreed
            .and_then(|agreed| agreed.to_str().ok())
            .map(str::to_owned))
    }

    fn endpoint(&mut self, _: Resource<HandshakeFacts>) -> Result<String> {
        Ok(self.handshake()?.endpoint.to_string())
    }

    fn reopened(&mut self, _: Resource<HandshakeFacts>) -> Result<bool> {
        match self.lent {
            Lent::Handshake { reopened, .. } => Ok(reopened),
            _ => Err(stale()),
        }
    }

    fn drop(&mut self, _: Resource<HandshakeFacts>) -> Result<()> {
        Ok(())
    }
}

impl heads::Host for State {
    fn respond(&mut self, answer: Answer) -> Result<()> {
        self.call
            .must_be(&[Phase::Request, Phase::Response], "http.respond")?;
        let Answer {
            status,
            fields,
            body,
        } = answer;
        let of_fields = fields.iter().map(|(name, value)| name.len() + value.len());
        self.spend(of_fields.sum::<usize>() + body.len(), 0)?;
        let Some(status) = final_status(status) else {
            return rule(format!(
                "answered with status {status}; expected 200 to 599"
            ));
        };
        let mut response = http::Response::new(Bytes::from(body));
        *response.status_mut() = status;
        for (name, value) in fields {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                return rule(format!("answered with field `{}`", name.escape_debug()));
            };
            // A plugin that hands on another response's fields may well have these two.
            if name == header::CONTENT_LENGTH || name == header::DATE {
                continue;
            }
            let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) else {
                return rule(format!(
                    "answered with a value of `{name}` that cannot be sent"
                ));
            };
            if CONNECTION_FIELDS.contains(&name) {
                return rule(format!("answered with `{name}`, a field of the connection"));
            }
            if response.headers_mut().try_append(name, value).is_err() {
                return rule("answered with too many fields".to_owned());
            }
        }
        self.produced.answer = Some(response);
        Ok(())
    }
}

impl outgoing::Host for State {
    fn replace(&mut self, payload: Vec<u8>) -> Result<()> {
        self.call
            .must_be(&[Phase::Message, Phase::Fragment], "outgoing.replace")?;
        self.spend(payload.len(), 0)?;
        check_payload(self.call.kind, &payload)?;
        self.produced.replacement = Some(payload);
        Ok(())
    }

    fn send(&mut self, to: outgoing::Side, kind: outgoing::Kind, payload: Vec<u8>) -> Result<()> {
        self.call.must_be(
            &[Phase::Open, Phase::Message, Phase::Fragment],
            "outgoing.send",
        )?;
        self.spend(payload.len(), 1)?;
        let kind = kind.into();
        check_payload(kind, &payload)?;
        self.produced.sent.push(Sent {
            to: to.into(),
            kind,
            payload,
        });
        Ok(())
    }

    fn close(&mut self, code: u16, reason: String) -> Result<()> {
        self.call
            .must_be(&[Phase::Message, Phase::Fragment], "outgoing.close")?;
        self.spend(reason.len(), 0)?;
        if reason.len() > MAX_REASON_BYTES {
            return rule(format!("closed with a reason of {} bytes", reason.len()));
        }
        match CloseCode::new(code) {
            Some(code) => self.produced.close = Some((code, reason)),
            None => return rule(format!("closed with code {code}, which must not be sent")),
        }
        Ok(())
    }
}

impl logging::Host for State {
    fn log(&mut self, level: logging::Level, context: String, message: String) -> Result<()> {
        let level = match level {
            logging::Level::Trace => Level::TRACE,
            logging::Level::Debug => Level::DEBUG,
            logging::Level::Info => Level::INFO,
            logging::Level::Warn => Level::WARN,
            logging::Level::Error | logging::Level::Critical => Level::ERROR,
        };
        self.log.write(&self.plugin, level, &context, &message);
        Ok(())
    }
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        self.grow(desired.saturating_sub(current))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> Result<()> {
        self.grow_failed();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        self.grow(
            desired
                .saturating_sub(current)
                .saturating_mul(TABLE_ELEMENT_BYTES),
        )
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> Result<()> {
        self.grow_failed();
        Ok(())
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        8
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl LogGate {
    pub(super) fn new(lines_per_second: u32) -> Self {
        Self {
            lines_per_second,
            second: AtomicU64::new(u64::MAX),
            lines: AtomicU32::new(0),
        }
    }

    /// The share of what a plugin writes.
    pub(super) fn of_plugin() -> Arc<Self> {
        Arc::new(Self::new(MAX_LOG_LINES))
    }

    /// Writes a line, if the host's level and the plugin's share of this second let it through.
    pub(super) fn write(&self, plugin: &str, level: Level, context: &str, message: &str) {
        // Macros want a level each, and ask whether it is enabled before they look at the fields.
        macro_rules! write {
            ($write:ident) => {
                $write!(plugin, context = %line(context, MAX_LOG_CONTEXT_BYTES), "{}", line(message, MAX_LOG_BYTES))
            };
        }
        if level > tracing::level_filters::LevelFilter::current() {
            return;
        }
        match self.admit() {
            Some(0) => {}
            Some(dropped) => warn!(plugin, dropped, "plugin writes too many log lines"),
            None => return,
        }
        match level {
            Level::TRACE => write!(trace),
            Level::DEBUG => write!(debug),
            Level::INFO => write!(info),
            Level::WARN => write!(warn),
            Level::ERROR => write!(error),
        }
    }

    /// Counts a line. Returns how many were dropped since the last that was not, or nothing if this
    /// one is to be dropped as well. A gate is used by one thread at a time.
    pub(super) fn admit(&self) -> Option<u32> {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);

        let second = START.elapsed().as_secs();
        let mut lines = self.lines.load(Ordering::Relaxed);
        let mut dropped = 0;
        if self.second.swap(second, Ordering::Relaxed) != second {
            dropped = lines.saturating_sub(self.lines_per_second);
            lines = 0;
        }
        self.lines.store(lines.saturating_add(1), Ordering::Relaxed);
        (lines < self.lines_per_second).then_some(dropped)
    }
}

impl Facts {
    fn remote_address(&self) -> String {
        self.remote.to_canonical().to_string()
    }
}

impl From<outgoing::Side> for Side {
    fn from(side: outgoing::Side) -> Self {
        match side {
            outgoing::Side::Client => Self::Client,
            outgoing::Side::Service => Self::Service,
        }
    }
}

impl From<Side> for outgoing::Side {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::Client,
            Side::Service => Self::Service,
        }
    }
}

impl From<outgoing::Kind> for MessageKind {
    fn from(kind: outgoing::Kind) -> Self {
        match kind {
            outgoing::Kind::Text => Self::Text,
            outgoing::Kind::Binary => Self::Binary,
            outgoing::Kind::Ping => Self::Ping,
            outgoing::Kind::Pong => Self::Pong,
        }
    }
}

impl From<MessageKind> for outgoing::Kind {
    fn from(kind: MessageKind) -> Self {
        match kind {
            MessageKind::Text => Self::Text,
            MessageKind::Binary => Self::Binary,
            MessageKind::Ping => Self::Ping,
            MessageKind::Pong => Self::Pong,
        }
    }
}

/// A failure of the plugin: it did what the contract forbids.
pub(super) fn rule<T>(what: String) -> Result<T> {
    Err(Cause::Rule(what).into())
}

fn stale() -> wasmtime::Error {
    Cause::Rule("used a head beyond the call it came with".to_owned()).into()
}

fn check_payload(kind: MessageKind, payload: &[u8]) -> Result<()> {
    match kind {
        MessageKind::Text if std::str::from_utf8(payload).is_err() => {
            rule("produced text that is not UTF-8".to_owned())
        }
        MessageKind::Ping | MessageKind::Pong if payload.len() > MAX_CONTROL_BYTES => rule(
            format!("produced a ping or pong of {} bytes", payload.len()),
        ),
        _ => Ok(()),
    }
}

fn final_status(status: u16) -> Option<StatusCode> {
    StatusCode::from_u16(status)
        .ok()
        .filter(|_| (200..600).contains(&status))
}

/// Path and query as they go into a request line.
fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// Parses a target in origin form. As lenient as the parser of requests: what a client sent can be set
/// again, though RFC 9112 §3.2.1 wants some of it encoded.
fn origin_form(target: &str) -> Option<PathAndQuery> {
    let sendable = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !target.starts_with('/') || !target.bytes().all(sendable) {
        return None;
    }
    target.parse().ok()
}

fn first(fields: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    fields.get(name).map(|value| value.as_bytes().to_vec())
}

/// Size of a field line: name, colon, space, value, CR, LF.
fn field_bytes(name: &HeaderName, value_len: usize) -> usize {
    name.as_str().len() + value_len + 4
}

fn all_bytes(fields: &HeaderMap, name: &HeaderName) -> usize {
    fields
        .get_all(name)
        .iter()
        .map(|value| field_bytes(name, value.len()))
        .sum()
}

/// Cuts text to `max` bytes and escapes what would break or repaint a log line.
fn line(text: &str, max: usize) -> Cow<'_, str> {
    let text = &text[..text.floor_char_boundary(max)];
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}
