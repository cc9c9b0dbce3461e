//! What a WebSocket session does by the clock beside ending when it is silent: it pings sides that
//! say nothing, gives up those that do not answer, and ends at its greatest age.
//!
//! Nothing here reads, writes or waits: the session says what it hears and asks what is due.

use std::time::Duration;

use super::mask;
use super::sweep::Moment;
use crate::config::{self, MaxAge, Ping};
use crate::protocol::answers::Token;
use crate::protocol::frame::{Opcode, encode_frame};
use crate::protocol::message::Side;

/// The deadlines of one session.
pub(crate) struct Liveness {
    /// In the pings, so that their pongs are known.
    token: Token,
    client: Option<Leg>,
    service: Option<Leg>,
    ends_at: Moment,
}

/// A side that is pinged.
struct Leg {
    ping: Ping,
    state: LegState,
}

#[derive(Clone, Copy)]
enum LegState {
    /// It is pinged at this moment, unless it says something.
    Quiet { ping_at: Moment },
    /// A ping waits for a place between two frames.
    Asked,
    /// It is given up at this moment, unless it says something.
    Pinged { answer_by: Moment },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Ping(Side),
    /// The side has not answered.
    Unanswered(Side),
    /// The session is as old as it may get.
    Age,
}

impl Liveness {
    /// Begins with a session. None: its route asks for nothing of this.
    pub(crate) fn new(settings: config::Liveness, now: Moment) -> Option<Box<Self>> {
        if settings == config::Liveness::default() {
            return None;
        }
        let leg = |ping: Ping| Leg {
            ping,
            state: LegState::Quiet {
                ping_at: now.after(ping.interval),
            },
        };
        let mut token = Token::default();
        let (halves, _) = token.as_chunks_mut();
        halves.fill_with(mask::fresh);
        Some(Box::new(Self {
            token,
            client: settings.ping_client.map(leg),
            service: settings.ping_service.map(leg),
            ends_at: settings.max_age.map_or(Moment::NEVER, |age| {
                now.after(spread(age, u32::from_ne_bytes(mask::fresh())))
            }),
        }))
    }

    /// Returns what the pings of this session carry.
    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// Whether a side is pinged.
    pub(crate) fn pings(&self, side: Side) -> bool {
        match side {
            Side::Client => self.client.is_some(),
            Side::Service => self.service.is_some(),
        }
    }

    /// Notes that a side has said something.
    pub(crate) fn heard(&mut self, side: Side, now: Moment) {
        if let Some(leg) = self.leg(side) {
            leg.state = LegState::Quiet {
                ping_at: now.after(leg.ping.interval),
            };
        }
    }

    /// Notes that a ping that was due is on its way.
    pub(crate) fn pinged(&mut self, side: Side, now: Moment) {
        if let Some(leg) = self.leg(side) {
            leg.state = LegState::Pinged {
                answer_by: now.after(leg.ping.timeout),
            };
        }
    }

    /// Leaves a side alone, since it can be sent nothing or answer nothing any more.
    pub(crate) fn release(&mut self, side: Side) {
        match side {
            Side::Client => self.client = None,
            Side::Service => self.service = None,
        }
    }

    /// Asks for nothing more. What answers a ping is still known by the token.
    pub(crate) fn stop(&mut self) {
        self.client = None;
        self.service = None;
        self.ends_at = Moment::NEVER;
    }

    /// Returns what is due, each thing once.
    pub(crate) fn due(&mut self, past: Moment) -> Option<Due> {
        if past >= self.ends_at {
            self.ends_at = Moment::NEVER;
            return Some(Due::Age);
        }
        for side in [Side::Client, Side::Service] {
            let Some(leg) = self.leg(side) else {
                continue;
            };
            match leg.state {
                LegState::Quiet { ping_at } if past >= ping_at => {
                    leg.state = LegState::Asked;
                    return Some(Due::Ping(side));
                }
                LegState::Pinged { answer_by } if past >= answer_by => {
                    leg.state = LegState::Asked;
                    return Some(Due::Unanswered(side));
                }
                LegState::Quiet { .. } | LegState::Asked | LegState::Pinged { .. } => {}
            }
        }
        None
    }

    /// Returns when something may be due next, if nobody says anything.
    pub(crate) fn next(&self) -> Moment {
        let legs = [&self.client, &self.service].into_iter().flatten();
        legs.map(|leg| match leg.state {
            LegState::Quiet { ping_at: at } | LegState::Pinged { answer_by: at } => at,
            LegState::Asked => Moment::NEVER,
        })
        .fold(self.ends_at, Moment::min)
    }

