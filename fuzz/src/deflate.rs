//! Compressed messages.

use crate::input::Input;
use crate::protocol::deflate::{Codec, InflateError, longest_compressed};

/// Nothing inflates to more than the limit, whatever came before; and what is compressed comes back.
pub fn deflate(bytes: &[u8]) {
    let mut input = Input(bytes);
    let limit = usize::from(input.byte()) << (input.byte() % 9);
    let window_bits = 8 + input.byte() % 8;
    let mut codec = Codec::default();
    for message in input.reads().chain([input.0]) {
        let inflated = codec.inflater.inflate(message, limit).map(<[u8]>::to_vec);
        match &inflated {
            Ok(inflated) => assert!(inflated.len() <= limit),
            Err(InflateError::TooLong { limit: told }) => assert_eq!(*told, limit),
            Err(InflateError::Malformed) => {}
        }
        // One who has read other messages reads this one as one who has not. Of two faults either may
        // be found first.
        let mut fresh = Codec::default();
        let alone = fresh.inflater.inflate(message, limit);
        assert_eq!(inflated.as_deref().ok(), alone.ok());
        // A larger limit changes nothing but that more fits.
        if let Ok(inflated) = &inflated {
            let roomy = fresh.inflater.inflate(message, limit + 1);
            assert_eq!(roomy, Ok(&inflated[..]));
        }
        comes_back(&mut codec, message, window_bits);
    }
}

fn comes_back(codec: &mut Codec, message: &[u8], window_bits: u8) {
    let Codec { inflater, deflater } = codec;
    let Some(deflated) = deflater.deflate(message, window_bits) else {
        return;
    };
    assert!(deflated.len() < message.len());
    assert!(deflated.len() <= longest_compressed(message.len()));
    assert_eq!(inflater.inflate(deflated, message.len()), Ok(message));
}
