//! What is kept of an exchange or session until its end: its record, and what texts that are made
//! later, above all lines of access logs, want of heads that are gone by then.
//!
//! Nothing is kept where nothing is made later.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::head;
use super::variables::{self, Groups, Variables};
use super::worker::InForce;
use crate::config::{Keep, Map, Part, Template, Variable};
use crate::generation::Later;
use crate::telemetry::{Clock, Kind, Record};

/// Notes on one exchange or session.
pub(crate) struct Notes {
    record: Record,
    place: Place,
    /// In the order of [`Keep`].
    request: Kept,
    upstream: Kept,
    sent: Kept,
    tries: Vec<Try>,
    request_head_bytes: u64,
    response_head_bytes: u64,
}

/// Where a request has come to: a route, or a site that has none for it.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) generation: Rc<InForce>,
    pub(crate) site: usize,
    pub(crate) route: Option<usize>,
}

/// An endpoint that was tried.
struct Try {
    address: SocketAddr,
    began: Instant,
    connected: Option<Duration>,
    answered: Option<Duration>,
    ended: Option<Duration>,
    status: Option<StatusCode>,
}

/// Texts, some of which may be missing, in two allocations.
#[derive(Default)]
struct Kept {
    bytes: Box<[u8]>,
    /// Where each ends in `bytes`; it begins where the last one that is there ends.
    ends: Box<[Option<u32>]>,
}

/// What is asked about when a text is made.
pub(crate) struct Moment<'a> {
    pub(crate) clock: &'a RefCell<Clock>,
    /// Fields of the response, as long as it has not gone out.
    pub(crate) headers: Option<&'a HeaderMap>,
}

impl Place {
    /// Returns what is made later of a request that came here.
    pub(crate) fn later(&self) -> &Later {
        let site = &self.generation.sites[self.site];
        match self.route {
            Some(route) => &site.routes[route].later,
            None => &site.later,
        }
    }
}

impl Notes {
    /// Begins with a request, if anything is made of it later.
    pub(crate) fn begin(
        place: Place,
        variables: &Variables<'_>,
        head: &Parts,
    ) -> Option<Box<Self>> {
        let keep = &place.later().keep;
        if !keep.is_needed {
            return None;
        }
        let request = Kept::collect(&keep.request, |variable, out| {
            variables.write(variable, head, None, out)
        });
        let mut notes = Self::unread(place, variables.remote);
        notes.request = request;
        notes.request_head_bytes = head::size(head) as u64;
        if !variables.route.is_empty() {
            notes.route = Some(variables.route.into());
        }
        Some(Box::new(notes))
    }

    /// Begins with a request whose head could not be read.
    pub(crate) fn unread(place: Place, remote: SocketAddr) -> Self {
        let mut record = Record::new(remote);
        record.status = StatusCode::from_u16(499).ok();
        Self {
            record,
            place,
            request: Kept::default(),
            upstream: Kept::default(),
            sent: Kept::default(),
            tries: Vec::new(),
            request_head_bytes: 0,
            response_head_bytes: 0,
        }
    }

    /// Returns what is made of this, and whose maps it may use.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Notes that an endpoint is tried, and that the one before has failed.
    pub(crate) fn tries(&mut self, address: SocketAddr) {
        self.ends_try();
        self.record.endpoint = Some(address);
        self.record.attempts += 1;
        self.tries.push(Try {
            address,
            began: Instant::now(),
            connected: None,
            answered: None,
            ended: None,
            status: None,
        });
    }

    /// Notes what became of the endpoint tried last. `connected`: when the connection was there.
    pub(crate) fn tried(&mut self, connected: Option<Instant>, status: Option<StatusCode>) {
        if let Some(last) = self.tries.last_mut() {
            let began = last.began;
            last.connected = connected.map(|at| at.saturating_duration_since(began));
            last.answered = status.map(|_| began.elapsed());
            last.status = status;
        }
    }

    /// Notes with which status of its own the proxy stands in for an endpoint that gave none.
    pub(crate) fn try_failed(&mut self, status: StatusCode) {
        if let Some(last) = self.tries.last_mut() {
            last.status.get_or_insert(status);
        }
        self.ends_try();
    }

    fn ends_try(&mut self) {
        if let Some(last) = self.tries.last_mut() {
            last.ended.get_or_insert(last.began.elapsed());
        }
    }

