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
        Ok(_) | Err(_) => {
            let (rest, expected) = unparsed(text);
            Err(format!(
                "parsing time \"{text}\" as \"{layout}\": cannot parse \"{rest}\" as \"{expected}\""
            ))
        }
    }
}

/// How far a text follows the layout: the rest, and what was expected there.
fn unparsed(text: &str) -> (&str, &'static str) {
    let pieces = [
        (4, "2006"),
        (1, "-"),
        (2, "01"),
        (1, "-"),
        (2, "02"),
        (1, "T"),
        (2, "15"),
        (1, ":"),
        (2, "04"),
        (1, ":"),
        (2, "05"),
    ];
    let mut rest = text;
    for (len, piece) in pieces {
        let digits = piece.as_bytes()[0].is_ascii_digit();
        let fits = rest.get(..len).is_some_and(|part| {
            if digits {
                part.bytes().all(|b| b.is_ascii_digit())
            } else {
                part == piece
            }
        });
        if !fits {
            return (rest, piece);
        }
        rest = &rest[len..];
    }
    (rest, "Z07:00")
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
        assert!(canonical_micro_time("2024-05-06T07:08:09Z").is_err());
    }
}
