//! Close codes and Close frames (RFC 6455 §5.5.1, §7.4).
//!
//! Which failure gets which code is decided where the failure is known.

use super::frame::{self, Opcode};

/// Longest reason of a Close frame in bytes: a control frame carries 125, the code takes two.
pub(crate) const MAX_REASON: usize = 123;

/// A code that may stand in a Close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CloseCode(u16);

impl CloseCode {
    pub(crate) const NORMAL: Self = Self(1000);
    pub(crate) const GOING_AWAY: Self = Self(1001);
    pub(crate) const PROTOCOL_ERROR: Self = Self(1002);
    pub(crate) const INVALID_PAYLOAD: Self = Self(1007);
    pub(crate) const POLICY: Self = Self(1008);
    pub(crate) const TOO_BIG: Self = Self(1009);
    pub(crate) const INTERNAL_ERROR: Self = Self(1011);
    pub(crate) const SERVICE_RESTART: Self = Self(1012);
    pub(crate) const TRY_AGAIN_LATER: Self = Self(1013);
    pub(crate) const BAD_GATEWAY: Self = Self(1014);

    /// What is reported of a session that ended without a Close frame. Not a `CloseCode`, because
    /// it must never be in one.
    pub(crate) const ABNORMAL: u16 = 1006;

    /// Returns nothing for a code that may not be sent.
    pub(crate) fn new(code: u16) -> Option<Self> {
        Self::may_be_sent(code).then_some(Self(code))
    }

    /// Whether `code` may stand in a Close frame: those that RFC 6455 §7.4.1 and the IANA registry
    /// define for it, and the ranges for libraries and applications (§7.4.2).
    pub(crate) fn may_be_sent(code: u16) -> bool {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    pub(crate) fn as_u16(self) -> u16 {
        self.0
    }
}

/// Appends a Close frame. A reason over [`MAX_REASON`] loses its end, at a character boundary.
pub(crate) fn encode_close(
    out: &mut Vec<u8>,
    mask: Option<[u8; 4]>,
    code: CloseCode,
    reason: &str,
) {
    let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
    let mut payload = [0; 2 + MAX_REASON];
    payload[..2].copy_from_slice(&code.0.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    frame::encode_frame(out, Opcode::Close, mask, &payload[..2 + reason.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_only_describe_a_lost_connection_may_not_be_sent() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert!(!CloseCode::may_be_sent(code), "{code}");
            assert_eq!(CloseCode::new(code), None, "{code}");
        }
    }

    #[test]
    fn registered_and_private_codes_may_be_sent() {
        for code in [
            1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999,
            4000, 4999,
        ] {
            assert_eq!(CloseCode::new(code).map(CloseCode::as_u16), Some(code));
        }
    }

    #[test]
    fn a_close_frame_is_code_then_reason() {
        let mut out = Vec::new();
        encode_close(&mut out, None, CloseCode::POLICY, "no");
        assert_eq!(out, [0x88, 4, 0x03, 0xf0, b'n', b'o']);
    }

    #[test]
    fn a_masked_close_frame_hides_code_and_reason() {
        let mut out = Vec::new();
        encode_close(&mut out, Some([1, 2, 3, 4]), CloseCode::GOING_AWAY, "a");
        assert_eq!(out, [0x88, 0x83, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2, b'a' ^ 3]);
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_characters() {
        let mut out = Vec::new();
        encode_close(&mut out, None, CloseCode::GOING_AWAY, &"é".repeat(100));
        assert_eq!(out[1], 2 + 122);
        assert_eq!(std::str::from_utf8(&out[4..]).unwrap(), "é".repeat(61));
    }
}
