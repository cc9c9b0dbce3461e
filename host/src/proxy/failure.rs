//! Why an exchange or a session ended badly, and what the peers are told: the one table from
//! failures to statuses and close codes.

use std::borrow::Cow;

use http::StatusCode;

use super::registry::Goodbye;
use crate::protocol::close::CloseCode;
use crate::protocol::message::{ProtocolError, Side};
use crate::telemetry::ClosedBy;
use crate::{files, plugin, upstream};

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("request cannot be understood: {0}")]
    BadRequest(&'static str),
    #[error("plain HTTP on a port for TLS")]
    PlainOnTls,
    #[error("request target is longer than {limit} bytes")]
    TargetTooLong { limit: usize },
    #[error("request head is longer than {limit} bytes")]
    HeadTooLarge { limit: usize },
    #[error("transfer coding other than chunked")]
    TransferCoding,
    #[error("no route for host {host:?} and path {path:?}")]
    NoRoute { host: String, path: String },
    #[error("opening handshake cannot be understood: {0}")]
    BadHandshake(&'static str),
    #[error("TRACE, which shows a request to whoever can have it sent")]
    Trace,
    #[error("WebSocket version is not 13")]
    BadWebSocketVersion,
    #[error("extended CONNECT for a protocol that the route does not allow")]
    ForeignProtocol,
    #[error("extended CONNECT was answered as if nothing were to be switched")]
    NotSwitched,
    #[error("opening handshake names no single origin, and the route asks for one")]
    NoOrigin,
    #[error("opening handshake comes from {origin:?}, which the route does not allow")]
    ForeignOrigin { origin: String },
    #[error(transparent)]
    RequestBody(#[from] upstream::BodyProblem),
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    #[error("service answered wrongly: {0}")]
    BadResponse(&'static str),
    #[error(transparent)]
    Files(#[from] files::Error),
    #[error(transparent)]
    Plugin(#[from] plugin::Failure),
}

impl Failure {
    /// Returns what the client is answered.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::PlainOnTls | Self::BadHandshake(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::TargetTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            // What RFC 9220 §3 asks for. An answer of 2xx would mean that the protocol has been
            // switched to.
            Self::TransferCoding | Self::ForeignProtocol | Self::NotSwitched => {
                StatusCode::NOT_IMPLEMENTED
            }
            Self::NoRoute { .. } => StatusCode::NOT_FOUND,
            Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadWebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::NoOrigin | Self::ForeignOrigin { .. } => StatusCode::FORBIDDEN,
            Self::RequestBody(problem) => match problem {
                upstream::BodyProblem::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                upstream::BodyProblem::Timeout { .. } => StatusCode::REQUEST_TIMEOUT,
                upstream::BodyProblem::Aborted => StatusCode::BAD_REQUEST,
            },
            Self::Upstream(error) => match error {
                upstream::Error::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
                upstream::Error::NoEndpoint { .. }
                | upstream::Error::Connect { .. }
                | upstream::Error::Tls { .. }
                | upstream::Error::Answer { .. }
                | upstream::Error::Exchange { .. }
                | upstream::Error::Status { .. } => StatusCode::BAD_GATEWAY,
            },
            Self::BadResponse(_) => StatusCode::BAD_GATEWAY,
            Self::Files(error) => match error {
                files::Error::Method => StatusCode::METHOD_NOT_ALLOWED,
                files::Error::NotFound { .. }
                | files::Error::Special { .. }
                | files::Error::Escape => StatusCode::NOT_FOUND,
                files::Error::Forbidden { .. } | files::Error::NoIndex { .. } => {
                    StatusCode::FORBIDDEN
                }
                files::Error::Nothing { status } => *status,
                files::Error::Precondition => StatusCode::PRECONDITION_FAILED,
                files::Error::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
                files::Error::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Plugin(failure) if failure.cause.is_absence() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Plugin(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the failure is worth a line in the log: what clients do wrong is not, nor what the
    /// operator chose.
    pub(crate) fn is_ours(&self) -> bool {
        let chosen = matches!(
            self,
            Self::TransferCoding
                | Self::ForeignProtocol
                | Self::NotSwitched
                | Self::Files(files::Error::Nothing { .. })
        );
        self.status().is_server_error() && !chosen
    }
}

/// Why a session of messages ended other than by the peers' own closing handshake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionFailure {
    #[error("client broke the protocol: {0}")]
    ClientProtocol(ProtocolError),
    #[error("service broke the protocol: {0}")]
    ServiceProtocol(ProtocolError),
    #[error("client went away without a Close frame")]
    ClientGone,
    #[error("service went away without a Close frame")]
    ServiceGone,
    #[error("{} did not answer a Close frame", name(.0))]
    CloseUnanswered(Side),
    #[error("{} did not answer a ping", name(.0))]
    PingUnanswered(Side),
    #[error("silent for longer than the idle timeout")]
    Idle,
    #[error("as old as a session of its route may get")]
    Age,
    #[error("the proxy is shutting down")]
    Draining,
    #[error("on a replaced version of a plugin for longer than its swap allows")]
    Overdue,
    #[error(transparent)]
    Plugin(plugin::Failure),
    #[error("closed by a plugin")]
    ClosedByPlugin { code: CloseCode, reason: String },
    #[error("closed by an operator")]
    ClosedByOperator(Goodbye),
}

impl SessionFailure {
    /// What a peer's violation of the protocol is.
    pub(crate) fn protocol(from: Side, error: ProtocolError) -> Self {
        match from {
            Side::Client => Self::ClientProtocol(error),
            Side::Service => Self::ServiceProtocol(error),
        }
    }

    /// Returns the code and reason for the client; None: it is gone or has been told nothing by
    /// intent.
    pub(crate) fn close_for_client(&self) -> Option<(CloseCode, Cow<'_, str>)> {
        Some(match self {
            Self::ClientProtocol(error) => (error.close_code(), Cow::Owned(error.to_string())),
            Self::ServiceProtocol(_)
            | Self::ServiceGone
            | Self::CloseUnanswered(Side::Service)
            | Self::PingUnanswered(Side::Service) => (CloseCode::BAD_GATEWAY, "".into()),
            // That it was closed the client was told by the service.
            Self::ClientGone | Self::CloseUnanswered(Side::Client) => return None,
            // Not 1012, which bids clients wait for up to half a minute (IANA registry): nothing
            // restarts, and jitter spreads the closings already.
            Self::PingUnanswered(Side::Client) | Self::Idle | Self::Age | Self::Draining => {
                (CloseCode::GOING_AWAY, "".into())
            }
            Self::Overdue => (CloseCode::SERVICE_RESTART, "".into()),
            Self::Plugin(failure) if failure.cause.is_absence() => {
                (CloseCode::TRY_AGAIN_LATER, "".into())
            }
            Self::Plugin(_) => (CloseCode::INTERNAL_ERROR, "".into()),
            Self::ClosedByPlugin { code, reason }
            | Self::ClosedByOperator(Goodbye { code, reason }) => (*code, reason.into()),
        })
    }

    /// Returns the code and reason for the service; None: it is gone.
    pub(crate) fn close_for_service(&self) -> Option<(CloseCode, Cow<'_, str>)> {
        Some(match self {
            Self::ServiceProtocol(error) => (error.close_code(), Cow::Owned(error.to_string())),
            Self::ServiceGone | Self::CloseUnanswered(Side::Service) => return None,
            Self::ClientProtocol(_)
            | Self::ClientGone
            | Self::CloseUnanswered(Side::Client)
            | Self::PingUnanswered(_)
            | Self::Idle
            | Self::Age
            | Self::Draining
            | Self::Overdue => (CloseCode::GOING_AWAY, "".into()),
            Self::Plugin(failure) if failure.cause.is_absence() => {
                (CloseCode::TRY_AGAIN_LATER, "".into())
            }
            Self::Plugin(_) => (CloseCode::INTERNAL_ERROR, "".into()),
            Self::ClosedByPlugin { code, reason }
            | Self::ClosedByOperator(Goodbye { code, reason }) => (*code, reason.into()),
        })
    }

    /// Returns the code that plugins are told: that of the Close frame that ended the session.
    pub(crate) fn close_code(&self) -> u16 {
        match self {
            Self::ClientGone | Self::ServiceGone => CloseCode::ABNORMAL,
            _ => self
                .close_for_client()
                .map_or(CloseCode::ABNORMAL, |(code, _)| code.as_u16()),
        }
    }

    /// Returns the peer that ended the session; None: the proxy or a plugin did.
    pub(crate) fn side(&self) -> Option<Side> {
        match self {
            Self::ClientGone => Some(Side::Client),
            Self::ServiceGone => Some(Side::Service),
            Self::CloseUnanswered(side) => Some(side.other()),
            Self::ClientProtocol(_)
            | Self::ServiceProtocol(_)
            | Self::PingUnanswered(_)
            | Self::Idle
            | Self::Age
            | Self::Draining
            | Self::Overdue
            | Self::Plugin(_)
            | Self::ClosedByPlugin { .. }
            | Self::ClosedByOperator(_) => None,
        }
    }

    /// Returns who ended the session, for its record.
    pub(crate) fn closed_by(&self) -> ClosedBy {
        match self {
            Self::ClientGone | Self::CloseUnanswered(Side::Service) => ClosedBy::Client,
            Self::ServiceGone | Self::CloseUnanswered(Side::Client) => ClosedBy::Service,
            Self::Plugin(_) | Self::ClosedByPlugin { .. } => ClosedBy::Plugin,
            Self::ClientProtocol(_)
            | Self::ServiceProtocol(_)
            | Self::PingUnanswered(_)
            | Self::Idle
            | Self::Age
            | Self::Draining
            | Self::Overdue
            | Self::ClosedByOperator(_) => ClosedBy::Proxy,
        }
    }
}

fn name(side: &Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Service => "service",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_asked_for_in_vain_is_one_line() {
        let failure = Failure::NoRoute {
            host: "example.com".to_owned(),
            path: "/\nforged\u{1b}[2J".to_owned(),
        };
        let told = failure.to_string();
        assert!(!told.contains(char::is_control), "{told:?}");
        assert!(told.contains(r"/\nforged"), "{told}");
    }
}
