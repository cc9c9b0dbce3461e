//! Heads that are lent to a plugin: what it may change of them, and what they were before.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, request, response};

use super::heads::{CONNECTION_FIELDS, first, target};
use crate::plugin::Facts;
use crate::plugin::bindings::tidegate::plugin::http::HeadError;

/// A head that a guest may change, and what it was before.
pub(in crate::plugin) struct Loan<H: Head> {
    pub(super) head: H,
    pub(super) facts: Arc<Facts>,
    changed: Option<Changed<H>>,
}

pub(super) struct Changed<H: Head> {
    first_line: H::FirstLine,
    /// Values of the fields that were touched. Few are, so this is cheaper than a copy of all.
    fields: Vec<(HeaderName, Vec<HeaderValue>)>,
    /// Size of the head as it is now.
    pub(super) bytes: usize,
}

/// The head of a request or response.
pub(in crate::plugin) trait Head {
    /// What a plugin may change of the first line.
    type FirstLine: Clone;

    fn first_line(&mut self) -> &mut Self::FirstLine;
    fn first_line_bytes(&self) -> usize;
    fn fields(&mut self) -> &mut HeaderMap;
}

impl<H: Head> Loan<H> {
    pub(in crate::plugin) fn new(head: H, facts: &Arc<Facts>) -> Self {
        Self {
            head,
            facts: Arc::clone(facts),
            changed: None,
        }
    }

    /// Ends the loan; the head is as the guest left it.
    pub(in crate::plugin) fn give_back(self) -> H {
        self.head
    }

    /// Ends the loan; the head is as it was.
    pub(in crate::plugin) fn undo(mut self) -> H {
        if let Some(before) = self.changed {
            *self.head.first_line() = before.first_line;
            let fields = self.head.fields();
            // All new ones first: a map takes 32,768 fields, and those that were there fit.
            for (name, _) in &before.fields {
                fields.remove(name);
            }
            for (name, values) in before.fields {
                for value in values {
                    fields.append(&name, value);
                }
            }
        }
        self.head
    }

    pub(super) fn changing(&mut self) -> (&mut H, &mut Changed<H>) {
        let head = &mut self.head;
        let changed = self.changed.get_or_insert_with(|| {
            let fields = head.fields().iter();
            let fields = fields.map(|(name, value)| field_bytes(name, value.len()));
            let bytes = fields.sum::<usize>() + head.first_line_bytes();
            Changed {
                first_line: head.first_line().clone(),
                fields: Vec::new(),
                bytes,
            }
        });
        (head, changed)
    }

    pub(super) fn names(&mut self) -> Vec<String> {
        self.head
            .fields()
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect()
    }

    pub(super) fn get(&mut self, name: &str) -> Option<Vec<u8>> {
        first(self.head.fields(), name)
    }

    pub(super) fn get_all(&mut self, name: &str) -> Vec<Vec<u8>> {
        let values = self.head.fields().get_all(name);
        values
            .iter()
            .map(|value| value.as_bytes().to_vec())
            .collect()
    }

    /// Sets a field, or adds to it what it does not `replace`.
    pub(super) fn put(
        &mut self,
        name: &str,
        value: Vec<u8>,
        replace: bool,
    ) -> Result<(), HeadError> {
        let max = self.facts.max_header_bytes;
        let name = self.field_name(name)?;
        let value = HeaderValue::from_maybe_shared(Bytes::from(value))
            .map_err(|_| HeadError::InvalidField(name.as_str().to_owned()))?;
        let (head, changed) = self.changing();
        let fields = head.fields();
        let gone = if replace { all_bytes(fields, &name) } else { 0 };
        let grown = changed.bytes - gone + field_bytes(&name, value.len());
        if grown > max && grown > changed.bytes {
            return Err(HeadError::TooLarge);
        }
        changed.remember(&name, fields);
        // Refused past 32,768 fields.
        let put = if replace {
            fields.try_insert(name, value).map(drop)
        } else {
            fields.try_append(name, value).map(drop)
        };
        put.map_err(|_| HeadError::TooLarge)?;
        changed.bytes = grown;
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<bool, HeadError> {
        let name = self.field_name(name)?;
        if !self.head.fields().contains_key(&name) {
            return Ok(false);
        }
        let (head, changed) = self.changing();
        let fields = head.fields();
        changed.remember(&name, fields);
        changed.bytes -= all_bytes(fields, &name);
        fields.remove(&name);
        Ok(true)
    }

    fn field_name(&self, name: &str) -> Result<HeaderName, HeadError> {
        let valid = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| HeadError::InvalidField(name.to_owned()))?;
        let of_handshake = self.facts.is_handshake && valid.as_str().starts_with("sec-websocket-");
        if of_handshake || CONNECTION_FIELDS.contains(&valid) {
            return Err(HeadError::ForbiddenField(valid.as_str().to_owned()));
        }
        Ok(valid)
    }
}

impl<H: Head> Changed<H> {
    /// Keeps what a field was before it is touched for the first time.
    fn remember(&mut self, name: &HeaderName, fields: &HeaderMap) {
        if self.fields.iter().all(|(known, _)| known != name) {
            let values = fields.get_all(name).iter().cloned().collect();
            self.fields.push((name.clone(), values));
        }
    }
}

impl Head for request::Parts {
    type FirstLine = Uri;

    fn first_line(&mut self) -> &mut Uri {
        &mut self.uri
    }

    fn first_line_bytes(&self) -> usize {
        target(&self.uri).len()
    }

    fn fields(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }
}

impl Head for response::Parts {
    type FirstLine = StatusCode;

    fn first_line(&mut self) -> &mut StatusCode {
        &mut self.status
    }

    fn first_line_bytes(&self) -> usize {
        0
    }

    fn fields(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }
}

/// Size of a field line: name, colon, space, value, CR, LF.
fn field_bytes(name: &HeaderName, value_len: usize) -> usize {
    name.as_str().len() + value_len + 4
}

fn all_bytes(fields: &HeaderMap, name: &HeaderName) -> usize {
    fields
        .get_all(name)
        .iter()
        .map(|value| field_bytes(name, value.len()))
        .sum()
}
