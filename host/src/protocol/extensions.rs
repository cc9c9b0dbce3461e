//! `Sec-WebSocket-Extensions`, and how two ends agree on `permessage-deflate` (RFC 6455 §9.1,
//! RFC 7692 §5, §7.1).
//!
//! The proxy is the server of one leg and the client of the other; `proxy/compression.rs` brings the
//! two together. It only ever agrees on messages that stand alone, in both directions.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::HeaderValue;
use thiserror::Error;

use super::upgrade::{is_token, is_token_byte};

/// Smallest window that may be agreed on, in bits (RFC 7692 §7.1.2).
pub(crate) const SMALLEST_WINDOW: u8 = 8;

/// Largest one, and the one of whoever says nothing.
pub(crate) const LARGEST_WINDOW: u8 = 15;

const PERMESSAGE_DEFLATE: &str = "permessage-deflate";

/// Parameters of one `permessage-deflate` that a client offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The server is to make each message stand alone.
    pub(crate) server_no_context_takeover: bool,
    /// The client may do so even if it is not asked to.
    pub(crate) client_no_context_takeover: bool,
    /// Largest window the server may use.
    pub(crate) server_max_window_bits: Option<u8>,
    /// The client can be told how large its window may be. The number, if there is one, is the
    /// largest it will use anyway.
    pub(crate) client_max_window_bits: Option<Option<u8>>,
}

/// `permessage-deflate` as it is in force between a client and a server. Neither takes context over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// Largest window of what the client compresses.
    pub(crate) client_window_bits: u8,
    /// Largest window of what the server compresses.
    pub(crate) server_window_bits: u8,
}

/// Why a server's answer is not one to what was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum AnswerError {
    #[error("Sec-WebSocket-Extensions that cannot be read")]
    Malformed,
    #[error("an extension that was not offered")]
    NotOffered,
    #[error("permessage-deflate with parameters that do not answer the offer")]
    Parameters,
    #[error("permessage-deflate without the server_no_context_takeover that was asked for")]
    ContextTakeover,
}

impl Offer {
    /// Returns the first acceptable `permessage-deflate` among what a client offers. A field that
    /// cannot be read offers nothing.
    pub(crate) fn first<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Option<Self> {
        let offered = extensions(values).ok()?;
        offered
            .iter()
            .filter(|extension| extension.name == PERMESSAGE_DEFLATE)
            .find_map(Self::read)
    }

    /// Reads the parameters. Nothing if one is unknown, there twice, or has a value that it cannot
    /// have: such an offer must be declined (RFC 7692 §7.1).
    fn read(extension: &Extension<'_>) -> Option<Self> {
        let mut offer = Self::default();
        for (name, value) in &extension.parameters {
            let value = value.as_deref();
            match *name {
                "server_no_context_takeover" => set(&mut offer.server_no_context_takeover, value)?,
                "client_no_context_takeover" => set(&mut offer.client_no_context_takeover, value)?,
                "server_max_window_bits" if offer.server_max_window_bits.is_none() => {
                    offer.server_max_window_bits = Some(window_bits(value?)?);
                }
                "client_max_window_bits" if offer.client_max_window_bits.is_none() => {
                    let bits = match value {
                        Some(value) => Some(window_bits(value)?),
                        None => None,
                    };
                    offer.client_max_window_bits = Some(bits);
                }
                _ => return None,
            }
        }
        Some(offer)
    }

    /// Returns the field that offers this. A server that cannot keep its window small may take the
    /// rest of it, so that is offered as well.
    pub(crate) fn field(&self) -> String {
        let mut field = String::new();
        self.write(&mut field);
        if self.server_max_window_bits.is_some() {
            field.push_str(", ");
            let rest = Self {
                server_max_window_bits: None,
                ..self.clone()
            };
            rest.write(&mut field);
        }
        field
    }

