//! The host's modules that read what strangers send.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "the host uses what no target does"
)]

#[path = "../../host/src/protocol/answers.rs"]
pub(crate) mod answers;
#[path = "../../host/src/protocol/close.rs"]
pub(crate) mod close;
#[path = "../../host/src/protocol/deflate.rs"]
pub(crate) mod deflate;
#[path = "../../host/src/protocol/extensions.rs"]
pub(crate) mod extensions;
#[path = "../../host/src/protocol/frame.rs"]
pub(crate) mod frame;
#[path = "../../host/src/protocol/headers.rs"]
pub(crate) mod headers;
#[path = "../../host/src/protocol/message/mod.rs"]
pub(crate) mod message;
#[path = "../../host/src/protocol/upgrade.rs"]
pub(crate) mod upgrade;
#[path = "../../host/src/protocol/utf8.rs"]
pub(crate) mod utf8;
