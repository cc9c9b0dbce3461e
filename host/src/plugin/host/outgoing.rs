//! What plugins send and do to messages: `outgoing` of `wit/host.wit`.

use wasmtime::Result;

use super::{State, rule};
use crate::plugin::Sent;
use crate::plugin::bindings::tidegate::plugin::outgoing;
use crate::protocol::close::CloseCode;
use crate::protocol::message::{MessageKind, Side};
use crate::telemetry::Phase;

/// Longest payload of a control frame, and with its code of a close reason (RFC 6455 §5.5).
const MAX_CONTROL_BYTES: usize = 125;
const MAX_REASON_BYTES: usize = 123;

impl outgoing::Host for State {
    fn replace(&mut self, payload: Vec<u8>) -> Result<()> {
        self.call
            .must_be(&[Phase::Message, Phase::Fragment], "outgoing.replace")?;
        self.spend(payload.len(), 0)?;
        check_payload(self.call.kind, &payload)?;
        self.produced.replacement = Some(payload);
        Ok(())
    }

    fn send(&mut self, to: outgoing::Side, kind: outgoing::Kind, payload: Vec<u8>) -> Result<()> {
        self.call.must_be(
            &[Phase::Open, Phase::Message, Phase::Fragment],
            "outgoing.send",
        )?;
        self.spend(payload.len(), 1)?;
        let kind = kind.into();
        check_payload(kind, &payload)?;
        self.produced.sent.push(Sent {
            to: to.into(),
            kind,
            payload,
        });
        Ok(())
    }

    fn close(&mut self, code: u16, reason: String) -> Result<()> {
        self.call
            .must_be(&[Phase::Message, Phase::Fragment], "outgoing.close")?;
        self.spend(reason.len(), 0)?;
        if reason.len() > MAX_REASON_BYTES {
            return rule(format!("closed with a reason of {} bytes", reason.len()));
        }
        match CloseCode::new(code) {
            Some(code) => self.produced.close = Some((code, reason)),
            None => return rule(format!("closed with code {code}, which must not be sent")),
        }
        Ok(())
    }
}

impl From<outgoing::Side> for Side {
    fn from(side: outgoing::Side) -> Self {
        match side {
            outgoing::Side::Client => Self::Client,
            outgoing::Side::Service => Self::Service,
        }
    }
}

impl From<Side> for outgoing::Side {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::Client,
            Side::Service => Self::Service,
        }
    }
}

impl From<outgoing::Kind> for MessageKind {
    fn from(kind: outgoing::Kind) -> Self {
        match kind {
            outgoing::Kind::Text => Self::Text,
            outgoing::Kind::Binary => Self::Binary,
            outgoing::Kind::Ping => Self::Ping,
            outgoing::Kind::Pong => Self::Pong,
        }
    }
}

impl From<MessageKind> for outgoing::Kind {
    fn from(kind: MessageKind) -> Self {
        match kind {
            MessageKind::Text => Self::Text,
            MessageKind::Binary => Self::Binary,
            MessageKind::Ping => Self::Ping,
            MessageKind::Pong => Self::Pong,
        }
    }
}

fn check_payload(kind: MessageKind, payload: &[u8]) -> Result<()> {
    match kind {
        MessageKind::Text if std::str::from_utf8(payload).is_err() => {
            rule("produced text that is not UTF-8".to_owned())
        }
        MessageKind::Ping | MessageKind::Pong if payload.len() > MAX_CONTROL_BYTES => rule(
            format!("produced a ping or pong of {} bytes", payload.len()),
        ),
        _ => Ok(()),
    }
}