    /// Keeps fields of the service's response.
    pub(crate) fn answered(&mut self, headers: &HeaderMap) {
        let names = &self.place.later().keep.upstream;
        if !names.is_empty() {
            self.upstream = Kept::collect(names, |name, out| variables::joined(out, headers, name));
        }
    }

    /// Keeps fields of the response that goes out. `length`: of its body, if it is known.
    pub(crate) fn sends(&mut self, status: StatusCode, headers: &HeaderMap, length: Option<u64>) {
        // These have no body, and say nothing of its length (RFC 9110 §8.6).
        let length = length.filter(|_| !matches!(status.as_u16(), 100..=199 | 204 | 304));
        // The status line, a `Date` and a length as they are added on the way; a colon, a blank and
        // the line's end for each field.
        let added = 17 + 37 + length.map_or(0, |length| 18 + digits(length));
        let fields = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4);
        let reason = status.canonical_reason().map_or(0, str::len) as u64;
        self.response_head_bytes = added + reason + fields.sum::<usize>() as u64;
        let names = &self.place.later().keep.sent;
        if !names.is_empty() {
            self.sent = Kept::collect(names, |name, out| {
                variables::joined(out, headers, name).or_else(|| {
                    let length = length.filter(|_| *name == http::header::CONTENT_LENGTH)?;
                    write!(out, "{length}").ok()
                })
            });
        }
    }

    /// Renders a template; what is missing is empty.
    pub(crate) fn render(
        &self,
        template: &Template,
        moment: &Moment<'_>,
        groups: Groups<'_>,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        self.append(template, moment, groups, &mut out);
        out
    }

    fn append(
        &self,
        template: &Template,
        moment: &Moment<'_>,
        groups: Groups<'_>,
        out: &mut Vec<u8>,
    ) {
        for part in template.parts() {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => {
                    let _missing = self.write(variable, moment, groups, out).is_none();
                }
            }
        }
    }

    /// Appends the value of a variable; None: it has none.
    pub(crate) fn write(
        &self,
        variable: &Variable,
        moment: &Moment<'_>,
        groups: Groups<'_>,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let record = &self.record;
        match variable {
            Variable::Capture(number) if groups.is_some() => {
                text(out, groups?.get(*number)?.as_str())
            }
            Variable::Named(name) if groups.is_some_and(|groups| groups.name(name).is_some()) => {
                text(out, groups?.name(name)?.as_str())
            }
            Variable::RemoteAddr => display(out, record.remote.ip()),
            Variable::RemotePort => display(out, record.remote.port()),
            Variable::RequestLength => {
                let body = match record.kind {
                    Kind::Exchange => record.bytes_from_client,
                    Kind::Tunnel | Kind::WebSocket => 0,
                };
                display(out, self.request_head_bytes + body)
            }
            Variable::Status => text(
                out,
                record.status.as_ref().map_or("000", StatusCode::as_str),
            ),
            Variable::RequestTime => seconds(out, record.started.elapsed()),
            Variable::UpstreamAddr => self.each_try(out, |try_, out| display(out, try_.address)),
            Variable::UpstreamStatus => {
                self.each_try(out, |try_, out| text(out, try_.status.as_ref()?.as_str()))
            }
            Variable::UpstreamConnectTime => {
                self.each_try(out, |try_, out| seconds(out, try_.connected?))
            }
            Variable::UpstreamHeaderTime => {
                self.each_try(out, |try_, out| seconds(out, try_.answered?))
            }
            Variable::UpstreamResponseTime => self.each_try(out, |try_, out| {
                seconds(out, try_.ended.unwrap_or_else(|| try_.began.elapsed()))
            }),
            Variable::UpstreamHttp(name) => {
                let names = &self.keep().upstream;
                bytes(out, self.upstream.find(names, name)?)
            }
            Variable::SentHttp(name) => match moment.headers {
                Some(headers) => variables::joined(out, headers, name),
                None => bytes(out, self.sent.find(&self.keep().sent, name)?),
            },
            Variable::Attempts => display(out, record.attempts),
            Variable::PluginTime => {
                let time = record.plugin_time;
                display(
                    out,
                    format_args!("{}.{:06}", time.as_secs(), time.subsec_micros()),
                )
            }
            Variable::Failure => text(out, record.failure.as_deref()?),
            Variable::BodyBytesSent => display(out, record.bytes_to_client),
            Variable::BytesSent => display(out, self.response_head_bytes + record.bytes_to_client),
            Variable::BytesFromClient => display(out, record.bytes_from_client),
            Variable::Kind => text(out, record.kind.text()),
            Variable::MessagesFromClient => display(out, record.messages_from_client),
            Variable::MessagesFromService => display(out, record.messages_from_service),
            Variable::MessagesDropped => display(out, record.messages_dropped),
            Variable::MessagesReplaced => display(out, record.messages_replaced),
            Variable::MessagesSent => display(out, record.messages_sent),
            Variable::CloseCode => display(out, record.close_code?),
            Variable::ClosedBy => text(out, record.closed_by?.text()),
            Variable::Map(index) => match self.request.find(&self.keep().request, variable) {
                Some(value) => bytes(out, value),
                None => self.look_up(self.maps().get(*index)?, moment, out),
            },
            _ if variable.is_known_always() => variables::always(variable, moment.clock, out),
            _ => bytes(out, self.request.find(&self.keep().request, variable)?),
        }
    }

    fn look_up(&self, map: &Map, moment: &Moment<'_>, out: &mut Vec<u8>) -> Option<()> {
        let source = self.render(&map.source, moment, None);
        let source = String::from_utf8_lossy(&source);
        let found = map.find(&source);
        self.append(found.value, moment, found.groups.as_ref(), out);
        Some(())
    }

    /// Appends what each try has, in nginx's way.
    fn each_try(
        &self,
        out: &mut Vec<u8>,
        write: impl Fn(&Try, &mut Vec<u8>) -> Option<()>,
    ) -> Option<()> {
        for (n, try_) in self.tries.iter().enumerate() {
            if n > 0 {
                out.extend_from_slice(b", ");
            }
            write(try_, out).or_else(|| text(out, "-"));
        }
        (!self.tries.is_empty()).then_some(())
    }

    fn keep(&self) -> &Keep {
        &self.place.later().keep
    }

    fn maps(&self) -> &[Map] {
        &self.place.generation.maps
    }
}

