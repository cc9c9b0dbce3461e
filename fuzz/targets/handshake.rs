//! Fields and paths of opening handshakes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_fuzz::handshake(bytes));
