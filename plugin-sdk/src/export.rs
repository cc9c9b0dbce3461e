//! From the host's calls to the traits: what [`export!`](crate::export!) expands to, and the state it
//! holds. Nothing here is for authors but the macro.

/// Makes a type the plugin of this crate: `export!(Mask: Messages)`,
/// `export!(Rewrite: OnRequest, OnResponse)`.
///
/// The host calls only for the interfaces listed; without any, the plugin is configured and never
/// called again. Natively the macro checks that the traits are implemented and does nothing more.
#[macro_export]
macro_rules! export {
    ($plugin:ty : $(async $interface:ident),+ $(,)?) => {
        const _: () = {
            type Exported = $plugin;
            $crate::__export_async!(Exported: Plugin);
            $($crate::__export_async!(Exported: $interface);)+
        };
    };
    ($plugin:ty $(: $($interface:ident),+ $(,)?)?) => {
        const _: () = {
            type Exported = $plugin;
            $crate::__export_interface!(Exported: Plugin);
            $($($crate::__export_interface!(Exported: $interface);)+)?
        };
    };
    ($plugin:ty : $($mixed:tt)*) => {
        ::core::compile_error!("expected interfaces such as `OnRequest`, or all of them `async OnRequest`");
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_async {
    ($plugin:ident: Plugin) => {
        $crate::__check_implemented!($plugin: Plugin);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static PLUGIN: $crate::export::SharedSlot<$plugin> =
                    const { $crate::export::SharedSlot::new(::core::option::Option::None) };
            }
            impl $crate::export::Shared for $plugin {
                fn slot() -> &'static ::std::thread::LocalKey<$crate::export::SharedSlot<Self>> {
                    &PLUGIN
                }
            }
            type Async = $crate::export::Async<$plugin>;
            $crate::bindings::lifecycle::export_lifecycle!(
                Async with_types_in $crate::bindings::lifecycle
            );
            $crate::bindings::resumption::export_resumption!(
                Async with_types_in $crate::bindings::resumption
            );
        };
    };
    ($plugin:ident: OnRequest) => {
        $crate::__check_implemented!($plugin: AsyncOnRequest);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Async = $crate::export::Async<$plugin>;
            $crate::bindings::request::export_request!(
                Async with_types_in $crate::bindings::request
            );
        };
    };
    ($plugin:ident: OnResponse) => {
        $crate::__check_implemented!($plugin: AsyncOnResponse);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Async = $crate::export::Async<$plugin>;
            $crate::bindings::response::export_response!(
                Async with_types_in $crate::bindings::response
            );
        };
    };
    ($plugin:ident: Messages) => {
        $crate::__check_implemented!($plugin: AsyncMessages);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static SESSIONS: $crate::export::SharedSessions<$plugin> =
                    const { $crate::export::SharedSessions::<$plugin>::new(::std::vec::Vec::new()) };
            }
            impl $crate::export::SharedMessages for $plugin {
                fn sessions()
                -> &'static ::std::thread::LocalKey<$crate::export::SharedSessions<Self>> {
                    &SESSIONS
                }
            }
            type Async = $crate::export::Async<$plugin>;
            $crate::bindings::messages::export_messages!(
                Async with_types_in $crate::bindings::messages
            );
        };
    };
    ($plugin:ident: $other:ident) => {
        ::core::compile_error!(::core::concat!(
            "expected async OnRequest, async OnResponse or async Messages, found async ",
            ::core::stringify!($other)
        ));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_interface {
    ($plugin:ident: Plugin) => {
        $crate::__check_implemented!($plugin: Plugin);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static PLUGIN: $crate::export::Slot<$plugin> =
                    const { $crate::export::Slot::new(::core::option::Option::None) };
            }
            impl $crate::export::Exported for $plugin {
                fn slot() -> &'static ::std::thread::LocalKey<$crate::export::Slot<Self>> {
                    &PLUGIN
                }
            }
            $crate::bindings::lifecycle::export_lifecycle!(
                $plugin with_types_in $crate::bindings::lifecycle
            );
        };
    };
    ($plugin:ident: OnRequest) => {
        $crate::__check_implemented!($plugin: OnRequest);
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::request::export_request!(
            $plugin with_types_in $crate::bindings::request
        );
    };
    ($plugin:ident: OnResponse) => {
        $crate::__check_implemented!($plugin: OnResponse);
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::response::export_response!(
            $plugin with_types_in $crate::bindings::response
        );
    };
    ($plugin:ident: Balancer) => {
        $crate::__check_implemented!($plugin: Balancer);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static UPSTREAMS: $crate::export::Upstreams<$plugin> =
                    const { $crate::export::Upstreams::<$plugin>::new(::std::vec::Vec::new()) };
            }
            impl $crate::export::ExportedBalancer for $plugin {
                fn upstreams() -> &'static ::std::thread::LocalKey<$crate::export::Upstreams<Self>>
                {
                    &UPSTREAMS
                }
            }
            $crate::bindings::balancer::export_balancer!(
                $plugin with_types_in $crate::bindings::balancer
            );
        };
    };
    ($plugin:ident: Messages) => {
        $crate::__check_implemented!($plugin: Messages);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static SESSIONS: $crate::export::Sessions<$plugin> =
                    const { $crate::export::Sessions::<$plugin>::new(::std::vec::Vec::new()) };
                static RESTORED: $crate::export::Restored<$plugin> =
                    const { $crate::export::Restored::<$plugin>::new(::core::option::Option::None) };
            }
            impl $crate::export::ExportedMessages for $plugin {
                fn sessions() -> &'static ::std::thread::LocalKey<$crate::export::Sessions<Self>> {
                    &SESSIONS
                }
                fn restored() -> &'static ::std::thread::LocalKey<$crate::export::Restored<Self>> {
                    &RESTORED
                }
            }
            $crate::bindings::messages::export_messages!(
                $plugin with_types_in $crate::bindings::messages
            );
        };
    };
    ($plugin:ident: Handover) => {
        $crate::__check_implemented!($plugin: Handover);
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::handover::export_handover!(
            $plugin with_types_in $crate::bindings::handover
        );
    };
    ($plugin:ident: Fragments) => {
        $crate::__check_implemented!($plugin: Fragments);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static SESSIONS: $crate::export::FragmentSessions<$plugin> =
                    const { $crate::export::FragmentSessions::<$plugin>::new(::std::vec::Vec::new()) };
            }
            impl $crate::export::ExportedFragments for $plugin {
                fn sessions()
                -> &'static ::std::thread::LocalKey<$crate::export::FragmentSessions<Self>> {
                    &SESSIONS
                }
            }
            $crate::bindings::fragments::export_fragments!(
                $plugin with_types_in $crate::bindings::fragments
            );
        };
    };
    ($plugin:ident: $other:ident) => {
        ::core::compile_error!(::core::concat!(
            "expected OnRequest, OnResponse, Balancer, Messages, Fragments or Handover, found ",
            ::core::stringify!($other)
        ));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __check_implemented {
    ($plugin:ident: $interface:ident) => {
        const _: () = {
            const fn implemented<P: $crate::$interface>() {}
            implemented::<$plugin>();
        };
    };
}

#[cfg(target_arch = "wasm32")]
pub use crate::tasks::{Async, Shared, SharedMessages, SharedSessions, SharedSlot};
#[cfg(target_arch = "wasm32")]
pub use wasm::{
    Exported, ExportedBalancer, ExportedFragments, ExportedMessages, FragmentSessions, Restored,
    Sessions, Slot, Upstreams,
};
#[cfg(target_arch = "wasm32")]
pub(crate) use wasm::{NOTHING, close, configure, forget, keep};

#[cfg(target_arch = "wasm32")]
mod wasm {
    use std::cell::RefCell;
    use std::panic;
    use std::thread::LocalKey;

    use crate::bindings::fragments::exports::tidegate::plugin::fragments as wit_fragments;
    use crate::bindings::handover::exports::tidegate::plugin::handover as wit_handover;
    use crate::bindings::imports::tidegate::plugin::{http, outgoing};
    use crate::bindings::messages::exports::tidegate::plugin::messages as wit_messages;
    use crate::bindings::{balancer, lifecycle, request, response};
    use crate::log;
    use crate::{
        Balancer, DataKinds, Ending, Endpoint, Fragment, Fragments, Handover, Handshake, Kind,
        Kinds, Message, MessageVerdict, Messages, OnRequest, OnResponse, Outgoing, Plugin, Purpose,
        RequestHead, ResponseHead, SentRequest, Side, Subscription, Verdict,
    };

    /// Longest reason of a Close frame in bytes (RFC 6455 §5.5).
    const MAX_REASON: usize = 123;

    pub(crate) const NOTHING: Subscription = Subscription {
        from_client: Kinds::empty(),
        from_service: Kinds::empty(),
        largest: None,
    };

    const NO_FRAGMENTS: wit_fragments::Subscription = wit_fragments::Subscription {
        from_client: DataKinds::empty(),
        from_service: DataKinds::empty(),
        purpose: Purpose::Scan,
    };

    /// The value of the plugin: none before `configure`.
    pub type Slot<P> = RefCell<Option<P>>;

    /// Upstreams by the host's number, which says nothing.
    pub type Upstreams<P> = RefCell<Vec<(u32, <P as Balancer>::Upstream)>>;

    /// Sessions by the host's number, which is dense.
    pub type Sessions<P> = RefCell<Vec<Option<<P as Messages>::Session>>>;

    /// The same, of those that are watched in pieces.
    pub type FragmentSessions<P> = RefCell<Vec<Option<<P as Fragments>::Session>>>;

    /// A session that another version has handed over, until it is opened.
    pub type Restored<P> = RefCell<Option<Arrival<P>>>;

    /// What is restored, and what then says what is wanted of it: of [`Messages`] alone nobody could
    /// tell whether it has a `resume`.
    pub struct Arrival<P: Messages> {
        session: u32,
        value: P::Session,
        resume: fn(&mut P, &mut P::Session, &Handshake, &mut Outgoing) -> Option<Subscription>,
    }

    /// The type given to `export!`. Each trait holds what one interface needs beside the plugin:
    /// only the macro knows the type, and a static cannot be generic.
    pub trait Exported: Plugin {
        fn slot() -> &'static LocalKey<Slot<Self>>;
    }

    pub trait ExportedBalancer: Exported + Balancer {
        fn upstreams() -> &'static LocalKey<Upstreams<Self>>;
    }

    pub trait ExportedMessages: Exported + Messages {
        fn sessions() -> &'static LocalKey<Sessions<Self>>;
        fn restored() -> &'static LocalKey<Restored<Self>>;
    }

    pub trait ExportedFragments: Exported + Fragments {
        fn sessions() -> &'static LocalKey<FragmentSessions<Self>>;
    }

    /// Calls are never re-entered, so the borrows never collide.
    fn with_plugin<P: Exported, R>(run: impl FnOnce(&mut P) -> R) -> R {
        P::slot()
            .with_borrow_mut(|slot| run(slot.as_mut().expect("configured before any other call")))
    }

    impl<P: Exported> lifecycle::exports::tidegate::plugin::lifecycle::Guest for P {
        fn configure(config: String) -> Result<(), String> {
            P::slot().set(Some(configure(&config)?));
            Ok(())
        }
    }

    /// Makes the plugin, and has its panics logged.
    pub(crate) fn configure<P: Plugin>(config: &str) -> Result<P, String> {
        // A trap says nothing of the panic that led to it.
        panic::set_hook(Box::new(|panic| {
            log::write(log::Level::Critical, "panic", &panic.to_string());
        }));
        crate::plugin::configure(config)
    }

    impl<P: Exported + OnRequest> request::exports::tidegate::plugin::request::Guest for P {
        fn on_request(
            head: &http::RequestHead,
        ) -> request::exports::tidegate::plugin::request::Verdict {
            use request::exports::tidegate::plugin::request::Verdict as Flat;
            match with_plugin(|plugin: &mut P| plugin.on_request(&mut RequestHead::new(head))) {
                Verdict::Continue => Flat::Continue,
                Verdict::Respond(answer) => {
                    http::respond(&answer);
                    Flat::Respond
                }
            }
        }
    }

    impl<P: Exported + OnResponse> response::exports::tidegate::plugin::response::Guest for P {
        fn on_response(
            request: &http::SentRequest,
            head: &http::ResponseHead,
        ) -> response::exports::tidegate::plugin::response::Verdict {
            use response::exports::tidegate::plugin::response::Verdict as Flat;
            let verdict = with_plugin(|plugin: &mut P| {
                plugin.on_response(&SentRequest::new(request), &mut ResponseHead::new(head))
            });
            match verdict {
                Verdict::Continue => Flat::Continue,
                Verdict::Respond(answer) => {
                    http::respond(&answer);
                    Flat::Respond
                }
            }
        }
    }

    impl<P: ExportedBalancer> balancer::exports::tidegate::plugin::balancer::Guest for P {
        fn endpoints(upstream: u32, name: String, endpoints: Vec<Endpoint>) {
            P::upstreams().with_borrow_mut(|upstreams| {
                upstreams.retain(|(number, _)| *number != upstream);
                // An empty list says that the number is done with.
                if !endpoints.is_empty() {
                    let prepared = with_plugin(|plugin: &mut P| plugin.upstream(&name, endpoints));
                    upstreams.push((upstream, prepared));
                }
            });
        }

        fn choose(
            upstream: u32,
            head: &http::RequestHead,
            candidates: Vec<crate::Candidate>,
        ) -> Option<u32> {
            P::upstreams().with_borrow_mut(|upstreams| {
                let (_, known) = upstreams
                    .iter_mut()
                    .find(|(number, _)| *number == upstream)
                    .expect("told the endpoints before the first choice");
                let head = RequestHead::new(head);
                with_plugin(|plugin: &mut P| plugin.choose(known, &head, &candidates))
                    .map(|candidate| candidate.endpoint)
            })
        }
    }

    impl<P: ExportedMessages> wit_messages::Guest for P {
        fn open(session: u32, handshake: &http::Handshake) -> Subscription {
            let (handshake, mut out) = (Handshake::new(handshake), Outgoing::default());
            let arrival = P::restored().take();
            let opened = with_plugin(|plugin: &mut P| match arrival {
                Some(mut arrival) if arrival.session == session => {
                    (arrival.resume)(plugin, &mut arrival.value, &handshake, &mut out)
                        .map(|subscription| (arrival.value, subscription))
                }
                _ => plugin.open(&handshake, &mut out),
            });
            let Some((value, subscription)) = opened else {
                return NOTHING;
            };
            // The host never closes a session that nothing is wanted of.
            if subscription.from_client.is_empty() && subscription.from_service.is_empty() {
                return NOTHING;
            }
            keep(P::sessions(), session, value);
            subscription
        }

        fn on_message(
            session: u32,
            origin: Side,
            kind: Kind,
            payload: Vec<u8>,
        ) -> wit_messages::Verdict {
            let message = Message {
                origin,
                kind,
                payload,
            };
            let verdict = with_session(P::sessions(), session, |session| {
                with_plugin(|plugin: &mut P| {
                    plugin.on_message(session, message, &mut Outgoing::default())
                })
            });
            match verdict {
                MessageVerdict::Pass => wit_messages::Verdict::Pass,
                MessageVerdict::Replace(payload) => {
                    outgoing::replace(&payload);
                    wit_messages::Verdict::Replace
                }
                MessageVerdict::Drop => wit_messages::Verdict::Drop,
                MessageVerdict::Close { code, reason } => {
                    close(code, &reason);
                    wit_messages::Verdict::Close
                }
            }
        }

        fn on_close(session: u32, ending: Ending) {
            if let Some(value) = forget(P::sessions(), session) {
                with_plugin(|plugin: &mut P| plugin.on_close(value, ending));
            }
        }
    }

    impl<P: ExportedMessages + Handover> wit_handover::Guest for P {
        fn snapshot(session: u32) -> wit_handover::State {
            let bytes = P::sessions().with_borrow(|sessions| {
                let session = sessions
                    .get(session as usize)
                    .and_then(Option::as_ref)
                    .expect("opened before it is handed over");
                crate::handover::snapshot::<P>(session).expect("a session can be serialised")
            });
            wit_handover::State {
                form: P::FORM,
                bytes,
            }
        }

        fn restore(session: u32, state: wit_handover::State) -> Result<(), String> {
            let value = with_plugin(|plugin: &mut P| {
                crate::handover::restore(plugin, state.form, &state.bytes)
            })?;
            P::restored().set(Some(Arrival {
                session,
                value,
                resume: P::resume,
            }));
            Ok(())
        }

        fn release(session: u32) {
            P::sessions().with_borrow_mut(|sessions| {
                sessions.get_mut(session as usize).and_then(Option::take)
            });
        }
    }

    impl<P: ExportedFragments> wit_fragments::Guest for P {
        fn open(session: u32, handshake: &http::Handshake) -> wit_fragments::Subscription {
            let mut out = Outgoing::default();
            let opened =
                with_plugin(|plugin: &mut P| plugin.open(&Handshake::new(handshake), &mut out));
            let Some((value, subscription)) = opened else {
                return NO_FRAGMENTS;
            };
            if subscription.from_client.is_empty() && subscription.from_service.is_empty() {
                return NO_FRAGMENTS;
            }
            keep(P::sessions(), session, value);
            wit_fragments::Subscription {
                from_client: subscription.from_client,
                from_service: subscription.from_service,
                purpose: subscription.purpose,
            }
        }

        fn on_fragment(
            session: u32,
            origin: Side,
            kind: Kind,
            payload: Vec<u8>,
            place: wit_fragments::Place,
        ) -> wit_fragments::Verdict {
            let fragment = Fragment {
                origin,
                kind,
                payload,
                first: place.contains(wit_fragments::Place::FIRST),
                last: place.contains(wit_fragments::Place::LAST),
            };
            let verdict = with_session(P::sessions(), session, |session| {
                with_plugin(|plugin: &mut P| {
                    plugin.on_fragment(session, fragment, &mut Outgoing::default())
                })
            });
            match verdict {
                MessageVerdict::Pass => wit_fragments::Verdict::Pass,
                MessageVerdict::Replace(payload) => {
                    outgoing::replace(&payload);
                    wit_fragments::Verdict::Replace
                }
                MessageVerdict::Drop => wit_fragments::Verdict::Drop,
                MessageVerdict::Close { code, reason } => {
                    close(code, &reason);
                    wit_fragments::Verdict::Close
                }
            }
        }

        fn on_close(session: u32, ending: wit_fragments::Ending) {
            if let Some(value) = forget(P::sessions(), session) {
                let wit_fragments::Ending { code, by } = ending;
                with_plugin(|plugin: &mut P| plugin.on_close(value, Ending { code, by }));
            }
        }
    }

    pub(crate) fn close(code: u16, reason: &str) {
        let end = reason.floor_char_boundary(MAX_REASON);
        outgoing::close(code, &reason[..end]);
    }

    /// Values of sessions by the host's number.
    type Table<S> = LocalKey<RefCell<Vec<Option<S>>>>;

    pub(crate) fn keep<S>(table: &'static Table<S>, session: u32, value: S) {
        table.with_borrow_mut(|sessions| {
            let index = session as usize;
            if index >= sessions.len() {
                sessions.resize_with(index + 1, || None);
            }
            sessions[index] = Some(value);
        });
    }

    fn with_session<S, R>(
        table: &'static Table<S>,
        session: u32,
        run: impl FnOnce(&mut S) -> R,
    ) -> R {
        table.with_borrow_mut(|sessions| {
            let session = sessions
                .get_mut(session as usize)
                .and_then(Option::as_mut)
                .expect("opened before its first message");
            run(session)
        })
    }

    pub(crate) fn forget<S>(table: &'static Table<S>, session: u32) -> Option<S> {
        table.with_borrow_mut(|sessions| sessions.get_mut(session as usize).and_then(Option::take))
    }
}
