//! What plugins read and change of heads: `http` of `wit/host.wit`.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, request, response};
use wasmtime::Result;
use wasmtime::component::Resource;

use super::handles::{HandshakeFacts, RequestHead, ResponseHead, SentRequestHead};
use super::loan::Loan;
use super::{Lent, State, rule};
use crate::plugin::bindings::tidegate::plugin::http as heads;
use crate::plugin::bindings::tidegate::plugin::http::{Answer, HeadError};
use crate::plugin::{Cause, Facts, Handshake, Reopening, SentRequest};
use crate::telemetry::Phase;

/// Fields of the connection, not of the message. With those of a handshake they are the host's.
pub(super) const CONNECTION_FIELDS: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
];

impl State {
    fn request(&mut self) -> Result<&mut Loan<request::Parts>> {
        match &mut self.lent {
            Lent::Request(loan) => Ok(loan),
            _ => Err(stale()),
        }
    }

    fn response(&mut self) -> Result<&mut Loan<response::Parts>> {
        match &mut self.lent {
            Lent::Response(_, loan) => Ok(loan),
            _ => Err(stale()),
        }
    }

    fn sent_request(&self) -> Result<&SentRequest> {
        match &self.lent {
            Lent::Response(request, _) => Ok(request),
            _ => Err(stale()),
        }
    }

    fn handshake(&self) -> Result<&Handshake> {
        match &self.lent {
            Lent::Handshake { handshake, .. } => Ok(handshake),
            _ => Err(stale()),
        }
    }
}

impl heads::HostRequestHead for State {
    fn method(&mut self, _: Resource<RequestHead>) -> Result<String> {
        Ok(self.request()?.head.method.as_str().to_owned())
    }

    fn scheme(&mut self, _: Resource<RequestHead>) -> Result<String> {
        Ok(self.request()?.facts.scheme.to_owned())
    }

    fn host(&mut self, _: Resource<RequestHead>) -> Result<String> {
        Ok(self.request()?.facts.host.to_string())
    }

    fn target(&mut self, _: Resource<RequestHead>) -> Result<String> {
        Ok(target(&self.request()?.head.uri).to_owned())
    }

    fn set_target(
        &mut self,
        _: Resource<RequestHead>,
        new: String,
    ) -> Result<std::result::Result<(), HeadError>> {
        let loan = self.request()?;
        let Some(path_and_query) = origin_form(&new) else {
            return Ok(Err(HeadError::InvalidTarget(new)));
        };
        let max = loan.facts.max_header_bytes;
        let (head, changed) = loan.changing();
        let grown = changed.bytes - target(&head.uri).len() + new.len();
        if grown > max && grown > changed.bytes {
            return Ok(Err(HeadError::TooLarge));
        }
        let mut parts = head.uri.clone().into_parts();
        parts.path_and_query = Some(path_and_query);
        match Uri::from_parts(parts) {
            Ok(uri) => head.uri = uri,
            Err(_) => return Ok(Err(HeadError::InvalidTarget(new))),
        }
        changed.bytes = grown;
        Ok(Ok(()))
    }

    fn remote_address(&mut self, _: Resource<RequestHead>) -> Result<String> {
        Ok(self.request()?.facts.remote_address())
    }

    fn is_handshake(&mut self, _: Resource<RequestHead>) -> Result<bool> {
        Ok(self.request()?.facts.is_handshake)
    }

    fn names(&mut self, _: Resource<RequestHead>) -> Result<Vec<String>> {
        Ok(self.request()?.names())
    }

    fn get(&mut self, _: Resource<RequestHead>, name: String) -> Result<Option<Vec<u8>>> {
        Ok(self.request()?.get(&name))
    }

    fn get_all(&mut self, _: Resource<RequestHead>, name: String) -> Result<Vec<Vec<u8>>> {
        Ok(self.request()?.get_all(&name))
    }

    fn set(
        &mut self,
        _: Resource<RequestHead>,
        name: String,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), HeadError>> {
        Ok(self.request()?.put(&name, value, true))
    }

    fn add(
        &mut self,
        _: Resource<RequestHead>,
        name: String,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), HeadError>> {
        Ok(self.request()?.put(&name, value, false))
    }

