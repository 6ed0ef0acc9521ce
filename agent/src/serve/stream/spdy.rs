//! The client's half of SPDY/3.1, as far as the container runtimes' streaming servers need it: opening
//! streams, data, half-closes, pings. They speak nothing else that can half-close stdin. Sans-I/O: bytes
//! in, frames out. Specification: SPDY Protocol draft 3.1; peer: `github.com/moby/spdystream`.
//!
//! Headers are sent uncompressed, in stored blocks of a zlib stream; headers received are not read, so
//! nothing here inflates.

use bytes::{Buf, Bytes, BytesMut};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;
const CONTROL: u8 = 0x80;
const FRAME_HEADER: usize = 8;
/// Largest payload of a frame: its length has 24 bits.
pub const MAX_PAYLOAD: usize = (1 << 24) - 1;
/// Adler-32 of the header dictionary of SPDY/3, which the zlib stream has to name.
const DICTIONARY: u32 = 0xe3c6_a7c2;
/// zlib: deflate with a 32 KiB window, a preset dictionary, check bits.
const ZLIB_HEADER: [u8; 2] = [0x78, 0xbb];
/// An empty stored block: everything before it can be read.
const FLUSH: [u8; 5] = [0x00, 0x00, 0x00, 0xff, 0xff];

/// What the peer sent, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Data {
        stream: u32,
        data: Bytes,
        fin: bool,
    },
    Reset {
        stream: u32,
    },
    /// To be sent back.
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, replies, headers, window updates.
    Other,
}

/// Encodes what we send; keeps the state of the header compression and of the stream numbers.
#[derive(Debug, Default)]
pub struct Encoder {
    opened: u32,
}

impl Encoder {
    /// Opens a stream with these headers (names in lower case); returns its number and the frame.
    pub fn open(&mut self, headers: &[(&str, &str)]) -> (u32, Vec<u8>) {
        let id = self.opened * 2 + 1;
        let mut block = Vec::new();
        block.extend(word(headers.len()));
        for (name, value) in headers {
            for text in [name, value] {
                block.extend(word(text.len()));
                block.extend_from_slice(text.as_bytes());
            }
        }
        let mut payload = Vec::new();
        payload.extend(id.to_be_bytes());
        // No associated stream, priority and slot 0.
        payload.extend([0; 6]);
        if self.opened == 0 {
            payload.extend(ZLIB_HEADER);
            payload.extend(DICTIONARY.to_be_bytes());
        }
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        payload.push(0);
        payload.extend(length.to_le_bytes());
        payload.extend((!length).to_le_bytes());
        payload.extend(&block[..usize::from(length)]);
        payload.extend(FLUSH);
        self.opened += 1;
        (id, control(SYN_STREAM, 0, &payload))
    }
}

/// Data for a stream; `fin` ends our direction of it.
pub fn data(stream: u32, data: &[u8], fin: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_HEADER + data.len());
    frame.extend(stream.to_be_bytes());
    frame.push(if fin { FIN } else { 0 });
    frame.extend(&word(data.len())[1..]);
    frame.extend_from_slice(data);
    frame
}

pub fn ping(id: u32) -> Vec<u8> {
    control(PING, 0, &id.to_be_bytes())
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_HEADER + payload.len());
    frame.extend((VERSION | 0x8000).to_be_bytes());
    frame.extend(kind.to_be_bytes());
    frame.push(flags);
    frame.extend(&word(payload.len())[1..]);
    frame.extend_from_slice(payload);
    frame
}

fn word(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// Takes one frame off the front of `buffer`, or `None` while it is not complete.
pub fn decode(buffer: &mut BytesMut) -> Option<Frame> {
    let header = buffer.get(..FRAME_HEADER)?;
    let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    let flags = header[4];
    let length = u32::from_be_bytes([0, header[5], header[6], header[7]]);
    let length = usize::try_from(length).ok()?;
    if buffer.len() < FRAME_HEADER + length {
        return None;
    }
    let is_control = header[0] & CONTROL != 0;
    buffer.advance(FRAME_HEADER);
    let payload = buffer.split_to(length).freeze();
    if !is_control {
        return Some(Frame::Data {
            stream: first,
            data: payload,
            fin: flags & FIN != 0,
        });
    }
    let number = payload.get(..4).map_or(0, |word| {
        u32::from_be_bytes([word[0], word[1], word[2], word[3]])
    });
    let kind = u16::try_from(first & 0xffff).unwrap_or(0);
    Some(match kind {
        RST_STREAM => Frame::Reset {
            stream: number & 0x7fff_ffff,
        },
        PING => Frame::Ping { id: number },
        GOAWAY => Frame::GoAway,
        _ => Frame::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_get_odd_numbers_and_only_the_first_names_the_dictionary() {
        let mut encoder = Encoder::default();
        let (first, frame) = encoder.open(&[("streamtype", "error")]);
        assert_eq!(first, 1);
        assert_eq!(&frame[..4], [0x80, 3, 0, 1]);
        assert_eq!(&frame[18..24], [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2]);
        assert_eq!(frame[24], 0);
        assert!(frame.ends_with(&FLUSH));
        let (second, frame) = encoder.open(&[("streamtype", "stdin")]);
        assert_eq!(second, 3);
        assert_eq!(frame[18], 0, "a stored block right away");
        let length =
            usize::from(frame[5]) << 16 | usize::from(frame[6]) << 8 | usize::from(frame[7]);
        assert_eq!(frame.len(), FRAME_HEADER + length);
    }

    #[test]
    fn frames_are_read_when_complete() {
        let bytes = [data(3, b"hello", true), ping(7), control(2, 0, &[0; 6])].concat();
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            frames.extend(decode(&mut buffer));
        }
        let expected = [
            Frame::Data {
                stream: 3,
                data: Bytes::from_static(b"hello"),
                fin: true,
            },
            Frame::Ping { id: 7 },
            Frame::Other,
        ];
        assert_eq!(frames, expected);
    }
}
