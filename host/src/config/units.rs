//! Durations and sizes as an operator writes them, and back.

use std::time::Duration;

/// What a duration looks like, for messages.
pub(super) const DURATION: &str = "a duration such as \"15s\" or \"1h30m\" (units: ms, s, m, h, d)";

/// What a size looks like, for messages. Decimal units are left out on purpose: half of the world
/// reads `10KB` as 10,000 bytes and the other half as 10,240.
pub(super) const SIZE: &str = "a size such as \"64KiB\" (units: B, KiB, MiB, GiB)";

/// Longest duration a file may ask for, about ten years. Deadlines are the clock plus a duration,
/// and that addition must not overflow.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Reads `"15s"` or `"1h30m"`: whole numbers, each with its unit, larger units first.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    // Taking units from the iterator keeps "5m1h" and "1h1h" out.
    let mut units = DURATION_UNITS.iter();
    let mut total_ms = 0_u64;
    let mut rest = text;
    loop {
        let (amount, unit, after) = amount_and_unit(rest)?;
        let (_, unit_ms) = units.find(|(name, _)| *name == unit)?;
        total_ms = total_ms.checked_add(amount.checked_mul(*unit_ms)?)?;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let total = Duration::from_millis(total_ms);
    (total <= LONGEST).then_some(total)
}

/// Reads `"64KiB"`: a whole number and a unit.
pub(super) fn size(text: &str) -> Option<u64> {
    let (amount, unit, "") = amount_and_unit(text)? else {
        return None;
    };
    let (_, unit_bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    amount.checked_mul(*unit_bytes)
}

/// Writes a duration in the largest unit that needs no fraction.
pub(crate) fn write_duration(duration: Duration) -> String {
    let total = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    DURATION_UNITS
        .iter()
        .find(|(_, unit)| total != 0 && total.is_multiple_of(*unit))
        .map_or_else(
            || "0s".to_owned(),
            |(name, unit)| format!("{}{name}", total / unit),
        )
}

/// Writes a size in the largest unit that needs no fraction.
pub(crate) fn write_size(bytes: u64) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes}B"),
            |(name, unit)| format!("{}{name}", bytes / unit),
        )
}

/// Splits off a number and the letters after it: `1h30m` is `1`, `h` and `30m`.
fn amount_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (amount, rest) = text.split_at(digits);
    let letters = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    Some((amount.parse().ok()?, unit, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units_larger_units_first() {
        for (text, ms) in [
            ("5ms", 5),
            ("15s", 15_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("30d", 2_592_000_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("0s", 0),
            ("86400s", 86_400_000),
            ("3650d", 315_360_000_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_not_quite_a_duration_is_none() {
        for text in [
            "",
            "15",
            "s",
            "15 s",
            " 15s",
            "15s ",
            "1.5h",
            "-1s",
            "+1s",
            "5m1h",
            "1h1h",
            "1h30",
            "15sec",
            "15S",
            "1w",
            "3651d",
            "99999999999999999999d",
            "18446744073709551615d",
            "٣s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_a_number_and_a_binary_unit() {
        for (text, bytes) in [
            ("0B", 0),
            ("512B", 512),
            ("64KiB", 65_536),
            ("1MiB", 1_048_576),
            ("4GiB", 4_294_967_296),
            ("1025KiB", 1_049_600),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "64",
            "KiB",
            "10KB",
            "10k",
            "1M",
            "1kib",
            "1.5MiB",
            "1MiB1KiB",
            "-1B",
            "99999999999GiB",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_size_is_written_as_it_would_be_read() {
        for bytes in [0, 1, 512, 1024, 1025, 65_536, 1 << 20, 3 << 30] {
            assert_eq!(size(&write_size(bytes)), Some(bytes));
        }
        assert_eq!(write_size(65_536), "64KiB");
        assert_eq!(write_size(65_534), "65534B");
    }

    #[test]
    fn a_duration_is_written_as_it_would_be_read() {
        for (ms, text) in [(0, "0s"), (5, "5ms"), (90_000, "90s"), (5_400_000, "90m")] {
            let written = write_duration(Duration::from_millis(ms));
            assert_eq!(written, text);
            assert_eq!(duration(&written), Some(Duration::from_millis(ms)));
        }
    }
}
