//! Who may ask next: RunPod counts requests per user over a minute, an hour and a day, and says in every answer what is left.
//! Lists come first, then ends, creates, logs, proofs, the catalog, billing: each leaves room for those above it.
//!
//! Pure: time comes in, a verdict goes out. A call that does not fit is refused at once with the time to come back, never queued.

use std::time::{Duration, Instant};

use http::HeaderMap;

/// What a request is for, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// The one list for all sessions.
    List,
    /// Ending a pod.
    End,
    /// Renting a pod.
    Create,
    /// The log of a booting pod.
    Log,
    /// The final proof of one pod.
    Get,
    /// What can be rented.
    Catalog,
    /// What was billed.
    Billing,
}

impl Purpose {
    /// The share of a window, in percent, that is left to those who come before this purpose.
    fn leaves(self) -> u64 {
        match self {
            Self::List | Self::End => 0,
            Self::Create => 10,
            Self::Log => 20,
            // Proofs share with deletions: as many pods as were ended have to be proved gone.
            Self::Get => 25,
            Self::Catalog => 50,
            Self::Billing => 60,
        }
    }
}

/// One list in so many seconds is kept for, before anything else.
const LIST_EVERY: u64 = 10;

/// Without `Retry-After` and without a window that is used up, a 429 is believed for this long.
const UNEXPLAINED_PAUSE: Duration = Duration::from_secs(10);

/// The longest pause a header is believed: a whole day's window.
const LONGEST_PAUSE: Duration = Duration::from_secs(86_400);

/// Lists follow each other at least so far apart: faster than that nobody can tell the difference.
const CLOSEST_LISTS: Duration = Duration::from_millis(250);

/// What is known of the limits.
#[derive(Debug, Default)]
pub(super) struct Budget {
    windows: Vec<Window>,
    paused_until: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    name: String,
    quota: u64,
    left: u64,
    resets: Instant,
}

impl Window {
    fn seconds(&self, now: Instant) -> u64 {
        self.resets.saturating_duration_since(now).as_secs() + 1
    }
}

