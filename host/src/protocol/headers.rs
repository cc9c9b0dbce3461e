//! What a proxy must do to any request: drop the fields meant for one connection, and find out
//! which path is meant.
//!
//! What it adds (`Host`, `X-Forwarded-For`, ...) comes from the configuration, not from here.

use std::borrow::Cow;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use thiserror::Error;

use super::upgrade::list_items;

/// Removes the fields that concern one connection only: `Connection`, those it names, and those
/// that are known to whether it names them or not (RFC 9110 §7.6.1). Who upgrades puts
/// `Connection` and `Upgrade` back.
///
/// `Trailer` stays: it describes the message, which goes on.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Copies values only if the field occurs twice.
    let others: Vec<HeaderValue> = headers
        .get_all(CONNECTION)
        .iter()
        .skip(1)
        .cloned()
        .collect();
    if let Some(first) = headers.remove(CONNECTION) {
        for name in list_items([&first].into_iter().chain(&others)) {
            // Nobody may take away by name what the next hop needs to find the site and the end
            // of the body.
            if HOST != name && CONTENT_LENGTH != name {
                headers.remove(name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Takes out the fields whose names have more in them than letters, digits and hyphens, and `underscores`
/// where these are allowed.
pub(crate) fn remove_odd_names(headers: &mut HeaderMap, underscores: bool) {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || underscores && byte == b'_';
    let is_odd = |name: &&HeaderName| !name.as_str().bytes().all(is_plain);
    let odd: Vec<HeaderName> = headers.keys().filter(is_odd).cloned().collect();
    for name in odd {
        headers.remove(name);
    }
}

/// Why a request's path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum PathError {
    #[error("path does not begin with a slash")]
    NotAbsolute,
    #[error("path has a % that no two hexadecimal digits follow")]
    BadEscape,
    #[error("path has a zero byte")]
    ZeroByte,
    #[error("path leaves the root through ..")]
    EscapesRoot,
}

/// Returns the path that `raw`, a target without its query, means: decoded once, `.` and `..`
/// resolved, runs of slashes made one. An encoded slash or dot counts as one, as in nginx. Borrows
/// if there is nothing to do.
///
/// For matching only; the service gets the target as it was received. Bytes that are not UTF-8
/// become U+FFFD, which no pattern is written with.
pub(crate) fn normalize_path(raw: &str) -> Result<Cow<'_, str>, PathError> {
    // Borrowed, the path is the raw one, which is text.
    Ok(match normalize_path_bytes(raw)? {
        Cow::Borrowed(_) => Cow::Borrowed(raw),
        Cow::Owned(path) => Cow::Owned(match String::from_utf8(path) {
            Ok(path) => path,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }),
    })
}

/// As [`normalize_path`], with all bytes as they are.
pub(crate) fn normalize_path_bytes(raw: &str) -> Result<Cow<'_, [u8]>, PathError> {
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let is_normal = !raw.as_bytes().contains(&0)
        && !raw.contains('%')
        && !raw.contains("//")
        && !raw.contains("/.");
    if is_normal {
        return Ok(Cow::Borrowed(raw.as_bytes()));
    }
    Ok(Cow::Owned(resolve_segments(&decode(raw)?)?))
}

/// Encodes a decoded path so that it can stand in a target again. What is encoded is what nginx
/// encodes: blanks, what ends a path, and what no target may have.
pub(crate) fn escaped(path: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(path.len());
    for &byte in path {
        match byte {
            b'!' | b'$' | b'&'..=b';' | b'=' | b'@'..=b'[' | b']' | b'_' | b'a'..=b'z' | b'~' => {
                out.push(char::from(byte));
            }
            _ => write!(out, "%{byte:02X}").expect("writing to a string succeeds"),
        }
    }
    out
}

static HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

fn decode(raw: &str) -> Result<Vec<u8>, PathError> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let high = bytes.next().and_then(hex_digit);
                let low = bytes.next().and_then(hex_digit);
                high.zip(low)
                    .map(|(high, low)| high << 4 | low)
                    .ok_or(PathError::BadEscape)?
            }
            byte => byte,
        };
        if byte == 0 {
            return Err(PathError::ZeroByte);
        }
        decoded.push(byte);
    }
    Ok(decoded)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// A path that ends in a dot segment names a directory, so it ends in a slash afterwards.
