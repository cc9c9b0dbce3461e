//! A request that is answered with a file: its path and the route's, with their variables filled in.
//!
//! Finding, judging and reading the file is the business of `files/`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::body::ResponseBody;
use super::failure::Failure;
use super::session::Session;
use crate::config::{Base, Files, Otherwise, Pattern};
use crate::files::{Answer, Error, Place, Strip, Wanted, serve};
use crate::protocol::headers::normalize_path_bytes;

/// What a path must not show as it is in a `Location`.
const NOT_IN_A_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Returns the response to a request for a file, as the plugins have left it.
pub(super) async fn run(
    session: &Session,
    settings: &Arc<Files>,
    head: &Parts,
) -> Result<Response<ResponseBody>, Failure> {
    let is_head = head.method == Method::HEAD;
    if !is_head && head.method != Method::GET {
        return Err(Error::Method.into());
    }
    let place = place(session, settings, head)?;
    match serve(place, &head.headers, is_head).await? {
        Answer::File(response) => Ok(response.map(ResponseBody::file)),
        Answer::Folder(path) => Ok(to_folder(session, &path, head)),
    }
}

/// Says where a request looks for its file.
fn place(session: &Session, settings: &Arc<Files>, head: &Parts) -> Result<Place, Failure> {
    let variables = session.variables();
    let path = normalize_path_bytes(head.uri.path())
        .map_err(|_| Failure::BadRequest("path leads out of the root or cannot be decoded"))?;
    let (base, strip) = match &settings.base {
        Base::Root(base) => (base, Strip::Nothing),
        Base::Alias(base) => {
            let strip = match &session.route.settings.pattern {
                Pattern::Prefix(path) | Pattern::PrefixFirst(path) | Pattern::Exact(path) => {
                    Strip::Prefix(path.clone().into_bytes())
                }
                Pattern::Regex(_) => Strip::All,
            };
            (base, strip)
        }
    };
    let base = variables.render(base, head);
    // What a client says may choose the folder, but not lead out of where the operator keeps them.
    let is_parent = |segment: &[u8]| segment == b"..";
    if settings.base.varies() && base.split(|byte| *byte == b'/').any(is_parent) {
        return Err(Error::Escape.into());
    }
    let wanted = match &settings.tries {
        None => Wanted::Path(path.into_owned()),
        Some(tries) => {
            let paths = tries.paths.iter();
            let paths = paths.map(|item| (variables.render(&item.path, head), item.folder));
            let otherwise = match &tries.otherwise {
                Otherwise::Path(path) => Ok(variables.render(path, head)),
                Otherwise::Status(status) => Err(*status),
            };
            Wanted::FirstOf(paths.collect(), otherwise)
        }
    };
    Ok(Place {
        settings: settings.clone(),
        base: OsString::from_vec(base).into(),
        strip,
        wanted,
    })
}

/// Sends the client to a folder, with the slash that its path lacks. The URL is made as nginx makes
/// it: of the host that was asked for and the port that was reached.
fn to_folder(session: &Session, path: &[u8], head: &Parts) -> Response<ResponseBody> {
    let scheme = session.facts.scheme;
    let host = match &*session.facts.host {
        "" => session.route.site().name.as_str(),
        host => host,
    };
    let port = match (scheme, session.client.local.port()) {
        ("http", 80) | ("https", 443) => String::new(),
        (_, port) => format!(":{port}"),
    };
    let path = percent_encode(path, NOT_IN_A_PATH);
    let query = match head.uri.query() {
        Some(query) if !query.is_empty() => format!("?{query}"),
        _ => String::new(),
    };
    let url = if host.is_empty() {
        // A site without names, and a client that named none.
        format!("{path}/{query}")
    } else {
        format!("{scheme}://{host}{port}{path}/{query}")
    };
    let mut response = Response::new(ResponseBody::fixed("301 Moved Permanently\n".into()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let headers = response.headers_mut();
    if let Ok(url) = HeaderValue::from_maybe_shared(Bytes::from(url)) {
        headers.insert(LOCATION, url);
    }
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, text);
    response
}
