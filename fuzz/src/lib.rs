//! What has to hold for any bytes that a stranger sends: one function for each fuzz target.
//!
//! The host keeps its protocol code to itself, and compiling all of it would take minutes. So that
//! code is compiled here once more, as modules of this crate.

mod deflate;
mod frame;
mod handshake;
mod input;
mod message;
mod protocol;

pub use deflate::deflate;
pub use frame::frame;
pub use handshake::handshake;
pub use message::message;
