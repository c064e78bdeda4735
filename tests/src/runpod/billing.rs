//! `GET /billing/pods`: what pods were billed, in buckets of UTC time.

use std::collections::BTreeMap;

use jiff::{RoundMode, Timestamp, ToSpan, Unit, Zoned, ZonedRound, civil, tz::TimeZone};
use serde_json::{Value, json};
use srchat_crds::Dollars;

use super::{pod::Pod, problem::Problem};

/// What was asked for.
#[derive(Debug)]
pub(super) struct Query {
    size: Bucket,
    start: Timestamp,
    end: Timestamp,
    pod: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bucket {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

/// More buckets than anybody reads.
const MOST_BUCKETS: usize = 10_000;

impl Query {
    pub(super) fn parse(query: &BTreeMap<String, String>, now: Timestamp) -> Result<Self, Problem> {
        let mut errors = Vec::new();
        let mut time = |name: &str| {
            let text = query.get(name)?;
            text.parse::<Timestamp>()
                .map_err(|_| errors.push(format!("{name}: {text:?} is not a date-time")))
                .ok()
        };
        let (start, end) = (time("startTime"), time("endTime"));
        let size = match query.get("bucketSize").map(String::as_str) {
            Some("hour") => Bucket::Hour,
            None | Some("day") => Bucket::Day,
            Some("week") => Bucket::Week,
            Some("month") => Bucket::Month,
            Some("year") => Bucket::Year,
            Some(other) => {
                errors.push(format!(
                    "bucketSize: {other:?} is not one of hour, day, week, month, year"
                ));
                Bucket::Day
            }
        };
        let last = query.get("lastN").map(|text| match text.parse::<usize>() {
            Ok(last) if last > 0 => last.min(MOST_BUCKETS),
            _ => {
                errors.push(format!("lastN: {text:?} is not a positive integer"));
                1
            }
        });
        if !errors.is_empty() {
            return Err(Problem::invalid(errors));
        }
        if last.is_some() && (query.contains_key("startTime") || query.contains_key("endTime")) {
            return Err(Problem::new(
                400,
                "lastN and startTime/endTime are mutually exclusive",
            ));
        }
        let out_of_range = || Problem::new(400, "the billing period is out of range");
        let current = size.floor(now).ok_or_else(out_of_range)?;
        let (start, end) = match last {
            Some(last) => {
                let mut start = current;
                for _ in 1..last {
                    start = size.floor(start - 1.second()).ok_or_else(out_of_range)?;
                }
                (start, size.next(current).ok_or_else(out_of_range)?)
            }
            None => {
                let start = start.unwrap_or(now - (30 * 24).hours());
                let end = end.unwrap_or(now);
                if start >= end {
                    return Err(Problem::new(400, "startTime must be before endTime"));
                }
                let floor = size.floor(end).ok_or_else(out_of_range)?;
                let end = if floor == end {
                    end
                } else {
                    size.next(floor).ok_or_else(out_of_range)?
                };
                (size.floor(start).ok_or_else(out_of_range)?, end)
            }
        };
        Ok(Self {
            size,
            start,
            end,
            pod: query.get("podId").cloned(),
        })
    }
}

impl Bucket {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// The beginning of the bucket that this moment is in.
    fn floor(self, at: Timestamp) -> Option<Timestamp> {
        let at: Zoned = at.to_zoned(TimeZone::UTC);
        let day = at.date();
        let date = match self {
            Self::Hour => {
                return at
                    .round(
                        ZonedRound::new()
                            .smallest(Unit::Hour)
                            .mode(RoundMode::Floor),
                    )
                    .ok()
                    .map(|at| at.timestamp());
            }
            Self::Day => day,
            Self::Week => day
                .checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days())
                .ok()?,
            Self::Month => day.first_of_month(),
            Self::Year => day.first_of_year(),
        };
        midnight(date)
    }

    /// The beginning of the bucket after the one that begins here.
    fn next(self, start: Timestamp) -> Option<Timestamp> {
        let span = match self {
            Self::Hour => return start.checked_add(1.hour()).ok(),
            Self::Day => 1.day(),
            Self::Week => 1.week(),
            Self::Month => 1.month(),
            Self::Year => 1.year(),
        };
        midnight(
            start
                .to_zoned(TimeZone::UTC)
                .date()
                .checked_add(span)
                .ok()?,
        )
    }
}

fn midnight(date: civil::Date) -> Option<Timestamp> {
    date.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp())
}

