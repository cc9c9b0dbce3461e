//! Which endpoint a request belongs to by itself: by a key made from it, or by a cookie.
//!
//! Whether it gets there is the balancer's decision, in `upstream/`.

use std::time::SystemTime;

use http::HeaderMap;
use http::header::SET_COOKIE;
use http::request::Parts;

use super::session::Session;
use crate::protocol::headers::cookie;
use crate::upstream::{Key, Upstream};

/// Tells the session's search what the request is chosen by. `head` as it came from the client.
pub(crate) fn prefer(session: &mut Session, upstream: &Upstream, head: &Parts) {
    let key = upstream
        .key()
        .map(|key| Key::new(&session.variables().render(key, head)));
    let sticky = upstream
        .sticky
        .as_ref()
        .and_then(|sticky| sticky.find(cookie(&head.headers, &sticky.cookie).unwrap_or_default()));
    session.search.prefer(key.unwrap_or_default(), sticky);
}

/// Tells a client which endpoint answered it, unless it knows.
pub(crate) fn set_cookie(
    session: &Session,
    upstream: &Upstream,
    endpoint: usize,
    headers: &mut HeaderMap,
) {
    let Some(sticky) = &upstream.sticky else {
        return;
    };
    let knows = session.search.sticky() == Some(endpoint) && !sticky.renews();
    if !knows && let Some(cookie) = sticky.set_cookie(endpoint, SystemTime::now()) {
        headers.append(SET_COOKIE, cookie);
    }
}