    fn write(&self, field: &mut String) {
        field.push_str(PERMESSAGE_DEFLATE);
        if self.server_no_context_takeover {
            field.push_str("; server_no_context_takeover");
        }
        if self.client_no_context_takeover {
            field.push_str("; client_no_context_takeover");
        }
        if let Some(bits) = self.server_max_window_bits {
            parameter(field, "server_max_window_bits", bits);
        }
        match self.client_max_window_bits {
            Some(Some(bits)) => parameter(field, "client_max_window_bits", bits),
            Some(None) => field.push_str("; client_max_window_bits"),
            None => {}
        }
    }

    /// Accepts the offer: returns what is in force then, and the field that says so. The client is
    /// asked for a window of no more than `client_window_bits` if it can be asked.
    pub(crate) fn accept(&self, client_window_bits: u8) -> (Agreement, String) {
        let mut field =
            format!("{PERMESSAGE_DEFLATE}; server_no_context_takeover; client_no_context_takeover");
        if let Some(bits) = self.server_max_window_bits {
            parameter(&mut field, "server_max_window_bits", bits);
        }
        let own = self.client_max_window_bits.flatten();
        let mut bits = own.unwrap_or(LARGEST_WINDOW);
        if self.client_max_window_bits.is_some() && client_window_bits < bits {
            // Clients built on zlib cannot make the smallest one.
            bits = client_window_bits.max(SMALLEST_WINDOW + 1).min(bits);
            parameter(&mut field, "client_max_window_bits", bits);
        }
        let agreement = Agreement {
            client_window_bits: bits,
            server_window_bits: self.server_max_window_bits.unwrap_or(LARGEST_WINDOW),
        };
        (agreement, field)
    }

    /// Reads a server's answer to this offer. Nothing: it declined.
    pub(crate) fn answered<'a>(
        &self,
        values: impl IntoIterator<Item = &'a HeaderValue>,
    ) -> Result<Option<Agreement>, AnswerError> {
        let answer = match &extensions(values)?[..] {
            [] => return Ok(None),
            [answer] if answer.name == PERMESSAGE_DEFLATE => {
                Self::read(answer).ok_or(AnswerError::Parameters)?
            }
            _ => return Err(AnswerError::NotOffered),
        };
        if self.server_no_context_takeover && !answer.server_no_context_takeover {
            return Err(AnswerError::ContextTakeover);
        }
        let own = self.client_max_window_bits.flatten();
        let client_window_bits = match answer.client_max_window_bits {
            None => own.unwrap_or(LARGEST_WINDOW),
            Some(Some(bits)) if self.client_max_window_bits.is_some() => {
                bits.min(own.unwrap_or(bits))
            }
            Some(_) => return Err(AnswerError::Parameters),
        };
        Ok(Some(Agreement {
            client_window_bits,
            server_window_bits: answer.server_max_window_bits.unwrap_or(LARGEST_WINDOW),
        }))
    }
}

/// Checks the answer of a server that was offered nothing.
pub(crate) fn none_answered<'a>(
    values: impl IntoIterator<Item = &'a HeaderValue>,
) -> Result<(), AnswerError> {
    match extensions(values)?[..] {
        [] => Ok(()),
        _ => Err(AnswerError::NotOffered),
    }
}

/// Sets a flag that is set at most once and has no value.
fn set(flag: &mut bool, value: Option<&str>) -> Option<()> {
    (value.is_none() && !std::mem::replace(flag, true)).then_some(())
}

/// Reads a number of bits: no sign, no leading zero (RFC 7692 §7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    let bits = value.parse().ok()?;
    let is_plain = value.starts_with(|c: char| matches!(c, '1'..='9'));
    (is_plain && (SMALLEST_WINDOW..=LARGEST_WINDOW).contains(&bits)).then_some(bits)
}

fn parameter(field: &mut String, name: &str, bits: u8) {
    write!(field, "; {name}={bits}").expect("a string takes what is written");
}

