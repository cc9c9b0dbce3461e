//! A request that is answered with a file: its path and the route's, with their variables filled in.
//!
//! Finding, judging and reading the file is the business of `files/`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, Response};

use super::answer;
use super::body::ResponseBody;
use super::failure::Failure;
use super::session::Session;
use crate::config::{Base, Files, Otherwise, Pattern};
use crate::files::{Answer, Error, Place, Strip, Wanted, serve};
use crate::protocol::headers::normalize_path_bytes;

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
        Answer::Folder(path) => Ok(answer::with_slash(session, &path, head)),
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
            let strip = match &session.route.pattern {
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
