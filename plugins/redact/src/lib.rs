//! Masks words in text messages.
//!
//! ```toml
//! [plugins.redact]
//! module = "builtin:redact"
//! config = { words = ["secret", "geheim"] }
//! ```
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `words` | | what is masked, also within other words |
//! | `replacement` | `"***"` | what takes its place |
//! | `direction` | `"both"` | `"from-client"` or `"from-service"`: only messages from there |
//! | `ignore_case` | `false` | whether `Secret` is masked too; letters beyond ASCII always count |
//!
//! Where several words match at one place the longest is masked. A message without any goes on
//! untouched, and one that a replacement makes longer than the service accepts is the service's to
//! refuse.

use std::error::Error;

use aho_corasick::{AhoCorasick, MatchKind};
use serde::Deserialize;
use tidegate_plugin::{
    Handshake, Kinds, Message, MessageVerdict, Messages, Outgoing, Plugin, Side, Subscription,
};

struct Redact {
    words: AhoCorasick,
    replacement: String,
    subscription: Subscription,
}

/// The configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    words: Vec<String>,
    #[serde(default = "three_stars")]
    replacement: String,
    #[serde(default)]
    direction: Direction,
    #[serde(default)]
    ignore_case: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Direction {
    #[default]
    Both,
    FromClient,
    FromService,
}

fn three_stars() -> String {
    "***".to_owned()
}

impl Plugin for Redact {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, Box<dyn Error>> {
        if config.words.is_empty() {
            return Err("words: expected at least one word, found an empty list".into());
        }
        if config.words.iter().any(String::is_empty) {
            return Err("words: expected words, found an empty one".into());
        }
        let words = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .ascii_case_insensitive(config.ignore_case)
            .build(&config.words)?;
        let subscription = match config.direction {
            Direction::Both => Subscription::both(Kinds::TEXT),
            Direction::FromClient => Subscription::only(Side::Client, Kinds::TEXT),
            Direction::FromService => Subscription::only(Side::Service, Kinds::TEXT),
        };
        Ok(Self {
            words,
            replacement: config.replacement,
            subscription,
        })
    }
}

impl Messages for Redact {
    type Session = ();

    fn open(&mut self, _: &Handshake, _: &mut Outgoing) -> Option<((), Subscription)> {
        Some(((), self.subscription))
    }

    fn on_message(&mut self, (): &mut (), message: Message, _: &mut Outgoing) -> MessageVerdict {
        // Bytes will do: a word in UTF-8 is found only where a character begins (RFC 3629 §1).
        let payload = message.payload;
        let mut masked = Vec::new();
        let mut copied = 0;
        for found in self.words.find_iter(&payload) {
            masked.extend_from_slice(&payload[copied..found.start()]);
            masked.extend_from_slice(self.replacement.as_bytes());
            copied = found.end();
        }
        if copied == 0 {
            return MessageVerdict::Pass;
        }
        masked.extend_from_slice(&payload[copied..]);
        MessageVerdict::Replace(masked)
    }
}

tidegate_plugin::export!(Redact: Messages);

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_plugin::testing::{Request, configure};

    /// What becomes of a message; nothing if it goes on untouched.
    fn redact(config: &str, text: &str) -> Option<String> {
        let mut plugin: Redact = configure(config).unwrap();
        let message = Message::from_text(Side::Client, text);
        match plugin.on_message(&mut (), message, &mut Outgoing::default()) {
            MessageVerdict::Pass => None,
            MessageVerdict::Replace(payload) => Some(String::from_utf8(payload).unwrap()),
            verdict => panic!("{verdict:?}"),
        }
    }

    fn subscription(config: &str) -> Subscription {
        let mut plugin: Redact = configure(config).unwrap();
        let handshake = Request::default().handshake(&[]);
        plugin.open(&handshake, &mut Outgoing::default()).unwrap().1
    }

    fn error(config: &str) -> String {
        configure::<Redact>(config)
            .err()
            .expect("a configuration error")
    }

    #[test]
    fn every_word_is_masked_wherever_it_stands() {
        let config = r#"{"words": ["secret", "geheim"]}"#;
        assert_eq!(
            redact(config, "secret: geheimnis, secretsecret").unwrap(),
            "***: ***nis, ******"
        );
        assert_eq!(redact(config, "secre t SECRET"), None);
        assert_eq!(redact(config, ""), None);
    }

    #[test]
    fn the_longest_of_several_words_is_masked() {
        let config = r#"{"words": ["sec", "secret"], "replacement": ""}"#;
        assert_eq!(redact(config, "a secret sec.").unwrap(), "a  .");
    }

    #[test]
    fn ignore_case_ignores_case_of_ascii() {
        let config = r#"{"words": ["secret", "Übel"], "ignore_case": true}"#;
        assert_eq!(redact(config, "SeCrEt ÜBEL übel").unwrap(), "*** *** übel");
    }

    #[test]
    fn text_around_a_word_stays_whole() {
        let config = r#"{"words": ["é", "語"], "replacement": "…"}"#;
        assert_eq!(redact(config, "日本語 café è").unwrap(), "日本… caf… è");
    }

    #[test]
    fn a_direction_limits_what_is_seen() {
        let text = Kinds::TEXT;
        assert_eq!(
            subscription(r#"{"words": ["a"]}"#),
            Subscription::both(text)
        );
        assert_eq!(
            subscription(r#"{"words": ["a"], "direction": "from-client"}"#),
            Subscription::only(Side::Client, text)
        );
        assert_eq!(
            subscription(r#"{"words": ["a"], "direction": "from-service"}"#),
            Subscription::only(Side::Service, text)
        );
    }

    #[test]
    fn a_wrong_configuration_says_what_is_expected() {
        assert_eq!(error("{}"), "missing field `words`");
        assert_eq!(
            error(r#"{"words": []}"#),
            "words: expected at least one word, found an empty list"
        );
        assert_eq!(
            error(r#"{"words": ["a", ""]}"#),
            "words: expected words, found an empty one"
        );
        assert_eq!(
            error(r#"{"words": "a"}"#),
            "words: invalid type: string \"a\", expected a sequence"
        );
        assert_eq!(
            error(r#"{"words": ["a"], "direction": "up"}"#),
            "direction: unknown variant `up`, expected one of `both`, `from-client`, `from-service`"
        );
    }
}
