//! Looks for a word in every text message, both ways, and passes it: the benchmark's filter.
//!
//! ```toml
//! config = { word = "secret" }
//! ```

use std::error::Error;

use memchr::memmem::Finder;
use serde::Deserialize;
use tidegate_plugin::{
    Handshake, Kinds, Message, MessageVerdict, Messages, Outgoing, Plugin, Subscription, log,
};

struct Find {
    word: Finder<'static>,
}

/// The configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    word: String,
}

impl Plugin for Find {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            word: Finder::new(&config.word).into_owned(),
        })
    }
}

impl Messages for Find {
    type Session = ();

    fn open(&mut self, _: &Handshake, _: &mut Outgoing) -> Option<((), Subscription)> {
        Some(((), Subscription::both(Kinds::TEXT)))
    }

    fn on_message(&mut self, (): &mut (), message: Message, _: &mut Outgoing) -> MessageVerdict {
        if let Some(at) = self.word.find(&message.payload) {
            log::debug!("found at {at}");
        }
        MessageVerdict::Pass
    }
}

tidegate_plugin::export!(Find: Messages);
