//! What the proxy answers by itself: a route's own response, a redirect to the path with its slash,
//! and the news of a failure.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, UPGRADE};
use http::request::Parts;
use http::{Response, StatusCode};
use tracing::{debug, warn};

use super::body::ResponseBody;
use super::failure::Failure;
use super::head;
use super::session::Session;
use crate::config::Respond;
use crate::protocol::headers::escaped;
use crate::protocol::upgrade::WEBSOCKET;
use crate::telemetry::Chain;

/// `Sec-WebSocket-Version`, which a 426 must carry (RFC 6455 §4.4).
const SEC_WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Returns what a route answers by itself.
pub(crate) fn fixed(session: &Session, respond: &Respond, head: &Parts) -> Response<ResponseBody> {
    let variables = session.variables();
    let body = match &respond.body {
        Some(template) => Bytes::from(variables.render(template, head)),
        None if respond.status.as_u16() >= 300 && respond.status != StatusCode::NOT_MODIFIED => {
            line(respond.status)
        }
        None => Bytes::new(),
    };
    let has_body = !body.is_empty();
    let mut response = Response::new(ResponseBody::fixed(body));
    *response.status_mut() = respond.status;
    let headers = response.headers_mut();
    for (name, template) in &respond.headers {
        let mut value = variables.render(template, head);
        if *name == LOCATION && value.first() == Some(&b'/') {
            value = location(session, value);
        }
        // What cannot be sent is left out: a stranger may have had a hand in it.
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
            headers.append(name, value);
        }
    }
    if has_body && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, TEXT);
    }
    response
}

/// Returns the redirect from a decoded path to the same with a slash behind it.
pub(crate) fn with_slash(session: &Session, path: &[u8], head: &Parts) -> Response<ResponseBody> {
    let mut target = escaped(path);
    target.push('/');
    if let Some(query) = head.uri.query().filter(|query| !query.is_empty()) {
        target.push('?');
        target.push_str(query);
    }
    let status = StatusCode::MOVED_PERMANENTLY;
    let mut response = Response::new(ResponseBody::fixed(line(status)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let value = Bytes::from(location(session, target.into_bytes()));
    if let Ok(value) = HeaderValue::from_maybe_shared(value) {
        headers.insert(LOCATION, value);
    }
    headers.insert(CONTENT_TYPE, TEXT);
    response
}

/// Makes a path the URL that the client would ask for it by, unless the route says otherwise.
pub(super) fn location(session: &Session, path: Vec<u8>) -> Vec<u8> {
    if !session.route.settings.absolute_redirect {
        return path;
    }
    let scheme = session.facts.scheme;
    let default_port = if scheme == "https" { 443 } else { 80 };
    let local = session.client.local;
    let host = match &*session.facts.host {
        // As nginx has it of a client that names no host.
        "" if local.is_ipv6() => format!("[{}]", local.ip()),
        "" => local.ip().to_string(),
        host => host.to_owned(),
    };
    let mut url = format!("{scheme}://{host}").into_bytes();
    if local.port() != default_port {
        url.extend_from_slice(format!(":{}", local.port()).as_bytes());
    }
    url.extend_from_slice(&path);
    url
}

/// Returns the answer to a request that could not be served.
pub(crate) fn failed(failure: &Failure, head: &Parts) -> Response<ResponseBody> {
    let status = failure.status();
    if failure.is_ours() {
        warn!(
            error = %Chain(failure),
            status = status.as_u16(),
            method = %head.method,
            target = head::target(head),
            "request failed"
        );
    } else {
        debug!(
            error = %Chain(failure),
            status = status.as_u16(),
            "request refused"
        );
    }
    let body = match failure {
        Failure::PlainOnTls => "400 Bad Request: this port speaks TLS, use https://\n".into(),
        _ => line(status),
    };
    let mut response = Response::new(ResponseBody::fixed(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, TEXT);
    match failure {
        Failure::BadWebSocketVersion => {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            // Has to be in every 426 (RFC 9110 §15.5.22).
            headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        Failure::Files(error) => headers.extend(error.field()),
        _ => {}
    }
    response
}

/// The body of an answer that says nothing but its status.
fn line(status: StatusCode) -> Bytes {
    let reason = status.canonical_reason().unwrap_or("Unassigned");
    format!("{} {reason}\n", status.as_u16()).into()
}
