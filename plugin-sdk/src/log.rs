//! Log lines, written to the host's log with the plugin's name.
//!
//! `log::info!("{count} words")` and the like take what [`format!`] takes. The host cuts a line at
//! 8 KiB and drops what is above 100 lines a second and worker. Natively lines go to stderr.

pub use crate::bindings::imports::tidegate::plugin::logging::Level;
pub use crate::{
    __log_debug as debug, __log_error as error, __log_info as info, __log_trace as trace,
    __log_warn as warn,
};

/// Writes one line. `context` names the part of the plugin that speaks and may be empty.
pub fn write(level: Level, context: &str, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::imports::tidegate::plugin::logging::log(level, context, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?} {context} {message}");
}

/// Logs what is of use only to those who work on the plugin.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Trace, "", &::std::format!($($message)+))
    };
}

/// Logs a detail that explains what the plugin does.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Debug, "", &::std::format!($($message)+))
    };
}

/// Logs a normal event that operators care about.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Info, "", &::std::format!($($message)+))
    };
}

/// Logs something wrong that the plugin got over.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Warn, "", &::std::format!($($message)+))
    };
}

/// Logs something that could not be done.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($message:tt)+) => {
        $crate::log::write($crate::log::Level::Error, "", &::std::format!($($message)+))
    };
}
