//! `Range` (RFC 9110 §14.2), read as nginx reads it.

use std::ops::Range;

/// What a request asks for of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ranges {
    /// All of it: no ranges, or ranges that come to more than the file.
    Whole,
    /// One at least; none of them is empty. In the request's order.
    Parts(Vec<Range<u64>>),
    /// Nothing that it has.
    Unsatisfiable,
}

/// One range as it is written.
enum Written {
    From(u64),
    FromTo(u64, u64),
    /// That many bytes at the end.
    Last(u64),
}

/// Reads the value of a `Range` field for a file of `length` bytes.
pub(super) fn read(field: &[u8], length: u64) -> Ranges {
    const UNIT: usize = "bytes=".len();
    let is_bytes = |unit: &[u8]| unit.eq_ignore_ascii_case(b"bytes=");
    let Some(list) = field.get(UNIT..).filter(|_| is_bytes(&field[..UNIT])) else {
        return Ranges::Whole;
    };
    if list.is_empty() {
        return Ranges::Whole;
    }
    let mut parts = Vec::new();
    let mut total = 0_u64;
    for item in list.split(|byte| *byte == b',') {
        let Some(written) = written(item) else {
            return Ranges::Unsatisfiable;
        };
        let range = match written {
            Written::From(start) => start..length,
            Written::FromTo(start, last) => start..last.saturating_add(1).min(length),
            Written::Last(bytes) => length.saturating_sub(bytes)..length,
        };
        if !range.is_empty() {
            total = total.saturating_add(range.end - range.start);
            parts.push(range);
        } else if range.start == 0 {
            // All of an empty file.
            return Ranges::Whole;
        }
    }
    match parts.is_empty() {
        true => Ranges::Unsatisfiable,
        // Nobody needs a file twice.
        false if total > length => Ranges::Whole,
        false => Ranges::Parts(parts),
    }
}

/// Reads `0-4`, `5-` or `-3`, with spaces around what stands in it.
fn written(item: &[u8]) -> Option<Written> {
    let item = std::str::from_utf8(item).ok()?;
    let (start, last) = item.split_once('-')?;
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number: i64 = text.parse().ok().filter(|_| is_number)?;
        u64::try_from(number).ok()
    };
    let (start, last) = (start.trim_matches(' '), last.trim_matches(' '));
    match (start, last) {
        ("", last) => Some(Written::Last(number(last)?)),
        (start, "") => Some(Written::From(number(start)?)),
        (start, last) => Some(Written::FromTo(number(start)?, number(last)?)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_nginx_reads_them() {
        let part = |range| Ranges::Parts(vec![range]);
        let parts = |list: &[Range<u64>]| Ranges::Parts(list.to_vec());
        for (field, expected) in [
            ("bytes=0-4", part(0..5)),
            ("bytes=5-", part(5..33)),
            ("bytes=-3", part(30..33)),
            ("bytes=-100", part(0..33)),
            ("bytes=32-99", part(32..33)),
            ("BYTES=0-1", part(0..2)),
            ("bytes= 1 - 2 ", part(1..3)),
            ("bytes=0-0,2-3", parts(&[0..1, 2..4])),
            ("bytes=2-3, 0-0", parts(&[2..4, 0..1])),
            ("bytes=0-0, -1", parts(&[0..1, 32..33])),
            // What cannot be satisfied is left out as long as something is left.
            ("bytes=0-4,100-200", part(0..5)),
            ("bytes=0-0,5-2", part(0..1)),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=33-", Ranges::Unsatisfiable),
            ("bytes=5-2", Ranges::Unsatisfiable),
            ("bytes=x", Ranges::Unsatisfiable),
            ("bytes=4", Ranges::Unsatisfiable),
            ("bytes=+1-2", Ranges::Unsatisfiable),
            ("bytes=,", Ranges::Unsatisfiable),
            ("bytes=0-1,", Ranges::Unsatisfiable),
            ("bytes=0-1-2", Ranges::Unsatisfiable),
            ("bytes=99999999999999999999-", Ranges::Unsatisfiable),
            ("bytes=2-99999999999999999999", Ranges::Unsatisfiable),
            ("bytes=0-9223372036854775807", part(0..33)),
            ("bytes=0-,0-", Ranges::Whole),
            ("bytes=", Ranges::Whole),
            ("items=0-1", Ranges::Whole),
            ("byte", Ranges::Whole),
        ] {
            assert_eq!(read(field.as_bytes(), 33), expected, "{field}");
        }
    }

    #[test]
    fn an_empty_file_is_served_whole_or_not_at_all() {
        assert_eq!(read(b"bytes=0-", 0), Ranges::Whole);
        assert_eq!(read(b"bytes=-1", 0), Ranges::Whole);
        assert_eq!(read(b"bytes=1-", 0), Ranges::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn ranges_are_within_the_file_and_no_longer_than_it(
            field in "bytes=[0-9, -]{0,20}",
            length in 0_u64..1000,
        ) {
            if let Ranges::Parts(parts) = read(field.as_bytes(), length) {
                prop_assert!(!parts.is_empty());
                prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= length));
                prop_assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= length);
            }
        }

        #[test]
        fn random_fields_never_panic(field in proptest::collection::vec(any::<u8>(), 0..40)) {
            read(&field, 33);
        }
    }
}
