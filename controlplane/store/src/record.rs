//! One record of the log: its bytes, its checksum, how it is told from damage.
//!
//! ```text
//! len u32 | crc u32 | prev u32 | expires u32 | rev u64 | flags u16 | key_len u16 | 0 u32 | key | value | 0…
//! ```
//! Little endian, padded to 8 bytes; `len` counts everything after `crc`. The checksum covers `len`
//! and everything after `crc`, seeded with the store's random id, so that a value which happens to
//! hold the image of a record is not taken for one. `prev` is the checksum of the record before:
//! the chain makes a swapped or dropped record visible, while each record can still be verified
//! alone, which is how damage in the middle is told from a torn tail.
//! Knows bytes only, no files.

use crate::Revision;

/// Bytes before the key.
pub const HEADER_BYTES: usize = 32;
/// Records start at multiples of this.
pub const ALIGN: usize = 8;
/// Bytes not counted by `len`.
const UNCOUNTED: usize = 8;

/// More records of the same atomic batch follow.
pub const MORE: u16 = 1;
/// The key was removed; there is no value.
pub const DELETE: u16 = 1 << 1;
/// First record of a write: everything before it was durable when it was written.
pub const WRITE_START: u16 = 1 << 2;
/// The log was opened here; `rev` is the revision to go on from. No key.
pub const OPEN: u16 = 1 << 3;
/// The log was closed cleanly here. No key.
pub const CLOSE: u16 = 1 << 4;

/// A record, borrowed from the bytes it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub rev: Revision,
    pub flags: u16,
    /// Seconds since the Unix epoch; 0 = never.
    pub expires: u32,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// What stands at an offset.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A record that verifies. `next` is the offset after it.
    Record {
        record: Record<'a>,
        crc: u32,
        prev: u32,
        next: usize,
    },
    /// A zero length, or no room for a header: nothing was written here.
    End,
    /// Something that does not verify.
    Bad,
}

/// Bytes a record takes, padding included.
pub const fn encoded_len(key: usize, value: usize) -> usize {
    (HEADER_BYTES + key + value).next_multiple_of(ALIGN)
}

/// Appends `record` to `out` and returns its checksum, the `prev` of the record after it.
pub fn encode(out: &mut Vec<u8>, store_id: u32, prev: u32, record: &Record<'_>) -> u32 {
    let start = out.len();
    let counted = HEADER_BYTES - UNCOUNTED + record.key.len() + record.value.len();
    let len = u32::try_from(counted).expect("batches are limited to far less than 4 GiB");
    let key_len = u16::try_from(record.key.len()).expect("keys are limited to 4 KiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&prev.to_le_bytes());
    out.extend_from_slice(&record.expires.to_le_bytes());
    out.extend_from_slice(&record.rev.to_le_bytes());
    out.extend_from_slice(&record.flags.to_le_bytes());
    out.extend_from_slice(&key_len.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(record.key);
    out.extend_from_slice(record.value);
    let crc = checksum(store_id, &out[start..start + 4], &out[start + UNCOUNTED..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + encoded_len(record.key.len(), record.value.len()), 0);
    crc
}

/// Reads what stands at `offset` of `bytes`.
pub fn parse(bytes: &[u8], offset: usize, store_id: u32) -> Parsed<'_> {
    let Some(rest) = bytes.get(offset..) else {
        return Parsed::End;
    };
    if rest.len() < HEADER_BYTES {
        return Parsed::End;
    }
    let len = u32_at(rest, 0) as usize;
    if len == 0 {
        return Parsed::End;
    }
    let total = match len.checked_add(UNCOUNTED) {
        Some(total) if total >= HEADER_BYTES && total <= rest.len() => total,
        _ => return Parsed::Bad,
    };
    let crc = u32_at(rest, 4);
    if crc != checksum(store_id, &rest[..4], &rest[UNCOUNTED..total]) {
        return Parsed::Bad;
    }
    let key_end = HEADER_BYTES + usize::from(u16_at(rest, 26));
    if key_end > total {
        return Parsed::Bad;
    }
    let record = Record {
        rev: u64::from(u32_at(rest, 16)) | u64::from(u32_at(rest, 20)) << 32,
        flags: u16_at(rest, 24),
        expires: u32_at(rest, 12),
        key: &rest[HEADER_BYTES..key_end],
        value: &rest[key_end..total],
    };
    Parsed::Record {
        record,
        crc,
        prev: u32_at(rest, 8),
        next: offset + total.next_multiple_of(ALIGN),
    }
}

/// Bytes the record with this header says it takes, unless that is absurd.
pub fn stated_len(header: &[u8]) -> Option<usize> {
    let total = u32_at(header, 0) as usize + UNCOUNTED;
    (HEADER_BYTES..=crate::MAX_BATCH_BYTES)
        .contains(&total)
        .then(|| total.next_multiple_of(ALIGN))
}

fn checksum(store_id: u32, len: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(store_id, len), body)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record<'static> {
        Record {
            rev: 7 << 33,
            flags: WRITE_START,
            expires: 5,
            key: b"/pods/a",
            value: b"{}",
        }
    }

    #[test]
    fn a_record_reads_back_and_is_aligned() {
        let mut bytes = Vec::new();
        let crc = encode(&mut bytes, 9, 3, &sample());
        assert_eq!(bytes.len() % ALIGN, 0);
        let expected = Parsed::Record {
            record: sample(),
            crc,
            prev: 3,
            next: bytes.len(),
        };
        assert_eq!(parse(&bytes, 0, 9), expected);
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 9, 3, &sample());
        let meaningful = HEADER_BYTES + 9;
        for bit in 0..meaningful * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !matches!(parse(&damaged, 0, 9), Parsed::Record { .. }),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_record_of_another_store_does_not_verify() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 9, 3, &sample());
        assert_eq!(parse(&bytes, 0, 10), Parsed::Bad);
    }
}
