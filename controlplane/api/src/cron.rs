//! Cron schedules: parsing them, and when they are due next.
//!
//! Language and rules of github.com/robfig/cron/v3 (`ParseStandard`): five fields or a descriptor, a
//! leading `TZ=` or `CRON_TZ=`. Used by the validation of CronJobs and by their controller.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{RoundMode, SignedDuration, Timestamp, Unit, Zoned, ZonedRound};

/// A day that does not come within so many years never comes.
const MAX_YEARS: i16 = 5;

/// When something is due.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Whole minutes at which all fields match.
    Fields(Box<Fields>),
    /// A fixed time after the last time.
    Every(Duration),
}

/// One bit per value.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// Both fields of the day must match; if neither is a star, one is enough.
    both_days: bool,
    /// Zone given within the schedule.
    zone: Option<TimeZone>,
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

/// Smallest and largest value of a field, and names of values.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = bounds(0, 59, &[]);
const HOURS: Bounds = bounds(0, 23, &[]);
const DAYS: Bounds = bounds(1, 31, &[]);
const MONTHS: Bounds = bounds(
    1,
    12,
    &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
);
const WEEKDAYS: Bounds = bounds(0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]);

const fn bounds(min: u32, max: u32, names: &'static [&'static str]) -> Bounds {
    Bounds { min, max, names }
}

/// The time zone with that name of the IANA database; `None` when there is none.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    match name {
        "" | "UTC" => Some(TimeZone::UTC),
        name => TimeZone::get(name).ok(),
    }
}

impl Schedule {
    /// Parses a schedule.
    ///
    /// # Errors
    /// [`ParseError`] says in upstream's words what is wrong.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = |text: String| Err(ParseError(text));
        if text.is_empty() {
            return error("empty spec string".into());
        }
        let (zone, text) = match text.strip_prefix("CRON_TZ=").or(text.strip_prefix("TZ=")) {
            None => (None, text),
            Some(rest) => {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let Some(zone) = time_zone(name) else {
                    let reason = format!("unknown time zone {name}");
                    return error(format!("provided bad location {name}: {reason}"));
                };
                (Some(zone), rest.trim())
            }
        };
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            text => match text.strip_prefix("@every ") {
                Some(every) => return parse_duration(every).map(Self::every),
                None if text.starts_with('@') => {
                    return error(format!("unrecognized descriptor: {text}"));
                }
                None => text,
            },
        };
        let words: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = words[..] else {
            let count = words.len();
            let words = words.join(" ");
            return error(format!(
                "expected exactly 5 fields, found {count}: [{words}]"
            ));
        };
        let ((day, any_day), (weekday, any_weekday)) =
            (field(day, &DAYS)?, field(weekday, &WEEKDAYS)?);
        Ok(Self::Fields(Box::new(Fields {
            minute: field(minute, &MINUTES)?.0,
            hour: field(hour, &HOURS)?.0,
            day,
            month: field(month, &MONTHS)?.0,
            weekday,
            both_days: any_day || any_weekday,
            zone,
        })))
    }

    fn every(duration: Duration) -> Self {
        let seconds = duration.as_secs().max(1);
        Self::Every(Duration::from_secs(seconds))
    }

    /// The first time after `after`, by the clocks of `zone` unless the schedule names another;
    /// `None` when it never comes.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(pause) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                let pause = SignedDuration::try_from(*pause).ok()?;
                whole.checked_add(pause).ok()
            }
            Self::Fields(fields) => {
                let zone = fields.zone.clone().unwrap_or_else(|| zone.clone());
                fields.next(after.to_zoned(zone)).map(|at| at.timestamp())
            }
        }
    }
}