/// One item of the field.
struct Extension<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<Cow<'a, str>>)>,
}

/// Reads all items in order.
fn extensions<'a>(
    values: impl IntoIterator<Item = &'a HeaderValue>,
) -> Result<Vec<Extension<'a>>, AnswerError> {
    let mut found = Vec::new();
    for value in values {
        let mut rest = Rest(value.as_bytes());
        loop {
            // Lists may have empty items (RFC 9110 §5.6.1.2).
            while rest.takes(b',') {}
            if rest.0.is_empty() {
                break;
            }
            found.push(rest.extension().ok_or(AnswerError::Malformed)?);
            if !rest.0.is_empty() && !rest.takes(b',') {
                return Err(AnswerError::Malformed);
            }
        }
    }
    Ok(found)
}

/// What is not read yet of a field's value.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn extension(&mut self) -> Option<Extension<'a>> {
        let name = self.token()?;
        let mut parameters = Vec::new();
        while self.takes(b';') {
            let name = self.token()?;
            let value = match self.takes(b'=') {
                true if self.takes(b'"') => Some(Cow::Owned(self.quoted()?)),
                true => Some(Cow::Borrowed(self.token()?)),
                false => None,
            };
            parameters.push((name, value));
        }
        Some(Extension { name, parameters })
    }

    fn token(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|&byte| !is_token_byte(byte));
        let (token, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest.trim_ascii_start();
        std::str::from_utf8(token)
            .ok()
            .filter(|token| !token.is_empty())
    }

    /// Reads a string whose opening quote is read. Without its quotes it must be a token
    /// (RFC 6455 §9.1).
    fn quoted(&mut self) -> Option<String> {
        let mut text = Vec::new();
        loop {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => break,
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    text.push(escaped);
                }
                _ => text.push(byte),
            }
        }
        self.0 = self.0.trim_ascii_start();
        String::from_utf8(text).ok().filter(|text| is_token(text))
    }

    /// Takes one sign and the space around it, if it is the next.
    fn takes(&mut self, sign: u8) -> bool {
        self.0 = self.0.trim_ascii_start();
        let taken = self.0.strip_prefix(&[sign]);
        if let Some(rest) = taken {
            // Space within quotes belongs to the string.
            self.0 = if sign == b'"' {
                rest
            } else {
                rest.trim_ascii_start()
            };
        }
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(text: &str) -> HeaderValue {
        HeaderValue::from_bytes(text.as_bytes()).unwrap()
    }

    fn first(text: &str) -> Option<Offer> {
        Offer::first([&field(text)])
    }

    fn answered(offer: &str, answer: &str) -> Result<Option<Agreement>, AnswerError> {
        first(offer).unwrap().answered([&field(answer)])
    }

    #[test]
    fn an_offer_is_read_with_all_its_parameters() {
        assert_eq!(first("permessage-deflate"), Some(Offer::default()));
        let all = Offer {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            server_max_window_bits: Some(10),
            client_max_window_bits: Some(Some(15)),
        };
        for text in [
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=10; client_max_window_bits=15",
            " permessage-deflate;client_max_window_bits=\"15\" ;\tserver_max_window_bits = \"1\\0\"\
             ;client_no_context_takeover;server_no_context_takeover ",
        ] {
            assert_eq!(first(text), Some(all.clone()), "{text}");
        }
        // What browsers send.
        let told = Offer {
            client_max_window_bits: Some(None),
            ..Offer::default()
        };
        assert_eq!(
            first("permessage-deflate; client_max_window_bits"),
            Some(told)
        );
    }

    #[test]
    fn an_offer_with_a_parameter_that_is_unknown_or_wrong_is_declined() {
        for parameters in [
            "mystery",
            "mystery=1",
            "server_no_context_takeover=1",
            "client_no_context_takeover=\"\"",
            "server_no_context_takeover; server_no_context_takeover",
            "client_max_window_bits; client_max_window_bits=10",
            "server_max_window_bits=10; server_max_window_bits=10",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=010",
            "server_max_window_bits=+10",
            "server_max_window_bits=1000",
            "client_max_window_bits=x",
        ] {
            let text = format!("permessage-deflate; {parameters}");
            assert_eq!(first(&text), None, "{text}");
        }
    }

    #[test]
    fn of_several_offers_the_first_acceptable_one_counts() {
        let several = "x-webkit-deflate-frame, permessage-deflate; mystery, , permessage-deflate; \
                       server_max_window_bits=9, permessage-deflate";
        assert_eq!(first(several).unwrap().server_max_window_bits, Some(9));
        let lines = [field("foo; bar=\"a,b\\\"c\""), field("permessage-deflate")];
        // Not a token within the quotes, so nothing in this field can be relied on.
        assert_eq!(Offer::first(&lines), None);
        let lines = [field("foo; bar=\"ab\", baz"), field("permessage-deflate")];
        assert_eq!(Offer::first(&lines), Some(Offer::default()));
    }

    #[test]
    fn a_field_that_cannot_be_read_offers_nothing() {
        for text in [
            "",
            ",",
            "permessage-deflate;",
            "permessage-deflate; ; client_max_window_bits",
            "permessage-deflate client_max_window_bits",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_max_window_bits=\"10",
            "permessage-deflate; client_max_window_bits=\"10\\",
            "permessage-deflate; client_max_window_bits=\" 10\"",
            "permessage-deflate, =",
            "permessage-deflate, é",
            "Permessage-Deflate",
        ] {
            assert_eq!(first(text), None, "{text}");
        }
    }

    #[test]
    fn an_offer_is_written_as_it_would_be_read() {
        for text in [
            "permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_max_window_bits",
            "permessage-deflate; client_no_context_takeover; client_max_window_bits=12",
        ] {
            assert_eq!(first(text).unwrap().field(), text);
        }
    }

    #[test]
    fn a_small_window_is_asked_for_and_gone_without() {
        let offer = first("permessage-deflate; server_max_window_bits=12").unwrap();
        let field = "permessage-deflate; server_max_window_bits=12, permessage-deflate";
        assert_eq!(offer.field(), field);
    }

    #[test]
    fn the_answer_to_a_client_forgoes_context_and_keeps_the_windows() {
        let accept = |offer: &str, largest| {
            let (agreement, field) = first(offer).unwrap().accept(largest);
            let windows = (agreement.client_window_bits, agreement.server_window_bits);
            let rest = field.strip_prefix(
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            );
            (windows, rest.unwrap().to_owned())
        };
        let plain = (((15, 15), String::new()), "permessage-deflate");
        assert_eq!(accept(plain.1, 15), plain.0);
        // It cannot be asked for a smaller window.
        assert_eq!(accept(plain.1, 10), plain.0);
        for (offer, largest, windows, rest) in [
            (
                "server_max_window_bits=8",
                15,
                (15, 8),
                "; server_max_window_bits=8",
            ),
            ("client_max_window_bits", 15, (15, 15), ""),
            (
                "client_max_window_bits",
                11,
                (11, 15),
                "; client_max_window_bits=11",
            ),
            (
                "client_max_window_bits",
                8,
                (9, 15),
                "; client_max_window_bits=9",
            ),
            ("client_max_window_bits=10", 15, (10, 15), ""),
            (
                "client_max_window_bits=10",
                9,
                (9, 15),
                "; client_max_window_bits=9",
            ),
            ("client_max_window_bits=8", 9, (8, 15), ""),
        ] {
            let offer = format!("permessage-deflate; {offer}");
            assert_eq!(
                accept(&offer, largest),
                (windows, rest.to_owned()),
                "{offer}"
            );
        }
    }

    #[test]
    fn an_answer_says_what_is_in_force() {
        let offer = "permessage-deflate; server_no_context_takeover; client_max_window_bits";
        let agreement = |client_window_bits, server_window_bits| {
            Ok(Some(Agreement {
                client_window_bits,
                server_window_bits,
            }))
        };
        let answer = |parameters: &str| {
            let text = format!("permessage-deflate; server_no_context_takeover{parameters}");
            answered(offer, &text)
        };
        assert_eq!(answered(offer, ""), Ok(None));
        assert_eq!(answer(""), agreement(15, 15));
        assert_eq!(answer("; client_no_context_takeover"), agreement(15, 15));
        assert_eq!(answer("; server_max_window_bits=10"), agreement(15, 10));
        assert_eq!(answer("; client_max_window_bits=9"), agreement(9, 15));
        let hinted = "permessage-deflate; client_max_window_bits=12";
        assert_eq!(answered(hinted, "permessage-deflate"), agreement(12, 15));
        let larger = "permessage-deflate; client_max_window_bits=14";
        assert_eq!(answered(hinted, larger), agreement(12, 15));
    }

    #[test]
    fn an_answer_to_what_was_not_asked_is_refused() {
        let offer = "permessage-deflate; server_no_context_takeover";
        for (answer, error) in [
            ("permessage-deflate", AnswerError::ContextTakeover),
            ("x-other", AnswerError::NotOffered),
            (
                "permessage-deflate; server_no_context_takeover, x-other",
                AnswerError::NotOffered,
            ),
            (
                "permessage-deflate; server_no_context_takeover; client_max_window_bits=10",
                AnswerError::Parameters,
            ),
            (
                "permessage-deflate; server_no_context_takeover; mystery",
                AnswerError::Parameters,
            ),
            ("permessage-deflate; ;", AnswerError::Malformed),
        ] {
            assert_eq!(answered(offer, answer), Err(error), "{answer}");
        }
        let bare = "permessage-deflate; client_max_window_bits";
        assert_eq!(answered(bare, bare), Err(AnswerError::Parameters));
        assert_eq!(none_answered([&field("")]), Ok(()));
        let unasked = none_answered([&field("permessage-deflate")]);
        assert_eq!(unasked, Err(AnswerError::NotOffered));
    }

    proptest! {
        #[test]
        fn random_fields_never_panic(
            text in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                prop::collection::vec(prop::sample::select(&[
                    "permessage-deflate", "server_max_window_bits", "client_max_window_bits",
                    "server_no_context_takeover", "a", "10", "; ", ";", ", ", "=", "\"", "\\", "\t",
                ][..]), 0..15).prop_map(|pieces| pieces.concat().into_bytes()),
            ],
        ) {
            let name = PERMESSAGE_DEFLATE.as_bytes();
            let has_name = text.windows(name.len()).any(|window| window == name);
            if let Ok(value) = HeaderValue::from_bytes(&text) {
                prop_assert!(has_name || Offer::first([&value]).is_none());
                let answer = Offer::default().answered([&value]);
                prop_assert!(has_name || !matches!(answer, Ok(Some(_))));
            }
        }

        #[test]
        fn any_offer_reads_as_it_was_written(
            flags: (bool, bool),
            client_max_window_bits in prop::option::of(prop::option::of(8..=15_u8)),
            server_max_window_bits in prop::option::of(8..=15_u8),
        ) {
            let offer = Offer {
                server_no_context_takeover: flags.0,
                client_no_context_takeover: flags.1,
                server_max_window_bits,
                client_max_window_bits,
            };
            let field = offer.field();
            prop_assert_eq!(first(&field), Some(offer.clone()));
            // A client made of this very code takes the answer.
            let (agreement, answer) = offer.accept(9);
            let value = HeaderValue::try_from(answer).unwrap();
            prop_assert_eq!(offer.answered([&value]), Ok(Some(agreement)));
        }
    }
}
