//! A WebSocket as a service holds it: tungstenite over the stream that hyper gives back after a 101.

use std::time::Duration;

use axum::extract::Request;
use axum::http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::protocol::accept::accept_for;
use crate::protocol::upgrade::{is_websocket, requested};

/// Longest message a service takes.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// How long a peer may take to answer a Close.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// An open WebSocket.
pub(super) struct Socket(WebSocketStream<TokioIo<Upgraded>>);

impl Socket {
    /// Answers an opening handshake, and leaves what follows to `session`.
    pub(super) fn accept<S>(
        mut request: Request,
        session: impl FnOnce(Self) -> S + Send + 'static,
    ) -> Response
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let Some(accept) = answer_to(request.headers()) else {
            return (
                StatusCode::UPGRADE_REQUIRED,
                "a WebSocket is expected here\n",
            )
                .into_response();
        };
        let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        tokio::spawn(async move {
            // Fails only if the client is gone before the 101 has been sent.
            let Ok(stream) = upgrade.await else { return };
            let limits = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES));
            let stream = TokioIo::new(stream);
            let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(limits)).await;
            session(Self(socket)).await;
        });
        let fields = [
            (UPGRADE, "websocket".to_owned()),
            (CONNECTION, "upgrade".to_owned()),
            (SEC_WEBSOCKET_ACCEPT, accept),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, fields).into_response()
    }

    /// Receives the next message. Nothing: the socket is closed. Cancel safe.
    pub(super) async fn receive(&mut self) -> Option<Message> {
        self.0.next().await?.ok()
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, message: Message) -> Result<(), Error> {
        self.0.send(message).await
    }

    /// Closes, and waits for the peer to do so too, but not for long.
    pub(super) async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame {
            code: code.into(),
            reason: reason.into(),
        };
        let farewell = async {
            if self.send(Message::Close(Some(frame))).await.is_ok() {
                while self.receive().await.is_some() {}
            }
        };
        // A peer that does not answer is dropped.
        timeout(CLOSE_TIMEOUT, farewell).await.ok();
    }
}

fn answer_to(headers: &HeaderMap) -> Option<String> {
    let key = headers.get(SEC_WEBSOCKET_KEY)?;
    requested(headers)
        .filter(|token| is_websocket(token))
        .map(|_| accept_for(key.as_bytes()))
}
