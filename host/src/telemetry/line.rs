//! How a record looks as a line of the access log.
//!
//! Text lines are nginx's `combined`, byte for byte, followed by facts as `key=value`; JSON lines are
//! one object each. Writing lines to their destination is left to `access_log.rs`.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use http::StatusCode;
use jiff::tz::TimeZone;

use super::Format;
use super::record::{HeadText, Kind, Record};

/// Adds the line of `record`, which ended `since_epoch` after 1970 and took `taken`.
pub(super) fn push(
    out: &mut Vec<u8>,
    record: &Record,
    clock: &mut Clock,
    since_epoch: Duration,
    taken: Duration,
) {
    match clock.format {
        Format::Text => push_text(out, record, clock, since_epoch, taken),
        Format::Json => push_json(out, record, clock, since_epoch, taken),
    }
}

/// The current second in the local time zone, as text.
#[derive(Debug)]
pub(super) struct Clock {
    zone: TimeZone,
    format: Format,
    second: Option<u64>,
    /// Up to the second, and what follows its fraction.
    text: (String, String),
}

impl Clock {
    pub(super) fn new(zone: TimeZone, format: Format) -> Self {
        Self {
            zone,
            format,
            second: None,
            text: Default::default(),
        }
    }

    /// Returns the text before and after the fraction of a second.
    fn at(&mut self, since_epoch: Duration) -> (&str, &str) {
        let second = since_epoch.as_secs();
        if self.second != Some(second) {
            self.second = Some(second);
            let time = jiff::Timestamp::from_second(second.try_into().unwrap_or(i64::MAX))
                .unwrap_or(jiff::Timestamp::MAX)
                .to_zoned(self.zone.clone());
            let (before, after) = match self.format {
                Format::Text => ("%d/%b/%Y:%H:%M:%S %z", ""),
                Format::Json => ("%Y-%m-%dT%H:%M:%S", "%:z"),
            };
            self.text = (
                time.strftime(before).to_string(),
                time.strftime(after).to_string(),
            );
        }
        (&self.text.0, &self.text.1)
    }
}

fn push_text(
    out: &mut Vec<u8>,
    record: &Record,
    clock: &mut Clock,
    now: Duration,
    taken: Duration,
) {
    let text = |out: &mut Vec<u8>, text| match record.head.get(text) {
        Some(bytes) => push_escaped(out, bytes),
        None => out.push(b'-'),
    };
    push_display(out, record.remote);
    out.extend_from_slice(b" - ");
    text(out, HeadText::RemoteUser);
    out.extend_from_slice(b" [");
    out.extend_from_slice(clock.at(now).0.as_bytes());
    out.extend_from_slice(b"] \"");
    text(out, HeadText::RequestLine);
    out.extend_from_slice(b"\" ");
    out.extend_from_slice(
        record
            .status
            .as_ref()
            .map_or("000", StatusCode::as_str)
            .as_bytes(),
    );
    out.push(b' ');
    push_number(out, record.bytes_to_client);
    out.extend_from_slice(b" \"");
    text(out, HeadText::Referer);
    out.extend_from_slice(b"\" \"");
    text(out, HeadText::UserAgent);
    out.push(b'"');
    push_facts(
        &mut Line {
            out,
            format: Format::Text,
        },
        record,
        taken,
    );
    out.push(b'\n');
}

fn push_json(
    out: &mut Vec<u8>,
    record: &Record,
    clock: &mut Clock,
    now: Duration,
    taken: Duration,
) {
    out.push(b'{');
    let mut line = Line {
        out,
        format: Format::Json,
    };
    let (before, after) = clock.at(now);
    line.display(
        "time",
        format_args!("{before}.{:06}{after}", now.subsec_micros()),
    );
    line.display("remote_addr", record.remote);
    line.text("remote_user", record.head.get(HeadText::RemoteUser));
    // A target has no spaces.
    let request = record.head.get(HeadText::RequestLine).unwrap_or_default();
    let mut parts = request.splitn(3, |&byte| byte == b' ');
    line.text("method", parts.next().filter(|method| !method.is_empty()));
    line.text("target", parts.next());
    line.text("version", parts.next());
    line.number(
        "status",
        record.status.map_or(0, |status| status.as_u16().into()),
    );
    line.number("bytes_to_client", record.bytes_to_client);
    line.text("referer", record.head.get(HeadText::Referer));
    line.text("user_agent", record.head.get(HeadText::UserAgent));
    push_facts(&mut line, record, taken);
    out.extend_from_slice(b"}\n");
}

