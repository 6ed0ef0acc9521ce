//! The one place where the server reads the clock and makes ids; everything below gets them as
//! arguments.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt;
use time::{OffsetDateTime, macros::format_description};

/// Characters of generated names: no vowels and nothing that looks alike (upstream: util/rand).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Length of a generated suffix.
pub const SUFFIX_CHARS: usize = 5;

/// Seconds since the Unix epoch.
pub fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() as i64)
}

/// A time as `metadata.creationTimestamp` has it.
pub fn rfc3339(unix: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let time = OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&format)
        .expect("every part of the format is known")
}

/// A new uid.
pub fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The random end of a generated name.
pub fn random_suffix() -> String {
    let mut rng = rand::rng();
    (0..SUFFIX_CHARS)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

/// A random index below `len`.
pub fn random_index(len: u64) -> u64 {
    rand::rng().random_range(0..len.max(1))
}