    fn remove(
        &mut self,
        _: Resource<RequestHead>,
        name: String,
    ) -> Result<std::result::Result<bool, HeadError>> {
        Ok(self.request()?.remove(&name))
    }

    fn drop(&mut self, _: Resource<RequestHead>) -> Result<()> {
        Ok(())
    }
}

impl heads::HostSentRequest for State {
    fn method(&mut self, _: Resource<SentRequestHead>) -> Result<String> {
        Ok(self.sent_request()?.method.as_str().to_owned())
    }

    fn scheme(&mut self, _: Resource<SentRequestHead>) -> Result<String> {
        Ok(self.sent_request()?.facts.scheme.to_owned())
    }

    fn host(&mut self, _: Resource<SentRequestHead>) -> Result<String> {
        Ok(self.sent_request()?.facts.host.to_string())
    }

    fn target(&mut self, _: Resource<SentRequestHead>) -> Result<String> {
        Ok(self.sent_request()?.target.to_string())
    }

    fn remote_address(&mut self, _: Resource<SentRequestHead>) -> Result<String> {
        Ok(self.sent_request()?.facts.remote_address())
    }

    fn get(&mut self, _: Resource<SentRequestHead>, name: String) -> Result<Option<Vec<u8>>> {
        Ok(first(&self.sent_request()?.headers, &name))
    }

    fn endpoint(&mut self, _: Resource<SentRequestHead>) -> Result<Option<String>> {
        Ok(self
            .sent_request()?
            .endpoint
            .map(|endpoint| endpoint.to_string()))
    }

    fn drop(&mut self, _: Resource<SentRequestHead>) -> Result<()> {
        Ok(())
    }
}

impl heads::HostResponseHead for State {
    fn status(&mut self, _: Resource<ResponseHead>) -> Result<u16> {
        Ok(self.response()?.head.status.as_u16())
    }

    fn set_status(
        &mut self,
        _: Resource<ResponseHead>,
        status: u16,
    ) -> Result<std::result::Result<(), HeadError>> {
        let loan = self.response()?;
        let now = loan.head.status;
        if status == now.as_u16() {
            return Ok(Ok(()));
        }
        match final_status(status) {
            Some(status) if now != StatusCode::SWITCHING_PROTOCOLS => {
                loan.changing().0.status = status;
                Ok(Ok(()))
            }
            _ => Ok(Err(HeadError::InvalidStatus(status))),
        }
    }

    fn names(&mut self, _: Resource<ResponseHead>) -> Result<Vec<String>> {
        Ok(self.response()?.names())
    }

    fn get(&mut self, _: Resource<ResponseHead>, name: String) -> Result<Option<Vec<u8>>> {
        Ok(self.response()?.get(&name))
    }

    fn get_all(&mut self, _: Resource<ResponseHead>, name: String) -> Result<Vec<Vec<u8>>> {
        Ok(self.response()?.get_all(&name))
    }

    fn set(
        &mut self,
        _: Resource<ResponseHead>,
        name: String,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), HeadError>> {
        Ok(self.response()?.put(&name, value, true))
    }

    fn add(
        &mut self,
        _: Resource<ResponseHead>,
        name: String,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), HeadError>> {
        Ok(self.response()?.put(&name, value, false))
    }

    fn remove(
        &mut self,
        _: Resource<ResponseHead>,
        name: String,
    ) -> Result<std::result::Result<bool, HeadError>> {
        Ok(self.response()?.remove(&name))
    }

    fn drop(&mut self, _: Resource<ResponseHead>) -> Result<()> {
        Ok(())
    }
}

impl heads::HostHandshake for State {
    fn scheme(&mut self, _: Resource<HandshakeFacts>) -> Result<String> {
        Ok(self.handshake()?.facts.scheme.to_owned())
    }

    fn host(&mut self, _: Resource<HandshakeFacts>) -> Result<String> {
        Ok(self.handshake()?.facts.host.to_string())
    }

    fn target(&mut self, _: Resource<HandshakeFacts>) -> Result<String> {
        Ok(self.handshake()?.target.to_string())
    }

