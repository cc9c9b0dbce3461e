//! What a plugin's own unit tests need to call it natively, without the host.
//!
//! ```
//! use tidegate_plugin::testing::{Request, response};
//!
//! let request = Request { target: "/chat?room=7", fields: &[("Cookie", "a=b")], ..Request::default() };
//! let mut head = request.head();
//! head.set("x-room", "7").unwrap();
//! assert_eq!(head.text("X-Room").as_deref(), Some("7"));
//! assert_eq!(response(200, &[("Server", "x")]).names(), ["server"]);
//! ```

use std::task::Poll;
use std::time::Duration;

use crate::bindings::imports::tidegate::plugin::tickets;
use crate::call;
use crate::waiting::host::HOST;
use crate::waiting::{self, Order};
use crate::{
    Handover, Handshake, Kind, Outgoing, Plugin, Reopening, RequestHead, ResponseHead, SentRequest,
    Side, memory,
};

/// Makes a plugin as the host does: from its configuration as JSON, which is `{}` where the
/// operator gave none.
///
/// # Errors
///
/// The message that the operator is shown.
pub fn configure<P: Plugin>(config: &str) -> Result<P, String> {
    crate::plugin::configure(config)
}

/// Hands a session from one version of a plugin over to another, as the host does. Both may be the same
/// type; an older one can be kept beside the tests to show that its sessions can be read.
///
/// # Errors
///
/// Why it was refused, as it is logged.
pub fn hand_over<From: Handover, To: Handover>(
    session: &From::Session,
    to: &mut To,
) -> Result<To::Session, String> {
    let state = crate::handover::snapshot::<From>(session)?;
    crate::handover::restore(to, From::FORM, &state)
}

/// Runs a hook that may wait, as the host does. Each call-out is answered by `answer`; timers are over at
/// once, one after the other, when no call-out is left to answer.
///
/// # Panics
///
/// If the future waits for something that is neither.
pub fn run<F: Future>(
    future: F,
    mut answer: impl FnMut(&call::Request) -> Result<call::Response, call::Error>,
) -> F::Output {
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = waiting::poll(0, future.as_mut()) {
            return output;
        }
        let next = HOST.with_borrow_mut(|host| {
            let is_call = |(_, order): &(u64, Order)| matches!(order, Order::Call(_));
            let time = |order: &Order| match order {
                Order::Sleep(time) => *time,
                Order::Call(_) => Duration::ZERO,
            };
            let call = host.open.iter().position(is_call);
            let next = call.or_else(|| {
                let timers = host.open.iter().enumerate();
                timers
                    .min_by_key(|(_, (_, order))| time(order))
                    .map(|(at, _)| at)
            });
            next.map(|at| host.open.remove(at))
        });
        let (ticket, order) = next.expect("waits for something that is no ticket");
        let reply = match order {
            Order::Sleep(_) => tickets::Reply::Elapsed,
            Order::Call(request) => match answer(&request) {
                Ok(response) => tickets::Reply::Response(tickets::Response {
                    status: response.status,
                    fields: response.fields,
                    body: response.body,
                }),
                Err(error) => tickets::Reply::Failed(error.into()),
            },
        };
        waiting::settle(ticket, reply);
    }
}

/// A request to make heads from. The default is `GET /` over http to localhost.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`
    pub method: &'a str,
    /// `http`
    pub scheme: &'a str,
    /// Lower case, without port.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Without port.
    pub remote_address: &'a str,
    /// Whether it is an opening handshake.
    pub is_handshake: bool,
    /// Names and values, in order.
    pub fields: &'a [(&'a str, &'a str)],
    /// Address and port of the endpoint that answered it.
    pub endpoint: Option<&'a str>,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            method: "GET",
            scheme: "http",
            host: "localhost",
            target: "/",
            remote_address: "192.0.2.1",
            is_handshake: false,
            fields: &[],
            endpoint: Some("127.0.0.1:9001"),
        }
    }
}

