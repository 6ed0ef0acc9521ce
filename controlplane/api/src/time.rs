//! Times of the API: RFC 3339 in UTC, with seconds or with microseconds.

use std::borrow::Cow;

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

const SECONDS_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICROS_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// The stored form of a time: seconds, UTC. The error is in Go's words.
pub fn canonical_time(text: &str) -> Result<Cow<'_, str>, String> {
    let at = parse(text, SECONDS_LAYOUT)?;
    if text.len() == "2006-01-02T15:04:05Z".len() && text.ends_with('Z') {
        return Ok(Cow::Borrowed(text));
    }
    Ok(Cow::Owned(format_seconds(at)))
}

/// The stored form of a time with microseconds, UTC.
pub fn canonical_micro_time(text: &str) -> Result<Cow<'_, str>, String> {
    let at = parse(text, MICROS_LAYOUT)?;
    let digits = text
        .get(20..26)
        .is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()));
    if text.as_bytes().get(19) != Some(&b'.') || !digits {
        let rest = text.get(19..).unwrap_or_default();
        return Err(format!(
            "parsing time \"{text}\" as \"{MICROS_LAYOUT}\": cannot parse \"{rest}\" as \".000000\""
        ));
    }
    Ok(Cow::Owned(format_micros(at)))
}

/// Parses a time of the API.
pub fn parse_time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// Formats with seconds.
pub fn format_seconds(at: OffsetDateTime) -> String {
    let t = at.to_offset(UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    )
}

/// Formats with microseconds.
pub fn format_micros(at: OffsetDateTime) -> String {
    let seconds = format_seconds(at);
    let micros = at.to_offset(UtcOffset::UTC).microsecond();
    format!("{}.{micros:06}Z", &seconds[..seconds.len() - 1])
}

fn parse(text: &str, layout: &str) -> Result<OffsetDateTime, String> {
    let upper = text.as_bytes().get(10) == Some(&b'T') && !text.contains('z');
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(at) if upper => Ok(at),
        Ok(_) | Err(_) => Err(match unparsed(text) {
            Unparsed::Range(what) => format!("parsing time \"{text}\": {what} out of range"),
            Unparsed::Extra(rest) => format!("parsing time \"{text}\": extra text: \"{rest}\""),
            Unparsed::Piece(rest, expected) => format!(
                "parsing time \"{text}\" as \"{layout}\": cannot parse \"{rest}\" as \"{expected}\""
            ),
        }),
    }
}

/// Where a text leaves the layout.
enum Unparsed<'t> {
    /// A number that no such part of a time has.
    Range(&'static str),
    /// The rest, and what was expected there.
    Piece(&'t str, &'static str),
    /// What follows the time.
    Extra(&'t str),
}

/// The pieces of a time, with the name and the largest value of those that Go checks as it goes.
const PIECES: [(&str, &str, u32); 11] = [
    ("2006", "", 9999),
    ("-", "", 0),
    ("01", "month", 12),
    ("-", "", 0),
    ("02", "", 99),
    ("T", "", 0),
    ("15", "hour", 23),
    (":", "", 0),
    ("04", "minute", 59),
    (":", "", 0),
    ("05", "second", 59),
];

fn unparsed(text: &str) -> Unparsed<'_> {
    let mut rest = text;
    for (piece, name, most) in PIECES {
        let part = rest.get(..piece.len()).unwrap_or_default();
        let number = digits(part);
        if part != piece && (!piece.as_bytes()[0].is_ascii_digit() || number.is_none()) {
            return Unparsed::Piece(rest, piece);
        }
        if number.is_some_and(|n| n > most || (n == 0 && name == "month")) {
            return Unparsed::Range(name);
        }
        rest = &rest[piece.len()..];
    }
    if let Some(fraction) = rest.strip_prefix('.')
        && fraction.starts_with(|c: char| c.is_ascii_digit())
    {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let zone = match rest.as_bytes() {
        [b'Z', ..] => 1,
        [b'+' | b'-', ..] if offset(rest).is_some() => 6,
        _ => return Unparsed::Piece(rest, "Z07:00"),
    };
    match &rest[zone..] {
        "" => Unparsed::Range("day"),
        extra => Unparsed::Extra(extra),
    }
}

/// `+hh:mm` as numbers.
fn offset(text: &str) -> Option<(u32, u32)> {
    let colon = text.get(3..4)? == ":";
    let pair = (digits(text.get(1..3)?)?, digits(text.get(4..6)?)?);
    colon.then_some(pair)
}

fn digits(text: &str) -> Option<u32> {
    let all = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_utc_with_seconds() {
        assert_eq!(
            canonical_time("2024-05-06T07:08:09Z").unwrap(),
            "2024-05-06T07:08:09Z"
        );
        assert_eq!(
            canonical_time("2024-05-06T07:08:09+02:00").unwrap(),
            "2024-05-06T05:08:09Z"
        );
        assert_eq!(
            canonical_time("2024-05-06T07:08:09.5Z").unwrap(),
            "2024-05-06T07:08:09Z"
        );
        assert_eq!(
            canonical_micro_time("2024-05-06T07:08:09.000001Z").unwrap(),
            "2024-05-06T07:08:09.000001Z"
        );
    }

    #[test]
    fn malformed_times_are_refused_in_gos_words() {
        assert_eq!(
            canonical_time("yesterday").unwrap_err(),
            "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \
             \"yesterday\" as \"2006\""
        );
        for (text, why) in [
            ("2024-13-01T00:00:00Z", ": month out of range"),
            ("2024-02-30T00:00:00Z", ": day out of range"),
            ("2024-01-01T24:00:00Z", ": hour out of range"),
            ("2024-01-01T00:00:00Zx", ": extra text: \"x\""),
            (
                "2024-01-01T00:00:00",
                " as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"Z07:00\"",
            ),
        ] {
            let error = canonical_time(text).unwrap_err();
            assert_eq!(error, format!("parsing time \"{text}\"{why}"));
        }
        assert!(canonical_micro_time("2024-05-06T07:08:09Z").is_err());
    }
}
