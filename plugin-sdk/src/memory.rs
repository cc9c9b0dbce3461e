//! Heads in memory, for native unit tests: the same methods as the host's handles, with the same
//! judgement of what may be set. Sizes are the host's business and are not bounded here.

use crate::bindings::imports::tidegate::plugin::http::HeadError;
use crate::check_field;

/// Fields in order, their names in lower case.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields {
    list: Vec<(String, Vec<u8>)>,
    /// Whether the head is part of an opening handshake.
    handshake: bool,
}

impl Fields {
    pub(crate) fn new(fields: &[(&str, &str)], handshake: bool) -> Self {
        let list = fields
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_bytes().to_vec()));
        Self {
            list: list.collect(),
            handshake,
        }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.list.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.get_all(name).into_iter().next()
    }

    fn get_all(&self, name: &str) -> Vec<Vec<u8>> {
        let named = self
            .list
            .iter()
            .filter(|(present, _)| present.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.clone()).collect()
    }

    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), HeadError> {
        self.remove(name)?;
        self.add(name, value)
    }

    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), HeadError> {
        self.check(name, value)?;
        self.list.push((name.to_ascii_lowercase(), value.to_vec()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<bool, HeadError> {
        self.check(name, b"")?;
        let before = self.list.len();
        self.list
            .retain(|(present, _)| !present.eq_ignore_ascii_case(name));
        Ok(self.list.len() < before)
    }

    fn check(&self, name: &str, value: &[u8]) -> Result<(), HeadError> {
        let name_lower = name.to_ascii_lowercase();
        if self.handshake && name_lower.starts_with("sec-websocket-") {
            return Err(HeadError::ForbiddenField(name_lower));
        }
        check_field(name, value).map_err(|error| match error {
            crate::HeadError::ForbiddenField(name) => HeadError::ForbiddenField(name),
            _ => HeadError::InvalidField(name.to_owned()),
        })
    }
}

/// A request, before or after it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) target: String,
    pub(crate) remote_address: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) fields: Fields,
}

impl Request {
    pub(crate) fn method(&self) -> String {
        self.method.clone()
    }

    pub(crate) fn scheme(&self) -> String {
        self.scheme.clone()
    }

    pub(crate) fn host(&self) -> String {
        self.host.clone()
    }

    pub(crate) fn target(&self) -> String {
        self.target.clone()
    }

    pub(crate) fn set_target(&mut self, target: &str) -> Result<(), HeadError> {
        let is_target = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
        if !target.starts_with('/') || !target.bytes().all(is_target) {
            return Err(HeadError::InvalidTarget(target.to_owned()));
        }
        target.clone_into(&mut self.target);
        Ok(())
    }

    pub(crate) fn remote_address(&self) -> String {
        self.remote_address.clone()
    }

    pub(crate) fn is_handshake(&self) -> bool {
        self.fields.handshake
    }

    pub(crate) fn endpoint(&self) -> Option<String> {
        self.endpoint.clone()
    }
}

/// A response.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn set_status(&mut self, status: u16) -> Result<(), HeadError> {
        let stays_101 = self.status == 101 && status == 101;
        let is_final = self.status != 101 && (200..=599).contains(&status);
        if !stays_101 && !is_final {
            return Err(HeadError::InvalidStatus(status));
        }
        self.status = status;
        Ok(())
    }
}

macro_rules! fields {
    ($head:ty) => {
        impl $head {
            pub(crate) fn names(&self) -> Vec<String> {
                self.fields.names()
            }

            pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
                self.fields.get(name)
            }

            pub(crate) fn get_all(&self, name: &str) -> Vec<Vec<u8>> {
                self.fields.get_all(name)
            }

            pub(crate) fn set(&mut self, name: &str, value: &[u8]) -> Result<(), HeadError> {
                self.fields.set(name, value)
            }

            pub(crate) fn add(&mut self, name: &str, value: &[u8]) -> Result<(), HeadError> {
                self.fields.add(name, value)
            }

            pub(crate) fn remove(&mut self, name: &str) -> Result<bool, HeadError> {
                self.fields.remove(name)
            }
        }
    };
}

fields!(Request);
fields!(Response);

/// A handshake that was answered with 101.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    pub(crate) request: Request,
    pub(crate) response: Fields,
    pub(crate) endpoint: String,
    pub(crate) reopening: Option<crate::Reopening>,
}

impl Handshake {
    pub(crate) fn scheme(&self) -> String {
        self.request.scheme()
    }

    pub(crate) fn host(&self) -> String {
        self.request.host()
    }

    pub(crate) fn target(&self) -> String {
        self.request.target()
    }

    pub(crate) fn remote_address(&self) -> String {
        self.request.remote_address()
    }

    pub(crate) fn request_field(&self, name: &str) -> Option<Vec<u8>> {
        self.request.get(name)
    }

    pub(crate) fn response_field(&self, name: &str) -> Option<Vec<u8>> {
        self.response.get(name)
    }

    pub(crate) fn subprotocol(&self) -> Option<String> {
        String::from_utf8(self.response.get("sec-websocket-protocol")?).ok()
    }

    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    pub(crate) fn reopened(&self) -> bool {
        self.reopening.is_some()
    }

    pub(crate) fn reopening(&self) -> Option<crate::Reopening> {
        self.reopening
    }
}
