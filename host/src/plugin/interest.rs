//! What plugins want to see of a session, summed up so that a message nobody wants costs a look.

use super::bindings::exports::tidegate::plugin::fragments::{DataKinds, Purpose};
use super::bindings::exports::tidegate::plugin::messages::Kinds;
use super::sessions::Wants;
use crate::protocol::message::{MessageKind, Side};

/// What a plugin, or a whole chain, wants to see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) whole: Wanted,
    pub(super) pieces: Pieces,
}

/// For each direction and kind: payloads shorter than this are wanted whole, none if 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted([u64; 8]);

/// Directions and kinds, a bit for each, of which messages are wanted in pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    shown: u8,
    /// Those of them that may be changed.
    edited: u8,
}

impl Interest {
    /// What a plugin answered when the session was opened. Longer messages than `max_message` are shown
    /// whole to nobody.
    pub(super) fn of(wants: &Wants, max_message: u64) -> Self {
        let mut interest = Self::default();
        if let Some(subscription) = &wants.messages {
            let largest = subscription.largest.unwrap_or(u64::MAX);
            let below = largest.min(max_message).saturating_add(1);
            for (from, kinds) in [
                (Side::Client, subscription.from_client),
                (Side::Service, subscription.from_service),
            ] {
                for (kind, flag) in [
                    (MessageKind::Text, Kinds::TEXT),
                    (MessageKind::Binary, Kinds::BINARY),
                    (MessageKind::Ping, Kinds::PING),
                    (MessageKind::Pong, Kinds::PONG),
                ] {
                    if kinds.contains(flag) {
                        interest.whole.0[index(from, kind)] = below;
                    }
                }
            }
        }
        if let Some(subscription) = &wants.fragments {
            for (from, kinds) in [
                (Side::Client, subscription.from_client),
                (Side::Service, subscription.from_service),
            ] {
                for (kind, flag) in [
                    (MessageKind::Text, DataKinds::TEXT),
                    (MessageKind::Binary, DataKinds::BINARY),
                ] {
                    if kinds.contains(flag) {
                        interest.pieces.shown |= bit(from, kind);
                    }
                }
            }
            if subscription.purpose == Purpose::Edit {
                interest.pieces.edited = interest.pieces.shown;
            }
        }
        interest
    }

    /// Whether messages are wanted whole, and whether in pieces.
    pub(super) fn watches(&self) -> (bool, bool) {
        (
            self.whole != Wanted::default(),
            self.pieces != Pieces::default(),
        )
    }

    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn or(self, other: Self) -> Self {
        let (whole, others) = (self.whole.0, other.whole.0);
        Self {
            whole: Wanted(std::array::from_fn(|n| whole[n].max(others[n]))),
            pieces: Pieces {
                shown: self.pieces.shown | other.pieces.shown,
                edited: self.pieces.edited | other.pieces.edited,
            },
        }
    }

    /// Whether a message is wanted, whole or in pieces.
    pub(super) fn covers(&self, from: Side, kind: MessageKind, len: usize) -> bool {
        self.whole.covers(from, kind, len) || self.pieces.covers(from, kind)
    }
}

impl Wanted {
    /// Everything: where the sum over those begins who want a kind at all.
    pub(super) const EVERYTHING: Self = Self([u64::MAX; 8]);

    pub(super) fn below(&self, from: Side, kind: MessageKind) -> u64 {
        self.0[index(from, kind)]
    }

    pub(super) fn covers(&self, from: Side, kind: MessageKind, len: usize) -> bool {
        (len as u64) < self.below(from, kind)
    }

    /// What both want; who wants nothing of a kind has no say in it.
    pub(super) fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|n| match other.0[n] {
            0 => self.0[n],
            below => self.0[n].min(below),
        }))
    }
}

impl Pieces {
    pub(super) fn covers(&self, from: Side, kind: MessageKind) -> bool {
        self.shown & bit(from, kind) != 0
    }

    pub(super) fn edits(&self, from: Side, kind: MessageKind) -> bool {
        self.edited & bit(from, kind) != 0
    }
}

pub(super) fn side_index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Service => 1,
    }
}

fn index(from: Side, kind: MessageKind) -> usize {
    let kind = match kind {
        MessageKind::Text => 0,
        MessageKind::Binary => 1,
        MessageKind::Ping => 2,
        MessageKind::Pong => 3,
    };
    4 * side_index(from) + kind
}

fn bit(from: Side, kind: MessageKind) -> u8 {
    1 << index(from, kind)
}
