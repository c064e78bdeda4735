//! Waiting for what must become true: bounded, and able to say what it last saw. Tests never sleep instead.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// Between two looks: soon enough that nobody waits for it, seldom enough that two cores have time for the
/// thing itself.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// What did not become true in time, and what was seen instead.
#[derive(Debug, thiserror::Error)]
#[error("{what}: not within {within:?}; last seen: {seen}")]
pub struct NotYet {
    /// What was waited for.
    pub what: String,
    /// For how long.
    pub within: Duration,
    /// What the last look said.
    pub seen: String,
}

/// Looks until `look` is `Ok`, and gives up with what it last said after `within`.
///
/// A look that hangs is given up at the deadline as well.
///
/// # Errors
/// [`NotYet`] with the last look's own words.
pub async fn within<T, E, F, Fut>(within: Duration, what: &str, mut look: F) -> Result<T, NotYet>
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + within;
    let mut seen = "nothing: the first look did not come back".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(why)) => seen = why.to_string(),
            Err(_) => {
                return Err(NotYet {
                    what: what.to_owned(),
                    within,
                    seen,
                });
            }
        }
        if Instant::now() + BETWEEN_LOOKS >= deadline {
            return Err(NotYet {
                what: what.to_owned(),
                within,
                seen,
            });
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// [`within`], for tests: panics with what was last seen.
///
/// # Panics
/// When it did not become true in time.
pub async fn eventually<T, E, F, Fut>(what: &str, deadline: Duration, look: F) -> T
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    match within(deadline, what, look).await {
        Ok(value) => value,
        Err(not_yet) => panic!("{not_yet}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_look_is_told_when_time_is_up() {
        let mut looks = 0;
        let error = within(Duration::from_secs(1), "a pod", || {
            looks += 1;
            let seen = format!("look {looks}");
            async move { Err::<(), _>(seen) }
        })
        .await
        .unwrap_err();
        assert_eq!(error.seen, format!("look {looks}"));
        assert!(looks > 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_ends_at_the_deadline() {
        let look = || std::future::pending::<Result<(), String>>();
        assert!(
            within(Duration::from_secs(1), "an answer", look)
                .await
                .is_err()
        );
    }
}
