//! Requests that came over HTTP/2, put as HTTP/1.1 would have put them, so that nobody behind has to
//! know two forms.
//!
//! Frames and streams are `downstream/http2.rs`'s business.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use h2::ext::Protocol;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderValue};
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, Uri};
use http::{Method, StatusCode, response};

use super::failure::Failure;
use super::mask;
use crate::protocol::upgrade::is_websocket;

/// Whether a request, as it came or as it was translated, is an extended CONNECT (RFC 8441 §4).
pub(crate) fn is_extended_connect(head: &Parts) -> bool {
    head.extensions.get::<Protocol>().is_some()
}

/// Puts the target in origin form, `:authority` into `Host`, what was split of `Cookie` together, and
/// extended CONNECT as the GET that asks for the same protocol.
pub(crate) fn translate(head: &mut Parts) -> Result<(), Failure> {
    join_cookies(&mut head.headers);
    let (authority, target) = {
        let target = std::mem::take(&mut head.uri).into_parts();
        (target.authority, target.path_and_query)
    };
    let upgraded = match &target {
        Some(_) => ask_for_upgrade(head),
        None => Ok(()),
    };
    head.uri = match (target, &authority) {
        (Some(target), _) => Uri::from(target),
        // Ordinary CONNECT, which the session refuses.
        (None, Some(authority)) => Uri::from(authority.clone()),
        (None, None) => Uri::default(),
    };
    upgraded?;
    authority.map_or(Ok(()), |authority| name_host(&mut head.headers, &authority))
}

/// Turns extended CONNECT into a request for an upgrade. The key that HTTP/1.1 wants for a WebSocket is
/// the proxy's own: what the service proves with it, it proves to the proxy (RFC 8441 §5.1).
fn ask_for_upgrade(head: &mut Parts) -> Result<(), Failure> {
    let Some(protocol) = head.extensions.get::<Protocol>() else {
        return Ok(());
    };
    let token = HeaderValue::from_str(protocol.as_str());
    let token = token.map_err(|_| Failure::BadRequest(":protocol is no token"))?;
    let headers = &mut head.headers;
    if is_websocket(protocol.as_str()) {
        let key: [[u8; 4]; 4] = std::array::from_fn(|_| mask::fresh());
        let key = HeaderValue::try_from(BASE64.encode(key.as_flattened()));
        let key = key.map_err(|_| Failure::BadHandshake("no key can be made for it"))?;
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    // What follows is no body, whatever is said of one.
    headers.remove(CONTENT_LENGTH);
    headers.remove(EXPECT);
    headers.insert(UPGRADE, token);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.method = Method::GET;
    Ok(())
}

/// Makes a 101 the answer to the extended CONNECT that it was translated from (RFC 8441 §5).
pub(crate) fn accept_connect(head: &mut response::Parts) {
    head.status = StatusCode::OK;
    for name in [UPGRADE, CONNECTION, SEC_WEBSOCKET_ACCEPT] {
        head.headers.remove(name);
    }
}

/// Sets `Host`. One that differs makes the request malformed (RFC 9113 §8.3.1): whoever looks at the
/// other of the two would be deceived.
fn name_host(headers: &mut HeaderMap, authority: &Authority) -> Result<(), Failure> {
    let named = authority.as_str().as_bytes();
    let same = |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(named);
    if !headers.get_all(HOST).iter().all(same) {
        return Err(Failure::BadRequest("Host and :authority differ"));
    }
    let host = HeaderValue::from_bytes(named);
    let host = host.map_err(|_| Failure::BadRequest(":authority is no host"))?;
    headers.insert(HOST, host);
    Ok(())
}

/// Clients split the field for the sake of compression; in HTTP/1.1 there is one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for line in [second].into_iter().chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::protocol::upgrade::valid_key;

    fn head(uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::get(uri).version(http::Version::HTTP_2);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn host(head: &Parts) -> Option<&str> {
        head.headers.get(HOST)?.to_str().ok()
    }

    #[test]
    fn the_authority_becomes_the_host_and_the_target_keeps_the_rest() {
        let mut head = head("https://Example.com:8443/a%2Fb?x=1", &[]);
        translate(&mut head).unwrap();
        assert_eq!(host(&head), Some("Example.com:8443"));
        assert_eq!(head.uri, "/a%2Fb?x=1");
    }

    #[test]
    fn a_host_beside_the_authority_has_to_agree() {
        let mut same = head("https://example.com/", &[("host", "EXAMPLE.com")]);
        translate(&mut same).unwrap();
        assert_eq!(same.headers.get_all(HOST).iter().count(), 1);

        let mut other = head("https://example.com/a", &[("host", "example.org")]);
        assert!(matches!(
            translate(&mut other),
            Err(Failure::BadRequest("Host and :authority differ"))
        ));
        // The log has its target all the same.
        assert_eq!(other.uri, "/a");
    }

    #[test]
    fn a_host_may_stand_alone() {
        let mut head = head("/a", &[("host", "example.com")]);
        translate(&mut head).unwrap();
        assert_eq!(host(&head), Some("example.com"));
        assert_eq!(head.uri, "/a");
    }

    #[test]
    fn ordinary_connect_stays_what_it_is() {
        let mut head = head("example.com:443", &[]);
        head.method = Method::CONNECT;
        translate(&mut head).unwrap();
        assert_eq!(head.method, Method::CONNECT);
        assert_eq!(head.uri, "example.com:443");
    }

    #[test]
    fn extended_connect_asks_for_an_upgrade_with_a_key_of_its_own() {
        let fields = [
            ("sec-websocket-key", "the client's"),
            ("content-length", "5"),
        ];
        let mut keys = std::collections::HashSet::new();
        for _ in 0..2 {
            let mut head = head("https://example.com/chat", &fields);
            head.method = Method::CONNECT;
            head.extensions.insert(Protocol::from_static("websocket"));
            translate(&mut head).unwrap();
            assert!(is_extended_connect(&head));
            assert_eq!(head.method, Method::GET);
            assert_eq!(head.uri, "/chat");
            assert_eq!(head.headers[UPGRADE], "websocket");
            assert_eq!(head.headers[CONNECTION], "upgrade");
            assert!(!head.headers.contains_key(CONTENT_LENGTH));
            let key = head.headers.remove(SEC_WEBSOCKET_KEY).unwrap();
            assert!(valid_key(key.as_bytes()));
            keys.insert(key);
        }
        assert_eq!(keys.len(), 2);
    }

    #[test]
    fn cookies_become_one_field_again() {
        let fields = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3")];
        let mut head = head("https://example.com/", &fields);
        translate(&mut head).unwrap();
        let cookies: Vec<_> = head.headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }
}
