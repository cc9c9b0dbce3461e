//! What wit-bindgen makes of `wit/`: the host's functions and, per interface, a trait and a macro
//! that exports it. Typed values over these are the business of the other files.
//!
//! Each interface a plugin may export is a world of its own, because a world describes all its
//! exports or none: its description is part of its export macro, so a plugin carries only those it
//! uses, and `wit-component` merges them. The imports are generated once, in `imports`, and shared.

#![allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated from wit/, which documents it"
)]

pub mod imports {
    wit_bindgen::generate!({
        path: "../wit",
        world: "imports",
        additional_derives: [PartialEq],
        generate_unused_types: true, // exports use them
    });
}

pub mod lifecycle {
    wit_bindgen::generate!({
        path: "../wit",
        world: "lifecycle-plugin",
        pub_export_macro: true,
        export_macro_name: "export_lifecycle",
        with: {
            "tidegate:plugin/logging@0.1.0": crate::bindings::imports::tidegate::plugin::logging,
            "tidegate:plugin/http@0.1.0": crate::bindings::imports::tidegate::plugin::http,
            "tidegate:plugin/outgoing@0.1.0": crate::bindings::imports::tidegate::plugin::outgoing,
            "tidegate:plugin/tickets@0.1.0": crate::bindings::imports::tidegate::plugin::tickets,
        },
    });
}

pub mod request {
    wit_bindgen::generate!({
        path: "../wit",
        world: "request-plugin",
        pub_export_macro: true,
        export_macro_name: "export_request",
        with: {
            "tidegate:plugin/logging@0.1.0": crate::bindings::imports::tidegate::plugin::logging,
            "tidegate:plugin/http@0.1.0": crate::bindings::imports::tidegate::plugin::http,
            "tidegate:plugin/outgoing@0.1.0": crate::bindings::imports::tidegate::plugin::outgoing,
            "tidegate:plugin/tickets@0.1.0": crate::bindings::imports::tidegate::plugin::tickets,
        },
    });
}

pub mod response {
    wit_bindgen::generate!({
        path: "../wit",
        world: "response-plugin",
        pub_export_macro: true,
        export_macro_name: "export_response",
        with: {
            "tidegate:plugin/logging@0.1.0": crate::bindings::imports::tidegate::plugin::logging,
            "tidegate:plugin/http@0.1.0": crate::bindings::imports::tidegate::plugin::http,
            "tidegate:plugin/outgoing@0.1.0": crate::bindings::imports::tidegate::plugin::outgoing,
            "tidegate:plugin/tickets@0.1.0": crate::bindings::imports::tidegate::plugin::tickets,
        },
    });
}

pub mod balancer {
    wit_bindgen::generate!({
        path: "../wit",
        world: "balancer-plugin",
        pub_export_macro: true,
        export_macro_name: "export_balancer",
        additional_derives: [PartialEq],
        with: {
            "tidegate:plugin/logging@0.1.0": crate::bindings::imports::tidegate::plugin::logging,
            "tidegate:plugin/http@0.1.0": crate::bindings::imports::tidegate::plugin::http,
            "tidegate:plugin/outgoing@0.1.0": crate::bindings::imports::tidegate::plugin::outgoing,
            "tidegate:plugin/tickets@0.1.0": crate::bindings::imports::tidegate::plugin::tickets,
        },
    });
}

pub mod messages {
    wit_bindgen::generate!({
        path: "../wit",
        world: "messages-plugin",
        pub_export_macro: true,
        export_macro_name: "export_messages",
        additional_derives: [PartialEq],
        with: {
            "tidegate:plugin/logging@0.1.0": crate::bindings::imports::tidegate::plugin::logging,
            "tidegate:plugin/http@0.1.0": crate::bindings::imports::tidegate::plugin::http,
            "tidegate:plugin/outgoing@0.1.0": crate::bindings::imports::tidegate::plugin::outgoing,
            "tidegate:plugin/tickets@0.1.0": crate::bindings::imports::tidegate::plugin::tickets,
        },
    });
}

pub mod handover {
    wit_bindgen::generate!({
        path: "../wit",
        world: "handover-plugin",
        pub_export_macro: true,
        export_macro_name: "export_handover",
        with: {
            "tidegate:plugin/logging@0.1.0": crate::bindings::imports::tidegate::plugin::logging,
            "tidegate:plugin/http@0.1.0": crate::bindings::imports::tidegate::plugin::http,
            "tidegate:plugin/outgoing@0.1.0": crate::bindings::imports::tidegate::plugin::outgoing,
            "tidegate:plugin/tickets@0.1.0": crate::bindings::imports::tidegate::plugin::tickets,
        },
    });
}

pub mod fragments {
    wit_bindgen::generate!({
        path: "../wit",
        world: "fragments-plugin",
        pub_export_macro: true,
        export_macro_name: "export_fragments",
        additional_derives: [PartialEq],
        with: {
            "tidegate:plugin/logging@0.1.0": crate::bindings::imports::tidegate::plugin::logging,
            "tidegate:plugin/http@0.1.0": crate::bindings::imports::tidegate::plugin::http,
            "tidegate:plugin/outgoing@0.1.0": crate::bindings::imports::tidegate::plugin::outgoing,
            "tidegate:plugin/tickets@0.1.0": crate::bindings::imports::tidegate::plugin::tickets,
        },
    });
}

pub mod resumption {
    wit_bindgen::generate!({
        path: "../wit",
        world: "resumption-plugin",
        pub_export_macro: true,
        export_macro_name: "export_resumption",
        with: {
            "tidegate:plugin/logging@0.1.0": crate::bindings::imports::tidegate::plugin::logging,
            "tidegate:plugin/http@0.1.0": crate::bindings::imports::tidegate::plugin::http,
            "tidegate:plugin/outgoing@0.1.0": crate::bindings::imports::tidegate::plugin::outgoing,
            "tidegate:plugin/tickets@0.1.0": crate::bindings::imports::tidegate::plugin::tickets,
        },
    });
}
