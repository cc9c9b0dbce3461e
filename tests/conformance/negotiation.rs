//! `Sec-WebSocket-Extensions` of both ends (RFC 7692 §7.1).

use super::deflate::{Deflater, Inflater};
use super::endpoint::Side;

/// `permessage-deflate` as it was agreed on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Agreement {
    pub(super) client: Direction,
    pub(super) server: Direction,
}

/// How what one side sends is compressed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Direction {
    pub(super) window_bits: u8,
    pub(super) takes_over: bool,
}

impl Agreement {
    pub(super) fn of(&self, side: Side) -> Direction {
        match side {
            Side::Client => self.client,
            Side::Service => self.server,
        }
    }

    /// What an answer to an offer means; nothing: no extension is in use.
    pub(super) fn read(offer: &str, answer: Option<&str>) -> Result<Option<Self>, String> {
        let Some(answer) = answer else {
            return Ok(None);
        };
        let parameters = parameters(answer).ok_or(format!("{answer:?} is no answer"))?;
        let has = |name| parameters.iter().any(|(found, _)| *found == name);
        let bits = |name| {
            let value = parameters.iter().find(|(found, _)| *found == name);
            value.map_or(Some(15), |(_, value)| (*value)?.parse().ok())
        };
        let direction = |no_takeover, max| {
            Some(Direction {
                window_bits: bits(max).filter(|bits| (8..=15).contains(bits))?,
                takes_over: !has(no_takeover),
            })
        };
        // A client keeps to the window that it named, though the answer says nothing of it
        // (RFC 7692 §7.1.2.2).
        let named = parameters_of_first(offer)
            .into_iter()
            .find_map(|(name, value)| {
                (name == "client_max_window_bits").then_some(value?.parse().ok()?)
            });
        let agreement = || {
            let mut client = direction("client_no_context_takeover", "client_max_window_bits")?;
            client.window_bits = client.window_bits.min(named.unwrap_or(15));
            Some(Self {
                client,
                server: direction("server_no_context_takeover", "server_max_window_bits")?,
            })
        };
        agreement()
            .map(Some)
            .ok_or(format!("{answer:?} has no such window"))
    }
}

impl Direction {
    pub(super) fn inflater(self) -> Inflater {
        Inflater::new(self.window_bits, self.takes_over)
    }

    pub(super) fn deflater(self) -> Deflater {
        Deflater::new(self.window_bits, self.takes_over)
    }
}

/// What a service answers: the first offer whose parameters are all known and have values that they
/// can have, with everything that was asked for.
pub(super) fn answer(offers: &str) -> Option<String> {
    offers.split(',').find_map(|offer| {
        let parameters = parameters(offer)?;
        let mut answer = "permessage-deflate".to_owned();
        for (at, (name, value)) in parameters.iter().enumerate() {
            let is_again = parameters[..at].iter().any(|(other, _)| other == name);
            let value = match (*name, value) {
                _ if is_again => return None,
                ("server_no_context_takeover" | "client_no_context_takeover", None) => None,
                // It may stay without a number, and then there is nothing to be said.
                ("client_max_window_bits", None) => continue,
                ("server_max_window_bits" | "client_max_window_bits", Some(bits)) => {
                    let known = (8..=15).map(|bits| bits.to_string());
                    Some(known.into_iter().find(|known| known == bits)?)
                }
                _ => return None,
            };
            answer += &format!("; {name}");
            if let Some(value) = value {
                answer += &format!("={value}");
            }
        }
        Some(answer)
    })
}

/// The parameters of the offer that a client likes best.
fn parameters_of_first(offers: &str) -> Vec<(&str, Option<&str>)> {
    offers.split(',').find_map(parameters).unwrap_or_default()
}

/// The parameters of one `permessage-deflate`.
fn parameters(extension: &str) -> Option<Vec<(&str, Option<&str>)>> {
    let mut items = extension.split(';').map(str::trim);
    if items.next() != Some("permessage-deflate") {
        return None;
    }
    let parameters = items.map(|item| match item.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
        None => (item, None),
    });
    Some(parameters.collect())
}
