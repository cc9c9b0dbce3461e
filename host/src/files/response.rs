//! The response that carries a file, or as much of it as is asked for.

use std::ops::Range;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderValue, LAST_MODIFIED, RANGE, VARY,
};
use http::{Response, StatusCode};

use super::body::{Body, Part};
use super::find::Regular;
use super::precondition::{Outcome, Validators};
use super::range::{self, Ranges};
use super::{Error, date, media_type};
use crate::config::Files;

/// Makes the response to a request for a file.
pub(super) fn new(
    file: Regular,
    settings: &Files,
    request: &HeaderMap,
    is_head: bool,
) -> Result<Response<Body>, Error> {
    let validators = Validators {
        etag: etag(file.modified, file.length),
        modified: file.modified,
    };
    let mut response = Response::new(Body::default());
    let headers = response.headers_mut();
    headers.insert(LAST_MODIFIED, date::http_date(file.modified));
    headers.insert(ETAG, validators.etag.clone());
    if file.varies {
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    match validators.judge(request, settings.if_modified_since) {
        Outcome::Wanted => {}
        Outcome::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        Outcome::Failed => return Err(Error::Precondition),
    }
    let content_type = media_type::of(&file.path, settings);
    let ranges = match (request.get(RANGE), file.coding) {
        (Some(field), None) if validators.allow_ranges(request) => {
            range::read(field.as_bytes(), file.length)
        }
        _ => Ranges::Whole,
    };
    let parts = match ranges {
        Ranges::Unsatisfiable => {
            return Err(Error::Range {
                length: file.length,
            });
        }
        Ranges::Whole => {
            headers.insert(CONTENT_TYPE, content_type);
            match file.coding {
                // Parts of what is compressed are of little use, and nginx offers none.
                Some(coding) => {
                    let coding = HeaderValue::from_static(coding.name());
                    headers.insert(CONTENT_ENCODING, coding);
                }
                None => {
                    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
                }
            }
            vec![Part::Range(0..file.length)]
        }
        Ranges::Parts(ranges) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            partial(response.headers_mut(), &ranges, file.length, content_type)
        }
    };
    let length = parts.iter().map(Part::length).sum::<u64>();
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    if !is_head {
        *response.body_mut() = Body::new(file.file, parts);
    }
    Ok(response)
}

/// Returns nginx's tag: time and length in hexadecimal.
fn etag(modified: i64, length: u64) -> HeaderValue {
    let tag = Bytes::from(format!("\"{modified:x}-{length:x}\""));
    HeaderValue::from_maybe_shared(tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// Describes the ranges and returns them as they are sent: one as it is, several with a head before
/// each (RFC 9110 §14.6).
fn partial(
    headers: &mut HeaderMap,
    ranges: &[Range<u64>],
    length: u64,
    content_type: HeaderValue,
) -> Vec<Part> {
    let content_range =
        |range: &Range<u64>| format!("bytes {}-{}/{length}", range.start, range.end - 1);
    if let [range] = ranges {
        headers.insert(CONTENT_TYPE, content_type);
        if let Ok(value) = HeaderValue::try_from(content_range(range)) {
            headers.insert(CONTENT_RANGE, value);
        }
        return vec![Part::Range(range.clone())];
    }
    // Of the length that nginx's have. What a file contains cannot be made to match it.
    let boundary = format!("{:020}", fastrand::u64(..));
    let mut parts = Vec::with_capacity(ranges.len() * 2 + 1);
    for range in ranges {
        let mut head = format!("\r\n--{boundary}\r\nContent-Type: ").into_bytes();
        head.extend_from_slice(content_type.as_bytes());
        head.extend_from_slice(
            format!("\r\nContent-Range: {}\r\n\r\n", content_range(range)).as_bytes(),
        );
        parts.push(Part::Text(head.into()));
        parts.push(Part::Range(range.clone()));
    }
    parts.push(Part::Text(format!("\r\n--{boundary}--\r\n").into()));
    let multipart = format!("multipart/byteranges; boundary={boundary}");
    if let Ok(value) = HeaderValue::try_from(multipart) {
        headers.insert(CONTENT_TYPE, value);
    }
    parts
}
