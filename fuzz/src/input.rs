//! What a fuzzer's bytes are taken for: first choices of the target's, then what a stranger sends.

/// Bytes that are used up from the front. Where none are left, all choices are 0.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    /// Takes one byte.
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        byte
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Splits what is left into reads, whose lengths repeat after the few that are taken here.
    pub(crate) fn reads(&mut self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let lengths = [self.byte(), self.byte(), self.byte()].map(|byte| usize::from(byte).max(1));
        let mut rest = self.0;
        let mut lengths = lengths.into_iter().cycle();
        std::iter::from_fn(move || {
            let length = lengths.next()?.min(rest.len());
            let (read, left) = rest.split_at(length);
            rest = left;
            (length > 0).then_some(read)
        })
    }
}
