//! One list of pods for everybody: whoever needs to know what exists after some moment shares the next complete list begun after it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep};

use crate::provider::{
    Error, Snapshot,
    runpod::{self, RunPod},
};

/// How often the poller looks when nobody asks: what the rate budget reserves, and what bounds how late a lost pod is noticed.
pub const POLL: Duration = Duration::from_secs(10);

/// The last list that was tried, and when it began.
#[derive(Clone, Debug)]
pub struct Latest {
    /// Before its first request left.
    pub began: Instant,
    /// The complete list, or why there is none.
    pub outcome: Result<Arc<Snapshot>, Error>,
}

/// The account's pods, listed once for all who ask.
#[derive(Debug)]
pub struct Snapshots {
    provider: Mutex<Option<RunPod>>,
    one_at_a_time: tokio::sync::Mutex<()>,
    latest: watch::Sender<Option<Latest>>,
}

impl Snapshots {
    /// Snapshots of this provider; without one (no key yet) every question is answered `Unauthorized`.
    pub fn new(provider: Option<RunPod>) -> Self {
        Self {
            provider: Mutex::new(provider),
            one_at_a_time: tokio::sync::Mutex::default(),
            latest: watch::Sender::new(None),
        }
    }

    /// Asks another provider (another key) from now on. What the old one said is forgotten: it was another account's word.
    pub fn replace(&self, provider: Option<RunPod>) {
        *self.provider.lock().unwrap_or_else(PoisonError::into_inner) = provider;
        self.latest.send_replace(None);
    }

    /// The provider in use.
    pub fn provider(&self) -> Option<RunPod> {
        self.provider
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A complete list begun at or after `t`, or why there is none. All who wait at the same time share one.
    pub async fn after(&self, t: Instant) -> Result<Arc<Snapshot>, Error> {
        if let Some(latest) = self.fresh(t) {
            return latest.outcome;
        }
        let _turn = self.one_at_a_time.lock().await;
        if let Some(latest) = self.fresh(t) {
            return latest.outcome;
        }
        self.list().await
    }

    /// The last complete list, however old, if the last attempt gave one.
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.latest
            .borrow()
            .as_ref()
            .and_then(|latest| latest.outcome.clone().ok())
    }

    /// Every list from now on, failures included, as it ends.
    pub fn subscribe(&self) -> watch::Receiver<Option<Latest>> {
        self.latest.subscribe()
    }

    /// Lists every [`POLL`], less when others have asked meanwhile. Runs until it is dropped.
    pub async fn poll(&self) {
        loop {
            let due = self
                .latest
                .borrow()
                .as_ref()
                .map(|latest| latest.began + POLL);
            let wait = due.map_or(Duration::ZERO, |due| {
                due.saturating_duration_since(Instant::now())
            });
            if !wait.is_zero() {
                sleep(wait).await;
                continue;
            }
            // A failure is told to subscribers like a list; the next turn is its retry.
            let _ = self.after(Instant::now()).await;
        }
    }

    fn fresh(&self, t: Instant) -> Option<Latest> {
        self.latest
            .borrow()
            .clone()
            .filter(|latest| latest.began >= t)
    }

    async fn list(&self) -> Result<Arc<Snapshot>, Error> {
        let provider = self.provider();
        let previous = self.latest.borrow().as_ref().map(|latest| latest.began);
        if let (Some(provider), Some(previous)) = (&provider, previous) {
            runpod::space_lists(provider, previous).await;
        }
        let began = Instant::now();
        let outcome = match &provider {
            Some(provider) => provider.list_all().await.map(Arc::new),
            None => Err(Error::Unauthorized {
                detail: "there is no RunPod API key yet".into(),
            }),
        };
        let asked = provider.as_ref().map(RunPod::fingerprint);
        if self.provider().as_ref().map(RunPod::fingerprint) != asked {
            return Err(Error::Unavailable {
                detail: "the RunPod API key changed while the list was read".into(),
            });
        }
        self.latest.send_replace(Some(Latest {
            began,
            outcome: outcome.clone(),
        }));
        outcome
    }
}
