//! What a request for another protocol asks (RFC 9110 §7.8, RFC 6455 §4).
//!
//! Whether a route allows the upgrade, and what is answered if not, is for `proxy/handshake.rs`.

use http::header::{AsHeaderName, CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue};

/// The `Upgrade` token of RFC 6455.
pub(crate) const WEBSOCKET: &str = "websocket";

/// Returns the protocol that a request wants to go on in, as the client wrote it: one that stands
/// in `Upgrade` while `Connection` lists `upgrade`. Of several it is `websocket` if that is among
/// them, else the first, which the client prefers.
///
/// HTTP/1.1 only: in an HTTP/1.0 request the field means nothing, and HTTP/2 has no such field.
pub(crate) fn requested(headers: &HeaderMap) -> Option<&str> {
    if !lists(headers, CONNECTION, "upgrade") {
        return None;
    }
    named(headers)
}

/// As [`requested`], whatever stands in `Connection`.
pub(crate) fn named(headers: &HeaderMap) -> Option<&str> {
    let mut protocols = list_items(headers.get_all(UPGRADE)).filter(|item| is_protocol(item));
    let first = protocols.next()?;
    if is_websocket(first) {
        return Some(first);
    }
    Some(protocols.find(|item| is_websocket(item)).unwrap_or(first))
}

/// Whether an `Upgrade` token names WebSocket; it is compared without case (RFC 6455 §4.2.1).
pub(crate) fn is_websocket(protocol: &str) -> bool {
    protocol.eq_ignore_ascii_case(WEBSOCKET)
}

/// Whether a `Sec-WebSocket-Key` is 16 bytes in base64 (RFC 6455 §4.2.1).
pub(crate) fn valid_key(key: &[u8]) -> bool {
    // Not decoded: a decoder also refuses keys whose last character has bits to spare set, which
    // clients that draw 22 random characters send and services accept.
    match key {
        [digits @ .., b'=', b'='] => {
            digits.len() == 22
                && digits
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
        }
        _ => false,
    }
}

/// Whether the comma-separated field `name` has the item `token`, without case.
pub(crate) fn lists(headers: &HeaderMap, name: impl AsHeaderName, token: &str) -> bool {
    list_items(headers.get_all(name)).any(|item| item.eq_ignore_ascii_case(token))
}

/// Returns the items of a comma-separated field in order, without the space around them and
/// without empty ones (RFC 9110 §5.6.1). An item that is not ASCII or UTF-8 is left out.
///
/// Not for fields whose items may hold quoted strings, such as `Sec-WebSocket-Extensions`: those
/// are read by `extensions.rs`.
pub(crate) fn list_items<'a>(
    values: impl IntoIterator<Item = &'a HeaderValue>,
) -> impl Iterator<Item = &'a str> {
    values
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|item| std::str::from_utf8(item.trim_ascii()).ok())
        .filter(|item| !item.is_empty())
}

/// Whether `text` is a token (RFC 9110 §5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Whether a token may have this byte.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `text` is `name` or `name/version` (RFC 9110 §7.8).
fn is_protocol(text: &str) -> bool {
    match text.split_once('/') {
        Some((name, version)) => is_token(name) && is_token(version),
        None => is_token(text),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|&(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn only_sixteen_bytes_in_base64_are_a_key() {
        assert!(valid_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(valid_key(b"AAAAAAAAAAAAAAAAAAAAA+=="));
        for key in [
            &b""[..],
            b"==",
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZQ= ",
            b"dGhlIHNhbXBsZSBub25jZ===",
            b"dGhlIHNhbXBsZSBub25jZQQ=",
            b"dGhlIHNhbXBsZSBub25j-Q==",
            b"SGVsbG8sIHdvcmxkIQ==",
            b"dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ==",
        ] {
            assert!(!valid_key(key), "{}", key.escape_ascii());
        }
    }

    #[test]
    fn items_come_without_space_and_without_empty_ones() {
        let headers = headers(&[
            ("connection", " , keep-alive ,,\tUpgrade\t,"),
            ("connection", ""),
            ("connection", "close"),
        ]);
        let items: Vec<_> = list_items(headers.get_all(CONNECTION)).collect();
        assert_eq!(items, ["keep-alive", "Upgrade", "close"]);
    }

    #[test]
    fn bytes_that_are_not_text_do_not_hide_the_items_beside_them() {
        let value = HeaderValue::from_bytes(b"\xff\xfe, upgrade").unwrap();
        assert_eq!(list_items([&value]).collect::<Vec<_>>(), ["upgrade"]);
    }

    #[test]
    fn an_upgrade_is_requested_only_if_connection_lists_it() {
        let asked = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ]);
        assert_eq!(requested(&asked), Some("WebSocket"));
        let unlisted = headers(&[("upgrade", "websocket")]);
        assert_eq!(requested(&unlisted), None);
        assert_eq!(named(&unlisted), Some("websocket"));
        assert_eq!(requested(&headers(&[("connection", "upgrade")])), None);
        let other = headers(&[("connection", "upgrades"), ("upgrade", "websocket")]);
        assert_eq!(requested(&other), None);
        let empty = headers(&[("connection", "upgrade"), ("upgrade", " ,")]);
        assert_eq!(requested(&empty), None);
    }

    #[test]
    fn of_several_protocols_websocket_is_the_one_requested() {
        let several = headers(&[
            ("connection", "upgrade"),
            ("upgrade", "IRC/6.9, HTTP/2.0"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(requested(&several), Some("websocket"));
        let others = headers(&[("connection", "upgrade"), ("upgrade", "IRC/6.9, HTTP/2.0")]);
        assert_eq!(requested(&others), Some("IRC/6.9"));
    }

    #[test]
    fn what_is_not_a_protocol_is_not_requested() {
        let headers = headers(&[
            ("connection", "upgrade"),
            ("upgrade", "a b, /1, x/, \"q\", fine"),
        ]);
        assert_eq!(requested(&headers), Some("fine"));
    }

    #[test]
    fn tokens_have_no_separators() {
        assert!(is_token("chat.v2!#$%&'*+-^_`|~"));
        for text in [
            "", "a b", "a,b", "a/b", "a;b", "a\"b", "(a)", "a@b", "é", "a\x7f",
        ] {
            assert!(!is_token(text), "{text}");
        }
    }
}