    fn remote_address(&mut self, _: Resource<HandshakeFacts>) -> Result<String> {
        Ok(self.handshake()?.facts.remote_address())
    }

    fn request_field(
        &mut self,
        _: Resource<HandshakeFacts>,
        name: String,
    ) -> Result<Option<Vec<u8>>> {
        Ok(first(&self.handshake()?.request, &name))
    }

    fn response_field(
        &mut self,
        _: Resource<HandshakeFacts>,
        name: String,
    ) -> Result<Option<Vec<u8>>> {
        Ok(first(&self.handshake()?.response, &name))
    }

    fn subprotocol(&mut self, _: Resource<HandshakeFacts>) -> Result<Option<String>> {
        let agreed = self
            .handshake()?
            .response
            .get(header::SEC_WEBSOCKET_PROTOCOL);
        Ok(agreed
            .and_then(|agreed| agreed.to_str().ok())
            .map(str::to_owned))
    }

    fn endpoint(&mut self, _: Resource<HandshakeFacts>) -> Result<String> {
        Ok(self.handshake()?.endpoint.to_string())
    }

    fn reopened(&mut self, _: Resource<HandshakeFacts>) -> Result<bool> {
        match self.lent {
            Lent::Handshake { reopening, .. } => Ok(reopening.is_some()),
            _ => Err(stale()),
        }
    }

    fn reopening(&mut self, _: Resource<HandshakeFacts>) -> Result<Option<heads::Reopening>> {
        match self.lent {
            Lent::Handshake { reopening, .. } => Ok(reopening.map(Into::into)),
            _ => Err(stale()),
        }
    }

    fn drop(&mut self, _: Resource<HandshakeFacts>) -> Result<()> {
        Ok(())
    }
}

impl heads::Host for State {
    fn respond(&mut self, answer: Answer) -> Result<()> {
        self.call
            .must_be(&[Phase::Request, Phase::Response], "http.respond")?;
        let Answer {
            status,
            fields,
            body,
        } = answer;
        let of_fields = fields.iter().map(|(name, value)| name.len() + value.len());
        self.spend(of_fields.sum::<usize>() + body.len(), 0)?;
        let Some(status) = final_status(status) else {
            return rule(format!(
                "answered with status {status}; expected 200 to 599"
            ));
        };
        let mut response = http::Response::new(Bytes::from(body));
        *response.status_mut() = status;
        for (name, value) in fields {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                return rule(format!("answered with field `{}`", name.escape_debug()));
            };
            // A plugin that hands on another response's fields may well have these two.
            if name == header::CONTENT_LENGTH || name == header::DATE {
                continue;
            }
            let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) else {
                return rule(format!(
                    "answered with a value of `{name}` that cannot be sent"
                ));
            };
            if CONNECTION_FIELDS.contains(&name) {
                return rule(format!("answered with `{name}`, a field of the connection"));
            }
            if response.headers_mut().try_append(name, value).is_err() {
                return rule("answered with too many fields".to_owned());
            }
        }
        self.produced.answer = Some(response);
        Ok(())
    }
}

impl From<Reopening> for heads::Reopening {
    fn from(reopening: Reopening) -> Self {
        match reopening {
            Reopening::Swap => Self::Swap,
            Reopening::Failure => Self::Failure,
        }
    }
}

impl Facts {
    fn remote_address(&self) -> String {
        self.remote.to_canonical().to_string()
    }
}

fn stale() -> wasmtime::Error {
    Cause::Rule("used a head beyond the call it came with".to_owned()).into()
}

fn final_status(status: u16) -> Option<StatusCode> {
    StatusCode::from_u16(status)
        .ok()
        .filter(|_| (200..600).contains(&status))
}

/// Path and query as they go into a request line.
pub(super) fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// Parses a target in origin form. As lenient as the parser of requests: what a client sent can be set
/// again, though RFC 9112 §3.2.1 wants some of it encoded.
pub(super) fn origin_form(target: &str) -> Option<PathAndQuery> {
    let sendable = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !target.starts_with('/') || !target.bytes().all(sendable) {
        return None;
    }
    target.parse().ok()
}

pub(super) fn first(fields: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    fields.get(name).map(|value| value.as_bytes().to_vec())
}