impl Request<'_> {
    /// Makes the head that [`OnRequest`](crate::OnRequest) and [`Balancer`](crate::Balancer) see.
    #[must_use]
    pub fn head(&self) -> RequestHead<'static> {
        RequestHead::new(self.in_memory())
    }

    /// Makes what [`OnResponse`](crate::OnResponse) sees of the request.
    #[must_use]
    pub fn sent(&self) -> SentRequest<'static> {
        SentRequest::new(self.in_memory())
    }

    /// Makes what [`Messages`](crate::Messages) and [`Fragments`](crate::Fragments) see of the
    /// handshake that was answered with these fields.
    #[must_use]
    pub fn handshake(&self, response: &[(&str, &str)]) -> Handshake<'static> {
        self.remembered(response, None)
    }

    /// The same for a session that was running before.
    #[must_use]
    pub fn reopened(&self, response: &[(&str, &str)], why: Reopening) -> Handshake<'static> {
        self.remembered(response, Some(why))
    }

    fn remembered(
        &self,
        response: &[(&str, &str)],
        reopening: Option<Reopening>,
    ) -> Handshake<'static> {
        Handshake::new(memory::Handshake {
            request: self.in_memory(),
            response: memory::Fields::new(response, true),
            endpoint: self.endpoint.unwrap_or_default().to_owned(),
            reopening,
        })
    }

    fn in_memory(&self) -> memory::Request {
        memory::Request {
            method: self.method.to_owned(),
            scheme: self.scheme.to_owned(),
            host: self.host.to_owned(),
            target: self.target.to_owned(),
            remote_address: self.remote_address.to_owned(),
            endpoint: self.endpoint.map(str::to_owned),
            fields: memory::Fields::new(self.fields, self.is_handshake),
        }
    }
}

/// Makes the head of a response.
#[must_use]
pub fn response(status: u16, fields: &[(&str, &str)]) -> ResponseHead<'static> {
    ResponseHead::new(memory::Response {
        status,
        fields: memory::Fields::new(fields, status == 101),
    })
}

/// A message that a plugin sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// The end it goes to.
    pub to: Side,
    /// What the payload is.
    pub kind: Kind,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Outgoing {
    /// Returns what was sent, in order. Only natively.
    #[must_use]
    pub fn sent(&self) -> &[Sent] {
        &self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadError;

    #[test]
    fn a_head_refuses_what_the_host_would() {
        let mut head = Request {
            is_handshake: true,
            ..Request::default()
        }
        .head();
        assert_eq!(
            head.set("a b", "1"),
            Err(HeadError::InvalidField("a b".into()))
        );
        assert_eq!(
            head.set("a", "1\n"),
            Err(HeadError::InvalidField("a".into()))
        );
        assert_eq!(
            head.add("TE", "x"),
            Err(HeadError::ForbiddenField("te".into()))
        );
        assert_eq!(
            head.remove("Sec-WebSocket-Key"),
            Err(HeadError::ForbiddenField("sec-websocket-key".into()))
        );
        assert_eq!(
            head.set_target("chat"),
            Err(HeadError::InvalidTarget("chat".into()))
        );
        assert_eq!(
            response(101, &[]).set_status(200),
            Err(HeadError::InvalidStatus(200))
        );
        assert_eq!(
            response(200, &[]).set_status(101),
            Err(HeadError::InvalidStatus(101))
        );
        assert_eq!(response(200, &[]).set_status(404), Ok(()));
    }

    #[test]
    fn set_replaces_add_keeps_remove_says_whether() {
        let mut head = Request {
            fields: &[("A", "1"), ("a", "2")],
            ..Request::default()
        }
        .head();
        assert_eq!(head.get_all("A"), [b"1", b"2"]);
        head.add("a", "3").unwrap();
        assert_eq!(head.get_all("a").len(), 3);
        head.set("A", "4").unwrap();
        assert_eq!(head.get_all("a"), [b"4"]);
        assert_eq!(head.remove("a"), Ok(true));
        assert_eq!(head.remove("a"), Ok(false));
    }

    #[test]
    fn a_hook_goes_on_with_the_first_reply_and_what_it_drops_is_cancelled() {
        let ask = |target| call::Request::get("a", target).send();
        let both = async {
            let mut slow = Box::pin(crate::sleep(Duration::from_secs(9)));
            let mut quick = Box::pin(ask("/quick"));
            std::future::poll_fn(|cx| {
                if slow.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(call::Error::Timeout));
                }
                quick.as_mut().poll(cx)
            })
            .await
        };
        let then = async {
            let first = both.await?;
            Ok::<_, call::Error>((first.status, ask("/next").await?.status))
        };
        let answer = |request: &call::Request| {
            Ok(call::Response::new(match &*request.target {
                "/quick" => 200,
                _ => 404,
            }))
        };
        assert_eq!(run(then, answer), Ok((200, 404)));
        HOST.with_borrow(|host| assert!(host.open.is_empty()));
        assert_eq!(
            run(ask("/"), |_| Err(call::Error::Refused)),
            Err(call::Error::Refused)
        );
    }

    #[test]
    fn a_handshake_tells_the_subprotocol_agreed_on() {
        let handshake = Request::default().handshake(&[("Sec-WebSocket-Protocol", "chat")]);
        assert_eq!(handshake.subprotocol().as_deref(), Some("chat"));
        assert_eq!(handshake.endpoint(), "127.0.0.1:9001");
    }
}
