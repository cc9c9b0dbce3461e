//! The media type of a file, by its extension.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use http::HeaderValue;

use crate::config::Files;

/// Types that get a charset: nginx's, by both names of JavaScript.
const TEXT: [&str; 7] = [
    "text/html",
    "text/xml",
    "text/plain",
    "text/vnd.wap.wml",
    "text/javascript",
    "application/javascript",
    "application/rss+xml",
];

/// Returns the `Content-Type` of a file.
pub(super) fn of(path: &Path, settings: &Files) -> HeaderValue {
    let media_type = by_extension(path, settings);
    let Some(charset) = &settings.charset else {
        return media_type;
    };
    if !TEXT.iter().any(|text| media_type == text) {
        return media_type;
    }
    let with_charset = [media_type.as_bytes(), b"; charset=", charset.as_bytes()].concat();
    HeaderValue::from_maybe_shared(Bytes::from(with_charset)).unwrap_or(media_type)
}

fn by_extension(path: &Path, settings: &Files) -> HeaderValue {
    // A name such as `.gif` has none.
    let extension = path
        .extension()
        .map(|extension| extension.as_bytes().to_ascii_lowercase());
    let known = extension
        .as_deref()
        .and_then(|extension| std::str::from_utf8(extension).ok())
        .and_then(|extension| {
            let own = settings.types.get(extension).cloned();
            own.or_else(|| {
                let known = mime_guess::from_ext(extension).first_raw()?;
                Some(HeaderValue::from_static(known))
            })
        });
    known.unwrap_or_else(|| settings.default_type.clone())
}
