//! Files that a route serves: which of them a request means, and the response that carries it.
//! What nginx does with the same request is done here.
//!
//! Paths arrive with their variables filled in, and what a failure means for the client is
//! `proxy/failure.rs`'s business.

mod body;
mod coding;
mod date;
mod find;
mod media_type;
mod open;
mod precondition;
mod range;
mod response;

use std::io;
use std::path::PathBuf;

use http::header::{ALLOW, CONTENT_RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use rustix::io::Errno;

pub(crate) use body::Body;
pub(crate) use date::{http_date, seconds, since_epoch};
pub(crate) use find::{Place, Strip, Wanted};

use find::Found;
use open::How;

/// What a request for a file is answered with.
pub(crate) enum Answer {
    File(Response<Body>),
    /// There is a folder at this path, which lacks the slash that folders end in.
    Folder(Vec<u8>),
}

/// Why no file is served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("files are for GET and HEAD")]
    Method,
    #[error("{path:?} does not exist")]
    NotFound { path: PathBuf },
    #[error("{path:?} is neither a file nor a folder")]
    Special { path: PathBuf },
    #[error("path has a segment that leads out of the folder")]
    Escape,
    #[error("{path:?} may not be read")]
    Forbidden {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} has no index")]
    NoIndex { path: PathBuf },
    #[error("none of the paths to try exists")]
    Nothing { status: StatusCode },
    #[error("the file is not in the state that the request asks for")]
    Precondition,
    #[error("no range is within the {length} bytes of the file")]
    Range { length: u64 },
    #[error("{path:?} cannot be read")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Looks for the file and makes the response. The file system is asked at once for what the kernel
/// has in memory; what would have to wait for a disk waits on a thread for that.
pub(crate) async fn serve(
    place: Place,
    headers: &HeaderMap,
    is_head: bool,
) -> Result<Answer, Error> {
    let coding = coding::accepted(&place.settings.precompressed, headers);
    let found = match place.find(&coding, How::Cached) {
        Err(error) if error.would_block() => {
            let find = move || (place.find(&coding, How::Blocking), place);
            let (found, place) =
                tokio::task::spawn_blocking(find)
                    .await
                    .map_err(|error| Error::Io {
                        path: PathBuf::new(),
                        source: io::Error::other(error),
                    })?;
            return answer(found?, &place, headers, is_head);
        }
        found => found?,
    };
    answer(found, &place, headers, is_head)
}

fn answer(
    found: Found,
    place: &Place,
    headers: &HeaderMap,
    is_head: bool,
) -> Result<Answer, Error> {
    match found {
        Found::Folder(path) => Ok(Answer::Folder(path)),
        Found::File(file) => {
            response::new(file, &place.settings, headers, is_head).map(Answer::File)
        }
    }
}

impl Error {
    /// Returns the field that the answer to this must have.
    pub(crate) fn field(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Method => Some((ALLOW, HeaderValue::from_static("GET, HEAD"))),
            Self::Range { length } => {
                let value = HeaderValue::try_from(format!("bytes */{length}")).ok()?;
                Some((CONTENT_RANGE, value))
            }
            _ => None,
        }
    }

    /// Whether only a thread that may wait can tell.
    fn would_block(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::WouldBlock,
            _ => false,
        }
    }

    /// Says what an error of the system means.
    fn of_system(path: PathBuf, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Self::NotFound { path },
            // A socket, or a device that is not there.
            Some(Errno::NXIO | Errno::NODEV) => Self::Special { path },
            // The last two: links that go in circles or are not to be followed, and those that lead
            // out of the base.
            Some(Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::XDEV) => {
                Self::Forbidden { path, source }
            }
            _ => Self::Io { path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_mean_what_they_mean_in_nginx() {
        let of = |errno: Errno| Error::of_system("/x".into(), errno.into());
        for errno in [Errno::NOENT, Errno::NOTDIR, Errno::NAMETOOLONG] {
            assert!(matches!(of(errno), Error::NotFound { .. }), "{errno}");
        }
        for errno in [Errno::ACCESS, Errno::PERM, Errno::LOOP, Errno::XDEV] {
            assert!(matches!(of(errno), Error::Forbidden { .. }), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::IO, Errno::NOSYS] {
            assert!(matches!(of(errno), Error::Io { .. }), "{errno}");
        }
    }
}
