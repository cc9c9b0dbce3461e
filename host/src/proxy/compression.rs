//! `permessage-deflate` on a route whose plugins see messages: agreed on with the client and with the
//! service, each for itself (RFC 7692).
//!
//! Every message stands alone on both legs. So one that passes can go on as it came, compressed,
//! and one that nobody wants to see need not be inflated.

use http::HeaderMap;
use http::header::{HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

use crate::config;
use crate::protocol::extensions::{Agreement, AnswerError, LARGEST_WINDOW, Offer, none_answered};
use crate::protocol::message::Side;

/// What the client offered and the service is offered, until the service has answered.
pub(crate) struct Negotiation {
    /// None: nothing that the route and the proxy would accept.
    from_client: Option<Offer>,
    /// None: nothing.
    to_service: Option<Offer>,
}

/// How the legs of a session are compressed. None: not at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Legs {
    client: Option<Agreement>,
    service: Option<Agreement>,
}

impl Negotiation {
    /// Takes the extensions that a client offers out of its request, and puts in what is offered to
    /// the service instead. All but `permessage-deflate` are declined.
    pub(crate) fn begin(headers: &mut HeaderMap, allowed: config::Compression) -> Self {
        let offered = Offer::first(headers.get_all(SEC_WEBSOCKET_EXTENSIONS));
        headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        let to_service = match (allowed.client, &offered) {
            _ if !allowed.service => None,
            // With the same windows on both legs, messages need not be compressed anew.
            (true, Some(offered)) => Some(offered.clone()),
            // Where the client's leg is plain anyway, the service's is for the proxy to fill.
            (true, None) => None,
            (false, _) => Some(Offer::default()),
        };
        let to_service = to_service.map(|offer| Offer {
            server_no_context_takeover: true,
            ..offer
        });
        if let Some(offer) = &to_service
            && let Ok(field) = HeaderValue::try_from(offer.field())
        {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, field);
        }
        Self {
            from_client: offered.filter(|_| allowed.client),
            to_service,
        }
    }

    /// Reads what the service answered, and puts the proxy's own answer to the client in its place.
    pub(crate) fn conclude(&self, headers: &mut HeaderMap) -> Result<Legs, AnswerError> {
        let answer = headers.get_all(SEC_WEBSOCKET_EXTENSIONS);
        let service = match &self.to_service {
            Some(offer) => offer.answered(answer)?,
            None => {
                none_answered(answer)?;
                None
            }
        };
        headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        let client = self.from_client.as_ref().map(|offer| {
            let largest = service.map_or(LARGEST_WINDOW, |service| service.client_window_bits);
            let (agreement, field) = offer.accept(largest);
            if let Ok(field) = HeaderValue::try_from(field) {
                headers.insert(SEC_WEBSOCKET_EXTENSIONS, field);
            }
            agreement
        });
        Ok(Legs { client, service })
    }
}

impl Legs {
    /// Whether messages may come compressed from a side.
    pub(crate) fn is_compressed(&self, side: Side) -> bool {
        self.leg(side).is_some()
    }

    /// Largest window of what may be sent to a side compressed. None: nothing may.
    pub(crate) fn window_towards(&self, side: Side) -> Option<u8> {
        let leg = self.leg(side)?;
        Some(match side {
            Side::Client => leg.server_window_bits,
            Side::Service => leg.client_window_bits,
        })
    }

    /// Whether compressed messages from a side can go on as they came.
    pub(crate) fn forwards_compressed(&self, from: Side) -> bool {
        let used = self.leg(from).map(|leg| match from {
            Side::Client => leg.client_window_bits,
            Side::Service => leg.server_window_bits,
        });
        let allowed = self.window_towards(from.other());
        matches!((used, allowed), (Some(used), Some(allowed)) if used <= allowed)
    }

    /// Whether messages from a side, where nothing is compressed, are compressed for the other.
    pub(crate) fn compresses(&self, from: Side) -> bool {
        self.leg(from).is_none() && self.leg(from.other()).is_some()
    }

    /// Whether the messages of both sides can be relayed by somebody who does not look at them.
    pub(crate) fn is_transparent(&self) -> bool {
        [Side::Client, Side::Service].into_iter().all(|from| {
            !self.compresses(from) && (!self.is_compressed(from) || self.forwards_compressed(from))
        })
    }

