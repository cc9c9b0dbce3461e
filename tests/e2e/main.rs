//! What tidegate promises, told as stories: the real binary, real sockets, one file per feature.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that panics says what is wrong"
)]

#[path = "../harness/mod.rs"]
mod harness;

#[path = "../conformance/mod.rs"]
mod conformance;

mod aborts;
mod access_log;
mod admin;
mod admin_access;
mod architecture;
mod balancing;
mod bodies;
mod canary;
mod cases;
mod command_line;
mod compression;
mod containment;
mod demo;
mod directives;
mod drain;
mod explain;
mod files;
mod foreign_clients;
mod forwarding;
mod fragments;
mod hand_over;
mod handshake;
mod health_checks;
mod http2;
mod http2_limits;
mod hygiene;
mod import;
mod keep_alive;
mod limits;
mod listeners;
mod liveness;
mod messages;
mod misbehaviour;
mod nginx_differential;
mod operated_upstreams;
mod oversize;
mod plugins;
mod protocol;
mod reload;
mod reopening;
mod resolver;
mod responses;
mod retries;
mod routes;
mod sessions;
mod shadow;
mod stock_plugins;
mod streams;
mod swap;
mod timeouts;
mod tls;
mod tunnel;
mod upstreams;
mod variables;
mod waiting;
mod watched;
mod websocket_over_http2;
