//! Who may ask the admin listener: its token, the permissions of its Unix socket, and web pages, which may not.

use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use rustix::fs::Mode;
use rustix::process::umask;
use tokio::net::UnixListener;
use tracing::{error, warn};

use super::admin::{MAX_MODULE_BYTES, refusal};
use crate::config::{AdminSocket, Token};

/// The path that anybody may ask for: those who look after the process have no token.
const OPEN: &str = "/healthz";

/// Longest text in place of JSON that is made into JSON.
const MAX_TEXT_BYTES: usize = 4096;

/// What somebody has to show.
#[derive(Debug, Clone)]
pub(super) enum Guard {
    /// Nothing: the permissions of the socket have kept others away.
    Socket,
    /// One of these.
    Tokens(Vec<Token>),
    /// Nothing: others cannot reach the address.
    Loopback,
    /// Others can reach the address, and there is nothing to show: no orders, and nothing that tells of them.
    Anybody,
}

/// Lets in who may come in.
pub(super) async fn admit(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    if path != OPEN
        && let Some(refusal) = guard.objection(path, request.headers())
    {
        return refusal;
    }
    // Any page that a browser on this machine shows could send an order.
    if request.method() != Method::GET && request.headers().contains_key(ORIGIN) {
        return refusal(StatusCode::FORBIDDEN, "orders from web pages are refused");
    }
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_MODULE_BYTES as u64) {
        return too_large();
    }
    in_json(path == OPEN, next.run(request).await).await
}

impl Guard {
    /// Returns what is answered to somebody who may not ask for a path.
    fn objection(&self, path: &str, headers: &HeaderMap) -> Option<Response> {
        match self {
            Self::Socket => None,
            // A page can have its own name mean this machine, and then reads what it asks for.
            Self::Loopback => headers.get_all(HOST).iter().any(is_foreign).then(|| {
                refusal(
                    StatusCode::FORBIDDEN,
                    "without a token, the `Host` of a request must be an IP address or `localhost`",
                )
            }),
            Self::Tokens(tokens) => without(tokens, headers.get(AUTHORIZATION).and_then(shown)),
            Self::Anybody => path.starts_with("/v1/").then(|| {
                refusal(
                    StatusCode::FORBIDDEN,
                    "anybody can reach this address: set `admin.token_file`, or listen at a loopback address",
                )
            }),
        }
    }
}

/// Whether a `Host` is a name that somebody else may have given this machine.
fn is_foreign(host: &HeaderValue) -> bool {
    let authority = host.to_str().ok().and_then(|host| host.parse().ok());
    authority.is_none_or(|authority: Authority| {
        let host = authority.host();
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_address = inner.unwrap_or(host).parse::<IpAddr>().is_ok();
        !is_address && !host.eq_ignore_ascii_case("localhost")
    })
}

/// Returns what is answered to somebody who does not show one of the tokens.
fn without(tokens: &[Token], shown: Option<&[u8]>) -> Option<Response> {
    // Read anew each time, so that another one can be put in its place.
    let wanted = tokens.iter().map(read).collect::<Result<Vec<_>, _>>();
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(error) => {
            error!(error, "nobody is let in");
            let says = "the token cannot be read; see the log";
            return Some(refusal(StatusCode::INTERNAL_SERVER_ERROR, says));
        }
    };
    let is = |shown: &[u8]| {
        let is_it = |wanted: &String| verify_slices_are_equal(shown, wanted.as_bytes()).is_ok();
        wanted.iter().any(is_it)
    };
    let says = match shown {
        None => "a token is wanted: Authorization: Bearer TOKEN",
        Some(shown) if is(shown) => return None,
        Some(_) => "the token is not the right one",
    };
    let mut refusal = refusal(StatusCode::UNAUTHORIZED, says);
    let scheme = HeaderValue::from_static("Bearer");
    refusal.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    Some(refusal)
}

/// Returns the token that somebody shows (RFC 6750 §2.1).
fn shown(field: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = field.as_bytes().split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

/// Reads the token that is wanted.
pub(super) fn read(token: &Token) -> Result<String, String> {
    let (place, text) = match token {
        Token::File(path) => {
            let place = path.display().to_string();
            let text = fs::read_to_string(path);
            (place, text.map_err(|error| error.to_string()))
        }
        Token::Variable(name) => {
            let text = std::env::var(name);
            (
                format!("the variable {name}"),
                text.map_err(|error| error.to_string()),
            )
        }
    };
    let text =
        text.map_err(|error| format!("cannot read the admin token from {place}: {error}"))?;
    match text.trim() {
        "" => Err(format!("there is no admin token in {place}")),
        token => Ok(token.to_owned()),
    }
}

fn too_large() -> Response {
    let text = format!("a module may be {} MiB long", MAX_MODULE_BYTES >> 20);
    refusal(StatusCode::PAYLOAD_TOO_LARGE, &text)
}

/// Says in JSON what the library says of requests that it refuses by itself.
async fn in_json(is_plain: bool, response: Response) -> Response {
    let status = response.status();
    let is_json = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    if is_plain || is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return too_large();
    }
    let text = to_bytes(response.into_body(), MAX_TEXT_BYTES)
        .await
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let text = match text.trim() {
        "" => status.canonical_reason().unwrap_or("refused"),
        text => text,
    };
    refusal(status, text)
}

/// The file of a bound Unix socket, removed when this is dropped.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: another process may have put its own there.
    identity: Option<(u64, u64)>,
}

/// Binds a Unix socket. One that nobody listens at any more is replaced.
pub(super) fn bind(socket: &AdminSocket) -> io::Result<(UnixListener, SocketFile)> {
    let path = &socket.path;
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    // Nobody may connect before the permissions are those that are wanted.
    let before = umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound?;
    fs::set_permissions(path, fs::Permissions::from_mode(socket.mode))?;
    let file = SocketFile {
        identity: identity(path),
        path: path.clone(),
    };
    Ok((listener, file))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some()
            && identity(&self.path) == self.identity
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!(%error, path = %self.path.display(), "cannot remove the admin socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_nobody_elses_names() {
        for own in [
            "127.0.0.1",
            "127.0.0.1:9900",
            "[::1]",
            "[::1]:9900",
            "localhost",
            "LocalHost:1",
        ] {
            assert!(!is_foreign(&HeaderValue::from_static(own)), "{own}");
        }
        for foreign in [
            "",
            "a",
            "a.example:9900",
            "127.0.0.1.example",
            "localhost.example",
            "[::1",
        ] {
            assert!(is_foreign(&HeaderValue::from_static(foreign)), "{foreign}");
        }
    }
}
