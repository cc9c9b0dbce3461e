//! The current second in the local time zone, as text: formatted once a second, not once a line.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;

/// Formats moments of about now.
#[derive(Debug)]
pub(crate) struct Clock {
    zone: TimeZone,
    second: Option<u64>,
    texts: Texts,
}

/// A second as text.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// `15/Nov/2023:03:43:20 +0530`
    pub(crate) local: String,
    /// `2023-11-15T03:43:20`
    pub(crate) iso8601: String,
    /// `+05:30`
    pub(crate) offset: String,
}

impl Clock {
    /// A clock of the system's time zone.
    pub(crate) fn system() -> Self {
        Self::new(TimeZone::system())
    }

    pub(super) fn new(zone: TimeZone) -> Self {
        Self {
            zone,
            second: None,
            texts: Texts::default(),
        }
    }

    /// Returns the texts of a moment so long after 1970.
    pub(crate) fn at(&mut self, since_epoch: Duration) -> &Texts {
        let second = since_epoch.as_secs();
        if self.second != Some(second) {
            self.second = Some(second);
            let time = jiff::Timestamp::from_second(second.try_into().unwrap_or(i64::MAX))
                .unwrap_or(jiff::Timestamp::MAX)
                .to_zoned(self.zone.clone());
            let text = |format| time.strftime(format).to_string();
            self.texts = Texts {
                local: text("%d/%b/%Y:%H:%M:%S %z"),
                iso8601: text("%Y-%m-%dT%H:%M:%S"),
                offset: text("%:z"),
            };
        }
        &self.texts
    }
}

/// Returns the time since 1970.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
