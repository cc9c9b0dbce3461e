//! From the host's calls to the `async` traits: what `export!(...: async ...)` exports. A hook is a task,
//! polled when it is called and whenever one of its tickets has its reply.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::thread::LocalKey;

use crate::bindings::imports::tidegate::plugin::tickets::{self, Reply};
use crate::bindings::imports::tidegate::plugin::{http, outgoing};
use crate::bindings::lifecycle::exports::tidegate::plugin::lifecycle;
use crate::bindings::messages::exports::tidegate::plugin::messages;
use crate::bindings::request::exports::tidegate::plugin::request;
use crate::bindings::response::exports::tidegate::plugin::response;
use crate::bindings::resumption::exports::tidegate::plugin::resumption;
use crate::export::{NOTHING, close, configure, forget, keep};
use crate::waiting;
use crate::{
    AsyncMessages, AsyncOnRequest, AsyncOnResponse, Ending, Handshake, Kind, Message,
    MessageVerdict, Outgoing, Plugin, RequestHead, ResponseHead, SentRequest, Side, Subscription,
    Verdict,
};

/// The value of the plugin, shared by all that waits: none before `configure`.
pub type SharedSlot<P> = RefCell<Option<Rc<P>>>;

/// Sessions by the host's number, which is dense.
pub type SharedSessions<P> = RefCell<Vec<Option<Rc<<P as AsyncMessages>::Session>>>>;

/// What is exported of a plugin whose hooks may wait.
pub struct Async<P>(PhantomData<P>);

/// The type given to `export!`.
pub trait Shared: Plugin {
    /// Returns where the plugin is kept.
    fn slot() -> &'static LocalKey<SharedSlot<Self>>;
}

/// The same, of one that sees messages.
pub trait SharedMessages: Shared + AsyncMessages {
    /// Returns where its sessions are kept.
    fn sessions() -> &'static LocalKey<SharedSessions<Self>>;
}

/// A hook on its way.
type Task = Pin<Box<dyn Future<Output = Outcome>>>;

/// What a hook has come to.
enum Outcome {
    Head(Verdict),
    Message(MessageVerdict),
}

/// Hooks that wait.
#[derive(Default)]
struct Tasks {
    next: u64,
    waiting: HashMap<u64, Task>,
}

thread_local! {
    static TASKS: RefCell<Tasks> = RefCell::default();
    static REQUEST: OnceCell<&'static http::RequestHead> = const { OnceCell::new() };
    static SENT_REQUEST: OnceCell<&'static http::SentRequest> = const { OnceCell::new() };
    static RESPONSE: OnceCell<&'static http::ResponseHead> = const { OnceCell::new() };
}

/// Begins a hook, and polls it for the first time.
fn begin(task: impl Future<Output = Outcome> + 'static) -> Poll<Outcome> {
    let number = TASKS.with_borrow_mut(|tasks| {
        tasks.next += 1;
        tasks.next
    });
    poll(number, Box::pin(task))
}

/// Polls the hook that waits for one of these. The host resumes no other.
fn resume(replies: Vec<(u64, Reply)>) -> Poll<Outcome> {
    let mut number = None;
    // All of them are of one hook.
    for (ticket, reply) in replies {
        number = waiting::settle(ticket, reply).or(number);
    }
    let number = number.expect("resumed with a reply that somebody waits for");
    let task = TASKS.with_borrow_mut(|tasks| tasks.waiting.remove(&number));
    poll(number, task.expect("resumed while it waits"))
}

fn poll(number: u64, mut task: Task) -> Poll<Outcome> {
    let result = waiting::poll(number, task.as_mut());
    if result.is_pending() {
        TASKS.with_borrow_mut(|tasks| tasks.waiting.insert(number, task));
    }
    result
}

/// Ends the hook that waits for one of these.
fn cancel(tickets: &[u64]) {
    let number = tickets.iter().find_map(|ticket| waiting::owner(*ticket));
    let task = TASKS.with_borrow_mut(|tasks| tasks.waiting.remove(&number?));
    // Not before, since what it drops may look at the tasks.
    drop(task);
}

fn plugin<P: Shared>() -> Rc<P> {
    P::slot()
        .with_borrow(|slot| Rc::clone(slot.as_ref().expect("configured before any other call")))
}

/// A handle that stands for whatever is lent at the time: those that hooks are called with end with the
/// call. One is enough for all of them, so it is never given back.
fn held<T>(cell: &'static LocalKey<OnceCell<&'static T>>, take: impl FnOnce() -> T) -> &'static T {
    cell.with(|cell| *cell.get_or_init(|| Box::leak(Box::new(take()))))
}

fn held_request() -> RequestHead<'static> {
    RequestHead::new(held(&REQUEST, tickets::held_request))
}

impl<P: Shared> lifecycle::Guest for Async<P> {
    fn configure(config: String) -> Result<(), String> {
        let plugin = configure(&config)?;
        P::slot().set(Some(Rc::new(plugin)));
        Ok(())
    }
}

