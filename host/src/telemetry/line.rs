//! How a record looks in the formats that every configuration has: facts as `key=value`, and JSON.
//!
//! Lines of the operator's own formats are made by the proxy, which knows what variables mean. What
//! both need, the escaping of strangers' texts, is here.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use super::clock::Texts;
use super::record::{Kind, Record};

/// What a line says of the head of a request. None: there was no such thing.
#[derive(Debug, Default)]
pub(crate) struct HeadTexts<'a> {
    /// `GET /chat HTTP/1.1`
    pub(crate) request: Option<&'a [u8]>,
    pub(crate) host: Option<&'a [u8]>,
    pub(crate) remote_user: Option<&'a [u8]>,
    pub(crate) referer: Option<&'a [u8]>,
    pub(crate) user_agent: Option<&'a [u8]>,
}

/// Adds the line of a record that ended `now`, which is also `moment`, and took `taken`, as JSON.
pub(crate) fn push_json(
    out: &mut Vec<u8>,
    record: &Record,
    head: &HeadTexts<'_>,
    (now, moment): (Duration, &Texts),
    taken: Duration,
) {
    out.push(b'{');
    let mut line = Line { out, is_json: true };
    let Texts {
        iso8601, offset, ..
    } = moment;
    line.display(
        "time",
        format_args!("{iso8601}.{:06}{offset}", now.subsec_micros()),
    );
    line.display("remote_addr", record.remote.ip());
    line.text("remote_user", head.remote_user);
    // A target has no spaces.
    let mut parts = head
        .request
        .unwrap_or_default()
        .splitn(3, |&byte| byte == b' ');
    line.text("method", parts.next().filter(|method| !method.is_empty()));
    line.text("target", parts.next());
    line.text("version", parts.next());
    line.number(
        "status",
        record.status.map_or(0, |status| status.as_u16().into()),
    );
    line.number("bytes_to_client", record.bytes_to_client);
    line.text("referer", head.referer);
    line.text("user_agent", head.user_agent);
    line.facts(record, head.host, taken);
    out.extend_from_slice(b"}\n");
}

/// Adds facts as `key=value`, each after a blank.
pub(crate) fn push_facts(out: &mut Vec<u8>, record: &Record, host: Option<&[u8]>, taken: Duration) {
    let mut line = Line {
        out,
        is_json: false,
    };
    line.facts(record, host, taken);
}

/// A line to which facts are added. What is `None` is left out.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    is_json: bool,
}

impl Line<'_> {
    /// Adds what both formats say in the same words.
    fn facts(&mut self, record: &Record, host: Option<&[u8]>, taken: Duration) {
        self.number("remote_port", record.remote.port().into());
        self.word("kind", record.kind.text());
        self.text("host", host);
        self.text("route", record.route.as_deref().map(str::as_bytes));
        if let Some(endpoint) = record.endpoint {
            self.display("endpoint", endpoint);
            self.number("attempts", record.attempts.into());
        }
        self.seconds("duration", taken);
        self.number("bytes_from_client", record.bytes_from_client);
        if record.kind == Kind::WebSocket {
            self.number("messages_from_client", record.messages_from_client);
            self.number("messages_from_service", record.messages_from_service);
            self.number("messages_dropped", record.messages_dropped);
            self.number("messages_replaced", record.messages_replaced);
            self.number("messages_sent", record.messages_sent);
        }
        if let Some(code) = record.close_code {
            self.number("close_code", code.into());
        }
        if let Some(by) = record.closed_by {
            self.word("closed_by", by.text());
        }
        if !record.plugin_time.is_zero() {
            self.seconds("plugin_time", record.plugin_time);
        }
        self.text("failure", record.failure.as_deref().map(str::as_bytes));
    }

    fn key(&mut self, key: &str) {
        if self.is_json {
            if self.out.last() != Some(&b'{') {
                self.out.push(b',');
            }
            self.out.push(b'"');
            self.out.extend_from_slice(key.as_bytes());
            self.out.extend_from_slice(b"\":");
        } else {
            self.out.push(b' ');
            self.out.extend_from_slice(key.as_bytes());
            self.out.push(b'=');
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        push_display(self.out, value);
    }

    fn seconds(&mut self, key: &str, value: Duration) {
        self.key(key);
        push_display(
            self.out,
            format_args!("{}.{:06}", value.as_secs(), value.subsec_micros()),
        );
    }

    /// Adds what cannot hold a quote, a backslash or a space.
    fn display(&mut self, key: &str, value: impl Display) {
        self.key(key);
        if self.is_json {
            push_display(self.out, format_args!("\"{value}\""));
        } else {
            push_display(self.out, value);
        }
    }

    fn word(&mut self, key: &str, value: &'static str) {
        self.display(key, value);
    }

    fn text(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        self.key(key);
        self.out.push(b'"');
        if self.is_json {
            push_json_escaped(self.out, value);
        } else {
            push_escaped(self.out, value);
        }
        self.out.push(b'"');
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Escapes as nginx does: `\xHH` for quotes, backslashes and what is not printable ASCII.
pub(crate) fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' | ..b' ' | 0x7f.. => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'x', high, low]);
            }
            _ => out.push(byte),
        }
    }
}

