//! After an outage of the API server: the sessions whose passes failed go on as soon as it is back. Their own waits have grown with
//! the outage, and would make the longest one the slowest to end.

use std::time::Duration;

use kube::Client;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::backoff;

/// Between two questions at the most: it is how late a server that is back is noticed.
const LONGEST: Duration = Duration::from_secs(5);
/// For one answer, from a server that has nothing to look up for it.
const ANSWER: Duration = Duration::from_secs(5);

/// Wakes after every outage in which something failed. A server that is there when it is asked was not away: what failed then has
/// another cause, and keeps its own pace.
pub(super) async fn watch(client: &Client, failed: &Notify, wake: impl Fn()) {
    loop {
        failed.notified().await;
        let mut asked = 0;
        while !there(client).await {
            asked += 1;
            tokio::time::sleep(backoff::wait(asked, LONGEST)).await;
        }
        if asked > 0 {
            tracing::info!("the API server is back: sessions that failed meanwhile go on");
            wake();
        }
    }
}

/// Whether it takes requests: `/readyz` is open to everybody, and 500 while the server starts.
async fn there(client: &Client) -> bool {
    let Ok(question) = http::Request::get("/readyz").body(Vec::new()) else {
        return false;
    };
    matches!(
        timeout(ANSWER, client.request_text(question)).await,
        Ok(Ok(_))
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use http::{Response, StatusCode};
    use kube::client::Body;
    use tower::service_fn;

    use super::*;

    /// An API server that is not ready for so many questions, and how often it was asked.
    fn server(away_for: u32) -> (Client, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let answer = service_fn(move |question: http::Request<Body>| {
            assert_eq!(question.uri().path(), "/readyz");
            let status = if count.fetch_add(1, Ordering::Relaxed) < away_for {
                StatusCode::INTERNAL_SERVER_ERROR
            } else {
                StatusCode::OK
            };
            let answer = Response::builder().status(status).body(Body::empty());
            async move { Ok::<_, Infallible>(answer.unwrap()) }
        });
        (Client::new(answer, "default"), asked)
    }

    /// How often they were woken after this many failures, one after the other.
    async fn woken(client: &Client, failures: u32) -> u32 {
        let (failed, woken) = (Notify::new(), Cell::new(0));
        let watching = watch(client, &failed, || woken.set(woken.get() + 1));
        tokio::pin!(watching);
        for _ in 0..failures {
            failed.notify_one();
            // Longer than all questions take, on a clock that only waits move.
            assert!(
                timeout(Duration::from_secs(60), &mut watching)
                    .await
                    .is_err()
            );
        }
        woken.get()
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_wakes_what_failed_once_when_it_is_over() {
        let (client, asked) = server(3);
        assert_eq!(woken(&client, 1).await, 1);
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_with_the_server_there_wakes_nobody() {
        let (client, asked) = server(0);
        assert_eq!(woken(&client, 3).await, 0);
        assert_eq!(asked.load(Ordering::Relaxed), 3, "one question for each");
    }
}
