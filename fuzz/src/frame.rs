//! Headers, masks and boundaries of frames.

use crate::input::Input;
use crate::protocol::answers::AnswerSieve;
use crate::protocol::frame::{Boundaries, FrameHeader, encode_header, unmask_into};

/// A header is read the same however much has come, and written as it was read; boundaries are where
/// the headers say, wherever the stream is cut; and all but answers passes the sieve unchanged.
pub fn frame(bytes: &[u8]) {
    let mut input = Input(bytes);
    let token = std::array::from_fn(|_| input.byte());
    let reads: Vec<&[u8]> = input.reads().collect();
    let stream = reads.concat();

    header_by_header(&stream);
    boundaries(&stream, &reads);
    answers(token, &stream, &reads);
}

/// Walks over the frames; each header is judged as soon as it can be, and never otherwise.
fn header_by_header(mut stream: &[u8]) {
    while let Ok(Some(header)) = FrameHeader::parse(stream) {
        assert!(header.header_len <= FrameHeader::MAX_LEN);
        for length in 0..header.header_len {
            assert_eq!(FrameHeader::parse(&stream[..length]), Ok(None));
        }
        let (head, rest) = stream.split_at(header.header_len);
        let FrameHeader {
            fin,
            rsv,
            opcode,
            mask,
            payload_len,
            ..
        } = header;
        let length = usize::try_from(payload_len).expect("as wide as memory");
        let mut written = Vec::new();
        encode_header(&mut written, fin, rsv, opcode, mask, length);
        assert_eq!(written, head);
        let payload = &rest[..rest.len().min(length)];
        unmasked_twice(payload, mask.unwrap_or_default());
        stream = &rest[payload.len()..];
    }
}

/// A mask that is put on in two steps comes off in one.
fn unmasked_twice(payload: &[u8], key: [u8; 4]) {
    let (first, last) = payload.split_at(payload.len() / 3);
    let mut masked = Vec::new();
    unmask_into(&mut masked, first, key, 0);
    unmask_into(&mut masked, last, key, first.len());
    let mut unmasked = Vec::new();
    unmask_into(&mut unmasked, &masked, key, 0);
    assert_eq!(unmasked, payload);
}

fn boundaries(stream: &[u8], reads: &[&[u8]]) {
    let mut whole = Boundaries::new();
    let judged = whole.advance(stream);
    let mut cut = Boundaries::new();
    let first_error = reads.iter().find_map(|read| cut.advance(read).err());
    assert_eq!(judged.err(), first_error);
    assert_eq!(whole.at_boundary(), cut.at_boundary());
    assert_eq!(whole.messages(), cut.messages());
    assert_eq!(whole.closed(), cut.closed());

    let mut to_boundary = Boundaries::new();
    let half = stream.len() / 2;
    if to_boundary.advance(&stream[..half]).is_ok()
        && let Ok(Some(end)) = to_boundary.advance_to_boundary(&stream[half..])
    {
        assert!(to_boundary.at_boundary() && end <= stream.len() - half);
    }
}

fn answers(token: [u8; 8], stream: &[u8], reads: &[&[u8]]) {
    let sift = |reads: &[&[u8]]| {
        let mut sieve = AnswerSieve::new(token);
        let mut scratch = Vec::new();
        let mut passed = Vec::new();
        for read in reads {
            passed.extend_from_slice(sieve.sift(read, &mut scratch));
        }
        passed.extend_from_slice(sieve.held());
        passed
    };
    let whole = sift(&[stream]);
    assert_eq!(whole, sift(reads));
    // Nothing is added, and what is taken are whole answers.
    let taken = stream.len() - whole.len();
    assert!(
        taken == 0
            || stream
                .windows(2)
                .any(|pong| matches!(pong, [0x8a, 8 | 0x88]))
    );
}
