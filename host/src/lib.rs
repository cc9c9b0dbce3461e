//! Tidegate, a reverse proxy for live connections whose behaviour is programmed in WebAssembly.
//!
//! The modules stand in the order in which a connection meets them. Left may import right, never the
//! other way:
//!
//! ```text
//! main, lib → demo | explain | import → server → downstream → proxy → generation → route
//!           → upstream | plugin | files → certificates → config | protocol | telemetry | stream
//! ```

mod demo;
mod explain;
mod import;
mod server;

mod downstream;
mod proxy;

mod generation;
mod route;

mod files;
mod plugin;
mod upstream;

mod certificates;
mod config;
mod protocol;
mod stream;
mod telemetry;

mod command;
mod operate;
mod remote;

pub use command::run;
