//! The contract of `wit/` as Rust: generated, so nothing is said here that is not said there.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::cast_possible_truncation,
    reason = "generated code"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "tidegate:plugin/plugin",
    imports: { default: trappable },
    with: {
        "tidegate:plugin/http.request-head": super::host::handles::RequestHead,
        "tidegate:plugin/http.sent-request": super::host::handles::SentRequestHead,
        "tidegate:plugin/http.response-head": super::host::handles::ResponseHead,
        "tidegate:plugin/http.handshake": super::host::handles::HandshakeFacts,
    },
});
