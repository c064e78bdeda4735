//! How long to wait before asking again for what did not answer: twice as long each time, and never everybody at once.

use std::time::Duration;

use kube::runtime::utils::{Backoff, ResetTimerBackoff};

/// The first wait: an answer that got lost is had again at once, as a person sees it.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait of a watch, and so how late an API server that is back can be noticed. kube's own is a minute, which holds up
/// every session; a request in ten seconds from each of our few watches is nothing to a server that starts.
const WATCH_LONGEST: Duration = Duration::from_secs(10);
/// A watch that has held for so long was sound, and begins with the first wait again when it breaks. Those without news break every
/// few minutes, and say nothing in between that would reset them.
const HELD: Duration = Duration::from_secs(60);

/// The wait after so many failures in a row: doubled with each up to the longest, less up to a quarter by lot.
pub fn wait(failures: u32, longest: Duration) -> Duration {
    let whole = FIRST
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(longest);
    let lot = u32::from(crate::installation::random::<1>()[0]);
    whole - whole / 4 + whole / 4 * lot / 255
}

/// The waits of a watch of the API server.
pub fn of_a_watch() -> impl Backoff {
    ResetTimerBackoff::new(Watch::default(), HELD)
}

#[derive(Default)]
struct Watch {
    failures: u32,
}

impl Iterator for Watch {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        Some(wait(self.failures, WATCH_LONGEST))
    }
}

impl Backoff for Watch {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_asks_again_soon_at_first_and_every_ten_seconds_at_last() {
        let mut waits = Watch::default();
        for most in [1, 2, 4, 8, 10, 10, 10] {
            let most = Duration::from_secs(most);
            let wait = waits.next().unwrap_or_default();
            assert!(wait <= most && wait >= most * 3 / 4, "{wait:?} of {most:?}");
        }
        waits.reset();
        assert!(waits.next().unwrap_or_default() <= FIRST);
    }

    #[test]
    fn no_number_of_failures_is_too_many() {
        let longest = Duration::from_secs(300);
        for failures in [0, 1, 9, 10, 40, u32::MAX] {
            assert!(wait(failures, longest) <= longest);
        }
        assert!(wait(u32::MAX, longest) >= longest * 3 / 4);
    }
}
