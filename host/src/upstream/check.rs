//! One health check of an endpoint: a connection, a request, or an opening handshake.
//!
//! When checks are made, and how many it takes to believe them, is `server/checks.rs`'s business.

use std::pin::Pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
    USER_AGENT,
};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Endpoint, Error, Upstream};
use crate::config::{CheckKind, HealthCheck};
use crate::protocol::accept::accept_for;
use crate::protocol::close::{CloseCode, encode_close};
use crate::protocol::upgrade::is_websocket;
use crate::stream::Stream;

/// Why an endpoint did not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error(transparent)]
    Connect(#[from] Error),
    #[error("no answer")]
    Exchange(#[from] hyper::Error),
    #[error("answered with {0}")]
    Status(StatusCode),
    #[error("accepted the handshake wrongly: {0}")]
    Handshake(&'static str),
    #[error("took longer than {0:?}")]
    Timeout(Duration),
}

type Connection = http1::Connection<TokioIo<Stream>, Empty<Bytes>>;

impl Upstream {
    /// Checks an endpoint once. Cancel safe: dropping the future closes what was opened.
    pub(crate) async fn check(
        &self,
        endpoint: &Endpoint,
        settings: &HealthCheck,
    ) -> Result<(), CheckError> {
        let limit = settings.timeout;
        let check = async {
            let stream = self.connect(endpoint, limit).await?;
            match &settings.kind {
                CheckKind::Tcp => Ok(()),
                CheckKind::Http { path, expected } => {
                    let request = self.request(settings, path);
                    let (response, _) = ask(stream, request).await?;
                    let status = response.status();
                    match expected
                        .iter()
                        .any(|range| range.contains(&status.as_u16()))
                    {
                        true => Ok(()),
                        false => Err(CheckError::Status(status)),
                    }
                }
                CheckKind::WebSocket { path } => {
                    open_websocket(stream, self.request(settings, path)).await
                }
            }
        };
        timeout(limit, check)
            .await
            .unwrap_or(Err(CheckError::Timeout(limit)))
    }

    fn request(&self, settings: &HealthCheck, path: &PathAndQuery) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = path.clone().into();
        let host = settings.host.as_ref().or(self.host.as_ref());
        let agent = HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        let headers = request.headers_mut();
        headers.insert(HOST, host.cloned().unwrap_or(HeaderValue::from_static("")));
        headers.insert(USER_AGENT, agent);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        request
    }
}

/// Sends a request and waits for the head of the answer.
async fn ask(
    stream: Stream,
    request: Request<Empty<Bytes>>,
) -> Result<(Response<Incoming>, Connection), hyper::Error> {
    let (mut sender, mut connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut response = std::pin::pin!(sender.send_request(request));
    let mut connected = true;
    let response = std::future::poll_fn(|cx| {
        if connected && Pin::new(&mut connection).poll(cx).is_ready() {
            connected = false;
        }
        response.as_mut().poll(cx)
    });
    let response = response.await?;
    if connected && response.status() == StatusCode::SWITCHING_PROTOCOLS {
        std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await?;
    }
    Ok((response, connection))
}

/// Opens a WebSocket, checks that it was opened, and closes it in good order.
async fn open_websocket(
    stream: Stream,
    mut request: Request<Empty<Bytes>>,
) -> Result<(), CheckError> {
    let key = STANDARD.encode(fastrand::u128(..).to_ne_bytes());
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    let (response, connection) = ask(stream, request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(CheckError::Status(response.status()));
    }
    let field = |name| response.headers().get(name).map(HeaderValue::as_bytes);
    let token = field(UPGRADE).and_then(|token| std::str::from_utf8(token).ok());
    if !token.is_some_and(is_websocket) {
        return Err(CheckError::Handshake("no `Upgrade: websocket`"));
    }
    if field(SEC_WEBSOCKET_ACCEPT) != Some(accept_for(key.as_bytes()).as_bytes()) {
        let wrong = "Sec-WebSocket-Accept does not answer the key";
        return Err(CheckError::Handshake(wrong));
    }
    say_goodbye(connection.into_parts().io.into_inner()).await;
    Ok(())
}

/// Closes with 1000 and waits for the service to close as well. That it opened is all that counts, so
/// nothing that happens here is held against it.
async fn say_goodbye(mut stream: Stream) {
    let mut close = Vec::new();
    encode_close(&mut close, Some([0; 4]), CloseCode::NORMAL, "");
    let farewell = async {
        stream.write_all(&close).await?;
        stream.flush().await?;
        let mut rest = [0; 256];
        while stream.read(&mut rest).await? != 0 {}
        Ok::<_, std::io::Error>(())
    };
    if let Ok(Err(error)) = timeout(Duration::from_millis(200), farewell).await {
        tracing::trace!(%error, "a service broke off the end of a health check");
    }
}
