//! What `/metrics` says, in the Prometheus text format.

use std::collections::BTreeMap;

/// Values by series, as written: `name{label="value"}`.
#[derive(Debug)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            lines
                .map(|line| {
                    let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                    (
                        series.to_owned(),
                        value.parse().expect("the value is a number"),
                    )
                })
                .collect(),
        )
    }

    /// Sum of all series of this name that carry all these labels. Fails the test if there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels)
            .unwrap_or_else(|| panic!("no {name} with {labels:?} among {self:#?}"))
    }

    /// The same; nothing if there is no such series, as of what has not happened yet.
    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Vec<_> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        self.0
            .iter()
            .filter(|(series, _)| series.split('{').next() == Some(name))
            .filter(|(series, _)| labels.iter().all(|label| has_label(series, label)))
            .map(|(_, value)| *value)
            .reduce(|sum, value| sum + value)
    }
}

/// Whether a series carries `label="value"`, as a whole and not as the end of another.
fn has_label(series: &str, label: &str) -> bool {
    let inside = series
        .split_once('{')
        .map_or("", |(_, rest)| rest.trim_end_matches('}'));
    format!(",{inside},").contains(&format!(",{label},"))
}
