//! The fields of an opening handshake, and the path that it names.

use http::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, UPGRADE};

use crate::protocol::extensions::{LARGEST_WINDOW, Offer, SMALLEST_WINDOW};
use crate::protocol::headers::{normalize_path, remove_hop_by_hop};
use crate::protocol::upgrade::{is_token, list_items, requested, valid_key};

/// Lines are fields in turn: `Sec-WebSocket-Extensions`, `Connection`, `Upgrade`. Each is also taken
/// for a key and for a path.
pub fn handshake(bytes: &[u8]) {
    let names = [SEC_WEBSOCKET_EXTENSIONS, CONNECTION, UPGRADE];
    let lines = bytes.split(|&byte| byte == b'\n');
    let mut headers = HeaderMap::new();
    for (line, name) in lines.clone().zip(names.iter().cycle()) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    let fields: Vec<&HeaderValue> = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().collect();
    extensions(&fields);
    upgrade(headers.clone());
    for line in lines {
        valid_key(line);
        if let Ok(path) = std::str::from_utf8(line) {
            paths(path);
        }
    }
}

/// An offer that is understood is written so that it is understood the same, and its own acceptance
/// answers it.
fn extensions(fields: &[&HeaderValue]) {
    let Some(offer) = Offer::first(fields.iter().copied()) else {
        return;
    };
    let written = HeaderValue::try_from(offer.field()).expect("plain text");
    assert_eq!(Offer::first([&written]).as_ref(), Some(&offer));
    for largest in [SMALLEST_WINDOW, 11, LARGEST_WINDOW] {
        let (agreement, field) = offer.accept(largest);
        let field = HeaderValue::try_from(field).expect("plain text");
        assert_eq!(offer.answered([&field]), Ok(Some(agreement)));
        let asked = offer.server_max_window_bits.unwrap_or(LARGEST_WINDOW);
        assert!(agreement.server_window_bits <= asked);
    }
    // Whatever a server says, what is in force is what was offered, or less.
    if let Ok(Some(agreement)) = offer.answered(fields.iter().copied()) {
        let bits = SMALLEST_WINDOW..=LARGEST_WINDOW;
        assert!(bits.contains(&agreement.client_window_bits));
        assert!(bits.contains(&agreement.server_window_bits));
    }
}

fn upgrade(mut headers: HeaderMap) {
    if let Some(protocol) = requested(&headers) {
        let items = || list_items(headers.get_all(UPGRADE));
        assert!(items().any(|item| item == protocol));
        assert!(protocol.split('/').all(is_token));
    }
    remove_hop_by_hop(&mut headers);
    assert!(!headers.contains_key(CONNECTION) && !headers.contains_key(UPGRADE));
}

/// A path that is normal stays as it is, and none leaves its root.
fn paths(raw: &str) {
    let Ok(path) = normalize_path(raw) else {
        return;
    };
    assert!(path.starts_with('/') && !path.contains("//") && !path.contains('\0'));
    assert!(
        path.split('/')
            .all(|segment| !matches!(segment, "." | ".."))
    );
    // Decoded once, it may hold a % that is meant as such.
    if !path.contains('%') {
        assert_eq!(normalize_path(&path).as_deref(), Ok(&*path));
    }
}
