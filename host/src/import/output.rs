//! TOML text that remembers which line of which nginx file each of its lines comes from.

use super::report::Place;

/// A piece of the text, in lines.
#[derive(Debug, Default)]
pub(super) struct Output {
    lines: Vec<(String, Option<Place>)>,
    indent: usize,
}

impl Output {
    /// A piece whose lines are moved to the right.
    pub(super) fn indented(indent: usize) -> Self {
        Self {
            lines: Vec::new(),
            indent,
        }
    }

    /// Adds a line.
    pub(super) fn line(&mut self, text: &str, place: Option<&Place>) {
        let text = match text {
            "" => String::new(),
            _ => format!("{:width$}{text}", "", width = self.indent),
        };
        self.lines.push((text, place.cloned()));
    }

    /// Adds a key. `value` is TOML.
    pub(super) fn key(&mut self, key: &str, value: &str, place: &Place) {
        self.line(&format!("{key} = {value}"), Some(place));
    }

    /// Adds a line that explains.
    pub(super) fn comment(&mut self, text: &str) {
        self.line(&format!("# {text}"), None);
    }

    /// Adds the head of a table, after an empty line.
    pub(super) fn table(&mut self, head: &str, place: Option<&Place>) {
        self.line("", None);
        self.line(head, place);
    }

    pub(super) fn append(&mut self, other: Self) {
        self.lines.extend(other.lines);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Where a line comes from, counted from 1. Of lines that come from nowhere the line before
    /// counts, such as the head of their table.
    pub(super) fn place(&self, line: usize) -> Option<&Place> {
        let until = line.min(self.lines.len());
        let mut before = self.lines[..until].iter().rev();
        before.find_map(|(_, place)| place.as_ref())
    }

    /// The whole text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (line, _) in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// Writes a string, without escapes where that is possible.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| !c.is_control() && c != '\'';
    if text.contains(['\\', '"']) && text.chars().all(plain) {
        return format!("'{text}'");
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\t' => quoted.push_str("\\t"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Writes a key, quoted if TOML asks for it.
pub(super) fn key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    match !name.is_empty() && name.bytes().all(bare) {
        true => name.to_owned(),
        false => quoted(name),
    }
}

/// Writes a list of strings.
pub(super) fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<_> = items.into_iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

/// Writes an inline table.
pub(super) fn table(entries: &[(String, String)]) -> String {
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, value)| format!("{} = {value}", key(name)))
        .collect();
    format!("{{ {} }}", entries.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_written_so_that_toml_reads_them_back() {
        for (text, written) in [
            ("a", r#""a""#),
            (r"\.png$", r"'\.png$'"),
            (r#"say "x""#, r#"'say "x"'"#),
            (r"it's \d", r#""it's \\d""#),
            ("a\nb\u{1}", r#""a\nb\u0001""#),
        ] {
            assert_eq!(quoted(text), written);
        }
        assert_eq!(key("X-Real-IP"), "X-Real-IP");
        assert_eq!(key("www.example.com"), "\"www.example.com\"");
    }

    #[test]
    fn lines_know_where_they_come_from() {
        let place = |line| Place {
            file: std::path::Path::new("nginx.conf").into(),
            line,
        };
        let mut output = Output::default();
        output.comment("first");
        output.table("[[sites]]", Some(&place(3)));
        output.line("names = []", Some(&place(4)));
        output.comment("no place");
        assert_eq!(
            output.text(),
            "# first\n\n[[sites]]\nnames = []\n# no place\n"
        );
        assert_eq!(output.place(1), None);
        assert_eq!(output.place(3), Some(&place(3)));
        assert_eq!(output.place(5), Some(&place(4)));
    }
}
