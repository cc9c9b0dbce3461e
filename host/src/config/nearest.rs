//! "Did you mean": the known name nearest to one that is not.

/// The name among `known` that `written` is most likely a slip of, if any is close enough.
pub(crate) fn name<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong; more is another word.
    let allowed = (written.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|name| (distance(&written.to_lowercase(), name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many letters must be changed, added, left out or swapped with their neighbour (optimal
/// string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_another_word_does_not() {
        let known = [
            "max_body",
            "max_header",
            "max_headers",
            "upstream",
            "url",
            "tls",
        ];
        for (written, meant) in [
            ("max-body", Some("max_body")),
            ("maxbody", Some("max_body")),
            ("max_heder", Some("max_header")),
            ("upstreams", Some("upstream")),
            ("Upsteram", Some("upstream")),
            ("ulr", Some("url")),
            ("tsl", Some("tls")),
            ("files", None),
            ("", None),
            ("proxy_pass", None),
        ] {
            assert_eq!(name(written, known), meant, "{written}");
        }
    }
}
