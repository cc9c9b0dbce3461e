//! Text that arrives in pieces: whether it is UTF-8 so far, and where its last whole character ends.

use std::str::Utf8Error;

/// A piece that no UTF-8 can have, after what came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotUtf8;

/// Judges text as it arrives, without keeping it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Utf8 {
    /// The first `length` bytes of a character that the last piece ended within.
    cut: [u8; 3],
    length: u8,
}

impl Utf8 {
    /// Judges the next piece: an error as soon as no further bytes could make the text valid.
    pub(crate) fn take_in(&mut self, piece: &[u8]) -> Result<(), NotUtf8> {
        let rest = &piece[self.finish_character(piece)?..];
        if self.length > 0 {
            return Ok(());
        }
        match std::str::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if is_cut_off(&error) => {
                self.keep(&rest[error.valid_up_to()..]);
                Ok(())
            }
            Err(_) => Err(NotUtf8),
        }
    }

    /// Returns the beginning of the character that the text so far ends within: empty if it ends with a
    /// whole one, as it must where the message ends.
    pub(crate) fn cut(&self) -> &[u8] {
        &self.cut[..usize::from(self.length)]
    }

    /// Takes the rest of a character from the front of `piece`. Returns how many bytes that took.
    fn finish_character(&mut self, piece: &[u8]) -> Result<usize, NotUtf8> {
        let mut character = [0; 4];
        let before = usize::from(self.length);
        character[..before].copy_from_slice(self.cut());
        let mut used = 0;
        while self.length > 0 {
            let Some(&byte) = piece.get(used) else {
                break;
            };
            let end = before + used;
            character[end] = byte;
            used += 1;
            match std::str::from_utf8(&character[..=end]) {
                Ok(_) => self.length = 0,
                Err(error) if is_cut_off(&error) => self.keep(&character[..=end]),
                Err(_) => return Err(NotUtf8),
            }
        }
        Ok(used)
    }

    /// Remembers the beginning of a character, which is at most three bytes.
    fn keep(&mut self, cut: &[u8]) {
        for (kept, byte) in self.cut.iter_mut().zip(cut) {
            *kept = *byte;
        }
        self.length = u8::try_from(cut.len().min(self.cut.len())).unwrap_or_default();
    }
}

/// Whether more bytes could make the text valid.
pub(crate) fn is_cut_off(error: &Utf8Error) -> bool {
    error.error_len().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_piece_that_cannot_be_finished_is_refused_at_once() {
        for (before, piece) in [
            (&b""[..], &b"a\xff"[..]),
            (b"\xe2", b"\x28"),
            (b"\xf4", b"\x90"),
            (b"\xed", b"\xa0"),
            (b"\xf0\x9f\x92", b"\xff"),
            (b"", b"\xc0"),
        ] {
            let mut text = Utf8::default();
            assert_eq!(text.take_in(before), Ok(()), "{before:x?}");
            assert_eq!(text.take_in(piece), Err(NotUtf8), "{before:x?} {piece:x?}");
        }
    }

    proptest! {
        #[test]
        fn text_is_judged_alike_whole_and_in_pieces(
            bytes in prop_oneof![
                prop::collection::vec(prop::sample::select(&b"a\x80\x9f\xa0\xbf\xc3\xe0\xe2\xed\xf0\xf4"[..]), 0..10),
                ".{0,10}".prop_map(String::into_bytes),
            ],
            cuts in prop::collection::vec(0_usize..4, 1..10),
        ) {
            let mut text = Utf8::default();
            let (mut at, mut whole, mut valid) = (0_usize, 0, true);
            for cut in cuts.iter().cycle().take(40).chain([&usize::MAX]) {
                let end = at.saturating_add(*cut).min(bytes.len());
                valid = valid && text.take_in(&bytes[at..end]).is_ok();
                at = end;
                if valid {
                    whole = at - text.cut().len();
                    prop_assert!(std::str::from_utf8(&bytes[..whole]).is_ok());
                    prop_assert_eq!(text.cut(), &bytes[whole..at]);
                }
            }
            let is_utf8 = std::str::from_utf8(&bytes).is_ok();
            prop_assert_eq!(valid && whole == bytes.len(), is_utf8);
        }
    }
}