/// Adds what both formats say in the same words.
fn push_facts(line: &mut Line<'_>, record: &Record, taken: Duration) {
    line.number("remote_port", record.remote_port.into());
    line.word("kind", record.kind.text());
    line.text("host", record.head.get(HeadText::Host));
    line.text("route", record.route.as_deref().map(str::as_bytes));
    if let Some(endpoint) = record.endpoint {
        line.display("endpoint", endpoint);
        line.number("attempts", record.attempts.into());
    }
    line.seconds("duration", taken);
    line.number("bytes_from_client", record.bytes_from_client);
    if record.kind == Kind::WebSocket {
        line.number("messages_from_client", record.messages_from_client);
        line.number("messages_from_service", record.messages_from_service);
        line.number("messages_dropped", record.messages_dropped);
        line.number("messages_replaced", record.messages_replaced);
        line.number("messages_sent", record.messages_sent);
    }
    if let Some(code) = record.close_code {
        line.number("close_code", code.into());
    }
    if let Some(by) = record.closed_by {
        line.word("closed_by", by.text());
    }
    if !record.plugin_time.is_zero() {
        line.seconds("plugin_time", record.plugin_time);
    }
    line.text("failure", record.failure.as_deref().map(str::as_bytes));
}

/// A line to which facts are added. What is `None` is left out.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: Format,
}

impl Line<'_> {
    fn key(&mut self, key: &str) {
        match self.format {
            Format::Text => {
                self.out.push(b' ');
                self.out.extend_from_slice(key.as_bytes());
                self.out.push(b'=');
            }
            Format::Json => {
                if self.out.last() != Some(&b'{') {
                    self.out.push(b',');
                }
                self.out.push(b'"');
                self.out.extend_from_slice(key.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        push_number(self.out, value);
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
        match self.format {
            Format::Text => push_display(self.out, value),
            Format::Json => push_display(self.out, format_args!("\"{value}\"")),
        }
    }

    fn word(&mut self, key: &str, value: &'static str) {
        self.display(key, value);
    }

    fn text(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        self.key(key);
        self.out.push(b'"');
        match self.format {
            Format::Text => push_escaped(self.out, value),
            Format::Json => push_json_escaped(self.out, value),
        }
        self.out.push(b'"');
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Escapes as nginx does: `\xHH` for quotes, backslashes and what is not printable ASCII.
fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
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

/// Escapes for a JSON string (RFC 8259 §7); what is not UTF-8 becomes U+FFFD.
fn push_json_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in String::from_utf8_lossy(bytes).as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
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

fn push_number(out: &mut Vec<u8>, value: u64) {
    push_display(out, value);
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{remote, request, tunnel};
    use super::*;

    fn line(record: &Record, format: Format) -> String {
        let zone = TimeZone::posix("IST-5:30").unwrap();
        let mut clock = Clock::new(zone, format);
        let mut out = Vec::new();
        let now = Duration::new(1_700_000_000, 42_000);
        let taken = Duration::from_micros(123);
        push(&mut out, record, &mut clock, now, taken);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_text_line_is_combined_followed_by_facts() {
        assert_eq!(
            line(&tunnel(), Format::Text),
            concat!(
                r#"192.0.2.7 - ann [15/Nov/2023:03:43:20 +0530] "GET /chat?room=a HTTP/1.1" 101 2345 "#,
                r#""http://example.com/\x22x\x5Cy" "caf\xE9\x091" "#,
                r#"remote_port=50123 kind=websocket host="example.com" route="= /chat" "#,
                "endpoint=[::1]:9001 attempts=1 duration=0.000123 bytes_from_client=10 ",
                "messages_from_client=3 messages_from_service=0 messages_dropped=0 ",
                "messages_replaced=1 messages_sent=0 ",
                "close_code=1000 closed_by=client plugin_time=0.000007\n",
            )
        );
    }

    #[test]
    fn a_json_line_is_one_object() {
        let line = line(&tunnel(), Format::Json);
        assert!(line.ends_with("}\n"));
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            object,
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
    fn what_is_missing_is_a_hyphen_and_what_is_empty_is_empty() {
        let record = Record::new(remote(), &request(&[("referer", b"")]));
        let text = line(&record, Format::Text);
        let end = r#"] "GET /chat?room=a HTTP/1.1" 000 0 "" "-" "#;
        assert!(
            text.starts_with("192.0.2.7 - - [") && text.contains(end),
            "{text}"
        );

        let record = Record::unread(remote());
        assert!(line(&record, Format::Text).contains(r#"] "-" 000 0 "-" "-" "#));
        let object: serde_json::Value = serde_json::from_str(&line(&record, Format::Json)).unwrap();
        assert_eq!(object.get("method"), None);
    }
}
