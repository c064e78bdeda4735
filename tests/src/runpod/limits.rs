//! The rate limit: requests per user in a minute, an hour and a day, told in every answer.

use std::time::Duration;

use jiff::Timestamp;

/// How many requests a user may send. RunPod's own values are the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In a minute.
    pub minute: u64,
    /// In an hour.
    pub hour: u64,
    /// In a day.
    pub day: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            minute: 60,
            hour: 3_000,
            day: 50_000,
        }
    }
}

/// One user's use of the windows.
#[derive(Debug)]
pub(super) struct Meter {
    windows: [Window; 3],
}

#[derive(Debug)]
struct Window {
    name: &'static str,
    length: u64,
    quota: u64,
    used: u64,
    began: Timestamp,
}

impl Meter {
    pub(super) fn new(limits: Limits, now: Timestamp) -> Self {
        let window = |name, length, quota| Window {
            name,
            length,
            quota,
            used: 0,
            began: now,
        };
        Self {
            windows: [
                window("minute", 60, limits.minute),
                window("hour", 3_600, limits.hour),
                window("day", 86_400, limits.day),
            ],
        }
    }

    /// Counts one request; when a window is used up, says which and how long it still lasts.
    pub(super) fn count(&mut self, now: Timestamp) -> Result<(), (&'static str, u64)> {
        for window in &mut self.windows {
            if window.left(now) == 0 {
                (window.began, window.used) = (now, 0);
            }
        }
        if let Some(full) = self
            .windows
            .iter()
            .find(|window| window.used >= window.quota)
        {
            return Err((full.name, full.left(now)));
        }
        for window in &mut self.windows {
            window.used += 1;
        }
        Ok(())
    }

    /// `RateLimit` and `RateLimit-Policy`.
    pub(super) fn headers(&self, now: Timestamp) -> (String, String) {
        let live = self.windows.iter().map(|w| {
            format!(
                "\"{}\";r={};t={}",
                w.name,
                w.quota.saturating_sub(w.used),
                w.left(now)
            )
        });
        let policy = self
            .windows
            .iter()
            .map(|w| format!("\"{}\";q={};w={}", w.name, w.quota, w.length));
        (
            live.collect::<Vec<_>>().join(", "),
            policy.collect::<Vec<_>>().join(", "),
        )
    }
}

impl Window {
    /// Seconds until it resets, rounded up.
    fn left(&self, now: Timestamp) -> u64 {
        let run = Duration::try_from(now.duration_since(self.began)).unwrap_or_default();
        let left = Duration::from_secs(self.length).saturating_sub(run);
        left.as_secs() + u64::from(left.subsec_nanos() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_is_used_up_refuses_until_it_is_over() {
        let start = Timestamp::UNIX_EPOCH;
        let mut meter = Meter::new(
            Limits {
                minute: 2,
                hour: 3,
                day: 100,
            },
            start,
        );
        assert_eq!(meter.count(start), Ok(()));
        assert_eq!(meter.count(start), Ok(()));
        assert_eq!(
            meter.headers(start).0,
            "\"minute\";r=0;t=60, \"hour\";r=1;t=3600, \"day\";r=98;t=86400"
        );
        assert_eq!(
            meter.count(start + Duration::from_secs(20)),
            Err(("minute", 40))
        );
        assert_eq!(meter.count(start + Duration::from_secs(60)), Ok(()));
        assert_eq!(
            meter.count(start + Duration::from_secs(60)),
            Err(("hour", 3540))
        );
    }
}