impl Fields {
    fn next(&self, after: Zoned) -> Option<Zoned> {
        let hour = SignedDuration::from_hours(1);
        let minute = SignedDuration::from_mins(1);
        let last_year = after.year().saturating_add(MAX_YEARS);
        let mut at = down(&after, Unit::Minute)?.checked_add(minute).ok()?;
        while at.year() <= last_year {
            if !has(self.month, at.month()) {
                let first = at
                    .first_of_month()
                    .ok()?
                    .checked_add(jiff::Span::new().months(1));
                at = first.ok()?.start_of_day().ok()?;
            } else if !self.is_day(&at) {
                at = at.tomorrow().ok()?.start_of_day().ok()?;
            } else if !has(self.hour, at.hour()) {
                at = down(&at, Unit::Hour)?.checked_add(hour).ok()?;
            } else if !has(self.minute, at.minute()) {
                at = at.checked_add(minute).ok()?;
            } else {
                return Some(at);
            }
        }
        None
    }

    fn is_day(&self, at: &Zoned) -> bool {
        let day = has(self.day, at.day());
        let weekday = has(self.weekday, at.weekday().to_sunday_zero_offset());
        if self.both_days {
            day && weekday
        } else {
            day || weekday
        }
    }
}

fn has(bits: u64, value: i8) -> bool {
    bits & (1 << value) != 0
}

fn down(at: &Zoned, unit: Unit) -> Option<Zoned> {
    at.round(ZonedRound::new().smallest(unit).mode(RoundMode::Trunc))
        .ok()
}

/// The bits of a field, and whether one of its parts was a star.
fn field(text: &str, bounds: &Bounds) -> Result<(u64, bool), ParseError> {
    let (mut bits, mut star) = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (of_part, is_star) = range(part, bounds)?;
        bits |= of_part;
        star |= is_star;
    }
    Ok((bits, star))
}

/// `*`, `n`, `n-m`, each perhaps with `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<(u64, bool), ParseError> {
    let error = |what: String| Err(ParseError(format!("{what}: {text}")));
    let (interval, step) = match text.split_once('/') {
        Some((_, step)) if step.contains('/') => return error("too many slashes".into()),
        Some((interval, step)) => (interval, Some(number(step)?)),
        None => (text, None),
    };
    let (first, last) = match interval.split_once('-') {
        Some((_, last)) if last.contains('-') => return error("too many hyphens".into()),
        Some((first, last)) => (first, Some(last)),
        None => (interval, None),
    };
    let is_star = matches!(first, "*" | "?");
    let (first, last) = match (is_star, last) {
        (true, _) => (bounds.min, bounds.max),
        (false, Some(last)) => (named(first, bounds)?, named(last, bounds)?),
        (false, None) => {
            let first = named(first, bounds)?;
            // `n/step` goes on to the end.
            (first, if step.is_some() { bounds.max } else { first })
        }
    };
    let (min, max) = (bounds.min, bounds.max);
    if first < min {
        return error(format!(
            "beginning of range ({first}) below minimum ({min})"
        ));
    }
    if last > max {
        return error(format!("end of range ({last}) above maximum ({max})"));
    }
    if first > last {
        return error(format!(
            "beginning of range ({first}) beyond end of range ({last})"
        ));
    }
    let step = step.unwrap_or(1);
    if step == 0 {
        return error("step of range should be a positive number".into());
    }
    let values = (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    let bits = values.fold(0, |bits, value| bits | 1 << value);
    Ok((bits, is_star && step == 1))
}

/// A number, or a name of one.
fn named(text: &str, bounds: &Bounds) -> Result<u32, ParseError> {
    let lower = text.to_ascii_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(at) => Ok(bounds.min + u32::try_from(at).unwrap_or(0)),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, ParseError> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => {
            let text = format!("negative number ({number}) not allowed: {text}");
            Err(ParseError(text))
        }
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => {
            let why = crate::status::not_a_number("Atoi", text);
            Err(ParseError(format!(
                "failed to parse int from {text}: {why}"
            )))
        }
    }
}