    fn leg(&mut self, side: Side) -> Option<&mut Leg> {
        match side {
            Side::Client => self.client.as_mut(),
            Side::Service => self.service.as_mut(),
        }
    }
}

/// Returns a ping for a side.
pub(crate) fn encode_ping(to: Side, token: &Token) -> Box<[u8]> {
    let mut ping = Vec::new();
    let mask = match to {
        Side::Client => None,
        Side::Service => Some(mask::fresh()),
    };
    encode_frame(&mut ping, Opcode::Ping, mask, token);
    ping.into()
}

/// Returns the age at which one session ends: the limit less a share of the jitter, so that sessions
/// that were opened together do not end together.
fn spread(age: MaxAge, share: u32) -> Duration {
    age.limit - age.jitter.mul_f64(f64::from(share) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Ping = Ping {
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(30),
    };

    fn at(millis: u64) -> Moment {
        Moment::default().after(Duration::from_millis(millis))
    }

    fn liveness(
        client: Option<Ping>,
        service: Option<Ping>,
        max_age: Option<u64>,
    ) -> Option<Box<Liveness>> {
        let settings = config::Liveness {
            ping_client: client,
            ping_service: service,
            max_age: max_age.map(|limit| MaxAge {
                limit: Duration::from_millis(limit),
                jitter: Duration::ZERO,
            }),
        };
        Liveness::new(settings, at(0))
    }

    #[test]
    fn a_route_that_asks_for_nothing_costs_nothing() {
        assert!(liveness(None, None, None).is_none());
    }

    #[test]
    fn a_silent_side_is_pinged_then_given_up() {
        let mut liveness = liveness(Some(PING), None, None).unwrap();
        assert_eq!(liveness.next(), at(100));
        assert_eq!(liveness.due(at(99)), None);
        assert_eq!(liveness.due(at(100)), Some(Due::Ping(Side::Client)));
        assert_eq!(liveness.due(at(500)), None);
        assert_eq!(liveness.next(), Moment::NEVER);
        // The frame before it took that long.
        liveness.pinged(Side::Client, at(600));
        assert_eq!(liveness.next(), at(630));
        assert_eq!(liveness.due(at(629)), None);
        assert_eq!(liveness.due(at(630)), Some(Due::Unanswered(Side::Client)));
    }

    #[test]
    fn whatever_a_side_says_postpones_its_ping_and_answers_it() {
        let mut liveness = liveness(Some(PING), Some(PING), None).unwrap();
        liveness.heard(Side::Client, at(50));
        assert_eq!(liveness.next(), at(100));
        assert_eq!(liveness.due(at(100)), Some(Due::Ping(Side::Service)));
        liveness.pinged(Side::Service, at(100));
        liveness.heard(Side::Service, at(110));
        assert_eq!(liveness.next(), at(150));
        assert_eq!(liveness.due(at(150)), Some(Due::Ping(Side::Client)));
        assert_eq!(liveness.due(at(150)), None);
    }

    #[test]
    fn a_side_that_was_released_is_left_alone() {
        let mut liveness = liveness(Some(PING), Some(PING), None).unwrap();
        liveness.release(Side::Client);
        assert!(!liveness.pings(Side::Client) && liveness.pings(Side::Service));
        assert_eq!(liveness.due(at(100)), Some(Due::Ping(Side::Service)));
        assert_eq!(liveness.due(at(100)), None);
    }

    #[test]
    fn a_session_is_as_old_as_it_may_get_once() {
        let mut liveness = liveness(None, None, Some(1000)).unwrap();
        assert_eq!(liveness.next(), at(1000));
        assert_eq!(liveness.due(at(999)), None);
        assert_eq!(liveness.due(at(1000)), Some(Due::Age));
        assert_eq!(liveness.due(at(1000)), None);
    }

    #[test]
    fn jitter_makes_sessions_end_earlier_never_later() {
        let age = MaxAge {
            limit: Duration::from_secs(100),
            jitter: Duration::from_secs(10),
        };
        assert_eq!(spread(age, 0), Duration::from_secs(100));
        assert_eq!(spread(age, u32::MAX), Duration::from_secs(90));
        let middle = spread(age, u32::MAX / 2);
        assert!(middle > Duration::from_secs(94) && middle < Duration::from_secs(96));
    }

    #[test]
    fn tokens_of_two_sessions_differ() {
        let token = || liveness(Some(PING), None, None).unwrap().token();
        assert_ne!(token(), token());
    }
}
