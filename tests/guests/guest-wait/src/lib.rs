//! Waits as each request or text message says, so that a test decides who waits, for what and how long.
//!
//! ```toml
//! call = ["oracle"]
//! config = { name = "a", watch = "client" }
//! ```
//!
//! | order | what happens |
//! |---|---|
//! | `ask:TARGET` | the upstream `oracle` is asked for TARGET |
//! | `ask-in:MS:TARGET` | the same, for so many milliseconds at most |
//! | `ask-else:TARGET` | the upstream `else`, which no test grants, is asked |
//! | `both:TARGET:TARGET` | both are asked at once, and both answers waited for |
//! | `first:TARGET:TARGET` | both are asked at once, and the first answer is enough |
//! | `sleep:MS` | a timer |
//! | `many:N` | so many timers of a minute at once; the first that is refused ends it |
//! | `more:N` | the same, with a timer of a minute that was started before the plugin waited for another |
//! | `often:N` | so many timers of a millisecond, one after the other |
//! | `forever` | waits for nothing that anybody could tell of |
//! | `trap`, `trap-after:TARGET` | a panic, at once or after asking |
//!
//! What came of it is written in words: the status and body of an answer, `answered` by a timer, or the
//! error.
//!
//! A request says its order in `x-order`, and its answer goes to the service as `x-answer`; `x-later` is an
//! order about the response, whose answer goes to the client as `x-answer`. A message `ORDER` is replaced by
//! `NAME: ANSWER`; `say/ORDER` sends `NAME waits` to where it came from before that; a message that is no
//! order passes. Ends of sessions are logged as `closed with CODE`. `watch` is the end whose messages are
//! looked at: `client` (default), `service` or `both`.

use std::cell::Cell;
use std::error::Error;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use serde::Deserialize;
use tidegate_plugin::call::{Error as CallError, Request, Response};
use tidegate_plugin::{
    AsyncMessages, AsyncOnRequest, AsyncOnResponse, Ending, Handshake, Kinds, Message,
    MessageVerdict, Outgoing, Plugin, RequestHead, ResponseHead, SentRequest, Side, Subscription,
    Verdict, log, sleep,
};

struct Waits {
    config: Config,
}

/// The configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    name: String,
    #[serde(default)]
    watch: Watch,
}

#[derive(Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Watch {
    #[default]
    Client,
    Service,
    Both,
}

/// Says when a hook is dropped before it is done.
struct Guard {
    order: String,
    done: Cell<bool>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.done.get() {
            log::info!("cancelled {}", self.order);
        }
    }
}

impl Plugin for Waits {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, Box<dyn Error>> {
        Ok(Self { config })
    }
}

impl AsyncOnRequest for Waits {
    async fn on_request(&self, head: &mut RequestHead<'_>) -> Verdict {
        if let Some(order) = head.text("x-order")
            && let Some(answer) = obey(&order).await
        {
            head.set("x-answer", answer)
                .expect("a field that may be set");
        }
        Verdict::Continue
    }
}

impl AsyncOnResponse for Waits {
    async fn on_response(&self, request: &SentRequest<'_>, head: &mut ResponseHead<'_>) -> Verdict {
        if let Some(order) = request.text("x-later")
            && let Some(answer) = obey(&order).await
        {
            let path = request.target();
            let answer = format!("{path} {answer}");
            head.set("x-answer", answer)
                .expect("a field that may be set");
        }
        Verdict::Continue
    }
}

impl AsyncMessages for Waits {
    type Session = ();

    fn open(&self, _: &Handshake, _: &mut Outgoing) -> Option<((), Subscription)> {
        let subscription = match self.config.watch {
            Watch::Client => Subscription::only(Side::Client, Kinds::TEXT),
            Watch::Service => Subscription::only(Side::Service, Kinds::TEXT),
            Watch::Both => Subscription::both(Kinds::TEXT),
        };
        Some(((), subscription))
    }

    async fn on_message(&self, (): &(), message: Message, out: &mut Outgoing) -> MessageVerdict {
        let Some(text) = message.text() else {
            return MessageVerdict::Pass;
        };
        let name = &self.config.name;
        let text = match text.split_once('/') {
            Some((known, order)) if known == name => order,
            _ => text,
        };
        let order = match text.strip_prefix("say/") {
            Some(order) => {
                out.send_text(message.origin, &format!("{name} waits"));
                order
            }
            None => text,
        };
        match obey(order).await {
            Some(answer) => MessageVerdict::Replace(format!("{name}: {answer}").into()),
            None => MessageVerdict::Pass,
        }
    }