    fn leg(&self, side: Side) -> Option<Agreement> {
        match side {
            Side::Client => self.client,
            Side::Service => self.service,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Compression;

    const BOTH: Compression = Compression {
        client: true,
        service: true,
    };
    const CLIENT: Compression = Compression {
        service: false,
        ..BOTH
    };
    const SERVICE: Compression = Compression {
        client: false,
        ..BOTH
    };
    const OFF: Compression = Compression {
        client: false,
        ..CLIENT
    };

    fn headers(extensions: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !extensions.is_empty() {
            let value = HeaderValue::from_str(extensions).unwrap();
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, value);
        }
        headers
    }

    fn written(headers: &HeaderMap) -> &str {
        let mut values = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
        let value = values.next().map_or("", |value| value.to_str().unwrap());
        assert_eq!(values.next(), None);
        value
    }

    /// Negotiates: returns what the service is offered, what the client is answered, and the legs.
    fn negotiate(
        allowed: Compression,
        offer: &str,
        answer: &str,
    ) -> (String, Result<(String, Legs), AnswerError>) {
        let mut request = headers(offer);
        let negotiation = Negotiation::begin(&mut request, allowed);
        let mut response = headers(answer);
        let legs = negotiation.conclude(&mut response);
        let answered = legs.map(|legs| (written(&response).to_owned(), legs));
        (written(&request).to_owned(), answered)
    }

    const OFFER: &str = "permessage-deflate; client_max_window_bits";
    const ANSWER: &str = "permessage-deflate; server_no_context_takeover";
    const OURS: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    #[test]
    fn what_a_client_offers_is_offered_to_the_service_without_its_context() {
        let (offered, answered) = negotiate(BOTH, OFFER, ANSWER);
        let expected = "permessage-deflate; server_no_context_takeover; client_max_window_bits";
        assert_eq!(offered, expected);
        let (answer, legs) = answered.unwrap();
        assert_eq!(answer, OURS);
        assert!(legs.is_transparent());
        for side in [Side::Client, Side::Service] {
            assert!(legs.is_compressed(side) && legs.forwards_compressed(side));
            assert_eq!(legs.window_towards(side), Some(15));
        }
    }

    #[test]
    fn a_client_that_offers_nothing_has_a_plain_session() {
        for offer in ["", "x-other", "permessage-deflate; mystery"] {
            for allowed in [BOTH, CLIENT, OFF] {
                let expected = (String::new(), Ok((String::new(), Legs::default())));
                assert_eq!(negotiate(allowed, offer, ""), expected, "{offer}");
            }
        }
        assert!(Legs::default().is_transparent());
    }

    #[test]
    fn a_leg_that_the_route_leaves_out_is_plain() {
        let (offered, answered) = negotiate(CLIENT, OFFER, "");
        let (answer, legs) = answered.unwrap();
        assert_eq!((&offered[..], &answer[..]), ("", OURS));
        assert!(legs.is_compressed(Side::Client) && !legs.is_compressed(Side::Service));
        assert!(legs.compresses(Side::Service) && !legs.compresses(Side::Client));
        assert!(!legs.forwards_compressed(Side::Client) && !legs.is_transparent());

        for offer in [OFFER, ""] {
            let (offered, answered) = negotiate(SERVICE, offer, ANSWER);
            let (answer, legs) = answered.unwrap();
            assert_eq!((&offered[..], &answer[..]), (ANSWER, ""));
            assert!(!legs.is_compressed(Side::Client) && legs.is_compressed(Side::Service));
            assert!(legs.compresses(Side::Client));
        }

        let (offered, answered) = negotiate(OFF, OFFER, "");
        assert_eq!(
            (offered, answered),
            (String::new(), Ok((String::new(), Legs::default())))
        );
    }

    #[test]
    fn a_service_that_declines_leaves_the_client_compressed() {
        let (_, answered) = negotiate(BOTH, OFFER, "");
        let (answer, legs) = answered.unwrap();
        assert_eq!(answer, OURS);
        assert!(legs.compresses(Side::Service));
    }

    #[test]
    fn an_answer_that_was_not_asked_for_is_refused() {
        for (allowed, offer) in [(BOTH, ""), (CLIENT, OFFER), (OFF, OFFER)] {
            let (_, answered) = negotiate(allowed, offer, ANSWER);
            assert_eq!(answered, Err(AnswerError::NotOffered));
        }
    }

    #[test]
    fn windows_that_differ_keep_messages_from_passing_as_they_are() {
        // The service may use a larger window than the client has.
        let offer = "permessage-deflate; server_max_window_bits=10";
        let (_, answered) = negotiate(BOTH, offer, ANSWER);
        let (answer, legs) = answered.unwrap();
        assert_eq!(answer, format!("{OURS}; server_max_window_bits=10"));
        assert!(!legs.forwards_compressed(Side::Service) && legs.forwards_compressed(Side::Client));
        assert!(!legs.is_transparent());
        assert_eq!(legs.window_towards(Side::Client), Some(10));

        // It keeps to the client's.
        let kept = format!("{ANSWER}; server_max_window_bits=9");
        let (_, answered) = negotiate(BOTH, offer, &kept);
        assert!(answered.unwrap().1.is_transparent());

        // The client is asked for the window that the service wants.
        let small = format!("{ANSWER}; client_max_window_bits=11");
        let (_, answered) = negotiate(BOTH, OFFER, &small);
        let (answer, legs) = answered.unwrap();
        assert_eq!(answer, format!("{OURS}; client_max_window_bits=11"));
        assert_eq!(legs.window_towards(Side::Service), Some(11));
        assert!(legs.is_transparent());
    }
}
