//! Limits and timeouts that are in force for a request, by their keys.

use super::Value;
use crate::config::units::{write_duration, write_size};
use crate::config::{Config, FieldNames};
use crate::generation::Route;

/// All of them, in the order of `tidegate.example.toml`.
pub(super) fn in_force(config: &Config, route: &Route) -> Vec<Value> {
    let size = |bytes: u64| format!("{:?}", write_size(bytes));
    let whole = |bytes: usize| size(bytes as u64);
    let time = |time| format!("{:?}", write_duration(time));
    let limits = &config.limits;
    let client = &config.timeouts;
    let settings = &route.settings;
    let names = match limits.field_names {
        FieldNames::Plain => "\"plain\"",
        FieldNames::Underscores => "\"underscores\"",
        FieldNames::Any => "\"any\"",
    };
    let mut values = vec![
        ("limits.max_header", whole(limits.max_header_bytes)),
        ("limits.max_headers", limits.max_headers.to_string()),
        ("limits.field_names", names.to_owned()),
        ("limits.max_uri", whole(limits.max_uri_bytes)),
        ("timeouts.header_read", time(client.header_read)),
        ("timeouts.keep_alive", time(client.keep_alive)),
        ("timeouts.body_read", time(client.body_read)),
        ("timeouts.send", time(client.send)),
        ("max_body", size(settings.max_body_bytes)),
    ];
    if route.upstream.is_some() {
        let service = &settings.timeouts;
        let socket = &settings.websocket;
        values.extend([
            ("upgrade", format!("{:?}", settings.upgrade)),
            ("timeouts.connect (route)", time(service.connect)),
            ("timeouts.send (route)", time(service.send)),
            ("timeouts.read (route)", time(service.read)),
            ("websocket.idle_timeout", time(socket.idle_timeout)),
            ("websocket.max_message", whole(socket.max_message_bytes)),
            (
                "ignore_client_abort",
                settings.ignore_client_abort.to_string(),
            ),
        ]);
    }
    let value = |(name, value): (&str, String)| Value {
        name: name.to_owned(),
        value,
        why: None,
    };
    values.into_iter().map(value).collect()
}
