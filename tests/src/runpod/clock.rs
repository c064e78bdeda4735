//! The simulator's time: the real one, or one that stands still until a test moves it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::watch;

/// A clock that many can read and one test can move. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Timestamp,
    /// When it runs by itself: since when.
    runs_since: Option<Instant>,
    ahead: Arc<watch::Sender<Duration>>,
}

impl Clock {
    /// Runs by itself, and can be moved ahead of the real time.
    pub fn running() -> Self {
        Self {
            start: Timestamp::now(),
            runs_since: Some(Instant::now()),
            ahead: Arc::new(watch::Sender::new(Duration::ZERO)),
        }
    }

    /// Stands still until [`Clock::advance`].
    pub fn standing() -> Self {
        Self {
            runs_since: None,
            ..Self::running()
        }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        let run = self
            .runs_since
            .map_or(Duration::ZERO, |since| since.elapsed());
        self.start + run + *self.ahead.borrow()
    }

    /// Moves the clock; whoever slept until then wakes.
    pub fn advance(&self, by: Duration) {
        self.ahead.send_modify(|ahead| *ahead += by);
    }

    /// Sleeps until the clock shows `then`.
    pub async fn sleep_until(&self, then: Timestamp) {
        let mut moved = self.ahead.subscribe();
        loop {
            moved.borrow_and_update();
            let Ok(left) = Duration::try_from(then.duration_since(self.now())) else {
                return;
            };
            if left.is_zero() {
                return;
            }
            let run = async {
                match self.runs_since {
                    Some(_) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = run => {}
                _ = moved.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_standing_clock_wakes_sleepers_when_it_is_moved_past_them() {
        let clock = Clock::standing();
        let then = clock.now() + Duration::from_secs(3600);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(then).await }
        });
        clock.advance(Duration::from_secs(1800));
        clock.advance(Duration::from_secs(1800));
        sleeper.await.expect("it wakes");
        assert_eq!(clock.now(), then);
    }
}
