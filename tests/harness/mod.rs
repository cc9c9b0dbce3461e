//! The words the end-to-end tests are told in: the real binary as an operator starts it, and clients
//! and services that send exactly the bytes a test wants. What is promised is left to `tests/e2e`.
//!
//! Whatever a test waits for has a deadline, and nothing here sleeps to let something happen.

mod connection;
mod dns;
mod files;
mod foreign;
mod frame;
mod guests;
mod head;
pub(crate) mod http2;
mod imported;
mod metrics;
mod nginx;
mod oracle;
mod process;
mod service;
mod telling;
mod tidegate;
mod tls;

use std::time::Duration;

pub(crate) use connection::{Connection, STALL};
pub(crate) use dns::NameServer;
pub(crate) use files::{Endless, Folder};
pub(crate) use foreign::{chromium, node, python};
pub(crate) use frame::{Frame, binary, close, ping, pong, text};
pub(crate) use guests::{component, guest, variant};
pub(crate) use head::{Head, Response, accepting, handshake};
pub(crate) use imported::{import, on_free_ports};
pub(crate) use nginx::{Nginx, free_addresses};
pub(crate) use oracle::Oracle;
pub(crate) use process::{Process, raise_descriptor_limit};
pub(crate) use service::{Refusing, Service, Unreachable, http_echo, websocket_echo};
pub(crate) use tidegate::{Tidegate, check, command, one_listener, route_to};
pub(crate) use tls::{Authority, Certificate, tls_handshake};

/// How long anything may take that should happen at once. Generous, since the machine may be busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// Waits for a future, and fails the test at the deadline with what was waited for.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("after {DEADLINE:?} still no {what}"),
    }
}

/// Looks again and again until there is something to see; for what gives no sign when it happens,
/// such as a file that grows. Fails the test at the deadline.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}