impl Budget {
    /// Whether a request may leave now; it is counted at once, since its answer comes later. Otherwise how long to wait.
    pub(super) fn admit(&mut self, purpose: Purpose, now: Instant) -> Result<(), Duration> {
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            return Err(until - now);
        }
        self.windows.retain(|window| window.resets > now);
        let full = self.windows.iter().filter(|window| {
            let lists = if purpose == Purpose::List {
                0
            } else {
                window
                    .seconds(now)
                    .div_ceil(LIST_EVERY)
                    .min(window.quota / 2)
            };
            window.left <= lists + window.quota * purpose.leaves() / 100
        });
        if let Some(wait) = full.map(|window| window.resets - now).max() {
            return Err(wait);
        }
        for window in &mut self.windows {
            window.left = window.left.saturating_sub(1);
        }
        Ok(())
    }

    /// How far apart lists should be: close while there is plenty, and never more than half of what is left.
    pub(super) fn list_spacing(&self, now: Instant) -> Duration {
        let windows = self.windows.iter().filter(|window| window.resets > now);
        let spacings = windows.map(|window| {
            if window.left > window.quota / 2 {
                CLOSEST_LISTS
            } else {
                let share = u32::try_from((window.left / 2).max(1)).unwrap_or(u32::MAX);
                ((window.resets - now) / share).min(Duration::from_secs(LIST_EVERY))
            }
        });
        spacings.max().unwrap_or(CLOSEST_LISTS).max(CLOSEST_LISTS)
    }

    /// Learns from the headers of any answer.
    pub(super) fn learn(&mut self, headers: &HeaderMap, now: Instant) {
        let policy = header(headers, "ratelimit-policy")
            .map(members)
            .unwrap_or_default();
        for (name, fields) in header(headers, "ratelimit")
            .map(members)
            .unwrap_or_default()
        {
            let (Some(left), Some(seconds)) = (field(&fields, "r"), field(&fields, "t")) else {
                continue;
            };
            let resets = now + Duration::from_secs(seconds).min(LONGEST_PAUSE);
            let quota = policy
                .iter()
                .find(|(of, _)| *of == name)
                .and_then(|(_, fields)| field(fields, "q"))
                .unwrap_or(left);
            match self.windows.iter_mut().find(|window| window.name == name) {
                // Answers overtake each other: within one window the lower count is the later one.
                Some(window) => {
                    let same =
                        window.resets > now && resets < window.resets + Duration::from_secs(2);
                    window.left = if same { window.left.min(left) } else { left };
                    window.resets = resets;
                    window.quota = quota.max(left);
                }
                None => self.windows.push(Window {
                    name,
                    quota: quota.max(left),
                    left,
                    resets,
                }),
            }
        }
    }

    /// A 429: nothing leaves until it is over. Returns how long that is.
    pub(super) fn refused(&mut self, headers: &HeaderMap, now: Instant) -> Duration {
        let asked = header(headers, "retry-after")
            .and_then(|text| text.trim().parse().ok())
            .map(Duration::from_secs);
        let used_up = || {
            let empty = self
                .windows
                .iter()
                .filter(|window| window.left == 0 && window.resets > now);
            empty.map(|window| window.resets - now).max()
        };
        let wait = asked
            .or_else(used_up)
            .unwrap_or(UNEXPLAINED_PAUSE)
            .clamp(Duration::from_secs(1), LONGEST_PAUSE);
        self.paused_until = self.paused_until.max(Some(now + wait));
        wait
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A structured-field list, as far as these headers use it: `"minute";r=0;t=12, "hour";r=2800;t=1812`.
fn members(text: &str) -> Vec<(String, Vec<(String, u64)>)> {
    let member = |text: &str| {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next()?.trim_matches('"');
        let fields = parts.filter_map(|part| {
            let (field, value) = part.split_once('=')?;
            Some((field.trim().to_owned(), value.trim().parse().ok()?))
        });
        (!name.is_empty()).then(|| (name.to_owned(), fields.collect()))
    };
    text.split(',').filter_map(member).take(8).collect()
}

fn field(fields: &[(String, u64)], name: &str) -> Option<u64> {
    fields
        .iter()
        .find(|(field, _)| field == name)
        .map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn minute(left: u64, seconds: u64) -> HeaderMap {
        headers(&[
            (
                "ratelimit",
                &format!("\"minute\";r={left};t={seconds}, \"hour\";r=2800;t=1812"),
            ),
            (
                "ratelimit-policy",
                "\"minute\";q=60;w=60, \"hour\";q=3000;w=3600",
            ),
        ])
    }

    #[test]
    fn before_the_first_answer_everything_may_ask() {
        assert_eq!(
            Budget::default().admit(Purpose::Billing, Instant::now()),
            Ok(())
        );
    }

    #[test]
    fn whoever_matters_less_stops_earlier_and_lists_never_do() {
        let now = Instant::now();
        let admitted = |purpose| {
            let mut budget = Budget::default();
            budget.learn(&minute(60, 59), now);
            (0..100)
                .take_while(|_| budget.admit(purpose, now).is_ok())
                .count()
        };
        use Purpose::*;
        let counts = [List, End, Create, Log, Get, Catalog, Billing].map(admitted);
        assert_eq!(counts, [60, 54, 48, 42, 39, 24, 18]);
    }

    #[test]
    fn a_window_that_is_over_binds_nobody() {
        let now = Instant::now();
        let mut budget = Budget::default();
        budget.learn(&minute(0, 12), now);
        assert!(budget.admit(Purpose::List, now).is_err());
        assert_eq!(
            budget.admit(Purpose::List, now + Duration::from_secs(13)),
            Ok(())
        );
    }

    #[test]
    fn an_answer_that_was_overtaken_does_not_give_requests_back() {
        let now = Instant::now();
        let mut budget = Budget::default();
        budget.learn(&minute(5, 30), now);
        budget.learn(&minute(9, 30), now);
        assert_eq!(budget.windows[0].left, 5);
        budget.learn(&minute(59, 60), now + Duration::from_secs(31));
        assert_eq!(budget.windows[0].left, 59);
    }

    #[test]
    fn a_429_stops_everybody_for_as_long_as_it_says() {
        let now = Instant::now();
        let mut budget = Budget::default();
        assert_eq!(
            budget.refused(&headers(&[("retry-after", "12")]), now),
            Duration::from_secs(12)
        );
        assert_eq!(
            budget.admit(Purpose::List, now),
            Err(Duration::from_secs(12))
        );
        assert_eq!(
            budget.admit(Purpose::List, now + Duration::from_secs(12)),
            Ok(())
        );
    }

    #[test]
    fn a_429_without_a_word_is_explained_by_the_window_that_is_used_up() {
        let now = Instant::now();
        let mut budget = Budget::default();
        budget.learn(&minute(0, 33), now);
        assert_eq!(
            budget.refused(&HeaderMap::new(), now),
            Duration::from_secs(33)
        );
        assert_eq!(
            Budget::default().refused(&HeaderMap::new(), now),
            UNEXPLAINED_PAUSE
        );
    }

    #[test]
    fn lists_spread_out_as_the_window_empties() {
        let now = Instant::now();
        let spacing = |left, seconds| {
            let mut budget = Budget::default();
            budget.learn(&minute(left, seconds), now);
            budget.list_spacing(now)
        };
        assert_eq!(spacing(60, 60), CLOSEST_LISTS);
        assert_eq!(spacing(20, 30), Duration::from_secs(3));
        assert_eq!(spacing(0, 60), Duration::from_secs(LIST_EVERY));
    }

    #[test]
    fn five_hundred_ends_and_their_proofs_fit_into_an_hours_quota() {
        // Virtual minutes of 60 requests: a list each ten seconds, 500 deletions, and two proofs for each.
        let mut now = Instant::now();
        let (mut ends, mut proofs, mut lists, mut minutes) = (500, 0, 0, 0);
        while ends > 0 || proofs < 1000 {
            let mut budget = Budget::default();
            budget.learn(&minute(60, 60), now);
            for _ in 0..6 {
                lists += u32::from(budget.admit(Purpose::List, now).is_ok());
                for _ in 0..60 {
                    if ends > 0 && budget.admit(Purpose::End, now).is_ok() {
                        ends -= 1;
                    }
                    if proofs < 2 * (500 - ends) && budget.admit(Purpose::Get, now).is_ok() {
                        proofs += 1;
                    }
                }
                now += Duration::from_secs(10);
            }
            now += Duration::from_secs(1);
            minutes += 1;
            assert_eq!(lists, minutes * 6, "no list was starved");
            assert!(
                minutes < 45,
                "{ends} ends and {proofs} proofs after {minutes} minutes"
            );
        }
    }

    proptest! {
        #[test]
        fn any_header_is_survived(limit in ".{0,80}", policy in ".{0,80}", retry in ".{0,20}", numbers in ".{0,5}\"[a-z]{0,3}\";r=[0-9]{0,22};t=[0-9]{0,22}") {
            let mut budget = Budget::default();
            let now = Instant::now();
            for limit in [limit, numbers] {
                let mut headers = HeaderMap::new();
                for (name, value) in [("ratelimit", &limit), ("ratelimit-policy", &policy), ("retry-after", &retry)] {
                    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                        headers.insert(name, value);
                    }
                }
                budget.learn(&headers, now);
                prop_assert!(budget.refused(&headers, now) <= LONGEST_PAUSE);
                prop_assert!(budget.list_spacing(now) <= Duration::from_secs(LIST_EVERY));
            }
        }
    }
}
