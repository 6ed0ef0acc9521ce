//! Which time of a schedule is due, and which comes next.
//!
//! Mechanism of utils.go `mostRecentScheduleTime` and `nextScheduleTimeDuration`: of all the times
//! that were missed only the last counts.

use api::cron::{ParseError, Schedule, time_zone};
use jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::kinds::CronJob;
use crate::object::MetaExt;

pub type Zone = TimeZone;

/// Missed times that are worth a warning.
const MANY: i64 = 100;

#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// The time a Job should have been started at, unless that is too long ago.
    pub at: Option<Timestamp>,
    /// The next time.
    pub next: Option<Timestamp>,
    pub many_missed: bool,
    pub zone: Zone,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    Zone(String),
    Schedule(String, ParseError),
    Never(String),
}

impl Problem {
    /// Reason and message of the Event.
    pub fn note(self) -> (&'static str, String) {
        match self {
            Self::Zone(zone) => {
                let message = format!("invalid timeZone: {zone:?}: unknown time zone {zone}");
                ("UnknownTimeZone", message)
            }
            Self::Schedule(schedule, error) => {
                let message = format!("unparseable schedule: {schedule:?} : {error}");
                ("UnparseableSchedule", message)
            }
            Self::Never(schedule) => (
                "InvalidSchedule",
                format!("invalid schedule: {schedule} : it never comes"),
            ),
        }
    }
}

/// What is due now.
pub fn due(cron: &CronJob, now: Timestamp) -> Result<Due, Problem> {
    let spec = &cron.spec;
    let zone = spec.time_zone.as_deref().unwrap_or("");
    let zone = time_zone(zone).ok_or_else(|| Problem::Zone(zone.to_owned()))?;
    let schedule = Schedule::parse(&spec.schedule)
        .map_err(|error| Problem::Schedule(spec.schedule.clone(), error))?;
    let last = cron.status.last_schedule_time.as_ref().map(|time| time.0);
    let since = last.unwrap_or_else(|| cron.metadata.created());
    let earliest = spec
        .starting_deadline_seconds
        .and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
    let from = earliest.map_or(since, |earliest| since.max(earliest));
    let Some((at, missed)) = last_before(&schedule, from, now, &zone) else {
        let next = schedule.next(since, &zone);
        if next.is_none() {
            return Err(Problem::Never(spec.schedule.clone()));
        }
        // A time that was missed and is too old comes no more.
        let next = next
            .filter(|next| *next > now)
            .or_else(|| schedule.next(now, &zone));
        return Ok(Due {
            at: None,
            next,
            many_missed: false,
            zone,
        });
    };
    Ok(Due {
        at: Some(at),
        next: schedule.next(at, &zone),
        many_missed: missed > MANY,
        zone,
    })
}

/// The last time after `from` up to `now`, and about how many there were. Starts near
/// the end instead of counting through a long time.
fn last_before(
    schedule: &Schedule,
    from: Timestamp,
    now: Timestamp,
    zone: &Zone,
) -> Option<(Timestamp, i64)> {
    let first = schedule.next(from, zone).filter(|first| *first <= now)?;
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else {
        return Some((first, 1));
    };
    let pause = (second.as_second() - first.as_second()).max(1);
    let missed = (now.as_second() - first.as_second()) / pause + 1;
    // Pauses are of unequal lengths: look further and further back for one that is over.
    let mut back = pause;
    let mut last = loop {
        let start = now.checked_sub(SignedDuration::from_secs(back)).ok();
        let start = start.filter(|start| *start > second).unwrap_or(first);
        if let Some(next) = schedule.next(start, zone).filter(|next| *next <= now) {
            break next;
        }
        back = back.saturating_mul(2);
    };
    while let Some(next) = schedule.next(last, zone).filter(|next| *next <= now) {
        last = next;
    }
    Some((last, missed))
}

/// The time by the clocks of the zone, as RFC 3339.
pub fn text(at: Timestamp, zone: &Zone) -> String {
    let at = at.to_zoned(zone.clone());
    if *zone == TimeZone::UTC {
        return at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    }
    at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn due_at(schedule: &str, last: &str, deadline: Option<i64>, now: &str) -> (String, String) {
        let cron = json!({
            "metadata": {"creationTimestamp": last},
            "spec": {"schedule": schedule, "startingDeadlineSeconds": deadline},
        });
        let cron = serde_json::from_value(cron).unwrap();
        let due = due(&cron, now.parse().unwrap()).unwrap();
        let text = |at: Option<Timestamp>| at.map_or("-".into(), |at| at.to_string());
        (text(due.at), text(due.next))
    }

    #[test]
    fn of_the_missed_times_the_last_is_due() {
        let of = |schedule, last, deadline, now| due_at(schedule, last, deadline, now);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let morning = "2026-07-10T08:00:30Z";
        assert_eq!(
            of("* * * * *", morning, None, "2026-07-10T08:00:45Z"),
            pair("-", "2026-07-10T08:01:00Z")
        );
        assert_eq!(
            of("* * * * *", morning, None, "2026-07-10T08:01:00Z"),
            pair("2026-07-10T08:01:00Z", "2026-07-10T08:02:00Z")
        );
        assert_eq!(
            of(
                "0 6-16/4 * * 1-5",
                "2025-01-01T00:00:00Z",
                None,
                "2026-07-12T08:00:00Z"
            ),
            pair("2026-07-10T14:00:00Z", "2026-07-13T06:00:00Z")
        );
    }

    #[test]
    fn what_is_too_late_is_not_started() {
        let now = "2026-07-10T10:30:00Z";
        let (at, next) = due_at("0 10 * * *", "2026-07-09T12:00:00Z", Some(600), now);
        assert_eq!((at.as_str(), next.as_str()), ("-", "2026-07-11T10:00:00Z"));
        let (at, _) = due_at("0 10 * * *", "2026-07-09T12:00:00Z", Some(3600), now);
        assert_eq!(at, "2026-07-10T10:00:00Z");
    }

    #[test]
    fn the_annotation_tells_the_time_by_the_clocks_of_the_zone() {
        let at: Timestamp = "2026-07-10T10:30:00Z".parse().unwrap();
        assert_eq!(text(at, &TimeZone::UTC), "2026-07-10T10:30:00Z");
        let berlin = time_zone("Europe/Berlin").unwrap();
        assert_eq!(text(at, &berlin), "2026-07-10T12:30:00+02:00");
    }
}
