//! Sessions that go from one version of a plugin to the next.

use std::error::Error;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Handshake, Messages, Outgoing, Subscription};

/// A plugin whose sessions keep what it knows of them when its code or configuration is replaced.
///
/// What goes over is [`Messages::Session`] itself: derive `Serialize` and `Deserialize` for it. A
/// plugin that keeps nothing of a session (`type Session = ()`) needs none of this: its sessions are
/// [opened](Messages::open) in the new version, and [`Handshake::reopened`] says so.
///
/// ```
/// # use std::error::Error;
/// # use tidegate_plugin::{
/// #     Handover, Handshake, Kinds, Message, MessageVerdict, Messages, NoConfig, Outgoing, Plugin,
/// #     Subscription,
/// # };
/// # struct Count;
/// # impl Plugin for Count {
/// #     type Config = NoConfig;
/// #     fn configure(_: NoConfig) -> Result<Self, Box<dyn Error>> { Ok(Self) }
/// # }
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Session {
///     seen: u64,
/// }
///
/// impl Messages for Count {
///     type Session = Session;
///
///     fn open(&mut self, _: &Handshake, _: &mut Outgoing) -> Option<(Session, Subscription)> {
///         Some((Session { seen: 0 }, Subscription::both(Kinds::TEXT)))
///     }
///
///     fn on_message(&mut self, session: &mut Session, _: Message, _: &mut Outgoing) -> MessageVerdict {
///         session.seen += 1;
///         MessageVerdict::Pass
///     }
/// }
///
/// impl Handover for Count {
///     fn resume(
///         &mut self,
///         _: &mut Session,
///         _: &Handshake,
///         _: &mut Outgoing,
///     ) -> Option<Subscription> {
///         Some(Subscription::both(Kinds::TEXT))
///     }
/// }
///
/// tidegate_plugin::export!(Count: Messages, Handover);
/// ```
pub trait Handover: Messages<Session: Serialize + DeserializeOwned> {
    /// The form of [`Messages::Session`]. Raise it when an older version's state cannot be read as it
    /// is; where serde's defaults do, leave it.
    const FORM: u32 = 1;

    /// Takes a session that comes from another version, as it is or brought up to date, or refuses it:
    /// then it stays on the version it has. Unless written otherwise all are taken.
    ///
    /// # Errors
    ///
    /// Whatever makes the session unusable; the message is logged.
    fn adopt(&mut self, session: Self::Session) -> Result<Self::Session, Box<dyn Error>> {
        Ok(session)
    }

    /// Says what the plugin wants to see of a session that it has [adopted](Self::adopt), or nothing:
    /// then it is not called for it again. Called in place of [`Messages::open`], also where an instance
    /// has failed and the operator keeps snapshots: then the session is as it was at the last one, and
    /// [`Handshake::reopening`] is [`Reopening::Failure`](crate::Reopening::Failure).
    fn resume(
        &mut self,
        session: &mut Self::Session,
        handshake: &Handshake,
        out: &mut Outgoing,
    ) -> Option<Subscription>;

    /// Makes a session of a state in another form. Unless written otherwise it refuses, and the
    /// session stays on the version it has.
    ///
    /// # Errors
    ///
    /// Whatever makes the state unusable; the message is logged.
    fn convert(form: u32, state: serde_json::Value) -> Result<Self::Session, Box<dyn Error>> {
        drop(state);
        let own = Self::FORM;
        Err(format!("expected a state of form {own}, found form {form}").into())
    }
}

/// What a version knows of a session, as it goes over.
pub(crate) fn snapshot<P: Handover>(session: &P::Session) -> Result<Vec<u8>, String> {
    serde_json::to_vec(session).map_err(|error| error.to_string())
}

/// Makes a session of what another version knew of it.
pub(crate) fn restore<P: Handover>(
    plugin: &mut P,
    form: u32,
    state: &[u8],
) -> Result<P::Session, String> {
    let session = if form == P::FORM {
        let state = &mut serde_json::Deserializer::from_slice(state);
        serde_path_to_error::deserialize(state).map_err(|error| error.to_string())?
    } else {
        let state = serde_json::from_slice(state).map_err(|error| error.to_string())?;
        P::convert(form, state).map_err(|error| error.to_string())?
    };
    plugin.adopt(session).map_err(|error| error.to_string())
}
