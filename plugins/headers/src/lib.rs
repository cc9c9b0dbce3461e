//! Sets, adds and removes fields of requests and responses.
//!
//! ```toml
//! [plugins.headers]
//! module = "builtin:headers"
//! [plugins.headers.config]
//! request = { remove = ["Cookie"], set = { X-Tier = "gold" } }
//! response = { set = { X-Frame-Options = "DENY" }, add = { Vary = ["Origin", "Cookie"] } }
//! ```
//!
//! All keys may be left out. `remove` is done first, then `set`, then `add`; a value is a string or
//! a list of strings, each a field line of its own. A head that would grow beyond the route's limit
//! does not go out without its fields: the client gets a 431 for a request, a 502 for a response.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tidegate_plugin::{
    Answer, HeadError, OnRequest, OnResponse, Plugin, RequestHead, ResponseHead, SentRequest,
    Verdict, check_field, log,
};

struct Headers {
    request: Vec<Edit>,
    response: Vec<Edit>,
}

/// One change of a head.
#[derive(Debug)]
enum Edit {
    Remove(String),
    Set(String, String),
    Add(String, String),
}

/// The configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    request: Edits,
    #[serde(default)]
    response: Edits,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Edits {
    remove: Vec<String>,
    set: BTreeMap<String, Values>,
    add: BTreeMap<String, Values>,
}

/// The values of a field.
struct Values(Vec<String>);

impl Plugin for Headers {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            request: in_order("request", config.request)?,
            response: in_order("response", config.response)?,
        })
    }
}

impl OnRequest for Headers {
    fn on_request(&mut self, head: &mut RequestHead) -> Verdict {
        for edit in &self.request {
            let done = match edit {
                Edit::Remove(name) => head.remove(name).map(drop),
                Edit::Set(name, value) => head.set(name, value),
                Edit::Add(name, value) => head.add(name, value),
            };
            match done {
                Ok(()) => {}
                Err(HeadError::TooLarge) => return Verdict::Respond(Answer::new(431)),
                Err(error) => log::warn!("request left as it was: {error}"),
            }
        }
        Verdict::Continue
    }
}

impl OnResponse for Headers {
    fn on_response(&mut self, _: &SentRequest, head: &mut ResponseHead) -> Verdict {
        for edit in &self.response {
            let done = match edit {
                Edit::Remove(name) => head.remove(name).map(drop),
                Edit::Set(name, value) => head.set(name, value),
                Edit::Add(name, value) => head.add(name, value),
            };
            match done {
                Ok(()) => {}
                // A 101 cannot be answered with anything else.
                Err(HeadError::TooLarge) if head.status() != 101 => {
                    return Verdict::Respond(Answer::new(502));
                }
                Err(error) => log::warn!("response left as it was: {error}"),
            }
        }
        Verdict::Continue
    }
}

tidegate_plugin::export!(Headers: OnRequest, OnResponse);

/// Puts the edits of a head in the order in which they are done, and refuses fields that no head
/// would take.
fn in_order(head: &str, edits: Edits) -> Result<Vec<Edit>, String> {
    let mut list = Vec::new();
    for name in edits.remove {
        check_field(&name, "").map_err(|error| format!("{head}.remove: {error}"))?;
        list.push(Edit::Remove(name));
    }
    for (name, Values(values)) in edits.set {
        for (index, value) in values.into_iter().enumerate() {
            check_field(&name, &value).map_err(|error| format!("{head}.set: {error}"))?;
            let name = name.clone();
            list.push(if index == 0 {
                Edit::Set(name, value)
            } else {
                Edit::Add(name, value)
            });
        }
    }
    for (name, Values(values)) in edits.add {
        for value in values {
            check_field(&name, &value).map_err(|error| format!("{head}.add: {error}"))?;
            list.push(Edit::Add(name.clone(), value));
        }
    }
    Ok(list)
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringOrList;

        impl<'de> Visitor<'de> for StringOrList {
            type Value = Values;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Values, E> {
                Ok(Values(vec![value.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                if values.is_empty() {
                    return Err(serde::de::Error::invalid_length(0, &"at least one value"));
                }
                Ok(Values(values))
            }
        }

        deserializer.deserialize_any(StringOrList)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_plugin::testing::{Request, configure, response};

    fn error(config: &str) -> String {
        configure::<Headers>(config)
            .err()
            .expect("a configuration error")
    }

    #[test]
    fn remove_comes_before_set_and_set_before_add() {
        let mut plugin: Headers = configure(
            r#"{"request": {"add": {"a": "3"}, "set": {"A": ["1", "2"]}, "remove": ["A", "b"]}}"#,
        )
        .unwrap();
        let fields = [("a", "old"), ("a", "older"), ("b", "gone"), ("c", "stays")];
        let mut head = Request {
            fields: &fields,
            ..Request::default()
        }
        .head();

        assert_eq!(plugin.on_request(&mut head), Verdict::Continue);
        assert_eq!(head.get_all("a"), [b"1", b"2", b"3"]);
        assert_eq!(head.names(), ["a", "c"]);
    }

    #[test]
    fn requests_and_responses_are_edited_apart() {
        let mut plugin: Headers = configure(r#"{"response": {"set": {"X-A": "1"}}}"#).unwrap();
        let request = Request::default();
        let mut head = request.head();
        let mut answer = response(200, &[]);

        assert_eq!(plugin.on_request(&mut head), Verdict::Continue);
        assert_eq!(
            plugin.on_response(&request.sent(), &mut answer),
            Verdict::Continue
        );
        assert!(head.names().is_empty());
        assert_eq!(answer.text("x-a").as_deref(), Some("1"));
    }

    #[test]
    fn a_field_of_the_handshake_is_left_alone() {
        let mut plugin: Headers =
            configure(r#"{"request": {"remove": ["Sec-WebSocket-Key"], "set": {"a": "1"}}}"#)
                .unwrap();
        let fields = [("Sec-WebSocket-Key", "x")];
        let mut head = Request {
            is_handshake: true,
            fields: &fields,
            ..Request::default()
        }
        .head();

        assert_eq!(plugin.on_request(&mut head), Verdict::Continue);
        assert_eq!(head.names(), ["a", "sec-websocket-key"]);
    }

    #[test]
    fn a_wrong_configuration_says_where_and_what() {
        assert_eq!(
            error(r#"{"request": {"set": {"a": 1}}}"#),
            "request.set.a: invalid type: integer `1`, expected a string or a list of strings"
        );
        assert_eq!(
            error(r#"{"response": {"sets": {}}}"#),
            "response.sets: unknown field `sets`, expected one of `remove`, `set`, `add`"
        );
        assert_eq!(
            error(r#"{"request": {"add": {"a": []}}}"#),
            "request.add.a: invalid length 0, expected at least one value"
        );
        assert_eq!(
            error(r#"{"request": {"remove": ["Connection"]}}"#),
            "request.remove: field `connection` belongs to the proxy"
        );
        assert_eq!(
            error(r#"{"response": {"set": {"a b": "1"}}}"#),
            "response.set: `a b` is not a field name, or its value not a field value"
        );
        assert_eq!(
            error(r#"{"response": {"set": {"a": "1\r\nb: 2"}}}"#),
            "response.set: `a` is not a field name, or its value not a field value"
        );
    }
}