fn resolve_segments(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut resolved = Vec::with_capacity(path.len());
    resolved.push(b'/');
    let mut ends_in_name = false;
    for segment in path.split(|&byte| byte == b'/') {
        ends_in_name = false;
        match segment {
            b"" | b"." => {}
            b".." => {
                let parent = &resolved[..resolved.len() - 1];
                let end = parent
                    .iter()
                    .rposition(|&byte| byte == b'/')
                    .ok_or(PathError::EscapesRoot)?;
                resolved.truncate(end + 1);
            }
            name => {
                resolved.extend_from_slice(name);
                resolved.push(b'/');
                ends_in_name = true;
            }
        }
    }
    if ends_in_name {
        resolved.pop();
    }
    Ok(resolved)
}

/// Returns the value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let mut pairs = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn left_of(fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers: HeaderMap = fields
            .iter()
            .map(|&(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::to_string).collect();
        left.sort();
        left
    }

    #[test]
    fn fields_with_odd_names_are_removed_with_all_their_values() {
        let names = [
            "x-real-ip",
            "x_real_ip",
            "x_real_ip",
            "x.dot",
            "sec-ch-ua-2",
            "a!b",
        ];
        for (underscores, expected) in [
            (false, &["sec-ch-ua-2", "x-real-ip"][..]),
            (true, &["sec-ch-ua-2", "x-real-ip", "x_real_ip"]),
        ] {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
            }
            remove_odd_names(&mut headers, underscores);
            let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
            left.sort_unstable();
            assert_eq!(left, expected);
        }
    }

    #[test]
    fn fields_of_the_connection_are_removed() {
        assert_eq!(
            left_of(&[
                ("host", "a"),
                ("connection", "keep-alive"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("te", "trailers"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "websocket"),
                ("http2-settings", "AAMAAABkAAQAAP__"),
                ("trailer", "expires"),
            ]),
            ["host", "trailer"]
        );
    }

    #[test]
    fn fields_that_any_connection_field_names_are_removed() {
        assert_eq!(
            left_of(&[
                ("connection", "X-First , close"),
                ("x-first", "1"),
                ("connection", "x-second, not a name, "),
                ("x-second", "2"),
                ("x-third", "3"),
            ]),
            ["x-third"]
        );
    }

    #[test]
    fn host_and_length_cannot_be_named_away() {
        assert_eq!(
            left_of(&[
                ("connection", "Host, Content-Length"),
                ("host", "a"),
                ("content-length", "3"),
            ]),
            ["content-length", "host"]
        );
    }

    #[test]
    fn an_ordinary_path_is_borrowed() {
        for path in ["/", "/chat", "/a/b.c/"] {
            assert!(matches!(normalize_path(path), Ok(Cow::Borrowed(same)) if same == path));
        }
    }

    #[test]
    fn paths_mean_what_they_mean_in_nginx() {
        for (raw, path) in [
            ("//", "/"),
            ("/a//b///c", "/a/b/c"),
            ("/.", "/"),
            ("/./a", "/a"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/../b", "/b"),
            ("/a//../b", "/b"),
            ("/a/./b/../../c/", "/c/"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/..b", "/a/..b"),
            ("/%61%2Fb", "/a/b"),
            ("/a%2f%2e%2E/b", "/b"),
            ("/a%2F/b", "/a/b"),
            ("/%252e", "/%2e"),
            ("/a%3Fb%23c+d", "/a?b#c+d"),
            ("/caf%C3%A9", "/café"),
            ("/caf%E9", "/caf\u{fffd}"),
        ] {
            assert_eq!(normalize_path(raw).as_deref(), Ok(path), "{raw}");
        }
    }

    #[test]
    fn paths_that_nginx_refuses_are_refused() {
        for (raw, error) in [
            ("", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("a/b", PathError::NotAbsolute),
            ("/..", PathError::EscapesRoot),
            ("/a/../..", PathError::EscapesRoot),
            ("/%2e%2e/", PathError::EscapesRoot),
            ("//../a", PathError::EscapesRoot),
            ("/%00", PathError::ZeroByte),
            ("/\0", PathError::ZeroByte),
            ("/%", PathError::BadEscape),
            ("/%4", PathError::BadEscape),
            ("/%4g", PathError::BadEscape),
            ("/%+1", PathError::BadEscape),
        ] {
            assert_eq!(normalize_path(raw), Err(error), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_has_nothing_left_to_resolve(raw in "/[/.a%2eEfF]{0,20}") {
            if let Ok(path) = normalize_path(&raw) {
                prop_assert!(path.starts_with('/'));
                prop_assert!(!path.contains("//"), "{}", path);
                prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{}", path);
            }
        }

        #[test]
        fn random_paths_never_panic(raw in any::<String>()) {
            drop(normalize_path(&raw));
            drop(normalize_path(&format!("/{raw}")));
        }
    }
}