/// The answer to a query, over these pods.
pub(super) fn answer<'a>(
    query: &Query,
    pods: impl Iterator<Item = &'a Pod>,
    now: Timestamp,
) -> Value {
    let pods: Vec<&Pod> = pods
        .filter(|pod| query.pod.as_ref().is_none_or(|id| *id == pod.id))
        .collect();
    let mut records = Vec::new();
    let mut totals = Amounts::default();
    let mut billed = std::collections::BTreeSet::new();
    let mut start = query.start;
    for _ in 0..MOST_BUCKETS {
        let Some(end) = query.size.next(start).filter(|_| start < query.end) else {
            break;
        };
        for pod in &pods {
            let (compute, disk) = pod.billed(start, end.min(now));
            let cpu = matches!(pod.request.compute, super::request::Compute::Cpu { .. });
            let amounts = Amounts {
                gpu: if cpu { Dollars::ZERO } else { compute },
                cpu: if cpu { compute } else { Dollars::ZERO },
                disk,
            };
            if amounts.total() > Dollars::ZERO {
                totals = totals.plus(amounts);
                billed.insert(&pod.id);
                let mut record = amounts.describe();
                record["startTime"] = json!(start.to_string());
                record["endTime"] = json!(end.to_string());
                record["podId"] = json!(pod.id);
                records.push(record);
            }
        }
        start = end;
    }
    json!({
        "metadata": {
            "query": {
                "startTime": query.start.to_string(),
                "endTime": query.end.to_string(),
                "bucketSize": query.size.as_str(),
                "podId": query.pod,
            },
            "recordCount": records.len(),
            "uniquePodCount": billed.len(),
            "totals": totals.describe(),
        },
        "records": records,
    })
}

#[derive(Clone, Copy, Default)]
struct Amounts {
    gpu: Dollars,
    cpu: Dollars,
    disk: Dollars,
}

impl Amounts {
    fn total(self) -> Dollars {
        self.gpu + self.cpu + self.disk
    }

    fn plus(self, other: Self) -> Self {
        Self {
            gpu: self.gpu + other.gpu,
            cpu: self.cpu + other.cpu,
            disk: self.disk + other.disk,
        }
    }

    fn describe(self) -> Value {
        let number = |dollars: Dollars| dollars.as_micros() as f64 / 1e6;
        json!({
            "totalAmount": number(self.total()),
            "gpuAmount": number(self.gpu),
            "cpuAmount": number(self.cpu),
            "diskAmount": number(self.disk),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn windows_are_widened_to_whole_buckets() {
        let now: Timestamp = "2026-06-17T12:34:56Z".parse().unwrap();
        let window = |pairs: &[(&str, &str)]| {
            let query = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            Query::parse(&query, now)
                .map(|query| (query.start.to_string(), query.end.to_string()))
                .map_err(|problem| problem.status)
        };
        let want = |start: &str, end: &str| Ok((start.to_owned(), end.to_owned()));
        assert_eq!(
            window(&[("lastN", "2"), ("bucketSize", "hour")]),
            want("2026-06-17T11:00:00Z", "2026-06-17T13:00:00Z")
        );
        assert_eq!(
            window(&[("lastN", "1"), ("bucketSize", "week")]),
            want("2026-06-15T00:00:00Z", "2026-06-22T00:00:00Z")
        );
        assert_eq!(
            window(&[
                ("startTime", "2026-05-03T01:00:00Z"),
                ("bucketSize", "month")
            ]),
            want("2026-05-01T00:00:00Z", "2026-07-01T00:00:00Z")
        );
        assert_eq!(
            window(&[]),
            want("2026-05-18T00:00:00Z", "2026-06-18T00:00:00Z")
        );
        assert_eq!(
            window(&[("lastN", "1"), ("endTime", "2026-06-17T00:00:00Z")]),
            Err(400)
        );
        assert_eq!(window(&[("bucketSize", "minute")]), Err(422));
        assert_eq!(window(&[("lastN", "0")]), Err(422));
    }
}