    fn on_close(&self, (): &(), ending: Ending) {
        log::info!("closed with {}", ending.code);
    }
}

tidegate_plugin::export!(Waits: async OnRequest, async OnResponse, async Messages);

/// Does what an order says. Returns what came of it; nothing if it is none.
async fn obey(order: &str) -> Option<String> {
    let guard = Guard {
        order: order.to_owned(),
        done: Cell::new(false),
    };
    let (word, argument) = order.split_once(':').unwrap_or((order, ""));
    let (first, second) = argument.split_once(':').unwrap_or((argument, ""));
    let answer = match word {
        "ask" => Some(told(ask(argument).await)),
        "ask-in" => {
            let limit = Duration::from_millis(first.parse().ok()?);
            Some(told(
                Request::get("oracle", second).timeout(limit).send().await,
            ))
        }
        "ask-else" => Some(told(Request::get("else", argument).send().await)),
        "both" => {
            let (mut one, mut other) = (Box::pin(ask(first)), Box::pin(ask(second)));
            let (mut of_one, mut of_other) = (None, None);
            poll_fn(|cx| {
                if of_one.is_none()
                    && let Poll::Ready(answer) = one.as_mut().poll(cx)
                {
                    of_one = Some(told(answer));
                }
                if of_other.is_none()
                    && let Poll::Ready(answer) = other.as_mut().poll(cx)
                {
                    of_other = Some(told(answer));
                }
                match (&of_one, &of_other) {
                    (Some(one), Some(other)) => Poll::Ready(Some(format!("{one}, {other}"))),
                    _ => Poll::Pending,
                }
            })
            .await
        }
        "first" => {
            let (mut one, mut other) = (pin!(ask(first)), pin!(ask(second)));
            poll_fn(|cx| match one.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(told(answer))),
                Poll::Pending => other.as_mut().poll(cx).map(|answer| Some(told(answer))),
            })
            .await
        }
        "sleep" => Some(timer(first.parse().ok()?).await),
        "many" => Some(many(first.parse().ok()?).await),
        "more" => {
            let mut held = pin!(sleep(Duration::from_secs(60)));
            let mut short = pin!(timer(1));
            poll_fn(|cx| match held.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => short.as_mut().poll(cx).map(drop),
            })
            .await;
            Some(many(first.parse().ok()?).await)
        }
        "often" => {
            let mut answer = String::new();
            for n in 0..first.parse::<u32>().ok()? {
                answer = timer(1).await;
                if answer != "answered" {
                    answer = format!("{n}, then: {answer}");
                    break;
                }
            }
            Some(answer)
        }
        "forever" => pending().await,
        "trap" => panic!("as ordered"),
        "trap-after" => {
            ask(argument).await.ok();
            panic!("as ordered, after asking");
        }
        _ => None,
    };
    guard.done.set(true);
    answer
}

async fn ask(target: &str) -> Result<Response, CallError> {
    Request::get("oracle", target).send().await
}

/// Starts so many timers of a minute at once, and tells of the first that ends or is refused.
async fn many(count: usize) -> String {
    let timer = |_| Box::pin(sleep(Duration::from_secs(60)));
    let mut timers: Vec<_> = (0..count).map(timer).collect();
    poll_fn(|cx| {
        let mut timers = timers.iter_mut().enumerate();
        let ended = timers.find_map(|(n, timer)| match timer.as_mut().poll(cx) {
            Poll::Ready(result) => Some((n, result)),
            Poll::Pending => None,
        });
        match ended {
            Some((n, Err(error))) => Poll::Ready(format!("{n}, then: {error}")),
            Some((n, Ok(()))) => Poll::Ready(format!("{n} elapsed")),
            None => Poll::Pending,
        }
    })
    .await
}

async fn timer(milliseconds: u64) -> String {
    match sleep(Duration::from_millis(milliseconds)).await {
        Ok(()) => "answered".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn told(answer: Result<Response, CallError>) -> String {
    match answer {
        Ok(answer) => {
            let body = String::from_utf8_lossy(&answer.body);
            format!("{} {body}", answer.status).trim_end().to_owned()
        }
        Err(error) => error.to_string(),
    }
}
