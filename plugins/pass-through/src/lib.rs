//! Passes every message: the plugin to copy.
//!
//! ```toml
//! [plugins.pass-through]
//! module = "pass_through.wasm"
//! ```
//!
//! Build it with `cargo build --profile plugin --target wasm32-unknown-unknown -p pass-through`. To
//! make it do something, give it a configuration (a struct in place of [`NoConfig`]), keep what a
//! session needs in `Session`, and answer something else than [`MessageVerdict::Pass`].

use std::error::Error;

use tidegate_plugin::{
    Handshake, Kinds, Message, MessageVerdict, Messages, NoConfig, Outgoing, Plugin, Subscription,
};

/// One value per worker thread, for all its sessions.
struct PassThrough;

impl Plugin for PassThrough {
    type Config = NoConfig;

    fn configure(_: NoConfig) -> Result<Self, Box<dyn Error>> {
        Ok(Self)
    }
}

impl Messages for PassThrough {
    type Session = ();

    fn open(&mut self, _: &Handshake, _: &mut Outgoing) -> Option<((), Subscription)> {
        Some(((), Subscription::both(Kinds::TEXT | Kinds::BINARY)))
    }

    fn on_message(&mut self, (): &mut (), _: Message, _: &mut Outgoing) -> MessageVerdict {
        MessageVerdict::Pass
    }
}

tidegate_plugin::export!(PassThrough: Messages);

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_plugin::Side;
    use tidegate_plugin::testing::{Request, configure};

    #[test]
    fn what_comes_in_goes_out() {
        let mut plugin: PassThrough = configure("{}").unwrap();
        let mut out = Outgoing::default();
        let handshake = Request::default().handshake(&[]);

        let ((), subscription) = plugin.open(&handshake, &mut out).unwrap();
        assert_eq!(
            subscription,
            Subscription::both(Kinds::TEXT | Kinds::BINARY)
        );

        let message = Message::from_text(Side::Client, "hello");
        assert_eq!(
            plugin.on_message(&mut (), message, &mut out),
            MessageVerdict::Pass
        );
        assert!(out.sent().is_empty());
    }
}