impl<P: Shared + AsyncOnRequest> request::Guest for Async<P> {
    fn on_request(_: &http::RequestHead) -> request::Verdict {
        let plugin = plugin::<P>();
        let verdict =
            begin(async move { Outcome::Head(plugin.on_request(&mut held_request()).await) });
        match head(verdict) {
            resumption::HeadVerdict::Continue => request::Verdict::Continue,
            resumption::HeadVerdict::Respond => request::Verdict::Respond,
            resumption::HeadVerdict::Wait => request::Verdict::Wait,
        }
    }
}

impl<P: Shared + AsyncOnResponse> response::Guest for Async<P> {
    fn on_response(_: &http::SentRequest, _: &http::ResponseHead) -> response::Verdict {
        let plugin = plugin::<P>();
        let verdict = begin(async move {
            let request = SentRequest::new(held(&SENT_REQUEST, tickets::held_sent_request));
            let mut head = ResponseHead::new(held(&RESPONSE, tickets::held_response));
            Outcome::Head(plugin.on_response(&request, &mut head).await)
        });
        match head(verdict) {
            resumption::HeadVerdict::Continue => response::Verdict::Continue,
            resumption::HeadVerdict::Respond => response::Verdict::Respond,
            resumption::HeadVerdict::Wait => response::Verdict::Wait,
        }
    }
}

impl<P: SharedMessages> messages::Guest for Async<P> {
    fn open(session: u32, handshake: &http::Handshake) -> Subscription {
        let (handshake, mut out) = (Handshake::new(handshake), Outgoing::default());
        let Some((value, subscription)) = plugin::<P>().open(&handshake, &mut out) else {
            return NOTHING;
        };
        // The host never closes a session that nothing is wanted of.
        if subscription.from_client.is_empty() && subscription.from_service.is_empty() {
            return NOTHING;
        }
        keep(P::sessions(), session, Rc::new(value));
        subscription
    }

    fn on_message(session: u32, origin: Side, kind: Kind, payload: Vec<u8>) -> messages::Verdict {
        let message = Message {
            origin,
            kind,
            payload,
        };
        let plugin = plugin::<P>();
        let session = P::sessions().with_borrow(|sessions| {
            let session = sessions.get(session as usize).and_then(Option::as_ref);
            Rc::clone(session.expect("opened before its messages"))
        });
        let verdict = begin(async move {
            let mut out = Outgoing::default();
            Outcome::Message(plugin.on_message(&session, message, &mut out).await)
        });
        match message_verdict(verdict) {
            resumption::MessageVerdict::Pass => messages::Verdict::Pass,
            resumption::MessageVerdict::Replace => messages::Verdict::Replace,
            resumption::MessageVerdict::Drop => messages::Verdict::Drop,
            resumption::MessageVerdict::Close => messages::Verdict::Close,
            resumption::MessageVerdict::Wait => messages::Verdict::Wait,
        }
    }

    fn on_close(session: u32, ending: Ending) {
        if let Some(session) = forget(P::sessions(), session) {
            plugin::<P>().on_close(&session, ending);
        }
    }
}

impl<P: Shared> resumption::Guest for Async<P> {
    fn resume_request(
        replies: Vec<(u64, Reply)>,
        _: &http::RequestHead,
    ) -> resumption::HeadVerdict {
        head(resume(replies))
    }

    fn resume_response(
        replies: Vec<(u64, Reply)>,
        _: &http::SentRequest,
        _: &http::ResponseHead,
    ) -> resumption::HeadVerdict {
        head(resume(replies))
    }

    fn resume_message(replies: Vec<(u64, Reply)>) -> resumption::MessageVerdict {
        message_verdict(resume(replies))
    }

    fn cancelled(tickets: Vec<u64>) {
        cancel(&tickets);
    }
}

/// Gives the host what a verdict carries.
fn head(outcome: Poll<Outcome>) -> resumption::HeadVerdict {
    match outcome {
        Poll::Pending => resumption::HeadVerdict::Wait,
        Poll::Ready(Outcome::Head(Verdict::Continue)) => resumption::HeadVerdict::Continue,
        Poll::Ready(Outcome::Head(Verdict::Respond(answer))) => {
            http::respond(&answer);
            resumption::HeadVerdict::Respond
        }
        Poll::Ready(Outcome::Message(_)) => panic!("resumed as a head, though it is a message"),
    }
}

fn message_verdict(outcome: Poll<Outcome>) -> resumption::MessageVerdict {
    let verdict = match outcome {
        Poll::Pending => return resumption::MessageVerdict::Wait,
        Poll::Ready(Outcome::Message(verdict)) => verdict,
        Poll::Ready(Outcome::Head(_)) => panic!("resumed as a message, though it is a head"),
    };
    match verdict {
        MessageVerdict::Pass => resumption::MessageVerdict::Pass,
        MessageVerdict::Replace(payload) => {
            outgoing::replace(&payload);
            resumption::MessageVerdict::Replace
        }
        MessageVerdict::Drop => resumption::MessageVerdict::Drop,
        MessageVerdict::Close { code, reason } => {
            close(code, &reason);
            resumption::MessageVerdict::Close
        }
    }
}