/// Escapes for a JSON string (RFC 8259 §7), as nginx does; what is not UTF-8 becomes U+FFFD.
pub(crate) fn push_json_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in String::from_utf8_lossy(bytes).as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            ..b' ' => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            _ => out.push(byte),
        }
    }
}

fn push_display(out: &mut Vec<u8>, value: impl Display) {
    write!(out, "{value}").expect("writing to a vector succeeds");
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::super::clock::Clock;
    use super::super::record::tests::{remote, tunnel};
    use super::*;

    fn json(record: &Record, head: &HeadTexts<'_>) -> serde_json::Value {
        let mut clock = Clock::new(TimeZone::posix("IST-5:30").unwrap());
        let now = Duration::new(1_700_000_000, 42_000);
        let mut out = Vec::new();
        let taken = Duration::from_micros(123);
        push_json(&mut out, record, head, (now, clock.at(now)), taken);
        let line = String::from_utf8(out).unwrap();
        assert!(line.ends_with("}\n"));
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn facts_follow_each_other_as_key_and_value() {
        let mut out = Vec::new();
        let taken = Duration::from_micros(123);
        push_facts(&mut out, &tunnel(), Some(b"example.com"), taken);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#" remote_port=50123 kind=websocket host="example.com" route="= /chat" "#,
                "endpoint=[::1]:9001 attempts=1 duration=0.000123 bytes_from_client=10 ",
                "messages_from_client=3 messages_from_service=0 messages_dropped=0 ",
                "messages_replaced=1 messages_sent=0 ",
                "close_code=1000 closed_by=client plugin_time=0.000007",
            )
        );
    }

    #[test]
    fn a_json_line_is_one_object() {
        let head = HeadTexts {
            request: Some(b"GET /chat?room=a HTTP/1.1"),
            host: Some(b"example.com"),
            remote_user: Some(b"ann"),
            referer: Some(b"http://example.com/\"x\\y"),
            user_agent: Some(b"caf\xe9\t1"),
        };
        assert_eq!(
            json(&tunnel(), &head),
            serde_json::json!({
                "time": "2023-11-15T03:43:20.000042+05:30",
                "remote_addr": "192.0.2.7",
                "remote_port": 50123,
                "remote_user": "ann",
                "method": "GET",
                "target": "/chat?room=a",
                "version": "HTTP/1.1",
                "status": 101,
                "bytes_to_client": 2345,
                "referer": "http://example.com/\"x\\y",
                "user_agent": "caf\u{fffd}\t1",
                "kind": "websocket",
                "host": "example.com",
                "route": "= /chat",
                "endpoint": "[::1]:9001",
                "attempts": 1,
                "duration": 0.000123,
                "bytes_from_client": 10,
                "messages_from_client": 3,
                "messages_from_service": 0,
                "messages_dropped": 0,
                "messages_replaced": 1,
                "messages_sent": 0,
                "close_code": 1000,
                "closed_by": "client",
                "plugin_time": 0.000007,
            })
        );
    }

    #[test]
    fn what_is_missing_is_left_out_of_json() {
        let object = json(&Record::new(remote()), &HeadTexts::default());
        assert_eq!(object.get("method"), None);
        assert_eq!(object.get("referer"), None);
        assert_eq!(object["status"], 0);
    }

    #[test]
    fn what_would_be_misread_is_escaped() {
        let escaped = |push: fn(&mut Vec<u8>, &[u8]), text: &[u8]| {
            let mut out = Vec::new();
            push(&mut out, text);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            escaped(push_escaped, b"a \"b\\c\xe9\t\x7f"),
            r"a \x22b\x5Cc\xE9\x09\x7F"
        );
        assert_eq!(
            escaped(push_json_escaped, b"\"\\\n\r\t\x08\x0c\x01"),
            r#"\"\\\n\r\t\b\f\u0001"#
        );
    }
}
