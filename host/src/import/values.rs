//! Times, sizes and switches as nginx writes them, and as Tidegate does.

use std::time::Duration;

pub(super) use crate::config::units::{write_duration as write_time, write_size};

/// Units of times with their milliseconds, the longest first. A month has 30 days, a year 365.
const TIMES: [(&str, u64); 8] = [
    ("y", 31_536_000_000),
    ("M", 2_592_000_000),
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads `60`, `1h 30m` or `500ms`: a number without unit is in seconds and comes last.
pub(super) fn time(text: &str) -> Option<Duration> {
    let mut units = TIMES.iter();
    let mut total = 0_u64;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "" if after.is_empty() => "s",
            unit => unit,
        };
        let (_, milliseconds) = units.find(|(name, _)| *name == unit)?;
        let number: u64 = number.parse().ok()?;
        total = total.checked_add(number.checked_mul(*milliseconds)?)?;
        rest = after.trim_start();
    }
    Some(Duration::from_millis(total))
}

/// Reads `8k`, `1m`, `2g` or bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = match text.char_indices().next_back()? {
        (end, 'k' | 'K') => (&text[..end], 1 << 10),
        (end, 'm' | 'M') => (&text[..end], 1 << 20),
        (end, 'g' | 'G') => (&text[..end], 1 << 30),
        _ => (text, 1_u64),
    };
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| number.parse::<u64>().ok()?.checked_mul(unit))?
}

/// Reads `on` or `off`.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_nginx() {
        for (text, ms, written) in [
            ("60", 60_000, "1m"),
            ("90s", 90_000, "90s"),
            ("1h30m", 5_400_000, "90m"),
            ("1h 30m", 5_400_000, "90m"),
            ("86400s", 86_400_000, "1d"),
            ("30d", 2_592_000_000, "30d"),
            ("1M", 2_592_000_000, "30d"),
            ("500ms", 500, "500ms"),
            ("1m30", 90_000, "90s"),
            ("0", 0, "0s"),
        ] {
            assert_eq!(time(text), Some(Duration::from_millis(ms)), "{text}");
            assert_eq!(write_time(Duration::from_millis(ms)), written, "{text}");
        }
        for text in ["", "s", "5x", "1s1h", "-1", "1.5h", "99999999999999999999"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_those_of_nginx() {
        for (text, bytes, written) in [
            ("8k", 8192, "8KiB"),
            ("10M", 10 << 20, "10MiB"),
            ("1g", 1 << 30, "1GiB"),
            ("1000", 1000, "1000B"),
            ("0", 0, "0B"),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
            assert_eq!(write_size(bytes), written, "{text}");
        }
        for text in ["", "k", "1kb", "-1", "1.5m"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
