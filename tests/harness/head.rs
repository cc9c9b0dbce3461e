//! Heads of requests and responses as text. How they travel is left to `connection.rs`.

use std::ops::Deref;

/// A start line and fields, in the order they came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Head {
    /// `GET /chat HTTP/1.1` or `HTTP/1.1 200 OK`
    pub(crate) start: String,
    /// Names as they were written.
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    /// Reads a head, with or without the empty line at its end.
    pub(crate) fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n").take_while(|line| !line.is_empty());
        Self {
            start: lines.next().expect("a head has a start line").to_owned(),
            fields: lines.map(field).collect(),
        }
    }

    /// Status of a response.
    pub(crate) fn status(&self) -> u16 {
        let status = self
            .start
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3));
        status
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {:?}", self.start))
    }

    /// Method of a request.
    pub(crate) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// Target of a request.
    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// First value of a field, the name compared without regard to case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).first().copied()
    }

    /// All values of a field, in order.
    pub(crate) fn fields(&self, name: &str) -> Vec<&str> {
        let named = self
            .fields
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The same head with one more field.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same head with another value for a field, or without the field.
    pub(crate) fn replacing(mut self, name: &str, value: Option<&str>) -> Self {
        self.fields
            .retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// As it looks on the wire, with the empty line at its end.
    pub(crate) fn to_wire(&self) -> String {
        let mut wire = format!("{}\r\n", self.start);
        for (name, value) in &self.fields {
            wire.push_str(&format!("{name}: {value}\r\n"));
        }
        wire + "\r\n"
    }
}

/// Splits a line into name and value.
pub(crate) fn field(line: &str) -> (String, String) {
    let (name, value) = line
        .split_once(':')
        .unwrap_or_else(|| panic!("not a field: {line:?}"));
    (name.to_owned(), value.trim().to_owned())
}

/// A whole response; its head's functions are its own.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Response {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The head that [`Service::http_echo`](super::Service::http_echo) received and sent back.
    pub(crate) fn seen_by_service(&self) -> Head {
        assert_eq!(self.status(), 200, "the service did not answer: {self:?}");
        Head::parse(self.text())
    }
}

impl Deref for Response {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

/// Lines of a request head that opens a WebSocket, with the key of RFC 6455 §1.3.
pub(crate) fn handshake(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1
        Host: example.com
        Upgrade: websocket
        Connection: Upgrade
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
        Sec-WebSocket-Version: 13"
    )
}

/// What a service answers to the key of [`handshake`].
pub(super) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The head of a 101 with which a service accepts a request to open a WebSocket.
pub(crate) fn accepting(request: &Head) -> Head {
    let key = request
        .field("sec-websocket-key")
        .expect("a handshake has a key");
    Head::parse(&wire(&format!(
        "HTTP/1.1 101 Switching Protocols
        Upgrade: websocket
        Connection: Upgrade
        Sec-WebSocket-Accept: {}",
        accept_for(key)
    )))
}

/// RFC 6455 §4.2.2.
fn accept_for(key: &str) -> String {
    use base64::Engine as _;
    let keyed = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let sha1 = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
    base64::engine::general_purpose::STANDARD
        .encode(aws_lc_rs::digest::digest(sha1, keyed.as_bytes()))
}

/// Turns lines as tests write them, indented, into a head as the wire has it.
pub(super) fn wire(lines: &str) -> String {
    let mut wire = String::new();
    for line in lines.trim().lines() {
        wire.push_str(line.trim());
        wire.push_str("\r\n");
    }
    wire + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 §1.3.
    #[test]
    fn the_example_of_the_standard_is_accepted() {
        let request = Head::parse(&wire(&handshake("/chat")));
        assert_eq!(
            accepting(&request).field("sec-websocket-accept"),
            Some(ACCEPT)
        );
    }
}
