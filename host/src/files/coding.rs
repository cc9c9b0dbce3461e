//! Which compressed files a client takes (RFC 9110 §12.5.3).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

use crate::config::Coding;
use crate::protocol::upgrade::list_items;

/// A coding that a file may be there in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) coding: Coding,
    /// By the client. If not, the file still tells caches that the response varies.
    pub(super) accepted: bool,
}

/// Returns the route's codings in the client's order of preference, and where it has none in the
/// route's. As in nginx, `*` asks for no particular one.
pub(super) fn accepted(codings: &[Coding], headers: &HeaderMap) -> Vec<Candidate> {
    // Most routes have none, and then nothing is read.
    let mut candidates: Vec<_> = codings
        .iter()
        .map(|coding| (quality(headers, coding.name()).unwrap_or(0), *coding))
        .collect();
    candidates.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    let plain = match candidates.is_empty() {
        true => None,
        false => quality(headers, "identity"),
    };
    candidates
        .into_iter()
        .map(|(quality, coding)| Candidate {
            coding,
            accepted: quality > 0 && plain.is_none_or(|plain| quality >= plain),
        })
        .collect()
}

/// Returns how much a client wants a coding, in thousandths; None: it does not name it.
fn quality(headers: &HeaderMap, coding: &str) -> Option<u16> {
    list_items(headers.get_all(ACCEPT_ENCODING)).find_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(coding) {
            return None;
        }
        let weight = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
        });
        Some(weight.map_or(1000, thousandths))
    })
}

/// Reads `0.5`; 0 for what is no weight.
fn thousandths(text: &str) -> u16 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_weight = matches!(whole, "0" | "1")
        && fraction.len() <= 3
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !is_weight {
        return 0;
    }
    let fraction = format!("{fraction:0<3}").parse().unwrap_or(0);
    if whole == "1" { 1000 } else { fraction }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use Coding::{Brotli, Gzip};

    #[test]
    fn clients_get_what_they_want_most_then_what_the_route_prefers() {
        let rows: [(&str, &[Coding]); 17] = [
            ("", &[]),
            ("gzip", &[Gzip]),
            ("GZip", &[Gzip]),
            ("gzip, br", &[Brotli, Gzip]),
            ("gzip, deflate, br;q=0.9", &[Gzip, Brotli]),
            ("br;q=0.5, gzip;q=0.25", &[Brotli, Gzip]),
            ("br;q=0, gzip", &[Gzip]),
            ("br ; Q=0.000 ,gzip;q=0.001", &[Gzip]),
            ("gzip;q=0", &[]),
            ("gzip;q=x", &[]),
            ("gzip;q=2", &[]),
            ("gzip;q=0.1234", &[]),
            ("gzip;level=1;q=1.0", &[Gzip]),
            ("*", &[]),
            ("x-gzip, brotli", &[]),
            ("identity, gzip;q=0.5", &[]),
            ("identity;q=0.5, gzip", &[Gzip]),
        ];
        for (field, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(field));
            let candidates = accepted(&[Brotli, Gzip], &headers);
            assert_eq!(candidates.len(), 2, "{field}");
            let wanted: Vec<_> = candidates
                .iter()
                .filter(|candidate| candidate.accepted)
                .map(|candidate| candidate.coding)
                .collect();
            assert_eq!(wanted, expected, "{field}");
        }
    }
}