impl Kept {
    fn collect<T>(items: &[T], write: impl Fn(&T, &mut Vec<u8>) -> Option<()>) -> Self {
        let mut bytes = Vec::with_capacity(if items.is_empty() { 0 } else { 256 });
        let ends = items
            .iter()
            .map(|item| {
                let start = bytes.len();
                if write(item, &mut bytes).is_none() {
                    bytes.truncate(start);
                    return None;
                }
                u32::try_from(bytes.len()).ok()
            })
            .collect();
        Self {
            bytes: bytes.into_boxed_slice(),
            ends,
        }
    }

    /// Returns the text of one of `items`, in the order they were collected.
    fn find<T: PartialEq>(&self, items: &[T], item: &T) -> Option<&[u8]> {
        let n = items.iter().position(|other| other == item)?;
        let end = (*self.ends.get(n)?)?;
        let start = self.ends[..n]
            .iter()
            .rev()
            .find_map(|end| *end)
            .unwrap_or(0);
        self.bytes.get(start as usize..end as usize)
    }
}

impl Deref for Notes {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

impl DerefMut for Notes {
    fn deref_mut(&mut self) -> &mut Record {
        &mut self.record
    }
}

fn digits(number: u64) -> u64 {
    u64::from(number.checked_ilog10().unwrap_or(0)) + 1
}

fn text(out: &mut Vec<u8>, text: &str) -> Option<()> {
    bytes(out, text.as_bytes())
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    out.extend_from_slice(bytes);
    Some(())
}

fn display(out: &mut Vec<u8>, value: impl Display) -> Option<()> {
    write!(out, "{value}").ok()
}

fn seconds(out: &mut Vec<u8>, time: Duration) -> Option<()> {
    display(
        out,
        format_args!("{}.{:03}", time.as_secs(), time.subsec_millis()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_and_what_is_missing_is_not() {
        let items = ["a", "missing", "", "bc", "gone"];
        let kept = Kept::collect(&items, |item, out| {
            out.extend_from_slice(item.as_bytes());
            (*item != "missing" && *item != "gone").then_some(())
        });
        let find = |item| kept.find(&items, &item);
        assert_eq!(find("a"), Some(&b"a"[..]));
        assert_eq!(find("missing"), None);
        assert_eq!(find(""), Some(&b""[..]));
        assert_eq!(find("bc"), Some(&b"bc"[..]));
        assert_eq!(find("gone"), None);
        assert_eq!(find("other"), None);
        assert_eq!(Kept::default().find(&items, &"a"), None);
    }
}
