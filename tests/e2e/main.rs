//! What tidegate promises, told as stories: the real binary, real sockets, one file per feature.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that panics says what is wrong"
)]

#[path = "../harness/mod.rs"]
mod harness;