/// Go's form of durations, `1h30m`, without signs and below a second only as far as it counts.
fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let invalid = || {
        let why = format!("time: invalid duration {text:?}");
        ParseError(format!("failed to parse duration @every {text}: {why}"))
    };
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (amount, tail) = rest.split_at(digits.ok_or_else(invalid)?);
        let amount: f64 = amount.parse().map_err(|_| invalid())?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, tail) = tail.split_at(end.unwrap_or(tail.len()));
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(invalid()),
        };
        total += amount * seconds;
        rest = tail;
    }
    if text.is_empty() {
        return Err(invalid());
    }
    Duration::try_from_secs_f64(total).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        let zone = time_zone(zone).unwrap();
        let at = schedule.next(after.parse().unwrap(), &zone);
        at.map_or("never".into(), |at| at.to_string())
    }

    #[test]
    fn the_next_time_is_the_first_that_matches_all_fields() {
        let after = "2026-07-10T12:34:56Z";
        let next = |schedule: &str| next(schedule, after, "UTC");
        assert_eq!(next("* * * * *"), "2026-07-10T12:35:00Z");
        assert_eq!(next("*/15 * * * ?"), "2026-07-10T12:45:00Z");
        assert_eq!(next("0 6-16/4 * * 1-5"), "2026-07-10T14:00:00Z");
        assert_eq!(next("0 0 1 jan *"), "2027-01-01T00:00:00Z");
        assert_eq!(next("30 8 * * SUN"), "2026-07-12T08:30:00Z");
        assert_eq!(next("0 0 29 2 *"), "2028-02-29T00:00:00Z");
        assert_eq!(next("59 23 31 2 *"), "never");
        assert_eq!(next("@hourly"), "2026-07-10T13:00:00Z");
        assert_eq!(next("@weekly"), "2026-07-12T00:00:00Z");
        assert_eq!(next("@every 1h30m"), "2026-07-10T14:04:56Z");
    }

    #[test]
    fn a_day_of_the_month_or_of_the_week_is_enough_when_both_are_given() {
        let after = "2026-07-10T00:00:00Z";
        assert_eq!(next("0 0 15 * 1", after, "UTC"), "2026-07-13T00:00:00Z");
        assert_eq!(next("0 0 */2 * 1", after, "UTC"), "2026-07-11T00:00:00Z");
        assert_eq!(next("0 0 * * 1", after, "UTC"), "2026-07-13T00:00:00Z");
    }

    #[test]
    fn clocks_of_a_zone_count_also_when_they_are_changed() {
        let berlin = "Europe/Berlin";
        let winter = "2026-01-10T00:00:00Z";
        assert_eq!(next("0 9 * * *", winter, berlin), "2026-01-10T08:00:00Z");
        assert_eq!(
            next("CRON_TZ=Asia/Tokyo 0 9 * * *", winter, berlin),
            "2026-01-11T00:00:00Z"
        );
        // 02:30 does not exist on the day the clocks go forward.
        assert_eq!(
            next("30 2 * * *", "2026-03-28T12:00:00Z", berlin),
            "2026-03-30T00:30:00Z"
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_a_reason() {
        let error = |text: &str| Schedule::parse(text).unwrap_err().to_string();
        assert_eq!(error(""), "empty spec string");
        assert_eq!(
            error("* * * *"),
            "expected exactly 5 fields, found 4: [* * * *]"
        );
        assert_eq!(
            error("60 * * * *"),
            "end of range (60) above maximum (59): 60"
        );
        assert_eq!(
            error("5-3 * * * *"),
            "beginning of range (5) beyond end of range (3): 5-3"
        );
        assert!(error("x * * * *").starts_with("failed to parse int from x"));
        assert!(error("@never").starts_with("unrecognized descriptor"));
        assert!(error("TZ=Mars/Olympus * * * * *").contains("bad location"));
        assert!(error("@every soon").starts_with("failed to parse duration"));
    }
}
